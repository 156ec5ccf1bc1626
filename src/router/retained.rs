//! Retained messages: the last one of each topic, found by filter in pages.
//!
//! Topics are kept in one ordered map in which `/` sorts before everything else, so that all
//! topics below one lie together. A filter is answered by jumping from match to match: each
//! mismatch tells the next key at which a match can begin.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::mqtt::TopicFilter;
use crate::mqtt::topic::Level;
use crate::session::Message;

/// Bounds of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Retained messages.
    pub messages_max: u32,
    /// Bytes of them all: topics, payloads and properties.
    pub bytes_max: u64,
}

/// A topic in the order of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Box<str>);

/// `/` first, then every other byte by its value.
fn rank(byte: u8) -> u16 {
    if byte == b'/' { 0 } else { u16::from(byte) + 1 }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.bytes().map(rank).cmp(other.0.bytes().map(rank))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The retained messages of a broker.
#[derive(Debug)]
pub(super) struct Retained {
    messages: BTreeMap<Key, Arc<Message>>,
    bytes: u64,
    settings: Settings,
}

/// The store is full: the message was not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFull;

/// Where a walk through the store stands. It goes on wherever it was, whatever has changed.
#[derive(Clone, Debug, Default)]
pub struct Cursor(Place);

#[derive(Clone, Debug, Default)]
enum Place {
    #[default]
    Start,
    /// This topic was the last one.
    After(Key),
    /// Nothing before this key is of interest.
    From(Key),
    End,
}

/// Topics that one page looks at, whether they match or not: the store is locked meanwhile.
const STEPS_MAX: usize = 512;

impl Cursor {
    /// True when there is nothing more.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        matches!(self.0, Place::End)
    }

    /// What is ahead.
    fn ahead(&self) -> (Bound<&Key>, Bound<&Key>) {
        let from = match &self.0 {
            Place::Start | Place::End => Bound::Unbounded,
            Place::After(key) => Bound::Excluded(key),
            Place::From(key) => Bound::Included(key),
        };
        (from, Bound::Unbounded)
    }
}

impl Retained {
    pub(super) fn new(settings: Settings) -> Self {
        Self { messages: BTreeMap::new(), bytes: 0, settings }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores a message as its topic's last, or clears the topic when its payload is empty
    /// [MQTT-3.3.1-6].
    pub(super) fn set(&mut self, message: Arc<Message>) -> Result<(), RetainedFull> {
        let key = Key(message.topic.as_str().into());
        let old = self.messages.get(&key).map_or(0, |old| old.bytes());
        if message.payload.is_empty() {
            self.bytes -= old;
            self.messages.remove(&key);
            return Ok(());
        }
        let bytes = self.bytes - old + message.bytes();
        let is_new = old == 0 && !self.messages.contains_key(&key);
        let full = is_new && self.messages.len() >= self.settings.messages_max as usize;
        if full || bytes > self.settings.bytes_max {
            return Err(RetainedFull);
        }
        self.bytes = bytes;
        self.messages.insert(key, message);
        Ok(())
    }

    /// The next matches of a filter after the cursor, at most `count_max`; the cursor moves on.
    /// A page may be empty before the end: it looks at so many topics and no more. Expired
    /// messages are passed over.
    pub(super) fn page(
        &self,
        filter: &TopicFilter,
        cursor: &mut Cursor,
        count_max: usize,
        now: Instant,
    ) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        if matches!(cursor.0, Place::Start) {
            cursor.0 = Place::From(Key(literal_prefix(filter).into()));
        }
        for _ in 0..STEPS_MAX {
            if cursor.is_at_end() || found.len() >= count_max {
                break;
            }
            let Some((key, message)) = self.messages.range(cursor.ahead()).next() else {
                cursor.0 = Place::End;
                break;
            };
            cursor.0 = match compare(filter, &key.0) {
                Match::Yes => {
                    if !message.has_expired(now) {
                        found.push(Arc::clone(message));
                    }
                    Place::After(key.clone())
                }
                Match::No { next: None } => Place::End,
                Match::No { next: Some(next) } => {
                    let next = Key(next.into());
                    if next > *key { Place::From(next) } else { Place::After(key.clone()) }
                }
            };
        }
        found
    }

    /// Removes expired messages among the next `count_max` after the cursor; at the end it
    /// starts over.
    pub(super) fn expire(&mut self, cursor: &mut Cursor, count_max: usize, now: Instant) -> usize {
        let page = self.messages.range(cursor.ahead()).take(count_max);
        let mut place = Place::Start;
        let mut expired = Vec::new();
        for (key, message) in page {
            place = Place::After(key.clone());
            if message.has_expired(now) {
                expired.push(key.clone());
            }
        }
        cursor.0 = place;
        for key in &expired {
            if let Some(message) = self.messages.remove(key) {
                self.bytes -= message.bytes();
            }
        }
        expired.len()
    }
}

