//! Memory, time and connections that an attacker would like to use up.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::Setup;
use crate::harness::raw::{Client, PATIENCE, Raw};
use crate::harness::wire::{self, Connect, PUBREC, Publish, Version};
use crate::refusal;

const MIB: u64 = 1 << 20;

/// A listener with caps of its own.
fn listener(keys: &str) -> Setup {
    Setup::new().config(&format!(
        "[listener.mqtt]\naddress = \"127.0.0.1:0\"\nplaintext = true\nidentity = \"anonymous\"\n{keys}\n"
    ))
}

/// Threat: memory before authentication.
#[test]
fn dripping_large_connects_costs_little_memory_and_ends() {
    const CONNECTIONS: usize = 400;
    let broker = listener(
        "connections_per_address_max = 1000\nhandshakes_max = 1000\nconnect_deadline = \"4s\"",
    )
    .start();
    let before = broker.resident_bytes();
    // 256 MiB announced: refused from the header. Just under the cap: bounded by what came.
    let announced = [&[0x10, 0xff, 0xff, 0xff, 0x7f][..], b"\x00\x04MQTT\x05"].concat();
    let below_the_cap = [&[0x10, 0x80, 0x80, 0x20][..], b"\x00\x04MQTT\x05"].concat();
    let mut dripping: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|number| {
            let mut stream = TcpStream::connect(broker.address("mqtt")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let start = if number % 2 == 0 { &announced } else { &below_the_cap };
            stream.write_all(start).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    let mut peak = before;
    while began.elapsed() < Duration::from_secs(2) {
        for stream in &mut dripping {
            // Those that the broker has closed fail, as they should.
            let _ = stream.write_all(&[0; 64]);
        }
        peak = peak.max(broker.resident_bytes());
    }
    let grown = peak.saturating_sub(before);
    assert!(grown < 32 * MIB, "{CONNECTIONS} connections took {} MiB", grown / MIB);
    for stream in dripping {
        Raw::over(stream).expect_end();
    }
    broker.simple(Version::Mqtt5, "honest").ping();
}

/// Threat: slow attacks.
#[test]
fn a_connection_that_says_nothing_or_too_little_is_ended_in_time() {
    let broker = listener("connect_deadline = \"500ms\"").start();
    let connect = Connect::new(Version::Mqtt5, "slow").bytes();
    for length in [0, 1, 5, connect.len() - 1] {
        let began = Instant::now();
        let mut raw = broker.raw();
        raw.send(&connect[..length]);
        raw.expect_end();
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    }
    // Byte by byte the deadline is the same: it is one for the whole.
    let mut raw = broker.raw();
    let began = Instant::now();
    for byte in connect.iter().cycle() {
        if raw.try_send(&[*byte & 0x7f]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(began.elapsed() < PATIENCE, "still open");
    }
    broker.simple(Version::Mqtt5, "quick").ping();
}

/// Threat: handshake flood: a place is not kept for somebody who says nothing.
#[test]
fn a_connection_without_a_first_byte_is_ended_before_the_others() {
    let broker = listener("connect_deadline = \"8s\"\nfirst_byte_deadline = \"300ms\"").start();
    let began = Instant::now();
    let (mut silent, mut slow) = (broker.raw(), broker.raw());
    slow.send(&[0x10]);
    silent.expect_end();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let refused = broker.audited("the silent connection", |record| {
        record["event"] == "connection.refused" && record["gate"] == "connect"
    });
    assert_eq!(refused["why"], "nothing came before the deadline for the first byte");
    let connect = Connect::new(Version::Mqtt5, "slow").bytes();
    slow.send(&connect[1..]);
    assert_eq!(wire::Connack::parse(Version::Mqtt5, &slow.recv_packet()).code, 0);
}

/// Caps of a listener hold, and what is given back can be used again.
#[test]
fn connections_of_one_address_are_capped() {
    let broker = listener("connections_per_address_max = 3").start();
    let mut clients: Vec<_> =
        (0..3).map(|number| broker.simple(Version::Mqtt5, &format!("c{number}"))).collect();
    let connect = Connect::new(Version::Mqtt5, "c3").bytes();
    let mut refused = broker.raw();
    let _ = refused.try_send(&connect);
    refused.expect_end();
    for client in &mut clients {
        client.ping();
    }
    for client in clients {
        client.disconnect();
    }
    // The places come back once the broker's side is closed too, a moment later.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut admitted = broker.raw();
        let _ = admitted.try_send(&connect);
        if admitted.next_packet().is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "no place came back");
    }
    let refused =
        broker.audited("the refused connection", |record| record["event"] == "connection.refused");
    assert_eq!(refused["reason"]["code"], 0x97, "{refused}");
}

/// What the audit log says of a refusal is why it was refused.
#[test]
fn a_denied_address_is_not_said_to_come_too_fast() {
    let broker = listener("deny = [\"127.0.0.0/8\"]").start();
    broker.raw().expect_end();
    let refused =
        broker.audited("the refused connection", |record| record["event"] == "connection.refused");
    assert_eq!(refused["reason"]["code"], 0x8a, "{refused}");
    assert_eq!(refused["why"], "addresses in 127.0.0.0/8 are denied");
}

/// Threat: memory after authentication.
#[test]
fn what_waits_for_an_absent_client_is_bounded() {
    let broker = Setup::new()
        .plaintext()
        .config("[profile.default.mailbox]\nmessages_max = 1000\nbytes_max = \"2MiB\"")
        .start();
    let connect = Connect::new(Version::Mqtt5, "absent").durable();
    let mut reader = broker.client(&connect);
    reader.subscribe("flood", 1);
    reader.disconnect();
    let before = broker.resident_bytes();
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    let payload = "x".repeat(8 << 10);
    for _ in 0..4000 {
        writer.send(&Publish::new("flood", &payload).qos(1, 1));
        // Success, or a reason such as Quota exceeded.
        writer.expect_ack_any(wire::PUBACK, 1);
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 24 * MIB, "32 MiB sent to an absent client took {} MiB", grown / MIB);
    let mut reader = broker.client(&connect);
    assert_eq!(reader.receive().text().len(), payload.len());
}

/// Threat: memory after authentication: sums that one principal uses up.
#[test]
fn one_principal_cannot_use_up_sessions_or_retained_messages() {
    const QUOTA_EXCEEDED: u8 = 0x97;
    let setup = Setup::new()
        .mutual_tls_with("client_id = \"prefix\"\nclient_id_separator = \":\"")
        .default_limits()
        .config("[profile.default.session]\nsessions_max = 3")
        .config("[profile.default.retained]\nmessages_max = 2");
    let (greedy, honest) = (setup.device("greedy"), setup.device("honest"));
    let broker = setup.start();
    let connect = |client_id: &str| Connect::new(Version::Mqtt5, client_id).durable();
    let mut clients: Vec<_> = (0..3)
        .map(|number| broker.client_tls(&greedy, &connect(&format!("greedy:{number}"))))
        .collect();
    assert_eq!(refusal(broker.raw_tls(&greedy), &connect("greedy:3")), QUOTA_EXCEEDED);
    let mut other = broker.client_tls(&honest, &connect("honest"));

    let retain = |client: &mut Client, topic: &str| {
        client.send(&Publish::new(topic, "x").retain().qos(1, 9));
        client.expect_ack_any(wire::PUBACK, 9)
    };
    // Which of its sessions it uses makes no difference.
    for (number, topic) in ["a", "b"].into_iter().enumerate() {
        assert!(retain(&mut clients[number], topic) < 0x80);
    }
    assert_eq!(retain(&mut clients[2], "c"), QUOTA_EXCEEDED);
    assert!(retain(&mut clients[2], "a") < 0x80, "its own may change");
    assert!(retain(&mut other, "c") < 0x80);
}

/// Threat: memory after authentication: identifiers that are never released.
#[test]
fn open_qos_2_identifiers_are_bounded_by_receive_maximum() {
    let broker = Setup::new().plaintext().start();
    for version in [Version::Mqtt311, Version::Mqtt5] {
        let mut writer = broker.simple(version, "hoarder");
        // The generous profile announces 16.
        for id in 1..=16 {
            writer.send(&Publish::new("t", "x").qos(2, id));
            writer.expect_ack(PUBREC, id);
        }
        let _ = writer.raw.try_send(&Publish::new("t", "x").qos(2, 17).bytes(version));
        writer.raw.expect_end();
    }
}

/// Threat: topic depth and wildcard blow-up.
#[test]
fn deep_topics_and_filters_are_refused() {
    let broker = Setup::new().plaintext().start();
    // The generous profile takes 128 levels.
    for (levels, taken) in [(128, true), (129, false), (30_000, false)] {
        let topic = vec![""; levels].join("/");
        let mut writer = broker.simple(Version::Mqtt5, "deep");
        writer.send(&Publish::new(&topic, "x").qos(1, 1));
        let packet = writer.raw.recv_packet();
        let code = packet.get(if packet[0] == 0xe0 { 2 } else { 4 }).copied().unwrap_or(0);
        assert_eq!(code < 0x80, taken, "{levels} levels: {code:02x}");
        let filter = vec!["+"; levels].join("/");
        let mut reader = broker.simple(Version::Mqtt5, "deep");
        reader.raw.send(&wire::subscribe(Version::Mqtt5, 1, &[], &[(&filter, 0)]));
        let packet = reader.raw.recv_packet();
        assert_eq!(packet.last().unwrap() & 0x80 == 0 && packet[0] == 0x90, taken, "{levels}");
    }
}

/// Threat: parser crash.
#[test]
fn no_bytes_crash_the_broker() {
    let mut broker = Setup::new().plaintext().start();
    let address = broker.address("mqtt");
    let connect = Connect::new(Version::Mqtt5, "crash").bytes();
    // Every first byte with several lengths and contents, before and after CONNECT.
    let bodies: &[&[u8]] = &[
        &[0],
        &[1, 0],
        &[2, 0, 0],
        &[4, 0xff, 0xff, 0xff, 0xff],
        &[5, 0, 1, 0, 0xff, 0xff],
        &[8, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x80, 0x80, 0x80, 0x80, 0x00],
        &[10, 0, 4, b'M', b'Q', b'T', b'T', 5, 0xff, 0xff, 0xff],
    ];
    for first in 0..=u8::MAX {
        for body in bodies {
            for prefix in [&[][..], &connect] {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                let _ = stream.write_all(&[prefix, &[first], *body].concat());
            }
        }
    }
    // Every way to cut and to flip one byte of a CONNECT that has everything.
    let whole = Connect::new(Version::Mqtt5, "everything")
        .will(wire::Will::new("will/topic", "payload").qos(1))
        .properties(&[wire::property::session_expiry(5), wire::property::user("n", "v")].concat())
        .bytes();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream.write_all(&bytes);
        }
    }
    broker.simple(Version::Mqtt5, "survivor").ping();
    assert!(broker.is_alive());
    let panicked = broker.audit().into_iter().find(|record| record["event"] == "task.panicked");
    assert_eq!(panicked, None);
}

