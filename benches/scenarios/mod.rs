//! The list of what is measured, in the order of the table.

mod connections;
mod exchange;
mod retained;
mod subscriptions;

use std::io;
use std::time::Duration;

use crate::client::Pace;
use crate::peers::{Running, Server};

/// Bytes of every payload.
pub(crate) const PAYLOAD_BYTES: usize = 64;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// The name on the command line.
    pub(crate) name: &'static str,
    /// The name in the table.
    pub(crate) title: &'static str,
    load: Load,
}

/// What is done to the server.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Messages between publishers and subscribers.
    Exchange(Exchange),
    /// Subscribers that come to 5,000 retained messages.
    RetainedReplay,
    /// So many clients connect, and then do nothing.
    Connections { mtls: bool, count: usize },
    /// So many subscriptions of 400 clients: exact, with `+` and with `#`.
    Subscriptions { count: usize },
    /// Nothing at all.
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct Exchange {
    mtls: bool,
    groups: usize,
    publishers: usize,
    subscribers: usize,
    qos: u8,
    pace: Pace,
}

impl Exchange {
    const fn new(groups: usize, qos: u8, pace: Pace) -> Self {
        Self { mtls: false, groups, publishers: 1, subscribers: 1, qos, pace }
    }

    const fn subscribers(self, subscribers: usize) -> Self {
        Self { subscribers, ..self }
    }

    const fn publishers(self, publishers: usize) -> Self {
        Self { publishers, ..self }
    }

    const fn mtls(self) -> Self {
        Self { mtls: true, ..self }
    }
}

/// One at a time: the next message when the last one has arrived.
const SINGLE: Pace = Pace::Lockstep { batch: 1 };
/// 64 messages in one write; the next ones when all have arrived.
const BATCHED: Pace = Pace::Lockstep { batch: 64 };
/// Up to 100 messages unacknowledged per publisher.
const WINDOW: Pace = Pace::Window { window: 100 };
/// 20 each, where many publishers meet at one subscriber.
const SMALL_WINDOW: Pace = Pace::Window { window: 20 };
/// 2,000 messages a second, each on its own.
const PACED: Pace = Pace::Rate { per_second: 2_000, window: 1_000 };

/// Everything that is measured.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "qos0-single",
        title: "1→1 QoS 0, one at a time",
        load: Load::Exchange(Exchange::new(1, 0, SINGLE)),
    },
    Scenario {
        name: "qos0-batched",
        title: "1→1 QoS 0, 64 per write",
        load: Load::Exchange(Exchange::new(1, 0, BATCHED)),
    },
    Scenario {
        name: "qos0-pairs",
        title: "1→1 QoS 0, 10 pairs, 64 per write",
        load: Load::Exchange(Exchange::new(10, 0, BATCHED)),
    },
    Scenario {
        name: "qos1-pairs",
        title: "1→1 QoS 1, 10 pairs, window 100",
        load: Load::Exchange(Exchange::new(10, 1, WINDOW)),
    },
    Scenario {
        name: "qos2-pairs",
        title: "1→1 QoS 2, 10 pairs, window 100",
        load: Load::Exchange(Exchange::new(10, 2, WINDOW)),
    },
    Scenario {
        name: "qos1-paced",
        title: "1→1 QoS 1, 10 pairs, 2,000/s unbatched",
        load: Load::Exchange(Exchange::new(10, 1, PACED)),
    },
    Scenario {
        name: "fan-out-single",
        title: "fan-out 1→100 QoS 0, one at a time",
        load: Load::Exchange(Exchange::new(1, 0, SINGLE).subscribers(100)),
    },
    Scenario {
        name: "fan-out-batched",
        title: "fan-out 1→100 QoS 0, 64 per write",
        load: Load::Exchange(Exchange::new(1, 0, BATCHED).subscribers(100)),
    },
    Scenario {
        name: "fan-in",
        title: "fan-in 50→1 QoS 1, window 20 each",
        load: Load::Exchange(Exchange::new(1, 1, SMALL_WINDOW).publishers(50)),
    },
    Scenario {
        name: "mtls-qos1-pairs",
        title: "mTLS 1→1 QoS 1, 10 pairs, window 100",
        load: Load::Exchange(Exchange::new(10, 1, WINDOW).mtls()),
    },
    Scenario {
        name: "mtls-fan-out",
        title: "mTLS fan-out 1→100 QoS 0, 64 per write",
        load: Load::Exchange(Exchange::new(1, 0, BATCHED).subscribers(100).mtls()),
    },
    Scenario {
        name: "retained",
        title: "retained replay, 5,000 topics × 5, QoS 1",
        load: Load::RetainedReplay,
    },
    Scenario {
        name: "plain-connections",
        title: "plain connections, 10,000 idle",
        load: Load::Connections { mtls: false, count: 10_000 },
    },
    Scenario {
        name: "mtls-connections",
        title: "mTLS connections, 2,000 idle",
        load: Load::Connections { mtls: true, count: 2_000 },
    },
    Scenario {
        name: "subscriptions",
        title: "200,000 mixed subscriptions",
        load: Load::Subscriptions { count: 200_000 },
    },
    Scenario { name: "idle", title: "the idle server", load: Load::Idle },
];

