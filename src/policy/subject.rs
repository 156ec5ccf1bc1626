//! One principal on one connection, as policies judge it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cedar_policy::Entity;

use super::PolicyEpoch;
use super::acl::{Acl, Class};
use super::bundle::Bundle;
use super::cache::{ClassCache, Key, Small, TopicCache};
use super::enrolment::Enrolment;
use super::facts::{
    ConnectFacts, EnrollFacts, Publication, PublishFacts, ReceiveFacts, SessionFacts,
    SubscribeFacts,
};
use super::filters::Normalised;
use super::judge::{self, Asker, Description, Facts, Inquiry};
use super::permit::{Denial, Denied, Permitted, Verdict};
use super::polarity::Reads;
use super::policy_filter::Bindings;
use super::principals::{IgnoredClaim, Resolved};
use super::question::Asked;
use super::ranks::Numbers;
use super::schema::{Action, uid};
use crate::identity::Identity;
use crate::mqtt::packet::Qos;
use crate::mqtt::{SubscriptionFilter, TopicFilter, TopicName};

/// Intervals of payload sizes that are looked at before deliveries are judged one by one.
const PAYLOAD_INTERVALS_MAX: usize = 8;
/// How often a decision is made again that reads the time in a way nobody can see through.
const CLOCK_INTERVAL: Duration = Duration::from_mins(1);

/// True in a build with `--cfg portcullis_unjudged`, which is for measuring what policies cost:
/// no message is judged then, and `serve` listens on nothing but loopback.
pub const UNJUDGED: bool = cfg!(portcullis_unjudged);

/// A principal with the facts of its connection, judged by one bundle.
///
/// Its methods take `&mut self` for their caches only. Everything a cache holds belongs to the
/// bundle, the identity and the session facts it was made with, so that [`Self::rebase`] drops
/// them all, unless nothing has changed for the principal; a change of identity or facts takes a new `Subject`.
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
    /// The groups and tags of the principal under this bundle.
    resolved: Resolved,
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
    description: Option<Description>,
}

