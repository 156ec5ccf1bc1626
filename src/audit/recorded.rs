//! What clients asked for, read back from a log, so that other policies can be asked the same.
//!
//! A log holds who asked, for what, and from where; it does not hold what the packet was like,
//! which groups a certificate conferred, or the TLS version. Those are what a
//! [`Question`] takes where nothing is said.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, Read};

use serde::Deserialize;

use super::line::FORMAT_VERSION;
use super::text;
use crate::policy::{Question, Words};

/// Distinct questions of all logs together; each is put to policies.
const QUESTIONS_MAX: usize = 50_000;
/// Bytes of the texts of all of them.
const BYTES_MAX: usize = 64 << 20;
/// Bytes of one line. The broker writes shorter ones, however much of them is escaped.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Distinct questions from logs, in an order that depends on nothing but the questions.
#[derive(Debug, Default)]
pub struct Recorded {
    asked: BTreeMap<Asked, Seen>,
    bytes: usize,
    skipped: Skipped,
}

/// Lines that brought no question, though they may have stood for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// No record of a log of this version.
    pub unreadable: u64,
    /// Records of a question that cannot be asked again: somebody is not named in it, or a text
    /// was cut.
    pub incomplete: u64,
    /// Records of distinct questions beyond the bound.
    pub beyond: u64,
}

/// One question that was recorded, once or more often.
#[derive(Debug)]
pub struct RecordedQuestion<'a> {
    /// The question in words.
    pub words: String,
    /// The question.
    pub question: Question,
    /// How often it is in the logs.
    pub times: u64,
    /// When it was last asked, as the log has it.
    pub last: &'a str,
    /// What was decided then.
    pub allowed: bool,
}

/// What was asked, but for the time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    principal: String,
    action: &'static str,
    resource: String,
    facts: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Seen {
    times: u64,
    last: String,
    allowed: bool,
}

impl Recorded {
    /// Takes in a log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self, mut log: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            if u64::try_from(read).is_ok_and(|read| read >= LINE_BYTES_MAX)
                && !line.ends_with(b"\n")
            {
                log.skip_until(b'\n')?;
                self.skipped.unreadable += 1;
                continue;
            }
            match serde_json::from_slice::<Record>(&line) {
                Ok(record) if record.v == FORMAT_VERSION => self.take(record),
                _ => self.skipped.unreadable += 1,
            }
        }
    }

    /// What brought no question.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// How many questions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// The questions.
    pub fn questions(&self) -> impl Iterator<Item = RecordedQuestion<'_>> {
        self.asked.iter().filter_map(|(asked, seen)| {
            let words = asked.words(&seen.last);
            Some(RecordedQuestion {
                question: Question::parse(&words).ok()?,
                words: words.to_string(),
                times: seen.times,
                last: &seen.last,
                allowed: seen.allowed,
            })
        })
    }

    fn take(&mut self, record: Record) {
        let allowed = match record.event.as_str() {
            "connection.accepted" => true,
            "denied" | "subscription.withdrawn" => false,
            _ => return,
        };
        let last = record.time.clone();
        let asked = record.asked().filter(|asked| Question::parse(&asked.words(&last)).is_ok());
        let Some(asked) = asked else {
            self.skipped.incomplete += 1;
            return;
        };
        let bytes = asked.bytes();
        let full = self.asked.len() >= QUESTIONS_MAX || self.bytes + bytes > BYTES_MAX;
        match self.asked.entry(asked) {
            Entry::Occupied(known) => {
                let seen = known.into_mut();
                seen.times += 1;
                // All times have the same number of digits.
                if seen.last < last {
                    (seen.last, seen.allowed) = (last, allowed);
                }
            }
            Entry::Vacant(_) if full => self.skipped.beyond += 1,
            Entry::Vacant(place) => {
                self.bytes += bytes;
                place.insert(Seen { times: 1, last, allowed });
            }
        }
    }
}

/// The fields of a line that make a question.
#[derive(Deserialize)]
struct Record {
    v: u8,
    event: String,
    time: String,
    verb: Option<String>,
    topic: Option<String>,
    filter: Option<String>,
    protocol: Option<String>,
    listener: Option<String>,
    address: Option<String>,
    client_id: Option<String>,
    principal: Option<Principal>,
    certificate_fingerprint: Option<String>,
}

