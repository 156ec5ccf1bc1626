//! `[devices]` and `[flapping]`: whom the broker takes down by itself, and whom it bans.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::kind::{Flag, Text, Word, list, network};
use super::profile;
use super::quantity::{count, span};
use super::section::Section;
use crate::gates::{Profile, flapping};
use crate::registry::{Registration, Rule, Settings};

const REGISTRATION: Word<Registration> = Word(&[
    ("off", Registration::Off),
    ("pending", Registration::Pending),
    ("automatic", Registration::Automatic),
]);

/// How devices become known, and the profile of those that wait.
pub(super) fn read_devices(
    section: &mut Section<'_>,
    profiles: &BTreeMap<String, Arc<Profile>>,
) -> (Settings, Option<Arc<Profile>>) {
    let default = Settings::default();
    let registration = section.take("registration", &REGISTRATION, Registration::Off);
    let name = Text { bytes_max: 64, expects: "the NAME of a [profile.NAME]" };
    let profile = section.find("pending_profile", &name);
    let group = Text { bytes_max: 512, expects: "a group of principals.toml" };
    let group = section.find("pending_group", &group);
    let pending_max = u32::try_from(default.pending_max).unwrap_or(u32::MAX);
    let pending_max = section.take("pending_max", &count(1, 100_000), pending_max);
    let per_minute = default.pending_per_minute;
    let pending_per_minute = section.take("pending_per_minute", &count(1, 60_000), per_minute);
    let approve = section.named_sections("approve");
    let approve = approve.into_iter().filter_map(|(_, mut rule)| read_rule(&mut rule)).collect();
    for key in ["pending_profile", "approve"] {
        if section.has(key) && registration != Registration::Pending {
            section.warn(key, "has no effect on new devices without registration = \"pending\"");
        }
    }
    for (key, other) in [("pending_profile", "pending_group"), ("pending_group", "pending_profile")]
    {
        if section.has(key) && !section.has(other) {
            let message = "lets in who waits, whom policies cannot tell from others, or who has \
                           the limits of others";
            section.refuse(key, message, &format!("set {other} too, or remove it"));
        }
    }
    let found = profile.as_ref().and_then(|name| profiles.get(name));
    if let (Some(name), None) = (&profile, found) {
        let remedy = format!("add [profile.{name}], or name another");
        section.refuse("pending_profile", &format!("names no profile: {name:?}"), &remedy);
    }
    if profile.as_deref() == Some(profile::DEFAULT) {
        let remedy = "name one with lower limits";
        section.refuse("pending_profile", "is what everybody has", remedy);
    }
    let settings = Settings {
        registration,
        pending_max: pending_max as usize,
        pending_per_minute,
        approve,
        quarantine: group.map(Into::into).filter(|_| found.is_some()),
    };
    (settings, found.cloned())
}

fn read_rule(section: &mut Section<'_>) -> Option<Rule> {
    let sha256 = Text { bytes_max: 64, expects: "the SHA-256 that `check` prints of a CA" };
    let issuer = section.find("issuer", &sha256);
    let is_sha256 = |text: &String| {
        text.len() == 64 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    if issuer.as_ref().is_some_and(|issuer| !is_sha256(issuer)) {
        let remedy = "write the 64 hexadecimal digits that `check` prints as issuer";
        section.refuse("issuer", "is no SHA-256 in lower case", remedy);
    }
    let text = Text { bytes_max: 512, expects: "a name in which * stands for any text" };
    let name = section.find("name", &text);
    if name.is_none() && !section.has("name") {
        let remedy = "write name = \"sensor-*\", or name = \"*\" for all of the authority";
        section.refuse("name", "is missing", remedy);
    }
    Some(Rule { issuer: issuer.map(Into::into), name: name?.into() })
}

/// How often somebody may come and go.
pub(super) fn read_flapping(section: &mut Section<'_>) -> Option<flapping::Settings> {
    let several = count(2, 1_000_000);
    let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
    let loopback = || ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok());
    let enabled = section.take("enabled", &Flag, true);
    let settings = flapping::Settings {
        connects_max: section.take("connects_max", &several, 60),
        address_connects_max: section.take("address_connects_max", &several, 600),
        window: section.take("window", &span(second, day), Duration::from_mins(1)),
        ban: section.take("ban", &span(second, 30 * day), Duration::from_mins(5)),
        exempt: section.take("exempt", &list(network()), loopback().collect()),
    };
    enabled.then_some(settings)
}
