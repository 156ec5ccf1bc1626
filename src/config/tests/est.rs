//! The configuration of enrolment, and what explains it.

use super::super::*;
use super::{file, uncommented};
use crate::est::NamePattern;
use crate::pki::ProfileName;
use std::collections::BTreeSet;
use std::path::Path;

fn parse(text: &str, overrides: &[&str]) -> Result<EstConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    EstConfig::from_text("pki.toml", text, Path::new("/etc/p"), &overrides)
}

fn accept(text: &str, overrides: &[&str]) -> EstConfig {
    parse(text, overrides).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

const LEAST: &str =
    "[est]\naddress = \"127.0.0.1:0\"\n[est.tls]\ncertificate = \"c\"\nkey = \"k\"\n";

#[test]
fn devices_of_every_name_and_no_factory_unless_it_is_said() {
    let config = accept(LEAST, &[]);
    assert_eq!(config.warnings, Vec::<String>::new());
    let est = config.est;
    assert_eq!(est.authority, Path::new("/etc/p/ca"));
    assert_eq!(est.policies, Path::new("/etc/p/enrolment"));
    assert_eq!(est.profiles.len(), 1);
    assert_eq!(est.profiles[0].profile, ProfileName::Device);
    assert_eq!(est.profiles[0].names[0].as_str(), "*");
    assert_eq!((est.factories.len(), est.broker_socket), (0, None));
    assert!(!est.tls.tls_1_2);
}

#[test]
fn the_explained_file_has_every_key_at_its_default() {
    let normalised = |key: &str| {
        key.replace("est.profile.device.", "est.profile.NAME.")
            .replace("est.factory.acme.", "est.factory.NAME.")
    };
    let text = file("pki.toml");
    let standing = accept(&text, &[]);
    assert_eq!(standing.warnings, Vec::<String>::new());
    let explained = accept(&uncommented(&text), &[]);
    for default in &standing.origins {
        let stated = explained.origins.iter().find(|origin| origin.key == default.key);
        let stated = stated.unwrap_or_else(|| panic!("no {}", default.key));
        let is_example = default.value == "unset";
        assert!(is_example || stated.value == default.value, "{default:?} {stated:?}");
    }
    let stated = |origin: &&Origin| matches!(origin.from, SetBy::File { .. });
    let known: BTreeSet<String> = explained.origins.iter().map(|it| normalised(&it.key)).collect();
    let stated: BTreeSet<String> =
        explained.origins.iter().filter(stated).map(|it| normalised(&it.key)).collect();
    let forgotten: Vec<&String> = known.difference(&stated).collect();
    assert_eq!(forgotten, Vec::<&String>::new());
    assert!(known.len() > 25, "{known:?}");
    let acme = &explained.est.factories[0];
    assert_eq!(
        (&*acme.name, &acme.names[..]),
        ("acme", &[NamePattern::parse("${cn}").unwrap()][..])
    );
}

#[test]
fn what_is_wrong_is_named_with_the_remedy() {
    for (text, expected) in [
        ("[est]\n", "est.address is missing; write address = \"0.0.0.0:8443\""),
        ("[est.tls]\n", "est.tls.certificate is missing; write the path of a PEM file"),
        ("[est.profile.ca]\n", "est.profile.ca is no profile"),
        ("[est.factory.x]\n", "est.factory.x.ca is missing"),
        (
            "[est.factory.x]\nca = \"a\"\nprofile = \"user\"\n",
            "est.factory.x.profile is \"user\", which is not given; add [est.profile.user]",
        ),
        ("[est.profile.device]\nnames = [\"${cn}\"]\n", "which only a factory's certificate has"),
        ("[est.profile.device]\nnames = []\n", "is empty; name some"),
        ("[est]\nrequests_burst = 0\n", "est.requests_burst is 0, and 0 never means unlimited"),
        (
            "[est]\nfirst_byte_deadline = \"1m\"\n",
            "est.first_byte_deadline is longer than request_deadline",
        ),
        ("[est]\npolices = \"p\"\n", "est.polices is not a known key; did you mean policies?"),
        ("[control]\n", "control is not a known key"),
        (
            "[est]\naddress = \"0.0.0.0:8443\"\n[lists]\naddress = \"127.0.0.1:8443\"\n\
             [est.tls]\ncertificate = \"c\"\nkey = \"k\"\n",
            "lists.address is 127.0.0.1:8443, where est.address listens already",
        ),
        ("[lists]\nvalidity = \"1m\"\n", "lists.validity is"),
        ("policies = \"p\"\n", "policies is not a known key"),
    ] {
        let error = parse(text, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.contains("pki.toml"), "{error}");
    }
}

#[test]
fn a_name_that_no_certificate_says_deserves_a_word() {
    let text = format!("{LEAST}[est.factory.x]\nca = \"a\"\nnames = [\"${{cn}}\", \"pump-*\"]\n");
    let config = accept(&text, &[]);
    assert!(config.warnings[0].starts_with("est.factory.x.names lets"), "{:?}", config.warnings);
}

#[test]
fn the_units_keep_broker_and_authority_apart() {
    let (broker, authority) = (file("portcullis.service"), file("portcullis-pki.service"));
    let words: Vec<&str> = authority.split_whitespace().collect();
    let set = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1]);
    let set: Vec<&str> = set.collect();
    assert_eq!(set.len(), 4);
    assert_eq!(set[..2], set[2..], "what is checked is what is served");
    accept(&file("pki.toml"), &set);
    for line in authority.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let is_section = line.starts_with('[') && line.ends_with(']');
        assert!(is_section || line.split_once('=').is_some(), "{line}");
    }
    assert!(broker.contains("InaccessiblePaths=-/etc/portcullis-pki -/var/lib/portcullis-pki"));
    assert!(authority.contains("User=portcullis-pki") && authority.contains("LimitCORE=0"));
    assert!(authority.contains("InaccessiblePaths=-/etc/portcullis "));
    // What confines the broker confines the authority.
    let hardening = |unit: &str| -> BTreeSet<String> {
        let (_, rest) = unit.split_once("# Nothing beyond its own folders").unwrap();
        rest.lines().map(ToOwned::to_owned).collect()
    };
    assert_eq!(hardening(&broker), hardening(&authority));
}
