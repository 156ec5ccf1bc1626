//! One connection: the protocol goes on by itself, and what matters is counted.

use std::io;
use std::time::{Duration, Instant};

use super::latency::Latencies;
use super::swarm::Client;
use super::transport::Transport;
use super::wire::{self, Acknowledgement, Incoming, Publication, Version};

/// Reads from one TLS connection before others have their turn.
const READS_PER_EVENT_MAX: usize = 64;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TCP, then TLS, then CONNECT are on their way.
    Opening,
    /// CONNACK has come.
    Ready,
    /// Over.
    Closed,
}

/// One connection and what was counted on it.
pub(crate) struct Connection {
    transport: Option<Transport>,
    phase: Phase,
    version: Version,
    /// The beginning of a packet whose rest has not come.
    partial: Vec<u8>,
    outbound: Vec<u8>,
    is_connected: bool,
    awaits_writable: bool,
    packet_id: u16,
    receive_maximum: u16,
    unacknowledged: u32,
    delivered: u64,
    granted: u64,
    newest_stamp_ns: u64,
}

impl Connection {
    /// How far it has come.
    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// QoS 1 and 2 messages published and not acknowledged.
    pub(crate) const fn unacknowledged(&self) -> u32 {
        self.unacknowledged
    }

    /// How many of them the server takes at a time.
    pub(crate) const fn receive_maximum(&self) -> u16 {
        self.receive_maximum
    }

    /// Messages that have come since the last call.
    pub(crate) fn take_delivered(&mut self) -> u64 {
        std::mem::take(&mut self.delivered)
    }

    /// Filters whose subscription the server has granted.
    pub(crate) const fn granted(&self) -> u64 {
        self.granted
    }

    pub(super) fn begin(client: &Client) -> io::Result<Self> {
        let mut outbound = Vec::new();
        wire::connect(&mut outbound, client.version, &client.id, !client.lasting, 600);
        Ok(Self {
            transport: Some(Transport::begin(client.address, client.tls.clone())?),
            phase: Phase::Opening,
            version: client.version,
            partial: Vec::new(),
            outbound,
            is_connected: false,
            awaits_writable: true,
            packet_id: 0,
            receive_maximum: u16::MAX,
            unacknowledged: 0,
            delivered: 0,
            granted: 0,
            newest_stamp_ns: 0,
        })
    }

    /// Closes the socket.
    pub(super) fn shut(&mut self) {
        self.transport = None;
        self.phase = Phase::Closed;
    }

    /// The socket, until it is closed.
    pub(super) const fn transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// Lets a SUBSCRIBE wait to be written.
    pub(super) fn queue_subscribe(&mut self, qos: u8, filters: &[String]) {
        let packet_id = self.next_packet_id();
        wire::subscribe(&mut self.outbound, self.version, packet_id, qos, filters);
    }

    /// Lets `count` messages wait to be written.
    pub(super) fn queue_publish(&mut self, publication: &Publication, count: u32, stamp_ns: u64) {
        for _ in 0..count {
            let packet_id = if publication.is_acknowledged() { self.next_packet_id() } else { 0 };
            publication.append(&mut self.outbound, packet_id, stamp_ns);
        }
        if publication.is_acknowledged() {
            self.unacknowledged += count;
        }
    }

    /// Lets a DISCONNECT wait to be written.
    pub(super) fn queue_disconnect(&mut self) {
        self.outbound.extend_from_slice(&wire::DISCONNECT);
    }

    /// Does what an event asks for. The answers wait to be written.
    pub(super) fn serve(
        &mut self,
        is_readable: bool,
        scratch: &mut [u8],
        meter: &mut Meter,
    ) -> io::Result<()> {
        if !self.is_connected {
            self.is_connected = true;
            self.transport.as_ref().map_or(Ok(()), Transport::connected)?;
        }
        if is_readable { self.receive(scratch, meter) } else { Ok(()) }
    }

    /// Writes what waits, as much as the socket takes. Tells whether the next event to wait for
    /// has changed: true when it is now the socket becoming writable, false when no longer.
    pub(super) fn write(&mut self) -> io::Result<Option<bool>> {
        let Some(transport) = &mut self.transport else { return Ok(None) };
        let is_done = transport.write(&mut self.outbound)?;
        let has_changed = self.awaits_writable == is_done;
        self.awaits_writable = !is_done;
        Ok(has_changed.then_some(!is_done))
    }

