//! The admission gate: who may take up a connection at all, judged by address and by count.
//!
//! It comes before TLS: nothing here reads a byte of the client or costs more than a few hash
//! look-ups. Networks, then rate, then counts; what passes holds a [`Slot`], and its end gives
//! everything back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;

use super::clock::ToldClock;
use super::rate::quota;
use crate::metrics::ListenerGauges;
use crate::mqtt::ReasonCode;

/// Limits of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only these networks may connect; empty allows every network.
    pub allow: Vec<IpNet>,
    /// These networks may not; a deny wins over an allow.
    pub deny: Vec<IpNet>,
    /// Connections from one address (of IPv6: from one /64).
    pub connections_per_address_max: u32,
    /// New connections per second from one address (of IPv6: from one /64), sustained;
    /// attempts count, whatever becomes of them.
    pub connections_per_second_per_address: NonZeroU32,
    /// New connections at once from one address (of IPv6: from one /64).
    pub connections_burst_per_address: NonZeroU32,
    /// Connections of the listener.
    pub connections_max: u32,
    /// Connections of the listener that have not been answered with CONNACK yet.
    pub handshakes_max: u32,
    /// From accept to the first byte; behind a proxy, to the header's and from there to the client's.
    pub first_byte_deadline: Duration,
    /// From accept to CONNACK.
    pub connect_deadline: Duration,
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is in a network that may not connect.
    #[error("addresses in {network} are denied")]
    Denied {
        /// The network, as configured.
        network: IpNet,
    },
    /// The address is in none of the networks that may connect.
    #[error("the address is in no allowed network")]
    NotAllowed,
    /// Connections from the address come too fast.
    #[error("connections from the address come too fast")]
    TooFast,
    /// The address has as many connections as it may.
    #[error("the address has {connections_per_address_max} connections already")]
    AddressFull {
        /// The bound.
        connections_per_address_max: u32,
    },
    /// The listener has as many connections as it may.
    #[error("the listener has {connections_max} connections already")]
    ListenerFull {
        /// The bound.
        connections_max: u32,
    },
    /// The listener has as many unfinished connections as it may.
    #[error("the listener has {handshakes_max} handshakes in flight already")]
    HandshakesFull {
        /// The bound.
        handshakes_max: u32,
    },
    /// The address has its share of the unfinished connections, which are many.
    #[error("the address has {share} handshakes in flight, its share while most places are taken")]
    ShareFull {
        /// The share.
        share: u32,
    },
}

impl Refused {
    /// The reason for the audit log; before TLS the client is told nothing.
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Denied { .. } => ReasonCode::Banned,
            Self::NotAllowed => ReasonCode::NotAuthorized,
            Self::TooFast => ReasonCode::ConnectionRateExceeded,
            Self::AddressFull { .. } | Self::ShareFull { .. } => ReasonCode::QuotaExceeded,
            Self::ListenerFull { .. } | Self::HandshakesFull { .. } => ReasonCode::ServerBusy,
        }
    }
}

/// The admission gate of one listener. A clone is the same gate.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    settings: Settings,
    clock: ToldClock,
    rate: RateLimiter<Source, Cells, ToldClock, NoOpMiddleware<Nanos>>,
    counts: Mutex<Counts>,
    gauges: ListenerGauges,
}

// INVARIANT: handshakes <= connections, and the sums over by_source are no more than both; no
// entry of by_source is without connections, so that the map is bounded by connections_max.
#[derive(Debug, Default)]
struct Counts {
    connections: u32,
    handshakes: u32,
    by_source: HashMap<Source, OfSource, RandomState>,
}

/// What one address holds.
#[derive(Clone, Copy, Debug, Default)]
struct OfSource {
    connections: u32,
    handshakes: u32,
}

/// How many handshakes one address may have in flight while `taken` of `places` are: a few silent
/// addresses must not lock everybody else out, so that the share shrinks as the places fill.
fn share(taken: u32, places: u32) -> u32 {
    let share = match u64::from(taken) * 8 {
        eighths if eighths <= u64::from(places) * 4 => places,
        eighths if eighths <= u64::from(places) * 6 => places / 16,
        eighths if eighths <= u64::from(places) * 7 => places / 64,
        _ => 1,
    };
    share.max(1)
}

impl Admission {
    /// A gate that nobody has passed yet.
    #[must_use]
    pub fn new(settings: Settings, gauges: ListenerGauges, now: Instant) -> Self {
        Self::seeded(settings, gauges, now, RandomState::new())
    }

