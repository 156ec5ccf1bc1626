//! Many clients on one thread: an epoll loop that keeps the protocol going by itself and counts.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use rustls::ClientConfig;

use super::authority::Authority;
use super::connection::{Connection, Meter, nanoseconds};
use super::latency::Latencies;
use super::wire::{Publication, Version};

/// How long a server may do nothing at all before a run is given up.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(20);

/// Bytes read from a socket at once.
const READ_BYTES: usize = 256 * 1024;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 512;

/// Marks the timer among the events.
const TIMER: u64 = u64::MAX;

/// Where to connect, and how.
#[derive(Clone)]
pub(crate) struct Target {
    /// The server's address.
    pub(crate) address: SocketAddr,
    /// The CA of both sides when the connections are mutual TLS.
    pub(crate) authority: Option<Arc<Authority>>,
    /// The protocol version to speak.
    pub(crate) version: Version,
}

/// One client that may connect: its id, and its certificate where the target wants one.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) address: SocketAddr,
    pub(super) version: Version,
    pub(super) id: String,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) lasting: bool,
}

impl Client {
    /// Its session outlives the connection, and is resumed (MQTT 3.1.1).
    pub(crate) fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }
}

impl Target {
    /// Makes up the client `client_id`, with a certificate of that name for mutual TLS.
    pub(crate) fn client(&self, client_id: impl Into<String>) -> io::Result<Client> {
        let id = client_id.into();
        let tls = match &self.authority {
            None => None,
            Some(authority) => Some(authority.client(&id)?),
        };
        Ok(Client { address: self.address, version: self.version, id, tls, lasting: false })
    }
}

/// Many clients on one thread.
///
/// Acknowledgements, also the four steps of QoS 2, are answered here; callers publish, and read
/// the counters of the connections that [`Swarm::touched`] names.
pub(crate) struct Swarm {
    epoll: OwnedFd,
    /// Epoll waits in milliseconds; paced load needs finer waits.
    timer: OwnedFd,
    timer_set_to: Option<Instant>,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    events: Vec<epoll::Event>,
    touched: Vec<usize>,
    meter: Meter,
    failures: u64,
    first_failure: Option<io::Error>,
}

