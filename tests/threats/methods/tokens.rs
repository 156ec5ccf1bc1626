//! Tokens.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::backend::Server;
use super::*;
use crate::harness::Setup;
use crate::harness::raw::Client;
use crate::harness::tokens::{Maker, claims};
use crate::harness::wire::{self, property};
use crate::{is, refusal, suback};

const TOKENS: &str = r#"
[authentication.tokens]
method = "jwt"
issuer = "https://id.example"
audience = ["mqtt"]
keys = "jwks.json"
client_id_claim = "cid"
groups = ["ops"]
tags = ["site"]
principal = "service"
"#;

fn enhanced(name: &str, token: &[u8]) -> Connect {
    let properties =
        [property::authentication_method("JWT"), property::authentication_data(token)].concat();
    Connect::new(Version::Mqtt5, name).properties(&properties)
}

const BY_GROUP: &str = r#"
@id("connect")
@reason("a test")
permit (principal, action == Action::"connect", resource);
@id("ops")
@reason("a test")
permit (principal in Group::"ops", action in [Action::"read", Action::"write"],
  resource in TopicFilter::"site/${tag:site}/#");
"#;

/// Threat: a maker of tokens has more to say than it was given.
#[test]
fn a_token_says_who_somebody_is_and_confers_what_it_may() {
    let maker = Maker::new("k1");
    let setup = Setup::new().policies(BY_GROUP).principals("[group.ops]\n");
    fs::write(setup.path().join("jwks.json"), maker.jwks()).unwrap();
    let broker = setup.methods(&["tokens"], TOKENS).start();
    for version in [Version::Mqtt311, Version::Mqtt5] {
        // The user name is nobody's word for it.
        let connect = login(version, "ann", &maker.token("ann", 60));
        let connect = Connect { username: Some("root".into()), ..connect };
        broker.client(&connect).disconnect();
    }
    let mut ann = broker.client(&enhanced("ann", &maker.token("ann", 60)));
    let properties = ann.connack.properties.clone();
    assert!(properties.contains(&(0x15, wire::text("JWT"))), "[MQTT-4.12.0-5] {properties:?}");
    assert_eq!(suback(&mut ann, "site/north/a"), 1);
    assert_eq!(suback(&mut ann, "site/south/a"), 0x87);
    // The client id that the token is good for, and no other.
    let other = Connect { client_id: "bob".into(), ..enhanced("ann", &maker.token("ann", 60)) };
    assert_eq!(refusal(broker.raw(), &other), 0x85);
    let accepted = broker.audited("the login", |record| is(record, "connection.accepted", "ann"));
    assert_eq!(accepted["principal"]["type"], "Service", "{accepted}");
    assert_eq!(accepted["principal"]["id"], "ann");
}

#[test]
fn a_group_that_does_not_exist_is_no_surprise_of_the_first_login() {
    let setup = Setup::new();
    fs::write(setup.path().join("jwks.json"), Maker::new("k1").jwks()).unwrap();
    let refused = setup.methods(&["tokens"], TOKENS).refused();
    let why = "authentication.tokens.groups names \"ops\"";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
}

/// Threat: authentication bypass: what is wrong with one method is not tried with the next.
#[test]
fn a_wrong_token_is_no_password_and_no_error_leads_on() {
    let maker = Maker::new("k1");
    let setup = Setup::new().principals("[group.ops]\n");
    let stranger = Maker::new("k1").token("ann", 60);
    // Somebody's password is, of all things, a token that is not good.
    set_password(setup.path(), "ann", std::str::from_utf8(&stranger).unwrap());
    set_password(setup.path(), "bob", "battery staple");
    fs::write(setup.path().join("jwks.json"), maker.jwks()).unwrap();
    let tables =
        format!("{TOKENS}[authentication.staff]\nmethod = \"password\"\nfile = \"passwords\"\n");
    let broker = setup.methods(&["tokens", "staff"], &tables).start();
    for token in [
        stranger,
        maker.token("eve", 0),
        maker.sign(&json!({"sub": "ann"})),
        b"eyJhbGciOiJub25lIn0.e30.".to_vec(),
    ] {
        assert_eq!(
            refusal(broker.raw(), &login(Version::Mqtt5, "ann", &token)),
            BAD_USER_NAME_OR_PASSWORD
        );
        assert_eq!(refusal(broker.raw(), &enhanced("ann", &token)), crate::NOT_AUTHORIZED);
        why(&broker, "ann", "by method `tokens`");
    }
    assert_eq!(hashes(&broker), 0, "no password was looked at");
    let unknown = property::authentication_method("GS2-KRB5");
    let unknown = Connect::new(Version::Mqtt5, "ann").properties(&unknown);
    assert_eq!(refusal(broker.raw(), &unknown), BAD_AUTHENTICATION_METHOD);
    // What is none of its kind goes on to the next.
    broker.client(&login(Version::Mqtt5, "bob", b"battery staple"));
    broker.client(&login(Version::Mqtt5, "ann", &maker.token("ann", 60)));
}

