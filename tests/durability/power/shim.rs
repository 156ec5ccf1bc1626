//! Brokers whose system calls go through `shim.c`, and brokers without it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::raw::PATIENCE;
use crate::harness::{PORTCULLIS, lines_of};

/// How often a process is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The compiled shim.
pub(super) struct Shim {
    folder: TempDir,
}

impl Shim {
    pub(super) fn build() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durability/power");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([folder.path().join("shim.so"), sources.join("shim.c"), sources.join("trap.c")])
            .output();
        let output = built.unwrap_or_else(|error| {
            panic!(
                "these tests need a C compiler; `{compiler}`: {error}. Install one (Debian: \
                 `apt-get install gcc libc6-dev`), or name it in the variable CC"
            )
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} cannot compile the shim:\n{said}");
        Self { folder }
    }

    /// What has a process use it, for a disk.
    pub(super) fn variables(&self, disk: &Path) -> [(&'static str, String); 2] {
        let library = self.folder.path().join("shim.so");
        [("LD_PRELOAD", library.display().to_string()), ("SHIM_FOLDER", disk.display().to_string())]
    }
}

/// A running broker.
pub(super) struct Process {
    child: Child,
    folder: PathBuf,
    pub(super) address: SocketAddr,
}

/// How a broker ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stderr: String,
}

impl Process {
    /// Starts the broker of this folder, with what the shim is to do.
    pub(super) fn start(folder: &Path, variables: &[(&str, String)]) -> Result<Self, Ended> {
        let log = std::fs::File::create(folder.join("stderr.txt")).unwrap();
        let mut child = Command::new(PORTCULLIS)
            .args(["serve", "--ready-json", "--config", "portcullis.toml"])
            .current_dir(folder)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {PORTCULLIS}: {error}"));
        let lines = lines_of(child.stdout.take().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut broker = Self { child, folder: folder.to_owned(), address };
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let said: Value = serde_json::from_str(&line).unwrap_or_default();
                    if said["ready"] == true {
                        let address = said["listeners"]["mqtt"].as_str().unwrap();
                        broker.address = address.parse().unwrap();
                        return Ok(broker);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(broker.end()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the broker is not ready in time; it says:\n{}", broker.stderr())
                }
            }
        }
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the process ends by itself.
    pub(super) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, stderr: self.stderr() };
            }
            assert!(Instant::now() < deadline, "it does not end; it says:\n{}", self.stderr());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    pub(super) fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr.txt")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is not killed: nobody but this reaps it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's standard error\n{}", self.stderr());
        }
    }
}
