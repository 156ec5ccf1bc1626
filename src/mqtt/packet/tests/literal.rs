//! Every packet type in every version as bytes written by hand, and what they say. The same
//! bytes seed the fuzzers.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;

use smallvec::smallvec;

use super::*;
use ProtocolVersion::{V5, V31, V311};
use Side::{FromClient, FromServer};

struct Sample {
    name: &'static str,
    version: ProtocolVersion,
    side: Side,
    bytes: &'static [u8],
    packet: Packet<'static>,
}

fn sample(
    name: &'static str,
    version: ProtocolVersion,
    side: Side,
    bytes: &'static [u8],
    packet: Packet<'static>,
) -> Sample {
    Sample { name, version, side, bytes, packet }
}

fn publish(qos: Qos, topic: &'static str, payload: &'static [u8]) -> Publish<'static> {
    let packet_id = (qos != Qos::AtMostOnce).then(|| id(10));
    Publish { dup: false, qos, retain: false, topic, packet_id, properties: None, payload }
}

fn entry(filter: &str, qos: Qos) -> SubscribeEntry {
    SubscribeEntry {
        filter: SubscriptionFilter::parse(filter).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn connects() -> Vec<Sample> {
    let connect = |connect| Packet::Connect(Box::new(connect));
    let will = Will {
        topic: TopicName::parse("w").unwrap(),
        payload: (*b"xy").into(),
        qos: Qos::AtLeastOnce,
        retain: true,
        delay_s: 0,
        properties: None,
    };
    let in_full = Connect {
        keep_alive_s: 60,
        will: Some(Box::new(Will {
            delay_s: 5,
            properties: Some(Box::new(PublishProperties {
                payload_is_utf8: Some(true),
                message_expiry_s: Some(10),
                content_type: Some("t".into()),
                response_topic: Some("r".into()),
                correlation_data: Some([7].into()),
                user_properties: users(&[("k", "v")]),
                ..PublishProperties::default()
            })),
            ..will.clone()
        })),
        user_name: Some("u".into()),
        password: Some((*b"p").into()),
        session_expiry_s: 3600,
        receive_maximum: NonZeroU16::new(10).unwrap(),
        maximum_packet_bytes: NonZeroU32::new(65_536),
        topic_alias_maximum: 20,
        request_response_information: true,
        request_problem_information: false,
        user_properties: users(&[("a", "b")]),
        authentication_method: Some("m".into()),
        authentication_data: Some([0xFF].into()),
        ..Connect::new(V5, "c1", true)
    };
    let in_full_v3 = |version| Connect {
        keep_alive_s: 60,
        will: Some(Box::new(will.clone())),
        user_name: Some("u".into()),
        password: Some((*b"p").into()),
        ..Connect::new(version, "c1", false)
    };
    vec![
        sample(
            "connect-v31",
            V31,
            FromClient,
            b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x00\x00\x02c1",
            connect(Connect::new(V31, "c1", true)),
        ),
        sample(
            "connect-v31-in-full",
            V31,
            FromClient,
            b"\x10\x1D\x00\x06MQIsdp\x03\xEC\x00\x3C\x00\x02c1\x00\x01w\x00\x02xy\x00\x01u\x00\x01p",
            connect(in_full_v3(V31)),
        ),
        sample(
            "connect-v311-without-id",
            V311,
            FromClient,
            b"\x10\x0C\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
            connect(Connect::new(V311, "", true)),
        ),
        sample(
            "connect-v311-in-full",
            V311,
            FromClient,
            b"\x10\x1B\x00\x04MQTT\x04\xEC\x00\x3C\x00\x02c1\x00\x01w\x00\x02xy\x00\x01u\x00\x01p",
            connect(in_full_v3(V311)),
        ),
        sample(
            "connect-v5",
            V5,
            FromClient,
            b"\x10\x0D\x00\x04MQTT\x05\x00\x00\x00\x00\x00\x00",
            connect(Connect::new(V5, "", false)),
        ),
        sample(
            "connect-v5-password-alone",
            V5,
            FromClient,
            b"\x10\x10\x00\x04MQTT\x05\x42\x00\x00\x00\x00\x00\x00\x01p",
            connect(Connect {
                password: Some((*b"p").into()),
                ..Connect::new(V5, "", true)
            }),
        ),
        sample(
            "connect-v5-in-full",
            V5,
            FromClient,
            b"\x10\x5F\x00\x04MQTT\x05\xEE\x00\x3C\
              \x23\x11\x00\x00\x0E\x10\x21\x00\x0A\x27\x00\x01\x00\x00\x22\x00\x14\x19\x01\x17\x00\
              \x26\x00\x01a\x00\x01b\x15\x00\x01m\x16\x00\x01\xFF\
              \x00\x02c1\
              \x1F\x18\x00\x00\x00\x05\x01\x01\x02\x00\x00\x00\x0A\x03\x00\x01t\x08\x00\x01r\
              \x09\x00\x01\x07\x26\x00\x01k\x00\x01v\
              \x00\x01w\x00\x02xy\x00\x01u\x00\x01p",
            connect(in_full),
        ),
    ]
}

fn connacks() -> Vec<Sample> {
    let connack = |session_present, reason, properties| {
        Packet::Connack(Box::new(Connack { session_present, reason, properties }))
    };
    let refused = |reason| Packet::Connack(Box::new(Connack::refused(reason)));
    let none = ConnackProperties::default;
    vec![
        sample("connack-v31", V31, FromServer, b"\x20\x02\x00\x05", refused(ReasonCode::NotAuthorized)),
        sample(
            "connack-v311",
            V311,
            FromServer,
            b"\x20\x02\x01\x00",
            connack(true, ReasonCode::Success, none()),
        ),
        sample(
            "connack-v311-refused",
            V311,
            FromServer,
            b"\x20\x02\x00\x02",
            refused(ReasonCode::ClientIdentifierNotValid),
        ),
        sample(
            "connack-v5-refused",
            V5,
            FromServer,
            b"\x20\x03\x00\x8A\x00",
            refused(ReasonCode::Banned),
        ),
        sample(
            "connack-v5-in-full",
            V5,
            FromServer,
            b"\x20\x41\x01\x00\x3E\x11\x00\x00\x00\x0A\x21\x00\x14\x24\x01\x25\x00\x27\x00\x00\x10\x00\
              \x12\x00\x01i\x22\x00\x05\x1F\x00\x02ok\x26\x00\x01a\x00\x01b\x28\x00\x29\x01\x2A\x00\
              \x13\x00\x1E\x1A\x00\x01f\x1C\x00\x01s\x15\x00\x01m\x16\x00\x02\x00\x01",
            connack(true, ReasonCode::Success, ConnackProperties {
                session_expiry_s: Some(10),
                receive_maximum: NonZeroU16::new(20),
                maximum_qos: Some(Qos::AtLeastOnce),
                retain_available: Some(false),
                maximum_packet_bytes: NonZeroU32::new(4096),
                assigned_client_id: Some("i".into()),
                topic_alias_maximum: Some(5),
                reason_string: Some("ok".into()),
                user_properties: users(&[("a", "b")]),
                wildcard_subscriptions_available: Some(false),
                subscription_ids_available: Some(true),
                shared_subscriptions_available: Some(false),
                server_keep_alive_s: Some(30),
                response_information: Some("f".into()),
                server_reference: Some("s".into()),
                authentication_method: Some("m".into()),
                authentication_data: Some([0, 1].into()),
            }),
        ),
    ]
}

fn publishes() -> Vec<Sample> {
    let in_full = PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_s: Some(60),
        content_type: Some("t".into()),
        response_topic: Some("r/s".into()),
        correlation_data: Some([1, 2].into()),
        user_properties: users(&[("a", "1"), ("a", "2")]),
        topic_alias: NonZeroU16::new(3),
        subscription_ids: smallvec![],
    };
    let from_server = PublishProperties {
        subscription_ids: smallvec![1, 268_435_455],
        ..PublishProperties::default()
    };
    let alias =
        PublishProperties { topic_alias: NonZeroU16::new(3), ..PublishProperties::default() };
    vec![
        sample(
            "publish-v31-qos0",
            V31,
            FromClient,
            b"\x30\x07\x00\x03a/bhi",
            Packet::Publish(publish(Qos::AtMostOnce, "a/b", b"hi")),
        ),
        sample(
            "publish-v311-qos0-empty-retained",
            V311,
            FromServer,
            b"\x31\x05\x00\x03a/b",
            Packet::Publish(Publish { retain: true, ..publish(Qos::AtMostOnce, "a/b", b"") }),
        ),
        sample(
            "publish-v311-qos2-again",
            V311,
            FromClient,
            b"\x3C\x09\x00\x03a/b\x00\x0Ahi",
            Packet::Publish(Publish { dup: true, ..publish(Qos::ExactlyOnce, "a/b", b"hi") }),
        ),
        sample(
            "publish-v5-qos0",
            V5,
            FromClient,
            b"\x30\x08\x00\x03a/b\x00hi",
            Packet::Publish(publish(Qos::AtMostOnce, "a/b", b"hi")),
        ),
        sample(
            "publish-v5-alias-alone",
            V5,
            FromClient,
            b"\x30\x08\x00\x00\x03\x23\x00\x03hi",
            Packet::Publish(Publish {
                properties: Some(Box::new(alias)),
                ..publish(Qos::AtMostOnce, "", b"hi")
            }),
        ),
        sample(
            "publish-v5-qos1-in-full",
            V5,
            FromClient,
            b"\x32\x31\x00\x03a/b\x00\x0A\x27\x01\x01\x02\x00\x00\x00\x3C\x03\x00\x01t\x08\x00\x03r/s\
              \x09\x00\x02\x01\x02\x26\x00\x01a\x00\x011\x26\x00\x01a\x00\x012\x23\x00\x03hi",
            Packet::Publish(Publish {
                properties: Some(Box::new(in_full)),
                ..publish(Qos::AtLeastOnce, "a/b", b"hi")
            }),
        ),
        sample(
            "publish-v5-subscription-ids",
            V5,
            FromServer,
            b"\x32\x11\x00\x03a/b\x00\x0A\x07\x0B\x01\x0B\xFF\xFF\xFF\x7Fhi",
            Packet::Publish(Publish {
                properties: Some(Box::new(from_server)),
                ..publish(Qos::AtLeastOnce, "a/b", b"hi")
            }),
        ),
    ]
}

fn acks() -> Vec<Sample> {
    let success = || Ack::new(id(10), ReasonCode::Success);
    let in_full = |reason| Ack {
        packet_id: id(10),
        reason,
        reason_string: Some("no".into()),
        user_properties: users(&[("a", "b")]),
    };
    vec![
        sample("puback-v31", V31, FromClient, b"\x40\x02\x00\x0A", Packet::Puback(success())),
        sample("pubrec-v311", V311, FromServer, b"\x50\x02\x00\x0A", Packet::Pubrec(success())),
        sample("pubrel-v31", V31, FromClient, b"\x62\x02\x00\x0A", Packet::Pubrel(success())),
        sample("pubcomp-v311", V311, FromClient, b"\x70\x02\x00\x0A", Packet::Pubcomp(success())),
        sample("puback-v5", V5, FromClient, b"\x40\x02\x00\x0A", Packet::Puback(success())),
        sample(
            "puback-v5-reason",
            V5,
            FromServer,
            b"\x40\x03\x00\x0A\x87",
            Packet::Puback(Ack::new(id(10), ReasonCode::NotAuthorized)),
        ),
        sample(
            "puback-v5-in-full",
            V5,
            FromServer,
            b"\x40\x10\x00\x0A\x00\x0C\x1F\x00\x02no\x26\x00\x01a\x00\x01b",
            Packet::Puback(in_full(ReasonCode::Success)),
        ),
        sample(
            "pubrec-v5-in-full",
            V5,
            FromClient,
            b"\x50\x10\x00\x0A\x97\x0C\x1F\x00\x02no\x26\x00\x01a\x00\x01b",
            Packet::Pubrec(in_full(ReasonCode::QuotaExceeded)),
        ),
        sample(
            "pubrel-v5-in-full",
            V5,
            FromClient,
            b"\x62\x10\x00\x0A\x92\x0C\x1F\x00\x02no\x26\x00\x01a\x00\x01b",
            Packet::Pubrel(in_full(ReasonCode::PacketIdentifierNotFound)),
        ),
        sample(
            "pubcomp-v5-reason",
            V5,
            FromServer,
            b"\x70\x03\x00\x0A\x92",
            Packet::Pubcomp(Ack::new(id(10), ReasonCode::PacketIdentifierNotFound)),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn subscriptions() -> Vec<Sample> {
    let subscribe = |entries| Subscribe {
        packet_id: id(10),
        entries,
        subscription_id: None,
        user_properties: UserProperties::default(),
    };
    let unsubscribe = |filters: &[&str]| Unsubscribe {
        packet_id: id(10),
        filters: filters.iter().map(|it| SubscriptionFilter::parse(it).unwrap()).collect(),
        user_properties: UserProperties::default(),
    };
    let suback = |reasons: &[ReasonCode]| Suback {
        packet_id: id(10),
        reasons: reasons.to_vec(),
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    let unsuback = |reasons: &[ReasonCode]| Unsuback {
        packet_id: id(10),
        reasons: reasons.to_vec(),
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    vec![
        sample(
            "subscribe-v31",
            V31,
            FromClient,
            b"\x82\x08\x00\x0A\x00\x03a/+\x01",
            Packet::Subscribe(subscribe(vec![entry("a/+", Qos::AtLeastOnce)])),
        ),
        sample(
            "subscribe-v311-two",
            V311,
            FromClient,
            b"\x82\x0C\x00\x0A\x00\x03a/+\x02\x00\x01#\x00",
            Packet::Subscribe(subscribe(vec![
                entry("a/+", Qos::ExactlyOnce),
                entry("#", Qos::AtMostOnce),
            ])),
        ),
        sample(
            "subscribe-v5-in-full",
            V5,
            FromClient,
            b"\x82\x20\x00\x0A\x0A\x0B\x80\x01\x26\x00\x01a\x00\x01b\x00\x03a/+\x2D\
              \x00\x0A$share/g/t\x18",
            Packet::Subscribe(Subscribe {
                subscription_id: NonZeroU32::new(128),
                user_properties: users(&[("a", "b")]),
                ..subscribe(vec![
                    SubscribeEntry {
                        no_local: true,
                        retain_as_published: true,
                        retain_handling: RetainHandling::Never,
                        ..entry("a/+", Qos::AtLeastOnce)
                    },
                    SubscribeEntry {
                        retain_as_published: true,
                        retain_handling: RetainHandling::IfNew,
                        ..entry("$share/g/t", Qos::AtMostOnce)
                    },
                ])
            }),
        ),
        sample(
            "suback-v311",
            V311,
            FromServer,
            b"\x90\x06\x00\x0A\x00\x01\x02\x80",
            Packet::Suback(suback(&[
                ReasonCode::Success,
                ReasonCode::GrantedQos1,
                ReasonCode::GrantedQos2,
                ReasonCode::UnspecifiedError,
            ])),
        ),
        sample(
            "suback-v5-in-full",
            V5,
            FromServer,
            b"\x90\x0A\x00\x0A\x05\x1F\x00\x02no\x01\x87",
            Packet::Suback(Suback {
                reason_string: Some("no".into()),
                ..suback(&[ReasonCode::GrantedQos1, ReasonCode::NotAuthorized])
            }),
        ),
        sample(
            "unsubscribe-v31",
            V31,
            FromClient,
            b"\xA2\x07\x00\x0A\x00\x03a/+",
            Packet::Unsubscribe(unsubscribe(&["a/+"])),
        ),
        sample(
            "unsubscribe-v5-in-full",
            V5,
            FromClient,
            b"\xA2\x12\x00\x0A\x07\x26\x00\x01a\x00\x01b\x00\x03a/+\x00\x01#",
            Packet::Unsubscribe(Unsubscribe {
                user_properties: users(&[("a", "b")]),
                ..unsubscribe(&["a/+", "#"])
            }),
        ),
        sample(
            "unsuback-v311",
            V311,
            FromServer,
            b"\xB0\x02\x00\x0A",
            Packet::Unsuback(unsuback(&[])),
        ),
        sample(
            "unsuback-v5",
            V5,
            FromServer,
            b"\xB0\x05\x00\x0A\x00\x00\x11",
            Packet::Unsuback(unsuback(&[ReasonCode::Success, ReasonCode::NoSubscriptionExisted])),
        ),
    ]
}

fn others() -> Vec<Sample> {
    let disconnect = |disconnect| Packet::Disconnect(Box::new(disconnect));
    let auth = |auth| Packet::Auth(Box::new(auth));
    let success = Auth {
        reason: ReasonCode::Success,
        method: None,
        data: None,
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    let in_full = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("m".into()),
        data: Some([9].into()),
        reason_string: Some("go".into()),
        user_properties: users(&[("a", "b")]),
    };
    vec![
        sample("pingreq", V31, FromClient, b"\xC0\x00", Packet::Pingreq),
        sample("pingresp", V5, FromServer, b"\xD0\x00", Packet::Pingresp),
        sample(
            "disconnect-v311",
            V311,
            FromClient,
            b"\xE0\x00",
            disconnect(Disconnect::new(ReasonCode::Success)),
        ),
        sample(
            "disconnect-v5",
            V5,
            FromClient,
            b"\xE0\x00",
            disconnect(Disconnect::new(ReasonCode::Success)),
        ),
        sample(
            "disconnect-v5-with-will",
            V5,
            FromClient,
            b"\xE0\x01\x04",
            disconnect(Disconnect::new(ReasonCode::DisconnectWithWill)),
        ),
        sample(
            "disconnect-v5-expiry",
            V5,
            FromClient,
            b"\xE0\x07\x00\x05\x11\x00\x00\x00\x05",
            disconnect(Disconnect {
                session_expiry_s: Some(5),
                ..Disconnect::new(ReasonCode::Success)
            }),
        ),
        sample(
            "disconnect-v5-from-server",
            V5,
            FromServer,
            b"\xE0\x12\x9C\x10\x1F\x00\x02no\x26\x00\x01a\x00\x01b\x1C\x00\x01s",
            disconnect(Disconnect {
                reason_string: Some("no".into()),
                user_properties: users(&[("a", "b")]),
                server_reference: Some("s".into()),
                ..Disconnect::new(ReasonCode::UseAnotherServer)
            }),
        ),
        sample("auth-success", V5, FromServer, b"\xF0\x00", auth(success)),
        sample(
            "auth-in-full",
            V5,
            FromClient,
            b"\xF0\x16\x18\x14\x15\x00\x01m\x16\x00\x01\x09\x1F\x00\x02go\x26\x00\x01a\x00\x01b",
            auth(in_full),
        ),
    ]
}

fn samples() -> Vec<Sample> {
    [connects(), connacks(), publishes(), acks(), subscriptions(), others()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn bytes_decode_to_what_they_say() {
    for Sample { name, version, side, bytes, packet } in samples() {
        assert_eq!(decode(bytes, version, side), Ok(packet), "{name}");
    }
}

#[test]
fn packets_encode_to_the_same_bytes() {
    for Sample { name, version, bytes, packet, .. } in samples() {
        assert_eq!(encode(&packet, version), bytes, "{name}");
    }
}

#[test]
fn a_cut_frame_is_never_a_whole_one() {
    for Sample { name, bytes, .. } in samples() {
        for cut in 0..bytes.len() {
            let peeked = FrameHeader::peek(&bytes[..cut], PACKET_BYTES_MAX);
            let header = peeked.unwrap_or_else(|error| panic!("{name} cut at {cut}: {error}"));
            assert!(header.is_none_or(|it| it.packet_bytes() > cut), "{name} cut at {cut}");
        }
    }
}

/// Lists and payloads may end anywhere, so a cut body can be a packet of its own: then it says
/// no more than the bytes that are left.
#[test]
fn a_cut_body_is_refused_or_says_exactly_what_is_left() {
    for Sample { name, version, side, bytes, .. } in samples() {
        let (header, body) = frame(bytes);
        for cut in 0..body.len() {
            let left = &body[..cut];
            let Ok(packet) = Packet::decode(header.first_byte, left, version, side) else {
                continue;
            };
            let may_end_early = match &packet {
                // The user name and the password may be missing in MQTT 3.1 alone.
                Packet::Connect(connect) => connect.version == V31 && connect.password.is_none(),
                Packet::Connack(_) | Packet::Pingreq | Packet::Pingresp => false,
                // A reason of 0x00 at the end says no more than its absence.
                _ => {
                    let said = encode(&packet, version);
                    left == frame(&said).1 || left == [frame(&said).1, &[0]].concat()
                }
            };
            assert!(may_end_early, "{name} cut at {cut} is {packet:?}");
        }
    }
}

#[test]
fn no_byte_of_a_packet_changed_makes_the_decoder_panic() {
    for Sample { bytes, .. } in samples() {
        let (header, body) = frame(bytes);
        for at in 0..body.len() {
            for value in [0x00, 0x01, 0x7F, 0x80, 0xFF, body[at] ^ 1] {
                let mut changed = body.to_vec();
                changed[at] = value;
                changed.insert(0, header.first_byte);
                crate::fuzzing::packet(&changed);
            }
        }
    }
}

/// `PORTCULLIS_WRITE_SEEDS=1` writes them anew.
#[test]
fn every_sample_is_a_seed_of_the_fuzzers() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = std::env::var_os("PORTCULLIS_WRITE_SEEDS").is_some();
    for Sample { name, bytes, .. } in samples() {
        let (header, body) = frame(bytes);
        let packet = [&[header.first_byte], body].concat();
        for (target, seed) in [("frame", bytes), ("packet", &packet)] {
            let path = corpus.join(target).join(name);
            if write {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, seed).unwrap();
            }
            assert!(std::fs::read(&path).is_ok_and(|it| it == seed), "{}", path.display());
        }
    }
}

#[test]
fn mqtt_3_1_leaves_out_user_name_and_password_that_its_flags_announce() {
    let bytes = b"\x10\x10\x00\x06MQIsdp\x03\xC2\x00\x00\x00\x02c1";
    let expected = Connect::new(V31, "c1", true);
    assert_eq!(decode(bytes, V31, FromClient), Ok(Packet::Connect(Box::new(expected.clone()))));
    let bytes = b"\x10\x13\x00\x06MQIsdp\x03\xC2\x00\x00\x00\x02c1\x00\x01u";
    let expected = Connect { user_name: Some("u".into()), ..expected };
    assert_eq!(decode(bytes, V31, FromClient), Ok(Packet::Connect(Box::new(expected))));
}

#[test]
fn mqtt_3_1_sends_subscriptions_and_releases_again() {
    for bytes in
        [&b"\x6A\x02\x00\x0A"[..], b"\x8A\x06\x00\x0A\x00\x01#\x00", b"\xAA\x05\x00\x0A\x00\x01#"]
    {
        assert!(decode(bytes, V31, FromClient).is_ok());
        for version in [V311, V5] {
            let violation = decode(bytes, version, FromClient).unwrap_err();
            assert_eq!(violation.reason, ReasonCode::MalformedPacket);
        }
    }
}

#[test]
fn the_version_of_a_connect_is_known_however_wrong_the_rest_is() {
    for (body, version) in [
        (&b"\x00\x04MQTT\x05"[..], Some(V5)),
        (b"\x00\x04MQTT\x04\xFF\xFF\xFF", Some(V311)),
        (b"\x00\x06MQIsdp\x03", Some(V31)),
        (b"\x00\x04MQTT\x06", Some(V5)),
        (b"\x00\x04MQTT\x03", Some(V311)),
        (b"\x00\x04MQTT\x84", Some(V311)),
        (b"\x00\x06MQIsdp\x84", Some(V311)),
        (b"\x00\x04MQT", None),
        (b"\x00\x04mqtt\x04", None),
    ] {
        assert_eq!(Connect::announced_version(body), version);
    }
}

#[test]
fn long_forms_say_the_same_as_short_ones() {
    let ack = Ack::new(id(10), ReasonCode::Success);
    for bytes in [&b"\x40\x03\x00\x0A\x00"[..], b"\x40\x04\x00\x0A\x00\x00"] {
        assert_eq!(decode(bytes, V5, FromClient), Ok(Packet::Puback(ack.clone())));
    }
    let disconnect = Disconnect::new(ReasonCode::Success);
    for bytes in [&b"\xE0\x01\x00"[..], b"\xE0\x02\x00\x00"] {
        let expected = Packet::Disconnect(Box::new(disconnect.clone()));
        assert_eq!(decode(bytes, V5, FromClient), Ok(expected));
    }
}

#[test]
fn mqtt_3_is_told_as_much_as_it_has_codes_for() {
    let suback = Packet::Suback(Suback {
        packet_id: id(10),
        reasons: vec![ReasonCode::GrantedQos2, ReasonCode::NotAuthorized],
        reason_string: Some("not yours".into()),
        user_properties: UserProperties::default(),
    });
    let puback = Packet::Puback(Ack::new(id(10), ReasonCode::NotAuthorized));
    let busy = Packet::Connack(Box::new(Connack::refused(ReasonCode::ServerBusy)));
    for version in [V31, V311] {
        assert_eq!(encode(&suback, version), b"\x90\x04\x00\x0A\x02\x80");
        assert_eq!(encode(&puback, version), b"\x40\x02\x00\x0A");
        assert_eq!(encode(&busy, version), b"\x20\x02\x00\x03");
    }
}

#[test]
fn what_mqtt_3_cannot_say_is_not_written() {
    let malformed = Packet::Connack(Box::new(Connack::refused(ReasonCode::MalformedPacket)));
    let auth = others().into_iter().find(|it| it.name == "auth-in-full").unwrap().packet;
    for version in [V31, V311] {
        assert_eq!(encode(&malformed, version), b"");
        assert_eq!(encode(&auth, version), b"");
    }
}

#[test]
fn only_a_success_with_a_session_says_session_present() {
    let packet = |reason| {
        let properties = ConnackProperties::default();
        Packet::Connack(Box::new(Connack { session_present: true, reason, properties }))
    };
    assert_eq!(encode(&packet(ReasonCode::Success), V311), b"\x20\x02\x01\x00");
    assert_eq!(encode(&packet(ReasonCode::Success), V31), b"\x20\x02\x00\x00");
    assert_eq!(encode(&packet(ReasonCode::NotAuthorized), V5), b"\x20\x03\x00\x87\x00");
}

#[test]
fn a_forwarded_publish_has_the_receivers_head_and_the_publishers_message() {
    let properties = PublishProperties {
        message_expiry_s: Some(60),
        content_type: Some("t".into()),
        // Neither belongs to the delivery.
        topic_alias: NonZeroU16::new(9),
        subscription_ids: smallvec![77],
        ..PublishProperties::default()
    };
    let body = PublishBody {
        properties: Some(&properties),
        message_expiry_s: Some(59),
        subscription_ids: &[5, 200],
        ..PublishBody::new("a/b", b"hi")
    };
    let head =
        PublishHead { dup: true, qos: Qos::AtLeastOnce, retain: true, packet_id: Some(id(10)) };
    let at_most_once =
        PublishHead { dup: true, packet_id: Some(id(10)), ..PublishHead::at_most_once(false) };
    for (version, head, bytes) in [
        (V311, head, &b"\x3B\x09\x00\x03a/b\x00\x0Ahi"[..]),
        (
            V5,
            head,
            b"\x3B\x18\x00\x03a/b\x00\x0A\x0E\x02\x00\x00\x00\x3B\x03\x00\x01t\x0B\x05\x0B\xC8\x01hi",
        ),
        (V31, at_most_once, b"\x30\x07\x00\x03a/bhi"),
    ] {
        let mut out = Vec::new();
        encode_publish(&mut out, version, head, &body);
        assert_eq!(out, bytes);
        assert_eq!(publish_bytes(version, head.qos, &body), bytes.len());
    }
}

#[test]
fn a_forwarded_publish_keeps_the_expiry_of_its_properties_unless_told_another() {
    let properties =
        PublishProperties { message_expiry_s: Some(60), ..PublishProperties::default() };
    let body = PublishBody { properties: Some(&properties), ..PublishBody::new("t", b"") };
    let mut out = Vec::new();
    encode_publish(&mut out, V5, PublishHead::at_most_once(false), &body);
    assert_eq!(out, b"\x30\x09\x00\x01t\x05\x02\x00\x00\x00\x3C");
    let body = PublishBody { message_expiry_s: Some(1), ..PublishBody::new("t", b"") };
    out.clear();
    encode_publish(&mut out, V5, PublishHead::at_most_once(false), &body);
    assert_eq!(out, b"\x30\x09\x00\x01t\x05\x02\x00\x00\x00\x01");
}

#[test]
fn a_forwarded_publish_without_properties_grows_its_buffer_once() {
    let payload = [0; 4096];
    let mut out = Vec::new();
    encode_publish(
        &mut out,
        V5,
        PublishHead::at_most_once(false),
        &PublishBody::new("t", &payload),
    );
    assert!(out.capacity() - out.len() <= 5, "{} of {}", out.len(), out.capacity());
}

#[test]
fn neither_passwords_nor_authentication_data_are_printed() {
    let connect = Connect {
        user_name: Some("alice".into()),
        password: Some((*b"hunter2").into()),
        authentication_data: Some((*b"hunter2").into()),
        ..Connect::new(V5, "c1", true)
    };
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("m".into()),
        data: Some((*b"hunter2").into()),
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    let printed = format!("{connect:?} {auth:?}");
    assert!(printed.contains("alice"));
    for secret in ["hunter2", "[104, 117, 110"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
