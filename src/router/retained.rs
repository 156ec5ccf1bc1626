//! Retained messages: the last one of each topic, found by filter in pages.
//!
//! Topics are kept in one ordered map in which `/` sorts before everything else, so that all
//! topics below one lie together. A filter is answered by jumping from match to match: each
//! mismatch tells the next key at which a match can begin.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::identity::Account;
use crate::mqtt::TopicFilter;
use crate::mqtt::topic::Level;
use crate::session::Message;

/// Bounds of the store, or of what one account keeps in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Retained messages.
    pub messages_max: u32,
    /// Bytes of them all: topics, payloads and properties.
    pub bytes_max: u64,
}

/// Who keeps a retained message: whoever set it last.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Whose messages are counted together.
    pub account: Arc<Account>,
    /// How much that may be.
    pub bounds: Arc<Settings>,
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
    messages: BTreeMap<Key, Kept>,
    bytes: u64,
    // INVARIANT: the sums over the messages of each account; no entry without a message.
    held: HashMap<Arc<Account>, Held, ahash::RandomState>,
    settings: Settings,
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    /// The key of `held`: one for all messages of an account.
    account: Arc<Account>,
}

/// What one account has in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    messages: u32,
    bytes: u64,
}

/// Why a message was not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetainedFull {
    /// The store is full.
    #[error("no room for another retained message")]
    Store,
    /// The account keeps as much as it may.
    #[error("the client's principal has as many retained messages as its profile allows")]
    Account,
}

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
        Self { messages: BTreeMap::new(), bytes: 0, held: HashMap::default(), settings }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores a message as its topic's last, or clears the topic when its payload is empty
    /// [MQTT-3.3.1-6]. It counts for its keeper from now on.
    pub(super) fn set(
        &mut self,
        message: Arc<Message>,
        keeper: &Keeper,
    ) -> Result<(), RetainedFull> {
        let key = Key(message.topic.as_str().into());
        if message.payload.is_empty() {
            self.remove(&key);
            return Ok(());
        }
        let old = self.messages.get(&key);
        let freed = old.map_or(Held::default(), |old| Held::of(&old.message));
        let is_own = old.is_some_and(|old| old.account == keeper.account);
        let all = Held {
            messages: u32::try_from(self.messages.len()).unwrap_or(u32::MAX),
            bytes: self.bytes,
        };
        let held = self.held.get(&keeper.account).copied().unwrap_or_default();
        let added = Held::of(&message);
        if !all.less(freed).fits(added, &self.settings) {
            return Err(RetainedFull::Store);
        }
        if !held.less(if is_own { freed } else { Held::default() }).fits(added, &keeper.bounds) {
            return Err(RetainedFull::Account);
        }
        self.remove(&key);
        self.bytes += added.bytes;
        let account = match self.held.get_key_value(&keeper.account) {
            Some((account, _)) => Arc::clone(account),
            None => Arc::clone(&keeper.account),
        };
        let held = self.held.entry(Arc::clone(&account)).or_default();
        held.messages += 1;
        held.bytes += added.bytes;
        self.messages.insert(key, Kept { message, account });
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        let Some(Kept { message, account }) = self.messages.remove(key) else { return };
        self.bytes -= message.bytes();
        if let Some(held) = self.held.get_mut(&account) {
            *held = held.less(Held::of(&message));
            if held.messages == 0 {
                self.held.remove(&account);
            }
        }
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
            let Some((key, Kept { message, .. })) = self.messages.range(cursor.ahead()).next()
            else {
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
    pub(super) fn expire(
        &mut self,
        cursor: &mut Cursor,
        count_max: usize,
        now: Instant,
    ) -> Vec<Arc<Message>> {
        let page = self.messages.range(cursor.ahead()).take(count_max);
        let mut place = Place::Start;
        let mut expired = Vec::new();
        for (key, Kept { message, .. }) in page {
            place = Place::After(key.clone());
            if message.has_expired(now) {
                expired.push((key.clone(), Arc::clone(message)));
            }
        }
        cursor.0 = place;
        expired
            .into_iter()
            .map(|(key, message)| {
                self.remove(&key);
                message
            })
            .collect()
    }
}

impl Held {
    fn of(message: &Message) -> Self {
        Self { messages: 1, bytes: message.bytes() }
    }

    fn less(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn fits(self, added: Self, bounds: &Settings) -> bool {
        self.messages.saturating_add(added.messages) <= bounds.messages_max
            && self.bytes.saturating_add(added.bytes) <= bounds.bytes_max
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
    use crate::identity::PrincipalKind;
    use crate::mqtt::TopicName;
    use crate::mqtt::packet::{PublishProperties, Qos};
    use crate::session::MessageId;

    fn store(topics: &[&str]) -> Retained {
        let mut store = Retained::new(Settings { messages_max: 1000, bytes_max: 1 << 20 });
        for topic in topics {
            put(&mut store, message(topic, b"x")).unwrap();
        }
        store
    }

    fn keeper(name: &str, messages_max: u32, bytes_max: u64) -> Keeper {
        let account = Account { kind: PrincipalKind::Device, name: name.into() };
        Keeper {
            account: Arc::new(account),
            bounds: Arc::new(Settings { messages_max, bytes_max }),
        }
    }

    /// By somebody whose share is everything.
    fn put(store: &mut Retained, message: Arc<Message>) -> Result<(), RetainedFull> {
        store.set(message, &keeper("everybody", u32::MAX, u64::MAX))
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
        put(&mut store, message("a", b"")).unwrap();
        assert_eq!((store.len(), store.bytes()), (1, 2));
        store.settings.messages_max = 1;
        assert_eq!(put(&mut store, message("c", b"x")), Err(RetainedFull::Store));
        assert!(put(&mut store, message("b", b"yy")).is_ok(), "a topic that is there may change");
        store.settings.bytes_max = 4;
        assert_eq!(put(&mut store, message("b", b"12345")), Err(RetainedFull::Store));
        assert_eq!(store.bytes(), 3);
    }

    /// Threat: memory after authentication.
    #[test]
    fn one_account_has_its_share_and_leaves_the_rest_to_others() {
        let mut store = Retained::new(Settings { messages_max: 10, bytes_max: 1000 });
        let (greedy, other) = (keeper("greedy", 3, 100), keeper("other", 3, 100));
        for topic in ["a", "b", "c"] {
            store.set(message(topic, b"x"), &greedy).unwrap();
        }
        let full = Err(RetainedFull::Account);
        assert_eq!(store.set(message("d", b"x"), &greedy), full);
        assert_eq!(store.set(message("d", b"x"), &other), Ok(()));
        // Its own may change, within its bytes; another's would be one more.
        assert_eq!(store.set(message("a", b"yy"), &greedy), Ok(()));
        assert_eq!(store.set(message("a", &[0; 100]), &greedy), full);
        assert_eq!(store.set(message("d", b"y"), &greedy), full);
        // What somebody else replaces is theirs from then on.
        store.set(message("a", b"x"), &other).unwrap();
        store.set(message("d", b"x"), &greedy).unwrap();
        assert_eq!(store.held[&greedy.account], Held { messages: 3, bytes: 6 });
        assert_eq!(store.held[&other.account], Held { messages: 1, bytes: 2 });
        // Whoever clears a topic gives its keeper room.
        store.set(message("d", b""), &other).unwrap();
        store.set(message("e", b"x"), &greedy).unwrap();
        for topic in ["a", "b", "c", "e"] {
            store.set(message(topic, b""), &other).unwrap();
        }
        assert_eq!((store.held.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn what_expires_is_given_back_to_its_keeper() {
        let now = Instant::now();
        let mut store = Retained::new(Settings { messages_max: 10, bytes_max: 1000 });
        let keeper = keeper("keeper", 1, 100);
        store.set(expiring("a", b"x", Some(1), now), &keeper).unwrap();
        assert_eq!(store.set(message("b", b"x"), &keeper), Err(RetainedFull::Account));
        let later = now + std::time::Duration::from_secs(10);
        store.expire(&mut Cursor::default(), 9, later).len();
        assert_eq!(store.set(message("b", b"x"), &keeper), Ok(()));
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
        put(&mut store, message("a/d", b"")).unwrap();
        put(&mut store, message("a/c", b"x")).unwrap();
        put(&mut store, message("a/e", b"x")).unwrap();
        put(&mut store, message("a/f", b"new")).unwrap();
        let page = store.page(&filter, &mut cursor, 2, now);
        assert_eq!(names(&page), ["a/e", "a/f"]);
        assert_eq!(&*page[1].payload, b"new");
        put(&mut store, message("a/h", b"")).unwrap();
        assert!(!cursor.is_at_end());
        assert_eq!(names(&store.page(&filter, &mut cursor, 2, now)), [""; 0]);
        assert!(cursor.is_at_end());
        put(&mut store, message("a/z", b"x")).unwrap();
        assert_eq!(names(&store.page(&filter, &mut cursor, 2, now)), [""; 0], "the end is the end");
    }

    /// Every topic is a mismatch of its own here.
    #[test]
    fn a_page_looks_at_a_bounded_number_of_topics() {
        let topics: Vec<_> = (0..2000).map(|number| format!("{number:04}/y")).collect();
        let mut store = Retained::new(Settings { messages_max: 3000, bytes_max: 1 << 20 });
        for topic in &topics {
            put(&mut store, message(topic, b"x")).unwrap();
        }
        put(&mut store, message("1999/x", b"x")).unwrap();
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
            put(&mut store, expiring(&format!("a/{number}"), b"x", life_s, now)).unwrap();
        }
        let filter = TopicFilter::parse("#").unwrap();
        let left = ["a/0", "a/3", "a/6", "a/9"];
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, now)).len(), 10);
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, later)), left);
        let mut cursor = Cursor::default();
        assert_eq!(store.expire(&mut cursor, 99, now).len(), 0);
        cursor = Cursor::default();
        let removed: Vec<_> = (0..5).map(|_| store.expire(&mut cursor, 3, later).len()).collect();
        assert_eq!(removed, [2, 2, 2, 0, 0]);
        assert_eq!((store.len(), store.bytes()), (4, 4 * 4));
        assert_eq!(names(&store.page(&filter, &mut Cursor::default(), 99, later)), left);
    }

    #[test]
    fn a_message_that_expires_leaves_room_for_its_topic() {
        let now = Instant::now();
        let mut store = Retained::new(Settings { messages_max: 1, bytes_max: 1 << 20 });
        put(&mut store, expiring("a", b"x", Some(1), now)).unwrap();
        assert_eq!(put(&mut store, message("b", b"x")), Err(RetainedFull::Store));
        put(&mut store, expiring("a", b"x", None, now)).unwrap();
        let later = now + std::time::Duration::from_secs(10);
        assert_eq!(store.expire(&mut Cursor::default(), 9, later).len(), 0, "the new one stays");
    }
}
