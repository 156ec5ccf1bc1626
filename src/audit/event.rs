//! The events as types. What a field is called in the log stands here and nowhere else.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::identity::PrincipalKind;
pub use crate::metrics::{Gate, Outcome, Verb};
use crate::mqtt::{ProtocolVersion, ReasonCode, Violation};

pub use super::subject::Subject;
use super::text;

/// Something that happened, to whom, and when.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happened.
    pub time: SystemTime,
    /// The client it is about; `None` when it is about the broker.
    pub subject: Option<Arc<Subject>>,
    /// What happened.
    pub kind: Kind,
}

impl Event {
    /// Something a client did, or that was done to it, just now.
    #[must_use]
    pub fn about(subject: &Arc<Subject>, kind: Kind) -> Self {
        Self { time: SystemTime::now(), subject: Some(Arc::clone(subject)), kind }
    }

    /// Something that happened to the broker as a whole, just now.
    #[must_use]
    pub fn broker(kind: Kind) -> Self {
        Self { time: SystemTime::now(), subject: None, kind }
    }

    /// Bytes that the event may keep alive while it waits, roughly, for the bound of the queue.
    pub(super) fn weight_bytes(&self) -> usize {
        size_of::<Self>()
            + self.subject.as_ref().map_or(0, |subject| subject.weight_bytes())
            + self.kind.weight_bytes()
    }
}

/// A topic or a filter that was asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A topic name.
    Topic(#[serde(serialize_with = "text::topic")] Arc<str>),
    /// A topic filter, with its `$share/…/` where it has one.
    Filter(#[serde(serialize_with = "text::topic")] Arc<str>),
}

/// A set of policies, or a configuration: which, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The hash of its content, lower-case hex.
    #[serde(serialize_with = "text::short")]
    pub hash: Arc<str>,
    /// Counts the versions since the start of the process, from 1.
    pub epoch: u64,
}

