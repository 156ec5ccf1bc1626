//! Publishers and subscribers in groups, each group on its own topics, under one kind of load.

use std::io;
use std::time::{Duration, Instant};

use super::swarm::{Client, STALL_MAX, Swarm, Target};
use super::wire::Publication;

/// How publishers decide when to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// So many messages in one write; the next ones when every subscriber of the group has them.
    Lockstep { batch: u32 },
    /// As many as are acknowledged, with at most `window` not acknowledged per publisher, and at
    /// most four windows not delivered.
    Window { window: u32 },
    /// So many messages a second over all publishers, each in its own write, whatever comes
    /// back; one that would be the `window`-plus-first unacknowledged is held back for ever.
    Rate { per_second: u32, window: u32 },
}

/// A kind of load.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Begins the client ids and topics, so that several plans do not meet.
    pub(crate) name: String,
    /// Independent groups.
    pub(crate) groups: usize,
    /// Publishers in each group.
    pub(crate) publishers: usize,
    /// Subscribers in each group; each gets what all publishers of the group send.
    pub(crate) subscribers: usize,
    /// QoS of publications and subscriptions.
    pub(crate) qos: u8,
    /// When to send.
    pub(crate) pace: Pace,
    /// Bytes of a payload.
    pub(crate) payload_bytes: usize,
}

struct Publisher {
    connection: usize,
    publication: Publication,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    /// Deliveries that the messages sent will lead to.
    due: u64,
    /// Deliveries seen.
    delivered: u64,
    touched: bool,
}

/// A running load.
pub(crate) struct Exchange {
    plan: Plan,
    swarm: Swarm,
    /// In the order of groups.
    publishers: Vec<Publisher>,
    flows: Vec<Flow>,
    /// The group of each connection.
    group_of: Vec<usize>,
    next_publisher: usize,
    next_due: Option<Instant>,
    progress: Instant,
    held_back: u64,
}

impl Exchange {
    /// Connects and subscribes everyone.
    ///
    /// # Errors
    /// When the server refuses one of them.
    pub(crate) fn open(target: &Target, plan: Plan) -> io::Result<Self> {
        let Plan { groups, publishers, subscribers, .. } = plan;
        let mut swarm = Swarm::new()?;
        let name = plan.name.clone();
        let id = |role: &str, group: usize, index: usize| format!("{name}-{role}-{group}-{index}");
        let clients = |role: &str, count: usize| -> io::Result<Vec<Client>> {
            let numbers = (0..groups).flat_map(|group| (0..count).map(move |index| (group, index)));
            numbers.map(|(group, index)| target.client(id(role, group, index))).collect()
        };
        let listening = swarm.open(&clients("sub", subscribers)?, 32)?;
        for index in listening.clone() {
            let filter = match publishers {
                1 => format!("{name}/{}/0", index / subscribers),
                _ => format!("{name}/{}/+", index / subscribers),
            };
            swarm.subscribe(index, plan.qos, &[filter])?;
        }
        let talking = swarm.open(&clients("pub", publishers)?, 32)?;
        let group_of = (0..groups * subscribers)
            .map(|index| index / subscribers)
            .chain((0..groups * publishers).map(|index| index / publishers))
            .collect();
        let publishers = talking
            .enumerate()
            .map(|(index, connection)| {
                let topic = format!("{name}/{}/{}", index / publishers, index % publishers);
                let publication =
                    Publication::new(target.version, &topic, plan.qos, false, plan.payload_bytes);
                Publisher { connection, publication }
            })
            .collect();
        let flows = vec![Flow { touched: true, ..Flow::default() }; groups];
        Ok(Self {
            plan,
            swarm,
            publishers,
            flows,
            group_of,
            next_publisher: 0,
            next_due: None,
            progress: Instant::now(),
            held_back: 0,
        })
    }

