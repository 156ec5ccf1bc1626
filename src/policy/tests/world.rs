//! Principals, messages and bundles for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::identity::{CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{
    ClientId, ProtocolVersion, SubscriptionFilter, TopicFilter, TopicName, UserProperties,
};
use crate::policy::{
    Bundle, ConnectFacts, Denial, PolicyEpoch, Principals, Publication, PublishFacts, ReceiveFacts,
    SessionFacts, Subject, SubscribeFacts,
};

pub(in crate::policy) fn bundle(text: &str) -> Arc<Bundle> {
    match Bundle::load_text("test.cedar", text, None, PolicyEpoch(1)) {
        Ok(bundle) => Arc::new(bundle),
        Err(error) => panic!("{:?}\nin\n{text}", error.lines().collect::<Vec<_>>()),
    }
}

/// Groups with those they are in.
pub(in crate::policy) fn nested(groups: &[(&str, &[&str])]) -> Principals {
    let tables = groups.iter().map(|(name, of)| format!("[group.{name:?}]\nin = {of:?}\n"));
    principals(&tables.collect::<Vec<_>>().concat())
}

pub(in crate::policy) fn principals(text: &str) -> Principals {
    match Principals::parse("principals.toml", text) {
        Ok(principals) => principals,
        Err(error) => panic!("{:?}\nin\n{text}", error.lines().collect::<Vec<_>>()),
    }
}

pub(in crate::policy) fn identity(kind: PrincipalKind, name: &str, groups: &[&str]) -> Identity {
    let certificate = CertificateFacts {
        cn: name.into(),
        fingerprint: "ab12".into(),
        issuer: "cd34".into(),
        serial: "1".into(),
        not_after_unix_s: 1_900_000_000,
        spiffe: None,
        dns_names: vec!["a.example".into()],
        uris: vec![],
        organizational_units: vec![],
    };
    Identity {
        kind,
        name: name.into(),
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        tags: BTreeMap::from([("plant".into(), "fra1".into())]),
        certificate: (kind != PrincipalKind::Anonymous).then(|| Arc::new(certificate)),
    }
}

pub(in crate::policy) fn device(name: &str, groups: &[&str]) -> Identity {
    identity(PrincipalKind::Device, name, groups)
}

pub(in crate::policy) fn session(client_id: &str) -> SessionFacts {
    SessionFacts {
        client_id: ClientId::parse(client_id).unwrap(),
        listener: "mtls-8883".into(),
        source_ip: "10.0.0.9".parse().unwrap(),
        protocol: ProtocolVersion::V5,
        tls_version: 13,
    }
}

pub(in crate::policy) fn subject(bundle: &Arc<Bundle>, identity: Identity) -> Subject {
    let client_id = if identity.name.is_empty() { "unnamed" } else { &identity.name };
    let session = session(client_id);
    Subject::new(Arc::clone(bundle), Arc::new(identity), Arc::new(session))
}

pub(in crate::policy) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

/// A message with its facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Message {
    pub(super) topic: TopicName,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) will: bool,
    pub(super) payload_bytes: usize,
    pub(super) content_type: Option<&'static str>,
    pub(super) user_properties: UserProperties,
    /// When it is published or delivered.
    pub(super) now: SystemTime,
}

impl Publication for Message {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn facts(&self) -> PublishFacts<'_> {
        PublishFacts {
            qos: self.qos,
            retain: self.retain,
            will: self.will,
            payload_bytes: self.payload_bytes,
            content_type: self.content_type,
            user_properties: Some(&self.user_properties),
        }
    }
}

pub(in crate::policy) fn message(topic: &str) -> Message {
    Message {
        topic: TopicName::parse(topic).unwrap(),
        qos: Qos::AtLeastOnce,
        retain: false,
        will: false,
        payload_bytes: 120,
        content_type: None,
        user_properties: UserProperties::default(),
        now: now(),
    }
}

pub(in crate::policy) fn publish(subject: &mut Subject, topic: &str) -> Result<(), Denial> {
    subject.publish(message(topic), now()).map(drop).map_err(|denied| denied.denial)
}

pub(in crate::policy) fn subscribe(subject: &mut Subject, filter: &str) -> Result<(), Denial> {
    let filter = SubscriptionFilter::parse(filter).unwrap();
    let facts = SubscribeFacts { qos: Qos::AtLeastOnce, no_local: false, now: now() };
    subject.subscribe(&filter, &facts).map(drop)
}

pub(in crate::policy) fn delivery(message: &Message) -> ReceiveFacts<'_> {
    ReceiveFacts {
        qos: message.qos,
        retain: message.retain,
        payload_bytes: message.payload_bytes,
        content_type: message.content_type,
        user_properties: Some(&message.user_properties),
        now: message.now,
    }
}

pub(in crate::policy) fn receive(subject: &mut Subject, topic: &str) -> Result<(), Denial> {
    let message = message(topic);
    subject.receive(&message.topic, &delivery(&message))
}

pub(in crate::policy) fn receive_ok(subject: &mut Subject, filter: &str) -> bool {
    subject.receive_ok(&TopicFilter::parse(filter).unwrap())
}

pub(in crate::policy) fn connect(subject: &mut Subject) -> Result<(), Denial> {
    subject.connect(&ConnectFacts {
        clean_start: true,
        session_expiry_s: 0,
        keep_alive_s: 60,
        has_will: false,
        now: now(),
    })
}

/// A denial by these policies.
pub(in crate::policy) fn forbidden(policies: &[&str]) -> Result<(), Denial> {
    Err(Denial { policies: policies.iter().map(|id| Arc::from(*id)).collect(), errors: Vec::new() })
}

/// A small deterministic generator (splitmix64): a failing case can be named by its seed.
pub(in crate::policy) struct Random(pub(in crate::policy) u64);

impl Random {
    pub(in crate::policy) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    pub(in crate::policy) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(in crate::policy) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// All sequences of these levels, joined, from one to `longest` levels.
pub(in crate::policy) fn sequences(levels: &[&str], longest: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last: Vec<Vec<&str>> = vec![vec![]];
    for _ in 0..longest {
        last = last
            .iter()
            .flat_map(|start| levels.iter().map(|level| [&start[..], &[*level]].concat()))
            .collect();
        all.extend(last.iter().map(|levels| levels.join("/")));
    }
    all.retain(|text| !text.is_empty());
    all
}

/// All filters over these levels, with and without `#` at the end.
pub(in crate::policy) fn filters(levels: &[&str], longest: usize) -> Vec<String> {
    let plain = sequences(levels, longest);
    let mut all: Vec<String> = plain.iter().map(|filter| format!("{filter}/#")).collect();
    all.extend(plain);
    all.push("#".into());
    // A lone empty level is no filter, and was left out above; with `#` after it, it is one.
    if levels.contains(&"") {
        all.push("/#".into());
    }
    all.sort();
    all.dedup();
    all
}

/// MQTT's own definition of a match, level by level, apart from the code under test.
pub(in crate::policy) fn matches(filter: &str, topic: &str) -> bool {
    fn rest(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([], _) | (_, []) => false,
            (["+", filter @ ..], [_, topic @ ..]) => rest(filter, topic),
            ([left, filter @ ..], [right, topic @ ..]) => left == right && rest(filter, topic),
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let hidden = topic[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !hidden && rest(&filter, &topic)
}
