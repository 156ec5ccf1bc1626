//! Every record, written and read.

use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::identity::CertificateFacts;
use crate::mqtt::UserProperties;
use crate::mqtt::packet::{PublishProperties, Will};
use crate::session::Subscription;
use crate::store::page::{Entries, Writing, seal_body};

fn text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}\\x00]{0,20}"
}

fn shared_text() -> impl Strategy<Value = Arc<str>> {
    text().prop_map(Into::into)
}

fn topic_text() -> impl Strategy<Value = String> {
    "[a-zé$ /]{1,20}"
}

fn qos() -> impl Strategy<Value = Qos> {
    (0_u8..3).prop_map(|value| Qos::from_u8(value).unwrap())
}

fn properties() -> impl Strategy<Value = PublishProperties> {
    let texts = (option::of(topic_text()), option::of(text()));
    let data = option::of(vec(any::<u8>(), 0..20));
    let user = vec((text(), text()), 0..4);
    (option::of(any::<bool>()), option::of(any::<u32>()), texts, data, user).prop_map(
        |(payload_is_utf8, message_expiry_s, (response, content), data, user)| PublishProperties {
            payload_is_utf8,
            message_expiry_s,
            response_topic: response.map(Into::into),
            correlation_data: data.map(Into::into),
            content_type: content.map(Into::into),
            user_properties: UserProperties(
                user.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ),
            ..<_>::default()
        },
    )
}

pub(super) fn some_message() -> impl Strategy<Value = Message> {
    let flags = (qos(), any::<bool>(), any::<bool>());
    (topic_text(), vec(any::<u8>(), 0..300), flags, option::of(properties())).prop_map(
        |(text, payload, (qos, retain, will), properties)| {
            let (payload, properties) = (payload.into(), properties.map(Box::new));
            let (id, topic) = (MessageId(1), topic(&text));
            let it = Message::new(id, topic, payload, qos, retain, properties, Instant::now());
            if will { it.as_will() } else { it }
        },
    )
}

pub(super) fn some_options() -> impl Strategy<Value = SubscriptionOptions> {
    (qos(), any::<bool>(), any::<bool>(), option::of(1_u32..)).prop_map(
        |(qos, no_local, retain_as_published, id)| {
            let id = id.and_then(NonZeroU32::new);
            SubscriptionOptions { qos, no_local, retain_as_published, id }
        },
    )
}

pub(super) fn some_delivery() -> impl Strategy<Value = Delivery> {
    let shared = option::of(("\\$share/[a-z]{1,5}/[a-z/]{1,9}", some_options()));
    let ids = vec(any::<u32>(), 0..4);
    (some_message(), shared, ids, qos(), any::<bool>()).prop_map(
        |(message, shared, ids, qos, retain)| {
            let subscription =
                shared.map(|(text, options)| Arc::new(Subscription::new(filter(&text), options)));
            let via = Via { subscriptions: subscription.into_iter().collect(), ids: ids.into() };
            let (message, via) = (Arc::new(message), Arc::new(via));
            Delivery { message, via, qos, retain, wide: false, seq: None }
        },
    )
}

fn some_time() -> impl Strategy<Value = SystemTime> {
    (0_u64..1 << 40, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| UNIX_EPOCH + Duration::new(seconds, nanos))
}

fn some_certificate() -> impl Strategy<Value = CertificateFacts> {
    let four = (shared_text(), shared_text(), shared_text(), shared_text());
    let lists = [vec(shared_text(), 0..3), vec(shared_text(), 0..3), vec(shared_text(), 0..3)];
    (four, any::<i64>(), option::of(shared_text()), lists).prop_map(
        |((cn, fingerprint, issuer, serial), not_after_unix_s, spiffe, lists)| {
            let [dns_names, uris, organizational_units] = lists;
            CertificateFacts {
                cn,
                fingerprint,
                issuer,
                serial,
                not_after_unix_s,
                spiffe,
                dns_names,
                uris,
                organizational_units,
            }
        },
    )
}

fn some_identity() -> impl Strategy<Value = Identity> {
    let kind = prop_oneof![
        Just(PrincipalKind::Device),
        Just(PrincipalKind::User),
        Just(PrincipalKind::Service),
        Just(PrincipalKind::Anonymous),
    ];
    let tags = proptest::collection::btree_map(shared_text(), shared_text(), 0..3);
    let groups = vec(shared_text(), 0..3);
    (kind, shared_text(), groups, tags, option::of(some_certificate())).prop_map(
        |(kind, name, groups, tags, certificate)| {
            let certificate = certificate.map(Arc::new);
            Identity { kind, name, groups, tags, certificate }
        },
    )
}

fn some_will() -> impl Strategy<Value = StoredWill> {
    (some_message(), any::<u32>(), option::of(some_time())).prop_map(|(it, delay_s, due_at)| {
        let Message { topic, payload, qos, retain, properties, .. } = it;
        StoredWill { will: Will { topic, payload, qos, retain, delay_s, properties }, due_at }
    })
}

