//! What the clients of a recording were like at any moment, told by the length of the log.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::cast::Cast;
use super::fickle::{Ghost, Waverer};
use super::publisher::Publisher;
use super::subscriber::Subscriber;

/// A client, with all that it knows.
#[derive(Clone, Debug)]
pub(crate) enum Actor {
    Publisher(Publisher),
    Subscriber(Subscriber),
    Ghost(Ghost),
    Waverer(Waverer),
}

/// Keeps what clients were like, and how long the log was: after they had read what they know by
/// then, and before they sent what they sent then.
#[derive(Debug)]
pub(crate) struct Witness {
    log: File,
    kept: Mutex<BTreeMap<String, Vec<(u64, Actor)>>>,
}

impl Witness {
    pub(crate) fn new(log: &Path) -> Self {
        Self { log: File::open(log).unwrap(), kept: Mutex::default() }
    }

    /// The length of the log.
    pub(crate) fn position(&self) -> u64 {
        self.log.metadata().unwrap().len()
    }

    pub(super) fn keep(&self, position: u64, actor: Actor) {
        let name = actor.name().to_owned();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(name).or_default().push((position, actor));
    }

    /// Makes of the clients as they were at the beginning those of this moment.
    pub(crate) fn recall(&self, cast: &mut Cast, position: u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for history in kept.values() {
            let count = history.partition_point(|(at, _)| *at <= position);
            if let Some((_, actor)) = history[..count].last() {
                cast.replace(actor.clone());
            }
        }
    }
}

impl Actor {
    fn name(&self) -> &str {
        match self {
            Self::Publisher(publisher) => &publisher.connect.client_id,
            Self::Subscriber(subscriber) => &subscriber.connect.client_id,
            Self::Ghost(_) => Ghost::NAME,
            Self::Waverer(_) => Waverer::NAME,
        }
    }
}
