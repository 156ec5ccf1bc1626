//! Watches the policy folder of a running broker. Only a folder that was replaced as a whole is
//! loaded by itself; of anything else the operator is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::Failure;
use super::running::Reloader;
use crate::config::WatchPolicies;
use crate::policy::{FolderChange, FolderState};

/// Changes come in bursts: so long after the last one the folder is looked at.
const QUIET: Duration = Duration::from_millis(200);
/// A folder in which something changes all the time is looked at so often all the same.
const BUSY: Duration = Duration::from_secs(2);
/// Events that may wait. What does not fit is not lost: the folder is looked at anyway.
const EVENTS_MAX: usize = 64;

/// A watch on one folder.
pub(super) struct FolderWatch {
    folder: PathBuf,
    state: FolderState,
    events: mpsc::Receiver<Seen>,
    watcher: RecommendedWatcher,
    /// The folder that is watched inside, links followed.
    inside: PathBuf,
}

/// What one event says.
#[derive(Clone, Copy)]
struct Seen {
    /// Something was renamed to the path of the folder.
    renamed: bool,
}

impl FolderWatch {
    /// Begins to watch. To be called before the folder is loaded, so that no change is missed.
    pub(super) fn begin(folder: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure(format!("policies: {} cannot be watched: {error}", folder.display()))
        };
        let folder = std::path::absolute(folder)?;
        let parent = folder.parent().unwrap_or(Path::new("/")).to_path_buf();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let name = folder.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Some(seen) = event.map_or(Some(Seen { renamed: false }), |it| see(&it, &name)) {
                let _ = sender.try_send(seen);
            }
        })
        .map_err(|error| failed(&error))?;
        watcher.watch(&parent, RecursiveMode::NonRecursive).map_err(|error| failed(&error))?;
        let inside = folder.canonicalize()?;
        watcher.watch(&inside, RecursiveMode::NonRecursive).map_err(|error| failed(&error))?;
        let state = FolderState::read(&folder)?;
        Ok(Self { folder, state, events, watcher, inside })
    }

    /// The next change that a load would notice; `None` when the watch has ended.
    pub(super) async fn changed(&mut self) -> Option<FolderChange> {
        loop {
            let mut renamed = self.events.recv().await?.renamed;
            let latest = Instant::now() + BUSY;
            while Instant::now() < latest
                && let Ok(more) = timeout(QUIET, self.events.recv()).await
            {
                renamed |= more?.renamed;
            }
            let folder = self.folder.clone();
            let read =
                tokio::task::spawn_blocking(move || FolderState::read(&folder)).await.ok()?;
            // While it is not there, or cannot be read, there is nothing to load.
            let Ok(state) = read else { continue };
            self.follow();
            let change = state.since(&self.state, renamed);
            self.state = state;
            if change != FolderChange::None {
                return Some(change);
            }
        }
    }

    /// True while the folder is as it was when the last change was told.
    pub(super) fn is_unchanged(&self) -> bool {
        FolderState::read(&self.folder).is_ok_and(|state| state == self.state)
    }

    /// Watches inside the folder that the path leads to now.
    fn follow(&mut self) {
        let Ok(inside) = self.folder.canonicalize() else { return };
        // The same path may be another folder, which is not watched yet.
        let _ = self.watcher.unwatch(&self.inside);
        let _ = self.watcher.watch(&inside, RecursiveMode::NonRecursive);
        self.inside = inside;
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
            change = watch.changed() => match change {
                Some(FolderChange::Replaced) if mode == WatchPolicies::Reload => {
                    if let Err(Failure(why)) = reloader.reload_policies(|| watch.is_unchanged()).await {
                        warn!("the new policies are refused, everything stays as it was: {why}");
                    }
                }
                Some(_) => {
                    let folder = watch.folder.display();
                    warn!(%folder, "the policy folder has changed, run `portcullis ctl reload`");
                }
                None => return,
            },
        }
    }
}

/// What an event says of the folder; `None` when nothing in it has changed.
fn see(event: &Event, folder: &Path) -> Option<Seen> {
    // What else is in the folder around it changes as well, the audit log at every refusal.
    let beside = |path: &PathBuf| path != folder && path.parent() == folder.parent();
    if event.paths.iter().all(beside) {
        return None;
    }
    let target = event.paths.last().is_some_and(|path| path == folder);
    let renamed = matches!(
        event.kind,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
    );
    match event.kind {
        EventKind::Access(_) => None,
        _ => Some(Seen { renamed: renamed && target }),
    }
}
