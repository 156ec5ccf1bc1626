//! To the client: flows of QoS 1 and 2, quotas, sizes, expiry.

use super::*;

/// PUBREC, with a reason for MQTT 5.
fn pubrec(id: u8, reason: u8) -> Vec<u8> {
    if reason == 0 { vec![0x50, 2, 0, id] } else { vec![0x50, 3, 0, id, reason] }
}

#[test]
fn each_qos_is_sent_and_acknowledged_in_its_own_way() {
    for version in ALL {
        let five = version.is_v5();
        let mut bench = Bench::new(link(version));
        let expected: &[u8] = if five { b"\x30\x05\0\x01t\0x" } else { b"\x30\x04\0\x01tx" };
        assert_eq!(bench.writes(delivery(Qos::AtMostOnce, b"x")), expected);
        let expected: &[u8] =
            if five { b"\x32\x07\0\x01t\0\x01\0x" } else { b"\x32\x06\0\x01t\0\x01x" };
        assert_eq!(bench.writes(delivery(Qos::AtLeastOnce, b"x")), expected);
        let expected: &[u8] =
            if five { b"\x34\x07\0\x01t\0\x02\0x" } else { b"\x34\x06\0\x01t\0\x02x" };
        assert_eq!(bench.writes(delivery(Qos::ExactlyOnce, b"x")), expected);
        assert_eq!(bench.session.inflight(), 2);
        assert_eq!(bench.hears(b"\x40\x02\0\x01"), b"");
        assert_eq!(bench.session.inflight(), 1);
        assert_eq!(bench.hears(b"\x50\x02\0\x02"), b"\x62\x02\0\x02");
        assert_eq!(bench.hears(b"\x50\x02\0\x02"), b"\x62\x02\0\x02", "PUBREC again");
        assert_eq!(bench.session.inflight(), 1, "in flight until PUBCOMP");
        assert_eq!(bench.hears(b"\x70\x02\0\x02"), b"");
        assert_eq!(bench.session.inflight(), 0);
    }
}

#[test]
fn an_acknowledgement_of_an_unknown_identifier_changes_nothing() {
    for (version, not_found) in [(V311, &b"\x62\x02\0\x09"[..]), (V5, b"\x62\x03\0\x09\x92")] {
        let mut bench = Bench::new(link(version));
        bench.writes(delivery(Qos::AtLeastOnce, b"x"));
        bench.writes(delivery(Qos::ExactlyOnce, b"x"));
        assert_eq!(bench.hears(b"\x40\x02\0\x09"), b"");
        assert_eq!(bench.hears(b"\x50\x02\0\x09"), not_found);
        assert_eq!(bench.hears(b"\x70\x02\0\x09"), b"");
        assert_eq!(bench.session.inflight(), 2);
    }
}

/// [MQTT-4.8.0-1] of MQTT 3.1.1, MQTT 5 section 4.13.1
#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    for version in [V311, V5] {
        let wrong = |released: bool, bytes: &[u8]| {
            let mut bench = Bench::new(link(version));
            bench.writes(delivery(Qos::AtLeastOnce, b"x"));
            bench.writes(delivery(Qos::ExactlyOnce, b"x"));
            if released {
                bench.hears(b"\x50\x02\0\x02");
            }
            assert_eq!(bench.violates(bytes).0, ReasonCode::ProtocolError, "{bytes:02x?}");
            assert_eq!(bench.session.inflight(), 2);
        };
        wrong(false, b"\x50\x02\0\x01");
        wrong(false, b"\x70\x02\0\x01");
        wrong(false, b"\x40\x02\0\x02");
        wrong(false, b"\x70\x02\0\x02");
        wrong(true, b"\x40\x02\0\x02");
    }
}

