//! One principal on one connection, as policies judge it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use cedar_policy::{Entities, Entity};

use super::PolicyEpoch;
use super::acl::{Acl, Class};
use super::bundle::Bundle;
use super::cache::{ClassCache, Key, Small, TopicCache};
use super::facts::{
    ConnectFacts, Publication, PublishFacts, ReceiveFacts, SessionFacts, SubscribeFacts,
};
use super::filters::Normalised;
use super::judge::{self, Asker, Facts};
use super::permit::{Denial, Denied, Permitted, Verdict};
use super::polarity::Reads;
use super::schema::{Action, uid};
use super::trie::Bindings;
use crate::identity::Identity;
use crate::mqtt::packet::Qos;
use crate::mqtt::{SubscriptionFilter, TopicFilter, TopicName};

/// A principal with the facts of its connection, judged by one bundle.
///
/// Its methods take `&mut self` for their caches only. Everything a cache holds belongs to the
/// bundle, the identity and the session facts it was made with, so that [`Self::rebase`] drops
/// them all; a change of identity or facts takes a new `Subject`.
#[derive(Debug)]
pub struct Subject {
    bundle: Arc<Bundle>,
    identity: Arc<Identity>,
    session: Arc<SessionFacts>,
    working: Option<Box<Working>>,
}

/// What is worked out at the first question, and can be worked out again.
#[derive(Debug)]
struct Working {
    /// Every group of the principal, directly or through other groups.
    groups: Vec<Arc<str>>,
    acls: Acls,
    memory: Memory,
}

/// The compiled rules that concern the principal.
#[derive(Debug)]
struct Acls {
    connect: Arc<Acl>,
    publish: Arc<Acl>,
    subscribe: Arc<Acl>,
    receive: Arc<Acl>,
}

/// Decisions made so far.
#[derive(Debug, Default)]
struct Memory {
    topics: TopicCache,
    classes: ClassCache,
    /// The principal as Cedar sees it; kept only where decisions cannot be.
    entities: Option<Entities>,
}

/// A question about one topic.
struct TopicQuestion<'a> {
    action: Action,
    topic: &'a TopicName,
    small: Small,
}