    fn next_packet_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.packet_id
    }

    fn receive(&mut self, scratch: &mut [u8], meter: &mut Meter) -> io::Result<()> {
        for _ in 0..READS_PER_EVENT_MAX {
            let Some(transport) = &mut self.transport else { return Ok(()) };
            let kept = self.partial.len();
            scratch[..kept].copy_from_slice(&self.partial);
            let is_tls = transport.is_tls();
            let Some(count) = transport.read(&mut scratch[kept..])? else { return Ok(()) };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.partial.clear();
            let mut rest = &scratch[..kept + count];
            while let Some((packet, length)) = wire::read(rest, self.version)? {
                self.handle(packet, meter)?;
                rest = &rest[length..];
            }
            self.partial.extend_from_slice(rest);
            if count < scratch.len() - kept && !is_tls {
                return Ok(());
            }
        }
        Ok(())
    }

    fn handle(&mut self, packet: Incoming<'_>, meter: &mut Meter) -> io::Result<()> {
        match packet {
            Incoming::Publish { qos, packet_id, payload } => {
                self.delivered += 1;
                meter.record(payload, &mut self.newest_stamp_ns);
                match qos {
                    0 => {}
                    1 => self.acknowledge(Acknowledgement::Puback, packet_id),
                    _ => self.acknowledge(Acknowledgement::Pubrec, packet_id),
                }
            }
            Incoming::Acknowledgement { kind, code, .. } if code >= 0x80 => {
                return Err(refused(&format!("answered {kind:?} with code {code:#04x}")));
            }
            Incoming::Acknowledgement { kind, packet_id, .. } => match kind {
                Acknowledgement::Puback | Acknowledgement::Pubcomp => {
                    self.unacknowledged = self.unacknowledged.saturating_sub(1);
                }
                Acknowledgement::Pubrec => self.acknowledge(Acknowledgement::Pubrel, packet_id),
                Acknowledgement::Pubrel => self.acknowledge(Acknowledgement::Pubcomp, packet_id),
            },
            Incoming::Connack { code: 0, receive_maximum } => {
                self.phase = Phase::Ready;
                meter.ready += 1;
                self.receive_maximum = receive_maximum;
            }
            Incoming::Connack { code, .. } => {
                return Err(refused(&format!("refused CONNECT with code {code:#04x}")));
            }
            Incoming::Suback { filters, worst: 0..=2 } => self.granted += u64::from(filters),
            Incoming::Suback { worst, .. } => {
                return Err(refused(&format!("refused SUBSCRIBE with code {worst:#04x}")));
            }
            Incoming::Disconnect { code } => {
                return Err(refused(&format!("disconnected with code {code:#04x}")));
            }
            Incoming::Pingresp => {}
        }
        Ok(())
    }

    fn acknowledge(&mut self, kind: Acknowledgement, packet_id: u16) {
        wire::acknowledge(&mut self.outbound, kind, packet_id);
    }
}

/// What is counted over all connections of a swarm.
pub(super) struct Meter {
    /// Time stamps count from here.
    pub(super) origin: Instant,
    /// Read once per event; messages that came together have come at the same time.
    now_ns: u64,
    /// Where latencies are asked for.
    pub(super) latencies: Option<Latencies>,
    /// Messages whose time stamp was not after that of the one before.
    pub(super) not_newer: u64,
    /// CONNACKs so far.
    pub(super) ready: u64,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), now_ns: 0, latencies: None, not_newer: 0, ready: 0 }
    }

    fn record(&mut self, payload: &[u8], newest_stamp_ns: &mut u64) {
        let Some(latencies) = &mut self.latencies else { return };
        let Some(stamp) = payload.first_chunk() else { return };
        let stamp_ns = u64::from_be_bytes(*stamp);
        latencies.record(self.now_ns.saturating_sub(stamp_ns));
        self.not_newer += u64::from(stamp_ns <= *newest_stamp_ns);
        *newest_stamp_ns = stamp_ns;
    }

    pub(super) fn tick(&mut self) {
        if self.latencies.is_some() {
            self.now_ns = nanoseconds(self.origin.elapsed());
        }
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("the server {what}"))
}

/// Whole nanoseconds, as time stamps have them.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
