//! From the client: acknowledgements, duplicates, quotas, topic aliases, keep-alive.

use super::*;

const SUCCESS: ReasonCode = ReasonCode::Success;

#[test]
fn each_qos_has_its_own_acknowledgement() {
    for version in [ProtocolVersion::V31, V311] {
        let mut bench = Bench::new(link(version));
        assert_eq!(bench.takes(b"\x30\x04\0\x01tx", SUCCESS), b"");
        assert_eq!(bench.takes(b"\x32\x06\0\x01t\0\x01x", SUCCESS), b"\x40\x02\0\x01");
        assert_eq!(bench.takes(b"\x34\x06\0\x01t\0\x02x", SUCCESS), b"\x50\x02\0\x02");
        assert_eq!(bench.hears(b"\x62\x02\0\x02"), b"\x70\x02\0\x02");
    }
    let mut bench = Bench::new(link(V5));
    assert_eq!(bench.takes(b"\x30\x05\0\x01t\0x", SUCCESS), b"");
    assert_eq!(bench.takes(b"\x32\x07\0\x01t\0\x01\0x", SUCCESS), b"\x40\x02\0\x01");
    assert_eq!(bench.takes(b"\x34\x07\0\x01t\0\x02\0x", SUCCESS), b"\x50\x02\0\x02");
    assert_eq!(bench.hears(b"\x62\x02\0\x02"), b"\x70\x02\0\x02");
    let nobody = ReasonCode::NoMatchingSubscribers;
    assert_eq!(bench.takes(b"\x32\x07\0\x01t\0\x01\0x", nobody), b"\x40\x03\0\x01\x10");
}

#[test]
fn a_qos_2_publication_is_taken_once_until_it_is_released() {
    for (version, publish, again) in [
        (V311, &b"\x34\x06\0\x01t\0\x07x"[..], &b"\x3C\x06\0\x01t\0\x07x"[..]),
        (V5, b"\x34\x07\0\x01t\0\x07\0x", b"\x3C\x07\0\x01t\0\x07\0x"),
    ] {
        let mut bench = Bench::new(link(version));
        for _ in 0..3 {
            bench.takes(publish, SUCCESS);
            assert_eq!(bench.session.unreleased(), 1);
            assert_eq!(bench.hears(again), b"\x50\x02\0\x07");
            assert_eq!(bench.hears(publish), b"\x50\x02\0\x07", "the identifier counts, not DUP");
            assert_eq!(bench.hears(b"\x62\x02\0\x07"), b"\x70\x02\0\x07");
            assert_eq!(bench.session.unreleased(), 0);
        }
    }
}

#[test]
fn a_qos_2_publication_is_known_again_on_the_next_connection() {
    let mut bench = Bench::new(link(V311));
    bench.takes(b"\x34\x06\0\x01t\0\x07x", SUCCESS);
    bench.resume(link(V5));
    assert_eq!(bench.hears(b"\x3C\x07\0\x01t\0\x07\0x"), b"\x50\x02\0\x07");
    assert_eq!(bench.hears(b"\x62\x02\0\x07"), b"\x70\x02\0\x07");
    bench.takes(b"\x34\x07\0\x01t\0\x07\0x", SUCCESS);
}

#[test]
fn a_refused_qos_2_publication_is_held_only_where_the_client_is_not_told() {
    let refused = ReasonCode::NotAuthorized;
    let mut bench = Bench::new(link(V5));
    assert_eq!(bench.takes(b"\x34\x07\0\x01t\0\x07\0x", refused), b"\x50\x03\0\x07\x87");
    assert_eq!(bench.session.unreleased(), 0);
    bench.takes(b"\x34\x07\0\x01t\0\x07\0x", SUCCESS);
    let mut bench = Bench::new(link(V311));
    assert_eq!(bench.takes(b"\x34\x06\0\x01t\0\x07x", refused), b"\x50\x02\0\x07");
    assert_eq!(bench.hears(b"\x3C\x06\0\x01t\0\x07x"), b"\x50\x02\0\x07");
}

#[test]
fn pubrel_of_an_unknown_identifier_is_answered() {
    assert_eq!(Bench::new(link(V311)).hears(b"\x62\x02\0\x09"), b"\x70\x02\0\x09");
    assert_eq!(Bench::new(link(V5)).hears(b"\x62\x02\0\x09"), b"\x70\x03\0\x09\x92");
}

