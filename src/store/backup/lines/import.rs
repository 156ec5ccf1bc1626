//! From lines to records.
//!
//! A line is taken only if the record that is made of it is read back as the same line: what MQTT
//! cannot say is refused, and what is exported again is what was imported.

use std::collections::HashMap;
use std::io::{self, BufRead};

use super::export::{clock, lines};
use super::value::{Wrong, qos};
use super::{DeliveryText, FilterText, Line, Time};
use crate::mqtt::packet::PacketId;
use crate::session::Message;
use crate::store::backup::build::Build;
use crate::store::backup::{NUMBER_MAX, Record, Space};
use crate::store::codec::{Clock, Record as Writing};
use crate::store::content::put_subscription;
use crate::store::open::{FORMAT, FORMAT_MIN};
use crate::store::page::{Content, Queued, Writing as Page, seal_body};
use crate::store::registered::{seal_ban, seal_device};
use crate::store::writer::{number_record, progress_record};
use crate::store::{RetainedRecord, SessionNo, Settings, StoreError, keys};

/// Bytes of a line: the largest payload in base64, with room for the rest.
const LINE_BYTES_MAX: u64 = 400 * 1024 * 1024;
/// Bytes kept for lines while none is read.
const LINE_BYTES: usize = 64 * 1024;

/// Makes a store of lines; says how many there were. `name` is what they are read from.
///
/// # Errors
/// When there is a store already, or a line cannot be taken: then there is no store.
pub fn import(input: &mut dyn BufRead, name: &str, settings: &Settings) -> Result<u64, StoreError> {
    let build = Build::begin(settings)?;
    let mut import = Import {
        build,
        clock: clock(),
        state: State::Before,
        sessions: HashMap::default(),
        bodies: HashMap::default(),
        page: None,
    };
    let mut number = 0;
    let mut text = Vec::new();
    let refused = |line, what| StoreError::Line { file: name.to_owned(), line, what };
    loop {
        text.clear();
        text.shrink_to(LINE_BYTES);
        let read = io::Read::take(&mut *input, LINE_BYTES_MAX).read_until(b'\n', &mut text);
        let read = read.map_err(|error| StoreError::Failed {
            doing: "read what is imported",
            error: format!("{name}: {error}"),
        })?;
        if read == 0 {
            break;
        }
        number += 1;
        if text.last() != Some(&b'\n') {
            let what = "the line has no end; write all of it, with a line feed behind it";
            return Err(refused(number, what.to_owned()));
        }
        match import.take(&text, number)? {
            Ok(()) => {}
            Err(Wrong(what)) => return Err(refused(number, what)),
        }
    }
    match import.state {
        State::Before => return Err(refused(1, NO_STORE.to_owned())),
        State::Within => {
            let what = "a line of kind `end` has to come last: what was exported did not come to \
                        its end; export it again";
            return Err(refused(number, what.to_owned()));
        }
        State::Ended => {}
    }
    let unused = import.bodies.iter().filter(|(_, body)| !body.is_used);
    if let Some((id, body)) = unused.min_by_key(|(_, body)| body.line) {
        let what = format!("`id`: no delivery names message {id}; remove the line");
        return Err(refused(body.line, what));
    }
    import.end_page()?;
    import.build.finish()?;
    Ok(number)
}

const NO_STORE: &str =
    "the first line has to be of kind `store`; import all that `store export` has written";

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    Ended,
}

struct Import {
    build: Build,
    clock: Clock,
    state: State,
    /// The highest number of each session's deliveries.
    sessions: HashMap<u64, u64, ahash::RandomState>,
    bodies: HashMap<u64, Body, ahash::RandomState>,
    /// The page that takes deliveries.
    page: Option<(u64, Page)>,
}

/// A message that deliveries may name.
struct Body {
    line: u64,
    bytes: u64,
    is_used: bool,
}

/// An error in what is read, or of ours.
type Taken<T> = Result<Result<T, Wrong>, StoreError>;

fn wrong<T>(what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(what.into()))
}

/// Goes on with what is fine, and returns what is wrong.
macro_rules! fine {
    ($checked:expr) => {
        match $checked {
            Ok(value) => value,
            Err(wrong) => return Ok(Err(wrong)),
        }
    };
}

