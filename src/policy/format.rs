//! Policy text, laid out as everybody lays it out.
//!
//! The meaning never changes: what comes out is read again, and every policy and every comment has
//! to be what it was. Otherwise the text is refused, and stays as it is.

use std::path::Path;

use cedar_policy::{Policy, pst};
use cedar_policy_formatter::{Config, policies_str_to_pretty};

use super::load::on_large_stack;
use super::problem::{LoadError, Problem};
use super::scan::{comments, scan};
use super::source::{self, Source};

/// Columns of a line, where a policy can be broken.
const LINE_WIDTH: usize = 100;
/// Columns of a step.
const INDENT_WIDTH: isize = 2;

/// The text of a file, and how it should be laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formatted {
    /// As it is.
    pub before: String,
    /// As it should be.
    pub after: String,
}

impl Formatted {
    /// Reads a policy file and lays it out; the file stays as it is.
    ///
    /// # Errors
    /// A file that cannot be read, or what cannot be laid out without a doubt about its meaning.
    pub fn of_file(path: &Path) -> Result<Self, LoadError> {
        let source = source::read_file(path)?;
        let after = format(&source)?;
        Ok(Self { before: source.text.to_string(), after })
    }

    /// True when the text is as it should be.
    #[must_use]
    pub fn is_as_it_should_be(&self) -> bool {
        self.before == self.after
    }
}

/// Policies as they should be laid out; problems are shown under the given name.
///
/// # Errors
/// See [`Formatted::of_file`].
pub(super) fn format_text(name: &str, text: &str) -> Result<String, LoadError> {
    format(&Source::new(name, text))
}

fn format(source: &Source) -> Result<String, LoadError> {
    // Whatever the parser recurses into has been bounded first.
    scan(source)?;
    on_large_stack("policy-format", || {
        let before = meaning(source)?;
        let doubt = |why: &str| {
            let problem = Problem::new(format!("{} stays as it is: {why}", source.name));
            LoadError::from(problem.remedy("lay it out by hand"))
        };
        let text = laid_out(source).map_err(|error| doubt(&error))?;
        let formatted = Source::new(&source.name, &text);
        let after = meaning(&formatted).map_err(|_| doubt("it would not be valid any more"))?;
        if before != after {
            return Err(doubt("its meaning would change"));
        }
        if comments(&source.text) != comments(&text) {
            return Err(doubt("a comment would be lost or moved past another"));
        }
        Ok(text)
    })?
}

/// Policies as Cedar lays them out, each by itself; what stands between them stays between them.
fn laid_out(source: &Source) -> Result<String, String> {
    let config = Config { line_width: LINE_WIDTH, indent_width: INDENT_WIDTH };
    let mut text = String::new();
    let mut end = 0;
    for range in scan(source).map_err(|problem| problem.to_string())? {
        let between = source.text.get(end..range.start).unwrap_or_default();
        text.push_str(&laid_out_between(between, end == 0));
        end = range.end;
        let policy = source.place(range);
        let policy = policies_str_to_pretty(policy.text(), &config);
        text.push_str(policy.map_err(|error| error.to_string())?.trim_end());
    }
    let rest = laid_out_between(source.text.get(end..).unwrap_or_default(), end == 0);
    text.push_str(rest.trim_end());
    text.push('\n');
    Ok(text)
}

/// Comments between policies: one blank line before them, those among them kept, but only one each.
fn laid_out_between(between: &str, is_first: bool) -> String {
    let mut lines = between.lines().map(str::trim);
    let mut text = String::new();
    if !is_first {
        // What follows a policy on its line stays there.
        if let Some(comment) = lines.next().filter(|line| !line.is_empty()) {
            text.push(' ');
            text.push_str(comment);
        }
        text.push_str("\n\n");
    }
    let mut blank = true;
    for line in lines {
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        } else if !blank {
            text.push('\n');
        }
        blank = line.is_empty();
    }
    text
}

/// The syntax tree of every policy, in order.
fn meaning(source: &Source) -> Result<Vec<pst::Policy>, LoadError> {
    let mut trees = Vec::new();
    for range in scan(source)? {
        let place = source.place(range);
        let policy = Policy::parse(None, place.text()).map_err(|errors| {
            LoadError::new(errors.iter().map(|error| place.diagnostic(error)).collect())
        })?;
        trees.push(policy.to_pst().map_err(|error| place.problem(error.to_string()))?);
    }
    Ok(trees)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> Result<String, String> {
        format_text("p.cedar", text).map_err(|error| error.lines().collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn text_is_laid_out_and_laid_out_text_stays() {
        let text = "\n// head\n\n\n//\n// why\n@id(\"a\")permit(principal is Device,action in [Action::\"write\",\
            Action::\"read\"],resource in TopicFilter::\"devices/${cn}/#\")when{context.qos<=1&&\
            !context.retain// no\n};\n\n\n\n@id(\"b\") forbid(principal,action,resource);// end\n  // the last";
        let laid_out = r#"// head

//
// why
@id("a")
permit (
  principal is Device,
  action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#"
)
when
{
  context.qos <= 1 &&
  !context.retain // no
};

@id("b")
forbid (principal, action, resource); // end

// the last
"#;
        assert_eq!(formatted(text).as_deref(), Ok(laid_out));
        assert_eq!(formatted(laid_out).as_deref(), Ok(laid_out));
    }

    #[test]
    fn every_policy_of_the_project_keeps_its_meaning_and_stays_laid_out() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let mut folders: Vec<_> = [root.clone(), root.join("cookbook")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        folders.retain(|path| path.is_dir() && !path.ends_with("cookbook"));
        assert!(folders.len() > 10);
        for file in folders.iter().flat_map(|folder| source::policy_files(folder).unwrap()) {
            let once = Formatted::of_file(&file).unwrap().after;
            assert_eq!(formatted(&once), Ok(once.clone()), "{}", file.display());
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_before_it_could_harm() {
        let deep = format!(
            "@id(\"a\") permit (principal, action, resource) when {{ {}true{} }};",
            "(".repeat(100_000),
            ")".repeat(100_000)
        );
        for (text, problem) in [
            (deep.as_str(), "p.cedar:1:85: brackets are nested deeper than 32"),
            ("permit (principal, action resource);", "p.cedar:1:27: unexpected token `resource`"),
        ] {
            let found = formatted(text).unwrap_err();
            assert!(found.starts_with(problem), "{found}");
        }
    }

    #[test]
    fn comments_are_what_stands_between_tokens() {
        let text = "// a \n@id(\"// no\") permit (principal, // b\n action, resource); //c\n\n// d";
        assert_eq!(comments(text), ["// a", "// b", "//c", "// d"]);
    }
}
