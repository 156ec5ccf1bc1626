//! The policy layer as its callers see it. Every allow has its deny.

mod caches;
mod cases;
mod engine;
mod explain;
mod hostile;
mod placeholders;
mod random;
mod soundness;
mod succession;
pub(super) mod world;