/// A question about one topic.
pub(super) struct TopicQuestion<'a> {
    pub(super) action: Action,
    pub(super) topic: &'a TopicName,
    pub(super) small: Small,
    pub(super) payload_bytes: usize,
    pub(super) now: SystemTime,
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

    /// Claims of its certificate to groups that its authority may not confer. They decide
    /// nothing, and are for the audit log.
    #[must_use]
    pub fn ignored_claims(&self) -> Vec<IgnoredClaim> {
        self.bundle.ignored_claims(&self.identity)
    }

    /// Judges by other policies from here on. `true`: they say the same of this principal, whatever
    /// is asked, so that what was decided stays.
    pub fn rebase(&mut self, bundle: Arc<Bundle>) -> bool {
        let stays = bundle.judges_as(&self.bundle, &self.identity);
        if !stays {
            self.working = None;
        }
        self.bundle = bundle;
        stays
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
        asker.ask(asker.connect(&acls.connect, facts)?)
    }

    /// Judges a PUBLISH, or a will: at CONNECT, and again when it fires.
    ///
    /// # Errors
    /// The message with the denial.
    pub fn publish<M: Publication>(
        &mut self,
        message: M,
        now: SystemTime,
    ) -> Result<Permitted<'_, M>, Box<Denied<M>>> {
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
        let PublishFacts { qos, retain, will, payload_bytes, .. } = facts;
        let question = TopicQuestion {
            action: Action::Publish,
            topic: message.topic(),
            small: Small { qos, retain, will },
            payload_bytes,
            now,
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
    ) -> Result<Permitted<'_, SubscriptionFilter>, Denial> {
        let (asker, acls, _) = self.ready()?;
        asker.ask(asker.subscribe(&acls.subscribe, filter, facts)?)?;
        Ok(Permitted::new(filter.clone(), self.bundle.epoch(), &self.identity))
    }

    /// Judges one delivery.
    ///
    /// # Errors
    /// The denial.
    pub fn receive(&mut self, topic: &TopicName, facts: &ReceiveFacts<'_>) -> Result<(), Denial> {
        let ReceiveFacts { qos, retain, payload_bytes, now, .. } = *facts;
        let question = TopicQuestion {
            action: Action::Receive,
            topic,
            small: Small { qos, retain, will: false },
            payload_bytes,
            now,
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
        if !acl.cacheable(&overlapping) || !acl.timeless(&overlapping) {
            return Ok(false);
        }
        let Some(payloads) = acl.bounds.payloads(PAYLOAD_INTERVALS_MAX) else { return Ok(false) };
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
        let description = asker.description()?;
        for (qos, retain) in combinations {
            for payload_bytes in &payloads {
                let name = uid(&vocabulary.topic, filter.as_str());
                asker.ask(Inquiry {
                    policies: &acl.rewritten,
                    action: Action::Receive,
                    resource: judge::topic(name, None, parents.clone())?,
                    facts: judge::any_delivery(*qos, *retain, *payload_bytes),
                    from: description.clone(),
                })?;
            }
        }
        Ok(true)
    }

    /// Answers a question in full, past every cache: the policies that permit it, or the denial.
    ///
    /// # Errors
    /// The denial.
    pub(super) fn permits(&mut self, asked: &Asked) -> Result<Vec<Arc<str>>, Denial> {
        let (asker, ..) = self.ready()?;
        let acl = asker.bundle.acl(asked.action(), asker.identity, &asker.resolved.groups)?;
        asker.permits(asker.inquiry(&acl, asked)?)
    }

    /// The policies that it is judged by.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Who asks, to put questions to other rules than its own.
    ///
    /// # Errors
    /// A denial, when the principal cannot be described.
    pub(super) fn asker(&mut self) -> Result<Asker<'_>, Denial> {
        self.ready().map(|(asker, ..)| asker)
    }

    /// Topic cache, then class cache, then Cedar.
    fn judge_topic(
        &mut self,
        question: &TopicQuestion<'_>,
        facts: impl FnOnce() -> Facts,
    ) -> Result<(), Denial> {
        if UNJUDGED {
            return Ok(());
        }
        let TopicQuestion { action, topic, small, payload_bytes, now } = *question;
        let (asker, acls, memory) = self.ready()?;
        let acl = if action == Action::Publish { &*acls.publish } else { &*acls.receive };
        let not_after_unix_s = asker.not_after_unix_s();
        let rank = acl.bounds.rank(Numbers { payload_bytes, now, not_after_unix_s });
        let key = Key::new(action, acl.reads, small, rank);
        let hash = asker.bundle.hasher.hash_one(topic.as_str());
        if let Some(verdict) = memory.topics.find(hash, key, topic) {
            return verdict.result();
        }
        let class = acl.class(topic.as_str(), asker.bindings());
        if acl.nothing_applies(&class) {
            return Err(Denial::default());
        }
        if !acl.cacheable(&class) {
            let description = match &mut memory.description {
                Some(description) => description,
                none => none.insert(asker.description()?),
            };
            return asker.ask(asker.topic(acl, question, &class, facts(), description.clone())?);
        }
        let class = (key, class);
        if let Some(verdict) = memory.classes.find(&class) {
            memory.topics.keep(hash, key, topic, verdict);
            return verdict.result();
        }
        let inquiry = asker.topic(acl, question, &class.1, facts(), asker.description()?)?;
        let verdict = Verdict::from(asker.ask(inquiry));
        memory.topics.keep(hash, key, topic, &verdict);
        memory.classes.keep(class, &verdict);
        verdict.result()
    }

    /// When what was decided about the connection and its subscriptions has to be decided again,
    /// because of a rule that reads the time; `None`: not before the policies change.
    pub fn next_moment(&mut self, now: SystemTime) -> Option<SystemTime> {
        let (asker, acls, _) = self.ready().ok()?;
        let not_after_unix_s = asker.not_after_unix_s();
        let next = |acl: &Acl| {
            let clock = acl.reads.any_of(Reads::CLOCK).then(|| now.checked_add(CLOCK_INTERVAL));
            let bound = acl.bounds.next_after(now, not_after_unix_s);
            bound.into_iter().chain(clock.flatten()).min()
        };
        [next(&acls.connect), next(&acls.subscribe)].into_iter().flatten().min()
    }

    /// What a question needs, worked out if it is not there.
    #[inline]
    fn ready(&mut self) -> Result<(Asker<'_>, &Acls, &mut Memory), Denial> {
        let Self { bundle, identity, session, working } = self;
        let working = match working {
            Some(working) => working,
            none => none.insert(Box::new(Working::new(bundle, identity)?)),
        };
        let Working { resolved, acls, memory } = &mut **working;
        Ok((Asker { bundle, identity, session, resolved }, acls, memory))
    }
}

