//! Landlock: the system holds the calling thread, and those it starts, to a list of files.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use std::path::Path;

/// What may be done with a file or folder, and with all that is below it.
pub(super) type Rights = BitFlags<AccessFs>;

/// Whether the system can hold a process to a list of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// It can, by this version of Landlock.
    Abi(i32),
    /// It cannot, and why.
    None(&'static str),
}

/// The first version that lets a file be renamed from one folder to another, as a store that is
/// repaired and an authority that is replaced need it.
const ABI_MIN: ABI = ABI::V2;
/// The first version that a sandbox may have which is required: before, files can be shortened that
/// may not be written to.
const ABI_REQUIRED: i32 = 3;
/// What is held off, as far as the system knows it: later versions are for those who have tried
/// them.
const ABI_FILES: ABI = ABI::V5;
/// Signals and abstract sockets of processes outside.
const ABI_SCOPES: ABI = ABI::V6;

/// What a version of Landlock leaves open that later ones hold off.
pub(super) fn left_open(abi: i32) -> Option<&'static str> {
    match abi {
        ..ABI_REQUIRED => Some(
            "it does not keep files from being cut to nothing, nor signals from other processes of \
             this user; Linux 6.2 does the first, Linux 6.12 both",
        ),
        ABI_REQUIRED..6 => {
            Some("it does not keep signals from other processes of this user; Linux 6.12 does")
        }
        _ => None,
    }
}

/// Why this version will not do where a sandbox is required.
pub(super) fn too_little(abi: i32) -> Option<&'static str> {
    (abi < ABI_REQUIRED).then_some(
        "the Landlock of this kernel does not keep files from being cut to nothing; Linux 6.2 does",
    )
}

/// Asks the system, on a thread of its own: it says so to whom it confines.
pub(crate) fn support() -> Support {
    let asked = std::thread::spawn(|| {
        let ruleset = Ruleset::default().handle_access(AccessFs::from_all(ABI_MIN))?;
        ruleset.create()?.restrict_self()
    });
    match asked.join().map(|status| status.map(|status| status.landlock)) {
        Ok(Ok(LandlockStatus::Available { effective_abi, kernel_abi })) => {
            if effective_abi < ABI_MIN {
                Support::None(
                    "the Landlock of this kernel is too old; Linux 5.19 has one that will do",
                )
            } else {
                Support::Abi(kernel_abi.unwrap_or(effective_abi as i32))
            }
        }
        Ok(Ok(LandlockStatus::NotEnabled)) => {
            Support::None("Landlock is not enabled in this kernel; add it to its parameter lsm=")
        }
        Ok(Ok(LandlockStatus::NotImplemented)) => {
            Support::None("this kernel has no Landlock, or a filter of system calls keeps it away")
        }
        _ => Support::None("the system refuses to confine a thread"),
    }
}

/// From now on this thread, and every one that it starts, may do with files what `rules` allow,
/// and nothing else. It gains no privileges by running a program, and may run none.
///
/// # Errors
/// Why it is not confined.
pub(super) fn restrict<'a>(rules: impl Iterator<Item = (&'a Path, Rights)>) -> Result<(), String> {
    let confined = || {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI_FILES))?
            .scope(Scope::from_all(ABI_SCOPES))?
            .create()?;
        for (path, rights) in rules {
            // What is gone by now needs no rule.
            let Ok(opened) = PathFd::new(path) else { continue };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, rights))?;
        }
        ruleset.restrict_self()
    };
    let status = confined().map_err(|error: landlock::RulesetError| error.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the system did not take the rules".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
