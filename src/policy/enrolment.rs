//! Whether somebody may be given a certificate over the network: `Action::"enroll"`.
//!
//! It is asked once for each certificate, and by another process than the broker, so there are no
//! caches and no compiled rules: Cedar judges by all policies of the bundle.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use cedar_policy::{
    Context, Entity, EntityUid, ExpressionConstructionError, PolicySet, Request,
    RestrictedExpression,
};

use super::bundle::Bundle;
use super::facts::{EnrollFacts, SessionFacts};
use super::judge::{self, Facts};
use super::permit::Denial;
use super::schema::{Action, uid};
use crate::identity::Identity;

/// Somebody who asks for a certificate, with every fact settled.
#[derive(Clone, Copy, Debug)]
pub struct Enrolment<'a> {
    /// Whom the certificate would be for; with the facts of the one that was shown, where one was.
    pub identity: &'a Identity,
    /// The profile that it would be issued with.
    pub profile: &'a str,
    /// What proves who it is: `token`, `factory` or `renewal`.
    pub method: &'a str,
    /// The name of the factory, of that method.
    pub factory: Option<&'a str>,
    /// The name of the listener.
    pub listener: &'a str,
    /// Where it comes from.
    pub source_ip: IpAddr,
    /// 12 or 13.
    pub tls_version: u8,
    /// The present time.
    pub now: SystemTime,
}

impl<'a> Enrolment<'a> {
    /// As somebody asks about it who has the facts in words.
    pub(super) fn of(
        identity: &'a Identity,
        session: &'a SessionFacts,
        facts: &'a EnrollFacts,
    ) -> Self {
        Self {
            identity,
            profile: &facts.profile,
            method: &facts.method,
            factory: facts.factory.as_deref(),
            listener: &session.listener,
            source_ip: session.source_ip,
            tls_version: session.tls_version,
            now: facts.now,
        }
    }

    /// `context.session`. There is no client id and no MQTT; what reads them finds what no client has.
    pub(super) fn session(&self) -> Result<RestrictedExpression, ExpressionConstructionError> {
        RestrictedExpression::new_record([
            ("client_id".to_owned(), judge::string("")),
            ("listener".to_owned(), judge::string(self.listener)),
            ("source_ip".to_owned(), judge::ip(self.source_ip)),
            ("protocol_version".to_owned(), judge::long(0)),
            ("tls_version".to_owned(), judge::long(self.tls_version)),
        ])
    }

    /// The rest of the context.
    pub(super) fn facts(&self) -> Facts {
        let is_shown = self.identity.certificate.is_some();
        let mut facts = vec![
            ("time".to_owned(), judge::time(self.now)),
            ("method".to_owned(), judge::string(self.method)),
            ("certificate".to_owned(), RestrictedExpression::new_bool(is_shown)),
        ];
        if let Some(factory) = self.factory {
            facts.push(("factory".to_owned(), judge::string(factory)));
        }
        facts
    }
}

impl Bundle {
    /// Judges by these policies whether a certificate may be given.
    ///
    /// # Errors
    /// The denial: nothing permits it, something forbids it, or a policy failed to evaluate.
    pub fn check_enrolment(&self, enrolment: &Enrolment<'_>) -> Result<(), Denial> {
        let policies = PolicySet::from_policies(self.policies_as_loaded().cloned());
        let policies = policies.map_err(Denial::failed)?;
        let (principal, entities) = self.who_enrolls(enrolment)?;
        let profile = uid(&self.vocabulary.profile, enrolment.profile);
        let resource = Entity::new_no_attrs(profile.clone(), HashSet::new());
        let entities = entities.into_iter().chain([resource]);
        let entities = self.vocabulary.actions.clone().add_entities(entities, None);
        let entities = entities.map_err(Denial::failed)?;
        let session = ("session".to_owned(), enrolment.session().map_err(Denial::failed)?);
        let facts = enrolment.facts().into_iter().chain([session]);
        let context = Context::from_pairs(facts).map_err(Denial::failed)?;
        let action = self.vocabulary.action(Action::Enroll);
        let request = Request::new(principal, action, profile, context, None);
        let request = request.map_err(Denial::failed)?;
        judge::decide(&self.authorizer.is_authorized(&request, &policies, &entities))
    }

