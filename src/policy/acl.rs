//! What one action needs of the rules that can concern one class of principals.

use std::sync::Arc;

use cedar_policy::{EntityUid, Policy, PolicySet};
use smallvec::SmallVec;

use super::filters::Normalised;
use super::load::Rule;
use super::permit::Denial;
use super::polarity::{COVERS, OVERLAPS, Reads};
use super::policy_filter::{Bindings, PolicyFilter};
use super::ranks::Bounds;
use super::schema::{Action, Vocabulary, uid};
use super::trie::{FilterIndex, Trie};

/// The filters that match a topic: its class. All that is left of the topic for a decision that
/// does not read its name.
pub(super) type Class = SmallVec<[FilterIndex; 8]>;

/// The rules of one action for every principal with the same candidates.
#[derive(Debug)]
pub(super) struct Acl {
    /// The rules as written.
    pub(super) policies: PolicySet,
    /// The rules as they judge a whole filter.
    pub(super) rewritten: PolicySet,
    /// What any of the rules reads.
    pub(super) reads: Reads,
    /// What any of the rules compares numbers with.
    pub(super) bounds: Bounds,
    trie: Trie,
    filters: Vec<Arc<str>>,
    volatility: Volatility,
    /// Likewise, of rules that read the time.
    timed: Volatility,
    /// Every rule names a filter in its scope: where no filter matches, nothing applies.
    scoped: bool,
}

/// For which classes a decision depends on nothing but what it is kept under.
#[derive(Debug)]
enum Volatility {
    /// For all.
    Never,
    /// For all but those with one of these filters, in order.
    Within(Vec<FilterIndex>),
    /// For none.
    Always,
}

impl Acl {
    /// Compiles the rules, all of which can apply to the action.
    ///
    /// # Errors
    /// A denial of everything, when Cedar does not take them as a set.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a Rule> + Clone,
        action: Action,
    ) -> Result<Self, Denial> {
        let mut acl = Self {
            policies: match action {
                Action::Subscribe => PolicySet::new(),
                _ => set(rules.clone().map(|rule| rule.policy.clone()))?,
            },
            rewritten: match action {
                Action::Subscribe | Action::Receive => {
                    set(rules.clone().filter_map(|rule| rule.rewritten.clone()))?
                }
                Action::Connect | Action::Publish | Action::Enroll => PolicySet::new(),
            },
            reads: Reads::default(),
            bounds: Bounds::default(),
            trie: Trie::default(),
            filters: Vec::new(),
            volatility: Volatility::Never,
            timed: Volatility::Never,
            scoped: true,
        };
        let mut indexes = ahash::AHashMap::new();
        for rule in rules {
            acl.reads = acl.reads.and(rule.reads);
            acl.bounds.add(&rule.bounds);
            for filter in &rule.filters {
                indexes.entry(Arc::clone(filter.text())).or_insert_with(|| acl.insert(filter));
            }
            let scope = rule.scope.as_ref().and_then(|text| indexes.get(text)).copied();
            acl.scoped &= scope.is_some();
            if rule.reads.uncacheable() {
                acl.volatility.add(scope);
            }
            if rule.reads.any_of(Reads::TIME) {
                acl.timed.add(scope);
            }
        }
        Ok(acl)
    }

    fn insert(&mut self, filter: &PolicyFilter) -> FilterIndex {
        // A bundle holds far fewer filters than u32 counts: each takes bytes of a bounded text.
        let index = FilterIndex::try_from(self.filters.len()).unwrap_or(FilterIndex::MAX);
        self.trie.insert(filter, index);
        self.filters.push(Arc::clone(filter.text()));
        index
    }

    /// The class of a topic.
    pub(super) fn class(&self, topic: &str, bindings: Bindings<'_>) -> Class {
        let mut class = Class::new();
        self.trie.matching(topic, bindings, &mut |index| class.push(index));
        class.sort_unstable();
        class
    }

    /// True when no rule can apply to a topic of this class.
    pub(super) fn nothing_applies(&self, class: &Class) -> bool {
        self.scoped && class.is_empty()
    }

    /// True when a decision for this class may be kept, under the rank of its numbers.
    pub(super) fn cacheable(&self, class: &Class) -> bool {
        !self.volatility.concerns(class)
    }

    /// True when a decision for this class stays the same as time goes by.
    pub(super) fn timeless(&self, class: &Class) -> bool {
        !self.timed.concerns(class)
    }

    /// The entities that a topic of this class is in.
    pub(super) fn parents<'a>(
        &'a self,
        class: &'a Class,
        vocabulary: &'a Vocabulary,
    ) -> impl Iterator<Item = EntityUid> + 'a {
        class
            .iter()
            .filter_map(|index| self.text(*index))
            .map(|text| uid(&vocabulary.topic_filter, text))
    }

    /// The entities that a whole filter is in, and the filters that overlap it as a class.
    pub(super) fn filter_parents(
        &self,
        filter: &Normalised<'_>,
        bindings: Bindings<'_>,
        vocabulary: &Vocabulary,
    ) -> (Vec<EntityUid>, Class) {
        let mut parents = Vec::new();
        let mut add = |prefix: &str, index: FilterIndex| {
            if let Some(text) = self.text(index) {
                parents.push(uid(&vocabulary.topic_filter, &format!("{prefix}{text}")));
            }
        };
        self.trie.covering(filter, bindings, &mut |index| add(COVERS, index));
        let mut overlapping = Class::new();
        self.trie.overlapping(filter, bindings, &mut |index| {
            add(OVERLAPS, index);
            overlapping.push(index);
        });
        (parents, overlapping)
    }

    fn text(&self, index: FilterIndex) -> Option<&Arc<str>> {
        self.filters.get(usize::try_from(index).ok()?)
    }
}

fn set(policies: impl Iterator<Item = Policy>) -> Result<PolicySet, Denial> {
    PolicySet::from_policies(policies).map_err(Denial::failed)
}

impl Volatility {
    fn concerns(&self, class: &Class) -> bool {
        match self {
            Self::Never => false,
            Self::Within(filters) => class.iter().any(|index| filters.binary_search(index).is_ok()),
            Self::Always => true,
        }
    }

    /// Takes in a rule whose decision cannot be kept.
    fn add(&mut self, scope: Option<FilterIndex>) {
        let Some(index) = scope else {
            *self = Self::Always;
            return;
        };
        match self {
            Self::Never => *self = Self::Within(vec![index]),
            Self::Within(filters) => {
                if let Err(at) = filters.binary_search(&index) {
                    filters.insert(at, index);
                }
            }
            Self::Always => {}
        }
    }
}