#[derive(Deserialize)]
struct Principal {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

impl Record {
    fn asked(mut self) -> Option<Asked> {
        let principal = self.principal?;
        let mut facts = Vec::new();
        let mut fact = |name, value: Option<String>| {
            facts.extend(value.map(|value| (name, value)));
        };
        let verb = match self.event.as_str() {
            "connection.accepted" => "connect",
            "subscription.withdrawn" => "subscribe",
            _ => self.verb.as_deref()?,
        };
        let (action, resource) = match verb {
            "connect" => ("connect", self.listener.take()?),
            "subscribe" => ("subscribe", self.filter?),
            "publish" | "will" => ("publish", self.topic?),
            "receive" => ("receive", self.topic?),
            _ => return None,
        };
        if verb == "will" {
            fact("will", Some("true".to_owned()));
        }
        fact("listener", self.listener);
        fact("client_id", self.client_id);
        fact("source_ip", self.address);
        fact("protocol_version", self.protocol);
        let certified = self.certificate_fingerprint.is_some();
        fact("fingerprint", self.certificate_fingerprint);
        if !certified {
            fact("certificate", Some("false".to_owned()));
        }
        // With quotes where a name could be taken for one in quotes.
        let quote = if principal.id.starts_with('"') { "\"" } else { "" };
        let asked = Asked {
            principal: format!("{}::{quote}{}{quote}", principal.kind, principal.id),
            action,
            resource,
            facts,
        };
        (!text::is_cut(&principal.id) && !asked.is_cut()).then_some(asked)
    }
}

impl Asked {
    fn words<'a>(&'a self, time: &'a str) -> Words<'a> {
        let facts = self.facts.iter().map(|(name, value)| (*name, value.as_str()));
        Words {
            principal: &self.principal,
            groups: Vec::new(),
            action: self.action,
            resource: &self.resource,
            facts: facts.chain([("time", time)]).collect(),
        }
    }

    fn is_cut(&self) -> bool {
        text::is_cut(&self.resource) || self.facts.iter().any(|(_, value)| text::is_cut(value))
    }

    fn bytes(&self) -> usize {
        let facts: usize = self.facts.iter().map(|(_, value)| value.len()).sum();
        size_of::<Self>() + self.principal.len() + self.resource.len() + facts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::audit::event::{Event, Kind, Subject, Target, Verb};
    use crate::audit::line;
    use crate::identity::PrincipalKind;
    use crate::mqtt::{ProtocolVersion, ReasonCode};

    fn subject(name: &str) -> Arc<Subject> {
        let peer = "192.0.2.7:50112".parse().unwrap();
        let subject = Subject::connection(&"mtls".into(), Some(peer)).named("c".into());
        Arc::new(Subject { principal: Some((PrincipalKind::User, name.into())), ..subject })
    }

    fn denied(verb: Verb, target: Option<Target>) -> Kind {
        let (policies, reason) = (Arc::default(), ReasonCode::NotAuthorized);
        Kind::Denied { verb, target, policies, reason, why: "not permitted".into() }
    }

    fn topic(text: &str) -> Target {
        Target::Topic(text.into())
    }

    /// Writes events as the broker does, one second after the other.
    fn log(events: Vec<(Option<Arc<Subject>>, Kind)>) -> Vec<u8> {
        let mut written = Vec::new();
        for (seq, (subject, kind)) in (1..).zip(events) {
            let time = UNIX_EPOCH + Duration::from_secs(seq);
            line::append(&mut written, seq, &Event { time, subject, kind }).unwrap();
        }
        written
    }

    fn read(log: &[u8]) -> Recorded {
        let mut recorded = Recorded::default();
        recorded.read(log).unwrap();
        recorded
    }

    fn told(recorded: &Recorded) -> Vec<String> {
        let tell = |it: RecordedQuestion<'_>| {
            format!(
                "{}× {} ({})",
                it.times,
                it.words,
                if it.allowed { "allowed" } else { "denied" }
            )
        };
        recorded.questions().map(tell).collect()
    }

