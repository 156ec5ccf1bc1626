//! `[devices]` and `[flapping]`.

use super::*;
use crate::registry::{Registration, Settings};

#[test]
fn nobody_is_registered_and_who_comes_and_goes_is_banned_unless_it_is_said() {
    let config = accept(TLS, &[]);
    assert_eq!((config.devices, config.quarantine), (Settings::default(), None));
    let flapping = config.flapping.unwrap();
    assert_eq!((flapping.connects_max, flapping.address_connects_max), (60, 600));
    assert!(accept(TLS, &["flapping.enabled=false"]).flapping.is_none());
    let pending = "[devices]\nregistration = \"pending\"\n[devices.approve.a]\nname = \"s-*\"\n";
    let config = accept(&format!("{TLS}{pending}"), &[]);
    assert_eq!(config.devices.registration, Registration::Pending);
    assert_eq!((&*config.devices.approve[0].name, config.devices.quarantine), ("s-*", None));
    // Where it is gone with the process, that is said.
    let config = accept(&format!("{TLS}{pending}"), &["store.durability=memory"]);
    assert!(config.warnings.iter().any(|warning| warning.contains("states and bans are gone")));
}

#[test]
fn what_would_let_in_more_than_is_meant_is_refused() {
    let quarantine = format!("{TLS}[profile.q.rate]\npackets_per_second = 10\n");
    for (settings, expected) in [
        (&["devices.registration=on"][..], "devices.registration is \"on\""),
        (&["devices.pending_profile=q"], "set pending_group too"),
        (&["devices.pending_group=new"], "set pending_profile too"),
        (&["devices.pending_profile=x", "devices.pending_group=new"], "names no profile: \"x\""),
        (
            &["devices.pending_profile=default", "devices.pending_group=new"],
            "is what everybody has",
        ),
        (&["devices.pending_max=0"], "devices.pending_max is 0"),
        (&["devices.approve.a.issuer=AB", "devices.approve.a.name=x"], "is no SHA-256"),
        (&["devices.approve.a.issuer=x"], "devices.approve.a.name is missing"),
        (&["flapping.exempt=[\"10.0.0.1/8\"]"], "did you mean \"10.0.0.0/8\"?"),
        (&["flapping.connects_max=1"], "flapping.connects_max is less than 2"),
    ] {
        let said = refuse(&quarantine, settings);
        assert!(said.contains(expected), "{said}");
    }
    let both = ["devices.pending_profile=q", "devices.pending_group=new"];
    let config = accept(&quarantine, &both);
    assert_eq!(config.devices.quarantine.as_deref(), Some("new"));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}
