//! A real broker for tests: the binary, with its own folder, on ports the system chooses.
//!
//! [`Setup`] writes configuration, policies and certificates; [`Broker`] is the running process.
//! When it is dropped, the process is ended by its id and the folder goes.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "shared by several test programs, each of which uses a part; a test fails by panic"
)]

pub mod certificates;
pub mod raw;
pub mod setup;
pub mod tokens;
pub mod websocket;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use certificates::{Authority, Identity};
use raw::{Client, PATIENCE, Raw};
use wire::{Connect, Version};

pub use setup::Setup;

/// The binary under test.
pub const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// How often something is looked at again that cannot be waited for: a file, a process.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A running broker.
pub struct Broker {
    child: Child,
    folder: TempDir,
    listeners: BTreeMap<String, SocketAddr>,
    metrics: Option<SocketAddr>,
    authority: Option<Authority>,
}

/// A broker that refused to start.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Broker {
    /// Starts the binary on a folder that holds `portcullis.toml`, and waits until it is ready.
    fn start(folder: TempDir, authority: Option<Authority>) -> Result<Self, Refused> {
        Self::start_with(&[], folder, authority)
    }

    fn start_with(
        arguments: &[&str],
        folder: TempDir,
        authority: Option<Authority>,
    ) -> Result<Self, Refused> {
        let log = fs::File::create(folder.path().join("stderr.txt")).unwrap();
        let mut child = Command::new(PORTCULLIS)
            .args(["serve", "--ready-json", "--config"])
            .arg(folder.path().join("portcullis.toml"))
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {PORTCULLIS}: {error}"));

        let lines = lines_of(child.stdout.take().unwrap());
        let mut broker =
            Self { child, folder, listeners: BTreeMap::new(), metrics: None, authority };
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
                    if said["ready"] == true {
                        broker.take_ready(&said);
                        return Ok(broker);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = broker.wait();
                    return Err(Refused { status, stderr: broker.stderr() });
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the broker is not ready in time; it says:\n{}", broker.stderr())
                }
            }
        }
    }

    /// Ends the process with this signal and starts it again on the same folder.
    pub fn restart(&mut self, signal: Signal) {
        self.signal(signal);
        self.wait();
        self.start_again(&[]);
    }

    /// Starts a process that has ended again on the same folder, with more arguments.
    pub fn start_again(&mut self, arguments: &[&str]) {
        let elsewhere = tempfile::tempdir().unwrap();
        let folder = std::mem::replace(&mut self.folder, elsewhere);
        *self = Self::start_with(arguments, folder, self.authority.take())
            .unwrap_or_else(|refused| panic!("the broker does not start again: {refused:#?}"));
    }

    fn take_ready(&mut self, said: &Value) {
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        for (name, value) in said["listeners"].as_object().expect("listeners in the ready line") {
            // A Unix socket has a path, which is no address.
            self.listeners.extend(address(value).map(|address| (name.clone(), address)));
        }
        self.metrics = address(&said["metrics"]);
    }

    /// The address of a listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self
            .listeners
            .get(listener)
            .unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.listeners))
    }

    /// The address of the metrics page.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics.expect("the ready line names no metrics address")
    }

    /// The broker's folder: configuration, policies, certificates, audit log.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connection over TCP to the listener `mqtt`.
    pub fn raw(&self) -> Raw {
        Raw::tcp(self.address("mqtt"))
    }

    /// A client of the listener `mqtt`.
    pub fn client(&self, connect: &Connect) -> Client {
        Client::connect(self.address("mqtt"), connect)
    }

    /// A client of the listener `mqtt` with nothing special.
    pub fn simple(&self, version: Version, client_id: &str) -> Client {
        self.client(&Connect::new(version, client_id))
    }

    /// The certificate authority that the listener `mqtts` trusts.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a broker set up with mutual TLS")
    }

    /// A connection over mutual TLS to the listener `mqtts`.
    pub fn raw_tls(&self, identity: &Identity) -> Raw {
        Raw::over(self.authority().connect(self.address("mqtts"), Some(identity)))
    }

    /// A client of the listener `mqtts`.
    pub fn client_tls(&self, identity: &Identity, connect: &Connect) -> Client {
        Client::over(self.raw_tls(identity), connect)
    }

    /// What the broker wrote to its standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr.txt")).unwrap_or_default()
    }

    /// Writes a file in the broker's folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs `portcullis ctl` against this broker.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(PORTCULLIS)
            .arg("ctl")
            .arg("--socket")
            .arg(self.folder.path().join(setup::CONTROL_SOCKET))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// Puts other policies in place and makes the broker take them.
    pub fn reload_policies(&self, policies: &str) -> Output {
        self.write(setup::POLICY_FILE, policies);
        self.ctl(&["reload"])
    }

    /// Every audit record so far, in the order of the log.
    pub fn audit(&self) -> Vec<Value> {
        let mut files = files_below(&self.folder.path().join(setup::AUDIT_FOLDER));
        files.sort();
        let mut records = Vec::new();
        for file in files {
            // A line that is being written has no end yet; it is read next time.
            let text = fs::read_to_string(file).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            records.extend(whole.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
        records
    }

    /// Waits for an audit record.
    pub fn audited(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.audit();
            if let Some(found) = records.iter().find(|record| wanted(record)) {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "no audit record of {what} among {records:#?}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until the diagnostic log says something.
    pub fn said(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not said, but {}", self.stderr());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    /// The text of the metrics page.
    pub fn metrics(&self) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(self.metrics_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal to the process, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        // Its id cannot be somebody else's yet: nobody but this reaps it.
        if self.is_alive() {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                return self.child.wait().unwrap();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Waits until there is something; the time is a bound, not a guess.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(LOOK_AGAIN);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        self.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's standard error\n{}", self.stderr());
        }
    }
}

/// One broker for all tests of a program that run at the same time. It ends with the last of
/// them; a `static` would never be dropped and leave the process behind.
pub struct Shared(Mutex<Weak<Broker>>);

impl Shared {
    /// No broker yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The running broker, or a new one.
    pub fn broker(&self, setup: impl FnOnce() -> Setup) -> Arc<Broker> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = Arc::new(setup().start());
        *shared = Arc::downgrade(&broker);
        broker
    }
}

/// Runs the binary to its end.
pub fn portcullis(arguments: &[&str], folder: &Path) -> Output {
    Command::new(PORTCULLIS)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a process writes to a pipe, line by line. On a thread, because reading a pipe has no deadline;
/// it ends with the process.
pub fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Once the process is ready nobody listens any more; reading on keeps the pipe from
            // filling.
            let _ = sender.send(line);
        }
    });
    lines
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
