//! The decision: who asks, for what, whether the policies let it, and then the certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::authority::Opened;
use super::server::{Shared, StartError};
use super::{Factory, LISTENER, message};
use crate::audit::event::Subject;
use crate::audit::{Event, Kind};
use crate::gates::grinding::Throttled;
use crate::identity::certificate::CertificateFacts;
use crate::identity::{Identity, PrincipalKind};
use crate::pki::inventory::{Entry, Reason, State};
use crate::pki::{AlternativeNames, Issued, PkiError, Profile, ProfileName, Request, TokenRefusal};
use crate::policy::Enrolment;

/// How long the audit file may take before an answer is given up.
const AUDIT_WAIT: Duration = Duration::from_secs(5);
/// Seconds after which it is worth to try again, where too much has failed.
const RETRY_AFTER_S: &str = "30";

/// Who is at the other end.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// 12 or 13.
    pub(super) tls_version: u8,
    /// What it showed in the handshake, verified; its own certificate first.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// What is asked for.
pub(super) struct Asked {
    pub(super) operation: Operation,
    /// The profile that the path names.
    pub(super) profile: Option<ProfileName>,
    pub(super) credentials: Credentials,
    pub(super) body: Bytes,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// A certificate for somebody who has none of ours (RFC 7030, section 4.2.1).
    Enroll,
    /// One in place of that which is shown (section 4.2.2).
    Renew,
}

/// What the head of the request says of who asks.
pub(super) enum Credentials {
    None,
    Token {
        name: String,
        token: Zeroizing<String>,
    },
    /// Something that is no name and token.
    Unreadable,
}

/// A certificate, recorded and audited.
pub(super) struct Given {
    pub(super) der: Vec<u8>,
    /// For the broker.
    pub(super) about: String,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// For the peer.
    pub(super) told: String,
    /// For the operator, where that is more.
    why: Option<String>,
    pub(super) headers: Vec<(HeaderName, String)>,
    name: Option<Arc<str>>,
    method: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, told: impl Into<String>) -> Self {
        let told = told.into();
        Self { status, told, why: None, headers: Vec::new(), name: None, method: None }
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// It is not the peer's fault, and it learns nothing of it.
    pub(super) fn of_ours(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "no certificate can be given at present")
            .because(error.to_string())
    }

    fn forbidden(told: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, told)
    }

    /// The same words for everything that may be wrong with a token.
    fn unauthorized(why: impl Into<String>) -> Self {
        let told = "show a name and a good token of it (HTTP Basic), or a certificate of a factory";
        Self::new(StatusCode::UNAUTHORIZED, told)
            .because(why)
            .with_header(WWW_AUTHENTICATE, "Basic realm=\"enrolment\", charset=\"UTF-8\"")
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    fn of(self, method: Method<'_>, name: &str) -> Self {
        let name =
            self.name.or_else(|| Some(name.into()).filter(|name: &Arc<str>| !name.is_empty()));
        Self { method: Some(method.as_str()), name, ..self }
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Pki(PkiError::Request(error)) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            StartError::Pki(PkiError::Name(error)) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            StartError::Pki(error @ PkiError::Revoked { .. }) => Self::forbidden(error.to_string()),
            other => Self::of_ours(&other),
        }
    }
}

/// What proves who asks.
#[derive(Clone, Copy)]
enum Method<'a> {
    Token { id: &'a str, text: &'a str },
    Factory(&'a str),
    Renewal(&'a Entry),
}

impl Method<'_> {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Factory(_) => "factory",
            Self::Renewal(_) => "renewal",
        }
    }
}

impl Shared {
    /// Writes a refusal into the audit log.
    pub(super) fn record_refusal(&self, peer: &Peer, refusal: &Refusal) {
        let refused = Kind::EnrollRefused {
            name: refusal.name.clone(),
            method: refusal.method,
            status: Some(refusal.status.as_u16()),
            fingerprint: None,
            why: refusal.why.as_ref().unwrap_or(&refusal.told).clone().into(),
        };
        self.record(Event::about(&self.subject(peer), refused));
    }

    fn subject(&self, peer: &Peer) -> Arc<Subject> {
        let mut subject = Subject::connection(&LISTENER.into(), Some(peer.address));
        let facts = facts(&self.authority.current(), peer).ok().flatten();
        subject.certificate = facts.map(Arc::new);
        Arc::new(subject)
    }

