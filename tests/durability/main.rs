//! What was acknowledged is there again, whatever ended the broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod backup;
mod crash;
mod damage;
mod full;
mod model;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod power;
mod quotas;
mod retained;
mod sessions;
mod shares;
mod store;

use harness::wire::{Connect, Version};
use harness::{Broker, Setup};
use rustix::process::Signal;

/// How a broker ends: in order, and at once.
const ENDS: [Signal; 2] = [Signal::TERM, Signal::KILL];

fn start() -> Broker {
    Setup::new().plaintext().start()
}

/// A client whose session lives for an hour.
fn lasting(client_id: &str) -> Connect {
    Connect::new(Version::Mqtt5, client_id).durable()
}