    /// Who asks, and the groups it is in.
    fn who_enrolls(
        &self,
        Enrolment { identity, .. }: &Enrolment<'_>,
    ) -> Result<(EntityUid, Vec<Entity>), Denial> {
        let resolved = self.resolve(identity)?;
        let group = |name: &Arc<str>| uid(&self.vocabulary.group, name);
        let mut entities: Vec<Entity> = resolved
            .groups
            .iter()
            .map(|name| {
                Entity::new_no_attrs(group(name), self.parents_of(name).map(group).collect())
            })
            .collect();
        let parents = resolved.direct.iter().map(group).collect();
        let principal = self.principal(identity);
        entities.push(judge::principal(principal.clone(), identity, &resolved, parents)?);
        Ok((principal, entities))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::identity::{CertificateFacts, PrincipalKind};
    use crate::policy::{PolicyEpoch, Question, Words};

    fn identity(name: &str, with_certificate: bool) -> Identity {
        Identity {
            kind: PrincipalKind::Device,
            name: name.into(),
            groups: Vec::new(),
            tags: BTreeMap::new(),
            certificate: with_certificate.then(|| {
                Arc::new(CertificateFacts {
                    cn: name.into(),
                    fingerprint: "9c0e".into(),
                    issuer: "ab".into(),
                    serial: "1f".into(),
                    not_after_unix_s: 0,
                    spiffe: None,
                    dns_names: Vec::new(),
                    uris: Vec::new(),
                    organizational_units: Vec::new(),
                })
            }),
        }
    }

    fn asked<'a>(identity: &'a Identity, method: &'a str) -> Enrolment<'a> {
        Enrolment {
            identity,
            profile: "device",
            method,
            factory: (method == "factory").then_some("acme"),
            listener: "est",
            source_ip: IpAddr::from([192, 0, 2, 7]),
            tls_version: 13,
            now: UNIX_EPOCH,
        }
    }

    fn said(text: &str, enrolment: &Enrolment<'_>) -> String {
        let bundle = Bundle::load_text("enrolment.cedar", text, None, PolicyEpoch(1)).unwrap();
        bundle
            .check_enrolment(enrolment)
            .map_or_else(|denial| denial.to_string(), |()| "yes".into())
    }

    #[test]
    fn a_certificate_is_given_only_where_a_policy_permits_it() {
        let (new, known) = (identity("dev1", false), identity("dev1", true));
        let by_token = r#"@id("a") permit (principal is Device, action == Action::"enroll",
            resource == Profile::"device") when { context.method == "token" };"#;
        assert_eq!(said(by_token, &asked(&new, "token")), "yes");
        let nothing = "no policy permits it";
        assert_eq!(said(by_token, &asked(&known, "renewal")), nothing);
        let other = Enrolment { profile: "server", ..asked(&new, "token") };
        assert_eq!(said(by_token, &other), nothing);
        let connect = r#"@id("a") permit (principal, action == Action::"connect", resource);"#;
        assert_eq!(said(connect, &asked(&new, "token")), nothing);
        let from = format!(
            r#"{by_token} @id("b") forbid (principal, action, resource)
            when {{ context.session.source_ip.isInRange(ip("192.0.2.0/24")) }};"#
        );
        assert_eq!(said(&from, &asked(&new, "token")), "forbidden by b");
        let factory = r#"@id("a") permit (principal, action == Action::"enroll", resource)
            when { context has factory && context.factory == "acme" };"#;
        assert_eq!(said(factory, &asked(&known, "factory")), "yes");
        assert_eq!(said(factory, &asked(&new, "token")), nothing);
    }

    #[test]
    fn a_policy_that_cannot_be_evaluated_refuses() {
        let reads = r#"@id("a") permit (principal is Device, action == Action::"enroll", resource);
            @id("b") forbid (principal is Device, action == Action::"enroll", resource)
            when { principal.cert.issuer == "evil" };"#;
        assert_eq!(said(reads, &asked(&identity("dev1", true), "renewal")), "yes");
        let text = said(reads, &asked(&identity("dev1", false), "token"));
        assert!(text.starts_with("refused for"), "{text}");
    }

    #[test]
    fn a_question_in_words_is_answered_as_it_is_judged_and_says_what_is_missing() {
        let text = r#"@id("a") permit (principal is Device, action == Action::"enroll",
            resource == Profile::"device")
            when { context.method == "token" && context.session.client_id == "" };
            @id("b") forbid (principal, action, resource)
            when { context.session.source_ip.isInRange(ip("192.0.2.0/24")) };"#;
        let bundle =
            Arc::new(Bundle::load_text("enrolment.cedar", text, None, PolicyEpoch(1)).unwrap());
        for (resource, facts, expected) in [
            ("device", &[][..], "allowed by a"),
            ("Profile::\"device\"", &[("method", "token")], "allowed by a"),
            ("device", &[("method", "renewal")], "denied: no policy permits it"),
            (
                "device",
                &[("method", "factory"), ("factory", "acme")],
                "denied: no policy permits it",
            ),
            ("server", &[], "denied: no policy permits it"),
            ("device", &[("source_ip", "192.0.2.7")], "denied: forbidden by b"),
        ] {
            let words =
                Words { principal: "Device::dev1", action: "enroll", resource, ..Words::default() };
            let question = Question::parse(&Words { facts: facts.to_vec(), ..words }).unwrap();
            let answer = question.ask(&bundle);
            assert_eq!(answer.to_string(), expected, "{facts:?}");
            assert_eq!(question.judge(&bundle).is_ok(), answer.is_allowed(), "{facts:?}");
            let explanation = question.explain(&bundle).unwrap();
            assert_eq!(explanation.answer, expected);
            assert_eq!(explanation.rules.len(), 2, "{explanation:?}");
        }
        for (facts, expected) in [
            (("method", "wish"), "method=wish is none"),
            (
                ("factory", "acme"),
                "a factory belongs to method=factory, and that method to a factory",
            ),
            (("client_id", "a"), "client_id is no fact of enroll"),
            (("qos", "1"), "qos is no fact of enroll"),
        ] {
            let facts = vec![facts];
            let words =
                Words { principal: "Device::dev1", action: "enroll", facts, ..Words::default() };
            assert_eq!(Question::parse(&words).unwrap_err().to_string(), expected);
        }
        let nobody = Words { principal: "Anonymous::a", action: "enroll", ..Words::default() };
        assert!(Question::parse(&nobody).is_err());
    }

    #[test]
    fn the_starter_policies_let_devices_enroll_by_token_and_renew() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/enrolment");
        let bundle = Bundle::load_dir(&folder, PolicyEpoch(1)).unwrap();
        let (new, known) = (identity("dev1", false), identity("dev1", true));
        let user = Identity { kind: PrincipalKind::User, ..identity("ann", false) };
        for (enrolment, allowed) in [
            (asked(&new, "token"), true),
            (asked(&known, "renewal"), true),
            (asked(&known, "factory"), false),
            (asked(&new, "anything"), false),
            (asked(&user, "token"), false),
            (Enrolment { profile: "server", ..asked(&new, "token") }, false),
        ] {
            assert_eq!(bundle.check_enrolment(&enrolment).is_ok(), allowed, "{enrolment:?}");
        }
    }
}
