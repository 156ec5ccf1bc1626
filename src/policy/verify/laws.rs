//! What else the solver has to be told: about groups, listeners, facts and the claim itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::ResourceConstraint;

use super::Claim;
use super::literals::{Literal, entity, is_in};
use super::neighbours::Selection;
use crate::policy::schema::Action;

impl Claim {
    /// Whoever is in a group is in those that this one is in.
    pub(super) fn laws_of_groups(&self, selection: &Selection<'_>) -> Vec<String> {
        let Some(declared) = self.bundle().declared_groups() else { return Vec::new() };
        let mut named: BTreeSet<&Arc<str>> = BTreeSet::new();
        for (group, _) in declared.iter() {
            let literal = entity("Group", group);
            let claimed = matches!(self, Self::Nobody { group: it, .. } if **it == **group);
            if claimed || selection.rules().any(|it| it.policy.to_string().contains(&literal)) {
                named.insert(group);
            }
        }
        let mut laws = Vec::new();
        for group in &named {
            let of = declared.closure(&[Arc::clone(group)]).unwrap_or_default();
            for parent in of.iter().filter(|parent| **parent != **group && named.contains(parent)) {
                laws.push(format!(
                    "principal in {} && !(principal in {})",
                    entity("Group", group),
                    entity("Group", parent)
                ));
            }
        }
        laws
    }

    /// The listener of the session is the one that is connected to.
    pub(super) fn laws_of_listeners(&self, selection: &Selection<'_>) -> Vec<String> {
        let mut listeners: BTreeSet<String> = selection
            .rules()
            .filter_map(|rule| match rule.policy.resource_constraint() {
                ResourceConstraint::Eq(listener) | ResourceConstraint::In(listener) => {
                    Some(listener.id().unescaped().to_owned())
                }
                _ => None,
            })
            .collect();
        if let Self::Nobody { resource, .. } = self {
            listeners.insert(resource.clone());
        }
        let law = |listener: &String| {
            let resource = entity("Listener", listener);
            let name = listener.escape_debug();
            format!("(resource == {resource}) != (context.session.listener == \"{name}\")")
        };
        listeners.iter().map(law).collect()
    }

    /// What the claim is not about.
    pub(super) fn laws_of_claim(&self, action: Action) -> Vec<String> {
        let Self::Nobody { group, resource, .. } = self else { return Vec::new() };
        let within = match action {
            Action::Connect => format!("resource == {}", entity("Listener", resource)),
            // A subscription has to do with the filter when it overlaps it: that is the last of
            // its literals.
            _ => Literal::all(action, resource)
                .last()
                .map_or_else(|| "false".to_owned(), |literal| is_in(&literal.id())),
        };
        vec![format!("!(principal in {})", entity("Group", group)), format!("!({within})")]
    }
}

/// What no request has.
pub(super) fn laws_of_facts(action: Action) -> impl Iterator<Item = &'static str> {
    const ALWAYS: &[&str] = &[
        "context.session.client_id == \"\"",
        "!([3, 4, 5].contains(context.session.protocol_version))",
        "!([0, 12, 13].contains(context.session.tls_version))",
        "context.time < datetime(\"1970-01-01\") || context.time > datetime(\"9999-12-31\")",
    ];
    const CONNECT: &[&str] = &[
        "context.session_expiry < 0 || context.session_expiry > 4294967295",
        "context.keep_alive < 0 || context.keep_alive > 65535",
    ];
    const TOPIC: &[&str] = &["!([0, 1, 2].contains(context.qos))", "resource.levels < 1"];
    const PACKET: &[&str] = &["context.payload_size < 0 || context.payload_size > 268435455"];
    let (topic, rest): (&[&str], &[&str]) = match action {
        Action::Connect => (&[], CONNECT),
        Action::Enroll => (&[], &[]),
        Action::Publish | Action::Receive => (TOPIC, PACKET),
        Action::Subscribe => (TOPIC, &[]),
    };
    ALWAYS.iter().chain(topic).chain(rest).copied()
}