impl Import {
    fn take(&mut self, text: &[u8], number: u64) -> Taken<()> {
        let parsed = serde_json::from_slice::<Line>(text)
            .map_err(|error| Wrong(format!("{error}; correct it, or export the store again")));
        let line = fine!(parsed);
        if self.state == State::Ended {
            return Ok(wrong(
                "it comes behind the line of kind `end`; remove it, or put it before",
            ));
        }
        if self.state == State::Before {
            return Ok(match line {
                Line::Store { format: FORMAT_MIN..=FORMAT } => {
                    self.state = State::Within;
                    Ok(())
                }
                Line::Store { format } => wrong(format!(
                    "`format`: it is {format}, and this version reads {FORMAT}; use the version \
                     that wrote it"
                )),
                _ => wrong(NO_STORE),
            });
        }
        match &line {
            Line::Delivery(delivery) => return self.delivery(delivery),
            Line::End => {
                self.state = State::Ended;
                return Ok(Ok(()));
            }
            _ => {}
        }
        let (space, key, value) = fine!(self.record(&line, number));
        fine!(compare(&line, space, &key, &value));
        let is_new = self.build.put(space, key, value)?;
        Ok(if is_new { Ok(()) } else { wrong("this is there already; remove one of the two") })
    }

    fn owner(&self, session: u64) -> Result<SessionNo, Wrong> {
        if self.sessions.contains_key(&session) {
            return Ok(SessionNo(session));
        }
        wrong(format!("`session`: there is no session {session} before this; put its line first"))
    }

    /// What a line comes to, unless it is a delivery.
    fn record(&mut self, line: &Line, number: u64) -> Result<(Space, Vec<u8>, Vec<u8>), Wrong> {
        let state = |key: fjall::UserKey, record: Writing| {
            let value = record.seal(&key);
            (Space::State, key.to_vec(), value)
        };
        Ok(match line {
            Line::Store { .. } => return wrong("`kind`: there is a second store; remove the line"),
            Line::NextSession { session } => {
                not_late("session", *session)?;
                let key = keys::SESSIONS;
                (Space::State, key.to_vec(), number_record(key, *session))
            }
            Line::Message { id, message } => {
                not_late("id", *id)?;
                let message = message.message(self.clock.instant(), None)?;
                let (key, bytes) = (keys::body(*id), message.bytes());
                let body = Body { line: number, bytes, is_used: false };
                self.bodies.entry(*id).or_insert(body);
                (Space::Bodies, key.to_vec(), seal_body(&key, &message))
            }
            Line::Session(text) => {
                not_late("session", text.session)?;
                let key = keys::session(SessionNo(text.session));
                let record = text.record()?.seal(&key);
                self.sessions.entry(text.session).or_insert(0);
                (Space::State, key.to_vec(), record)
            }
            Line::Subscription { session, subscription } => {
                let (filter, options) = subscription.parse()?;
                let key = keys::subscription(self.owner(*session)?, &filter);
                let mut record = Writing::new();
                put_subscription(record.fields(), &filter, options);
                state(key, record)
            }
            Line::Received { session, packet_id } => {
                let Some(id) = PacketId::new(*packet_id) else {
                    return wrong("`packet_id`: 0 is none; write 1 to 65535");
                };
                state(keys::held(self.owner(*session)?, id), Writing::new())
            }
            Line::Progress { session, finished, highest } => {
                not_late("finished", *finished)?;
                not_late("highest", *highest)?;
                let key = keys::progress(self.owner(*session)?);
                let record = progress_record(&key, *finished, *highest);
                (Space::State, key.to_vec(), record)
            }
            Line::Released { session, seq } => {
                not_zero_nor_late("seq", *seq)?;
                state(keys::released(self.owner(*session)?, *seq), Writing::new())
            }
            Line::Retained { account, expires_at, message } => {
                let at = expires_at.and_then(|at| self.clock.instant_of(at.ms()));
                let message = message.message(self.clock.instant(), at)?;
                let record = RetainedRecord::seal(&message, &account.account(), &self.clock);
                (Space::Retained, message.topic.as_str().as_bytes().to_vec(), record)
            }
            Line::Ban(text) => {
                not_late("id", text.id)?;
                let ban = text.ban()?;
                let key = keys::ban(ban.id);
                (Space::State, key.to_vec(), seal_ban(&key, &ban))
            }
            Line::Device(text) => {
                let device = text.device()?;
                let key = keys::device(&device.principal);
                (Space::State, key.to_vec(), seal_device(&key, &device))
            }
            Line::Delivery(_) | Line::End => return wrong("`kind`: it makes no record of its own"),
        })
    }