/// Threat: work that the rate does not count: every filter is judged.
#[test]
fn each_filter_counts_as_a_packet_of_the_rate() {
    const STRICT: &str = "[profile.strict.rate]\npackets_per_second = 1\npackets_burst = 60\nanswer = \"disconnect\"";
    let many: Vec<String> = (0..40).map(|number| format!("a/{number}")).collect();
    let many: Vec<(&str, u8)> = many.iter().map(|filter| (filter.as_str(), 0)).collect();
    let names: Vec<&str> = many.iter().map(|(filter, _)| *filter).collect();
    for second in [
        wire::subscribe(Version::Mqtt5, 2, &[], &many),
        wire::unsubscribe(Version::Mqtt5, 2, &names),
    ] {
        let broker = listener("profile = \"strict\"").config(STRICT).start();
        let mut client = broker.simple(Version::Mqtt5, "many");
        client.raw.send(&wire::subscribe(Version::Mqtt5, 1, &[], &many));
        assert_eq!(client.raw.recv_packet()[0], 0x90);
        client.raw.send(&second);
        client.raw.expect_disconnect(&[0x96]);
    }
}

/// Threat: a disk full of refusals.
#[test]
fn refusals_beyond_a_rate_are_counted_and_not_recorded_one_by_one() {
    const REFUSED: usize = 600;
    let broker = Setup::new()
        .plaintext()
        .policies(
            "@id(\"connect\") @reason(\"nothing else\")
             permit (principal, action == Action::\"connect\", resource);",
        )
        .start();
    let mut client = broker.simple(Version::Mqtt5, "refused");
    let one = Publish::new("a", "x").bytes(Version::Mqtt5);
    client.raw.send(&one.repeat(REFUSED));
    client.ping();
    // Recorded or counted, in as many records as it takes: none is missing in the end.
    let all = || {
        let records = broker.audit();
        let denied = records.iter().filter(|record| record["event"] == "denied").count();
        let lost = records.iter().filter_map(|record| record["lost"].as_u64()).sum::<u64>();
        (denied, lost)
    };
    broker.audited("what was left out", |_| {
        let (denied, lost) = all();
        denied as u64 + lost == REFUSED as u64
    });
    // A second may have begun in between.
    let (denied, _) = all();
    assert!((100..=300).contains(&denied), "{denied} of {REFUSED}");
}
