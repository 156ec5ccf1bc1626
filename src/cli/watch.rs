//! Watches the policy folder of a running broker. Only a folder that was replaced as a whole is
//! loaded by itself; of anything else the operator is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::warn;

use super::Failure;
use super::reloader::Reloader;
use crate::config::WatchPolicies;
use crate::policy::{Doubt, FolderChange, FolderState, Way, is_policy_file};

/// Changes come in bursts: so long after the last one the folder is looked at.
const QUIET: Duration = Duration::from_millis(200);
/// A folder in which something changes all the time is looked at so often all the same.
const BUSY: Duration = Duration::from_secs(2);
/// How often it is tried to watch a way that changes meanwhile.
const FOLLOWED_MAX: usize = 16;

/// A watch on one folder.
pub(super) struct FolderWatch {
    folder: PathBuf,
    state: FolderState,
    /// It was told that there is no folder any more.
    missing: bool,
    seen: Arc<Seen>,
    watcher: RecommendedWatcher,
    /// The directories that are watched, each with what it was then.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

/// What events have said since the folder was looked at.
#[derive(Default)]
struct Seen {
    told: Mutex<Told>,
    wake: Notify,
}

#[derive(Default)]
struct Told {
    /// What is watched, to tell what an event is about.
    way: Way,
    marks: Marks,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// An entry of the way has changed.
    moved: bool,
    /// Something was renamed to an entry of the way.
    renamed: bool,
    /// A file has changed in the folder that the path leads to.
    touched: bool,
}

/// What is told of a folder.
pub(super) enum Change {
    /// It was replaced as a whole: it may be loaded.
    Replaced,
    /// It has changed, and may be unfinished.
    Edited(Doubt),
    /// It is not there, or cannot be read.
    Missing(std::io::Error),
}

impl FolderWatch {
    /// Begins to watch. To be called before the folder is loaded, so that no change is missed.
    pub(super) fn begin(folder: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure(format!("policies: {} cannot be watched: {error}", folder.display()))
        };
        let folder = std::path::absolute(folder)?;
        let seen = Arc::new(Seen::default());
        let told = Arc::clone(&seen);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            told.take(event.as_ref().ok());
        })
        .map_err(|error| failed(&error))?;
        let state = FolderState::read(&folder).map_err(|error| failed(&error))?;
        let mut watch = Self {
            folder: folder.clone(),
            state,
            missing: false,
            seen,
            watcher,
            watched: BTreeMap::new(),
        };
        watch.follow().map_err(|error| failed(&error))?;
        watch.state = FolderState::read(&folder).map_err(|error| failed(&error))?;
        Ok(watch)
    }

    /// The next change that a load would notice.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            self.seen.wake.notified().await;
            let latest = Instant::now() + BUSY;
            loop {
                // At once: what is put into a new folder after that is seen.
                if let Err(error) = self.follow() {
                    warn!(folder = %self.folder.display(), %error, "not all of the way to the policies can be watched");
                }
                let more = timeout(QUIET, self.seen.wake.notified()).await;
                if more.is_err() || Instant::now() >= latest {
                    break;
                }
            }
            let marks = std::mem::take(&mut self.seen.told.lock().marks);
            let folder = self.folder.clone();
            let read = tokio::task::spawn_blocking(move || FolderState::read(&folder)).await;
            let state = match read.map_err(std::io::Error::other).flatten() {
                Ok(state) => state,
                Err(error) if !self.missing => {
                    self.missing = true;
                    return Change::Missing(error);
                }
                Err(_) => continue,
            };
            self.missing = false;
            let change = state.since(&self.state, marks.renamed);
            let signed = state.is_signed();
            self.state = state;
            match change {
                FolderChange::None => {}
                FolderChange::Replaced if marks.touched && !signed => {
                    return Change::Edited(Doubt::Filled);
                }
                FolderChange::Replaced => return Change::Replaced,
                FolderChange::Edited(doubt) => return Change::Edited(doubt),
            }
        }
    }

    /// True while the folder is as it was when the last change was told, and nothing has happened
    /// to it in between.
    pub(super) fn is_unchanged(&self) -> bool {
        let quiet = || self.seen.told.lock().marks == Marks::default();
        quiet() && FolderState::read(&self.folder).is_ok_and(|state| state == self.state) && quiet()
    }

    /// Watches the way to the folder as it is now, if it is another one, and inside its end.
    /// What was told of files before that was told of other files.
    ///
    /// # Errors
    /// What cannot be watched: the last directories. Those above often may not be read.
    fn follow(&mut self) -> notify::Result<()> {
        for _ in 0..FOLLOWED_MAX {
            let way = Way::of(&self.folder);
            if way == self.seen.told.lock().way {
                return Ok(());
            }
            // A watch stays where its directory stays, so that no rename goes unnoticed.
            let wanted = way.directories();
            for (directory, _) in self.watched.extract_if(.., |at, it| wanted.get(at) != Some(it)) {
                let _ = self.watcher.unwatch(&directory);
            }
            let needed = |directory: &Path| way.is_needed(directory);
            let mut told = self.seen.told.lock();
            if told.way.insides != way.insides {
                told.marks.touched = false;
            }
            told.way.clone_from(&way);
            drop(told);
            for (directory, place) in wanted {
                if self.watched.contains_key(&directory) {
                    continue;
                }
                match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.watched.insert(directory, place)),
                    Err(error) if needed(&directory) => return Err(error),
                    Err(_) => {}
                }
            }
        }
        // It does not stand still: whatever is there, it is not finished.
        self.seen.told.lock().marks.touched = true;
        Ok(())
    }
}