    fn delivery(&mut self, text: &DeliveryText) -> Taken<()> {
        let (session, seq) = (text.session, text.seq);
        fine!(not_zero_nor_late("seq", seq));
        let number = fine!(self.owner(session));
        let last = self.sessions.get(&session).copied().unwrap_or(0);
        if seq <= last {
            return Ok(wrong(format!(
                "`seq`: delivery {last} of the session came before; put them in order"
            )));
        }
        let shared = fine!(text.shared.as_ref().map(FilterText::parse).transpose());
        let message = fine!(self.content(text));
        let content = match &message {
            Ok(message) => Content::Here(message),
            Err(id) => Content::Body(*id),
        };
        let bytes = match content {
            Content::Here(message) => message.bytes(),
            Content::Body(id) => self.bodies.get(&id).map_or(0, |body| body.bytes),
        };
        let queued = Queued {
            qos: fine!(qos(text.qos)),
            retain: text.retain,
            ids: &text.subscription_ids,
            shared: shared.as_ref().map(|(filter, options)| (filter, *options)),
            bytes,
            expires_unix_ms: text.expires_at.map(Time::ms),
        };
        let mut alone = Page::new(number, seq);
        alone.put(seq, &queued, content);
        let alone = alone.seal();
        let line = Line::Delivery(Box::new(text.clone()));
        fine!(compare(&line, Space::Queue, &alone.key, &alone.record));
        let belongs = |(of, page): &(u64, Page)| *of == session && !page.is_full();
        if !self.page.as_ref().is_some_and(belongs) {
            self.end_page()?;
        }
        let (_, page) = self.page.get_or_insert_with(|| (session, Page::new(number, seq)));
        page.put(seq, &queued, content);
        self.sessions.insert(session, seq);
        Ok(Ok(()))
    }

    /// The message of a delivery, or the number of one that was there before.
    fn content(&mut self, text: &DeliveryText) -> Result<Result<Message, u64>, Wrong> {
        match (&text.message, text.message_id) {
            (Some(message), None) => message.message(self.clock.instant(), None).map(Ok),
            (None, Some(id)) => match self.bodies.get_mut(&id) {
                Some(body) => {
                    body.is_used = true;
                    Ok(Err(id))
                }
                None => wrong(format!(
                    "`message_id`: there is no message {id} before this; put its line first"
                )),
            },
            _ => wrong("a delivery has a `message` or a `message_id`; write one of them"),
        }
    }

    fn end_page(&mut self) -> Result<(), StoreError> {
        let Some((_, page)) = self.page.take() else { return Ok(()) };
        let written = page.seal();
        self.build.put(Space::Queue, written.key.to_vec(), written.record).map(drop)
    }
}

fn not_late(key: &str, number: u64) -> Result<(), Wrong> {
    if number > NUMBER_MAX {
        return wrong(format!("`{key}`: {number} is too large; write a smaller number"));
    }
    Ok(())
}

fn not_zero_nor_late(key: &str, number: u64) -> Result<(), Wrong> {
    if number == 0 {
        return wrong(format!("`{key}`: numbers begin with 1; correct it"));
    }
    not_late(key, number)
}

/// Refuses a line of which the record says something else.
fn compare(line: &Line, space: Space, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
    let mut is_same = false;
    let read = lines(&Record { space, key, value }, |read| {
        is_same = read == *line;
        Ok(())
    });
    match read {
        Ok(_) if is_same => Ok(()),
        Ok(_) => wrong(
            "a text or time in it is longer than MQTT or the store can hold; shorten it, or \
             export the store again",
        ),
        Err(damage) => wrong(format!("MQTT cannot say this ({damage}); correct it")),
    }
}
