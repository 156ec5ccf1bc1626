//! Which rules come near a question, and which filters have to do with it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use cedar_policy::{Effect, PrincipalConstraint};

use super::{Filter, Relation};
use crate::mqtt::{SubscriptionFilter, TopicFilter};
use crate::policy::filters::Normalised;
use crate::policy::judge::Asker;
use crate::policy::load::Rule;
use crate::policy::policy_filter::PolicyFilter;
use crate::policy::question::{Answer, Asked};
use crate::policy::trie::{FilterIndex, Trie};

/// Rules of each kind that are looked at closely: whose scope matches, that are about other
/// topics, that are about other principals.
const IN_SCOPE_MAX: usize = 32;
const OTHERS_MAX: usize = 8;
/// Filters that are told.
const FILTERS_MAX: usize = 16;

/// What there is to look at.
pub(super) struct Survey<'a> {
    pub(super) filters: Vec<Filter>,
    pub(super) filters_untold: usize,
    pub(super) rules: Vec<Neighbour<'a>>,
    pub(super) rules_untold: usize,
}

/// A rule that comes near.
#[derive(Clone, Copy)]
pub(super) struct Neighbour<'a> {
    pub(super) rule: &'a Rule,
    /// Its filter matches, or is the same at least at the beginning.
    pub(super) is_about_it: bool,
}

/// What a filter is compared with.
enum Target<'a> {
    /// A listener or a profile.
    NoTopic,
    Topic(&'a str),
    Filter(Normalised<'a>),
}

/// The filters of an action's rules that have to do with the target.
#[derive(Default)]
struct Class {
    /// Those that match the topic, or cover the filter.
    whole: BTreeSet<FilterIndex>,
    /// Those that overlap the filter.
    part: BTreeSet<FilterIndex>,
}

impl<'a> Survey<'a> {
    pub(super) fn of(asker: &Asker<'a>, asked: &Asked, answer: &Answer) -> Self {
        let rules: Vec<(&Rule, bool)> =
            asker.bundle.rules_of(asked.action(), asker.identity, &asker.resolved.groups).collect();
        let target = match asked {
            Asked::Connect(_) | Asked::Enroll(_) => Target::NoTopic,
            Asked::Subscribe { filter: SubscriptionFilter { filter, .. }, .. } => {
                Target::Filter(Normalised::of(filter))
            }
            Asked::Publish { message, .. } | Asked::Receive { message, .. } => {
                Target::Topic(message.topic.as_str())
            }
        };
        let known = Known::of(&rules);
        let class = known.class(&target, asker);
        let (filters, filters_untold) = known.told(&class, &target, asker);
        let chosen = choose(&rules, answer, |rule| {
            let Some(scope) = &rule.scope else { return Ok(()) };
            let needs = match (&target, rule.policy.effect()) {
                (Target::Filter(_), Effect::Forbid) => &class.part,
                _ => &class.whole,
            };
            if known.numbers.get(&**scope).is_some_and(|index| needs.contains(index)) {
                return Ok(());
            }
            Err(rule.scope_filter().map_or(0, |scope| target.leading(scope, asker)))
        });
        let rules_untold = rules.len().saturating_sub(chosen.len());
        Self { filters, filters_untold, rules: chosen, rules_untold }
    }
}

/// The nearest rules. `reaches` tells whether the scope of a rule takes in the resource, or how
/// many levels they have in common.
fn choose<'a>(
    rules: &[(&'a Rule, bool)],
    answer: &Answer,
    reaches: impl Fn(&Rule) -> Result<(), usize>,
) -> Vec<Neighbour<'a>> {
    let (mut in_scope, mut elsewhere, mut of_others) = (Vec::new(), Vec::new(), Vec::new());
    for (rule, is_candidate) in rules {
        let near = |is_about_it| Neighbour { rule, is_about_it };
        match (is_candidate, reaches(rule)) {
            (true, Ok(())) => in_scope.push((!answer.policies().contains(&rule.id), near(true))),
            (true, Err(levels)) => elsewhere.push((Reverse(levels), near(levels > 0))),
            // A rule for one other principal is further away than one for a group or a type.
            (false, Ok(())) => {
                let of_one = matches!(rule.principal, PrincipalConstraint::Eq(_));
                of_others.push((of_one, near(true)));
            }
            (false, Err(_)) => {}
        }
    }
    // The sorting keeps rules of the same distance in the order of their ids.
    in_scope.sort_by_key(|(distance, _)| *distance);
    elsewhere.sort_by_key(|(distance, _)| *distance);
    of_others.sort_by_key(|(distance, _)| *distance);
    let in_scope = in_scope.into_iter().take(IN_SCOPE_MAX).map(|(_, near)| near);
    let elsewhere = elsewhere.into_iter().take(OTHERS_MAX).map(|(_, near)| near);
    let of_others = of_others.into_iter().take(OTHERS_MAX).map(|(_, near)| near);
    in_scope.chain(elsewhere).chain(of_others).collect()
}

impl Target<'_> {
    /// Levels that the nearest form of a filter has in common with the target.
    fn leading(&self, filter: &PolicyFilter, asker: &Asker<'_>) -> usize {
        let leading = |filter: &Normalised<'_>| match self {
            Self::NoTopic => 0,
            Self::Topic(topic) => filter.leading(&Normalised::of_topic(topic)),
            Self::Filter(wanted) => filter.leading(wanted),
        };
        let filled = filter.filled(asker.bindings());
        if filled.is_empty() {
            // Up to the placeholder that nothing fills it may still be the one that was meant.
            let written = TopicFilter::parse(filter.text());
            return written.map_or(0, |filter| leading(&Normalised::of(&filter)));
        }
        filled.iter().map(leading).max().unwrap_or(0)
    }
}

