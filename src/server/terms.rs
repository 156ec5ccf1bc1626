//! What clients of a listener get: the limits of a profile.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::listener;
use crate::gates::Profile;
use crate::identity::Rule;
use crate::router::{RetainedSettings, mailbox};

/// What the clients of a profile get.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) profile: Arc<Profile>,
    pub(super) mailbox: Arc<mailbox::Settings>,
    pub(super) retained: Arc<RetainedSettings>,
}

/// The terms of one listener.
#[derive(Debug)]
pub(super) struct AllTerms {
    /// Of those for whom nothing else is said.
    pub(super) usual: Terms,
    /// Of those whose rule names a profile, by its name.
    by_rule: BTreeMap<Arc<str>, Terms>,
    /// Of those whose devices wait to be approved, where they are let in.
    pub(super) quarantine: Option<Terms>,
}

impl Terms {
    fn of(profile: &Arc<Profile>) -> Self {
        Self {
            profile: Arc::clone(profile),
            mailbox: Arc::new(profile.mailbox.clone()),
            retained: Arc::new(profile.retained.clone()),
        }
    }
}

impl AllTerms {
    pub(super) fn of(settings: &listener::Settings, quarantine: Option<&Arc<Profile>>) -> Self {
        let by_rule = settings.rule_profiles.iter();
        Self {
            usual: Terms::of(&settings.profile),
            by_rule: by_rule
                .map(|(rule, profile)| (Arc::clone(rule), Terms::of(profile)))
                .collect(),
            quarantine: quarantine.map(Terms::of),
        }
    }

    /// Those of a rule that names a profile.
    pub(super) fn of_rule(&self, rule: Option<&Arc<Rule>>) -> Option<&Terms> {
        self.by_rule.get(&rule?.name)
    }
}
