//! ACL files of Mosquitto and VerneMQ as policies, with cases that say what those brokers decide.
//!
//! `line` and `acl_file` read as the broker does whose file it is, and `model` decides as it does;
//! `cedar` writes the policies, and `cases` asks both the same. Nothing is dropped, widened or
//! guessed: a line that no policy says exactly is told of, with its number. Pure translation;
//! nothing here touches a file.

mod acl_file;
mod cases;
mod cedar;
mod filter;
mod line;
mod model;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::sync::Arc;

use super::format::format_text;
use super::problem::{LoadError, Problem};
use super::scan::check_mark;
use super::source::Source;
use super::{Bundle, PolicyEpoch};
use crate::identity::PrincipalKind;
use acl_file::AclFile;
use model::Acl;

/// Bytes of an ACL file.
pub const BYTES_MAX: usize = 1 << 20;

/// Whose ACL file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Mosquitto's `acl_file`.
    Mosquitto,
    /// VerneMQ's `vmq.acl`.
    Vernemq,
}

impl Dialect {
    /// As on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Vernemq => "vernemq",
        }
    }
}

/// An ACL file as a policy folder. What is here was loaded, and every case of it asked.
#[derive(Debug)]
pub struct Translation {
    /// The text of `acl.cedar`.
    pub policies: String,
    /// The text of `cases.tsv`.
    pub cases: String,
    /// How many policies and cases there are.
    pub counts: (usize, usize),
    /// Lines that no policy says.
    pub untranslated: Vec<Problem>,
    /// What is worth knowing of lines that were translated.
    pub notes: Vec<Problem>,
}

/// Why there is no translation.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Lines that the broker itself would not take, that exceed a bound, or without which the
    /// policies would permit more than the file.
    #[error("no policies can be made of this file:{}", lines(.0))]
    Unusable(Vec<String>),
    /// No line grants or denies anything that a policy can say.
    #[error("no policies can be made of this file: it neither grants nor denies{}", lines(.0))]
    Empty(Vec<String>),
    /// The policies exceed a bound of policy files.
    #[error("{}", .0.lines().collect::<Vec<_>>().join("\n"))]
    Refused(#[from] LoadError),
    /// A bug: a policy decides otherwise than the line it comes from.
    #[error("the policies would decide otherwise than the file; of\n{case}\nthey say {answer}")]
    Unequal {
        /// The case.
        case: String,
        /// The decision of the policies.
        answer: String,
    },
}

fn lines(told: &[String]) -> String {
    told.iter().flat_map(|line| ["\n", line]).collect()
}

/// Translates an ACL file; `name` is what problems are shown under. Users become principals of
/// the kind.
///
/// # Errors
/// A file that is malformed or too large, or in which nothing can be translated.
pub fn translate(
    name: &str,
    text: &str,
    dialect: Dialect,
    kind: PrincipalKind,
) -> Result<Translation, ImportError> {
    let source = Source::new(name, text);
    check_mark(&source).map_err(|problem| ImportError::Unusable(vec![problem.line()]))?;
    let mut file = acl_file::read(&source, dialect)?;
    let load = |file: &AclFile| -> Result<Loaded, ImportError> {
        if file.rules.is_empty() {
            let told = file.untranslated.iter().chain(&file.notes).map(Problem::line);
            return Err(ImportError::Empty(told.collect()));
        }
        let acl = Acl::new(dialect, file.rules.clone());
        let policies = cedar::write(&acl, name, kind, &file.untranslated);
        let policies = format_text("acl.cedar", &policies)?;
        let bundle = Bundle::load_text("acl.cedar", &policies, None, PolicyEpoch(1))?;
        Ok(Loaded { acl, policies, bundle: Arc::new(bundle) })
    };
    let loaded = match load(&file) {
        // Cedar refuses text in several scripts, and only it knows which.
        Err(ImportError::Refused(_)) => {
            file.set_aside(&source, load)?;
            load(&file)?
        }
        other => other?,
    };
    let (cases, count) = loaded.cases(kind)?;
    Ok(Translation {
        cases,
        counts: (loaded.bundle.policies(), count),
        policies: loaded.policies,
        untranslated: file.untranslated,
        notes: file.notes,
    })
}

/// Policies that were loaded, with the rules that they come from.
struct Loaded {
    acl: Acl,
    policies: String,
    bundle: Arc<Bundle>,
}

impl Loaded {
    /// The text of the case table and how many cases are in it; each was asked.
    fn cases(&self, kind: PrincipalKind) -> Result<(String, usize), ImportError> {
        let mut text = String::from(
            "# principal\tgroups\taction\tresource\tfacts\tdecision\tby\n\
             # Of each line of the ACL file, what it lets through and what it does not.\n",
        );
        let mut count = 0;
        for rule in &self.acl.rules {
            let made = cases::of(&self.acl, rule, kind);
            let _ = write!(text, "\n# {}: {}\n", rule.line, rule.quote.escape_debug());
            for case in &made.cases {
                case.check(&self.bundle)?;
                let _ = writeln!(text, "{case}");
            }
            if made.one_sided {
                text.push_str("# Nothing near it is decided otherwise.\n");
            }
            count += made.cases.len();
        }
        Ok((text, count))
    }
}