/// How long and how large: whole, or a tenth for a quick look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// For figures that are published.
    Whole,
    /// To see that everything works.
    Quick,
}

impl Scale {
    const fn measured(self) -> Duration {
        Duration::from_millis(if let Self::Whole = self { 2_000 } else { 500 })
    }

    const fn warm_up(self) -> Duration {
        Duration::from_millis(if let Self::Whole = self { 500 } else { 100 })
    }

    /// For allocators and timers to come to rest before memory is read.
    const fn rest(self) -> Duration {
        Duration::from_millis(if let Self::Whole = self { 1_000 } else { 200 })
    }

    const fn count(self, whole: usize) -> usize {
        if let Self::Whole = self { whole } else { whole / 10 }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// CPU time of the server for each message that reached a subscriber.
    CpuUsPerDelivery,
    /// The time from when a message should have been sent until it arrived: the 99th percentile.
    LatencyP99Ms,
    /// CPU time of the server for each connection, from accept to CONNACK.
    CpuUsPerConnection,
    /// Anonymous resident memory that each connection added.
    BytesPerConnection,
    /// CPU time of the server for each filter subscribed to.
    CpuUsPerSubscription,
    /// Anonymous resident memory that each subscription added.
    BytesPerSubscription,
    /// All resident memory.
    ResidentMib,
}

impl Unit {
    /// The name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CpuUsPerDelivery => "CPU-µs per delivery",
            Self::LatencyP99Ms => "p99, ms",
            Self::CpuUsPerConnection => "CPU-µs per connection",
            Self::BytesPerConnection => "bytes per connection",
            Self::CpuUsPerSubscription => "CPU-µs per subscription",
            Self::BytesPerSubscription => "bytes per subscription",
            Self::ResidentMib => "resident MiB",
        }
    }
}

/// One measured value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

impl Scenario {
    /// Whether `server` can do this at all: the relay copies bytes and knows no more.
    pub(crate) const fn suits(&self, server: Server) -> bool {
        !matches!(server, Server::Relay)
            || matches!(
                self.load,
                Load::Exchange(Exchange { mtls: false, publishers: 1, qos: 0, .. }) | Load::Idle
            )
    }

    /// Runs it once against a fresh server.
    ///
    /// # Errors
    /// When the server refuses, closes or stalls a connection.
    pub(crate) fn run(&self, server: &Running, scale: Scale) -> io::Result<Vec<Figure>> {
        match self.load {
            Load::Exchange(load) => exchange::run(server, scale, load),
            Load::RetainedReplay => retained::run(server, scale),
            Load::Connections { mtls, count } => connections::run(server, scale, mtls, count),
            Load::Subscriptions { count } => subscriptions::run(server, scale, count),
            Load::Idle => {
                std::thread::sleep(scale.rest());
                let value = server.memory().resident_bytes as f64 / 1024.0 / 1024.0;
                Ok(vec![Figure { unit: Unit::ResidentMib, value }])
            }
        }
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
