//! `portcullis policy diff`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::audit::Recorded;
use crate::cli::Failure;
use crate::harmless::harmless;
use crate::pki::files::open_regular;
use crate::policy::{
    Answer, Answers, Bundle, CaseTables, Change, Comparison, PolicyEpoch, RuleChanges,
};

/// Shows which decisions change from one folder of policies to another: of the cases of both,
/// and of what an audit log has recorded.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The folder of the policies as they are
    old: PathBuf,
    /// The folder of the policies as they would be
    new: PathBuf,
    /// Asks also what this audit log has recorded: refusals and accepted connections. A log
    /// does not hold QoS, payload, TLS version, or the groups that a certificate confers: these
    /// are those of an ordinary client. May be repeated
    #[arg(long, value_name = "FILE")]
    audit: Vec<PathBuf>,
    /// Shows also decisions that stay and are made by other policies
    #[arg(long)]
    verbose: bool,
    /// Prints it as JSON
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// Exits with 1 when a decision changes, as git diff does
    #[arg(long)]
    exit_code: bool,
}

/// A question whose answer changes.
struct Changed {
    change: Change,
    question: String,
    /// Where it comes from, in words.
    origin: String,
    answers: Answers,
}

/// What was asked, and what came of it.
#[derive(Default)]
struct Asked {
    cases: usize,
    recorded: usize,
    /// Of those recorded: decided by the old policies as the log does not have it.
    unlike_recorded: usize,
    changed: Vec<Changed>,
}

impl DiffArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (old, old_cases) = load(&self.old)?;
        let (new, new_cases) = load(&self.new)?;
        let recorded = self.read_logs()?;
        let mut comparison = Comparison::new(&old, &new);
        let rules = comparison.rules();
        let mut asked = Asked::default();
        asked.put_cases(&mut comparison, [&new_cases, &old_cases])?;
        asked.put_recorded(&mut comparison, &recorded);
        // Stable: within a kind of change the order is that of the tables and the log.
        asked.changed.sort_by_key(|changed| changed.change);
        if self.json {
            let told = json!({
                "old": version(&self.old, &old),
                "new": version(&self.new, &new),
                "rules": {
                    "added": rules.added,
                    "removed": rules.removed,
                    "changed": rules.changed,
                },
                "cases": asked.cases,
                "recorded": asked.recorded,
                "unlike_recorded": asked.unlike_recorded,
                "changes": asked.changed.iter().map(Changed::json).collect::<Vec<_>>(),
            });
            say!("{told}");
        } else {
            print_rules(&rules);
            for changed in &asked.changed {
                if self.verbose || changed.change != Change::OtherReasons {
                    changed.print();
                }
            }
        }
        asked.sum_up();
        let changes = asked.changed.iter().filter(|it| it.change != Change::OtherReasons).count();
        if self.exit_code && changes > 0 {
            return Err(Failure(format!("{changes} decisions change")));
        }
        Ok(())
    }

    fn read_logs(&self) -> Result<Recorded, Failure> {
        let mut recorded = Recorded::default();
        for path in &self.audit {
            let read = open_regular(path).and_then(|log| recorded.read(BufReader::new(log)));
            read.map_err(|error| Failure(format!("audit log {}: {error}", path.display())))?;
        }
        let skipped = recorded.skipped();
        for (count, what) in [
            (skipped.unreadable, "lines are no records of an audit log of this version"),
            (skipped.incomplete, "records do not hold enough to be asked again"),
            (skipped.beyond, "records are left out: there are too many different ones"),
        ] {
            if count > 0 {
                eprintln!("audit: {count} {what}");
            }
        }
        Ok(recorded)
    }
}

fn load(folder: &Path) -> Result<(Arc<Bundle>, CaseTables), Failure> {
    let loaded = Bundle::load_dir_with_tables(folder, PolicyEpoch(1));
    loaded.map_err(|error| {
        let Failure(why) = Failure::policies(&error);
        Failure(format!("{}: {why}", folder.display()))
    })
}

impl Asked {
    /// Asks the cases of both folders; a question that both have is asked once.
    fn put_cases(
        &mut self,
        comparison: &mut Comparison,
        tables: [&CaseTables; 2],
    ) -> Result<(), Failure> {
        let mut known = BTreeSet::new();
        for tables in tables {
            for case in tables.cases() {
                let case = case.map_err(|problem| Failure(problem.line()))?;
                let question = case.words();
                if !known.insert(question.clone()) {
                    continue;
                }
                self.cases += 1;
                let answers = comparison.ask(&case.question);
                let (file, line) = case.place();
                self.take(question, format!("{file}:{line}"), answers);
            }
        }
        Ok(())
    }

    fn put_recorded(&mut self, comparison: &mut Comparison, recorded: &Recorded) {
        for it in recorded.questions() {
            self.recorded += 1;
            let answers = comparison.ask(&it.question);
            self.unlike_recorded += usize::from(answers.old.is_allowed() != it.allowed);
            let times = if it.times == 1 { "once" } else { &format!("{} times", it.times) };
            let origin = format!("recorded {times}, last at {}", it.last);
            self.take(it.words, origin, answers);
        }
    }

    fn take(&mut self, question: String, origin: String, answers: Answers) {
        if let Some(change) = answers.change() {
            self.changed.push(Changed { change, question, origin, answers });
        }
    }

    fn sum_up(&self) {
        let count = |change| self.changed.iter().filter(|it| it.change == change).count();
        eprintln!(
            "of {} cases and {} recorded questions: {} {}, {} {}, {} {}",
            self.cases,
            self.recorded,
            count(Change::NewlyAllowed),
            Change::NewlyAllowed.as_str(),
            count(Change::NewlyDenied),
            Change::NewlyDenied.as_str(),
            count(Change::OtherReasons),
            Change::OtherReasons.as_str(),
        );
        if self.unlike_recorded > 0 {
            eprintln!(
                "the old policies decide {} of the recorded questions otherwise than the log has \
                 it: other policies were in force then, or it was by a fact that a log does not \
                 hold",
                self.unlike_recorded
            );
        }
        if self.cases + self.recorded == 0 {
            eprintln!("nothing was asked: neither folder has a case table, and no log was given");
        }
    }
}

impl Changed {
    fn print(&self) {
        let Self { change, question, origin, answers } = self;
        let mut text = format!("{}: {question}\n", change.as_str());
        let _ = writeln!(text, "    old: {}", answers.old);
        let _ = writeln!(text, "    new: {}", answers.new);
        let _ = write!(text, "    {origin}");
        say!("{}", harmless(&text));
    }

    fn json(&self) -> Value {
        let answer = |answer: &Answer| {
            let errors: &[String] = match answer {
                Answer::Allowed(_) => &[],
                Answer::Denied(denial) => &denial.errors,
            };
            json!({
                "decision": if answer.is_allowed() { "allow" } else { "deny" },
                "policies": answer.policies(),
                "errors": errors,
            })
        };
        json!({
            "change": self.change.as_str(),
            "question": self.question,
            "origin": self.origin,
            "old": answer(&self.answers.old),
            "new": answer(&self.answers.new),
        })
    }
}

fn print_rules(rules: &RuleChanges) {
    for (mark, ids) in
        [("added", &rules.added), ("removed", &rules.removed), ("changed", &rules.changed)]
    {
        for id in ids {
            say!("{mark}: {}", harmless(id));
        }
    }
}

fn version(folder: &Path, bundle: &Bundle) -> Value {
    json!({
        "folder": folder.display().to_string(),
        "policies": bundle.policies(),
        "hash": bundle.hash(),
    })
}
