//! `portcullis policy test`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::Failure;
use crate::harmless::harmless;
use crate::policy::policy_folders as policy_folders_below;
use crate::policy::{Bundle, Examiner, LoadError, PolicyEpoch, Problem};

/// Policies without a case that are named.
const UNTESTED_NAMED_MAX: usize = 8;

/// Runs the case tables of policy folders.
#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// Policy folders, or folders that hold policy folders
    #[arg(value_name = "DIR", default_value = "policies")]
    folders: Vec<PathBuf>,
    /// Prints every case, not only those that fail
    #[arg(long)]
    verbose: bool,
    /// Prints what came of it as JSON
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

/// What came of one policy folder.
struct Tested {
    folder: PathBuf,
    bundle: Arc<Bundle>,
    has_table: bool,
    cases: Vec<CaseTold>,
    /// Lines that are no case.
    problems: Vec<Problem>,
    /// Policies that decide none of the cases.
    untested: Vec<Arc<str>>,
}

/// What came of one case.
struct CaseTold {
    file: String,
    line: usize,
    question: String,
    expected: String,
    answer: String,
    failure: Option<Problem>,
}

impl TestArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (mut passed, mut failed, mut refused) = (0_usize, 0_usize, 0_usize);
        let mut told = Vec::new();
        for folder in policy_folders(&self.folders)? {
            let tested = match Tested::of(&folder) {
                Ok(tested) => tested,
                Err(error) => {
                    refused += 1;
                    told.push(refusal(&folder, &error));
                    let Failure(why) = Failure::policies(&error);
                    eprintln!("error: {}: {}", folder.display(), harmless(&why));
                    continue;
                }
            };
            passed += tested.passed();
            failed += tested.failed();
            if !tested.has_table {
                eprintln!("{}: there is no case table (*.tsv)", folder.display());
            }
            if self.json {
                told.push(tested.json());
            } else {
                tested.print(self.verbose);
            }
        }
        if self.json {
            say!("{}", json!({ "passed": passed, "failed": failed, "folders": told }));
        }
        if refused > 0 {
            let plural = if refused == 1 { "folder does" } else { "folders do" };
            return Err(Failure(format!("{refused} {plural} not load; {failed} cases failed")));
        }
        if failed > 0 {
            return Err(Failure(format!("{failed} of {} cases failed", passed + failed)));
        }
        if passed == 0 {
            return Err(Failure("nothing was tested: there is no case".to_owned()));
        }
        Ok(())
    }
}

impl Tested {
    fn of(folder: &Path) -> Result<Self, LoadError> {
        let (bundle, tables) = Bundle::load_dir_with_tables(folder, PolicyEpoch(1))?;
        let mut examiner = Examiner::new(&bundle);
        let mut deciding = BTreeSet::new();
        let (mut cases, mut problems) = (Vec::new(), Vec::new());
        for case in tables.cases() {
            let case = match case {
                Ok(case) => case,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let run = case.run(&mut examiner);
            deciding.extend(run.answer.policies().iter().map(Arc::clone));
            let (file, line) = case.place();
            cases.push(CaseTold {
                file: file.to_owned(),
                line,
                question: case.words(),
                expected: case.expected.to_string(),
                answer: run.answer.to_string(),
                failure: run.failure,
            });
        }
        let askable = bundle.policy_ids_that_cases_ask();
        let untested = askable.filter(|id| !deciding.contains(*id)).cloned().collect();
        Ok(Self {
            folder: folder.to_owned(),
            has_table: !tables.is_empty(),
            bundle,
            cases,
            problems,
            untested,
        })
    }

    fn failed(&self) -> usize {
        let failed = self.cases.iter().filter(|case| case.failure.is_some()).count();
        failed + self.problems.len()
    }

    fn passed(&self) -> usize {
        self.cases.iter().filter(|case| case.failure.is_none()).count()
    }

    fn print(&self, verbose: bool) {
        for problem in &self.problems {
            say!("failed  {}", harmless(&problem.line()));
        }
        for case in &self.cases {
            let CaseTold { file, line, question, answer, failure, .. } = case;
            match failure {
                Some(problem) => say!("failed  {}", harmless(&problem.line())),
                None if verbose => {
                    say!("passed  {}", harmless(&format!("{file}:{line}: {question}: {answer}")));
                }
                None => {}
            }
        }
        if !self.has_table {
            return;
        }
        let folder = self.folder.display();
        say!("{folder}: {} passed, {} failed", self.passed(), self.failed());
        if !self.untested.is_empty() {
            let named: Vec<&str> =
                self.untested.iter().take(UNTESTED_NAMED_MAX).map(|id| &**id).collect();
            let more = self.untested.len() - named.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            eprintln!("{folder}: no case is decided by {}{more}", harmless(&named.join(", ")));
        }
    }

    fn json(&self) -> Value {
        let cases = self.cases.iter().map(|case| {
            json!({
                "file": case.file,
                "line": case.line,
                "question": case.question,
                "expected": case.expected,
                "answer": case.answer,
                "problem": case.failure.as_ref().map(Problem::line),
            })
        });
        json!({
            "folder": self.folder.display().to_string(),
            "policies": self.bundle.policies(),
            "hash": self.bundle.hash(),
            "passed": self.passed(),
            "failed": self.failed(),
            "cases": cases.collect::<Vec<_>>(),
            "problems": self.problems.iter().map(Problem::line).collect::<Vec<_>>(),
            "untested": self.untested,
        })
    }
}

fn refusal(folder: &Path, error: &LoadError) -> Value {
    json!({
        "folder": folder.display().to_string(),
        "problems": error.lines().collect::<Vec<_>>(),
    })
}

/// Every folder that holds *.cedar files, in these and below them, each once and in order.
fn policy_folders(named: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    for folder in named {
        let below = policy_folders_below(folder).map_err(|error| Failure::policies(&error))?;
        if below.is_empty() {
            return Err(Failure(format!(
                "there is no *.cedar file in or below {}; name a folder that has policies",
                folder.display()
            )));
        }
        found.extend(below);
    }
    Ok(found)
}
