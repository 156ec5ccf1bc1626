//! The one place where Cedar is asked, and where its answer becomes a decision.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityUid, Expression,
    Policy, PolicySet, Request, Response, RestrictedExpression,
};
use time::OffsetDateTime;

use super::bundle::Bundle;
use super::facts::{ConnectFacts, PublishFacts, ReceiveFacts, SessionFacts, SubscribeFacts};
use super::permit::Denial;
use super::principals::Resolved;
use super::schema::{Action, uid};
use crate::identity::{CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{ShareName, UserProperties};

/// Attributes of the context.
pub(super) type Facts = Vec<(String, RestrictedExpression)>;

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) identity: &'a Identity,
    pub(super) session: &'a SessionFacts,
    /// Its groups and tags.
    pub(super) resolved: &'a Resolved,
}

/// Who asks as Cedar sees it: the same for every question.
#[derive(Clone, Debug)]
pub(super) struct Description {
    /// The principal, its groups, the actions.
    entities: Entities,
    /// `context.session`.
    session: RestrictedExpression,
}

impl Description {
    /// The same of another connection.
    pub(super) fn with_session(self, session: RestrictedExpression) -> Self {
        Self { session, ..self }
    }
}

/// A request as Cedar takes it, with the policies that may answer it.
pub(super) struct Inquiry<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) action: Action,
    pub(super) resource: Entity,
    pub(super) facts: Facts,
    pub(super) from: Description,
}

impl Asker<'_> {
    /// Describes who asks.
    ///
    /// # Errors
    /// A denial, when that cannot be described.
    pub(super) fn description(&self) -> Result<Description, Denial> {
        let vocabulary = &self.bundle.vocabulary;
        let group = |name: &Arc<str>| uid(&vocabulary.group, name);
        let groups = self.resolved.groups.iter().map(|name| {
            let parents = self.bundle.parents_of(name).map(group).collect();
            Entity::new_no_attrs(group(name), parents)
        });
        let parents = self.resolved.direct.iter().map(group).collect();
        let principal = self.describe(parents)?;
        let entities = vocabulary
            .actions
            .clone()
            .add_entities(groups.chain(std::iter::once(principal)), None)
            .map_err(Denial::failed)?;
        let session = session(self.session).map_err(Denial::failed)?;
        Ok(Description { entities, session })
    }

    /// Decides: allowed if and only if Cedar allows *and* no policy failed to evaluate, since
    /// Cedar leaves out a policy that fails, and that could have been a forbid.
    ///
    /// # Errors
    /// The denial.
    pub(super) fn ask(&self, inquiry: Inquiry<'_>) -> Result<(), Denial> {
        decide(&self.respond(inquiry)?)
    }

    /// As [`Self::ask`], with the policies that permit what is allowed.
    ///
    /// # Errors
    /// The denial.
    pub(super) fn permits(&self, inquiry: Inquiry<'_>) -> Result<Vec<Arc<str>>, Denial> {
        let response = self.respond(inquiry)?;
        decide(&response).map(|()| reasons(&response))
    }

    fn respond(&self, inquiry: Inquiry<'_>) -> Result<Response, Denial> {
        let policies = inquiry.policies;
        Ok(self.prepare(inquiry)?.respond(policies))
    }

    /// The inquiry as Cedar takes it, to be put to any policies.
    ///
    /// # Errors
    /// A denial, when the request cannot be described.
    pub(super) fn prepare(&self, inquiry: Inquiry<'_>) -> Result<Prepared<'_>, Denial> {
        let Inquiry { action, resource, facts, from: Description { entities, session }, .. } =
            inquiry;
        let facts = facts.into_iter().chain(std::iter::once(("session".to_owned(), session)));
        let request = Request::new(
            self.principal(),
            self.bundle.vocabulary.action(action),
            resource.uid(),
            Context::from_pairs(facts).map_err(Denial::failed)?,
            None,
        )
        .map_err(Denial::failed)?;
        let entities = entities.add_entities([resource], None).map_err(Denial::failed)?;
        Ok(Prepared { authorizer: &self.bundle.authorizer, request, entities })
    }

    /// The entity that asks.
    pub(super) fn principal(&self) -> EntityUid {
        self.bundle.principal(self.identity)
    }

    /// The entity of the principal, in these groups.
    fn describe(&self, groups: HashSet<EntityUid>) -> Result<Entity, Denial> {
        principal(self.principal(), self.identity, self.resolved, groups)
    }
}

