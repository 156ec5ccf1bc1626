//! A question as a person writes it: who, what, on which topic, with which facts.
//!
//! Case tables, `policy explain` and `policy diff` all ask in this form. What is not said has the
//! value of an ordinary client: TLS 1.3, MQTT 5, QoS 0, a certificate whose common name is the
//! principal's. The time is fixed unless it is said, so that an answer does not depend on the day.

mod typed;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::cache::Small;
use super::enrolment::Enrolment;
use super::facts::{
    ConnectFacts, EnrollFacts, Publication, PublishFacts, ReceiveFacts, SessionFacts,
    SubscribeFacts,
};
use super::permit::Denial;
use super::schema::Action;
use super::subject::{Subject, TopicQuestion};
use super::{Bundle, Permitted};
use crate::identity::{Identity, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{SubscriptionFilter, TopicName, UserProperties};
use crate::suggest::nearest;
use typed::Facts;

/// The time of a question that says none: noon of 1 July 2026, UTC, a Wednesday.
pub const TIME: &str = "2026-07-01T12:00:00Z";

/// Every fact that can be said, with an example.
pub const FACTS: [(&str, &str); 28] = [
    ("qos", "1"),
    ("retain", "true"),
    ("will", "true"),
    ("payload_size", "64KiB"),
    ("content_type", "application/json"),
    ("user_property", "name=value"),
    ("no_local", "true"),
    ("clean_start", "false"),
    ("session_expiry", "3600"),
    ("keep_alive", "60"),
    ("has_will", "true"),
    ("method", "token"),
    ("factory", "acme"),
    ("time", "2026-07-01T12:00:00Z"),
    ("client_id", "dev1"),
    ("listener", "devices"),
    ("source_ip", "10.0.0.9"),
    ("protocol_version", "5"),
    ("tls_version", "13"),
    ("cn", "dev1"),
    ("fingerprint", "ab12…, hex"),
    ("issuer", "ab12…, hex"),
    ("not_after", "2030-01-01T00:00:00Z"),
    ("spiffe", "spiffe://plant/dev1"),
    ("dns_name", "dev1.example"),
    ("organizational_unit", "Operators"),
    ("certificate", "false"),
    ("tag:NAME", "fra1"),
];

/// Who asks for what, with every fact settled.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks. Its groups are those that were said; the policies add their own.
    pub identity: Arc<Identity>,
    /// The connection.
    pub session: Arc<SessionFacts>,
    /// What is asked for.
    pub asked: Asked,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Asked {
    /// To connect to the listener of the session facts.
    Connect(ConnectFacts),
    /// To publish, or to leave a will.
    Publish {
        /// The message.
        message: Sample,
        /// The present time.
        now: SystemTime,
    },
    /// To subscribe.
    Subscribe {
        /// The filter.
        filter: SubscriptionFilter,
        /// The other facts.
        facts: SubscribeFacts,
    },
    /// To be delivered a message.
    Receive {
        /// The message.
        message: Sample,
        /// The present time.
        now: SystemTime,
    },
    /// To be given a certificate.
    Enroll(EnrollFacts),
}

impl Asked {
    /// The action it is judged as.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::Connect(_) => Action::Connect,
            Self::Publish { .. } => Action::Publish,
            Self::Subscribe { .. } => Action::Subscribe,
            Self::Receive { .. } => Action::Receive,
            Self::Enroll(_) => Action::Enroll,
        }
    }
}

/// A message as far as policies look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The topic.
    pub topic: TopicName,
    /// The quality of service.
    pub qos: Qos,
    /// The retain flag.
    pub retain: bool,
    /// The message is a will.
    pub will: bool,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// MQTT 5's content type.
    pub content_type: Option<Box<str>>,
    /// MQTT 5's user properties.
    pub user_properties: UserProperties,
}

impl Publication for Sample {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn facts(&self) -> PublishFacts<'_> {
        PublishFacts {
            qos: self.qos,
            retain: self.retain,
            will: self.will,
            payload_bytes: self.payload_bytes,
            content_type: self.content_type.as_deref(),
            user_properties: Some(&self.user_properties),
        }
    }
}