#[test]
fn more_unreleased_publications_than_the_receive_maximum_end_the_connection() {
    for (version, statement) in [(V311, "receive_maximum"), (V5, "MQTT-3.3.4-7")] {
        let mut bench = Bench::new(link(version));
        let publish = |id: u8| {
            let mut bytes = vec![0x34, 5, 0, 1, b't', 0, id];
            if version.is_v5() {
                bytes[1] = 6;
                bytes.push(0);
            }
            bytes
        };
        for id in 1..=3 {
            bench.takes(&publish(id), SUCCESS);
        }
        assert_eq!(bench.hears(&publish(2)), b"\x50\x02\0\x02", "a duplicate is no more");
        let expected = (ReasonCode::ReceiveMaximumExceeded, statement);
        assert_eq!(bench.violates(&publish(4)), expected);
        bench.hears(b"\x62\x02\0\x02");
        bench.takes(&publish(4), SUCCESS);
    }
}

#[test]
fn a_topic_alias_stands_for_the_topic_given_last_on_this_connection() {
    let mut bench = Bench::new(Link { topic_alias_max: 2, ..link(V5) });
    let unknown = (ReasonCode::ProtocolError, "3.3.2.3.4");
    let above = (ReasonCode::TopicAliasInvalid, "MQTT-3.3.2-9");
    let by_alias = |alias: u8| [0x30, 6, 0, 0, 3, 0x23, 0, alias];
    let given = |topic: u8, alias: u8| [0x30, 7, 0, 1, topic, 3, 0x23, 0, alias];
    assert_eq!(bench.violates(&by_alias(1)), unknown);
    assert_eq!(bench.routes(&given(b'a', 2), SUCCESS).0, "a");
    assert_eq!(bench.routes(&by_alias(2), SUCCESS).0, "a");
    assert_eq!(bench.violates(&by_alias(1)), unknown);
    assert_eq!(bench.routes(&given(b'b', 2), SUCCESS).0, "b");
    assert_eq!(bench.routes(&given(b'a', 1), SUCCESS).0, "a");
    assert_eq!(bench.routes(&by_alias(2), SUCCESS).0, "b");
    assert_eq!(bench.routes(&by_alias(1), SUCCESS).0, "a");
    assert_eq!(bench.violates(&given(b'a', 3)), above);
    assert_eq!(bench.violates(&by_alias(3)), above);
    bench.resume(Link { topic_alias_max: 2, ..link(V5) });
    assert_eq!(bench.violates(&by_alias(2)), unknown);
}

/// [MQTT-3.3.2-8]: the alias is set by the packet, not by what becomes of it.
#[test]
fn a_refused_publication_sets_its_alias_too() {
    let mut bench = Bench::new(Link { topic_alias_max: 1, ..link(V5) });
    bench.takes(b"\x30\x07\0\x01a\x03\x23\0\x01", ReasonCode::NotAuthorized);
    assert_eq!(bench.routes(b"\x30\x06\0\0\x03\x23\0\x01", SUCCESS).0, "a");
}

#[test]
fn topics_keep_their_names_however_many_there_are() {
    let mut bench = Bench::new(link(V311));
    for round in 0..3 {
        for letter in b'a'..=b'z' {
            let (topic, _) = bench.routes(&[0x30, 3, 0, 1, letter], SUCCESS);
            assert_eq!(topic.as_bytes(), [letter]);
        }
        if round == 1 {
            bench.session.shed();
        }
    }
}

#[test]
fn silence_is_too_long_after_one_and_a_half_intervals() {
    let keep_alive = Some(Duration::from_secs(10));
    let mut bench = Bench::new(Link { keep_alive, ..link(V5) });
    let start = bench.now;
    let after = |seconds| Some(start + Duration::from_secs(seconds));
    assert_eq!(bench.session.keep_alive_deadline(), after(15));
    bench.now += Duration::from_secs(7);
    assert_eq!(bench.hears(b"\xC0\0"), b"\xD0\0");
    assert_eq!(bench.session.keep_alive_deadline(), after(22));
    bench.now += Duration::from_secs(1);
    bench.writes(delivery(Qos::AtMostOnce, b"x"));
    assert_eq!(bench.session.keep_alive_deadline(), after(22), "what is sent does not count");
    bench.now += Duration::from_secs(1);
    bench.resume(Link { keep_alive, ..link(V5) });
    assert_eq!(bench.session.keep_alive_deadline(), after(24));
    bench.resume(link(V5));
    assert_eq!(bench.session.keep_alive_deadline(), None);
}

#[test]
fn what_only_a_server_sends_and_a_second_connect_are_violations() {
    let mut bench = Bench::new(link(V311));
    let connect = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c";
    assert_eq!(bench.violates(connect), (ReasonCode::ProtocolError, "MQTT-3.1.0-2"));
    for packet in [&b"\x20\x02\0\0"[..], b"\x90\x03\0\x01\0", b"\xB0\x02\0\x01", b"\xD0\0"] {
        assert_eq!(bench.violates(packet), (ReasonCode::ProtocolError, "2.1.2"));
    }
}