impl Swarm {
    /// A swarm without connections.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            timer_set_to: None,
            connections: Vec::new(),
            scratch: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS_MAX),
            touched: Vec::new(),
            meter: Meter::new(),
            failures: 0,
            first_failure: None,
        })
    }

    /// Begins to connect one client and returns the number of its connection.
    pub(crate) fn begin(&mut self, client: &Client) -> io::Result<usize> {
        let index = self.connections.len();
        self.connections.push(Connection::begin(client)?);
        self.register(index)?;
        Ok(index)
    }

    /// Begins to connect one client in the place of a closed connection.
    pub(crate) fn begin_again(&mut self, index: usize, client: &Client) -> io::Result<()> {
        self.connections[index] = Connection::begin(client)?;
        self.register(index)
    }

    /// Connects all `clients`, at most `opening_max` at a time, and waits until the last one has
    /// its CONNACK.
    ///
    /// # Errors
    /// When one is refused, or nothing happens for [`STALL_MAX`].
    pub(crate) fn open(
        &mut self,
        clients: &[Client],
        opening_max: usize,
    ) -> io::Result<Range<usize>> {
        let first = self.connections.len();
        let ready_before = self.meter.ready;
        let mut waiting = clients.iter();
        self.settle("connected", clients.len() as u64, |swarm| {
            let ready = swarm.meter.ready - ready_before;
            while swarm.connections.len() - first < ready as usize + opening_max {
                let Some(client) = waiting.next() else { break };
                swarm.begin(client)?;
            }
            Ok(ready)
        })?;
        Ok(first..self.connections.len())
    }

    /// Subscribes one connection to `filters`, and waits until all are granted.
    ///
    /// # Errors
    /// When one is refused, or nothing happens for [`STALL_MAX`].
    pub(crate) fn subscribe(
        &mut self,
        index: usize,
        qos: u8,
        filters: &[String],
    ) -> io::Result<()> {
        let wanted = self.connections[index].granted() + filters.len() as u64;
        self.request_subscriptions(index, qos, filters);
        self.settle("subscriptions granted", wanted, |swarm| Ok(swarm.connections[index].granted()))
    }

    /// Sends a SUBSCRIBE and does not wait; [`Connection::granted`] counts the answers.
    pub(crate) fn request_subscriptions(&mut self, index: usize, qos: u8, filters: &[String]) {
        self.connections[index].queue_subscribe(qos, filters);
        self.flush(index);
    }

    /// Publishes `count` messages in one write.
    pub(crate) fn publish(
        &mut self,
        index: usize,
        publication: &Publication,
        count: u32,
        sent_at: Instant,
    ) {
        let stamp_ns = nanoseconds(sent_at.saturating_duration_since(self.meter.origin));
        self.connections[index].queue_publish(publication, count, stamp_ns);
        self.flush(index);
    }

    /// Sends DISCONNECT and closes the connection.
    pub(crate) fn close(&mut self, index: usize) {
        self.connections[index].queue_disconnect();
        self.flush(index);
        self.connections[index].shut();
    }

    /// Waits until something happens or `until` is reached, and does what the protocol asks for.
    ///
    /// # Errors
    /// Those of the event loop itself. Those of connections are counted, see [`Swarm::check`].
    pub(crate) fn turn(&mut self, until: Instant) -> io::Result<()> {
        self.touched.clear();
        self.set_timer(until)?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.meter.tick();
        for event in &events {
            let (flags, data) = (event.flags, event.data);
            if data.u64() == TIMER {
                continue;
            }
            let index = data.u64() as usize;
            self.touched.push(index);
            self.serve(index, flags);
        }
        self.events = events;
        Ok(())
    }

    /// The connections on which something happened in the last turn.
    pub(crate) fn touched(&self) -> &[usize] {
        &self.touched
    }

    /// Turns until `progress` reaches `wanted`.
    ///
    /// # Errors
    /// When a connection fails, or `progress` stands still for [`STALL_MAX`].
    pub(crate) fn settle(
        &mut self,
        what: &str,
        wanted: u64,
        mut progress: impl FnMut(&mut Self) -> io::Result<u64>,
    ) -> io::Result<()> {
        let mut reached = progress(self)?;
        let mut deadline = Instant::now() + STALL_MAX;
        while reached < wanted {
            self.turn(deadline)?;
            self.check()?;
            let now_reached = progress(self)?;
            let now = Instant::now();
            if now_reached > reached {
                reached = now_reached;
                deadline = now + STALL_MAX;
            } else if now >= deadline {
                let text = format!("stalled: {reached} of {wanted} {what}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(())
    }

    /// Turns for `duration`, whatever happens.
    pub(crate) fn idle(&mut self, duration: Duration) -> io::Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.turn(until)?;
            self.check()?;
        }
        Ok(())
    }

    /// Tells the first failure of a connection.
    ///
    /// # Errors
    /// When a connection was refused, reset or closed by the server.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        self.first_failure.take().map_or(Ok(()), Err)
    }

    /// How many connections failed.
    pub(crate) const fn failures(&self) -> u64 {
        self.failures
    }

    /// Messages that came twice or out of order, since latencies are measured. Only right where
    /// each subscriber has one publisher and its messages have moments of their own.
    pub(crate) const fn disordered(&self) -> u64 {
        self.meter.not_newer
    }

    /// One connection's counters.
    pub(crate) fn connection(&self, index: usize) -> &Connection {
        &self.connections[index]
    }

    /// One connection's counters, to take from.
    pub(crate) fn connection_mut(&mut self, index: usize) -> &mut Connection {
        &mut self.connections[index]
    }

    /// Begins to measure latencies anew, and returns what was measured.
    pub(crate) fn take_latencies(&mut self) -> Latencies {
        self.meter.latencies.replace(Latencies::default()).unwrap_or_default()
    }

    fn register(&mut self, index: usize) -> io::Result<()> {
        let Some(transport) = self.connections[index].transport() else { return Ok(()) };
        let flags = EventFlags::IN | EventFlags::OUT;
        epoll::add(&self.epoll, transport, EventData::new_u64(index as u64), flags)?;
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: EventFlags) {
        let is_readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        let connection = &mut self.connections[index];
        match connection.serve(is_readable, &mut self.scratch, &mut self.meter) {
            Ok(()) => self.flush(index),
            Err(error) => self.fail(index, error),
        }
    }

    /// Writes what waits, and watches for the socket to become writable only if it has to.
    fn flush(&mut self, index: usize) {
        let result = self.connections[index].write().and_then(|awaits_writable| {
            let Some(awaits_writable) = awaits_writable else { return Ok(()) };
            let Some(transport) = self.connections[index].transport() else { return Ok(()) };
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, awaits_writable);
            let data = EventData::new_u64(index as u64);
            Ok(epoll::modify(&self.epoll, transport, data, flags)?)
        });
        if let Err(error) = result {
            self.fail(index, error);
        }
    }

    fn fail(&mut self, index: usize, error: io::Error) {
        self.connections[index].shut();
        self.failures += 1;
        self.first_failure.get_or_insert(error);
    }

    fn set_timer(&mut self, until: Instant) -> io::Result<()> {
        if self.timer_set_to == Some(until) {
            return Ok(());
        }
        // All zero would switch the timer off.
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        self.timer_set_to = Some(until);
        Ok(())
    }
}