/// [MQTT-3.3.2-7] to [MQTT-3.3.2-12], in the other direction
#[test]
fn a_topic_is_said_by_an_alias_where_the_client_takes_them() {
    let plain = b"\x30\x05\0\x01t\0x";
    let naming = b"\x30\x08\0\x01t\x03\x23\0\x01x";
    let by_alias = b"\x30\x07\0\0\x03\x23\0\x01x";
    let one = delivery(Qos::AtMostOnce, b"x");
    let wide = Delivery { wide: true, ..one.clone() };
    let takes = |most| Link { outgoing_alias_max: most, ..link(V5) };
    let mut bench = Bench::new(takes(1));
    assert_eq!(bench.writes(one.clone()), naming);
    assert_eq!(bench.writes(wide.clone()), by_alias, "a shared frame has no alias");
    let topic = TopicName::parse("o").unwrap();
    let id = MessageId(1);
    let other = Message::new(id, topic, b"x"[..].into(), Qos::AtMostOnce, false, None, bench.now);
    assert_eq!(bench.writes(delivery_of(other)), b"\x30\x05\0\x01o\0x", "no alias is left");
    // What is not said does not name: the alias would make the packet too large.
    bench.resume(Link { packet_bytes_max: NonZeroU32::new(7), ..takes(1) });
    assert_eq!(bench.writes(one.clone()), plain);
    bench.resume(Link { packet_bytes_max: NonZeroU32::new(10), ..takes(1) });
    assert_eq!(bench.writes(one.clone()), naming, "a new connection knows none");
    bench.session.shed();
    assert_eq!(bench.writes(one.clone()), naming, "an alias may be set again");
    bench.resume(takes(0));
    assert_eq!(bench.writes(one.clone()), plain);
    // Sent again it is said in full: it stands before everything else.
    bench.resume(takes(1));
    bench.writes(delivery(Qos::AtLeastOnce, b"x"));
    bench.resume(takes(1));
    assert_eq!(bench.resent(), b"\x3a\x07\0\x01t\0\x01\0x");
}

/// [MQTT-4.9.0-2]
#[test]
fn a_pubrec_with_an_error_frees_the_quota_and_is_not_released() {
    let mut bench = Bench::new(window(V5, 1));
    bench.writes(delivery(Qos::ExactlyOnce, b"x"));
    assert_eq!(bench.session.room(), 0);
    assert_eq!(bench.hears(&pubrec(1, 0x97)), b"");
    assert_eq!((bench.session.room(), bench.session.inflight()), (1, 0));
    assert_eq!(bench.hears(&pubrec(1, 0x97)), b"", "an unknown one with an error neither");
    let unfinished = bench.session.take_unacknowledged();
    assert!(unfinished.is_empty(), "the client has refused it: it is nobody else's");
}

#[test]
fn room_is_what_the_client_and_the_broker_both_allow() {
    let mut bench = Bench::new(window(V5, 2));
    assert_eq!(bench.session.room(), 2);
    bench.writes(delivery(Qos::AtMostOnce, b"x"));
    assert_eq!(bench.session.room(), 2, "QoS 0 takes none");
    bench.writes(delivery(Qos::AtLeastOnce, b"x"));
    bench.writes(delivery(Qos::ExactlyOnce, b"x"));
    assert_eq!(bench.session.room(), 0);
    bench.hears(b"\x40\x02\0\x01");
    assert_eq!(bench.session.room(), 1);
    bench.hears(b"\x50\x02\0\x02");
    assert_eq!(bench.session.room(), 1, "PUBREC alone frees nothing");
    bench.hears(b"\x70\x02\0\x02");
    assert_eq!(bench.session.room(), 2);
    let inflight_max = NonZeroU16::new(1).unwrap();
    let bench = Bench::with(Settings { inflight_max, ..settings() }, window(V5, 2));
    assert_eq!(bench.session.room(), 1);
}

/// [MQTT-3.1.2-24]
#[test]
fn a_packet_that_is_too_large_is_dropped_and_nothing_waits_for_it() {
    for (version, bytes) in [(V311, 8), (V5, 9)] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let packet_bytes_max = NonZeroU32::new(bytes);
            let mut bench = Bench::new(Link { packet_bytes_max, ..window(version, 1) });
            for _ in 0..3 {
                assert_eq!(bench.send(delivery(qos, b"xy")), (Sent::TooLarge, vec![]));
                assert_eq!(bench.session.room(), 1);
            }
            let publish = bench.writes(delivery(qos, b"x"));
            assert_eq!(u32::try_from(publish.len()), Ok(bytes), "exactly the limit is allowed");
            assert_eq!(id_of(&publish), 1, "what was dropped took no identifier");
        }
        // Without an identifier the same packet is two bytes smaller.
        let packet_bytes_max = NonZeroU32::new(bytes - 1);
        let mut bench = Bench::new(Link { packet_bytes_max, ..link(version) });
        bench.writes(delivery(Qos::AtMostOnce, b"xy"));
        assert_eq!(bench.send(delivery(Qos::AtMostOnce, b"xyz")).0, Sent::TooLarge);
    }
}

