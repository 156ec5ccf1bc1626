//! Which rules a claim is about: the solver copes with tens of them.
//!
//! A rule that stands unchanged in both sets, and whose scope has no topic in common with that of
//! any changed one, cannot make a difference: where a changed rule applies it does not, and
//! elsewhere both sets are the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::load::Rule;
use crate::policy::schema::Action;

use super::literals::Shape;

/// The rules of one action that a claim is about.
#[derive(Debug, Default)]
pub(super) struct Selection<'a> {
    pub(super) old: Vec<&'a Rule>,
    pub(super) new: Vec<&'a Rule>,
}

impl<'a> Selection<'a> {
    /// The rules of an action that differ, by id, and their neighbours. Empty when none differs.
    pub(super) fn of_change(
        action: Action,
        old: &'a [Rule],
        new: &'a [Rule],
        differ: &BTreeSet<Arc<str>>,
    ) -> Self {
        let of_action = |rules: &'a [Rule]| -> Vec<&'a Rule> {
            rules.iter().filter(|rule| rule.actions.contains(action)).collect()
        };
        let (old, new) = (of_action(old), of_action(new));
        let changed: Vec<&Rule> =
            old.iter().chain(&new).copied().filter(|rule| differ.contains(&rule.id)).collect();
        let near = |rule: &&Rule| {
            differ.contains(&rule.id) || changed.iter().any(|changed| may_meet(changed, rule))
        };
        Self {
            old: old.into_iter().filter(near).collect(),
            new: new.into_iter().filter(near).collect(),
        }
    }

    /// The rules of an action that may have a say about a filter.
    pub(super) fn of_filter(action: Action, rules: &'a [Rule], filter: Option<&Shape>) -> Self {
        let near = |rule: &&Rule| {
            let apart = filter.zip(scope(rule)).is_some_and(|(it, scope)| !it.may_overlap(&scope));
            rule.actions.contains(action) && !apart
        };
        Self { old: Vec::new(), new: rules.iter().filter(near).collect() }
    }

    /// The ids of all, each once.
    pub(super) fn ids(&self) -> BTreeSet<Arc<str>> {
        self.old.iter().chain(&self.new).map(|rule| Arc::clone(&rule.id)).collect()
    }

    /// Every rule as written, each once.
    pub(super) fn rules(&self) -> impl Iterator<Item = &'a Rule> {
        self.old.iter().chain(&self.new).copied()
    }
}

fn scope(rule: &Rule) -> Option<Shape> {
    Shape::of(rule.scope.as_deref()?)
}

fn may_meet(left: &Rule, right: &Rule) -> bool {
    scope(left).zip(scope(right)).is_none_or(|(left, right)| left.may_overlap(&right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::world::bundle;

    const OLD: &str = r#"
        @id("a") permit (principal, action == Action::"publish", resource in TopicFilter::"a/+");
        @id("b") permit (principal, action == Action::"publish", resource in TopicFilter::"b/#");
        @id("c") forbid (principal, action, resource in TopicFilter::"a/secret/#");
        @id("d") permit (principal, action in Action::"read", resource in TopicFilter::"a/#");
        @id("e") forbid (principal in Group::"banned", action, resource);
        @id("f") forbid (principal, action, resource in TopicFilter::"${cn}/x");
    "#;

    fn ids(selection: &Selection<'_>) -> String {
        selection.ids().iter().map(|id| &**id).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_changed_rules_and_those_that_may_meet_them_are_looked_at() {
        let old = bundle(OLD);
        let new = bundle(&OLD.replace("\"a/+\"", "\"a/x\""));
        let differ = BTreeSet::from([Arc::from("a")]);
        let of = |action| Selection::of_change(action, old.rules(), new.rules(), &differ);
        assert_eq!(ids(&of(Action::Publish)), "a c e f");
        assert_eq!(ids(&of(Action::Receive)), "", "no rule of it differs");
    }

    #[test]
    fn only_rules_that_may_meet_the_filter_are_looked_at() {
        let bundle = bundle(OLD);
        let filter = Shape::of("b/c").unwrap();
        let of = |action| Selection::of_filter(action, bundle.rules(), Some(&filter));
        assert_eq!(ids(&of(Action::Publish)), "b e");
        assert_eq!(ids(&of(Action::Receive)), "e");
        let connect = Selection::of_filter(Action::Connect, bundle.rules(), None);
        assert_eq!(ids(&connect), "c e f");
    }
}