/// The entity of a principal, in these groups.
///
/// # Errors
/// A denial, when it cannot be described.
pub(super) fn principal(
    uid: EntityUid,
    identity: &Identity,
    resolved: &Resolved,
    groups: HashSet<EntityUid>,
) -> Result<Entity, Denial> {
    if identity.kind == PrincipalKind::Anonymous {
        return Ok(Entity::new_no_attrs(uid, groups));
    }
    let mut attributes = Facts::new();
    if let Some(facts) = &identity.certificate {
        attributes.push(("cert".into(), certificate(facts).map_err(Denial::failed)?));
    }
    let tags = resolved.tags.iter().map(|(name, value)| (name.to_string(), string(value)));
    Entity::new_with_tags(uid, attributes, groups, tags).map_err(Denial::failed)
}

/// A request that can be put to policies.
pub(super) struct Prepared<'a> {
    authorizer: &'a Authorizer,
    request: Request,
    entities: Entities,
}

impl Prepared<'_> {
    fn respond(&self, policies: &PolicySet) -> Response {
        self.authorizer.is_authorized(&self.request, policies, &self.entities)
    }

    /// Whether one policy by itself applies: its scope matches and its conditions hold.
    ///
    /// # Errors
    /// When its evaluation fails.
    pub(super) fn applies(&self, policy: &Policy) -> Result<bool, String> {
        let policies =
            PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string())?;
        let response = self.respond(&policies);
        match response.diagnostics().errors().next() {
            Some(AuthorizationError::PolicyEvaluationError(error)) => {
                Err(error.inner().to_string())
            }
            None => Ok(response.diagnostics().reason().next().is_some()),
        }
    }

    /// The value of an expression, as Cedar writes it; `None` when there is none.
    pub(super) fn value(&self, expression: &str) -> Option<String> {
        let expression: Expression = expression.parse().ok()?;
        let value = cedar_policy::eval_expression(&self.request, &self.entities, &expression);
        value.ok().map(|value| value.to_string())
    }
}

pub(super) fn decide(response: &Response) -> Result<(), Denial> {
    let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    match response.decision() {
        Decision::Allow if errors.is_empty() => Ok(()),
        Decision::Allow => Err(Denial { policies: Vec::new(), errors }),
        Decision::Deny => Err(Denial { policies: reasons(response), errors }),
    }
}

/// The policies that decided, in order.
fn reasons(response: &Response) -> Vec<Arc<str>> {
    let reasons = response.diagnostics().reason();
    let mut policies: Vec<Arc<str>> =
        reasons.map(|id| Arc::from(AsRef::<str>::as_ref(id))).collect();
    policies.sort();
    policies
}

fn certificate(
    facts: &CertificateFacts,
) -> Result<RestrictedExpression, Box<dyn std::error::Error>> {
    let names = facts.dns_names.iter().map(|name| string(name));
    let mut fields = vec![
        ("cn".to_owned(), string(&facts.cn)),
        ("fingerprint".to_owned(), string(&facts.fingerprint)),
        ("issuer".to_owned(), string(&facts.issuer)),
        ("not_after".to_owned(), datetime(facts.not_after_unix_s, 0)),
        ("dns_names".to_owned(), RestrictedExpression::new_set(names)),
    ];
    if let Some(spiffe) = &facts.spiffe {
        fields.push(("spiffe".to_owned(), string(spiffe)));
    }
    Ok(RestrictedExpression::new_record(fields)?)
}

fn session(facts: &SessionFacts) -> Result<RestrictedExpression, Box<dyn std::error::Error>> {
    Ok(RestrictedExpression::new_record([
        ("client_id".to_owned(), string(facts.client_id.as_str())),
        ("listener".to_owned(), string(&facts.listener)),
        ("source_ip".to_owned(), ip(facts.source_ip)),
        ("protocol_version".to_owned(), long(facts.protocol.level())),
        ("tls_version".to_owned(), long(facts.tls_version)),
    ])?)
}

/// The context of a CONNECT.
pub(super) fn connect(facts: &ConnectFacts) -> Facts {
    vec![
        ("time".to_owned(), time(facts.now)),
        ("clean_start".to_owned(), RestrictedExpression::new_bool(facts.clean_start)),
        ("session_expiry".to_owned(), long(facts.session_expiry_s)),
        ("keep_alive".to_owned(), long(facts.keep_alive_s)),
        ("has_will".to_owned(), RestrictedExpression::new_bool(facts.has_will)),
    ]
}

/// The context of a SUBSCRIBE.
pub(super) fn subscribe(facts: &SubscribeFacts, share: Option<&ShareName>) -> Facts {
    let mut context = vec![
        ("time".to_owned(), time(facts.now)),
        ("qos".to_owned(), long(facts.qos.as_u8())),
        ("no_local".to_owned(), RestrictedExpression::new_bool(facts.no_local)),
    ];
    if let Some(share) = share {
        context.push(("share_group".to_owned(), string(share.as_str())));
    }
    context
}

