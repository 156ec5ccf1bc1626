//! The words policies are written in: the embedded schema, and its names as Cedar's types.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema, SchemaFragment};
use serde_json::Value;

use super::problem::Problem;
use crate::identity::PrincipalKind;
use crate::suggest::nearest;

/// The schema that every policy is validated against, in Cedar's own syntax.
pub const SCHEMA: &str = include_str!("../../policies/schema.cedarschema");

/// What a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client connects to a listener.
    Connect,
    /// A client publishes to a topic, or its will does.
    Publish,
    /// A client subscribes with a filter.
    Subscribe,
    /// A message is delivered to a client.
    Receive,
    /// A certificate is given over the network, by `portcullis pki serve`.
    Enroll,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Connect, Self::Publish, Self::Subscribe, Self::Receive, Self::Enroll];
    /// Those that the broker decides, for its clients.
    pub const OF_CLIENTS: [Self; 4] =
        [Self::Connect, Self::Publish, Self::Subscribe, Self::Receive];

    /// The id of the Cedar action.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
            Self::Enroll => "enroll",
        }
    }
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Actions(u8);

impl Actions {
    pub(super) const fn with(self, action: Action) -> Self {
        Self(self.0 | 1 << action as u8)
    }

    pub(super) const fn contains(self, action: Action) -> bool {
        self.0 & 1 << action as u8 != 0
    }
}

/// The schema and its names.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    pub(super) schema: Schema,
    /// The actions with the groups of actions they are in. Without them in the store,
    /// `action in Action::"read"` silently never matches.
    pub(super) actions: Entities,
    pub(super) action: EntityTypeName,
    pub(super) group: EntityTypeName,
    pub(super) listener: EntityTypeName,
    pub(super) profile: EntityTypeName,
    pub(super) subscription: EntityTypeName,
    pub(super) topic: EntityTypeName,
    pub(super) topic_filter: EntityTypeName,
    principals: [(PrincipalKind, EntityTypeName); 4],
    /// Every attribute of any entity or context.
    attributes: Arc<BTreeSet<Box<str>>>,
    /// Every type.
    types: Arc<BTreeSet<Box<str>>>,
}

/// What Cedar itself has names for.
const CEDAR: [&str; 47] = [
    "permit",
    "forbid",
    "when",
    "unless",
    "principal",
    "action",
    "resource",
    "context",
    "if",
    "then",
    "else",
    "true",
    "false",
    "in",
    "is",
    "has",
    "like",
    "contains",
    "containsAll",
    "containsAny",
    "isEmpty",
    "getTag",
    "hasTag",
    "ip",
    "isIpv4",
    "isIpv6",
    "isLoopback",
    "isMulticast",
    "isInRange",
    "decimal",
    "lessThan",
    "lessThanOrEqual",
    "greaterThan",
    "greaterThanOrEqual",
    "datetime",
    "duration",
    "offset",
    "durationSince",
    "toDate",
    "toTime",
    "toMilliseconds",
    "toSeconds",
    "toMinutes",
    "toHours",
    "toDays",
    "id",
    "Action",
];

impl Vocabulary {
    /// The embedded schema, which is parsed at the first call: that takes longer than everything
    /// else about loading a few policies.
    ///
    /// # Errors
    /// When the schema itself is wrong.
    pub(super) fn new() -> Result<Self, Problem> {
        static PARSED: OnceLock<Vocabulary> = OnceLock::new();
        match PARSED.get() {
            Some(parsed) => Ok(parsed.clone()),
            None => Self::parse().map(|parsed| PARSED.get_or_init(|| parsed).clone()),
        }
    }

    fn parse() -> Result<Self, Problem> {
        let broken = |error: String| Problem::new(format!("the built-in schema is wrong: {error}"));
        let (schema, warnings) =
            Schema::from_cedarschema_str(SCHEMA).map_err(|error| broken(error.to_string()))?;
        if let Some(warning) = { warnings }.next() {
            return Err(broken(warning.to_string()));
        }
        let actions = schema.action_entities().map_err(|error| broken(error.to_string()))?;
        let named = |name: &str| -> Result<EntityTypeName, Problem> {
            name.parse().map_err(|error| broken(format!("{name}: {error}")))
        };
        let principal = |kind: PrincipalKind| named(kind.as_str()).map(|name| (kind, name));
        let json = json()?;
        let mut names = Names::default();
        names.collect(&json);
        Ok(Self {
            action: named("Action")?,
            group: named("Group")?,
            listener: named("Listener")?,
            profile: named("Profile")?,
            subscription: named("Subscription")?,
            topic: named("Topic")?,
            topic_filter: named("TopicFilter")?,
            principals: [
                principal(PrincipalKind::Device)?,
                principal(PrincipalKind::User)?,
                principal(PrincipalKind::Service)?,
                principal(PrincipalKind::Anonymous)?,
            ],
            attributes: Arc::new(names.attributes),
            types: Arc::new(names.types),
            schema,
            actions,
        })
    }

    /// The known word that comes nearest to one that is not known; `None` for one that is.
    pub(super) fn did_you_mean(&self, word: &str) -> Option<&str> {
        let known = CEDAR
            .into_iter()
            .chain(self.attributes.iter().map(AsRef::as_ref))
            .chain(self.types.iter().map(AsRef::as_ref));
        if known.clone().any(|known| known == word) { None } else { nearest(word, known) }
    }

    /// True when some entity or context has an attribute of this name.
    pub(super) fn knows_attribute(&self, name: &str) -> bool {
        self.attributes.contains(name)
    }

    /// The attribute that comes nearest to a name.
    pub(super) fn nearest_attribute(&self, name: &str) -> Option<&str> {
        nearest(name, self.attributes.iter().map(AsRef::as_ref))
    }

    /// The type of a principal.
    pub(super) fn principal(&self, kind: PrincipalKind) -> &EntityTypeName {
        let [device, user, service, anonymous] = &self.principals;
        match kind {
            PrincipalKind::Device => &device.1,
            PrincipalKind::User => &user.1,
            PrincipalKind::Service => &service.1,
            PrincipalKind::Anonymous => &anonymous.1,
        }
    }

    /// The kind of principal that a type stands for.
    pub(super) fn kind(&self, name: &EntityTypeName) -> Option<PrincipalKind> {
        self.principals.iter().find(|(_, known)| known == name).map(|(kind, _)| *kind)
    }

    pub(super) fn action(&self, action: Action) -> EntityUid {
        uid(&self.action, action.as_str())
    }
}

/// The schema in Cedar's JSON form.
///
/// # Errors
/// When the schema itself is wrong.
pub fn json() -> Result<Value, Problem> {
    let broken = |error: String| Problem::new(format!("the built-in schema is wrong: {error}"));
    let (fragment, _) =
        SchemaFragment::from_cedarschema_str(SCHEMA).map_err(|error| broken(error.to_string()))?;
    fragment.to_json_value().map_err(|error| broken(error.to_string()))
}

/// The names that a schema defines.
#[derive(Default)]
struct Names {
    attributes: BTreeSet<Box<str>>,
    types: BTreeSet<Box<str>>,
}

impl Names {
    fn collect(&mut self, schema: &Value) {
        let Value::Object(members) = schema else { return };
        for (name, member) in members {
            let Value::Object(inner) = member else { continue };
            let names = inner.keys().map(|name| Box::from(name.as_str()));
            match name.as_str() {
                "attributes" => self.attributes.extend(names),
                "entityTypes" => self.types.extend(names),
                _ => {}
            }
            self.collect(member);
        }
    }
}

/// An entity by type and id. The id is never parsed, so it may hold anything.
pub(super) fn uid(name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
}
