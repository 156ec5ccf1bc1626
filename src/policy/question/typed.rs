//! Facts as a person types them, and what they are to the broker.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::facts::{ConnectFacts, EnrollFacts, SessionFacts};
use super::super::schema::Action;
use super::{FACTS, QuestionError, Sample, TIME, not_mqtt};
use crate::identity::{CertificateFacts, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{ClientId, ProtocolVersion, TopicName, UserProperties};
use crate::suggest::nearest;

/// Facts as typed, known by name.
pub(super) struct Facts<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Facts<'a> {
    pub(super) fn read(typed: &[(&'a str, &'a str)]) -> Result<Self, QuestionError> {
        for (index, (name, _)) in typed.iter().enumerate() {
            if *name == "share_group" {
                return Err(QuestionError::new(
                    "share_group is a part of the filter",
                    "write $share/GROUP/… as the resource",
                ));
            }
            let several = matches!(*name, "user_property" | "dns_name" | "organizational_unit");
            if !several && typed.iter().take(index).any(|(before, _)| before == name) {
                return Err(QuestionError::new(format!("{name} stands twice"), "write it once"));
            }
            let known = FACTS.iter().any(|(known, _)| known == name)
                || name.strip_prefix("tag:").is_some_and(|tag| !tag.is_empty());
            if !known {
                let remedy = nearest(name, FACTS.iter().map(|(known, _)| *known)).map_or_else(
                    || {
                        let names: Vec<&str> = FACTS.iter().map(|(known, _)| *known).collect();
                        format!("known facts are {}", names.join(", "))
                    },
                    |known| format!("did you mean {known}?"),
                );
                return Err(QuestionError::new(format!("{name:?} is no fact"), remedy));
            }
        }
        Ok(Self(typed.to_vec()))
    }

    /// A fact that the action never looks at is a misunderstanding.
    pub(super) fn check_used(&self, action: Action) -> Result<(), QuestionError> {
        const PACKET: &[Action] = &[Action::Publish, Action::Receive];
        for (name, _) in &self.0 {
            let used: &[Action] = match *name {
                "qos" => &[Action::Publish, Action::Subscribe, Action::Receive],
                "retain" | "payload_size" | "content_type" | "user_property" => PACKET,
                "will" => &[Action::Publish],
                "no_local" => &[Action::Subscribe],
                "clean_start" | "session_expiry" | "keep_alive" | "has_will" => &[Action::Connect],
                "method" | "factory" => &[Action::Enroll],
                "client_id" | "protocol_version" => &Action::OF_CLIENTS,
                _ => &Action::ALL,
            };
            if !used.contains(&action) {
                let words: Vec<&str> = used.iter().map(|action| action.as_str()).collect();
                return Err(QuestionError::new(
                    format!("{name} is no fact of {}", action.as_str()),
                    format!("remove it; it belongs to {}", words.join(" and ")),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    pub(super) fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a str> + 'b {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| *value)
    }

    pub(super) fn parsed<T>(
        &self,
        name: &str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, QuestionError> {
        let Some(text) = self.find(name) else { return Ok(default) };
        parse(text).ok_or_else(|| {
            let example = FACTS.iter().find(|(known, _)| *known == name);
            let example = example.map_or("", |(_, example)| example);
            QuestionError::new(
                format!("{name}={text} cannot be read"),
                format!("write it like {name}={example}"),
            )
        })
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, QuestionError> {
        self.parsed(name, default, |text| text.parse().ok())
    }

    pub(super) fn number<T: std::str::FromStr>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, QuestionError> {
        self.parsed(name, default, |text| text.parse().ok())
    }

    pub(super) fn qos(&self) -> Result<Qos, QuestionError> {
        self.parsed("qos", Qos::AtMostOnce, |text| Qos::from_u8(text.parse().ok()?))
    }

    pub(super) fn moment(
        &self,
        name: &str,
        default: SystemTime,
    ) -> Result<SystemTime, QuestionError> {
        self.parsed(name, default, |text| {
            let read = humantime::parse_rfc3339_weak(text);
            read.or_else(|_| humantime::parse_rfc3339(&format!("{text}T00:00:00Z"))).ok()
        })
    }

    pub(super) fn now(&self) -> Result<SystemTime, QuestionError> {
        let fixed = humantime::parse_rfc3339_weak(TIME).unwrap_or(SystemTime::UNIX_EPOCH);
        self.moment("time", fixed)
    }

    pub(super) fn connect(&self) -> Result<ConnectFacts, QuestionError> {
        Ok(ConnectFacts {
            clean_start: self.flag("clean_start", true)?,
            session_expiry_s: self.number("session_expiry", 0)?,
            keep_alive_s: self.number("keep_alive", 60)?,
            has_will: self.flag("has_will", false)?,
            now: self.now()?,
        })
    }

    /// What proves who enrolls.
    fn method(&self) -> &'a str {
        self.find("method").unwrap_or("token")
    }

    pub(super) fn enroll(
        &self,
        kind: PrincipalKind,
        profile: &str,
    ) -> Result<EnrollFacts, QuestionError> {
        const METHODS: [&str; 3] = ["token", "factory", "renewal"];
        if kind == PrincipalKind::Anonymous {
            let why = "nobody enrolls without a name";
            return Err(QuestionError::new(why, "write Device, User or Service"));
        }
        let method = self.method();
        if !METHODS.contains(&method) {
            let remedy = format!("write one of {}", METHODS.join(", "));
            return Err(QuestionError::new(format!("method={method} is none"), remedy));
        }
        if self.find("factory").is_some() != (method == "factory") {
            let why = "a factory belongs to method=factory, and that method to a factory";
            return Err(QuestionError::new(why, "write both facts, or neither"));
        }
        let profile = profile.strip_prefix("Profile::").unwrap_or(profile).trim_matches('"');
        Ok(EnrollFacts {
            profile: profile.into(),
            method: method.into(),
            factory: self.find("factory").map(Arc::from),
            now: self.now()?,
        })
    }

    pub(super) fn sample(&self, topic: &str) -> Result<Sample, QuestionError> {
        let topic =
            TopicName::parse(topic).map_err(|violation| not_mqtt("name", topic, violation.what))?;
        let size = |text: &str| {
            let size: bytesize::ByteSize = text.parse().ok()?;
            usize::try_from(size.as_u64()).ok()
        };
        let properties = self.all("user_property").map(|property| {
            let (name, value) = property.split_once('=').unwrap_or((property, ""));
            (name.into(), value.into())
        });
        Ok(Sample {
            topic,
            qos: self.qos()?,
            retain: self.flag("retain", false)?,
            will: self.flag("will", false)?,
            payload_bytes: self.parsed("payload_size", 64, size)?,
            content_type: self.find("content_type").map(Box::from),
            user_properties: UserProperties(properties.collect()),
        })
    }

    pub(super) fn session(
        &self,
        action: Action,
        resource: &str,
        name: &str,
    ) -> Result<SessionFacts, QuestionError> {
        let client_id = self.find("client_id").unwrap_or(name);
        let version = |text: &str| match text {
            "3" | "3.1" => Some(ProtocolVersion::V31),
            "4" | "3.1.1" => Some(ProtocolVersion::V311),
            "5" | "5.0" => Some(ProtocolVersion::V5),
            _ => None,
        };
        let listener = match (action, self.find("listener")) {
            (Action::Connect, Some(other)) if other != resource => {
                return Err(QuestionError::new(
                    format!("the resource is {resource:?}, and listener={other}"),
                    "the listener of a connect is its resource; remove the fact",
                ));
            }
            (Action::Connect, _) => resource,
            (Action::Enroll, said) => said.unwrap_or("est"),
            (_, said) => said.unwrap_or("devices"),
        };
        let unquoted = listener.strip_prefix("Listener::").unwrap_or(listener).trim_matches('"');
        Ok(SessionFacts {
            client_id: ClientId::parse(client_id).ok_or_else(|| {
                QuestionError::new("the client id is empty", "write client_id=NAME")
            })?,
            listener: unquoted.into(),
            source_ip: self
                .parsed("source_ip", IpAddr::V4(Ipv4Addr::LOCALHOST), |text| text.parse().ok())?,
            protocol: self.parsed("protocol_version", ProtocolVersion::V5, version)?,
            tls_version: self.parsed("tls_version", 13, |text| {
                let version = text.parse().ok()?;
                matches!(version, 0 | 12 | 13).then_some(version)
            })?,
        })
    }

    pub(super) fn tags(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let tag = |(name, value): &(&str, &str)| {
            Some((Arc::from(name.strip_prefix("tag:")?), Arc::from(*value)))
        };
        self.0.iter().filter_map(tag).collect()
    }

    pub(super) fn certificate(
        &self,
        kind: PrincipalKind,
        action: Action,
        name: &Arc<str>,
    ) -> Result<Option<CertificateFacts>, QuestionError> {
        const YEAR: Duration = Duration::from_hours(24 * 365);
        // Who enrolls by token has none yet.
        let is_first = action == Action::Enroll && self.method() == "token";
        if !self.flag("certificate", kind != PrincipalKind::Anonymous && !is_first)? {
            return Ok(None);
        }
        let not_after = self.moment("not_after", self.now()? + YEAR)?;
        let since = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Some(CertificateFacts {
            cn: self.find("cn").map_or_else(|| Arc::clone(name), Arc::from),
            fingerprint: self.find("fingerprint").unwrap_or_default().into(),
            issuer: self.find("issuer").unwrap_or_default().into(),
            serial: "".into(),
            not_after_unix_s: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            spiffe: self.find("spiffe").map(Arc::from),
            dns_names: self.all("dns_name").map(Arc::from).collect(),
            uris: self.find("spiffe").map(Arc::from).into_iter().collect(),
            organizational_units: self.all("organizational_unit").map(Arc::from).collect(),
        }))
    }
}
