//! Decisions that one subject remembers. Bounded, and dropped as a whole.

use ahash::AHashMap;

use super::acl::Class;
use super::permit::Verdict;
use super::polarity::Reads;
use super::ranks::Rank;
use super::schema::Action;
use crate::mqtt::TopicName;
use crate::mqtt::packet::Qos;

/// Topics remembered, each in the slot its hash names and from its second appearance on: what a
/// publisher sends again and again stays, and one that runs through many topics costs no more
/// than the look.
const TOPIC_SLOTS: usize = 16;
/// A longer topic is not remembered, so that a subject holds at most 4 KiB of them.
const TOPIC_BYTES_MAX: usize = 256;
/// Classes remembered; at the bound all are forgotten.
const CLASSES_MAX: usize = 256;
/// A class of more filters is not remembered.
const CLASS_FILTERS_MAX: usize = 64;

/// The part of a question that a decision can depend on besides the topic: the action, those of
/// its small facts that some rule reads, and the intervals of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    small: u8,
    rank: Rank,
}

impl Key {
    pub(super) const fn new(action: Action, reads: Reads, small: Small, rank: Rank) -> Self {
        let mut key = (action as u8) << 4;
        if reads.any_of(Reads::QOS) {
            key |= small.qos.as_u8();
        }
        if reads.any_of(Reads::RETAIN) {
            key |= (small.retain as u8) << 2;
        }
        if reads.any_of(Reads::WILL) {
            key |= (small.will as u8) << 3;
        }
        Self { small: key, rank }
    }
}

/// The facts of a packet that have few values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) will: bool,
}

/// Decisions by full topic.
#[derive(Debug, Default)]
pub(super) struct TopicCache(Option<Box<[Slot; TOPIC_SLOTS]>>);

#[derive(Debug, Default)]
struct Slot {
    /// The hash of the last topic that was not found here.
    missed: u64,
    hash: u64,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    key: Key,
    topic: TopicName,
    verdict: Verdict,
}

impl TopicCache {
    pub(super) fn find(&self, hash: u64, key: Key, topic: &TopicName) -> Option<&Verdict> {
        let slot = self.0.as_ref()?.get(place(hash))?;
        let kept = slot.kept.as_ref().filter(|_| slot.hash == hash)?;
        let found = kept.key == key && (kept.topic.same(topic) || kept.topic == *topic);
        found.then_some(&kept.verdict)
    }

    pub(super) fn keep(&mut self, hash: u64, key: Key, topic: &TopicName, verdict: &Verdict) {
        if topic.as_str().len() > TOPIC_BYTES_MAX {
            return;
        }
        let slots = self.0.get_or_insert_default();
        let Some(slot) = slots.get_mut(place(hash)) else { return };
        if slot.missed == hash {
            slot.hash = hash;
            slot.kept = Some(Kept { key, topic: topic.clone(), verdict: verdict.clone() });
        }
        slot.missed = hash;
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % TOPIC_SLOTS as u64).unwrap_or_default()
}

/// Decisions by class: they hold for topics never seen before.
#[derive(Debug, Default)]
pub(super) struct ClassCache(AHashMap<(Key, Class), Verdict>);

impl ClassCache {
    pub(super) fn find(&self, question: &(Key, Class)) -> Option<&Verdict> {
        self.0.get(question)
    }

    pub(super) fn keep(&mut self, question: (Key, Class), verdict: &Verdict) {
        if question.1.len() > CLASS_FILTERS_MAX {
            return;
        }
        if self.0.len() >= CLASSES_MAX {
            self.0.clear();
        }
        self.0.insert(question, verdict.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::permit::Denial;
    use crate::policy::tests::world::Random;

    fn key(action: Action, qos: Qos) -> Key {
        let small = Small { qos, retain: false, will: false };
        Key::new(action, Reads::QOS, small, Rank::default())
    }

    fn topic(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    /// A verdict that says which question it answers.
    fn verdict(key: Key, topic: &TopicName) -> Verdict {
        Verdict::from(Err(Denial::failed(format!("{key:?} {topic}"))))
    }

    /// Whether the question is known; from then on it may be.
    fn ask(cache: &mut TopicCache, hash: u64, key: Key, topic: &TopicName) -> bool {
        let expected = verdict(key, topic);
        if let Some(found) = cache.find(hash, key, topic) {
            assert_eq!(*found, expected);
            return true;
        }
        cache.keep(hash, key, topic, &expected);
        false
    }

    #[test]
    fn what_is_found_is_the_verdict_of_that_very_topic_and_question() {
        // Four topics share each hash, and most of the hashes a slot.
        const HASHES: [u64; 4] = [0, 1, 17, 33];
        let topics: Vec<TopicName> = (0..16).map(|it| topic(&format!("t/{it}"))).collect();
        let keys = [
            key(Action::Publish, Qos::AtMostOnce),
            key(Action::Publish, Qos::ExactlyOnce),
            key(Action::Receive, Qos::AtMostOnce),
        ];
        let (mut random, mut cache, mut found) = (Random(1), TopicCache::default(), 0);
        for _ in 0..5_000 {
            let at = random.below(topics.len());
            let (key, hash) = (*random.pick(&keys), HASHES[at % HASHES.len()]);
            for _ in 0..=random.below(4) {
                // The topic of the next packet is equal, and the same text only at times.
                let again = topic(topics[at].as_str());
                let topic = if random.percent(50) { &again } else { &topics[at] };
                found += usize::from(ask(&mut cache, hash, key, topic));
            }
        }
        assert!(found > 1_000, "{found}");
    }

    #[test]
    fn a_topic_is_known_from_its_second_appearance_on_until_another_has_appeared_twice() {
        let (one, other) = (topic("one"), topic("other"));
        let key = key(Action::Publish, Qos::AtMostOnce);
        let mut cache = TopicCache::default();
        let mut known = |hash, topic| ask(&mut cache, hash, key, topic);
        assert!(!known(1, &one) && !known(1, &one) && known(1, &one));
        // In the same slot.
        assert!(!known(17, &other) && known(1, &one) && !known(17, &other) && known(17, &other));
        assert!(!known(1, &one) && known(17, &other));
        // In another one.
        assert!(!known(2, &one) && !known(2, &one) && known(2, &one) && known(17, &other));
    }

    #[test]
    fn a_long_topic_is_never_known() {
        let key = key(Action::Publish, Qos::AtMostOnce);
        for (bytes, known) in [(TOPIC_BYTES_MAX, true), (TOPIC_BYTES_MAX + 1, false)] {
            let (topic, mut cache) = (topic(&"x".repeat(bytes)), TopicCache::default());
            let known_at_last = (0..4).map(|_| ask(&mut cache, 1, key, &topic)).last();
            assert_eq!(known_at_last, Some(known), "{bytes}");
        }
    }
}