    fn seeded(settings: Settings, gauges: ListenerGauges, now: Instant, seed: RandomState) -> Self {
        let settings = Settings {
            allow: settings.allow.into_iter().map(canonical).collect(),
            deny: settings.deny.into_iter().map(canonical).collect(),
            ..settings
        };
        let clock = ToldClock::starting_at(now);
        let quota = quota(
            settings.connections_per_second_per_address,
            settings.connections_burst_per_address,
        );
        Self(Arc::new(Gate {
            rate: RateLimiter::new(quota, Cells::new(seed), clock.clone()),
            clock,
            settings,
            counts: Mutex::default(),
            gauges,
        }))
    }

    /// Judges a connection that was accepted just now.
    ///
    /// # Errors
    /// When a network, the rate, or a bound refuses it.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<Slot, Refused> {
        let source = self.0.judge(address, now)?;
        self.0.enter(Some(source))?;
        Ok(Slot { gate: Arc::clone(&self.0), source: Some(source), handshaking: true })
    }

    /// Judges a connection whose client has no address, or none yet: of a Unix socket, or of a
    /// trusted proxy that will announce it ([`Slot::reannounce`]). Only the bounds of the
    /// listener hold.
    ///
    /// # Errors
    /// When a bound of the listener is reached.
    pub fn admit_unaddressed(&self) -> Result<Slot, Refused> {
        self.0.enter(None)?;
        Ok(Slot { gate: Arc::clone(&self.0), source: None, handshaking: true })
    }
}

impl Gate {
    fn judge(&self, address: IpAddr, now: Instant) -> Result<Source, Refused> {
        let address = address.to_canonical();
        let Settings { allow, deny, .. } = &self.settings;
        if let Some(network) = deny.iter().find(|network| network.contains(&address)) {
            return Err(Refused::Denied { network: *network });
        }
        if !allow.is_empty() && !allow.iter().any(|network| network.contains(&address)) {
            return Err(Refused::NotAllowed);
        }
        let source = Source::of(address);
        self.clock.tell(now);
        self.rate.check_key(&source).map_err(|_| Refused::TooFast)?;
        Ok(source)
    }

    fn enter(&self, source: Option<Source>) -> Result<(), Refused> {
        let Settings { connections_max, handshakes_max, .. } = self.settings;
        let mut counts = self.counts.lock();
        if counts.connections >= connections_max {
            return Err(Refused::ListenerFull { connections_max });
        }
        if counts.handshakes >= handshakes_max {
            return Err(Refused::HandshakesFull { handshakes_max });
        }
        if let Some(source) = source {
            self.add_source(&mut counts, source)?;
        }
        counts.connections += 1;
        counts.handshakes += 1;
        drop(counts);
        self.gauges.connections.inc();
        self.gauges.handshakes.inc();
        Ok(())
    }

    fn add_source(&self, counts: &mut Counts, source: Source) -> Result<(), Refused> {
        let connections_per_address_max = self.settings.connections_per_address_max;
        let held = counts.by_source.get(&source).copied().unwrap_or_default();
        if held.connections >= connections_per_address_max {
            return Err(Refused::AddressFull { connections_per_address_max });
        }
        let share = share(counts.handshakes, self.settings.handshakes_max);
        if held.handshakes >= share {
            return Err(Refused::ShareFull { share });
        }
        let held = OfSource { connections: held.connections + 1, handshakes: held.handshakes + 1 };
        counts.by_source.insert(source, held);
        Ok(())
    }
}