impl Subject {
    /// A principal that has not asked anything yet.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>, identity: Arc<Identity>, session: Arc<SessionFacts>) -> Self {
        Self { bundle, identity, session, working: None }
    }

    /// The policies it is judged by.
    #[must_use]
    pub fn epoch(&self) -> PolicyEpoch {
        self.bundle.epoch()
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The facts of its connection.
    #[must_use]
    pub fn session(&self) -> &Arc<SessionFacts> {
        &self.session
    }

    /// Judges by other policies from here on.
    pub fn rebase(&mut self, bundle: Arc<Bundle>) {
        self.working = None;
        self.bundle = bundle;
    }

    /// Gives back what can be worked out again: for a connection that has been quiet.
    pub fn shed(&mut self) {
        self.working = None;
    }

    /// Judges a CONNECT.
    ///
    /// # Errors
    /// The denial.
    pub fn connect(&mut self, facts: &ConnectFacts) -> Result<(), Denial> {
        let (asker, acls, _) = self.ready()?;
        let listener = uid(&asker.bundle.vocabulary.listener, &asker.session.listener);
        asker.ask(
            &acls.connect.policies,
            Action::Connect,
            Entity::with_uid(listener),
            judge::connect(facts),
            asker.entities()?,
        )
    }

    /// Judges a PUBLISH, or a will: at CONNECT, and again when it fires.
    ///
    /// # Errors
    /// The message with the denial.
    pub fn publish<M: Publication>(
        &mut self,
        message: M,
        now: SystemTime,
    ) -> Result<Permitted<M>, Box<Denied<M>>> {
        match self.judge_publish(&message, now) {
            Ok(()) => Ok(Permitted::new(message, self.bundle.epoch(), &self.identity)),
            Err(denial) => Err(Box::new(Denied { denial, message })),
        }
    }

    fn judge_publish(&mut self, message: &impl Publication, now: SystemTime) -> Result<(), Denial> {
        // Nobody can subscribe to it, and no policy can name it.
        if message.topic().as_str().starts_with("$share/") {
            return Err(Denial::failed(
                "a topic below $share/ is a subscription's, not a message's",
            ));
        }
        let facts = message.facts();
        let PublishFacts { qos, retain, will, .. } = facts;
        let question = TopicQuestion {
            action: Action::Publish,
            topic: message.topic(),
            small: Small { qos, retain, will },
        };
        self.judge_topic(&question, || judge::publish(&facts, now))
    }

    /// Judges one entry of a SUBSCRIBE: permits have to cover the filter, forbids need only
    /// overlap it. Of a shared subscription the inner filter is judged.
    ///
    /// # Errors
    /// The denial.
    pub fn subscribe(
        &mut self,
        filter: &SubscriptionFilter,
        facts: &SubscribeFacts,
    ) -> Result<Permitted<SubscriptionFilter>, Denial> {
        let (asker, acls, _) = self.ready()?;
        let vocabulary = &asker.bundle.vocabulary;
        let normalised = Normalised::of(&filter.filter);
        let (parents, _) = acls.subscribe.filter_parents(&normalised, asker.bindings(), vocabulary);
        let name = uid(&vocabulary.subscription, filter.filter.as_str());
        asker.ask(
            &acls.subscribe.rewritten,
            Action::Subscribe,
            judge::subscription(name, filter, parents.into_iter().collect())?,
            judge::subscribe(facts, filter.share.as_ref()),
            asker.entities()?,
        )?;
        Ok(Permitted::new(filter.clone(), self.bundle.epoch(), &self.identity))
    }

    /// Judges one delivery.
    ///
    /// # Errors
    /// The denial.
    pub fn receive(&mut self, topic: &TopicName, facts: &ReceiveFacts<'_>) -> Result<(), Denial> {
        let ReceiveFacts { qos, retain, .. } = *facts;
        let question = TopicQuestion {
            action: Action::Receive,
            topic,
            small: Small { qos, retain, will: false },
        };
        self.judge_topic(&question, || judge::receive(facts))
    }

    /// True when [`Self::receive`] would allow every topic that the filter matches, whatever
    /// the packet: a delivery to this subscription then needs no judgement of its own, under
    /// this bundle and on this connection. False may only mean that it is not known.
    #[must_use]
    pub fn receive_ok(&mut self, filter: &TopicFilter) -> bool {
        self.judge_all_deliveries(filter).is_ok_and(|allowed| allowed)
    }

    fn judge_all_deliveries(&mut self, filter: &TopicFilter) -> Result<bool, Denial> {
        let (asker, acls, _) = self.ready()?;
        let vocabulary = &asker.bundle.vocabulary;
        let acl = &acls.receive;
        let normalised = Normalised::of(filter);
        let (parents, overlapping) = acl.filter_parents(&normalised, asker.bindings(), vocabulary);
        if !acl.cacheable(&overlapping) {
            return Ok(false);
        }
        let combinations: &[(Qos, bool)] = if acl.reads.any_of(Reads::QOS.and(Reads::RETAIN)) {
            &[
                (Qos::AtMostOnce, false),
                (Qos::AtMostOnce, true),
                (Qos::AtLeastOnce, false),
                (Qos::AtLeastOnce, true),
                (Qos::ExactlyOnce, false),
                (Qos::ExactlyOnce, true),
            ]
        } else {
            &[(Qos::AtMostOnce, false)]
        };
        let parents: HashSet<_> = parents.into_iter().collect();
        let entities = asker.entities()?;
        for (qos, retain) in combinations {
            let name = uid(&vocabulary.topic, filter.as_str());
            asker.ask(
                &acl.rewritten,
                Action::Receive,
                judge::topic(name, None, parents.clone())?,
                judge::small(*qos, *retain),
                entities.clone(),
            )?;
        }
        Ok(true)
    }

    /// Topic cache, then class cache, then Cedar.
    fn judge_topic(
        &mut self,
        question: &TopicQuestion<'_>,
        facts: impl FnOnce() -> Facts,
    ) -> Result<(), Denial> {
        let TopicQuestion { action, topic, small } = *question;
        let (asker, acls, memory) = self.ready()?;
        let acl = if action == Action::Publish { &*acls.publish } else { &*acls.receive };
        let key = Key::new(action, acl.reads, small);
        let hash = asker.bundle.hasher.hash_one(topic.as_str());
        if let Some(verdict) = memory.topics.find(hash, key, topic) {
            return verdict.result();
        }
        let class = acl.class(topic.as_str(), asker.bindings());
        if acl.nothing_applies(&class) {
            return Err(Denial::default());
        }
        if !acl.cacheable(&class) {
            let entities = match &mut memory.entities {
                Some(entities) => entities,
                none => none.insert(asker.entities()?),
            };
            return asker.topic(acl, question, &class, facts(), entities.clone());
        }
        let class = (key, class);
        if let Some(verdict) = memory.classes.find(&class) {
            memory.topics.keep(hash, key, topic, verdict);
            return verdict.result();
        }
        let entities = asker.entities()?;
        let verdict = Verdict::from(asker.topic(acl, question, &class.1, facts(), entities));
        memory.topics.keep(hash, key, topic, &verdict);
        memory.classes.keep(class, &verdict);
        verdict.result()
    }

    /// What a question needs, worked out if it is not there.
    fn ready(&mut self) -> Result<(Asker<'_>, &Acls, &mut Memory), Denial> {
        let Self { bundle, identity, session, working } = self;
        let working = match working {
            Some(working) => working,
            none => none.insert(Box::new(Working::new(bundle, identity)?)),
        };
        let Working { groups, acls, memory } = &mut **working;
        Ok((Asker { bundle, identity, session, groups }, acls, memory))
    }
}

impl Working {
    fn new(bundle: &Bundle, identity: &Identity) -> Result<Self, Denial> {
        let groups = bundle.groups_of(identity);
        let acl = |action| bundle.acl(action, identity, &groups);
        let acls = Acls {
            connect: acl(Action::Connect)?,
            publish: acl(Action::Publish)?,
            subscribe: acl(Action::Subscribe)?,
            receive: acl(Action::Receive)?,
        };
        Ok(Self { acls, groups, memory: Memory::default() })
    }
}

impl Asker<'_> {
    fn bindings(&self) -> Bindings<'_> {
        Bindings {
            identity: self.identity,
            client_id: self.session.client_id.as_str(),
            groups: self.groups,
        }
    }

    /// Asks Cedar about a topic of this class.
    fn topic(
        &self,
        acl: &Acl,
        question: &TopicQuestion<'_>,
        class: &Class,
        facts: Facts,
        entities: Entities,
    ) -> Result<(), Denial> {
        let vocabulary = &self.bundle.vocabulary;
        let text = question.topic.as_str();
        let resource = judge::topic(
            uid(&vocabulary.topic, text),
            acl.reads.any_of(Reads::TOPIC).then_some(text),
            acl.parents(class, vocabulary).collect(),
        )?;
        self.ask(&acl.policies, question.action, resource, facts, entities)
    }
}