    /// Keeps the load up for `duration`.
    ///
    /// # Errors
    /// When a connection fails, or nothing is delivered for [`STALL_MAX`].
    pub(crate) fn run_for(&mut self, duration: Duration) -> io::Result<()> {
        let end = Instant::now() + duration;
        self.progress = Instant::now();
        loop {
            let wake = match self.plan.pace {
                Pace::Rate { per_second, window } => self.send_due(per_second, window).min(end),
                Pace::Lockstep { .. } | Pace::Window { .. } => {
                    self.refill();
                    end
                }
            };
            self.turn(wake)?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Sends nothing more and waits for what is under way. Returns the deliveries that are still
    /// missing when nothing has come for `patience`.
    pub(crate) fn finish(&mut self, patience: Duration) -> io::Result<u64> {
        self.next_due = None;
        self.progress = Instant::now();
        while self.missing() > 0 && self.progress.elapsed() < patience {
            self.turn(self.progress + patience)?;
        }
        Ok(self.missing())
    }

    /// Deliveries so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.flows.iter().map(|flow| flow.delivered).sum()
    }

    /// Messages that were held back, because too many were unacknowledged.
    pub(crate) const fn held_back(&self) -> u64 {
        self.held_back
    }

    /// The connections, for latencies.
    pub(crate) const fn swarm(&mut self) -> &mut Swarm {
        &mut self.swarm
    }

    fn missing(&self) -> u64 {
        self.flows.iter().map(|flow| flow.due.saturating_sub(flow.delivered)).sum()
    }

    fn turn(&mut self, until: Instant) -> io::Result<()> {
        self.swarm.turn(until.min(self.progress + STALL_MAX))?;
        self.swarm.check()?;
        let mut any = false;
        for position in 0..self.swarm.touched().len() {
            let index = self.swarm.touched()[position];
            let flow = &mut self.flows[self.group_of[index]];
            let delivered = self.swarm.connection_mut(index).take_delivered();
            flow.delivered += delivered;
            flow.touched = true;
            any |= delivered > 0;
        }
        if any {
            self.progress = Instant::now();
        } else if self.progress.elapsed() >= STALL_MAX {
            let text = format!("stalled: {} deliveries are missing", self.missing());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Lets the publishers of each group that has moved send what they may.
    fn refill(&mut self) {
        let now = Instant::now();
        let fan = self.plan.subscribers as u64;
        for (group, flow) in self.flows.iter_mut().enumerate() {
            if !std::mem::take(&mut flow.touched) {
                continue;
            }
            let outstanding = flow.due.saturating_sub(flow.delivered);
            let first = group * self.plan.publishers;
            for publisher in &self.publishers[first..first + self.plan.publishers] {
                let count = match self.plan.pace {
                    Pace::Lockstep { batch } if outstanding == 0 => batch,
                    Pace::Window { window } => {
                        let connection = self.swarm.connection(publisher.connection);
                        let window = window.min(connection.receive_maximum().into());
                        let room = 4 * u64::from(window) * self.plan.publishers as u64;
                        let room =
                            room.saturating_sub(flow.due.saturating_sub(flow.delivered) / fan);
                        let free = window.saturating_sub(connection.unacknowledged());
                        free.min(u32::try_from(room).unwrap_or(u32::MAX))
                    }
                    Pace::Lockstep { .. } | Pace::Rate { .. } => 0,
                };
                if count > 0 {
                    flow.due += u64::from(count) * fan;
                    self.swarm.publish(publisher.connection, &publisher.publication, count, now);
                }
            }
        }
    }

    /// Sends each message whose moment has come, stamped with that moment rather than with the
    /// time of sending, so that a stalled server cannot hide its latency by stalling us. Returns
    /// the moment of the next one.
    fn send_due(&mut self, per_second: u32, window: u32) -> Instant {
        let interval = Duration::from_secs(1) / per_second;
        let now = Instant::now();
        let mut due = self.next_due.unwrap_or(now);
        while due <= now {
            let index = self.next_publisher;
            self.next_publisher = (index + 1) % self.publishers.len();
            let publisher = &self.publishers[index];
            if self.swarm.connection(publisher.connection).unacknowledged() < window {
                self.swarm.publish(publisher.connection, &publisher.publication, 1, due);
                let group = index / self.plan.publishers;
                self.flows[group].due += self.plan.subscribers as u64;
            } else {
                self.held_back += 1;
            }
            due += interval;
        }
        self.next_due = Some(due);
        due
    }
}