/// The text of the literal levels that a filter begins with: no match sorts before it.
fn literal_prefix(filter: &TopicFilter) -> String {
    let mut prefix = String::new();
    for (index, level) in filter.levels().enumerate() {
        let Level::Literal(text) = level else { break };
        if index > 0 {
            prefix.push('/');
        }
        prefix.push_str(text);
    }
    prefix
}

enum Match {
    Yes,
    /// No match, and none before `next`; `None`: no match after this topic either.
    No {
        next: Option<String>,
    },
}

/// Compares a topic with a filter level by level. At the first level that does not fit, the
/// next topic that can match follows from the order of the store.
fn compare(filter: &TopicFilter, topic: &str) -> Match {
    let mut rest = topic.split('/');
    // The levels that fitted so far, with a trailing slash; and those before the last `+`.
    let mut fitted = String::new();
    let mut after_plus: Option<String> = None;
    for (index, level) in filter.levels().enumerate() {
        let found = rest.next();
        match (level, found) {
            (Level::Hash, found) => {
                let system = index == 0 && found.is_some_and(|level| level.starts_with('$'));
                return if system { skip_level(&fitted, found, after_plus) } else { Match::Yes };
            }
            // The topic ends before the filter does: matches lie below it, later.
            (_, None) => {
                let mut next = fitted;
                if let Level::Literal(text) = level {
                    next.push_str(text);
                }
                return Match::No { next: Some(next) };
            }
            (Level::Plus, Some(text)) => {
                if index == 0 && text.starts_with('$') {
                    return skip_level(&fitted, found, after_plus);
                }
                after_plus = Some(past(&fitted, text));
                fitted.push_str(text);
            }
            (Level::Literal(wanted), Some(text)) => {
                match Key(text.into()).cmp(&Key(wanted.into())) {
                    Ordering::Equal => fitted.push_str(text),
                    Ordering::Less => {
                        fitted.push_str(wanted);
                        return Match::No { next: Some(fitted) };
                    }
                    Ordering::Greater => return Match::No { next: after_plus },
                }
            }
        }
        fitted.push('/');
    }
    match rest.next() {
        None => Match::Yes,
        // The topic goes on below the end of the filter: the next match is not below it.
        Some(_) => Match::No { next: after_plus },
    }
}

/// Past all topics that begin with these levels: for a `$` level under a wildcard.
fn skip_level(fitted: &str, level: Option<&str>, after_plus: Option<String>) -> Match {
    match level {
        Some(level) => Match::No { next: Some(past(fitted, level)) },
        None => Match::No { next: after_plus },
    }
}

