//! The configuration, in two stages: `file` is what was typed, `checked` is what it means.
//!
//! Every key is read in exactly one place, through a `Section`, with its default and its bounds
//! beside it. So an unknown key is an error with a suggestion, a wrong value is an error with
//! line, column and remedy, all of them are reported at once, and [`Config::origins`] says of
//! every key where its value comes from.
//!
//! Nothing here opens a file but the configuration itself, and nothing below this layer knows
//! TOML: each module gets its own `Settings`.

mod admission;
mod authentication;
mod checked;
mod error;
mod est;
mod file;
mod kind;
mod listener;
mod logs;
mod profile;
mod quantity;
mod reading;
mod registered;
mod revocation;
mod rule;
mod sandbox;
mod section;
#[cfg(test)]
mod tests;

pub use checked::{BrokerSettings, Config, WatchPolicies};
pub use error::{ConfigError, Problem};
pub use est::EstConfig;
pub use logs::{AuditSettings, LogLevel, LogSettings};
pub use sandbox::SandboxMode;
pub use section::{Origin, SetBy};

/// Parses and checks `text` as a configuration file, and draws its errors: never panics.
pub fn fuzz_config_text(text: &str) {
    if let Err(error) = Config::from_text("fuzz.toml", text, std::path::Path::new("/"), &[]) {
        drop(error.render(false));
    }
}
