//! What becomes of decisions when one set of policies takes the place of another.

use std::cmp::Ordering;
use std::sync::Arc;

use super::bundle::Bundle;
use super::examiner::Examiner;
use super::question::{Answer, Question};

/// Two sets of policies that are asked the same.
#[derive(Debug)]
pub struct Comparison {
    old: Examiner,
    new: Examiner,
}

/// The answers to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Of the old policies.
    pub old: Answer,
    /// Of the new ones.
    pub new: Answer,
}

/// How an answer changes; what widens rights comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// What was denied is allowed.
    NewlyAllowed,
    /// What was allowed is denied.
    NewlyDenied,
    /// The decision stays, and other policies make it.
    OtherReasons,
}

/// Policies that are not the same in both sets, by id, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleChanges {
    /// Only the new set has them.
    pub added: Vec<Arc<str>>,
    /// Only the old set has them.
    pub removed: Vec<Arc<str>>,
    /// Both have them, written differently.
    pub changed: Vec<Arc<str>>,
}

impl Comparison {
    /// Compares these.
    #[must_use]
    pub fn new(old: &Arc<Bundle>, new: &Arc<Bundle>) -> Self {
        Self { old: Examiner::new(old), new: Examiner::new(new) }
    }

    /// The policies that differ.
    #[must_use]
    pub fn rules(&self) -> RuleChanges {
        let mut changes = RuleChanges::default();
        let mut old = self.old.bundle().texts().peekable();
        let mut new = self.new.bundle().texts().peekable();
        loop {
            // Both are in order of their ids.
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let before = old.next_if(|_| order.is_le());
            let after = new.next_if(|_| order.is_ge());
            match (before, after) {
                (Some((id, _)), None) => changes.removed.push(Arc::clone(id)),
                (None, Some((id, _))) => changes.added.push(Arc::clone(id)),
                (Some((id, before)), Some((_, after))) if before != after => {
                    changes.changed.push(Arc::clone(id));
                }
                _ => {}
            }
        }
    }

    /// Asks both.
    pub fn ask(&mut self, question: &Question) -> Answers {
        Answers { old: self.old.ask(question), new: self.new.ask(question) }
    }
}

impl Answers {
    /// How the answer changes; `None` when it does not.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        match (self.old.is_allowed(), self.new.is_allowed()) {
            (false, true) => Some(Change::NewlyAllowed),
            (true, false) => Some(Change::NewlyDenied),
            _ => (self.old != self.new).then_some(Change::OtherReasons),
        }
    }
}

impl Change {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewlyAllowed => "newly allowed",
            Self::NewlyDenied => "newly denied",
            Self::OtherReasons => "decided by others",
        }
    }
}

impl RuleChanges {
    /// True when both sets are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::question::Words;
    use crate::policy::tests::world::bundle;

    fn rule(id: &str, topic: &str) -> String {
        format!(
            "@id(\"{id}\") permit (principal, action == Action::\"publish\", \
             resource in TopicFilter::\"{topic}\");\n"
        )
    }

    #[test]
    fn rules_are_told_apart_by_id_and_text_wherever_they_stand() {
        let old = rule("b", "b") + &rule("a", "a") + &rule("c", "c");
        let new = rule("c", "c") + &rule("d", "d") + &rule("b", "other");
        let rules = Comparison::new(&bundle(&old), &bundle(&new)).rules();
        let ids = |ids: &[&str]| ids.iter().map(|id| Arc::from(*id)).collect::<Vec<Arc<str>>>();
        let (added, removed, changed) = (ids(&["d"]), ids(&["a"]), ids(&["b"]));
        assert_eq!(rules, RuleChanges { added, removed, changed });
        let reordered = rule("c", "c") + &rule("a", "a") + &rule("b", "b");
        assert!(Comparison::new(&bundle(&old), &bundle(&reordered)).rules().is_empty());
    }

    #[test]
    fn a_change_is_told_from_a_decision_that_others_make() {
        let old = bundle(&(rule("a", "a") + &rule("b", "b") + &rule("c", "c")));
        let new = bundle(&(rule("a", "a") + &rule("b", "x") + &rule("other", "c")));
        let mut comparison = Comparison::new(&old, &new);
        for (topic, change) in [
            ("a", None),
            ("b", Some(Change::NewlyDenied)),
            ("x", Some(Change::NewlyAllowed)),
            ("c", Some(Change::OtherReasons)),
            ("y", None),
        ] {
            let words = Words {
                principal: "Device::d",
                action: "publish",
                resource: topic,
                ..Words::default()
            };
            let answers = comparison.ask(&Question::parse(&words).unwrap());
            assert_eq!(answers.change(), change, "{topic}");
        }
    }
}
