//! What is in flight when a connection ends, and goes on with the next.

use super::*;

/// The payloads and identifiers of what is sent again, with what it is.
fn told(bytes: &[u8]) -> Vec<(u8, u16)> {
    packets(bytes)
        .into_iter()
        .map(|packet| match packet[0] & 0xF0 {
            0x30 => (packet[0], id_of(packet)),
            _ => (packet[0], u16::from_be_bytes([packet[2], packet[3]])),
        })
        .collect()
}

const PUBLISH_1_DUP: u8 = 0x3A;
const PUBLISH_2_DUP: u8 = 0x3C;
const PUBREL: u8 = 0x62;

/// [MQTT-4.4.0-1], [MQTT-4.6.0-1]
#[test]
fn everything_unacknowledged_is_sent_again_in_order_with_dup() {
    let mut bench = Bench::new(link(V311));
    for qos in [1, 2, 1, 2, 1] {
        bench.writes(delivery(Qos::from_u8(qos).unwrap(), b"x"));
    }
    bench.hears(b"\x40\x02\0\x03");
    bench.hears(b"\x50\x02\0\x04");
    bench.resume(link(V311));
    assert!(bench.session.is_resending());
    assert_eq!(bench.session.room(), 0, "nothing new before that");
    let expected = [(PUBLISH_1_DUP, 1), (PUBLISH_2_DUP, 2), (PUBREL, 4), (PUBLISH_1_DUP, 5)];
    assert_eq!(told(&bench.resent()), expected);
    assert!(!bench.session.is_resending());
    assert_eq!(bench.resent(), b"", "once a connection");
    assert_eq!(bench.session.inflight(), 4);
    let publish = bench.writes(delivery(Qos::AtLeastOnce, b"x"));
    assert_eq!((publish[0], id_of(&publish)), (0x32, 6));
    for ack in [b"\x40\x02\0\x01", b"\x70\x02\0\x04", b"\x40\x02\0\x05", b"\x40\x02\0\x06"] {
        assert_eq!(bench.hears(ack), b"");
    }
    assert_eq!(bench.hears(b"\x50\x02\0\x02"), b"\x62\x02\0\x02");
    bench.hears(b"\x70\x02\0\x02");
    assert_eq!(bench.session.inflight(), 0);
}

#[test]
fn a_smaller_receive_maximum_is_kept_while_sending_again() {
    let mut bench = Bench::new(link(V311));
    for _ in 0..5 {
        bench.writes(delivery(Qos::AtLeastOnce, b"x"));
    }
    bench.writes(delivery(Qos::ExactlyOnce, b"x"));
    bench.hears(b"\x50\x02\0\x06");
    bench.resume(window(V311, 2));
    assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 1), (PUBLISH_1_DUP, 2)]);
    assert_eq!(bench.resent(), b"");
    assert!(bench.session.is_resending());
    // An acknowledgement of what was sent on the connection before counts as well.
    bench.hears(&puback(4));
    assert_eq!(bench.resent(), b"");
    bench.hears(&puback(2));
    assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 3)]);
    bench.hears(&puback(1));
    assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 5)]);
    bench.hears(&puback(3));
    assert_eq!(told(&bench.resent()), [(PUBREL, 6)]);
    assert!(!bench.session.is_resending());
    assert_eq!(bench.session.room(), 0);
    bench.hears(&puback(5));
    assert_eq!(bench.session.room(), 1);
    bench.hears(b"\x70\x02\0\x06");
    assert_eq!(bench.session.room(), 2);
}

#[test]
fn an_interrupted_resumption_begins_again() {
    let mut bench = Bench::new(link(V311));
    for _ in 0..3 {
        bench.writes(delivery(Qos::AtLeastOnce, b"x"));
    }
    for _ in 0..3 {
        bench.resume(window(V311, 1));
        assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 1)]);
    }
    bench.hears(&puback(1));
    bench.resume(link(V311));
    assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 2), (PUBLISH_1_DUP, 3)]);
}

#[test]
fn what_has_become_too_large_is_dropped_when_it_would_be_sent_again() {
    let mut bench = Bench::new(link(V311));
    for payload in [&b"long enough"[..], b"x", b"long enough", b"x"] {
        bench.writes(delivery(Qos::AtLeastOnce, payload));
    }
    let packet_bytes_max = NonZeroU32::new(10);
    bench.resume(Link { packet_bytes_max, ..window(V311, 2) });
    assert_eq!(told(&bench.resent()), [(PUBLISH_1_DUP, 2), (PUBLISH_1_DUP, 4)]);
    assert!(!bench.session.is_resending());
    assert_eq!(bench.session.inflight(), 2);
    bench.hears(&puback(2));
    bench.hears(&puback(4));
    assert_eq!((bench.session.inflight(), bench.session.room()), (0, 2));
    // All of it at once, too.
    bench.writes(delivery(Qos::AtLeastOnce, b"xyz"));
    bench.resume(Link { packet_bytes_max: NonZeroU32::new(2), ..window(V311, 2) });
    assert_eq!(bench.resent(), b"");
    assert!(!bench.session.is_resending());
    assert_eq!(bench.session.room(), 2);
}

#[test]
fn a_session_goes_on_in_another_version_of_the_protocol() {
    let mut bench = Bench::new(link(V5));
    assert_eq!(bench.writes(delivery(Qos::AtLeastOnce, b"x")), b"\x32\x07\0\x01t\0\x01\0x");
    bench.writes(delivery(Qos::ExactlyOnce, b"y"));
    bench.hears(b"\x50\x03\0\x02\x10");
    bench.resume(link(V311));
    assert_eq!(bench.resent(), b"\x3A\x06\0\x01t\0\x01x\x62\x02\0\x02");
    bench.resume(link(V5));
    assert_eq!(bench.resent(), b"\x3A\x07\0\x01t\0\x01\0x\x62\x02\0\x02");
}

#[test]
fn a_session_that_ends_gives_back_what_was_not_acknowledged_at_all() {
    let mut bench = Bench::new(link(V311));
    for (qos, payload) in [(1, b"a"), (2, b"b"), (2, b"c"), (1, b"d"), (1, b"e")] {
        bench.writes(delivery(Qos::from_u8(qos).unwrap(), payload));
    }
    bench.hears(b"\x50\x02\0\x03");
    bench.hears(&puback(4));
    let left = bench.session.take_unacknowledged();
    let left: Vec<_> = left.iter().map(|delivery| &delivery.message.payload[..]).collect();
    assert_eq!(left, [b"a", b"b", b"e"]);
    assert_eq!(bench.session.inflight(), 0);
}
