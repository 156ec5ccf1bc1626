//! One client's connection: the only place where the steps stand in a row.
//!
//! One task does it all: what the socket has is read and handled packet by packet
//! ([`packets`]), what the mailbox has is encoded behind the answers ([`deliveries`]), and one
//! write sends both. An idle connection holds no buffer.

mod deliveries;
mod grounds;
mod held;
mod packets;
mod rejudge;
mod replay;

use std::any::Any;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Sleep;

pub(super) use grounds::Grounds;
pub(super) use held::Held;
use replay::Replays;

use super::transport::{CloseCode, Scratch, Transport};
use crate::audit::{self, Event, Kind};
use crate::broker::{Broker, Departure, Now, Term};
use crate::gates::rate::PrincipalRate;
use crate::gates::{Profile, Refusal, admission};
use crate::identity::Identity;
use crate::mqtt::packet::{Disconnect, Packet, Will};
use crate::mqtt::{ProtocolVersion, ReasonCode, Violation};
use crate::policy::{ConnectFacts, Subject};
use crate::router::{Most, Peer, RouteCache, Signal, Wakes};
use crate::session::{Delivery, Session};

/// A packet that has begun has to be complete within this time.
const FRAME_DEADLINE: Duration = Duration::from_mins(1);
/// What was written has to be taken by the client's side within this time.
const WRITE_DEADLINE: Duration = Duration::from_mins(1);
/// After so long without traffic, caches are freed.
const SHED_AFTER: Duration = Duration::from_secs(10);
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS_MAX: usize = 4;
/// How long the last bytes may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// A connection that has been answered with a successful CONNACK: the last rung.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) broker: Arc<Broker>,
    pub(super) transport: Transport,
    /// What has come of packets that are not handled yet.
    pub(super) unread: Vec<u8>,
    pub(super) session: Session,
    pub(super) subject: Subject,
    pub(super) peer: Arc<Peer>,
    pub(super) term: Term,
    pub(super) profile: Arc<Profile>,
    pub(super) rate: Arc<PrincipalRate>,
    /// Who this is in the audit log.
    pub(super) client: Arc<audit::Subject>,
    /// What it has proven itself by, where it has.
    pub(super) grounds: Option<Box<Grounds>>,
    pub(super) connect_facts: ConnectFacts,
    pub(super) expiry_s: u32,
    pub(super) will: Option<Box<Will>>,
    /// Answers that wait for the disk.
    pub(super) held: Held,
    /// Gives the connection's place back.
    pub(super) slot: admission::Slot,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Closing {
    /// The client said goodbye.
    ByClient {
        /// With which reason.
        reason: ReasonCode,
        /// The will is to be sent all the same, or not.
        will: bool,
    },
    /// The client is gone without a word.
    Lost(std::io::Error),
    /// The broker ends it.
    ByBroker {
        /// What the client is told.
        reason: ReasonCode,
        /// What the operator is told.
        why: String,
        /// The client is told it too. What the policies say is not for clients.
        told: bool,
    },
    /// Its task has panicked: its state is in doubt.
    Panicked,
}

impl Closing {
    fn because(refusal: &Refusal) -> Self {
        let told = !matches!(refusal, Refusal::Denied(_));
        Self::ByBroker { reason: refusal.reason(), why: refusal.to_string(), told }
    }
}

impl From<std::io::Error> for Closing {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error)
    }
}

impl From<Violation> for Closing {
    fn from(violation: Violation) -> Self {
        Self::ByBroker { reason: violation.reason, why: violation.to_string(), told: true }
    }
}

