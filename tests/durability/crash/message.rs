//! What the messages say, and what is wrong where something is.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::line::Lost;

/// Topics of each publisher.
pub(super) const TOPICS: u8 = 3;

/// The messages that one publisher publishes to one topic with one QoS: MQTT keeps their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stream {
    pub(super) publisher: u8,
    pub(super) topic: u8,
    pub(super) qos: u8,
}

impl Stream {
    pub(super) fn topic(self) -> String {
        format!("t/{}/{}", self.publisher, self.topic)
    }

    /// The payload of one of its messages.
    pub(super) fn payload(self, seq: u64, padding: usize) -> Vec<u8> {
        let Self { publisher, topic, qos } = self;
        let mut text = format!("{publisher} {topic} {qos} {seq} ").into_bytes();
        text.resize(text.len() + padding, b'x');
        text
    }

    /// Which message a payload is.
    pub(super) fn parse(payload: &[u8]) -> Option<(Self, u64)> {
        let mut words = std::str::from_utf8(payload).ok()?.split(' ');
        let mut small = || words.next()?.parse().ok();
        let stream = Self { publisher: small()?, topic: small()?, qos: small()? };
        Some((stream, words.next()?.parse().ok()?))
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publisher-{}, topic {}, QoS {}", self.publisher, Self::topic(*self), self.qos)
    }
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    pub(super) round: u32,
    /// Since the round began.
    pub(super) at: Duration,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in round {} after {:.1} ms", self.round, self.at.as_secs_f64() * 1e3)
    }
}

/// A promise that the broker broke.
#[derive(Debug)]
pub(crate) struct Complaint {
    /// The client that noticed.
    pub(super) client: String,
    pub(super) what: String,
    /// The messages it is about.
    pub(super) about: Option<(Stream, RangeInclusive<u64>)>,
}

impl Complaint {
    pub(super) fn new(client: &str, what: impl Into<String>) -> Self {
        Self { client: client.to_owned(), what: what.into(), about: None }
    }

    pub(super) fn about(mut self, stream: Stream, numbers: RangeInclusive<u64>) -> Self {
        self.about = Some((stream, numbers));
        self
    }
}

/// Why a client stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its connection is gone, which is no fault.
    Lost,
    Wrong(Complaint),
}

impl From<Lost> for Stop {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

impl From<Complaint> for Stop {
    fn from(complaint: Complaint) -> Self {
        Self::Wrong(complaint)
    }
}