    /// Decides, and gives a certificate that is recorded and audited.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn decide(&self, peer: &Peer, asked: &Asked) -> Result<Given, Refusal> {
        match asked.operation {
            Operation::Enroll => match &asked.credentials {
                Credentials::Token { name, token } => self.by_token(peer, asked, name, token),
                Credentials::Unreadable => {
                    let attempt = self.grinding.take(Some(peer.address.ip()), None, Instant::now());
                    let _counted = attempt.map_err(too_many)?;
                    Err(Refusal::unauthorized("the Authorization header is no name and token"))
                }
                Credentials::None => self.by_factory(peer, asked),
            },
            Operation::Renew => self.by_certificate(peer, asked),
        }
    }

    fn by_token(
        &self,
        peer: &Peer,
        asked: &Asked,
        name: &str,
        token: &str,
    ) -> Result<Given, Refusal> {
        let unknown = Method::Token { id: "", text: token };
        let attempt = self
            .grinding
            .take(Some(peer.address.ip()), Some(name), Instant::now())
            .map_err(|throttled| too_many(throttled).of(unknown, name))?;
        let looked = self.tokens.look(name, token, OffsetDateTime::now_utc());
        if !matches!(looked, Ok(Err(_))) {
            // Nothing was wrong with the token, or nobody could say.
            self.grinding.give_back(attempt);
        }
        let found = looked.map_err(|error| Refusal::of_ours(&error).of(unknown, name))?;
        let found = found
            .map_err(|refusal| Refusal::unauthorized(refusal.to_string()).of(unknown, name))?;
        let method = Method::Token { id: &found.id, text: token };
        self.give(peer, asked, method, found.profile, |_| Ok(name.to_owned()))
            .map_err(|refusal| refusal.of(method, name))
    }

    fn by_factory(&self, peer: &Peer, asked: &Asked) -> Result<Given, Refusal> {
        let opened = self.authority.current();
        let now = UnixTime::now();
        let vouched = opened.factories.iter().find(|(_, it)| it.is_good(&peer.certificates, now));
        let factory = vouched.and_then(|(name, _)| {
            self.settings.factories.iter().find(|factory| factory.name == *name)
        });
        let Some(factory) = factory else {
            let why = if peer.certificates.is_empty() {
                "neither a token nor a certificate was shown"
            } else {
                "no token was shown, and the certificate is of no factory"
            };
            return Err(Refusal::unauthorized(why));
        };
        let method = Method::Factory(&factory.name);
        let facts = facts(&opened, peer)?;
        let common_name = facts.map(|facts| facts.cn.to_string()).unwrap_or_default();
        let named = |request: &Request| self.name_by_factory(factory, &common_name, request);
        let _alone = self.factory_turn.lock();
        self.give(peer, asked, method, factory.profile, named)
            .map_err(|refusal| refusal.of(method, &common_name))
    }

    /// The name that somebody with a certificate of a factory may have.
    fn name_by_factory(
        &self,
        factory: &Factory,
        common_name: &str,
        request: &Request,
    ) -> Result<String, Refusal> {
        let Some(name) = request.name().filter(|name| !name.is_empty()) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "the request names nobody"));
        };
        if !factory.names.iter().any(|pattern| pattern.is_for(name, common_name)) {
            let why = format!("the factory's certificate of {common_name:?} is not for {name:?}");
            return Err(Refusal::forbidden(why));
        }
        let (now, key) = (OffsetDateTime::now_utc(), request.key_hash());
        let in_the_way = self.authority.work(|ca| {
            ca.contents(|contents| {
                contents.by_name(name).find_map(|entry| match entry.revoked {
                    Some((_, Reason::Superseded)) => None,
                    Some(_) => Some("a certificate of this name is revoked; a token is needed"),
                    // Somebody else could have it, of another factory too; who has its key asks
                    // once more, since an answer was lost.
                    None if entry.state(now) == State::Valid && entry.certificate.key != key => {
                        Some("the name has a certificate already; renew that, or show a token")
                    }
                    None => None,
                })
            })
        })?;
        match in_the_way {
            Some(why) => Err(Refusal::forbidden(why)),
            None => Ok(name.to_owned()),
        }
    }

    fn by_certificate(&self, peer: &Peer, asked: &Asked) -> Result<Given, Refusal> {
        let Some(leaf) = peer.certificates.first() else {
            let told = "show the certificate that is to be renewed";
            return Err(Refusal::forbidden(told));
        };
        let opened = self.authority.current();
        let facts = facts(&opened, peer)?;
        let facts = facts.ok_or_else(|| Refusal::forbidden("no certificate was shown"))?;
        let entry = self
            .authority
            .work(|ca| ca.contents(|contents| contents.by_serial(&facts.serial).cloned()))?;
        let fingerprint = crate::pki::sha256_hex(leaf);
        let entry = entry.filter(|entry| entry.certificate.fingerprint == fingerprint);
        let Some(entry) = entry else {
            let told = "the certificate was not issued by this authority";
            return Err(Refusal::forbidden(told));
        };
        let method = Method::Renewal(&entry);
        let name = entry.certificate.name.clone();
        let state = match entry.state(OffsetDateTime::now_utc()) {
            State::Valid => Ok(()),
            State::Revoked => Err(Refusal::forbidden("the certificate is revoked")),
            State::Expired => Err(Refusal::forbidden("the certificate has expired")),
        };
        state
            .and_then(|()| {
                let named = |request: &Request| {
                    same_names(request, &entry).map(|()| entry.certificate.name.clone())
                };
                self.give(peer, asked, method, entry.certificate.profile, named)
            })
            .map_err(|refusal| refusal.of(method, &name))
    }

    /// All that is the same whatever proves who asks.
    fn give(
        &self,
        peer: &Peer,
        asked: &Asked,
        method: Method<'_>,
        profile: ProfileName,
        named: impl Fn(&Request) -> Result<String, Refusal>,
    ) -> Result<Given, Refusal> {
        let offered = self.profiles.iter().zip(&self.settings.profiles);
        let Some((profile, offered)) = { offered }.find(|(it, _)| it.name == profile) else {
            let told = format!("no certificates of the profile `{}` are given", profile.as_str());
            return Err(Refusal::forbidden(told));
        };
        if asked.profile.is_some_and(|label| label != profile.name) {
            let told = format!("this is for the profile `{}`", profile.name.as_str());
            return Err(Refusal::forbidden(told));
        }
        let bad = |told: String| Refusal::new(StatusCode::BAD_REQUEST, told);
        let der = message::request(&asked.body)
            .ok_or_else(|| bad("the body is no base64 (RFC 8951)".to_owned()))?;
        let request = Request::read(&der).map_err(|error| bad(error.to_string()))?;
        let name = named(&request)?;
        request.subject(profile, Some(&name)).map_err(|error| bad(error.to_string()))?;
        if !matches!(method, Method::Renewal(_)) {
            refuse_other_names(&request, &name)?;
        }
        if !offered.names.iter().any(|pattern| pattern.is_for(&name, "")) {
            let told = format!("no certificates of this profile are given to {name:?}");
            return Err(Refusal::forbidden(told));
        }
        self.judge(peer, method, profile, &name)?;
        let issued = self.issue(method, profile, &request, &name)?;
        self.record_issue(peer, method, &issued)?;
        let about = format!("issued: {} to {name}", issued.certificate.serial);
        Ok(Given { der: issued.der, about })
    }

    fn judge(
        &self,
        peer: &Peer,
        method: Method<'_>,
        profile: &Profile,
        name: &str,
    ) -> Result<(), Refusal> {
        let facts = match method {
            // What else was shown says nothing of who this is for.
            Method::Token { .. } => None,
            Method::Factory(_) | Method::Renewal(_) => facts(&self.authority.current(), peer)?,
        };
        let identity = Identity {
            kind: kind_of(profile.name),
            name: name.into(),
            groups: Vec::new(),
            tags: std::collections::BTreeMap::new(),
            certificate: facts.map(Arc::new),
        };
        let factory = match method {
            Method::Factory(name) => Some(name),
            Method::Token { .. } | Method::Renewal(_) => None,
        };
        let enrolment = Enrolment {
            identity: &identity,
            profile: profile.name.as_str(),
            method: method.as_str(),
            factory,
            listener: LISTENER,
            source_ip: peer.address.ip(),
            tls_version: peer.tls_version,
            now: SystemTime::now(),
        };
        self.policies.load().check_enrolment(&enrolment).map_err(|denial| {
            Refusal::forbidden("the policies do not permit it").because(denial.to_string())
        })
    }

    /// The certificate. A token is spent first, and that is on the disk: what goes wrong from there
    /// on costs a token, and never gives two certificates for one.
    fn issue(
        &self,
        method: Method<'_>,
        profile: &Profile,
        request: &Request,
        name: &str,
    ) -> Result<Issued, Refusal> {
        let now = OffsetDateTime::now_utc();
        if let Method::Token { text, .. } = method {
            let spent = self.tokens.spend(name, text, now);
            let spent = spent.map_err(|error| Refusal::of_ours(&error))?;
            spent.map_err(|refusal: TokenRefusal| Refusal::unauthorized(refusal.to_string()))?;
        }
        Ok(self.authority.work(|ca| match method {
            Method::Renewal(old) => ca.renew_by_request(profile, old, request, now),
            Method::Token { .. } | Method::Factory(_) => ca.sign(profile, request, Some(name), now),
        })?)
    }

    /// What was issued is in the audit log, on the disk, before anybody gets it.
    fn record_issue(
        &self,
        peer: &Peer,
        method: Method<'_>,
        issued: &Issued,
    ) -> Result<(), Refusal> {
        let certificate = &issued.certificate;
        let by = match method {
            Method::Token { id, .. } => id,
            Method::Factory(name) => name,
            Method::Renewal(old) => old.certificate.serial.as_str(),
        };
        let given = Kind::EnrollIssued {
            name: certificate.name.as_str().into(),
            method: method.as_str(),
            profile: certificate.profile.as_str(),
            serial: certificate.serial.as_str().into(),
            fingerprint: certificate.fingerprint.as_str().into(),
            by: by.into(),
        };
        self.audit.record(Event::about(&self.subject(peer), given));
        self.audit.record(Event::broker(certificate.into()));
        if self.audit.flush(AUDIT_WAIT) {
            return Ok(());
        }
        let why = format!(
            "the audit file cannot be written; the certificate {} is in the inventory, and nobody \
             has it",
            certificate.serial
        );
        Err(Refusal::of_ours(&std::io::Error::other(why)))
    }
}