impl Seen {
    /// Takes in an event; none where events were lost.
    fn take(&self, event: Option<&Event>) {
        let mut told = self.told.lock();
        let marks = event.map_or_else(
            || Marks { moved: true, touched: true, renamed: false },
            |event| see(event, &told.way),
        );
        if marks == Marks::default() {
            return;
        }
        let before = told.marks;
        told.marks = Marks {
            moved: before.moved || marks.moved,
            renamed: before.renamed || marks.renamed,
            touched: before.touched || marks.touched,
        };
        self.wake.notify_one();
    }
}

/// Watches for as long as the broker runs, wherever its policies are.
pub(super) async fn keep_watch(
    reloader: Arc<Reloader>,
    mut watch: FolderWatch,
    mode: WatchPolicies,
) {
    let mut path = reloader.policies.subscribe();
    loop {
        tokio::select! {
            changed = path.changed() => {
                let folder = path.borrow_and_update().clone();
                match FolderWatch::begin(&folder) {
                    Ok(begun) if changed.is_ok() => watch = begun,
                    Err(Failure(why)) => warn!("{why}; the old folder is still watched"),
                    Ok(_) => return,
                }
            }
            change = watch.changed() => {
                let folder = watch.folder.display();
                match change {
                    Change::Replaced if mode == WatchPolicies::Reload => {
                        let loaded = reloader.reload_policies(|| watch.is_unchanged()).await;
                        if let Err(Failure(why)) = loaded {
                            warn!("the new policies are refused, everything stays as it was: {why}");
                        }
                    }
                    Change::Edited(doubt) if mode == WatchPolicies::Reload => {
                        warn!(
                            %folder,
                            why = %doubt,
                            "the policy folder has changed, run `portcullis ctl reload`"
                        );
                    }
                    Change::Replaced | Change::Edited(_) => {
                        warn!(%folder, "the policy folder has changed, run `portcullis ctl reload`");
                    }
                    Change::Missing(error) => warn!(
                        %folder,
                        %error,
                        "the policy folder cannot be read; the policies in force stay"
                    ),
                }
            }
        }
    }
}

/// What an event says of the folder and of the way to it.
fn see(event: &Event, way: &Way) -> Marks {
    if matches!(event.kind, EventKind::Access(_)) {
        return Marks::default();
    }
    if event.need_rescan() {
        return Marks { moved: true, touched: true, renamed: false };
    }
    // What else is around the folder changes as well, the audit log at every refusal.
    let is_file = |path: &PathBuf| {
        path.file_name().is_some_and(is_policy_file)
            && path.parent().is_some_and(|inside| way.insides.contains_key(inside))
    };
    let is_entry = |path: &PathBuf| way.entries.contains(path);
    let named = matches!(
        event.kind,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
    );
    Marks {
        moved: event.paths.iter().any(is_entry),
        renamed: named && event.paths.last().is_some_and(is_entry),
        touched: event.paths.iter().any(is_file),
    }
}
