//! What the broker decides whose ACL file it is: the measure that the policies are held to.
//!
//! Mosquitto (`mosquitto_acl_check_default` in 2.0, plugins/acl-file/acl_check.c in 2.1): a client
//! is known by its user name or has none; of its own `topic` lines first the denials, then the
//! grants; then of the `pattern` lines first the denials, then the grants; nothing otherwise. A
//! denial of a pattern therefore does not take back what a `topic` line grants. A SUBSCRIBE is
//! never refused. VerneMQ (`check` in `vmq_acl.erl`): the general lines concern everybody, nothing
//! is denied, and only SUBSCRIBE and PUBLISH are judged.
//!
//! SUBSCRIBE is the exception: here it is what the policies will say, which have to cover it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Dialect;
use super::acl_file::{Access, Rule, Who};
use crate::mqtt::{SubscriptionFilter, TopicFilter};

/// The rules of one file.
#[derive(Debug)]
pub(super) struct Acl {
    pub(super) dialect: Dialect,
    pub(super) rules: Vec<Rule>,
    /// The numbers of the rules, by whom they concern.
    by_who: HashMap<Who, Vec<usize>>,
}

/// A client as an ACL file knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The user name; none is an anonymous client.
    pub(super) name: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Publish,
    Subscribe,
    Receive,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        }
    }

    const fn is_granted_by(self, access: Access) -> bool {
        match self {
            Self::Publish => access.writes(),
            Self::Subscribe | Self::Receive => access.reads(),
        }
    }
}

/// A decision, and the policies that make it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    /// Ids, in order; none when nothing permits it.
    pub(super) by: Vec<String>,
}

impl Acl {
    pub(super) fn new(dialect: Dialect, rules: Vec<Rule>) -> Self {
        let mut by_who: HashMap<Who, Vec<usize>> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            by_who.entry(rule.who.clone()).or_default().push(index);
        }
        Self { dialect, rules, by_who }
    }

    /// True when the file has lines for this user.
    pub(super) fn names(&self, user: &str) -> bool {
        self.by_who.contains_key(&Who::User(user.into()))
    }

    /// The `pattern` denials that may take something from a `pattern` grant.
    pub(super) fn exceptions<'a>(&'a self, rule: &'a Rule) -> impl Iterator<Item = &'a Rule> {
        let patterns = if rule.who == Who::Pattern { self.of(&Who::Pattern) } else { &[] };
        let patterns = patterns.iter().filter_map(|index| self.rules.get(*index));
        patterns.filter(|it| it.access == Access::Deny && it.filter.may_overlap(&rule.filter))
    }

    /// True when SUBSCRIBE has a policy of its own, because it is granted on other conditions.
    pub(super) fn is_split(&self, rule: &Rule) -> bool {
        rule.access.reads()
            && (self.dialect == Dialect::Vernemq || self.exceptions(rule).next().is_some())
    }

    /// Decides about a topic or, for SUBSCRIBE, a filter.
    pub(super) fn decide(&self, client: &Client, verb: Verb, text: &str) -> Decision {
        let asked = Asked::new(client, verb, text);
        let own = self.own(client);
        let denied: Vec<&Rule> = own.iter().copied().filter(|it| asked.is_denied_by(it)).collect();
        if !denied.is_empty() {
            return Decision { allowed: false, by: self.ids(&denied, verb) };
        }
        let shared = asked.is_shared() && self.dialect == Dialect::Vernemq;
        let patterns: Vec<&Rule> = self.get(&Who::Pattern).collect();
        let excepted = patterns.iter().any(|it| asked.is_denied_by(it));
        let patterns = patterns.into_iter().filter(|_| !excepted);
        let granted: Vec<&Rule> = own
            .into_iter()
            .chain(patterns)
            .filter(|rule| !shared && asked.is_granted_by(rule))
            .collect();
        Decision { allowed: !granted.is_empty(), by: self.ids(&granted, verb) }
    }

    /// The `topic` lines that concern a client.
    fn own(&self, client: &Client) -> Vec<&Rule> {
        let general = client.name.is_none() || self.dialect == Dialect::Vernemq;
        let general = general.then(|| self.get(&Who::General)).into_iter().flatten();
        let user = client.name.iter().map(|name| Who::User(Arc::clone(name)));
        general.chain(user.flat_map(|who| self.get(&who).collect::<Vec<_>>())).collect()
    }

    fn get(&self, who: &Who) -> impl Iterator<Item = &Rule> {
        self.of(who).iter().filter_map(|index| self.rules.get(*index))
    }

    fn of(&self, who: &Who) -> &[usize] {
        self.by_who.get(who).map_or(&[], Vec::as_slice)
    }

    fn ids(&self, rules: &[&Rule], verb: Verb) -> Vec<String> {
        let id = |rule: &&Rule| {
            if verb == Verb::Subscribe && self.is_split(rule) {
                rule.subscribe_id()
            } else {
                rule.id()
            }
        };
        let mut ids: Vec<String> = rules.iter().map(id).collect();
        ids.sort();
        ids
    }
}

impl Rule {
    /// The `@id` of its policy.
    pub(super) fn id(&self) -> String {
        format!("acl-line-{}", self.line)
    }

    /// The `@id` of its policy for SUBSCRIBE, where that is one of its own.
    pub(super) fn subscribe_id(&self) -> String {
        format!("acl-line-{}-subscribe", self.line)
    }
}

/// A question to the rules.
struct Asked<'a> {
    client: &'a Client,
    verb: Verb,
    topic: &'a str,
    /// For SUBSCRIBE.
    subscription: Option<SubscriptionFilter>,
}

impl<'a> Asked<'a> {
    fn new(client: &'a Client, verb: Verb, topic: &'a str) -> Self {
        let subscription =
            if verb == Verb::Subscribe { SubscriptionFilter::parse(topic).ok() } else { None };
        Self { client, verb, topic, subscription }
    }

    fn is_shared(&self) -> bool {
        self.subscription.as_ref().is_some_and(|it| it.share.is_some())
    }

    fn filter(&self) -> Option<&TopicFilter> {
        self.subscription.as_ref().map(|it| &it.filter)
    }

    fn is_denied_by(&self, rule: &Rule) -> bool {
        rule.access == Access::Deny && self.verb != Verb::Subscribe && self.concerns(rule)
    }

    fn is_granted_by(&self, rule: &Rule) -> bool {
        self.verb.is_granted_by(rule.access) && self.concerns(rule)
    }

    fn concerns(&self, rule: &Rule) -> bool {
        match (self.verb, self.filter()) {
            (Verb::Subscribe, Some(filter)) => rule.filter.covers(filter, self.client),
            (Verb::Subscribe, None) => false,
            _ => rule.filter.matches(self.topic, self.client),
        }
    }
}