impl Sample {
    pub(super) fn delivery(&self, now: SystemTime) -> ReceiveFacts<'_> {
        ReceiveFacts {
            qos: self.qos,
            retain: self.retain,
            payload_bytes: self.payload_bytes,
            content_type: self.content_type.as_deref(),
            user_properties: Some(&self.user_properties),
            now,
        }
    }

    pub(super) fn question(&self, action: Action, now: SystemTime) -> TopicQuestion<'_> {
        let small = Small { qos: self.qos, retain: self.retain, will: self.will };
        TopicQuestion { action, topic: &self.topic, small, payload_bytes: self.payload_bytes, now }
    }
}

/// What the policies say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Allowed, by these policies, in order of their ids.
    Allowed(Vec<Arc<str>>),
    /// Denied.
    Denied(Denial),
}

impl Answer {
    /// True when it is allowed.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The policies that decided, in order of their ids; none when nothing permits it, or when an
    /// evaluation failed.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        match self {
            Self::Allowed(policies) => policies,
            Self::Denied(denial) => &denial.policies,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(policies) => write!(f, "allowed by {}", policies.join(", ")),
            Self::Denied(denial) => write!(f, "denied: {denial}"),
        }
    }
}

/// Why a text is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QuestionError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
    /// Where it is wrong.
    pub part: Part,
}

/// A part of a question in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The principal.
    Principal,
    /// The action.
    Action,
    /// The resource.
    Resource,
    /// The facts.
    Facts,
}

impl QuestionError {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into(), part: Part::Facts }
    }

    fn of(self, part: Part) -> Self {
        Self { part, ..self }
    }
}