/// Threat: a session outlives what it was admitted by.
#[test]
fn a_session_ends_with_its_token_unless_another_is_shown() {
    let maker = Maker::new("k1");
    let setup = Setup::new().principals("[group.ops]\n");
    fs::write(setup.path().join("jwks.json"), maker.jwks()).unwrap();
    let broker = setup.methods(&["tokens"], TOKENS).start();
    let mut stays = broker.client(&enhanced("stays", &maker.token("stays", 3)));
    let mut brief = broker.client(&enhanced("brief", &maker.token("brief", 3)));
    let mut old = broker.client(&login(Version::Mqtt311, "old", &maker.token("old", 3)));
    let begun = SystemTime::now();
    // Shown again in time, it goes on.
    stays.raw.send(&wire::auth_by(0x19, "JWT", &maker.token("stays", 60)));
    let answer = stays.raw.recv_packet();
    assert_eq!((answer[0], answer[2]), (0xf0, 0), "{answer:02x?}");
    broker.audited("the renewal", |record| is(record, "authentication.renewed", "stays"));
    brief.raw.expect_disconnect(&[0x87]);
    old.raw.expect_closed();
    let lasted = begun.elapsed().unwrap();
    assert!(lasted <= Duration::from_millis(3500), "{lasted:?}");
    stays.ping();
}

/// Threat: a live session changes hands.
#[test]
fn who_authenticates_again_as_somebody_else_is_thrown_out() {
    let maker = Maker::new("k1");
    let setup = Setup::new().principals("[group.ops]\n");
    fs::write(setup.path().join("jwks.json"), maker.jwks()).unwrap();
    let broker = setup.methods(&["tokens"], TOKENS).start();
    let mut other_site = claims("ann", 60);
    other_site["site"] = json!("south");
    let mut other_groups = claims("ann", 60);
    other_groups["groups"] = json!([]);
    let packets = [
        (wire::auth_by(0x19, "JWT", &maker.token("bob", 60)), 0x87),
        (wire::auth_by(0x19, "JWT", &maker.sign(&other_site)), 0x87),
        (wire::auth_by(0x19, "JWT", &maker.sign(&other_groups)), 0x87),
        (wire::auth_by(0x19, "JWT", &Maker::new("k1").token("ann", 60)), 0x87),
        (wire::auth_by(0x19, "JWT", b"nothing"), 0x87),
        (wire::auth_by(0x19, "SCRAM-SHA-256", &maker.token("ann", 60)), 0x82),
        (wire::auth_by(0x18, "JWT", &maker.token("ann", 60)), 0x82),
    ];
    for (packet, reason) in packets {
        let mut ann = broker.client(&enhanced("ann", &maker.token("ann", 60)));
        ann.raw.send(&packet);
        ann.raw.expect_disconnect(&[reason]);
    }
    // Whoever came with a password has no method to go on with.
    let mut ann = broker.client(&login(Version::Mqtt5, "ann", &maker.token("ann", 60)));
    ann.raw.send(&wire::auth_by(0x19, "JWT", &maker.token("ann", 60)));
    ann.raw.expect_disconnect(&[0x82]);
}

/// Threat: keys that are gone still open the door; a key server that fails lets anybody in.
#[test]
fn keys_are_taken_from_a_server_and_from_a_file_that_changes() {
    let (first, second) = (Maker::new("k1"), Maker::new("k2"));
    let setup = Setup::new().principals("[group.ops]\n");
    fs::write(setup.path().join("jwks.json"), first.jwks()).unwrap();
    let server = Server::start(first.jwks());
    let tables = format!(
        "{TOKENS}[authentication.fetched]\nmethod = \"jwt\"\nissuer = \"https://id.example\"\n\
         audience = [\"mqtt\"]\nkeys_url = \"http://{}/keys\"\n[listener.fetched]\n\
         address = \"127.0.0.1:0\"\nplaintext = true\nauthentication = [\"fetched\"]\n",
        server.address
    );
    let broker = setup.methods(&["tokens"], &tables).start();
    let fetched: SocketAddr = broker.address("fetched");
    let ask = |maker: &Maker| {
        let mut raw = crate::Raw::tcp(fetched);
        raw.send(&enhanced("ann", &maker.token("ann", 60)).bytes());
        let code = wire::Connack::parse(Version::Mqtt5, &raw.recv_packet()).code;
        if code == 0 {
            // Its session is over before somebody else asks for one of that name.
            raw.send(&wire::DISCONNECT);
            raw.expect_closed();
        }
        code
    };
    server.asked();
    // The answer may be on its way: until it is there nobody gets in.
    let code = std::iter::repeat_with(|| ask(&first)).find(|code| *code != SERVER_UNAVAILABLE);
    assert_eq!(code, Some(0));
    assert_eq!(ask(&second), crate::NOT_AUTHORIZED);
    let mut ann = broker.client(&enhanced("ann", &first.token("ann", 60)));
    fs::write(broker.path().join("jwks.json"), second.jwks()).unwrap();
    broker.audited("the new keys", |record| record["event"] == "credentials.reloaded");
    assert_eq!(
        refusal(broker.raw(), &enhanced("ann", &first.token("ann", 60))),
        crate::NOT_AUTHORIZED
    );
    Client::connect(broker.address("mqtt"), &enhanced("bob", &second.token("bob", 60)));
    ann.ping();
    // No file of keys is an open door.
    fs::write(broker.path().join("jwks.json"), "{}").unwrap();
    broker.audited("the refusal", |record| record["event"] == "credentials.reload-failed");
    Client::connect(broker.address("mqtt"), &enhanced("bob", &second.token("bob", 60)));
}