pub(super) fn some_record() -> impl Strategy<Value = SessionRecord> {
    let facts = (shared_text(), any::<std::net::IpAddr>(), 0..3_usize, any::<u8>());
    let bounds = (any::<(u32, u64)>(), any::<(u32, u64)>(), any::<(u32, u64)>());
    let overflow =
        select(vec![Overflow::DropNewest, Overflow::DropOldest, Overflow::RefusePublisher]);
    let durability = select(vec![Durability::Os, Durability::Fsync]);
    let rest =
        ((overflow, durability), any::<u32>(), option::of(some_time()), option::of(some_will()));
    (some_identity(), "[a-z\\x00é]{1,9}", facts, bounds, rest).prop_map(
        |(identity, client_id, facts, (retained, queue, principal), rest)| {
            let (listener, source_ip, version, tls_version) = facts;
            let ((overflow, durability), expiry_s, parked_at, will) = rest;
            let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
            let bounds = |(messages_max, bytes_max)| QueueBounds { messages_max, bytes_max };
            SessionRecord {
                account: Arc::new(Account::of(&identity, Some(source_ip))),
                identity: Arc::new(identity),
                facts: Arc::new(SessionFacts {
                    client_id: ClientId::parse(&client_id).unwrap(),
                    listener,
                    source_ip,
                    protocol: versions[version],
                    tls_version,
                }),
                retained: bounds(retained),
                queue: bounds(queue),
                principal: bounds(principal),
                overflow,
                durability,
                expiry_s,
                parked_at,
                will,
            }
        },
    )
}

/// Everything of a message but its id, with its expiry to the nearest milliseconds.
fn assert_same(read: &Message, written: &Message) {
    assert_eq!(read.topic, written.topic);
    assert_eq!(read.payload, written.payload);
    assert_eq!((read.qos, read.retain, read.will), (written.qos, written.retain, written.will));
    assert_eq!(read.properties, written.properties);
    assert_eq!((read.origin, read.bytes()), (written.origin, written.bytes()));
    match (read.expires_at, written.expires_at) {
        (None, None) => {}
        (Some(read), Some(written)) => {
            assert!(read.max(written) - read.min(written) <= Duration::from_millis(1));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_session_is_read_as_it_was_written(record in some_record()) {
        let key = keys::session(SessionNo(7));
        let stored = record.seal(&key);
        prop_assert_eq!(SessionRecord::unseal(&key, &stored).unwrap(), record);
    }

    #[test]
    fn a_retained_message_is_read_as_it_was_written(message in some_message()) {
        let clock = Clock::now();
        let account = record("x").account.as_ref().clone();
        let stored = RetainedRecord::seal(&message, &account, &clock);
        let key = message.topic.as_str().as_bytes();
        match RetainedRecord::unseal(key, &stored, MessageId(2), &clock).unwrap() {
            Some(read) => {
                assert_same(&read.message, &message);
                prop_assert_eq!(&*read.account, &account);
            }
            None => prop_assert!(message.has_expired(clock.instant())),
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written(
        deliveries in vec((1_u64..1000, some_delivery(), any::<bool>()), 1..8),
        first in 1_u64..u64::MAX / 2,
    ) {
        let clock = Clock::now();
        let mut writing = Writing::new(SessionNo(7), first);
        let (mut at, mut written) = (first, Vec::new());
        for (step, delivery, is_apart) in deliveries {
            let body = is_apart.then_some(step);
            writing.push(at, &delivery, body, &clock);
            written.push((at, delivery, body));
            at += step;
        }
        let page = writing.seal();
        let bodies: Vec<_> = written.iter().filter_map(|(_, _, body)| *body).collect();
        prop_assert_eq!(&*page.page.bodies, &*bodies);
        prop_assert_eq!(page.page.last, written.last().unwrap().0);
        let mut entries = Entries::open(&page.key, &page.record).unwrap();
        for (at, delivery, body) in written {
            let entry = entries.next().unwrap().unwrap();
            prop_assert_eq!(entry.seq, at);
            prop_assert_eq!(entry.bytes, delivery.message.bytes());
            prop_assert_eq!(entry.body, body);
            let read = match body {
                None => entry.message(MessageId(2), &clock).unwrap(),
                Some(id) => {
                    let key = keys::body(id);
                    let stored = seal_body(&key, &delivery.message);
                    entry.message_in(&key, &stored, MessageId(2), &clock).unwrap()
                }
            };
            assert_same(&read, &delivery.message);
            let read = entry.delivery(Arc::new(read)).unwrap();
            prop_assert_eq!((read.qos, read.retain), (delivery.qos, delivery.retain));
            prop_assert_eq!(read.seq, Some(seq(at)));
            prop_assert_eq!(&read.via.ids, &delivery.via.ids);
            let shared = |it: &Delivery| {
                it.via.shared().map(|it| (it.filter.clone(), it.options))
            };
            prop_assert_eq!(shared(&read), shared(&delivery));
        }
        prop_assert!(entries.next().unwrap().is_none());
    }

    #[test]
    fn any_bytes_are_a_record_or_damage(bytes in vec(any::<u8>(), 0..200)) {
        // The checksum would refuse nearly all of them.
        let mut sealed = codec::Record::new();
        sealed.fields().extend_from_slice(&bytes);
        let key = keys::page(SessionNo(7), 1);
        let stored = sealed.seal(&key);
        if let Ok(mut entries) = Entries::open(&key, &stored) {
            while let Ok(Some(entry)) = entries.next() {
                let _ = entry.message(MessageId(2), &Clock::now());
            }
        }
        let _ = SessionRecord::unseal(&key, &stored);
        let _ = RetainedRecord::unseal(&key, &stored, MessageId(2), &Clock::now());
        let _ = SessionRecord::unseal(&key, &bytes);
    }
}
