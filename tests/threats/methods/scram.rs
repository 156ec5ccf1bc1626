//! SCRAM-SHA-256.

use std::fs;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::Raw;
use crate::harness::Setup;
use crate::harness::wire::{self, Connack, property};

const STRONG: &str = "[authentication.strong]\nmethod = \"scram\"\nfile = \"records\"\n";
const METHOD: &str = "SCRAM-SHA-256";

fn strong() -> Broker {
    let setup = Setup::new();
    for (name, secret) in [("ann", "correct horse"), ("bob", "battery staple")] {
        let arguments = ["set", name, "--scram", "--file", "records", "--stdin"];
        let set = password(setup.path(), &arguments, secret);
        assert!(set.status.success(), "{set:?}");
    }
    setup.methods(&["strong"], STRONG).start()
}

fn properties(data: &[u8]) -> Vec<u8> {
    [property::authentication_method(METHOD), property::authentication_data(data)].concat()
}

fn auth(reason: u8, data: &[u8]) -> Vec<u8> {
    wire::auth_by(reason, METHOD, data)
}

/// The data of an AUTH of the broker, which has this reason.
fn data_of(packet: &[u8], reason: u8) -> String {
    assert_eq!((packet[0], packet[2]), (0xf0, reason), "{packet:02x?}");
    let (_, rest) = wire::read_varint(&packet[3..]);
    let (_, data) = wire::properties(rest).into_iter().find(|(id, _)| *id == 0x16).unwrap();
    String::from_utf8(data[2..].to_vec()).unwrap()
}

