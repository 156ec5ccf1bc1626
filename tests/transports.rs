//! Unix sockets and the PROXY protocol, from outside; TCP, TLS and WebSocket are in `clients.rs`
//! and `conformance`. And the rate gate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use harness::Setup;
use harness::raw::{Client, PATIENCE, Raw};
use harness::wire::{Connect, Publish, Version};

const V: Version = Version::Mqtt5;

/// A plaintext listener `proxied` that trusts senders in `trusted`, with further keys.
fn proxied(trusted: &str, keys: &str) -> Setup {
    Setup::new().plaintext_named(
        "proxied",
        &format!("proxy_protocol = {{ trusted = [\"{trusted}\"] }}\n{keys}"),
    )
}

fn through_proxy(broker: &harness::Broker, header: &[u8]) -> Raw {
    let mut raw = Raw::tcp(broker.address("proxied"));
    let connect = Connect::new(V, "proxied").bytes();
    // A refused sender may be closed before it has sent everything.
    let _ = raw.try_send(&[header, &connect].concat());
    raw
}

/// A PROXY v2 header: command LOCAL or PROXY, TCP over IPv4 from 203.0.113.7.
fn version_2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12]);
    header.extend([203, 0, 113, 7, 192, 0, 2, 1, 0x15, 0xb3, 0x07, 0x5b]);
    header
}

const VERSION_1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 5555 1883\r\n";

#[test]
fn a_unix_socket_is_for_its_owner_and_speaks_mqtt() {
    let broker = Setup::new()
        .plaintext()
        .config(
            "[listener.local]\nunix = \"local.sock\"\nplaintext = true\nidentity = \"anonymous\"\n",
        )
        .start();
    let path = broker.path().join("local.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut local = Client::over(Raw::over(stream), &Connect::new(V, "local"));
    local.subscribe("t", 1);
    broker.simple(V, "remote").publish_surely(&Publish::new("t", "over the socket"));
    local.receive_text("over the socket");
}

#[test]
fn the_announced_address_is_the_clients_address() {
    let broker = proxied("127.0.0.0/8", "").start();
    for header in [VERSION_1.to_vec(), version_2(1)] {
        assert_eq!(through_proxy(&broker, &header).recv_packet()[0], 0x20);
    }
    broker.audited("the announced address", |record| {
        record["event"] == "connection.accepted"
            && record["address"] == "203.0.113.7"
            && record["port"] == 5555
    });
}

#[test]
fn local_counts_as_the_proxy_itself() {
    let broker = proxied("127.0.0.0/8", "").start();
    assert_eq!(through_proxy(&broker, &version_2(0)).recv_packet()[0], 0x20);
    broker.audited("the proxy's own address", |record| {
        record["event"] == "connection.accepted" && record["address"] == "127.0.0.1"
    });
}

#[test]
fn address_rules_use_the_announced_address() {
    let broker = proxied("127.0.0.0/8", "deny = [\"203.0.113.0/24\"]").start();
    through_proxy(&broker, VERSION_1).expect_end();
    let record = broker.audited("the denied address", |record| {
        record["event"] == "connection.refused" && record["gate"] == "admission"
    });
    assert!(record["why"].as_str().unwrap().contains("203.0.113.0/24"), "{record}");
}

#[test]
fn a_missing_header_and_an_untrusted_sender_are_refused() {
    let broker = proxied("127.0.0.0/8", "").start();
    through_proxy(&broker, b"").expect_end();
    broker.audited("the missing header", |record| {
        record["event"] == "connection.refused" && record["gate"] == "proxy"
    });
    let broker = proxied("192.0.2.0/24", "").start();
    through_proxy(&broker, VERSION_1).expect_end();
    broker.audited("the untrusted sender", |record| {
        record["event"] == "connection.refused" && record["gate"] == "proxy"
    });
}

/// A PROXY v2 header whose TLS field names a verified client certificate.
fn with_common_name(name: &str, verify: u32) -> Vec<u8> {
    let mut ssl = vec![0x07];
    ssl.extend(verify.to_be_bytes());
    ssl.extend([0x22, 0, u8::try_from(name.len()).unwrap()]);
    ssl.extend(name.bytes());
    let mut header = version_2(1);
    let length = u8::try_from(12 + 3 + ssl.len()).unwrap();
    header[15] = length;
    header.extend([0x20, 0, u8::try_from(ssl.len()).unwrap()]);
    header.extend(ssl);
    header
}

#[test]
fn a_name_from_the_proxy_counts_only_where_the_listener_says_so() {
    let keys = "identity = \"proxy\"\nprincipal = \"device\"\nclient_id = \"unbound\"";
    let broker = Setup::new()
        .config(&format!(
            "[listener.proxied]\naddress = \"127.0.0.1:0\"\nplaintext = true\n\
             proxy_protocol = {{ trusted = [\"127.0.0.0/8\"] }}\n{keys}\n"
        ))
        .start();
    assert_eq!(through_proxy(&broker, &with_common_name("dev7", 0)).recv_packet()[0], 0x20);
    let record = broker
        .audited("the name from the proxy", |record| record["event"] == "connection.accepted");
    assert_eq!(record["principal"]["id"], "dev7", "{record}");
    // Not verified, and no name at all.
    for header in [with_common_name("dev8", 1), VERSION_1.to_vec()] {
        through_proxy(&broker, &header).expect_end();
    }
    broker.audited("the missing name", |record| {
        record["event"] == "connection.refused" && record["gate"] == "identity"
    });
    // Elsewhere the name is ignored.
    let broker = proxied("127.0.0.0/8", "").start();
    assert_eq!(through_proxy(&broker, &with_common_name("dev7", 0)).recv_packet()[0], 0x20);
    let record =
        broker.audited("the anonymous client", |record| record["event"] == "connection.accepted");
    assert_eq!(record["principal"]["type"], "Anonymous", "{record}");
}

#[test]
fn a_client_over_its_rate_is_slowed_down_or_disconnected() {
    let slow = "[profile.slow.rate]\npackets_per_second = 20\npackets_burst = 4\n";
    let strict = "[profile.strict.rate]\npackets_per_second = 1\npackets_burst = 4\n\
                  answer = \"disconnect\"\n";
    let broker = Setup::new()
        .plaintext_named("slow", "profile = \"slow\"")
        .plaintext_named("strict", "profile = \"strict\"")
        .config(&format!("{slow}{strict}"))
        .start();
    // All packets come through, however long it takes.
    let mut client = Client::connect(broker.address("slow"), &Connect::new(V, "slow"));
    client.raw.send(&[0xc0, 0].repeat(12));
    for _ in 0..12 {
        client.raw.expect(&[0xd0, 0]);
    }
    let mut client = Client::connect(broker.address("strict"), &Connect::new(V, "strict"));
    client.raw.send(&[0xc0, 0].repeat(12));
    for _ in 0..4 {
        client.raw.expect(&[0xd0, 0]);
    }
    client.raw.expect_disconnect(&[0x96]);
    // A new connection does not bring a new allowance.
    let mut client = Client::connect(broker.address("strict"), &Connect::new(V, "strict"));
    client.raw.send(&[0xc0, 0].repeat(100));
    let mut answered = 0;
    let last = loop {
        let packet = client.raw.recv_packet();
        if packet[0] != 0xd0 {
            break packet;
        }
        answered += 1;
    };
    // One for every second that has passed since, at the most: not another burst of a hundred.
    assert!(answered < 100 && last[0] == 0xe0 && last[2] == 0x96, "{answered}: {last:02x?}");
}
