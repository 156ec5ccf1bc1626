//! The lists of revoked certificates that certificates are held against in the handshake.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::cli::Failure;
use crate::cli::revocation::{State, now_unix_s};
use crate::identity::TrustedIssuers;
use crate::identity::revocation::{self, Loaded, Settings};
use crate::pki::changes::Changes;

/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The authorities that lists have to come from, at present.
type Trusted = Box<dyn Fn() -> Arc<TrustedIssuers> + Send>;

/// What lists there are to be, and those in force. Each look says what time it is.
pub(super) struct Lists {
    settings: Settings,
    trusted: Trusted,
    current: revocation::Current,
    changes: Changes<State>,
}

impl Lists {
    /// Loads the lists, all or none. Blocks.
    ///
    /// # Errors
    /// Which list cannot be taken.
    pub(super) fn load(
        settings: Settings,
        trusted: Trusted,
        current: revocation::Current,
        now_unix_s: i64,
    ) -> Result<Self, Failure> {
        // The state before: what changes meanwhile is seen at the first look.
        let changes = Changes::since(State::of(&settings));
        let loaded = revocation::load(&settings, &trusted(), &current.load(), now_unix_s)
            .map_err(|error| Failure(format!("revocation.lists: {error}")))?;
        let lists = Self { settings, trusted, current, changes };
        lists.put_in_force(loaded);
        Ok(lists)
    }

    fn put_in_force(&self, Loaded { revocations, warnings }: Loaded) {
        for warning in warnings {
            warn!("{warning}");
        }
        self.current.store(Arc::new(revocations));
    }

    /// Looks again and again, until the future is dropped.
    pub(super) async fn keep_watch(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let looked = tokio::task::spawn_blocking(move || {
                self.look(now_unix_s(), Instant::now());
                self
            });
            match looked.await {
                Ok(again) => self = again,
                Err(error) => {
                    warn!("the revocation lists in force stay: {error}");
                    return;
                }
            }
        }
    }

    /// Loads the lists where they have changed, or could not be read a while ago. What can be taken
    /// is: what is wrong with one file keeps no other list back.
    fn look(&mut self, now_unix_s: i64, now: Instant) {
        if !self.changes.are_due(State::of(&self.settings), now) {
            return;
        }
        let in_force = self.current.load_full();
        let trusted = (self.trusted)();
        let failures =
            match revocation::load_what_can_be(&self.settings, &trusted, &in_force, now_unix_s) {
                Ok((loaded, failures)) => {
                    self.put_in_force(loaded);
                    failures
                }
                Err(failure) => vec![failure],
            };
        for failure in &failures {
            warn!("a revocation list cannot be taken: {failure}");
        }
        if !failures.is_empty() {
            self.changes.failed(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::revocation::tests::{authority, revoke_unreadably, trusted, write_unseen};
    use crate::pki::changes::RETRY;

    #[test]
    fn a_list_that_could_not_be_read_is_read_again_though_its_file_has_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, settings) = authority(folder.path());
        let trusted = Arc::new(trusted(&ca));
        let (now_s, began) = (now_unix_s(), Instant::now());
        let current = revocation::none();
        let trusted = Box::new(move || Arc::clone(&trusted));
        let mut lists = Lists::load(settings, trusted, Arc::clone(&current), now_s).ok().unwrap();

        let in_force = current.load_full();
        lists.look(now_s, began);
        assert!(Arc::ptr_eq(&in_force, &current.load_full()), "what was read is not read again");
        let good = revoke_unreadably(&ca);
        lists.look(now_s, began);
        assert_eq!(current.load().len(), 0, "it cannot be read");
        write_unseen(&ca, &good);
        lists.look(now_s, began + RETRY / 2);
        assert_eq!(current.load().len(), 0, "nobody knows");
        lists.look(now_s, began + RETRY);
        assert_eq!(current.load().len(), 1);
        let in_force = current.load_full();
        lists.look(now_s, began + 3 * RETRY);
        assert!(Arc::ptr_eq(&in_force, &current.load_full()));
    }
}