/// A connection at work.
struct Connection {
    link: Connected,
    routes: RouteCache,
    replays: Replays,
    /// Nothing is read before this time: the client is over its rate.
    paused_until: Option<Instant>,
    /// `unread` may hold whole packets.
    backlog: bool,
    /// Since when a packet is incomplete.
    incomplete_since: Option<Instant>,
    /// Since when the client's side takes nothing.
    blocked_since: Option<Instant>,
    active_at: Instant,
    /// When a policy that reads the time may decide otherwise about the connection.
    rejudge_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Connected {
    /// Serves the connection to its end, and gives the session back. Everything is behind one
    /// pointer: a task is as large as the largest of its states, for as long as it lives.
    pub(super) async fn serve(self: Box<Self>) {
        let mut connection = self.begin();
        let closing = connection.run().await;
        Box::pin(connection.finish(closing)).await;
    }

    fn begin(mut self: Box<Self>) -> Box<Connection> {
        let now = Now::read();
        if let Some(trust) = self.grounds.as_mut().and_then(|grounds| grounds.trust.as_mut()) {
            trust.ends_at = expiry_of(self.subject.identity(), now);
        }
        Box::new(Connection {
            routes: RouteCache::default(),
            replays: Replays::default(),
            paused_until: None,
            backlog: !self.unread.is_empty(),
            incomplete_since: None,
            blocked_since: None,
            active_at: now.instant,
            rejudge_at: None,
            timer: Box::pin(tokio::time::sleep_until(now.instant.into())),
            link: *self,
        })
    }
}

impl Connection {
    /// Serves until there is a reason to close. A panic meanwhile ends no more than this connection.
    async fn run(&mut self) -> Closing {
        let mut has_begun = false;
        poll_fn(|cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| {
                if !std::mem::replace(&mut has_begun, true) {
                    self.clear_subscriptions();
                    // Once more: who became known as connected after a list was put in force was
                    // not told.
                    if let Err(closing) = self.check_trust() {
                        return Poll::Ready(closing);
                    }
                }
                self.poll(cx)
            }));
            polled.unwrap_or_else(|panic| Poll::Ready(self.panicked(&*panic)))
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closing> {
        let mut wakes = Wakes::default();
        let now = Now::read();
        for _ in 0..ROUNDS_MAX {
            let progress = match self.round(cx, now, &mut wakes) {
                Ok(progress) => progress,
                Err(closing) => return Poll::Ready(closing),
            };
            wakes.wake_all();
            if !progress {
                return match self.poll_timer(cx, now) {
                    Some(closing) => Poll::Ready(closing),
                    None => Poll::Pending,
                };
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, takes from the mailbox once, writes once. `false`: there was nothing to do.
    fn round(
        &mut self,
        cx: &mut Context<'_>,
        now: Now,
        wakes: &mut Wakes,
    ) -> Result<bool, Closing> {
        self.check_proof()?;
        // While the client does not take what it has been sent, nothing more is done for it.
        if self.link.transport.poll_flush(cx)?.is_pending() {
            self.blocked_since.get_or_insert(now.instant);
            return self.take_signal(cx).map(|()| false);
        }
        self.blocked_since = None;
        let mut out = Scratch::take();
        if self.link.subject.epoch() != self.link.broker.policy_epoch() {
            self.rejudge(now)?;
        } else if self.rejudge_at.is_some_and(|at| at <= now.instant) {
            self.judge_again(now)?;
        }
        let heard = self.read(cx, now, &mut out, wakes);
        self.hold_answers(cx, &mut out);
        let sent = match &heard {
            Ok(_) if self.link.held.is_greeting() => self.take_signal(cx).map(|()| false),
            Ok(_) => self.take_deliveries(cx, now, &mut out),
            Err(_) => Ok(false),
        };
        self.note_finished();
        if !out.is_empty() {
            self.active_at = now.instant;
            self.link.broker.metrics.bytes_sent.inc_by(out.len() as u64);
            if self.link.transport.poll_write(cx, &out)?.is_pending() {
                self.blocked_since = Some(now.instant);
            }
        }
        Ok(heard? | sent?)
    }

    /// Reads what the socket has and handles the packets in it. `true`: there was something.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<bool, Closing> {
        if self.paused_until.is_some_and(|until| until > now.instant) || !self.poll_disk(cx) {
            return Ok(false);
        }
        self.paused_until = None;
        if self.backlog {
            let input = std::mem::take(&mut self.link.unread);
            self.handle_and_keep(&input, now, out, wakes)?;
            return Ok(true);
        }
        // An incomplete packet that is large grows where it lies; a small one moves to the front
        // of the next read.
        let mut scratch = Scratch::take();
        let own = self.link.unread.len() > SMALL_REMAINDER_BYTES;
        let input: &mut Vec<u8> = if own {
            &mut self.link.unread
        } else {
            scratch.extend_from_slice(&self.link.unread);
            &mut scratch
        };
        match self.link.transport.poll_read(cx, input) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => {
                let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(Closing::Lost(error));
            }
            Poll::Ready(Ok(bytes)) => {
                self.link.broker.metrics.bytes_received.inc_by(bytes as u64);
            }
            Poll::Ready(Err(error)) => return Err(error.into()),
        }
        self.active_at = now.instant;
        if own {
            let input = std::mem::take(&mut self.link.unread);
            self.grow_or_handle(input, now, out, wakes)?;
        } else {
            self.handle_and_keep(&scratch, now, out, wakes)?;
        }
        Ok(true)
    }

    /// Handles a large remainder once its first packet is complete, else keeps it as it is.
    fn grow_or_handle(
        &mut self,
        input: Vec<u8>,
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<(), Closing> {
        if self.is_incomplete(&input)? {
            self.link.unread = input;
            return Ok(());
        }
        self.handle_and_keep(&input, now, out, wakes)
    }

    /// Handles the whole packets at the front of `input` and keeps what is left.
    fn handle_and_keep(
        &mut self,
        input: &[u8],
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<(), Closing> {
        let handled = self.handle(input, now, out, wakes)?;
        let rest = input.get(handled..).unwrap_or_default();
        self.link.unread.clear();
        if rest.is_empty() {
            self.incomplete_since = None;
            if self.link.unread.capacity() > 0 {
                self.link.unread = Vec::new();
            }
        } else {
            self.link.unread.extend_from_slice(rest);
            if handled > 0 || self.incomplete_since.is_none() {
                self.incomplete_since = Some(now.instant);
            }
        }
        Ok(())
    }

    /// Sets the timer to what comes next; `Some` when a deadline has passed.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Now) -> Option<Closing> {
        // While the broker itself does not read, nobody can say the client is silent.
        let reads =
            self.paused_until.is_none() && self.blocked_since.is_none() && self.disk_keeps_up();
        let keep_alive = self.link.session.keep_alive_deadline().filter(|_| reads);
        let incomplete = self.incomplete_since.filter(|_| reads);
        let frame = incomplete.map(|since| since + FRAME_DEADLINE);
        let write = self.blocked_since.map(|since| since + WRITE_DEADLINE);
        let (expiry, proof) = self.link.grounds.as_ref().map_or((None, None), |it| it.ends());
        let shed = Some(self.active_at + SHED_AFTER).filter(|at| *at > now.instant);
        let rejudge = self.rejudge_at.filter(|at| *at > now.instant);
        for (deadline, reason, why) in [
            (keep_alive, ReasonCode::KeepAliveTimeout, "silent for 1.5 keep-alive intervals"),
            (frame, ReasonCode::ProtocolError, "a packet was not completed in time"),
            (write, ReasonCode::QuotaExceeded, "the client does not read"),
            (expiry, ReasonCode::NotAuthorized, "the client's certificate has expired"),
            (proof, ReasonCode::NotAuthorized, "what the client has proven itself by has expired"),
        ] {
            if deadline.is_some_and(|deadline| deadline <= now.instant) {
                return Some(Closing::ByBroker { reason, why: why.to_owned(), told: true });
            }
        }
        if shed.is_none() {
            self.routes.shed();
            self.link.subject.shed();
            self.link.session.shed();
        }
        let next = [keep_alive, frame, write, expiry, proof, self.paused_until, shed, rejudge]
            .into_iter()
            .flatten()
            .min();
        let next = next?;
        // The timer is only moved when it would fire too late: a packet does not touch it.
        let set_for = self.timer.deadline().into_std();
        if self.timer.is_elapsed() || next < set_for {
            self.timer.as_mut().reset(next.into());
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        None
    }

    /// A signal alone, while deliveries have to wait.
    fn take_signal(&mut self, cx: &mut Context<'_>) -> Result<(), Closing> {
        let mut none: Vec<Delivery> = Vec::new();
        match self.link.peer.mailbox.take(Most::NONE, cx.waker(), &mut none) {
            Some(Signal::Close(reason)) => Err(closing_by_signal(reason)),
            // Whoever does not read is put out all the same; policies are looked at each round.
            Some(Signal::Rejudge) => self.check_trust(),
            None => Ok(()),
        }
    }

    /// Records a panic; the state of the session is in doubt.
    fn panicked(&mut self, panic: &(dyn Any + Send)) -> Closing {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        self.link.broker.metrics.panics.inc();
        let message = text.to_owned().into();
        let event = Kind::TaskPanicked { task: "connection", message };
        self.link.broker.audit.record(Event::about(&self.link.client, event));
        Closing::Panicked
    }

    /// Says goodbye, gives the session back and records how it ended.
    async fn finish(mut self: Box<Self>, closing: Closing) {
        let in_doubt = matches!(closing, Closing::Panicked);
        if !in_doubt && self.link.expiry_s > 0 {
            self.queue_retained(Now::read());
        }
        let Connected {
            broker,
            mut transport,
            session,
            peer,
            term,
            client,
            expiry_s,
            will,
            slot,
            ..
        } = self.link;
        let (reason, why, will_wanted, farewell) = match closing {
            Closing::ByClient { reason, will } => {
                (reason, "the client disconnected".to_owned(), will, None)
            }
            Closing::Lost(error) => {
                (ReasonCode::UnspecifiedError, format!("connection lost: {error}"), true, None)
            }
            Closing::ByBroker { reason, why, told } => {
                let mut farewell = Disconnect::new(reason);
                farewell.reason_string = told.then(|| why.as_str().into());
                (reason, why, true, Some(farewell))
            }
            Closing::Panicked => {
                let reason = ReasonCode::UnspecifiedError;
                let why = "the connection's task panicked".to_owned();
                (reason, why, true, Some(Disconnect::new(reason)))
            }
        };
        let version = session.link().version;
        let room = session.link().packet_bytes_max;
        if reason == ReasonCode::SessionTakenOver {
            broker.metrics.takeovers.inc();
            let by_address = broker.successor_address(&peer.client_id, term);
            let taken_over = Kind::SessionTakenOver { by_address };
            broker.audit.record(Event::about(&client, taken_over));
        }
        let closed = Kind::ConnectionClosed { reason, why: why.into() };
        broker.audit.record(Event::about(&client, closed));
        // The session first: whoever takes it over must not wait for this client's socket.
        let will = will.filter(|_| will_wanted);
        let departure = Departure { peer, session, term, expiry_s, will };
        if in_doubt {
            broker.close_in_doubt(departure, Now::read()).await;
        } else {
            broker.close(departure, Now::read());
        }
        if let (Some(farewell), true) = (farewell, version.is_v5()) {
            let out = fitting(farewell, room);
            if !out.is_empty() {
                let _ = tokio::time::timeout(
                    FAREWELL,
                    poll_fn(|cx| {
                        // What waits goes out before; a client that takes nothing gets neither.
                        match transport.poll_flush(cx) {
                            Poll::Ready(Ok(())) => transport.poll_write(cx, &out),
                            other => other,
                        }
                    }),
                )
                .await;
            }
        }
        let _ = tokio::time::timeout(FAREWELL, transport.finish(CloseCode::Normal)).await;
        drop(slot);
    }
}

/// The remainder of an incomplete packet up to this size is copied to the front of the next
/// read; a larger one is read into where it lies.
const SMALL_REMAINDER_BYTES: usize = 4096;

/// When the certificate of an identity ends, by the clock that only runs forward.
fn expiry_of(identity: &Identity, now: Now) -> Option<Instant> {
    let not_after = identity.certificate.as_ref()?.not_after_unix_s;
    let end = Duration::from_secs(u64::try_from(not_after).ok()?.checked_add(1)?);
    let today = now.wall.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    now.instant.checked_add(end.saturating_sub(today))
}

fn closing_by_signal(reason: ReasonCode) -> Closing {
    Closing::ByBroker { reason, why: reason.name().to_owned(), told: false }
}

/// DISCONNECT, without its reason string where that would be more than the client takes; empty
/// where even that is [MQTT-3.14.2-3].
fn fitting(mut farewell: Disconnect, room: Option<NonZeroU32>) -> Vec<u8> {
    let fits = |out: &[u8]| room.is_none_or(|room| out.len() <= room.get() as usize);
    let mut out = Vec::new();
    Packet::Disconnect(Box::new(farewell.clone())).encode(ProtocolVersion::V5, &mut out);
    if !fits(&out) {
        farewell.reason_string = None;
        out.clear();
        Packet::Disconnect(Box::new(farewell)).encode(ProtocolVersion::V5, &mut out);
    }
    if fits(&out) { out } else { Vec::new() }
}

#[cfg(test)]
mod tests;
