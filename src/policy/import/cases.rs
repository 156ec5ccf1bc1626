//! Cases: of each rule, a topic that it decides about and one beside it, with what the broker
//! decides whose ACL file it is.

use std::fmt;
use std::sync::Arc;

use super::acl_file::{Access, Rule, Who};
use super::model::{Acl, Client, Decision, Verb};
use super::{Dialect, ImportError};
use crate::identity::PrincipalKind;
use crate::mqtt::TopicName;
use crate::policy::{Answer, Bundle, Question, Words};

/// Levels that fill wildcards; several, because one of them may be denied by another rule.
const FILLINGS: [&str; 3] = ["any", "other", "sample"];

/// A line of the case table.
#[derive(Debug)]
pub(super) struct Case {
    principal: String,
    client_id: Option<String>,
    verb: Verb,
    resource: String,
    expected: Decision,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, verb, resource, .. } = self;
        let facts = match &self.client_id {
            Some(client_id) => format!("client_id={client_id}"),
            None => "-".to_owned(),
        };
        let decision = if self.expected.allowed { "allow" } else { "deny" };
        let by = match self.expected.by.as_slice() {
            [] => "-".to_owned(),
            ids => ids.join(","),
        };
        let verb = verb.as_str();
        write!(f, "{principal}\t-\t{verb}\t{resource}\t{facts}\t{decision}\t{by}")
    }
}

impl Case {
    /// Asks the policies.
    ///
    /// # Errors
    /// When they answer otherwise than expected.
    pub(super) fn check(&self, bundle: &Arc<Bundle>) -> Result<(), ImportError> {
        let unequal = |answer: String| ImportError::Unequal { case: self.to_string(), answer };
        let facts = self.client_id.iter().map(|client_id| ("client_id", client_id.as_str()));
        let question = Question::parse(&Words {
            principal: &self.principal,
            action: self.verb.as_str(),
            resource: &self.resource,
            facts: facts.collect(),
            ..Words::default()
        });
        let answer = question.map_err(|error| unequal(error.to_string()))?.ask(bundle);
        let failed = matches!(&answer, Answer::Denied(denial) if !denial.errors.is_empty());
        let by = answer.policies().iter().map(|id| &**id);
        let equal = answer.is_allowed() == self.expected.allowed
            && by.eq(self.expected.by.iter().map(String::as_str));
        if failed || !equal { Err(unequal(answer.to_string())) } else { Ok(()) }
    }
}

/// The cases of one rule, and why there are none of a kind.
#[derive(Debug)]
pub(super) struct Cases {
    pub(super) cases: Vec<Case>,
    /// Nothing near the rule is decided otherwise.
    pub(super) one_sided: bool,
}

/// Makes the cases of a rule.
pub(super) fn of(acl: &Acl, rule: &Rule, kind: PrincipalKind) -> Cases {
    let client = acl.sample_client(rule);
    let mut maker = Maker { acl, rule, kind, cases: Vec::new(), has_other_side: false };
    let publishes = rule.access.writes() || rule.access == Access::Deny;
    let receives = rule.access.reads() || rule.access == Access::Deny;
    for (verb, granted) in [(Verb::Publish, publishes), (Verb::Receive, receives)] {
        if granted {
            maker.pair(&client, verb);
        } else {
            maker.other_verb(&client, verb);
        }
    }
    if rule.access.reads() {
        maker.subscriptions(&client);
    }
    Cases { one_sided: !maker.has_other_side, cases: maker.cases }
}

struct Maker<'a> {
    acl: &'a Acl,
    rule: &'a Rule,
    kind: PrincipalKind,
    cases: Vec<Case>,
    has_other_side: bool,
}