fn expiring(qos: Qos, seconds: u32, now: Instant) -> Delivery {
    let properties =
        PublishProperties { message_expiry_s: Some(seconds), ..PublishProperties::default() };
    delivery_of(message(qos, b"x", Some(properties), now))
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[test]
fn what_is_left_of_a_messages_life_is_forwarded_and_an_expired_one_is_not() {
    for (waited_ms, left) in [
        (0, Some(60)),
        (1, Some(60)),
        (999, Some(60)),
        (1000, Some(59)),
        (59_999, Some(1)),
        (60_000, None),
    ] {
        let mut bench = Bench::new(link(V5));
        let message = expiring(Qos::AtLeastOnce, 60, bench.now);
        bench.now += Duration::from_millis(waited_ms);
        let (sent, out) = bench.send(message);
        match left {
            Some(left) => {
                let expected = [0x32, 12, 0, 1, b't', 0, 1, 5, 2, 0, 0, 0, left, b'x'];
                assert_eq!((sent, &out[..]), (Sent::Written, &expected[..]), "{waited_ms}");
            }
            None => assert_eq!((sent, out), (Sent::Expired, vec![])),
        }
    }
    let mut bench = Bench::new(link(V311));
    let message = expiring(Qos::AtLeastOnce, 60, bench.now);
    assert_eq!(bench.writes(message), b"\x32\x06\0\x01t\0\x01x", "MQTT 3 cannot say it");
    let message = expiring(Qos::AtMostOnce, 0, bench.now);
    assert_eq!(bench.send(message).0, Sent::Expired, "but its messages expire");
}

#[test]
fn an_expired_message_in_flight_is_brought_to_its_end() {
    let mut bench = Bench::new(link(V5));
    let message = expiring(Qos::AtLeastOnce, 60, bench.now);
    bench.writes(message);
    bench.now += Duration::from_secs(100);
    bench.resume(link(V5));
    assert_eq!(bench.resent(), [0x3A, 12, 0, 1, b't', 0, 1, 5, 2, 0, 0, 0, 0, b'x']);
    bench.hears(b"\x40\x02\0\x01");
    assert_eq!(bench.session.inflight(), 0);
}

#[test]
fn one_frame_serves_a_wide_fan_out_and_only_where_it_says_the_same() {
    let now = Instant::now();
    let wide = |options: SubscriptionOptions, retain: bool, message: &Arc<Message>| {
        let filter = SubscriptionFilter::parse("t").unwrap();
        let via = Via::one(Arc::new(Subscription::new(filter, options)));
        let qos = options.qos.min(message.qos);
        Delivery {
            message: Arc::clone(message),
            via: Arc::new(via),
            qos,
            retain,
            wide: true,
            seq: None,
        }
    };
    let plain = SubscriptionOptions {
        qos: Qos::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
    };
    let named = SubscriptionOptions { id: NonZeroU32::new(5), ..plain };
    let shared = Arc::new(message(Qos::AtLeastOnce, b"x", None, now));
    for (version, options, retain, expected) in [
        (V311, plain, false, &b"\x30\x04\0\x01tx"[..]),
        (V311, named, false, b"\x30\x04\0\x01tx"),
        (V311, plain, true, b"\x31\x04\0\x01tx"),
        (V5, plain, false, b"\x30\x05\0\x01t\0x"),
        (V5, named, false, b"\x30\x07\0\x01t\x02\x0B\x05x"),
        (V5, plain, true, b"\x31\x05\0\x01t\0x"),
        (V5, plain, false, b"\x30\x05\0\x01t\0x"),
    ] {
        let mut bench = Bench::new(link(version));
        assert_eq!(bench.writes(wide(options, retain, &shared)), expected);
    }
    let expiring = expiring(Qos::AtMostOnce, 9, now).message;
    let mut bench = Bench::new(link(V5));
    bench.now = now + Duration::from_secs(2);
    assert_eq!(bench.writes(wide(plain, false, &expiring)), b"\x30\x0A\0\x01t\x05\x02\0\0\0\x07x");
}
