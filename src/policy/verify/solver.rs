//! The SMT solver: where it is, whether it is new enough, and how it is started.
//!
//! It runs as a process of its own with bounded memory, and ends with whoever started it.

use std::ffi::OsString;
use std::fmt;
use std::process::{Command, Stdio};

use cedar_policy_symcc::solver::LocalSolver;

/// Older ones print models that cannot be read.
pub(super) const OLDEST: Version = Version(1, 3, 1);
/// Speaks SMT-LIB with the Python package.
const SHIM: &str = include_str!("cvc5_shim.py");
/// What is executed, by a shell that bounds its memory first.
const BOUNDED: &str = "ulimit -v \"$0\" && exec \"$@\"";

/// A solver that is there and new enough.
#[derive(Clone, Debug)]
pub struct Solver {
    command: Vec<OsString>,
    version: Version,
}

/// A version of cvc5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

/// Why there is no solver to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSolver {
    /// None was found.
    #[error(
        "skipped, nothing was proven or refuted: there is no cvc5; install it for python3 with `pip \
         install cvc5` (in a virtual environment whose bin/ is in PATH), or name an executable with \
         CVC5=PATH"
    )]
    Missing,
    /// The one that was named does not run.
    #[error(
        "skipped, nothing was proven or refuted: CVC5={path} is no cvc5 that runs: {why}; \
         correct the path"
    )]
    Broken {
        /// Its path.
        path: String,
        /// What came of it.
        why: String,
    },
    /// The one that is there is too old.
    #[error(
        "skipped, nothing was proven or refuted: {name} is cvc5 {version}, and {OLDEST} is \
         needed; install a newer one for python3 with `pip install --upgrade cvc5`, or name one with \
         CVC5=PATH"
    )]
    TooOld {
        /// Which one.
        name: String,
        /// Its version.
        version: Version,
    },
}

impl Solver {
    /// The solver that `CVC5` names; otherwise the package of python3; otherwise `cvc5` in `PATH`.
    ///
    /// # Errors
    /// When there is none, or it is too old.
    pub fn find() -> Result<Self, NoSolver> {
        if let Some(path) = std::env::var_os("CVC5").filter(|path| !path.is_empty()) {
            return Self::named(path);
        }
        let python = ["python3", "-c", SHIM].map(OsString::from).to_vec();
        if let Ok(version) = version_of(&python) {
            return Self { command: python, version }.checked("the cvc5 of python3");
        }
        let installed = vec![OsString::from("cvc5")];
        let version = version_of(&installed).map_err(|_| NoSolver::Missing)?;
        Self { command: with_language(installed), version }.checked("the cvc5 in PATH")
    }

    fn named(path: OsString) -> Result<Self, NoSolver> {
        let name = path.to_string_lossy().into_owned();
        let command = vec![path];
        let version =
            version_of(&command).map_err(|why| NoSolver::Broken { path: name.clone(), why })?;
        Self { command: with_language(command), version }.checked(&name)
    }

    fn checked(self, name: &str) -> Result<Self, NoSolver> {
        if self.version < OLDEST {
            return Err(NoSolver::TooOld { name: name.to_owned(), version: self.version });
        }
        Ok(self)
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Starts it.
    pub(super) fn start(
        &self,
        memory_bytes_max: u64,
    ) -> Result<LocalSolver, cedar_policy_symcc::err::SolverError> {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", BOUNDED]).arg((memory_bytes_max / 1024).to_string());
        LocalSolver::from_command(command.args(&self.command).kill_on_drop(true))
    }
}

impl Version {
    /// Reads what `cvc5 --version` prints.
    fn read(text: &str) -> Option<Self> {
        let (_, after) = text.split_once("cvc5 version ")?;
        let word = after.split(|it: char| !it.is_ascii_digit() && it != '.').next()?;
        let mut numbers = word.split('.').map(str::parse);
        let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
        Some(Self(next()?, next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

fn with_language(mut command: Vec<OsString>) -> Vec<OsString> {
    command.extend(["--lang", "smt"].map(OsString::from));
    command
}

fn version_of(command: &[OsString]) -> Result<Version, String> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let output = Command::new(program)
        .args(arguments)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stdout);
    Version::read(&told).ok_or_else(|| "--version tells none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_however_it_is_decorated() {
        for (text, version) in [
            ("This is cvc5 version 1.3.1\ncompiled with", Some(Version(1, 3, 1))),
            ("This is cvc5 version 1.0.3 [git tag 1.0.3 branch HEAD]", Some(Version(1, 0, 3))),
            ("This is cvc5 version 1.4.2", Some(Version(1, 4, 2))),
            ("This is cvc5 version 1.4", Some(Version(1, 4, 0))),
            ("This is cvc5 version 1.4.3.dev12+g1", Some(Version(1, 4, 3))),
            ("This is cvc5 version -", None),
            ("Z3 version 4.8.12", None),
            ("", None),
        ] {
            assert_eq!(Version::read(text), version, "{text}");
        }
        assert!(
            Version(1, 0, 3) < OLDEST && Version(1, 4, 2) > OLDEST && Version(2, 0, 0) > OLDEST
        );
    }

    #[test]
    fn a_solver_that_is_too_old_or_none_is_refused_with_a_remedy() {
        let old = Solver { command: Vec::new(), version: Version(1, 0, 3) };
        let refused = old.checked("/usr/bin/cvc5").unwrap_err().to_string();
        assert!(refused.contains("is cvc5 1.0.3, and 1.3.1 is needed"), "{refused}");
        assert!(refused.contains("pip install --upgrade cvc5"), "{refused}");
        for path in ["/nowhere/cvc5", "/bin/true"] {
            let refused = Solver::named(path.into()).unwrap_err().to_string();
            assert!(refused.starts_with("skipped, nothing was proven"), "{refused}");
            assert!(refused.contains(&format!("CVC5={path} is no cvc5 that runs")), "{refused}");
        }
    }
}