/// The least key after every topic below `fitted` + `level`: NUL cannot stand in a topic and
/// sorts right after `/`.
fn past(fitted: &str, level: &str) -> String {
    format!("{fitted}{level}\0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicName;
    use crate::mqtt::packet::{PublishProperties, Qos};
    use crate::session::MessageId;

    fn store(topics: &[&str]) -> Retained {
        let mut store = Retained::new(Settings { messages_max: 1000, bytes_max: 1 << 20 });
        for topic in topics {
            store.set(message(topic, b"x")).unwrap();
        }
        store
    }

    fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
        expiring(topic, payload, None, Instant::now())
    }

    fn expiring(topic: &str, payload: &[u8], life_s: Option<u32>, now: Instant) -> Arc<Message> {
        let properties = life_s.map(|seconds| {
            Box::new(PublishProperties {
                message_expiry_s: Some(seconds),
                ..PublishProperties::default()
            })
        });
        Arc::new(Message::new(
            MessageId(0),
            TopicName::parse(topic).unwrap(),
            payload.into(),
            Qos::AtMostOnce,
            true,
            properties,
            now,
        ))
    }

    fn all(store: &Retained, filter: &str, page: usize) -> Vec<String> {
        let filter = TopicFilter::parse(filter).unwrap();
        let mut cursor = Cursor::default();
        let mut found = Vec::new();
        loop {
            let next = store.page(&filter, &mut cursor, page, Instant::now());
            assert!(next.len() <= page);
            found.extend(next.iter().map(|message| message.topic.to_string()));
            if cursor.is_at_end() {
                return found;
            }
        }
    }

    /// Every filter of up to three levels against every topic of up to four, page by page.
    #[test]
    fn pages_hold_exactly_what_matches() {
        let levels = ["", "a", "a b", "b", "$c", "a!"];
        let mut topics: Vec<String> = vec![];
        let mut texts: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
        for _ in 0..4 {
            topics.extend(texts.iter().filter(|text| !text.is_empty()).cloned());
            texts = texts
                .iter()
                .flat_map(|text| levels.iter().map(move |level| format!("{text}/{level}")))
                .step_by(3)
                .collect();
        }
        let store = store(&topics.iter().map(String::as_str).collect::<Vec<_>>());
        let mut filters = vec![String::new()];
        let mut tried = 0;
        for depth in 0..3 {
            filters = filters
                .iter()
                .flat_map(|text| {
                    ["", "a", "b", "$c", "a!", "+", "#"].iter().map(move |level| {
                        if depth == 0 { (*level).to_owned() } else { format!("{text}/{level}") }
                    })
                })
                .collect();
            for text in &filters {
                let Ok(filter) = TopicFilter::parse(text) else { continue };
                let mut expected: Vec<_> =
                    topics.iter().filter(|topic| filter.matches(topic)).cloned().collect();
                let mut found = all(&store, text, 3);
                expected.sort();
                expected.dedup();
                found.sort();
                assert_eq!(found, expected, "{text}");
                tried += 1;
            }
        }
        assert!(tried > 100);
    }

    #[test]
    fn an_empty_payload_clears_and_bounds_hold() {
        let mut store = store(&["a", "b"]);
        assert_eq!(store.len(), 2);
        store.set(message("a", b"")).unwrap();
        assert_eq!((store.len(), store.bytes()), (1, 2));
        store.settings.messages_max = 1;
        assert_eq!(store.set(message("c", b"x")), Err(RetainedFull));
        assert!(store.set(message("b", b"yy")).is_ok(), "a topic that is there may change");
        store.settings.bytes_max = 4;
        assert_eq!(store.set(message("b", b"12345")), Err(RetainedFull));
        assert_eq!(store.bytes(), 3);
    }

    fn names(page: &[Arc<Message>]) -> Vec<&str> {
        page.iter().map(|message| message.topic.as_str()).collect()
    }

    #[test]
    fn a_walk_goes_on_in_its_place_while_the_store_changes() {
        let now = Instant::now();
        let mut store = store(&["a/b", "a/d", "a/f", "a/h"]);
        let filter = TopicFilter::parse("a/+").unwrap();
        let mut cursor = Cursor::default();
        assert_eq!(names(&store.page(&filter, &mut cursor, 2, now)), ["a/b", "a/d"]);
        // The last one delivered goes, one comes behind it and one before; another changes.
        store.set(message("a/d", b"")).unwrap();
        store.set(message("a/c", b"x")).unwrap();
        store.set(message("a/e", b"x")).unwrap();
        store.set(message("a/f", b"new")).unwrap();
        let page = store.page(&filter, &mut cursor, 2, now);
        assert_eq!(names(&page), ["a/e", "a/f"]);
        assert_eq!(&*page[1].payload, b"new");
        store.set(message("a/h", b"")).unwrap();
        assert!(!cursor.is_at_end());
        assert_eq!(names(&store.page(&filter, &mut cursor, 2, now)), [""; 0]);
        assert!(cursor.is_at_end());
        store.set(message("a/z", b"x")).unwrap();
        assert_eq!(names(&store.page(&filter, &mut cursor, 2, now)), [""; 0], "the end is the end");
    }

    /// Every topic is a mismatch of its own here.
    #[test]
    fn a_page_looks_at_a_bounded_number_of_topics() {
        let topics: Vec<_> = (0..2000).map(|number| format!("{number:04}/y")).collect();
        let mut store = Retained::new(Settings { messages_max: 3000, bytes_max: 1 << 20 });
        for topic in &topics {
            store.set(message(topic, b"x")).unwrap();
        }
        store.set(message("1999/x", b"x")).unwrap();
        let filter = TopicFilter::parse("+/x").unwrap();
        let mut cursor = Cursor::default();
        let mut pages = 0;
        while !cursor.is_at_end() {
            let page = store.page(&filter, &mut cursor, 64, Instant::now());
            assert!(page.is_empty() || names(&page) == ["1999/x"]);
            pages += 1;
        }
        assert_eq!(pages, 2001_usize.div_ceil(STEPS_MAX));
    }

    #[test]
    fn expired_messages_are_passed_over_and_removed_page_by_page() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(10);
        let mut store = Retained::new(Settings { messages_max: 1000, bytes_max: 1 << 20 });
        for number in 0..10 {
            let life_s = (number % 3 != 0).then_some(number);
            store.set(expiring(&format!("a/{number}"), b"x", life_s, now)).unwrap();
        }
        let filter = TopicFilter::parse("#").unwrap();
        let left = ["a/0", "a/3", "a/6", "a/9"];
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, now)).len(), 10);
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, later)), left);
        let mut cursor = Cursor::default();
        assert_eq!(store.expire(&mut cursor, 99, now), 0);
        cursor = Cursor::default();
        let removed: Vec<_> = (0..5).map(|_| store.expire(&mut cursor, 3, later)).collect();
        assert_eq!(removed, [2, 2, 2, 0, 0]);
        assert_eq!((store.len(), store.bytes()), (4, 4 * 4));
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, later)), left);
    }

    #[test]
    fn a_message_that_expires_leaves_room_for_its_topic() {
        let now = Instant::now();
        let mut store = Retained::new(Settings { messages_max: 1, bytes_max: 1 << 20 });
        store.set(expiring("a", b"x", Some(1), now)).unwrap();
        assert_eq!(store.set(message("b", b"x")), Err(RetainedFull));
        store.set(expiring("a", b"x", None, now)).unwrap();
        let later = now + std::time::Duration::from_secs(10);
        assert_eq!(store.expire(&mut Cursor::default(), 9, later), 0, "the new one stays");
    }
}