    #[test]
    fn what_the_broker_writes_is_asked_again() {
        let ann = Some(subject("ann"));
        let protocol = ProtocolVersion::V311;
        let recorded = read(&log(vec![
            (
                ann.clone(),
                Kind::ConnectionAccepted { protocol, session_present: false, method: None },
            ),
            (ann.clone(), denied(Verb::Connect, None)),
            (ann.clone(), denied(Verb::Publish, Some(topic("a/b")))),
            (ann.clone(), denied(Verb::Will, Some(topic("a/b")))),
            (ann.clone(), denied(Verb::Receive, Some(topic("a/b")))),
            (ann.clone(), denied(Verb::Publish, Some(topic("a/b")))),
            (ann.clone(), denied(Verb::Subscribe, Some(Target::Filter("$share/g/a/#".into())))),
            (ann, Kind::SubscriptionWithdrawn { filter: "a/+".into(), policies: Arc::default() }),
            (None, Kind::BrokerStopped { why: "done".into() }),
        ]));
        let facts = "listener=mtls client_id=c source_ip=192.0.2.7 certificate=false";
        let time = |second: u8| format!("time=1970-01-01T00:00:0{second}.000000Z");
        assert_eq!(
            told(&recorded),
            [
                format!(
                    "1× User::ann connect mtls with client_id=c source_ip=192.0.2.7 \
                     certificate=false {} (denied)",
                    time(2)
                ),
                format!(
                    "1× User::ann connect mtls with client_id=c source_ip=192.0.2.7 \
                     protocol_version=3.1.1 certificate=false {} (allowed)",
                    time(1)
                ),
                format!("2× User::ann publish a/b with {facts} {} (denied)", time(6)),
                format!("1× User::ann publish a/b with will=true {facts} {} (denied)", time(4)),
                format!("1× User::ann receive a/b with {facts} {} (denied)", time(5)),
                format!("1× User::ann subscribe $share/g/a/# with {facts} {} (denied)", time(7)),
                format!("1× User::ann subscribe a/+ with {facts} {} (denied)", time(8)),
            ]
        );
        assert_eq!(recorded.skipped(), Skipped::default());
    }

    #[test]
    fn names_and_topics_are_read_as_they_were_whatever_they_hold() {
        let odd = "\"quoted\" <é> \u{202e}::x";
        let recorded = read(&log(vec![(
            Some(subject(odd)),
            denied(Verb::Publish, Some(topic("a b=c/\u{2028}\"/é"))),
        )]));
        let question = recorded.questions().next().unwrap().question;
        assert_eq!(&*question.identity.name, odd);
        let crate::policy::Asked::Publish { message, .. } = question.asked else { unreachable!() };
        assert_eq!(message.topic.as_str(), "a b=c/\u{2028}\"/é");
    }

    #[test]
    fn what_cannot_be_asked_again_is_counted_and_left_out() {
        let long = "x".repeat(2000);
        let unnamed = Arc::new(Subject { principal: None, ..(*subject("x")).clone() });
        let mut lines = log(vec![
            (Some(subject(&long)), denied(Verb::Publish, Some(topic("a")))),
            (Some(subject("ann")), denied(Verb::Publish, Some(topic(&long)))),
            (Some(subject("ann")), denied(Verb::Publish, None)),
            (Some(unnamed), denied(Verb::Publish, Some(topic("a")))),
            (Some(subject("ann")), denied(Verb::Publish, Some(topic("a")))),
        ]);
        lines.extend(b"no JSON\n{}\n\xff\n[1]\n");
        lines.extend(br#"{"v":2,"event":"denied","time":"1970-01-01T00:00:00.000000Z"}"#);
        lines.extend(format!("\n\"{}\"\n", "x".repeat(200_000)).bytes());
        lines.extend(br#"{"v":1,"seq":9,"time":"tomorrow","event":"denied","verb":"publish","topic":"a","principal":{"type":"User","id":"x"}}"#);
        lines.extend(b"\n{\"v\":1,\"ev");
        let recorded = read(&lines);
        assert_eq!(recorded.len(), 1);
        assert_eq!(recorded.skipped(), Skipped { unreadable: 7, incomplete: 5, beyond: 0 });
    }

    #[test]
    fn memory_is_bounded_and_what_is_beyond_is_counted() {
        let subject = subject("ann");
        let event = |index: usize| {
            let kind = denied(Verb::Publish, Some(topic(&format!("t/{index}"))));
            (Some(Arc::clone(&subject)), kind)
        };
        let all: Vec<_> = (0..QUESTIONS_MAX + 3).chain(0..2).map(event).collect();
        let recorded = read(&log(all));
        assert_eq!(recorded.len(), QUESTIONS_MAX);
        assert_eq!(recorded.skipped().beyond, 3, "what is known already is still counted with it");
    }

    #[test]
    fn the_order_of_logs_does_not_matter() {
        let first = log(vec![
            (Some(subject("ann")), denied(Verb::Publish, Some(topic("a")))),
            (Some(subject("bob")), denied(Verb::Publish, Some(topic("a")))),
        ]);
        let second = log(vec![
            (Some(subject("bob")), denied(Verb::Publish, Some(topic("a")))),
            (Some(subject("ann")), denied(Verb::Publish, Some(topic("a")))),
        ]);
        assert_eq!(
            told(&read(&[&first[..], &second].concat())),
            told(&read(&[&second[..], &first].concat()))
        );
    }
}
