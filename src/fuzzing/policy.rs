//! Policies from any text, and what must hold of every decision by those that load.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::identity::{CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{ClientId, ProtocolVersion, SubscriptionFilter, TopicName};
use crate::policy::{
    Bundle, ConnectFacts, Denial, ReceiveFacts, SessionFacts, Subject, SubscribeFacts,
    fuzz_policy_text,
};
use crate::session::{Message, MessageId};

// Few: each decision costs far more than a short policy takes to load.
const TOPICS: [&str; 5] = ["a/b", "/", "$SYS/x", "devices/pump-1/x", "devices/pump-2/command/x"];
const FILTERS: [&str; 4] = ["#", "a/+", "devices/pump-1/#", "$share/g/devices/+/command/#"];

/// What tells packets on one topic apart.
#[derive(Clone, Copy, Debug)]
struct Facts {
    qos: Qos,
    retain: bool,
    payload_bytes: usize,
}

const PACKETS: [Facts; 3] = [
    Facts { qos: Qos::AtLeastOnce, retain: false, payload_bytes: 0 },
    Facts { qos: Qos::AtLeastOnce, retain: false, payload_bytes: 2000 },
    Facts { qos: Qos::AtMostOnce, retain: true, payload_bytes: 2000 },
];

/// The bytes are a policy file: loaded or refused. By policies that load, decisions are the same
/// the second time, a subscription that is allowed is allowed for every topic in it, and what
/// is delivered without a judgement of its own would have been allowed.
///
/// # Panics
/// When that does not hold.
pub fn policy(data: &[u8]) {
    let Some(bundle) = fuzz_policy_text(data) else { return };
    let text = String::from_utf8_lossy(data);
    // Of a subscription a policy may also ask what no topic has: how it is written.
    let written = ["wildcard", "shared", "levels", "share_group", "\\"];
    let by_topics_alone = !written.iter().any(|word| text.contains(word));
    let mut world = World::new(bundle);
    world.connect();
    let topics: Vec<_> = TOPICS.iter().filter_map(|topic| TopicName::parse(topic).ok()).collect();
    for topic in &topics {
        world.publish_and_receive_twice(topic);
    }
    for filter in FILTERS.iter().filter_map(|filter| SubscriptionFilter::parse(filter).ok()) {
        let matched = topics.iter().filter(|topic| filter.filter.matches(topic.as_str()));
        let subscribed = world.may_subscribe(&filter);
        let delivered = world.subject.receive_ok(&filter.filter);
        for topic in matched {
            if subscribed && by_topics_alone {
                let exact = SubscriptionFilter::parse(topic.as_str());
                assert!(exact.is_ok_and(|exact| world.may_subscribe(&exact)), "{filter} {topic}");
            }
            if delivered {
                world.may_receive_whatever_the_packet(topic);
            }
        }
    }
}

struct World {
    bundle: Arc<Bundle>,
    identity: Arc<Identity>,
    session: Arc<SessionFacts>,
    /// Keeps what it has decided.
    subject: Subject,
    now: SystemTime,
}

impl World {
    fn new(bundle: Arc<Bundle>) -> Self {
        let (identity, session) = (Arc::new(identity()), Arc::new(session()));
        let subject =
            Subject::new(Arc::clone(&bundle), Arc::clone(&identity), Arc::clone(&session));
        Self { bundle, identity, session, subject, now: UNIX_EPOCH + Duration::from_hours(500_000) }
    }

    /// One that has decided nothing.
    fn fresh(&self) -> Subject {
        let Self { bundle, identity, session, .. } = self;
        Subject::new(Arc::clone(bundle), Arc::clone(identity), Arc::clone(session))
    }

    fn connect(&mut self) {
        let facts = ConnectFacts {
            clean_start: true,
            session_expiry_s: u32::MAX,
            keep_alive_s: 60,
            has_will: false,
            now: self.now,
        };
        assert_eq!(self.subject.connect(&facts), self.fresh().connect(&facts));
    }

    /// What the subject has kept of one packet must not decide another.
    fn publish_and_receive_twice(&mut self, topic: &TopicName) {
        let decided = PACKETS.map(|packet| decide(&mut self.fresh(), topic, packet, self.now));
        for _ in 0..2 {
            let again = PACKETS.map(|packet| decide(&mut self.subject, topic, packet, self.now));
            assert_eq!(again, decided, "{topic}");
        }
    }

    fn may_subscribe(&mut self, filter: &SubscriptionFilter) -> bool {
        let facts = SubscribeFacts { qos: Qos::AtLeastOnce, no_local: false, now: self.now };
        self.subject.subscribe(filter, &facts).is_ok()
    }

    fn may_receive_whatever_the_packet(&mut self, topic: &TopicName) {
        for packet in PACKETS {
            let (_, received) = decide(&mut self.subject, topic, packet, self.now);
            assert_eq!(received, Ok(()), "{topic} {packet:?}");
        }
    }
}

/// Whether a packet may be published, and whether it may be received.
fn decide(
    subject: &mut Subject,
    topic: &TopicName,
    packet: Facts,
    now: SystemTime,
) -> (Result<(), Denial>, Result<(), Denial>) {
    let Facts { qos, retain, payload_bytes } = packet;
    let payload = vec![0; payload_bytes].into();
    let message =
        Message::new(MessageId(0), topic.clone(), payload, qos, retain, None, Instant::now());
    let published = subject.publish(message, now).map(drop).map_err(|denied| denied.denial);
    let (content_type, user_properties) = (None, None);
    let facts = ReceiveFacts { qos, retain, payload_bytes, content_type, user_properties, now };
    (published, subject.receive(topic, &facts))
}

fn identity() -> Identity {
    let certificate = CertificateFacts {
        cn: "pump-1".into(),
        fingerprint: "ab12".into(),
        issuer: "cd34".into(),
        serial: "1".into(),
        not_after_unix_s: 1_900_000_000,
        spiffe: Some("spiffe://example/pump-1".into()),
        dns_names: vec!["pump-1.example".into()],
        uris: vec!["spiffe://example/pump-1".into()],
        organizational_units: vec!["Pumps".into()],
    };
    Identity {
        kind: PrincipalKind::Device,
        name: "pump-1".into(),
        groups: ["staff", "operators"].map(Arc::from).to_vec(),
        tags: BTreeMap::from([("plant".into(), "a".into())]),
        certificate: Some(Arc::new(certificate)),
    }
}

fn session() -> SessionFacts {
    let Some(client_id) = ClientId::parse("pump-1") else { unreachable!("a client id") };
    SessionFacts {
        client_id,
        listener: "devices".into(),
        source_ip: Ipv4Addr::new(10, 0, 0, 9).into(),
        protocol: ProtocolVersion::V5,
        tls_version: 13,
    }
}