impl Counts {
    fn remove_source(&mut self, source: Source) {
        if let Some(held) = self.by_source.get_mut(&source) {
            held.connections = held.connections.saturating_sub(1);
            if held.connections == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    fn finish_handshake(&mut self, source: Option<Source>) {
        self.handshakes = self.handshakes.saturating_sub(1);
        if let Some(held) = source.and_then(|source| self.by_source.get_mut(&source)) {
            held.handshakes = held.handshakes.saturating_sub(1);
        }
    }
}

/// The place of one connection. Dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping a slot gives the place of the connection back"]
pub struct Slot {
    gate: Arc<Gate>,
    source: Option<Source>,
    handshaking: bool,
}

impl Slot {
    /// CONNACK was sent: the connection is no handshake any more.
    pub fn connected(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            let mut counts = self.gate.counts.lock();
            counts.finish_handshake(self.source);
            drop(counts);
            self.gate.gauges.handshakes.dec();
        }
    }

    /// Judges the connection by the address that a trusted proxy announced, from now on.
    ///
    /// # Errors
    /// When a network, the rate, or the bound of the address refuses it; the slot is gone then.
    pub fn reannounce(mut self, address: IpAddr, now: Instant) -> Result<Self, Refused> {
        let source = self.gate.judge(address, now)?;
        let mut counts = self.gate.counts.lock();
        if let Some(before) = self.source.take() {
            if self.handshaking
                && let Some(held) = counts.by_source.get_mut(&before)
            {
                held.handshakes = held.handshakes.saturating_sub(1);
            }
            counts.remove_source(before);
        }
        let added = self.gate.add_source(&mut counts, source);
        // Before `?`: dropping the slot locks as well.
        drop(counts);
        added?;
        self.source = Some(source);
        Ok(self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connected();
        let mut counts = self.gate.counts.lock();
        counts.connections = counts.connections.saturating_sub(1);
        if let Some(source) = self.source {
            counts.remove_source(source);
        }
        drop(counts);
        self.gate.gauges.connections.dec();
    }
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address, of which a
/// single host can use every address there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6Prefix([u16; 4]),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Prefix([a, b, c, d])
            }
        }
    }
}

/// A network of IPv4 addresses mapped into IPv6 is the network of these, as addresses are.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// Rates of all sources in a fixed number of cells; the hash, whose seed nobody knows, says
/// which. There is nothing to evict, and so nothing to fill up: to slow others down, an attacker
/// needs as many addresses as there are cells, each at its own limit all the time.
struct Cells {
    cells: Box<[InMemoryState]>,
    seed: RandomState,
}

impl Cells {
    /// 512 KiB for each listener.
    const COUNT: usize = 1 << 16;

    fn new(seed: RandomState) -> Self {
        let cells = std::iter::repeat_with(InMemoryState::default).take(Self::COUNT).collect();
        Self { cells, seed }
    }
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cells").finish_non_exhaustive()
    }
}

impl StateStore for Cells {
    type Key = Source;

