//! A refused subscription, taken apart: what of it is forbidden, and what of it would be allowed.

use std::sync::Arc;

use super::{Portion, RuleEffect, RuleReport, State};
use crate::mqtt::{SubscriptionFilter, TopicFilter};
use crate::policy::filters::Normalised;
use crate::policy::judge::Asker;
use crate::policy::load::Rule;
use crate::policy::question::{Answer, Asked, Question};
use crate::policy::{Bundle, SubscribeFacts};

/// Parts of a subscription that are asked for by themselves.
const ALTERNATIVES_MAX: usize = 16;

/// A refused subscription, and the rules that come near it.
pub(super) struct Dissection<'a> {
    pub(super) question: &'a Question,
    pub(super) filter: &'a SubscriptionFilter,
    pub(super) asker: &'a Asker<'a>,
    pub(super) rules: &'a [(&'a Rule, RuleReport)],
}

impl Dissection<'_> {
    /// The parts that the deciding forbids reach: for them they refuse all of it.
    pub(super) fn refused(&self) -> Vec<Portion> {
        let decides = |report: &RuleReport| {
            report.effect == RuleEffect::Forbid && report.state == State::Decides
        };
        let mut portions = Vec::new();
        for (rule, _) in self.rules.iter().filter(|(_, report)| decides(report)) {
            // Without a filter in its scope a forbid is not about a part.
            let parts = match rule.scope {
                Some(_) => self.meets(rule),
                None => vec![self.filter.filter.to_string()],
            };
            let portion = |filter| Portion { filter, policies: vec![Arc::clone(&rule.id)] };
            portions.extend(parts.into_iter().map(portion));
        }
        portions
    }

    /// The parts that permits reach and that would be allowed, each asked for by itself.
    pub(super) fn would_be_allowed(
        &self,
        bundle: &Arc<Bundle>,
        facts: &SubscribeFacts,
    ) -> Vec<Portion> {
        let mut parts: Vec<String> = Vec::new();
        for (rule, report) in self.rules {
            if report.effect == RuleEffect::Permit {
                for part in self.meets(rule) {
                    if parts.len() < ALTERNATIVES_MAX && !parts.contains(&part) {
                        parts.push(part);
                    }
                }
            }
        }
        let allowed = |part: String| {
            let share = self.filter.share.clone();
            let filter = SubscriptionFilter { share, filter: TopicFilter::parse(&part).ok()? };
            let written = filter.to_string();
            let asked = Asked::Subscribe { filter, facts: *facts };
            match (Question { asked, ..self.question.clone() }).ask(bundle) {
                Answer::Allowed(policies) => Some(Portion { filter: written, policies }),
                Answer::Denied(_) => None,
            }
        };
        parts.into_iter().filter_map(allowed).collect()
    }

    /// What the subscription has in common with the filter in a rule's scope, as it is for this
    /// client.
    fn meets(&self, rule: &Rule) -> Vec<String> {
        let wanted = Normalised::of(&self.filter.filter);
        let Some(scope) = rule.scope_filter() else { return Vec::new() };
        let filled = scope.filled(self.asker.bindings());
        filled.iter().filter_map(|part| Some(wanted.meet(part)?.to_string())).collect()
    }
}
