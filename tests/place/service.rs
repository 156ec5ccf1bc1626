//! Programs that serve: the authority, and a broker beside it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PORTCULLIS, Place, json_lines};

/// The least that `pki serve` needs in a folder of [`Place::with_service`].
pub const CONFIG: &str = r#"
[est]
address = "127.0.0.1:0"
authority = "ca"
policies = "policies"
connections_burst_per_address = 10000
connections_per_second_per_address = 10000
[est.tls]
certificate = "localhost.pem"
key = "localhost.key"
[audit]
path = "est.jsonl"
"#;

/// Devices may enroll, but for one.
pub const PERMIT_ALL: &str = r#"
@id("devices") permit (principal is Device, action == Action::"enroll", resource);
@id("no-evil") forbid (principal == Device::"evil", action == Action::"enroll", resource);
"#;

/// A broker that trusts the authority, beside [`CONFIG`]; further tables may follow.
pub const BROKER: &str = r#"
policies = "permissive"
[listener.devices]
address = "127.0.0.1:0"
[listener.devices.tls]
certificate = "localhost.pem"
key = "localhost.key"
client_ca = "ca/trust.pem"
[store]
folder = "store"
[audit]
path = "broker.jsonl"
"#;

impl Place {
    /// With an authority in `ca`, a certificate for services, and policies.
    pub fn with_service() -> Self {
        let place = Self::empty();
        place.run("ca init --dir ca --name Plant --no-passphrase");
        place.run("cert issue --ca ca --profile server --name localhost --ip 127.0.0.1");
        std::fs::create_dir(place.path("policies")).unwrap();
        place.write("policies/all.cedar", PERMIT_ALL);
        std::fs::create_dir(place.path("permissive")).unwrap();
        let permit = "@id(\"all\") permit (principal, action, resource);";
        place.write("permissive/all.cedar", permit);
        place.write("pki.toml", CONFIG);
        place
    }

    /// Runs `pki serve`.
    pub fn serve(&self) -> Process {
        Process::start(&mut self.command(PORTCULLIS, "pki serve --config pki.toml --ready-json"))
    }

    /// Runs a broker.
    pub fn serve_broker(&self) -> Process {
        Process::start(&mut self.command(PORTCULLIS, "serve --config broker.toml --ready-json"))
    }

    /// The events of a kind in an audit file.
    pub fn events(&self, file: &str, event: &str) -> Vec<Value> {
        let mut lines = json_lines(&self.read(file));
        lines.retain(|line| line["event"] == event);
        lines
    }
}

/// A program that serves, until this is dropped.
pub struct Process {
    pub child: Child,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Process {
    /// Starts it, and waits for what it says then.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        if ready.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            let _ = child.wait();
            panic!("it does not serve: {said}");
        }
        Self { child, ready: serde_json::from_str(&ready).unwrap() }
    }

    /// An address that it said.
    pub fn address(&self, pointer: &str) -> String {
        let address = self.ready.pointer(pointer).and_then(Value::as_str);
        address.unwrap_or_else(|| panic!("no {pointer} in {}", self.ready)).to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it in order, so that all is in its audit file; what it said on standard error.
    pub fn end(mut self) -> String {
        self.signal(Signal::TERM);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
