//! A folder with what a person has who runs the program in it, and OpenSSL beside.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test programs, each of which uses a part; a test fails by panic"
)]

pub mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// A folder, in which commands run.
pub struct Place(TempDir);

impl Place {
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes a file for nobody else.
    pub fn write_secret(&self, name: &str, text: &str) {
        self.write(name, text);
        self.set_mode(name, 0o600);
    }

    pub fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn command(&self, program: &str, line: &str) -> Command {
        let mut command = Command::new(program);
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("PORTCULLIS_PASSPHRASE");
        command
    }

    pub fn portcullis(&self, line: &str) -> Output {
        self.command(PORTCULLIS, line).output().unwrap()
    }

    /// Runs a command that has to succeed; what it says on standard output.
    pub fn run(&self, line: &str) -> String {
        let output = self.portcullis(line);
        assert!(output.status.success(), "{line}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to be refused; why it was.
    pub fn refused(&self, line: &str) -> String {
        let output = self.portcullis(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output));
        text(&output)
    }

    pub fn openssl(&self, line: &str) -> String {
        let output = self.command("openssl", line).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", text(&output));
        text(&output)
    }

    /// The certificates of the authority in `ca`.
    pub fn listed(&self) -> Vec<Value> {
        json_lines(&self.run("cert list --ca ca --json"))
    }
}

/// What a program has said.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The lines of a file that may be written to: the last one counts when it is whole.
pub fn json_lines(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until something is so; the time is a bound, not a guess.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