/// The client's last message, and the proof that the broker has to give.
fn answer(first: &str, challenge: &str, secret: &str) -> (String, String) {
    let part = |name: &str| {
        challenge.split(',').find_map(|part| part.strip_prefix(name)).unwrap().to_owned()
    };
    let (nonce, salt) = (part("r="), BASE64.decode(part("s=")).unwrap());
    let rounds = part("i=").parse().unwrap();
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, secret.as_bytes(), &mut salted);
    let mac = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let client_key = mac(&salted, "Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let last = format!("c=biws,r={nonce}");
    let all = format!("{first},{challenge},{last}");
    let signature = mac(stored_key.as_ref(), &all);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let verifier = mac(&mac(&salted, "Server Key"), &all);
    (format!("{last},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(verifier)))
}

/// Sends CONNECT and the answer to the challenge: CONNACK, the proof that is due, and the way.
fn log_in(broker: &Broker, name: &str, secret: &str) -> (Connack, String, Raw) {
    let mut raw = broker.raw();
    let first = format!("n={name},r=clientnonce");
    let connect = Connect::new(Version::Mqtt5, name);
    raw.send(&connect.properties(&properties(format!("n,,{first}").as_bytes())).bytes());
    let challenge = data_of(&raw.recv_packet(), 0x18);
    let (last, due) = answer(&first, &challenge, secret);
    raw.send(&auth(0x18, last.as_bytes()));
    (Connack::parse(Version::Mqtt5, &raw.recv_packet()), due, raw)
}

/// Threat: authentication bypass.
#[test]
fn a_password_is_proven_without_being_sent_and_the_broker_proves_itself() {
    let broker = strong();
    let (connack, due, mut raw) = log_in(&broker, "ann", "correct horse");
    assert_eq!(connack.code, 0);
    assert!(connack.properties.contains(&(0x15, wire::text(METHOD))), "{connack:?}");
    assert!(connack.properties.contains(&(0x16, wire::text(&due))), "{connack:?}");
    // Again, on the live connection.
    let first = "n=ann,r=another";
    raw.send(&auth(0x19, format!("n,,{first}").as_bytes()));
    let challenge = data_of(&raw.recv_packet(), 0x18);
    let (last, due) = answer(first, &challenge, "correct horse");
    raw.send(&auth(0x18, last.as_bytes()));
    assert_eq!(data_of(&raw.recv_packet(), 0), due);
    // As somebody else it is the end.
    let first = "n=bob,r=another";
    raw.send(&auth(0x19, format!("n,,{first}").as_bytes()));
    let challenge = data_of(&raw.recv_packet(), 0x18);
    let (last, _) = answer(first, &challenge, "battery staple");
    raw.send(&auth(0x18, last.as_bytes()));
    raw.expect_disconnect(&[0x87]);

    for (name, secret) in [("ann", "wrong"), ("eve", "correct horse")] {
        let (connack, _, mut raw) = log_in(&broker, name, secret);
        assert_eq!((connack.code, connack.properties.len()), (0x87, 0), "{name}");
        raw.expect_closed();
    }
    why(&broker, "ann", "the password is wrong");
    why(&broker, "eve", "there is no such name");
    assert!(!format!("{:?}", broker.audit()).contains("horse"));
}

/// Threat: names that are told apart.
#[test]
fn a_name_that_is_not_there_is_challenged_like_one_that_is() {
    let mut broker = strong();
    let challenge = |broker: &Broker, name: &str| {
        let mut raw = broker.raw();
        let first = format!("n,,n={name},r=x");
        let connect = Connect::new(Version::Mqtt5, name);
        raw.send(&connect.properties(&properties(first.as_bytes())).bytes());
        let challenge = data_of(&raw.recv_packet(), 0x18);
        let (_, salted) = challenge.split_once(',').unwrap();
        salted.to_owned()
    };
    let (ann, eve) = (challenge(&broker, "ann"), challenge(&broker, "eve"));
    assert_eq!(ann.len(), eve.len());
    assert_ne!(challenge(&broker, "joe"), eve);
    broker.restart(rustix::process::Signal::TERM);
    assert_eq!(challenge(&broker, "ann"), ann);
    assert_eq!(challenge(&broker, "eve"), eve, "the same for ever, as a salt is");
}

/// Threat: something is done before CONNACK; memory before authentication.
#[test]
fn nothing_but_the_answer_is_taken_before_connack() {
    let broker = strong();
    let begin = || {
        let mut raw = broker.raw();
        let connect = Connect::new(Version::Mqtt5, "ann");
        raw.send(&connect.properties(&properties(b"n,,n=ann,r=x")).bytes());
        data_of(&raw.recv_packet(), 0x18);
        raw
    };
    let publish = wire::Publish::new("a", "x").bytes(Version::Mqtt5);
    let huge = wire::packet(0xf0, &[0; 64]);
    for (what, bytes) in [
        ("a publication", publish),
        ("a ping", vec![0xc0, 0]),
        ("a second CONNECT", Connect::new(Version::Mqtt5, "ann").bytes()),
        ("AUTH that begins anew", auth(0x19, b"n,,n=ann,r=x")),
        ("AUTH of another method", wire::auth_by(0x18, "JWT", b"x")),
        ("AUTH with zeros", huge),
        ("AUTH without data", auth(0x18, b"")),
        ("AUTH with nonsense", auth(0x18, b"c=biws,r=x,p=AAAA")),
        ("AUTH that claims 256 MiB", vec![0xf0, 0xff, 0xff, 0xff, 0x7f]),
    ] {
        let mut raw = begin();
        raw.send(&bytes);
        let connack = Connack::parse(Version::Mqtt5, &raw.recv_packet());
        assert!(connack.code >= 0x80, "{what}: {connack:?}");
        raw.expect_closed();
    }
    for first in ["", "n,,n=ann", "p=tls-exporter,,n=ann,r=x", "n,a=root,n=ann,r=x"] {
        let connect = Connect::new(Version::Mqtt5, "ann").properties(&properties(first.as_bytes()));
        assert_eq!(crate::refusal(broker.raw(), &connect), 0x87, "{first}");
    }
    // Silence ends with the deadline of the connection.
    begin().expect_closed();
    // What was guessed counts, whatever it was: it is forgotten with time.
    assert!(fs::read_to_string(broker.path().join("records")).unwrap().starts_with("!secret:"));
}