impl Working {
    #[cold]
    fn new(bundle: &Bundle, identity: &Identity) -> Result<Self, Denial> {
        let resolved = bundle.resolve(identity)?;
        let acl = |action| bundle.acl(action, identity, &resolved.groups);
        let acls = Acls {
            connect: acl(Action::Connect)?,
            publish: acl(Action::Publish)?,
            subscribe: acl(Action::Subscribe)?,
            receive: acl(Action::Receive)?,
        };
        Ok(Self { acls, resolved, memory: Memory::default() })
    }
}

impl Asker<'_> {
    /// A question, put to the rules of its action.
    ///
    /// # Errors
    /// A denial, when it cannot be described.
    pub(super) fn inquiry<'a>(&self, acl: &'a Acl, asked: &Asked) -> Result<Inquiry<'a>, Denial> {
        let topic = |question: &TopicQuestion<'_>, facts| {
            let class = acl.class(question.topic.as_str(), self.bindings());
            self.topic(acl, question, &class, facts, self.description()?)
        };
        match asked {
            Asked::Connect(facts) => self.connect(acl, facts),
            Asked::Enroll(facts) => self.enroll(acl, facts),
            Asked::Subscribe { filter, facts } => self.subscribe(acl, filter, facts),
            Asked::Publish { message, now } => {
                let facts = judge::publish(&message.facts(), *now);
                topic(&message.question(Action::Publish, *now), facts)
            }
            Asked::Receive { message, now } => {
                let facts = judge::receive(&message.delivery(*now));
                topic(&message.question(Action::Receive, *now), facts)
            }
        }
    }

    fn not_after_unix_s(&self) -> Option<i64> {
        self.identity.certificate.as_ref().map(|certificate| certificate.not_after_unix_s)
    }

    pub(super) fn bindings(&self) -> Bindings<'_> {
        Bindings {
            identity: self.identity,
            client_id: self.session.client_id.as_str(),
            resolved: self.resolved,
        }
    }

    /// A CONNECT.
    ///
    /// # Errors
    /// A denial, when it cannot be described.
    fn connect<'a>(&self, acl: &'a Acl, facts: &ConnectFacts) -> Result<Inquiry<'a>, Denial> {
        let listener = uid(&self.bundle.vocabulary.listener, &self.session.listener);
        Ok(Inquiry {
            policies: &acl.policies,
            action: Action::Connect,
            resource: Entity::with_uid(listener),
            facts: judge::connect(facts),
            from: self.description()?,
        })
    }

    /// An enrolment.
    ///
    /// # Errors
    /// A denial, when it cannot be described.
    fn enroll<'a>(&self, acl: &'a Acl, facts: &EnrollFacts) -> Result<Inquiry<'a>, Denial> {
        let enrolment = Enrolment::of(self.identity, self.session, facts);
        let profile = uid(&self.bundle.vocabulary.profile, &facts.profile);
        let session = enrolment.session().map_err(Denial::failed)?;
        Ok(Inquiry {
            policies: &acl.policies,
            action: Action::Enroll,
            resource: Entity::with_uid(profile),
            facts: enrolment.facts(),
            from: self.description()?.with_session(session),
        })
    }

    /// One entry of a SUBSCRIBE.
    ///
    /// # Errors
    /// A denial, when it cannot be described.
    fn subscribe<'a>(
        &self,
        acl: &'a Acl,
        filter: &SubscriptionFilter,
        facts: &SubscribeFacts,
    ) -> Result<Inquiry<'a>, Denial> {
        let vocabulary = &self.bundle.vocabulary;
        let normalised = Normalised::of(&filter.filter);
        let (parents, _) = acl.filter_parents(&normalised, self.bindings(), vocabulary);
        let name = uid(&vocabulary.subscription, filter.filter.as_str());
        Ok(Inquiry {
            policies: &acl.rewritten,
            action: Action::Subscribe,
            resource: judge::subscription(name, filter, parents.into_iter().collect())?,
            facts: judge::subscribe(facts, filter.share.as_ref()),
            from: self.description()?,
        })
    }

    /// A topic of this class.
    ///
    /// # Errors
    /// A denial, when it cannot be described.
    fn topic<'a>(
        &self,
        acl: &'a Acl,
        question: &TopicQuestion<'_>,
        class: &Class,
        facts: Facts,
        from: Description,
    ) -> Result<Inquiry<'a>, Denial> {
        let vocabulary = &self.bundle.vocabulary;
        let text = question.topic.as_str();
        let resource = judge::topic(
            uid(&vocabulary.topic, text),
            acl.reads.any_of(Reads::TOPIC).then_some(text),
            acl.parents(class, vocabulary).collect(),
        )?;
        Ok(Inquiry { policies: &acl.policies, action: question.action, resource, facts, from })
    }
}