/// The context of a PUBLISH.
pub(super) fn publish(facts: &PublishFacts<'_>, now: SystemTime) -> Facts {
    let mut context = small(facts.qos, facts.retain);
    context.push(("will".to_owned(), RestrictedExpression::new_bool(facts.will)));
    large(&mut context, facts.payload_bytes, facts.content_type, facts.user_properties, now);
    context
}

/// The context of a delivery.
pub(super) fn receive(facts: &ReceiveFacts<'_>) -> Facts {
    let mut context = small(facts.qos, facts.retain);
    let ReceiveFacts { payload_bytes, content_type, user_properties, now, .. } = *facts;
    large(&mut context, payload_bytes, content_type, user_properties, now);
    context
}

/// The context of a delivery of which only this much is known. The time is there and means
/// nothing; a rule that reads more fails.
pub(super) fn any_delivery(qos: Qos, retain: bool, payload_bytes: usize) -> Facts {
    let mut context = small(qos, retain);
    context.extend([
        ("payload_size".to_owned(), size(payload_bytes)),
        ("time".to_owned(), time(UNIX_EPOCH)),
    ]);
    context
}

/// The part of a packet's context that has few values.
fn small(qos: Qos, retain: bool) -> Facts {
    vec![
        ("qos".to_owned(), long(qos.as_u8())),
        ("retain".to_owned(), RestrictedExpression::new_bool(retain)),
    ]
}

fn large(
    context: &mut Facts,
    payload_bytes: usize,
    content_type: Option<&str>,
    user_properties: Option<&UserProperties>,
    now: SystemTime,
) {
    let properties = user_properties.into_iter().flat_map(|properties| &properties.0);
    let properties = properties.map(|(name, value)| string(&format!("{name}={value}")));
    context.extend([
        ("payload_size".to_owned(), size(payload_bytes)),
        ("time".to_owned(), time(now)),
        ("user_properties".to_owned(), RestrictedExpression::new_set(properties)),
    ]);
    if let Some(content_type) = content_type {
        context.push(("content_type".to_owned(), string(content_type)));
    }
}

/// A topic, described no further than the rules look.
///
/// # Errors
/// A denial, when it cannot be described.
pub(super) fn topic(
    name: EntityUid,
    described: Option<&str>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, Denial> {
    let Some(text) = described else { return Ok(Entity::new_no_attrs(name, parents)) };
    let levels = i64::try_from(text.split('/').count()).unwrap_or(i64::MAX);
    let attributes = HashMap::from([
        ("name".to_owned(), string(text)),
        ("levels".to_owned(), RestrictedExpression::new_long(levels)),
    ]);
    Entity::new(name, attributes, parents).map_err(Denial::failed)
}

/// A subscription.
///
/// # Errors
/// A denial, when it cannot be described.
pub(super) fn subscription(
    name: EntityUid,
    filter: &crate::mqtt::SubscriptionFilter,
    parents: HashSet<EntityUid>,
) -> Result<Entity, Denial> {
    let levels = i64::try_from(filter.filter.levels().count()).unwrap_or(i64::MAX);
    let attributes = HashMap::from([
        ("wildcard".to_owned(), RestrictedExpression::new_bool(filter.filter.has_wildcard())),
        ("shared".to_owned(), RestrictedExpression::new_bool(filter.share.is_some())),
        ("levels".to_owned(), RestrictedExpression::new_long(levels)),
    ]);
    Entity::new(name, attributes, parents).map_err(Denial::failed)
}

pub(super) fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

pub(super) fn long(number: impl Into<i64>) -> RestrictedExpression {
    RestrictedExpression::new_long(number.into())
}

fn size(payload_bytes: usize) -> RestrictedExpression {
    long(i64::try_from(payload_bytes).unwrap_or(i64::MAX))
}

pub(super) fn ip(address: IpAddr) -> RestrictedExpression {
    RestrictedExpression::new_ip(address.to_canonical().to_string())
}

pub(super) fn time(now: SystemTime) -> RestrictedExpression {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    datetime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_millis())
}

/// Cedar writes four digits of a year: what lies outside becomes the nearest moment inside.
fn datetime(unix_s: i64, milliseconds: u32) -> RestrictedExpression {
    const YEAR_0: i64 = -62_167_219_200;
    const YEAR_9999_END: i64 = 253_402_300_799;
    let moment = OffsetDateTime::from_unix_timestamp(unix_s.clamp(YEAR_0, YEAR_9999_END))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    RestrictedExpression::new_datetime(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{milliseconds:03}Z",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second(),
    ))
}