/// What happened. The name in the log is in `rename`; fields are named as they are here.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event")]
pub enum Kind {
    /// The broker serves.
    #[serde(rename = "broker.started")]
    BrokerStarted {
        /// The version of the program.
        program_version: &'static str,
        /// The policies in force.
        policy: Version,
    },
    /// The broker is about to exit.
    #[serde(rename = "broker.stopped")]
    BrokerStopped {
        /// The signal or the failure.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },

    /// Something in the store cannot be read, and is done without, as was asked for.
    #[serde(rename = "store.loss-accepted")]
    StoreLossAccepted {
        /// What, where, whose.
        #[serde(serialize_with = "text::words")]
        what: Cow<'static, str>,
    },

    /// A client got a successful CONNACK.
    #[serde(rename = "connection.accepted")]
    ConnectionAccepted {
        /// The version of MQTT.
        #[serde(serialize_with = "text::display")]
        protocol: ProtocolVersion,
        /// It continues a session.
        session_present: bool,
        /// The method of the listener's list by which it has proven who it is, where there is one.
        #[serde(serialize_with = "text::optional_name", skip_serializing_if = "Option::is_none")]
        method: Option<Arc<str>>,
    },
    /// A connection ended before a successful CONNACK.
    #[serde(rename = "connection.refused")]
    ConnectionRefused {
        /// The gate that refused it.
        gate: Gate,
        /// What CONNACK said, or would have said.
        #[serde(serialize_with = "text::reason")]
        reason: ReasonCode,
        /// What the operator should know beyond the reason.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
        /// The normative statement that the client violated, where it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        statement: Option<&'static str>,
    },
    /// An accepted connection ended.
    #[serde(rename = "connection.closed")]
    ConnectionClosed {
        /// What DISCONNECT said, or would have said; of either side.
        #[serde(serialize_with = "text::reason")]
        reason: ReasonCode,
        /// Who ended it, and how.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },

    /// A client has proven once more who it is, while it is connected.
    #[serde(rename = "authentication.renewed")]
    AuthenticationRenewed {
        /// The method.
        #[serde(serialize_with = "text::name")]
        method: Arc<str>,
    },
    /// A password's hash of an older kind was replaced by one of today.
    #[serde(rename = "credential.upgraded")]
    CredentialUpgraded {
        /// The method.
        #[serde(serialize_with = "text::name")]
        method: Arc<str>,
        /// Whose password it is.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The kind that it was of.
        scheme: &'static str,
    },
    /// A file of passwords, records or keys has changed, and is in force.
    #[serde(rename = "credentials.reloaded")]
    CredentialsReloaded {
        /// The method.
        #[serde(serialize_with = "text::name")]
        method: Arc<str>,
    },
    /// A file of passwords, records or keys has changed and cannot be used; the old one stays.
    #[serde(rename = "credentials.reload-failed")]
    CredentialsReloadFailed {
        /// The method.
        #[serde(serialize_with = "text::name")]
        method: Arc<str>,
        /// What is wrong with it.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },

    /// The policies refused something.
    #[serde(rename = "denied")]
    Denied {
        /// What was asked for.
        verb: Verb,
        /// The topic or filter; none for connect.
        #[serde(flatten)]
        target: Option<Target>,
        /// The ids of the policies that forbid it; none when nothing permits it.
        #[serde(serialize_with = "text::policies")]
        policies: Arc<[Arc<str>]>,
        /// What the client was told, or would have been.
        #[serde(serialize_with = "text::reason")]
        reason: ReasonCode,
        /// What the operator should know: which rule, limit or failed evaluation refused it.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },
    /// A client broke the specification.
    #[serde(rename = "violation")]
    Violation {
        /// The normative statement, or the section.
        statement: &'static str,
        /// What is wrong.
        what: &'static str,
        /// What the client was told, or would have been.
        #[serde(serialize_with = "text::reason")]
        reason: ReasonCode,
    },

    /// A certificate claims a group that its authority may not confer; nobody is in it by that.
    #[serde(rename = "group.claim-ignored")]
    GroupClaimIgnored {
        /// The group.
        #[serde(serialize_with = "text::name")]
        group: Arc<str>,
        /// The field of the certificate.
        field: &'static str,
        /// What it says there.
        #[serde(serialize_with = "text::name")]
        value: Arc<str>,
        /// The SHA-256 of the public key of the authority that issued it, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
    },

    /// A session continues on a new connection of its owner; the subject is the old one.
    #[serde(rename = "session.taken-over")]
    SessionTakenOver {
        /// Where the new connection comes from.
        by_address: Option<IpAddr>,
    },
    /// A client asked for a session of another principal; the subject is who asked.
    #[serde(rename = "session.refused-owner")]
    SessionRefusedOwner {
        /// Whose session it is.
        #[serde(serialize_with = "text::principal")]
        owner: (PrincipalKind, Arc<str>),
    },
    /// A subscription ended because the policies changed.
    #[serde(rename = "subscription.withdrawn")]
    SubscriptionWithdrawn {
        /// The filter, with its `$share/…/` where it has one.
        #[serde(serialize_with = "text::topic")]
        filter: Arc<str>,
        /// The ids of the policies that forbid it now; none when nothing permits it any more.
        #[serde(serialize_with = "text::policies")]
        policies: Arc<[Arc<str>]>,
    },
    /// Messages for a session are dropped, or their publishers refused, since as much waits for it
    /// as may; said once a minute.
    #[serde(rename = "session.queue-full")]
    SessionQueueFull {
        /// How many messages wait.
        waiting: u64,
    },
    /// A will was not published.
    #[serde(rename = "will.discarded")]
    WillDiscarded {
        /// Its topic.
        #[serde(serialize_with = "text::topic")]
        topic: Arc<str>,
        /// The ids of the policies that forbid it; none when nothing permits it.
        #[serde(serialize_with = "text::policies")]
        policies: Arc<[Arc<str>]>,
        /// Why it was discarded.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },

    /// Somebody is banned, or the ban has changed.
    #[serde(rename = "ban.added")]
    BanAdded {
        /// The name of the ban.
        ban: u64,
        /// Whom it keeps out.
        #[serde(serialize_with = "text::name")]
        target: Arc<str>,
        /// When it ends, RFC 3339; none: when it is removed.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Arc<str>>,
        /// `operator`, or `flapping`: the broker itself.
        by: &'static str,
        /// The user id of the process that has asked for it, where the kernel told.
        uid: Option<u32>,
        /// Why.
        #[serde(serialize_with = "text::name")]
        why: Arc<str>,
    },
    /// A ban was taken back.
    #[serde(rename = "ban.removed")]
    BanRemoved {
        /// Its name.
        ban: u64,
        /// Whom it kept out.
        #[serde(serialize_with = "text::name")]
        target: Arc<str>,
        /// The user id of the process that has asked for it, where the kernel told.
        uid: Option<u32>,
    },
    /// A ban has ended.
    #[serde(rename = "ban.expired")]
    BanExpired {
        /// Its name.
        ban: u64,
        /// Whom it kept out.
        #[serde(serialize_with = "text::name")]
        target: Arc<str>,
    },
    /// A device that nobody knew was taken down, or one that waited was approved by a rule.
    #[serde(rename = "device.registered")]
    DeviceRegistered {
        /// Its state.
        state: &'static str,
        /// The SHA-256 of the public key of the authority of its certificate, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
    },
    /// Somebody has changed the state of a device, or of another principal.
    #[serde(rename = "device.changed")]
    DeviceChanged {
        /// Who it is.
        #[serde(serialize_with = "text::principal")]
        device: (PrincipalKind, Arc<str>),
        /// Its state now; `unknown` once it was forgotten.
        state: &'static str,
        /// The user id of the process that has asked for it, where the kernel told.
        uid: Option<u32>,
    },

    /// New policies are in force.
    #[serde(rename = "policy.reloaded")]
    PolicyReloaded {
        /// The ones before.
        old: Version,
        /// The ones now.
        new: Version,
    },
    /// New policies could not be loaded; the old ones stay in force.
    #[serde(rename = "policy.reload-failed")]
    PolicyReloadFailed {
        /// The ones that stay.
        old: Version,
        /// What is wrong with the new ones.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },
    /// The revocation lists were loaded: at the start, and whenever a file of them has changed.
    #[serde(rename = "revocation.loaded")]
    RevocationLoaded {
        /// How many certificates they name.
        certificates: u64,
    },
    /// Revocation lists could not be loaded; those in force stay.
    #[serde(rename = "revocation.load-failed")]
    RevocationFailed {
        /// Why: which file, and what is wrong with it.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },
    /// A new configuration is in force, but for the keys that need a restart.
    #[serde(rename = "config.reloaded")]
    ConfigReloaded {
        /// The one before.
        old: Version,
        /// The one now.
        new: Version,
        /// The keys whose values the broker was not started with, and does not obey.
        #[serde(serialize_with = "text::policies")]
        needs_restart: Arc<[Arc<str>]>,
    },
    /// A new configuration could not be taken, or a file of keys and certificates that it names;
    /// the old one stays in force.
    #[serde(rename = "config.reload-failed")]
    ConfigReloadFailed {
        /// The one that stays.
        old: Version,
        /// What is wrong with the new one.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },
    /// Somebody used the control socket.
    #[serde(rename = "control.call")]
    ControlCall {
        /// The user id of the calling process; none if the kernel did not tell.
        uid: Option<u32>,
        /// The command; none if there was none that is known.
        verb: Option<&'static str>,
        /// What it was about, where the command alone does not tell.
        #[serde(serialize_with = "text::words", skip_serializing_if = "str::is_empty")]
        about: Cow<'static, str>,
        /// How it ended.
        outcome: Outcome,
        /// Why it failed.
        #[serde(serialize_with = "text::words", skip_serializing_if = "str::is_empty")]
        why: Cow<'static, str>,
    },

    /// An authority was made, or taken over from elsewhere.
    #[serde(rename = "ca.created")]
    CaCreated {
        /// What it is called.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The SHA-256 of its public key, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
        /// The last second of its validity, RFC 3339.
        #[serde(serialize_with = "text::short")]
        not_after: Arc<str>,
    },
    /// Another authority took the place of one; both are trusted.
    #[serde(rename = "ca.rotated")]
    CaRotated {
        /// What the new one is called.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The SHA-256 of the public key of the one before, lower-case hex.
        #[serde(serialize_with = "text::short")]
        old: Arc<str>,
        /// That of the new one.
        #[serde(serialize_with = "text::short")]
        new: Arc<str>,
    },
    /// A certificate was issued.
    #[serde(rename = "certificate.issued")]
    CertificateIssued {
        /// Its serial number, lower-case hex.
        #[serde(serialize_with = "text::short")]
        serial: Arc<str>,
        /// Its common name.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The profile it was issued with.
        profile: &'static str,
        /// The SHA-256 of the public key of the authority that issued it, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
        /// The SHA-256 of the certificate, lower-case hex.
        #[serde(serialize_with = "text::short")]
        fingerprint: Arc<str>,
        /// The last second of its validity, RFC 3339.
        #[serde(serialize_with = "text::short")]
        not_after: Arc<str>,
        /// The serial number of the certificate that it takes the place of.
        #[serde(skip_serializing_if = "Option::is_none")]
        renews: Option<Arc<str>>,
    },
    /// A certificate was revoked.
    #[serde(rename = "certificate.revoked")]
    CertificateRevoked {
        /// Its serial number, lower-case hex.
        #[serde(serialize_with = "text::short")]
        serial: Arc<str>,
        /// Its common name.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The SHA-256 of the public key of the authority that issued it, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
        /// Why, as RFC 5280 calls it.
        reason: &'static str,
    },
    /// A list of revoked certificates was signed.
    #[serde(rename = "crl.issued")]
    CrlIssued {
        /// The SHA-256 of the public key of the authority that signed it, lower-case hex.
        #[serde(serialize_with = "text::short")]
        issuer: Arc<str>,
        /// Its number, which grows.
        number: u64,
        /// How many certificates it lists.
        certificates: u64,
        /// When the next one is due, RFC 3339.
        #[serde(serialize_with = "text::short")]
        next_update: Arc<str>,
    },

    /// A one-time token was made.
    #[serde(rename = "token.created")]
    TokenCreated {
        /// What it is called: the beginning of its hash.
        #[serde(serialize_with = "text::short")]
        id: Arc<str>,
        /// The only name that it is for.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// The profile of the certificate that it gives.
        profile: &'static str,
        /// Its end, RFC 3339.
        #[serde(serialize_with = "text::short")]
        ends: Arc<str>,
    },
    /// A one-time token was deleted.
    #[serde(rename = "token.deleted")]
    TokenDeleted {
        /// What it was called.
        #[serde(serialize_with = "text::short")]
        id: Arc<str>,
        /// The name that it was for.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
    },
    /// Somebody was given a certificate over the network.
    #[serde(rename = "enroll.issued")]
    EnrollIssued {
        /// Whom it is for.
        #[serde(serialize_with = "text::name")]
        name: Arc<str>,
        /// By what: `token`, `factory` or `renewal`.
        method: &'static str,
        /// The profile of the certificate.
        profile: &'static str,
        /// Its serial number, lower-case hex.
        #[serde(serialize_with = "text::short")]
        serial: Arc<str>,
        /// Its SHA-256, lower-case hex.
        #[serde(serialize_with = "text::short")]
        fingerprint: Arc<str>,
        /// What proved it: the id of the token, the name of the factory, or the serial number of
        /// the certificate that it takes the place of.
        #[serde(serialize_with = "text::name")]
        by: Arc<str>,
    },
    /// Somebody asked for a certificate over the network, and was given none.
    #[serde(rename = "enroll.refused")]
    EnrollRefused {
        /// Who it said it is; nothing that is proven.
        #[serde(serialize_with = "text::optional_name", skip_serializing_if = "Option::is_none")]
        name: Option<Arc<str>>,
        /// By what, where that is known: `token`, `factory` or `renewal`.
        #[serde(skip_serializing_if = "Option::is_none")]
        method: Option<&'static str>,
        /// The status of HTTP that it was answered with; none: there was no answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The SHA-256 of the certificate that it showed and that was refused, lower-case hex.
        #[serde(serialize_with = "text::optional_name", skip_serializing_if = "Option::is_none")]
        fingerprint: Option<Arc<str>>,
        /// What the operator should know.
        #[serde(serialize_with = "text::words")]
        why: Cow<'static, str>,
    },

    /// `pki serve` told the broker of what was issued or revoked.
    #[serde(rename = "enroll.broker-told")]
    BrokerTold {
        /// Of what.
        #[serde(serialize_with = "text::words")]
        about: Cow<'static, str>,
        /// Whether it was taken.
        outcome: Outcome,
        /// Why not.
        #[serde(serialize_with = "text::words", skip_serializing_if = "str::is_empty")]
        why: Cow<'static, str>,
    },

    /// A task of the broker panicked.
    #[serde(rename = "task.panicked")]
    TaskPanicked {
        /// The task.
        task: &'static str,
        /// What the panic said.
        #[serde(serialize_with = "text::words")]
        message: Cow<'static, str>,
    },
    /// Events are missing at this place of the log. Only the log itself records this.
    #[serde(rename = "audit.overflow")]
    AuditOverflow {
        /// How many.
        lost: u64,
    },
}

impl From<Violation> for Kind {
    fn from(violation: Violation) -> Self {
        Self::Violation {
            statement: violation.statement,
            what: violation.what,
            reason: violation.reason,
        }
    }
}
