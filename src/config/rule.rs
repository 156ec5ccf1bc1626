//! Rules that say who a client is by its certificate: `[listener.NAME.rule.RULE]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::file::Value;
use super::kind::{Kind, Text, Word, Wrong, list, quoted};
use super::listener::{CLIENT_ID, ClientIdRule, Profiles, named_profile, read_binding};
use super::section::Section;
use crate::gates::Profile;
use crate::identity::certificate::SubjectPart;
use crate::identity::{Asked, NamedBy, PrincipalKind, Rule};

const NAMED_BY: Word<NamedBy> = Word(&[
    (NamedBy::Cn.as_str(), NamedBy::Cn),
    (NamedBy::SanDns.as_str(), NamedBy::SanDns),
    (NamedBy::SanUri.as_str(), NamedBy::SanUri),
    (NamedBy::SanEmail.as_str(), NamedBy::SanEmail),
    (NamedBy::SubjectSerialNumber.as_str(), NamedBy::SubjectSerialNumber),
    (NamedBy::Uid.as_str(), NamedBy::Uid),
    (NamedBy::Serial.as_str(), NamedBy::Serial),
    (NamedBy::Fingerprint.as_str(), NamedBy::Fingerprint),
]);

/// Whoever shows a certificate is not anonymous.
const PRINCIPAL: Word<PrincipalKind> = Word(&[
    ("device", PrincipalKind::Device),
    ("user", PrincipalKind::User),
    ("service", PrincipalKind::Service),
]);

/// The keys that ask about a certificate.
const ASKS: [(&str, Asked); 14] = [
    ("common_name", Asked::Subject(SubjectPart::CommonName)),
    ("organization", Asked::Subject(SubjectPart::Organization)),
    ("organizational_unit", Asked::Subject(SubjectPart::OrganizationalUnit)),
    ("country", Asked::Subject(SubjectPart::Country)),
    ("state", Asked::Subject(SubjectPart::State)),
    ("locality", Asked::Subject(SubjectPart::Locality)),
    ("subject_serial_number", Asked::Subject(SubjectPart::SerialNumber)),
    ("uid", Asked::Subject(SubjectPart::Uid)),
    ("domain_component", Asked::Subject(SubjectPart::DomainComponent)),
    ("san_dns", Asked::SanDns),
    ("san_uri", Asked::SanUri),
    ("san_email", Asked::SanEmail),
    ("serial", Asked::Serial),
    ("fingerprint", Asked::Fingerprint),
];

const PATTERN: Text = Text { bytes_max: 2048, expects: "a value, or one with `*` in it" };
const LABEL: Text = Text { bytes_max: 256, expects: "a name" };
/// Groups and tags of one rule.
const CONFERRED_MAX: usize = 64;

/// Texts by name.
struct Texts;

impl Kind for Texts {
    type Meant = BTreeMap<Arc<str>, Arc<str>>;

    fn parse(&self, value: &Value) -> Result<Self::Meant, Wrong> {
        let Value::Table(table) = value else { return Err(Wrong::noun(value)) };
        if table.entries.len() > CONFERRED_MAX {
            return Err(Wrong::because(format!("has more than {CONFERRED_MAX} entries")));
        }
        let text = |(name, entry): (&String, &super::file::Entry)| {
            let meant = LABEL.parse(&entry.value).map_err(|wrong| {
                Wrong::because(format!("has a value for {name:?} that {}", wrong.message))
            })?;
            Ok((Arc::from(name.as_str()), Arc::from(meant)))
        };
        table.entries.iter().map(text).collect()
    }

    fn show(&self, meant: &Self::Meant) -> String {
        let entries: Vec<String> = meant
            .iter()
            .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
            .collect();
        format!("{{ {} }}", entries.join(", "))
    }

    fn expects(&self) -> String {
        "a table of texts such as { site = \"north\" }".into()
    }
}

/// The rules of a listener.
pub(super) fn read(
    listener: &mut Section<'_>,
    profiles: &Profiles,
    rule_profiles: &mut BTreeMap<Arc<str>, Arc<Profile>>,
) -> Vec<Arc<Rule>> {
    let mut rules = Vec::new();
    for (name, mut section) in listener.named_sections("rule") {
        if let Some(profile) = section.find("profile", &LABEL) {
            let known = named_profile(&mut section, &profile, profiles);
            rule_profiles.extend(known.map(|profile| (name.into(), profile)));
        }
        rules.extend(read_rule(name, &mut section).map(Arc::new));
    }
    rules
}

fn read_rule(name: &str, section: &mut Section<'_>) -> Option<Rule> {
    let issuer = section.find("issuer", &LABEL);
    if let Some(issuer) = &issuer
        && let Err((message, remedy)) = Asked::Fingerprint.check(issuer)
    {
        let message = message.replace("of a certificate", "of an authority's key");
        let remedy = remedy.replace("as the audit log does", "as `portcullis ca show` does");
        section.refuse("issuer", &message, &remedy);
    }
    let mut asks = Vec::new();
    for (key, asked) in ASKS {
        let Some(pattern) = section.find(key, &PATTERN) else { continue };
        match asked.check(&pattern) {
            Ok(pattern) => asks.push((asked, pattern)),
            Err((message, remedy)) => section.refuse(key, &message, remedy),
        }
    }
    let groups = section.take("groups", &list(LABEL), Vec::new());
    if groups.len() > CONFERRED_MAX {
        section.refuse("groups", &format!("has more than {CONFERRED_MAX} names"), "remove some");
    }
    let rule = section.take("client_id", &CLIENT_ID, ClientIdRule::Exact);
    Some(Rule {
        name: name.into(),
        issuer: issuer.map(Arc::from),
        asks,
        named_by: section.take("named_by", &NAMED_BY, NamedBy::Cn),
        kind: section.take("principal", &PRINCIPAL, PrincipalKind::Device),
        groups: groups.into_iter().map(Arc::from).collect(),
        tags: section.take("tags", &Texts, BTreeMap::new()),
        binding: read_binding(section, rule)?,
    })
}
