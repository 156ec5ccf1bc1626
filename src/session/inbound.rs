//! From the client: topic aliases, QoS 2 identifiers that are not released yet, and the topics
//! it publishes to most.

use std::collections::VecDeque;
use std::sync::OnceLock;

use super::{Link, Settings};
use crate::mqtt::packet::{PacketId, Publish, Qos};
use crate::mqtt::{ReasonCode, TopicName, Violation};

/// Recently used topics: one allocation serves every message on the same topic.
const RECENT_TOPICS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// QoS 2 publications that were taken and not released (PUBREL) yet, in order. Clients number
    /// upwards and release in the same order: it is nearly always the ends that change.
    unreleased: VecDeque<PacketId>,
    /// Alias 1 stands at index 0.
    aliases: Box<[Option<TopicName>]>,
    /// Direct-mapped by hash; made at the first publication, dropped when idle.
    recent: Option<Box<[Option<TopicName>; RECENT_TOPICS]>>,
}

impl Inbound {
    /// With these identifiers not released yet, in order.
    pub(super) fn restored(held: &[PacketId]) -> Self {
        Self { unreleased: held.iter().copied().collect(), ..Self::default() }
    }

    /// Forgets what belongs to one connection only [MQTT-3.3.2-7].
    pub(super) fn new_connection(&mut self) {
        self.aliases = Box::default();
        self.recent = None;
    }

    /// Frees what can be made again.
    pub(super) fn shed(&mut self) {
        self.recent = None;
    }

    /// How many QoS 2 publications are not released yet.
    pub(super) fn unreleased(&self) -> usize {
        self.unreleased.len()
    }

    /// The topic of a publication, with its alias resolved or remembered
    /// [MQTT-3.3.2-8] to [MQTT-3.3.2-10].
    pub(super) fn topic(
        &mut self,
        publish: &Publish<'_>,
        link: &Link,
    ) -> Result<TopicName, Violation> {
        let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
        let Some(alias) = alias else { return self.name(publish.topic) };
        if alias.get() > link.topic_alias_max {
            return Err(Violation::because(
                ReasonCode::TopicAliasInvalid,
                "MQTT-3.3.2-9",
                "a topic alias is above the maximum that CONNACK gave",
            ));
        }
        let index = usize::from(alias.get()) - 1;
        if publish.topic.is_empty() {
            return self.aliases.get(index).cloned().flatten().ok_or(Violation::protocol(
                "3.3.2.3.4",
                "a topic alias was not given a topic on this connection",
            ));
        }
        let topic = self.name(publish.topic)?;
        if self.aliases.len() <= index {
            let mut more = std::mem::take(&mut self.aliases).into_vec();
            more.resize((index + 1).next_power_of_two(), None);
            self.aliases = more.into();
        }
        if let Some(slot) = self.aliases.get_mut(index) {
            *slot = Some(topic.clone());
        }
        Ok(topic)
    }

    /// Checks the identifier of a QoS 2 publication: `Ok(true)` when it is new, `Ok(false)` when
    /// the publication was taken before and is only to be acknowledged again.
    pub(super) fn is_new(
        &self,
        publish: &Publish<'_>,
        link: &Link,
        settings: &Settings,
    ) -> Result<bool, Violation> {
        let (Qos::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id) else {
            return Ok(true);
        };
        if self.unreleased.binary_search(&packet_id).is_ok() {
            return Ok(false);
        }
        if self.unreleased.len() >= usize::from(settings.receive_maximum.get()) {
            let statement = if link.version.is_v5() { "MQTT-3.3.4-7" } else { "receive_maximum" };
            return Err(Violation::because(
                ReasonCode::ReceiveMaximumExceeded,
                statement,
                "more QoS 2 publications are unreleased than the receive maximum allows",
            ));
        }
        Ok(true)
    }

    /// A QoS 2 publication was taken: its identifier is in use until PUBREL.
    pub(super) fn hold(&mut self, packet_id: PacketId) {
        if let Err(place) = self.unreleased.binary_search(&packet_id) {
            self.unreleased.insert(place, packet_id);
        }
    }

    /// PUBREL: `false` when the identifier was not in use.
    pub(super) fn release(&mut self, packet_id: PacketId) -> bool {
        let held = self.unreleased.binary_search(&packet_id);
        if let Ok(place) = held {
            self.unreleased.remove(place);
        }
        if self.unreleased.is_empty() && self.unreleased.capacity() > 64 {
            self.unreleased.shrink_to_fit();
        }
        held.is_ok()
    }

    fn name(&mut self, text: &str) -> Result<TopicName, Violation> {
        let recent = self.recent.get_or_insert_with(|| Box::new([const { None }; RECENT_TOPICS]));
        let hash = hasher().hash_one(text);
        let index = usize::try_from(hash % RECENT_TOPICS as u64).unwrap_or(0);
        let Some(slot) = recent.get_mut(index) else { return TopicName::parse(text) };
        match slot {
            Some(topic) if topic.as_str() == text => Ok(topic.clone()),
            _ => {
                let topic = TopicName::parse(text)?;
                *slot = Some(topic.clone());
                Ok(topic)
            }
        }
    }
}

/// One for all sessions, seeded at the start of the process: a session is kept small.
fn hasher() -> &'static ahash::RandomState {
    static HASHER: OnceLock<ahash::RandomState> = OnceLock::new();
    HASHER.get_or_init(ahash::RandomState::new)
}
