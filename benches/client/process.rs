//! What a process costs, as the kernel counts it.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};

/// CPU time at one moment, per thread.
///
/// The scheduler's own nanoseconds, not ticks: a few hundred milliseconds are enough to measure.
/// A thread that ended in between is missing from the difference.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuTime(HashMap<String, u64>);

impl CpuTime {
    /// The CPU time of process `pid` until now; empty when it is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        Self(
            threads
                .flatten()
                .filter_map(|thread| {
                    let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                    let ns = text.split_whitespace().next()?.parse().ok()?;
                    Some((thread.file_name().to_string_lossy().into_owned(), ns))
                })
                .collect(),
        )
    }

    /// The CPU time spent since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let spent = |(thread, ns): (&String, &u64)| {
            ns.saturating_sub(earlier.0.get(thread).copied().unwrap_or(0))
        };
        Duration::from_nanos(self.0.iter().map(spent).sum())
    }
}

/// Resident memory at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All resident pages: `VmRSS`.
    pub(crate) resident_bytes: u64,
    /// Those that are not backed by a file: `RssAnon`.
    pub(crate) anonymous_bytes: u64,
}

impl Memory {
    /// The memory of process `pid`; zero when it is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let bytes = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        Self { resident_bytes: bytes("VmRSS:"), anonymous_bytes: bytes("RssAnon:") }
    }
}

/// Lets this process, and those it starts, open as many files as the system allows it.
pub(crate) fn raise_open_files() -> std::io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}
