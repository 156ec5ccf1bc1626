//! Which paths a configuration names, and what is done with each.

use std::path::PathBuf;

use crate::config::{Config, EstConfig, Origin};

/// What is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A file is read, and again when another has taken its place.
    Read,
    /// A list of revoked certificates, or a folder of such: as a file, and nobody would notice
    /// that a new one cannot be read.
    List,
    /// A folder is read, and again when another has taken its place.
    Policies,
    /// A file of credentials is read, and replaced when a hash is renewed.
    Credentials,
    /// Lines are written to the end of a file.
    Append,
    /// Everything in a folder is this process's own.
    Own,
    /// A socket is made in a folder.
    Socket,
    /// Nothing: it is no file, or somebody else's.
    Nothing,
}

/// A path of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) path: PathBuf,
    pub(super) what_for: Use,
}

/// The paths that the broker uses. A key that nobody thought of here is a file to be read.
pub(super) fn of_broker(config: &Config) -> Vec<Place> {
    let is_kept = config.store.is_some();
    let is_fetched = config.revocation.as_ref().is_some_and(|it| it.fetch.is_some());
    let has_hashes = |key: &str| {
        let method = key.strip_prefix("authentication.").and_then(|it| it.strip_suffix(".file"));
        config.methods.iter().any(|it| it.replaces_hashes() && method == Some(&*it.name))
    };
    places(&config.origins, |key| match key {
        "policies" => Use::Policies,
        "audit.path" => Use::Append,
        "store.folder" if is_kept => Use::Own,
        "revocation.fetched" if is_fetched => Use::Own,
        "store.folder" | "revocation.fetched" => Use::Nothing,
        "revocation.lists" => Use::List,
        "control.socket" => Use::Socket,
        key if key.strip_suffix(".unix").is_some() => Use::Socket,
        key if has_hashes(key) => Use::Credentials,
        _ => Use::Read,
    })
}

/// The paths that enrolment uses, but for the authority's folder.
pub(super) fn of_enrolment(config: &EstConfig) -> Vec<Place> {
    places(&config.origins, |key| match key {
        "est.policies" => Use::Policies,
        "audit.path" => Use::Append,
        "revocation.lists" => Use::List,
        "est.authority" | "est.broker_socket" => Use::Nothing,
        _ => Use::Read,
    })
}

fn places(origins: &[Origin], what_for: impl Fn(&str) -> Use) -> Vec<Place> {
    let named = origins.iter().flat_map(|origin| {
        let key = &origin.key;
        let what_for = what_for(key);
        origin.paths.iter().map(move |path| Place {
            key: key.clone(),
            path: path.clone(),
            what_for,
        })
    });
    named.filter(|place| place.what_for != Use::Nothing).collect()
}
