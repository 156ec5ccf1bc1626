//! The load client: a single-threaded MQTT 3.1.1 and 5.0 client of thousands of connections,
//! plain or mutual TLS, and what it takes to measure a server with it.
//!
//! Every benchmark of the project, and every later one, uses this client; figures are only
//! comparable when they come from the same generator.
//!
//! - [`Target`] → [`Client`] → [`Swarm`]: connect, subscribe, publish, count.
//! - [`Exchange`]: publishers and subscribers in groups under a [`Pace`], for whole scenarios.
//! - [`CpuTime`], [`Memory`], [`Latencies`]: what it cost.
#![allow(dead_code, unused_imports, reason = "each benchmark uses its own part of the client")]

mod authority;
mod connection;
mod exchange;
mod latency;
mod process;
mod swarm;
mod transport;
mod wire;

pub(crate) use authority::Authority;
pub(crate) use connection::{Connection, Phase};
pub(crate) use exchange::{Exchange, Pace, Plan};
pub(crate) use latency::Latencies;
pub(crate) use process::{CpuTime, Memory, raise_open_files};
pub(crate) use swarm::{Client, STALL_MAX, Swarm, Target};
pub(crate) use wire::{Publication, Version};
