//! Topic aliases that the broker sets towards a client which takes them.

use std::num::NonZeroU16;

use crate::mqtt::TopicName;

/// The aliases of one connection: the first topics that come by, each for as long as the
/// connection lasts [MQTT-3.3.2-7]. Most connections have none: they hold no more than a pointer.
#[derive(Debug, Default)]
pub(super) struct OutgoingAliases(Option<Box<Named>>);

/// Alias 1 stands at index 0.
#[derive(Debug, Default)]
struct Named(Vec<TopicName>);

/// How a topic is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// In full.
    InFull,
    /// In full, with an alias that stands for it from now on.
    Naming(NonZeroU16),
    /// By its alias alone.
    ByAlias(NonZeroU16),
}

impl OutgoingAliases {
    /// How to say a topic to a client that takes aliases up to `most`.
    pub(super) fn say(&self, topic: &TopicName, most: u16) -> Said {
        let named = self.0.as_ref().map_or(&[][..], |named| &named.0);
        let known = named.iter().position(|known| known.same(topic) || known == topic);
        if let Some(alias) = known.and_then(alias) {
            return Said::ByAlias(alias);
        }
        match alias(named.len()) {
            Some(next) if next.get() <= most => Said::Naming(next),
            _ => Said::InFull,
        }
    }

    /// The next alias has been sent, with this topic.
    pub(super) fn name(&mut self, topic: &TopicName) {
        self.0.get_or_insert_default().0.push(topic.clone());
    }

    /// Forgets all: they may be set anew at any time, and have to be on a new connection.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// Aliases begin with 1 [MQTT-3.3.2-8].
fn alias(index: usize) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(index).ok()?.checked_add(1)?)
}
