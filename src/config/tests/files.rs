//! The files in `config/` tell the truth.

use crate::gates::Profile;
use std::collections::BTreeSet;

use super::super::*;
use super::{accept, file, folder, uncommented, value};
use crate::gates::authorize::DeniedPublish;
use crate::identity::{Binding, Source};
use crate::server::listener::Endpoint;

/// The key with names of listeners, profiles and methods replaced.
fn normalised(key: &str) -> String {
    let mut parts: Vec<&str> = key.split('.').collect();
    if matches!(parts[0], "listener" | "profile" | "authentication") && parts.len() > 2 {
        parts[1] = "NAME";
    }
    parts.join(".")
}

#[test]
fn the_explained_file_is_valid_as_it_stands_and_needs_no_warning() {
    let config = accept(&file("portcullis.toml"), &[]);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(*config.listeners[0].profile, profile::built_in());
}

#[test]
fn the_explained_file_states_the_true_default_of_every_key() {
    let text = file("portcullis.toml");
    let standing = accept(&text, &[]);
    let explained = accept(&uncommented(&text), &[]);
    for default in &standing.origins {
        let stated = value(&explained, &default.key);
        let is_example = default.value == "unset";
        assert!(is_example || stated.value == default.value, "{default:?} {stated:?}");
    }
    let mut stated = Profile::clone(&explained.listeners[0].profile);
    // An example of what has no default.
    assert!(stated.features.response_information.take().is_some());
    assert_eq!(stated, profile::built_in());
    assert_eq!(explained.broker, standing.broker);
}

#[test]
fn the_explained_file_has_every_key_and_no_other() {
    // It is accepted, so that it has no key that is unknown.
    let explained = accept(&uncommented(&file("portcullis.toml")), &[]);
    let is_stated = |origin: &&Origin| matches!(origin.from, SetBy::File { .. });
    let known: BTreeSet<String> =
        explained.origins.iter().map(|origin| normalised(&origin.key)).collect();
    let stated: BTreeSet<String> =
        explained.origins.iter().filter(is_stated).map(|origin| normalised(&origin.key)).collect();
    let is_table = |key: &&String| stated.iter().any(|other| other.starts_with(&format!("{key}.")));
    let forgotten: Vec<&String> = known.difference(&stated).filter(|key| !is_table(key)).collect();
    assert_eq!(forgotten, Vec::<&String>::new());
    assert!(known.len() > 70, "{}", known.len());
}

#[test]
fn every_example_is_valid() {
    for name in ["portcullis", "hardened", "small", "conformance", "bench"] {
        let path = folder().join(format!("{name}.toml"));
        let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let quiet = config.warnings.iter().all(|warning| warning.contains("can be changed by"));
        assert!(quiet || name == "bench" || name == "conformance", "{:?}", config.warnings);
    }
}

#[test]
fn the_conformance_file_offers_everything_to_this_machine_only() {
    let config = accept(&file("conformance.toml"), &[]);
    assert_eq!(config.listeners.len(), 2);
    for listener in &config.listeners {
        let Endpoint::Tcp(address) = listener.endpoint else { panic!("not TCP") };
        assert!(address.ip().is_loopback());
        assert_eq!(listener.identity.source, Source::Anonymous);
        assert_eq!(listener.identity.binding, Binding::Unbound);
        let features = &listener.profile.features;
        assert!(features.mqtt_3_1 && features.mqtt_3_1_1 && features.mqtt_5_0);
        assert_eq!(features.session_expiry_s_max, u32::MAX);
        let denied = listener.profile.authorize.denied_publish_v3;
        assert_eq!(denied, DeniedPublish::DropAndAcknowledge);
    }
}

#[test]
fn the_service_unit_is_well_formed_and_its_overrides_are_known() {
    let unit = file("portcullis.service");
    let mut overrides = Vec::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let is_section = line.starts_with('[') && line.ends_with(']');
        assert!(is_section || line.split_once('=').is_some(), "{line}");
        let words: Vec<&str> = line.split(' ').collect();
        let set = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1]);
        overrides.extend(set);
    }
    assert!(overrides.len() >= 2);
    accept(&file("portcullis.toml"), &overrides);
    // The folder of the control socket is refused when others can look into it.
    for hardening in [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=\n",
        "RuntimeDirectoryMode=0700",
    ] {
        assert!(unit.contains(hardening), "{hardening}");
    }
}
