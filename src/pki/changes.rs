//! Whether files have to be read again: when they have changed, or could not be read a while ago.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How soon something is read again that could not be.
pub const RETRY: Duration = Duration::from_mins(1);

/// What tells one state of some files from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<PathBuf, Option<(SystemTime, u64, u64)>>);

impl Marks {
    /// The state of these files now; one that is not there has one too.
    #[must_use]
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), mark(&path))).collect())
    }
}

fn mark(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Decides when to read again. Knows no clock: each call says what time it is.
#[derive(Debug)]
pub struct Changes<M> {
    seen: Option<M>,
    failed_at: Option<Instant>,
}

impl<M> Default for Changes<M> {
    fn default() -> Self {
        Self { seen: None, failed_at: None }
    }
}

impl<M: PartialEq> Changes<M> {
    /// The files were read in this state.
    #[must_use]
    pub const fn since(seen: M) -> Self {
        Self { seen: Some(seen), failed_at: None }
    }

    /// True when they are to be read: they are in another state by now, or what could not be read,
    /// for want of something perhaps, may be readable again.
    pub fn are_due(&mut self, state: M, now: Instant) -> bool {
        let has_changed = self.seen.as_ref() != Some(&state);
        let is_retried =
            self.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= RETRY);
        if has_changed || is_retried {
            self.seen = Some(state);
            self.failed_at = None;
        }
        has_changed || is_retried
    }

    /// They could not be read, or not all of them.
    pub const fn failed(&mut self, now: Instant) {
        self.failed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_have_changed_and_a_minute_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let marks = || Marks::of([path.clone()]);
        let began = Instant::now();
        let mut changes = Changes::default();
        assert!(changes.are_due(marks(), began), "never read");
        assert!(!changes.are_due(marks(), began));
        std::fs::write(&path, "a").unwrap();
        assert!(changes.are_due(marks(), began));
        changes.failed(began);
        assert!(!changes.are_due(marks(), began + RETRY / 2));
        assert!(changes.are_due(marks(), began + RETRY));
        assert!(!changes.are_due(marks(), began + 2 * RETRY), "once for each failure");
        changes.failed(began);
        std::fs::remove_file(&path).unwrap();
        assert!(changes.are_due(marks(), began));
        assert!(!changes.are_due(marks(), began + RETRY), "what has changed is another matter");
        assert!(!Changes::since(marks()).are_due(marks(), began));
    }
}