/// A question in words, before it is read.
#[derive(Clone, Debug, Default)]
pub struct Words<'a> {
    /// Such as `Device::dev1`; with Cedar's quotes or without.
    pub principal: &'a str,
    /// Groups it is in, besides those that the policies give it.
    pub groups: Vec<&'a str>,
    /// `connect`, `publish`, `subscribe`, `receive` or `enroll`.
    pub action: &'a str,
    /// The listener of a connect, the filter of a subscribe, the profile of an enrolment, otherwise
    /// the topic.
    pub resource: &'a str,
    /// Names and values, see [`FACTS`].
    pub facts: Vec<(&'a str, &'a str)>,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, groups, action, resource, facts } = self;
        write!(f, "{principal} {action} {resource}")?;
        if !groups.is_empty() {
            write!(f, " in {}", groups.join(","))?;
        }
        for (index, (name, value)) in facts.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " with " } else { " " })?;
        }
        Ok(())
    }
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// [`QuestionError`] for what is unknown, malformed, or has no meaning for the action.
    pub fn parse(words: &Words<'_>) -> Result<Self, QuestionError> {
        let (kind, name) = principal(words.principal).map_err(|error| error.of(Part::Principal))?;
        let action = action(words.action).map_err(|error| error.of(Part::Action))?;
        let facts = Facts::read(&words.facts)?;
        facts.check_used(action)?;
        let session = facts.session(action, words.resource, &name)?;
        let asked = match action {
            Action::Connect => Asked::Connect(facts.connect()?),
            Action::Publish => {
                Asked::Publish { message: facts.sample(words.resource)?, now: facts.now()? }
            }
            Action::Subscribe => Asked::Subscribe {
                filter: SubscriptionFilter::parse(words.resource)
                    .map_err(|violation| not_mqtt("filter", words.resource, violation.what))?,
                facts: SubscribeFacts {
                    qos: facts.qos()?,
                    no_local: facts.flag("no_local", false)?,
                    now: facts.now()?,
                },
            },
            Action::Receive => {
                Asked::Receive { message: facts.sample(words.resource)?, now: facts.now()? }
            }
            Action::Enroll => Asked::Enroll(facts.enroll(kind, words.resource)?),
        };
        let identity = Identity {
            kind,
            groups: words.groups.iter().map(|group| Arc::from(*group)).collect(),
            tags: facts.tags(),
            certificate: facts.certificate(kind, action, &name)?.map(Arc::new),
            name,
        };
        Ok(Self { identity: Arc::new(identity), session: Arc::new(session), asked })
    }

    /// A group of the question that the policies do not declare, and in which nobody is then.
    #[must_use]
    pub fn undeclared_group(&self, bundle: &Bundle) -> Option<QuestionError> {
        let declared = bundle.declared_groups()?;
        let group = self.identity.groups.iter().find(|group| !declared.contains(group))?;
        let known = nearest(group, declared.iter().map(|(known, _)| &**known));
        let remedy = known.map_or_else(
            || "declare it among the groups of the principals, or correct it".to_owned(),
            |known| format!("did you mean {known}?"),
        );
        Some(QuestionError::new(format!("group {group:?} is not declared"), remedy))
    }

    /// What these policies say, asked past every cache.
    #[must_use]
    pub fn ask(&self, bundle: &Arc<Bundle>) -> Answer {
        self.ask_as(&mut self.subject(bundle))
    }

    /// As [`Self::ask`]; the subject is this question's own.
    pub(super) fn ask_as(&self, subject: &mut Subject) -> Answer {
        match subject.permits(&self.asked) {
            Ok(permits) => Answer::Allowed(permits),
            Err(denial) => Answer::Denied(denial),
        }
    }

    /// What the broker would decide: the same judgement that a packet meets, caches included.
    ///
    /// # Errors
    /// The denial.
    pub fn judge(&self, bundle: &Arc<Bundle>) -> Result<(), Denial> {
        self.judge_as(&mut self.subject(bundle))
    }

    /// As [`Self::judge`]; the subject is this question's own.
    pub(super) fn judge_as(&self, subject: &mut Subject) -> Result<(), Denial> {
        match &self.asked {
            Asked::Connect(facts) => subject.connect(facts),
            Asked::Publish { message, now } => {
                let judged = subject.publish(message.clone(), *now);
                judged.map(drop).map_err(|denied| denied.denial)
            }
            Asked::Subscribe { filter, facts } => {
                subject.subscribe(filter, facts).map(Permitted::into_inner).map(drop)
            }
            Asked::Receive { message, now } => {
                subject.receive(&message.topic, &message.delivery(*now))
            }
            Asked::Enroll(facts) => {
                let enrolment = Enrolment::of(&self.identity, &self.session, facts);
                subject.bundle().check_enrolment(&enrolment)
            }
        }
    }

    /// Who asks, with the connection, under these policies.
    pub(super) fn subject(&self, bundle: &Arc<Bundle>) -> Subject {
        Subject::new(Arc::clone(bundle), Arc::clone(&self.identity), Arc::clone(&self.session))
    }
}

/// Reads a principal by type and name, such as `Device::dev1`; quotes around the name are not of
/// the name.
///
/// # Errors
/// [`QuestionError`] for an unknown type or an empty name.
pub(super) fn principal(text: &str) -> Result<(PrincipalKind, Arc<str>), QuestionError> {
    const KINDS: [PrincipalKind; 4] = [
        PrincipalKind::Device,
        PrincipalKind::User,
        PrincipalKind::Service,
        PrincipalKind::Anonymous,
    ];
    let remedy = "write a type and a name, such as Device::dev1";
    let (typed, name) = text
        .split_once("::")
        .ok_or_else(|| QuestionError::new(format!("{text:?} is no principal"), remedy))?;
    let kind = KINDS.into_iter().find(|kind| kind.as_str() == typed).ok_or_else(|| {
        let remedy = nearest(typed, KINDS.map(PrincipalKind::as_str)).map_or_else(
            || "write Device, User, Service or Anonymous".to_owned(),
            |known| format!("did you mean {known}?"),
        );
        QuestionError::new(format!("{typed:?} is no type of principal"), remedy)
    })?;
    let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    let name = quoted.unwrap_or(name);
    if name.is_empty() {
        return Err(QuestionError::new(format!("{text:?} has no name"), remedy));
    }
    Ok((kind, name.into()))
}

fn action(text: &str) -> Result<Action, QuestionError> {
    Action::ALL.into_iter().find(|action| action.as_str() == text).ok_or_else(|| {
        let remedy = nearest(text, Action::ALL.map(Action::as_str)).map_or_else(
            || "write connect, publish, subscribe, receive or enroll".to_owned(),
            |known| format!("did you mean {known}?"),
        );
        QuestionError::new(format!("{text:?} is no action"), remedy)
    })
}

