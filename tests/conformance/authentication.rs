//! Enhanced authentication.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::raw::Client;
use crate::harness::tokens::Maker;
use crate::harness::wire::{self, Connect, Version, property};
use crate::{Broker, Setup};

const TABLES: &str = r#"
[authentication.strong]
method = "scram"
file = "records"
[authentication.tokens]
method = "jwt"
issuer = "https://id.example"
audience = ["mqtt"]
keys = "jwks.json"
"#;

fn broker(maker: &Maker) -> Broker {
    let setup = Setup::new();
    fs::write(setup.path().join("jwks.json"), maker.jwks()).unwrap();
    let records = setup.path().join("records");
    // Nobody is in it, which a client is told at the end only.
    fs::write(&records, "!secret:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").unwrap();
    fs::set_permissions(&records, fs::Permissions::from_mode(0o600)).unwrap();
    setup.methods(&["tokens", "strong"], TABLES).start()
}

fn connect(method: &str, data: &[u8]) -> Connect {
    let properties =
        [property::authentication_method(method), property::authentication_data(data)].concat();
    Connect::new(Version::Mqtt5, "ann").properties(&properties)
}

/// MQTT 5: AUTH asks for more, with a reason code that is one of its own [MQTT-3.15.2-1]
/// [MQTT-4.12.0-2] and the method of CONNECT [MQTT-4.12.0-5].
#[test]
fn the_broker_asks_for_more_by_the_method_of_connect() {
    let broker = broker(&Maker::new("k1"));
    let mut raw = broker.raw();
    raw.send(&connect("SCRAM-SHA-256", b"n,,n=ann,r=x").bytes());
    let packet = raw.recv_packet();
    assert_eq!((packet[0], packet[2]), (0xf0, 0x18), "{packet:02x?}");
    let (_, rest) = wire::read_varint(&packet[3..]);
    let ids: Vec<u8> = wire::properties(rest).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [0x15, 0x16], "a method and data, and nothing else");
    assert!(wire::properties(rest).contains(&(0x15, wire::text("SCRAM-SHA-256"))));
}

/// MQTT 5: a CONNACK that accepts, and the AUTH that ends an exchange on the connection, have the
/// method of CONNECT [MQTT-4.12.0-5]; an AUTH of the client with another method [MQTT-4.12.1-1],
/// or one that fails, ends the connection [MQTT-4.12.1-2].
#[test]
fn a_client_authenticates_again_by_the_method_of_connect_or_is_closed() {
    let maker = Maker::new("k1");
    let broker = broker(&maker);
    let token = maker.token("ann", 60);
    let method = (0x15, wire::text("JWT"));
    let log_in = || {
        let client = Client::connect(broker.address("mqtt"), &connect("JWT", &token));
        assert!(client.connack.properties.contains(&method), "{:?}", client.connack);
        client
    };
    let mut client = log_in();
    client.raw.send(&wire::auth_by(0x19, "JWT", &token));
    let packet = client.raw.recv_packet();
    assert_eq!((packet[0], packet[2]), (0xf0, 0), "{packet:02x?}");
    let (_, rest) = wire::read_varint(&packet[3..]);
    assert_eq!(wire::properties(rest), std::slice::from_ref(&method));
    client.ping();
    client.raw.send(&wire::auth_by(0x19, "SCRAM-SHA-256", b"n,,n=ann,r=x"));
    client.raw.expect_disconnect(&[0x82]);
    let mut client = log_in();
    client.raw.send(&wire::auth_by(0x19, "JWT", b"not a token"));
    client.raw.expect_disconnect(&[0x87]);
}
