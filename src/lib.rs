//! Portcullis: a security-hardened MQTT broker.
pub mod admin;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod config;
pub mod gates;
pub mod identity;
pub mod metrics;
pub mod mqtt;
pub mod pki;
pub mod policy;
pub mod router;
pub mod server;
pub mod session;