/// What is in the certificate that the peer has shown; none: it has shown none.
fn facts(opened: &Opened, peer: &Peer) -> Result<Option<CertificateFacts>, Refusal> {
    if peer.certificates.is_empty() {
        return Ok(None);
    }
    match CertificateFacts::from_verified_chain(&peer.certificates, &opened.trusted) {
        Ok((facts, _)) => Ok(Some(facts)),
        Err(error) => Err(Refusal::forbidden("the certificate that was shown is not taken")
            .because(error.to_string())),
    }
}

/// Refuses a first request that asks for alternative names which nobody has vouched for: a token or a
/// factory speaks of one name.
fn refuse_other_names(request: &Request, name: &str) -> Result<(), Refusal> {
    let asked = request.alternative_names();
    let ips = asked.ip.iter().map(ToString::to_string);
    let all = asked.dns.iter().chain(&asked.uri).chain(&asked.email).cloned().chain(ips);
    match all.into_iter().find(|one| !one.eq_ignore_ascii_case(name)) {
        None => Ok(()),
        Some(other) => Err(Refusal::forbidden(format!(
            "the request asks for the alternative name {other:?}, and may for {name:?} alone"
        ))),
    }
}

/// Refuses a request whose subject or alternative names are not those of the certificate that it
/// is to take the place of (RFC 7030, section 4.2.2); what they are is compared where it is signed.
fn same_names(request: &Request, old: &Entry) -> Result<(), Refusal> {
    let old = &old.certificate;
    if request.name() != Some(old.name.as_str()) {
        let told = format!("the request has another subject than the certificate, CN={}", old.name);
        return Err(Refusal::forbidden(told));
    }
    let none = AlternativeNames::default();
    if *request.alternative_names() == none && old.alternative_names != none {
        let told = "the request lacks the alternative names that the certificate has";
        return Err(Refusal::forbidden(told));
    }
    Ok(())
}

fn too_many(throttled: Throttled) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too much has failed; try again later")
        .because(throttled.to_string())
        .with_header(RETRY_AFTER, RETRY_AFTER_S)
}

/// What a certificate of a profile makes of its owner.
const fn kind_of(profile: ProfileName) -> PrincipalKind {
    match profile {
        ProfileName::User => PrincipalKind::User,
        ProfileName::Device => PrincipalKind::Device,
        _ => PrincipalKind::Service,
    }
}