/// Every filter of some rules, numbered.
struct Known<'a> {
    filters: Vec<&'a PolicyFilter>,
    numbers: AHashMap<&'a str, FilterIndex>,
    trie: Trie,
}

impl<'a> Known<'a> {
    fn of(rules: &[(&'a Rule, bool)]) -> Self {
        let mut known =
            Self { filters: Vec::new(), numbers: AHashMap::new(), trie: Trie::default() };
        for filter in rules.iter().flat_map(|(rule, _)| &rule.filters) {
            let index = FilterIndex::try_from(known.filters.len()).unwrap_or(FilterIndex::MAX);
            if known.numbers.contains_key(&**filter.text()) {
                continue;
            }
            known.numbers.insert(filter.text(), index);
            known.trie.insert(filter, index);
            known.filters.push(filter);
        }
        known
    }

    fn class(&self, target: &Target<'_>, asker: &Asker<'_>) -> Class {
        let mut class = Class::default();
        let bindings = asker.bindings();
        match target {
            Target::NoTopic => {}
            Target::Topic(topic) => {
                self.trie.matching(topic, bindings, &mut |index| {
                    class.whole.insert(index);
                });
            }
            Target::Filter(filter) => {
                self.trie.covering(filter, bindings, &mut |index| {
                    class.whole.insert(index);
                });
                self.trie.overlapping(filter, bindings, &mut |index| {
                    class.part.insert(index);
                });
            }
        }
        class
    }

    /// The filters of the class, and how many are not told.
    fn told(&self, class: &Class, target: &Target<'_>, asker: &Asker<'_>) -> (Vec<Filter>, usize) {
        let whole = match target {
            Target::Filter(_) => Relation::Covers,
            Target::NoTopic | Target::Topic(_) => Relation::Matches,
        };
        let covering = class.whole.iter().map(|index| (*index, whole));
        let overlapping = class.part.difference(&class.whole);
        let all: Vec<(FilterIndex, Relation)> =
            covering.chain(overlapping.map(|index| (*index, Relation::Overlaps))).collect();
        let filter = |(index, relation): &(FilterIndex, Relation)| {
            let filter = self.filters.get(usize::try_from(*index).ok()?)?;
            Some(Filter {
                filter: Arc::clone(filter.text()),
                here: here(filter, asker).unwrap_or_default(),
                relation: *relation,
            })
        };
        let told: Vec<Filter> = all.iter().take(FILTERS_MAX).filter_map(filter).collect();
        let untold = all.len().saturating_sub(told.len());
        (told, untold)
    }
}

/// What a filter is for this client, if it has placeholders.
pub(super) fn here(filter: &PolicyFilter, asker: &Asker<'_>) -> Option<Vec<String>> {
    filter.placeholders().next()?;
    Some(filter.filled(asker.bindings()).iter().map(ToString::to_string).collect())
}