impl Maker<'_> {
    /// A topic of the rule, and one beside it that is decided otherwise.
    fn pair(&mut self, client: &Client, verb: Verb) {
        let wanted = self.rule.access != Access::Deny;
        let topics = self.topics(client, verb, wanted);
        let as_said = |topic: &&String| self.acl.decide(client, verb, topic).allowed == wanted;
        let pair = topics.iter().filter(as_said).find_map(|topic| {
            let beside = self.beside(client, verb, topic, !wanted)?;
            Some((topic.clone(), beside))
        });
        if let Some((topic, (other, resource))) = pair {
            self.add(client, verb, &topic);
            self.add(&other, verb, &resource);
            self.has_other_side = true;
        } else if let Some(topic) = topics.first() {
            self.add(client, verb, topic);
        }
    }

    /// What is decided otherwise, and lies as near as can be: another topic, or another client.
    fn beside(
        &self,
        client: &Client,
        verb: Verb,
        topic: &str,
        wanted: bool,
    ) -> Option<(Client, String)> {
        let decided =
            |client: &Client, topic: &str| self.acl.decide(client, verb, topic).allowed == wanted;
        let topics = beside(topic).into_iter().find(|topic| decided(client, topic));
        topics.map(|topic| (client.clone(), topic)).or_else(|| {
            let other = self.acl.strangers().find(|other| decided(other, topic))?;
            Some((other, topic.to_owned()))
        })
    }

    /// The same topic for a verb that the rule does not grant.
    fn other_verb(&mut self, client: &Client, verb: Verb) {
        let granted = if verb == Verb::Publish { Verb::Receive } else { Verb::Publish };
        let topics = self.topics(client, granted, true);
        if let Some(topic) = topics.first().filter(|it| !self.acl.decide(client, verb, it).allowed)
        {
            self.add(client, verb, topic);
        }
    }

    /// The filter of the rule itself, and one that is wider or lies beside it.
    fn subscriptions(&mut self, client: &Client) {
        let Some(filter) = self.rule.filter.filled(client) else { return };
        let filter = filter.as_str();
        self.add(client, Verb::Subscribe, filter);
        let refused = |filter: &String| !self.acl.decide(client, Verb::Subscribe, filter).allowed;
        if let Some(wider) = wider(filter).into_iter().chain(beside(filter)).find(refused) {
            self.add(client, Verb::Subscribe, &wider);
        }
        if self.acl.dialect == Dialect::Vernemq {
            self.add(client, Verb::Subscribe, &format!("$share/group/{filter}"));
        }
    }

    /// Topics that the rule matches, those first that are decided as it says.
    fn topics(&self, client: &Client, verb: Verb, wanted: bool) -> Vec<String> {
        let Some(filter) = self.rule.filter.filled(client) else { return Vec::new() };
        let name = client.name.as_deref().filter(|name| TopicName::parse(name).is_ok());
        let fill = |filling: &str| {
            let levels = filter.as_str().split('/');
            let filled = levels.map(|it| if matches!(it, "+" | "#") { filling } else { it });
            filled.collect::<Vec<_>>().join("/")
        };
        let mut topics: Vec<String> = FILLINGS.into_iter().chain(name).map(fill).collect();
        topics.dedup();
        topics.sort_by_key(|topic| self.acl.decide(client, verb, topic).allowed != wanted);
        topics
    }

    fn add(&mut self, client: &Client, verb: Verb, resource: &str) {
        self.cases.push(Case {
            principal: match &client.name {
                Some(name) => format!("{}::\"{name}\"", self.kind.as_str()),
                None => "Anonymous::\"anonymous\"".to_owned(),
            },
            // By itself the client id is the name.
            client_id: match &client.name {
                Some(name) if *name == client.client_id => None,
                None if &*client.client_id == "anonymous" => None,
                _ => Some(client.client_id.to_string()),
            },
            verb,
            resource: resource.to_owned(),
            expected: self.acl.decide(client, verb, resource),
        });
    }
}

impl Acl {
    /// A client that the rule concerns.
    fn sample_client(&self, rule: &Rule) -> Client {
        match &rule.who {
            Who::User(name) => Client { name: Some(name.clone()), client_id: name.clone() },
            Who::General if self.dialect == Dialect::Mosquitto => anonymous(),
            Who::General | Who::Pattern => self.unnamed("somebody"),
        }
    }

    /// Clients that no line names.
    fn strangers(&self) -> impl Iterator<Item = Client> {
        [self.unnamed("stranger"), anonymous()].into_iter()
    }

    /// A user without lines of its own, whose client id is another than its name.
    fn unnamed(&self, name: &str) -> Client {
        let mut unnamed = name.to_owned();
        while self.names(&unnamed) {
            unnamed.push_str("-else");
        }
        let client_id = format!("{unnamed}-1").into();
        Client { name: Some(unnamed.into()), client_id }
    }
}

fn anonymous() -> Client {
    Client { name: None, client_id: "anonymous".into() }
}

/// Topics or filters that differ from this one in one level, the last one first.
fn beside(text: &str) -> Vec<String> {
    let levels: Vec<&str> = text.split('/').collect();
    let mut found: Vec<String> = (0..levels.len())
        .rev()
        .filter(|index| !levels.get(*index).is_some_and(|level| matches!(*level, "+" | "#")))
        .map(|index| changed(&levels, index, |level| format!("{level}-not")))
        .collect();
    if !text.ends_with('#') {
        found.push(format!("{text}/more"));
    }
    if let Some((parent, _)) = text.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
        found.push(parent.to_owned());
    }
    found.push(format!("$not/{text}"));
    found
}

/// Filters that are wider by one level, the last one first.
fn wider(filter: &str) -> Vec<String> {
    let levels: Vec<&str> = filter.split('/').collect();
    let last = levels.len().saturating_sub(1);
    let literals = (0..levels.len())
        .rev()
        .filter(|index| !levels.get(*index).is_some_and(|level| matches!(*level, "+" | "#")));
    let mut found: Vec<String> =
        literals.map(|index| changed(&levels, index, |_| "+".to_owned())).collect();
    if levels.last() == Some(&"+") {
        found.push(changed(&levels, last, |_| "#".to_owned()));
    }
    found
}

fn changed(levels: &[&str], index: usize, change: impl Fn(&str) -> String) -> String {
    let change = |(at, level): (usize, &&str)| {
        if at == index { change(level) } else { (*level).to_owned() }
    };
    levels.iter().enumerate().map(change).collect::<Vec<_>>().join("/")
}
