//! `sandbox`: whether a process lets the system hold it to the files that it needs.

use super::kind::Word;
use super::section::Section;

/// Whether the system is asked to hold a process to the files that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// It is not.
    Off,
    /// It is, where it can; otherwise the diagnostic log says so.
    On,
    /// It is; where it cannot, nothing starts.
    Require,
}

const SANDBOX: Word<SandboxMode> =
    Word(&[("off", SandboxMode::Off), ("on", SandboxMode::On), ("require", SandboxMode::Require)]);

/// Reads the key.
pub(super) fn read_sandbox(section: &mut Section<'_>) -> SandboxMode {
    let mode = section.take("sandbox", &SANDBOX, SandboxMode::On);
    if mode == SandboxMode::Off {
        section.warn(
            "sandbox",
            "is \"off\": whoever takes over the process reads every file that its user may read",
        );
    }
    mode
}
