//! Portcullis: a security-hardened MQTT broker.
//!
//! Every connection passes through admission, TLS, identity, rate, size and feature gates before
//! Cedar policies decide what it may publish, subscribe to and receive.
//!
//! # Layers
//!
//! Each module uses only those below it; `tests/architecture.rs` holds that.
//!
//! | layer | modules |
//! |---|---|
//! | the program | [`cli`] |
//! | the configuration | [`config`] |
//! | the edges | [`server`], [`admin`] |
//! | enrolment, a process of its own | [`est`] |
//! | the shared parts | [`broker`] |
//! | what decides, routes, records | [`gates`], [`router`], [`audit`] |
//! | what a policy means | [`policy`] |
//! | who, and the state of one client | [`identity`], [`session`] |
//! | words | [`mqtt`], [`pki`], [`metrics`] |
//!
//! # The life of one PUBLISH
//!
//! `server::connection` has it in one place: the length cap before anything is allocated →
//! [`gates::rate`] → decode → [`gates::size`] → [`gates::features`] → [`session::Session::receive`]
//! (alias resolved, QoS 2 duplicate known) → [`gates::authorize`] → a
//! [`policy::Permitted`] message or a [`gates::Refusal`] → [`router::Router::publish`] →
//! [`session::Session::settle`] (the acknowledgement with its reason) → [`audit`] for a refusal.
//!
//! # Invariants
//!
//! - What is authorised is what is routed: a permit holds the message by value, and the router
//!   takes nothing else.
//! - What a client receives was judged for it under the policies in force when it left.
//! - A session belongs to the principal that made it.
//! - Every queue, map, loop and wait has a bound; any error on the way to a decision refuses.

pub mod admin;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod config;
pub mod est;
#[doc(hidden)]
pub mod fuzzing;
pub mod gates;
mod harmless;
pub mod identity;
pub mod metrics;
pub mod mqtt;
pub mod pki;
pub mod policy;
pub mod registry;
pub mod router;
pub mod server;
pub mod session;
pub mod store;
mod suggest;
