//! Where brokers are run on disks that are made for them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::image::Image;
use super::shim::{Ended, Process, Shim};
use crate::crash::ROOMY;
use crate::harness::{Broker, Setup};

/// A broker's folder, with a folder in it that is the disk of its store.
pub(super) struct Bench {
    /// Only its folder is of use: the process has ended.
    broker: Broker,
    shim: Shim,
}

impl Bench {
    /// No broker runs, and the disk is empty.
    pub(super) fn new() -> Self {
        let setup = Setup::new().plaintext().config(ROOMY);
        fs::create_dir(setup.path().join("disk")).unwrap();
        let mut broker = setup.config("[store]\nfolder = \"disk/store\"").start();
        broker.signal(Signal::KILL);
        broker.wait();
        let bench = Self { broker, shim: Shim::build() };
        bench.wipe();
        bench
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.broker.path().join("disk")
    }

    /// A path for a file that is no part of the disk.
    pub(super) fn aside(&self, name: &str) -> PathBuf {
        self.broker.path().join(name)
    }

    pub(super) fn wipe(&self) {
        fs::remove_dir_all(self.disk()).unwrap();
        fs::create_dir(self.disk()).unwrap();
    }

    /// Puts what a power cut has left in the place of what is there.
    pub(super) fn put(&self, image: &Image) {
        self.wipe();
        image.write(&self.disk());
    }

    /// Keeps what is on the disk, to look at.
    pub(super) fn keep(&self, path: &Path) {
        let copied = std::process::Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([&self.disk(), path])
            .status();
        eprintln!("the disk is kept in {}: {copied:?}", path.display());
    }

    /// Starts the broker as it is.
    pub(super) fn start(&self) -> Result<Process, Ended> {
        Process::start(self.broker.path(), &[])
    }

    /// Starts the broker with its system calls written down, or made to fail.
    pub(super) fn start_shimmed(&self, variables: &[(&str, String)]) -> Result<Process, Ended> {
        let mut all = self.shim.variables(&self.disk()).to_vec();
        all.extend_from_slice(variables);
        Process::start(self.broker.path(), &all)
    }
}