    fn measure_and_replace<T, F, E>(&self, source: &Source, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let [low, high, ..] = self.seed.hash_one(source).to_le_bytes();
        match self.cells.get(usize::from(u16::from_le_bytes([low, high]))) {
            Some(cell) => cell.measure_and_replace(&NotKeyed::NonKey, decide),
            // Not reached: there is a cell for every u16.
            None => decide(None).map(|(decision, _)| decision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settings() -> Settings {
        Settings {
            allow: Vec::new(),
            deny: Vec::new(),
            connections_per_address_max: 100,
            connections_per_second_per_address: NonZeroU32::new(1_000).unwrap(),
            connections_burst_per_address: NonZeroU32::new(1_000).unwrap(),
            connections_max: 100,
            handshakes_max: 100,
            first_byte_deadline: Duration::from_secs(2),
            connect_deadline: Duration::from_secs(10),
        }
    }

    struct Bench {
        admission: Admission,
        gauges: ListenerGauges,
        now: Instant,
    }

    impl Bench {
        fn new(settings: Settings) -> Self {
            let (gauges, now) = (ListenerGauges::default(), Instant::now());
            let seed = RandomState::with_seeds(1, 2, 3, 4);
            let admission = Admission::seeded(settings, gauges.clone(), now, seed);
            Self { admission, gauges, now }
        }

        fn admit(&self, address: &str) -> Result<Slot, Refused> {
            self.admission.admit(address.parse().unwrap(), self.now)
        }

        /// Connections, handshakes, sources.
        fn counts(&self) -> (u32, u32, usize) {
            let counts = self.admission.0.counts.lock();
            assert_eq!(self.gauges.connections.get(), i64::from(counts.connections));
            assert_eq!(self.gauges.handshakes.get(), i64::from(counts.handshakes));
            (counts.connections, counts.handshakes, counts.by_source.len())
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn networks_decide_and_a_deny_wins() {
        let bench = Bench::new(Settings {
            allow: nets(&["192.0.2.0/24", "2001:db8::/32", "::ffff:198.51.100.0/120"]),
            deny: nets(&["192.0.2.128/25", "2001:db8:bad::/48", "::ffff:198.51.100.7/128"]),
            ..settings()
        });
        for (address, allowed) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.128", false),
            ("::ffff:192.0.2.128", false),
            ("192.0.3.1", false),
            ("2001:db8::1", true),
            ("2001:db8:bad::1", false),
            ("2001:db9::1", false),
            ("198.51.100.8", true),
            ("198.51.100.7", false),
            ("::1", false),
            ("::192.0.2.1", false),
        ] {
            assert_eq!(bench.admit(address).is_ok(), allowed, "{address}");
        }
        assert_eq!(
            bench.admit("::ffff:192.0.2.200").unwrap_err(),
            Refused::Denied { network: "192.0.2.128/25".parse().unwrap() }
        );
        assert_eq!(bench.admit("192.0.3.1").unwrap_err(), Refused::NotAllowed);
    }

    #[test]
    fn one_address_has_its_bound_and_another_its_own() {
        let bench = Bench::new(Settings { connections_per_address_max: 2, ..settings() });
        for (same, other) in [
            (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], "192.0.2.2"),
            (["2001:db8::1", "2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff"], "2001:db8:0:1::1"),
        ] {
            let first = bench.admit(same[0]).unwrap();
            let _second = bench.admit(same[1]).unwrap();
            assert_eq!(
                bench.admit(same[2]).unwrap_err(),
                Refused::AddressFull { connections_per_address_max: 2 }
            );
            assert!(bench.admit(other).is_ok());
            drop(first);
            assert!(bench.admit(same[2]).is_ok());
        }
        assert_eq!(bench.counts(), (0, 0, 0));
    }

    #[test]
    fn the_listener_has_its_bounds() {
        let bench = Bench::new(Settings { connections_max: 3, handshakes_max: 2, ..settings() });
        let mut first = bench.admit("192.0.2.1").unwrap();
        let _second = bench.admit("192.0.2.2").unwrap();
        let full = Refused::HandshakesFull { handshakes_max: 2 };
        assert_eq!(bench.admit("192.0.2.3").unwrap_err(), full);
        assert_eq!(bench.admission.admit_unaddressed().unwrap_err(), full);
        first.connected();
        first.connected();
        let mut third = bench.admission.admit_unaddressed().unwrap();
        third.connected();
        assert_eq!(
            bench.admit("192.0.2.3").unwrap_err(),
            Refused::ListenerFull { connections_max: 3 }
        );
        assert_eq!(bench.counts(), (3, 1, 2));
    }

    #[test]
    fn the_share_of_one_address_shrinks_as_the_places_fill() {
        let bench = Bench::new(Settings {
            connections_max: 1000,
            connections_per_address_max: 1000,
            handshakes_max: 128,
            ..settings()
        });
        // Two get half of the places, and then no more than their share.
        let mut held = Vec::new();
        for number in 0..200 {
            held.extend(bench.admit(["192.0.2.1", "192.0.2.2"][number % 2]).ok());
        }
        assert_eq!(held.len(), 65);
        assert_eq!(bench.admit("192.0.2.1").unwrap_err(), Refused::ShareFull { share: 8 });
        // Up to three quarters others get a sixteenth, then a 64th, at the end one place.
        let mut taken = Vec::new();
        for number in 3..35 {
            let before = held.len();
            for _ in 0..9 {
                held.extend(bench.admit(&format!("192.0.2.{number}")).ok());
            }
            taken.push(held.len() - before);
        }
        assert_eq!(taken[..13], [8, 8, 8, 8, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
        assert_eq!(held.len(), 128);
        // Who is through the handshake makes room for its own address again.
        for slot in &mut held {
            slot.connected();
        }
        assert!(bench.admit("192.0.2.1").is_ok());
    }

    /// Threat: handshake flood. The limits are the built-in ones.
    #[test]
    fn a_few_silent_addresses_do_not_lock_everybody_else_out() {
        let bench = Bench::new(Settings {
            connections_max: 10_000,
            connections_per_address_max: 64,
            handshakes_max: 256,
            ..settings()
        });
        let mut held = Vec::new();
        for number in 0..40 {
            for _ in 0..64 {
                held.extend(bench.admit(&format!("198.51.100.{number}")).ok());
            }
        }
        assert!(bench.admit("192.0.2.1").is_ok(), "a newcomer beside {} silent ones", held.len());
    }

    #[test]
    fn a_slot_gives_everything_back_at_its_end_and_only_once() {
        let bench = Bench::new(settings());
        let mut connected = bench.admit("192.0.2.1").unwrap();
        let handshaking = bench.admit("192.0.2.1").unwrap();
        connected.connected();
        assert_eq!(bench.counts(), (2, 1, 1));
        drop(handshaking);
        assert_eq!(bench.counts(), (1, 0, 1));
        drop(connected);
        assert_eq!(bench.counts(), (0, 0, 0));
    }

    #[test]
    fn connections_from_one_address_are_limited_by_rate() {
        let mut bench = Bench::new(Settings {
            connections_per_second_per_address: NonZeroU32::new(10).unwrap(),
            connections_burst_per_address: NonZeroU32::new(2).unwrap(),
            ..settings()
        });
        assert!(bench.admit("2001:db8::1").is_ok());
        assert!(bench.admit("2001:db8::2").is_ok());
        assert_eq!(bench.admit("2001:db8::3").unwrap_err(), Refused::TooFast);
        bench.now += 99 * MS;
        assert_eq!(bench.admit("2001:db8::3").unwrap_err(), Refused::TooFast);
        bench.now += MS;
        assert!(bench.admit("2001:db8::3").is_ok());
        assert_eq!(bench.admit("2001:db8::3").unwrap_err(), Refused::TooFast);
    }

    #[test]
    fn attempts_count_whatever_becomes_of_them() {
        let bench = Bench::new(Settings {
            connections_per_address_max: 0,
            connections_per_second_per_address: NonZeroU32::MIN,
            connections_burst_per_address: NonZeroU32::MIN,
            ..settings()
        });
        assert!(matches!(bench.admit("192.0.2.1"), Err(Refused::AddressFull { .. })));
        assert_eq!(bench.admit("192.0.2.1").unwrap_err(), Refused::TooFast);
    }

    #[test]
    fn a_flood_from_many_addresses_does_not_slow_others_down() {
        let bench = Bench::new(Settings {
            connections_per_second_per_address: NonZeroU32::MIN,
            connections_burst_per_address: NonZeroU32::new(10).unwrap(),
            ..settings()
        });
        for n in 0..10_000_u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let _ = bench.admit(&format!("10.{a}.{b}.{c}")).unwrap();
        }
        for _ in 0..9 {
            assert!(bench.admit("192.0.2.1").is_ok(), "its cell is shared by one at most");
        }
    }

    #[test]
    fn an_announced_address_is_judged_as_if_it_had_connected() {
        let bench = Bench::new(Settings {
            deny: nets(&["198.51.100.0/24"]),
            connections_per_address_max: 1,
            ..settings()
        });
        let announce = |address: &str| {
            let slot = bench.admission.admit_unaddressed().unwrap();
            slot.reannounce(address.parse().unwrap(), bench.now)
        };
        let first = announce("::ffff:192.0.2.1").unwrap();
        assert_eq!(bench.counts(), (1, 1, 1));
        let full = Refused::AddressFull { connections_per_address_max: 1 };
        assert_eq!(announce("192.0.2.1").unwrap_err(), full);
        assert_eq!(bench.admit("192.0.2.1").unwrap_err(), full);
        assert!(matches!(announce("198.51.100.1"), Err(Refused::Denied { .. })));
        assert_eq!(bench.counts(), (1, 1, 1), "what was refused is given back");
        let moved = first.reannounce("192.0.2.2".parse().unwrap(), bench.now).unwrap();
        assert!(announce("192.0.2.1").is_ok());
        drop(moved);
        assert_eq!(bench.counts(), (0, 0, 0));
    }

    #[test]
    fn an_announced_address_has_its_rate_too() {
        let bench = Bench::new(Settings {
            connections_per_second_per_address: NonZeroU32::MIN,
            connections_burst_per_address: NonZeroU32::MIN,
            ..settings()
        });
        for allowed in [true, false] {
            let slot = bench.admission.admit_unaddressed().unwrap();
            let announced = slot.reannounce("192.0.2.1".parse().unwrap(), bench.now);
            assert_eq!(announced.is_ok(), allowed);
        }
    }

    #[test]
    fn many_threads_leave_nothing_behind() {
        let bench = Bench::new(Settings { connections_max: 4, ..settings() });
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let bench = &bench;
                scope.spawn(move || {
                    for _ in 0..200 {
                        if let Ok(mut slot) = bench.admit(&format!("192.0.2.{}", n % 3)) {
                            slot.connected();
                        }
                    }
                });
            }
        });
        assert_eq!(bench.counts(), (0, 0, 0));
    }
}
