//! Passwords, tokens, SCRAM and the HTTP back end: whoever proves nothing is nobody.

mod backend;
mod passwords;
mod scram;
mod tokens;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::wire::{Connect, Version};
use crate::harness::{Broker, PORTCULLIS};

const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
const SERVER_UNAVAILABLE: u8 = 0x88;
const BAD_AUTHENTICATION_METHOD: u8 = 0x8c;
const CONNECTION_RATE_EXCEEDED: u8 = 0x9f;

/// Runs `portcullis password`, with a line of input.
fn password(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(PORTCULLIS)
        .arg("password")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read it.
    let _ = child.stdin.take().unwrap().write_all(format!("{input}\n").as_bytes());
    child.wait_with_output().unwrap()
}

/// Sets a password in the file `passwords`.
fn set_password(folder: &Path, name: &str, secret: &str) {
    let set = password(folder, &["set", name, "--file", "passwords", "--stdin"], secret);
    assert!(set.status.success(), "{set:?}");
}

/// CONNECT with a user name, which is the client id too, and a password.
fn login(version: Version, name: &str, secret: &[u8]) -> Connect {
    let (username, password) = (Some(name.into()), Some(secret.to_vec()));
    Connect { username, password, ..Connect::new(version, name) }
}

/// Passwords that were hashed so far.
fn hashes(broker: &Broker) -> u64 {
    let metrics = broker.metrics();
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("portcullis_password_hashes_total "));
    line.unwrap().parse().unwrap()
}

/// Why the last connection of this client id was refused.
fn why(broker: &Broker, client_id: &str, part: &str) {
    broker.audited(part, |record| {
        record["event"] == "connection.refused"
            && record["client_id"] == client_id
            && record["why"].as_str().is_some_and(|why| why.contains(part))
    });
}
