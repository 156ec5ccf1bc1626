//! The words policies are written in: the embedded schema, and its names as Cedar's types.

use std::sync::OnceLock;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema};

use super::problem::Problem;
use crate::identity::PrincipalKind;

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
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Publish, Self::Subscribe, Self::Receive];

    /// The id of the Cedar action.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
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
    pub(super) subscription: EntityTypeName,
    pub(super) topic: EntityTypeName,
    pub(super) topic_filter: EntityTypeName,
    principals: [(PrincipalKind, EntityTypeName); 4],
}

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
        Ok(Self {
            action: named("Action")?,
            group: named("Group")?,
            listener: named("Listener")?,
            subscription: named("Subscription")?,
            topic: named("Topic")?,
            topic_filter: named("TopicFilter")?,
            principals: [
                principal(PrincipalKind::Device)?,
                principal(PrincipalKind::User)?,
                principal(PrincipalKind::Service)?,
                principal(PrincipalKind::Anonymous)?,
            ],
            schema,
            actions,
        })
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

/// An entity by type and id. The id is never parsed, so it may hold anything.
pub(super) fn uid(name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
}