fn not_mqtt(what: &str, text: &str, why: &str) -> QuestionError {
    QuestionError::new(format!("{text:?} is no topic {what}: {why}"), "correct it")
        .of(Part::Resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::world::bundle;

    const POLICIES: &str = r#"
        @id("own") permit (principal is Device, action in [Action::"write", Action::"read"],
            resource in TopicFilter::"devices/${cn}/#");
        @id("small") permit (principal in Group::"sensors", action == Action::"publish",
            resource in TopicFilter::"sensors/#") when { context.payload_size <= 1024 };
        @id("door") permit (principal, action == Action::"connect", resource == Listener::"devices")
            when { context.time < datetime("2026-12-31") };
        @id("locked") forbid (principal, action in Action::"write",
            resource in TopicFilter::"+/+/command/#");
    "#;

    fn ask(text: &str) -> Result<String, QuestionError> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().unwrap_or_default();
        let (principal, groups, action, resource) = (next(), next(), next(), next());
        let question = Question::parse(&Words {
            principal,
            groups: groups.split(',').filter(|group| *group != "-").collect(),
            action,
            resource,
            facts: parts.map(|fact| fact.split_once('=').unwrap_or((fact, ""))).collect(),
        })?;
        let bundle = bundle(POLICIES);
        let answer = question.ask(&bundle);
        assert_eq!(answer.is_allowed(), question.judge(&bundle).is_ok(), "{text}");
        Ok(answer.to_string())
    }

    #[test]
    fn an_answer_names_the_policies_that_decide() {
        for (text, expected) in [
            ("Device::dev1 - publish devices/dev1/t", "allowed by own"),
            ("Device::\"dev1\" - publish devices/dev2/t", "denied: no policy permits it"),
            ("Device::dev1 - publish devices/dev1/command/x", "denied: forbidden by locked"),
            ("Device::dev1 - subscribe $share/g/devices/dev1/#", "allowed by own"),
            ("Device::dev1 - receive devices/dev1/command/x qos=2", "allowed by own"),
            ("Device::dev1 - publish devices/other/t cn=other", "allowed by own"),
            ("User::u sensors publish sensors/t payload_size=1KiB", "allowed by small"),
            ("User::u sensors publish sensors/t payload_size=1025", "denied: no policy permits it"),
            ("User::u - connect devices", "allowed by door"),
            ("User::u - connect devices time=2027-01-01", "denied: no policy permits it"),
        ] {
            assert_eq!(ask(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused_with_a_remedy() {
        for (text, expected) in [
            (
                "dev1 - publish a",
                "\"dev1\" is no principal; write a type and a name, such as Device::dev1",
            ),
            ("Devise::d - publish a", "\"Devise\" is no type of principal; did you mean Device?"),
            (
                "Device:: - publish a",
                "\"Device::\" has no name; write a type and a name, such as Device::dev1",
            ),
            ("Device::d - pubish a", "\"pubish\" is no action; did you mean publish?"),
            (
                "Device::d - publish a/#",
                "\"a/#\" is no topic name: a topic name holds a wildcard; correct it",
            ),
            ("Device::d - publish a qoos=1", "\"qoos\" is no fact; did you mean qos?"),
            ("Device::d - publish a qos=3", "qos=3 cannot be read; write it like qos=1"),
            ("Device::d - publish a qos=1 qos=0", "qos stands twice; write it once"),
            (
                "Device::d - subscribe a share_group=g",
                "share_group is a part of the filter; write $share/GROUP/… as the resource",
            ),
            (
                "Device::d - publish a keep_alive=3",
                "keep_alive is no fact of publish; remove it; it belongs to connect",
            ),
            (
                "Device::d - connect a listener=b",
                "the resource is \"a\", and listener=b; the listener of a connect is its resource; remove the fact",
            ),
        ] {
            let error = ask(text).unwrap_err();
            assert_eq!(format!("{error}; {}", error.remedy), expected, "{text}");
        }
    }
}
