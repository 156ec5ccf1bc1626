//! The rate gate: packets and bytes per principal, kept across reconnects.
//!
//! All connections of a principal share one allowance. It outlives the last of them until it
//! would be full again anyway, so that a reconnect gains nothing.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use super::clock::ToldClock;
use super::records::RecordLimit;
use crate::identity::Account;
use crate::mqtt::ReasonCode;

/// How often a full table is searched for principals that may go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals of one principal that are recorded one by one.
const RECORDS_PER_SECOND: u32 = 100;

/// The size below which the table is not searched at all.
const SWEEP_FROM: usize = 64;

/// How much a principal may send. Both limits hold together.
///
/// Rates are kept in whole nanoseconds per packet or byte, rounded so that never more is allowed
/// than asked for: exact to 1 % up to 10 million per second, and a thousand million at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Packets per second, sustained.
    pub packets_per_second: NonZeroU32,
    /// Packets at once.
    pub packets_burst: NonZeroU32,
    /// Bytes per second, sustained.
    pub bytes_per_second: NonZeroU32,
    /// Bytes at once; at least the largest packet.
    pub bytes_burst: NonZeroU32,
    /// What happens to a client that sends more.
    pub answer: Answer,
}

/// What happens to a client that exceeds its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Nothing is read from it until it is within its rate again.
    SlowDown,
    /// DISCONNECT 0x96.
    Disconnect,
}

/// The allowances of all principals.
#[derive(Debug)]
pub struct RateLimits {
    principals_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    principals: HashMap<Key, Arc<PrincipalRate>, ahash::RandomState>,
    /// The size at which those that may go are searched for next; doubling it keeps the cost of
    /// searching constant for each principal.
    sweep_at: usize,
    swept_at: Option<Instant>,
}

/// The settings are part of the key: a principal that uses listeners of two profiles has an
/// allowance of each, and going back and forth refills neither.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    account: Arc<Account>,
    settings: Settings,
}

/// There are as many principals with unspent or used allowances as the broker keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rates of {principals_max} principals are kept already")]
pub struct TableFull {
    /// The bound.
    pub principals_max: usize,
}

impl TableFull {
    /// What CONNACK tells the client.
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        ReasonCode::ServerBusy
    }
}

impl RateLimits {
    /// A table of at most this many principals. Give it at least as many as connections: those
    /// that are connected cannot go.
    #[must_use]
    pub fn new(principals_max: usize) -> Self {
        let table = Table {
            principals: HashMap::default(),
            sweep_at: SWEEP_FROM.min(principals_max),
            swept_at: None,
        };
        Self { principals_max, table: Mutex::new(table) }
    }

    /// The allowance of a principal: what is left of it, or a full one. Hold it for as long as
    /// the principal is connected.
    ///
    /// # Errors
    /// When the table is full of principals that are connected or whose allowance is not full
    /// again. The client is refused then: a fresh allowance would be a way around the limit.
    pub fn of(
        &self,
        account: Account,
        settings: &Settings,
        now: Instant,
    ) -> Result<Arc<PrincipalRate>, TableFull> {
        let key = Key { account: Arc::new(account), settings: *settings };
        let mut table = self.table.lock();
        if let Some(rate) = table.principals.get(&key) {
            return Ok(Arc::clone(rate));
        }
        table.sweep(self.principals_max, now);
        if table.principals.len() >= self.principals_max {
            return Err(TableFull { principals_max: self.principals_max });
        }
        let rate = Arc::new(PrincipalRate::new(&key.account, settings, now));
        table.principals.insert(key, Arc::clone(&rate));
        Ok(rate)
    }

    /// How many principals the table holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().principals.len()
    }

    /// True when it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn sweep(&mut self, principals_max: usize, now: Instant) {
        if self.principals.len() < self.sweep_at {
            return;
        }
        // A full table is searched at every newcomer, but for this.
        let recent = |swept_at: Instant| now.saturating_duration_since(swept_at) < SWEEP_INTERVAL;
        if self.principals.len() >= principals_max && self.swept_at.is_some_and(recent) {
            return;
        }
        // Whoever holds a rate keeps its count above one, and new holders come by this table.
        self.principals.retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.is_full(now));
        self.swept_at = Some(now);
        self.sweep_at = (2 * self.principals.len()).max(SWEEP_FROM).min(principals_max);
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, ToldClock, NoOpMiddleware<Nanos>>;

/// The allowance of one principal, shared by its connections.
#[derive(Debug)]
pub struct PrincipalRate {
    account: Arc<Account>,
    settings: Settings,
    clock: ToldClock,
    packets: Limiter,
    bytes: Limiter,
    /// Packets that were taken out of their allowance when the bytes with them were not there.
    paid_packets: AtomicU32,
    /// How long an empty allowance takes to be full.
    refill: Duration,
    records: RecordLimit,
}

/// The answer of [`PrincipalRate::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Take {
    /// It was within the allowance, and is taken out of it.
    Ok,
    /// It was not. Asked again after this time, it is, unless another connection of the
    /// principal comes first.
    Wait(Duration),
}

impl PrincipalRate {
    fn new(account: &Arc<Account>, settings: &Settings, now: Instant) -> Self {
        let clock = ToldClock::starting_at(now);
        let packets = quota(settings.packets_per_second, settings.packets_burst);
        let bytes = quota(settings.bytes_per_second, settings.bytes_burst);
        Self {
            account: Arc::clone(account),
            settings: *settings,
            packets: RateLimiter::direct_with_clock(packets, clock.clone()),
            bytes: RateLimiter::direct_with_clock(bytes, clock.clone()),
            clock,
            paid_packets: AtomicU32::new(0),
            refill: packets.burst_size_replenished_in().max(bytes.burst_size_replenished_in()),
            records: RecordLimit::per_second(RECORDS_PER_SECOND),
        }
    }

    /// Takes packets of so many bytes in all out of the allowance: everything, or nothing.
    ///
    /// More than a whole burst at once is taken as a whole burst, since it could never be
    /// within the allowance; the size gate keeps single packets below that.
    pub fn take(&self, packets: u32, bytes: u32, now: Instant) -> Take {
        let now = Nanos::new(self.clock.tell(now));
        let packets = packets.min(self.settings.packets_burst.get());
        let bytes = bytes.min(self.settings.bytes_burst.get());

        let paid = self.use_paid(packets);
        if let Err(wait) = take_from(&self.packets, packets - paid, now) {
            self.pay(paid);
            return Take::Wait(wait);
        }
        if let Err(wait) = take_from(&self.bytes, bytes, now) {
            self.pay(packets);
            return Take::Wait(wait);
        }
        Take::Ok
    }

    /// Whose rate it is: one for all connections of the account.
    #[must_use]
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// True when what is refused to the principal is to be recorded one by one; otherwise it is
    /// to be counted.
    #[must_use]
    pub fn may_record(&self, now: Instant) -> bool {
        self.records.may_record(now)
    }

    /// What happens to a client that exceeds its rate.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        self.settings.answer
    }

    fn use_paid(&self, packets: u32) -> u32 {
        if self.paid_packets.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.paid_packets
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                Some(paid.saturating_sub(packets))
            })
            .map_or(0, |paid| paid.min(packets))
    }

    /// Remembers that packets were paid for, up to one burst.
    fn pay(&self, packets: u32) {
        if packets > 0 {
            let burst = self.settings.packets_burst.get();
            // The closure never declines, so this never fails.
            let _ = self.paid_packets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                Some(paid.saturating_add(packets).min(burst))
            });
        }
    }

    /// True when so much time went by since the last packet that even an empty allowance would
    /// be full.
    fn is_full(&self, now: Instant) -> bool {
        self.clock.since_told(now) >= self.refill
    }
}

fn take_from(limiter: &Limiter, amount: u32, now: Nanos) -> Result<(), Duration> {
    let Some(amount) = NonZeroU32::new(amount) else { return Ok(()) };
    match limiter.check_n(amount) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(not_until)) => Err(not_until.wait_time_from(now)),
        // Not reached, since the amount is at most the burst; if it were, this refuses.
        Err(_) => Err(Duration::MAX),
    }
}

/// A quota that never allows more than asked for.
pub(super) fn quota(per_second: NonZeroU32, burst: NonZeroU32) -> Quota {
    let nanos = 1_000_000_000_u64.div_ceil(u64::from(per_second.get()));
    // `None` only for a period of zero.
    Quota::with_period(Duration::from_nanos(nanos))
        .unwrap_or(Quota::per_second(NonZeroU32::MIN))
        .allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PrincipalKind;

    const MS: Duration = Duration::from_millis(1);

    fn device(name: &str) -> Account {
        Account { kind: PrincipalKind::Device, name: name.into() }
    }

    fn settings(
        packets_per_second: u32,
        packets_burst: u32,
        bytes_per_second: u32,
        bytes_burst: u32,
    ) -> Settings {
        let n = |n| NonZeroU32::new(n).unwrap();
        Settings {
            packets_per_second: n(packets_per_second),
            packets_burst: n(packets_burst),
            bytes_per_second: n(bytes_per_second),
            bytes_burst: n(bytes_burst),
            answer: Answer::SlowDown,
        }
    }

    fn of(
        limits: &RateLimits,
        name: &str,
        settings: &Settings,
        now: Instant,
    ) -> Arc<PrincipalRate> {
        limits.of(device(name), settings, now).unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_the_sustained_rate() {
        let start = Instant::now();
        let rate = PrincipalRate::new(
            &Arc::new(device("a")),
            &settings(10, 3, 1_000_000, 1_000_000),
            start,
        );
        for _ in 0..3 {
            assert_eq!(rate.take(1, 10, start), Take::Ok);
        }
        assert_eq!(rate.take(1, 10, start), Take::Wait(100 * MS));
        assert_eq!(rate.take(1, 10, start + 99 * MS), Take::Wait(MS));
        assert_eq!(rate.take(1, 10, start + 100 * MS), Take::Ok);
        assert_eq!(rate.take(1, 10, start + 100 * MS), Take::Wait(100 * MS));
        assert_eq!(rate.take(3, 10, start + 400 * MS), Take::Ok, "full again");
    }

    #[test]
    fn bytes_are_limited_as_packets_are() {
        let start = Instant::now();
        let rate = PrincipalRate::new(
            &Arc::new(device("a")),
            &settings(1_000_000, 1_000_000, 1_000, 500),
            start,
        );
        assert_eq!(rate.take(1, 400, start), Take::Ok);
        assert_eq!(rate.take(1, 200, start), Take::Wait(100 * MS));
        assert_eq!(rate.take(1, 200, start + 100 * MS), Take::Ok);
    }

    #[test]
    fn nothing_costs_nothing() {
        let start = Instant::now();
        let rate = PrincipalRate::new(&Arc::new(device("a")), &settings(1, 1, 1, 1), start);
        assert_eq!(rate.take(1, 1, start), Take::Ok);
        assert_eq!(rate.take(0, 0, start), Take::Ok);
    }

    #[test]
    fn more_than_a_burst_takes_a_whole_burst_and_never_waits_for_ever() {
        let start = Instant::now();
        let rate = PrincipalRate::new(&Arc::new(device("a")), &settings(10, 5, 100, 50), start);
        assert_eq!(rate.take(u32::MAX, u32::MAX, start), Take::Ok);
        assert_eq!(rate.take(u32::MAX, u32::MAX, start), Take::Wait(500 * MS));
        assert_eq!(rate.take(u32::MAX, u32::MAX, start + 500 * MS), Take::Ok);
    }

    #[test]
    fn waiting_for_bytes_does_not_cost_the_packets_twice() {
        let start = Instant::now();
        let rate = PrincipalRate::new(&Arc::new(device("a")), &settings(1, 2, 1_000, 100), start);
        assert_eq!(rate.take(1, 100, start), Take::Ok);
        for _ in 0..10 {
            assert_eq!(rate.take(1, 100, start), Take::Wait(100 * MS));
        }
        assert_eq!(rate.take(1, 100, start + 100 * MS), Take::Ok, "the second of two packets");
        assert_eq!(rate.take(1, 0, start + 100 * MS), Take::Wait(900 * MS), "there is no third");
    }

    #[test]
    fn what_was_paid_in_advance_is_at_most_a_burst() {
        let start = Instant::now();
        let rate = PrincipalRate::new(&Arc::new(device("a")), &settings(10, 2, 1, 100), start);
        assert_eq!(rate.take(0, 100, start), Take::Ok);
        for tenth in 0..50 {
            assert!(matches!(rate.take(1, 100, start + tenth * 100 * MS), Take::Wait(_)));
        }
        assert!(rate.paid_packets.load(Ordering::Relaxed) <= 2);
    }

    #[test]
    fn connections_of_one_principal_share_one_allowance() {
        let start = Instant::now();
        let limits = RateLimits::new(100);
        let settings = settings(1, 2, 1_000, 1_000);
        let (one, other) = (of(&limits, "a", &settings, start), of(&limits, "a", &settings, start));
        assert_eq!(one.take(2, 1, start), Take::Ok);
        assert!(matches!(other.take(1, 1, start), Take::Wait(_)));
        assert_eq!(of(&limits, "b", &settings, start).take(1, 1, start), Take::Ok);
        let user = limits
            .of(Account { kind: PrincipalKind::User, name: "a".into() }, &settings, start)
            .unwrap();
        assert_eq!(user.take(1, 1, start), Take::Ok, "the type is part of who it is");
    }

    #[test]
    fn reconnecting_does_not_refill_the_allowance() {
        let start = Instant::now();
        let limits = RateLimits::new(2);
        let settings = settings(1, 10, 1_000, 1_000);
        assert_eq!(of(&limits, "a", &settings, start).take(10, 10, start), Take::Ok);
        for _ in 0..1_000 {
            let again = of(&limits, "a", &settings, start);
            assert_eq!(again.take(1, 1, start), Take::Wait(1_000 * MS));
        }
    }

    #[test]
    fn filling_the_table_pushes_no_spent_allowance_out() {
        let start = Instant::now();
        let limits = RateLimits::new(100);
        let settings = settings(1, 10, 1_000, 1_000);
        for name in 0..100 {
            let rate = of(&limits, &name.to_string(), &settings, start);
            assert_eq!(rate.take(10, 10, start), Take::Ok);
        }
        let soon = start + 5_000 * MS;
        let newcomer = limits.of(device("new"), &settings, soon);
        assert_eq!(newcomer.unwrap_err(), TableFull { principals_max: 100 });
        assert!(matches!(of(&limits, "7", &settings, soon).take(6, 1, soon), Take::Wait(_)));

        let held = of(&limits, "8", &settings, soon);
        let later = start + 60_000 * MS;
        of(&limits, "new", &settings, later);
        assert_eq!(limits.len(), 2, "only who is connected and who is new");
        assert!(Arc::ptr_eq(&held, &of(&limits, "8", &settings, later)));
    }

    #[test]
    fn a_full_table_is_not_searched_for_every_newcomer() {
        let start = Instant::now();
        let limits = RateLimits::new(1);
        let settings = settings(1_000, 1, 1_000, 1);
        let refused = |now| limits.of(device("b"), &settings, now).is_err();
        let held = of(&limits, "a", &settings, start);
        assert!(refused(start + 500 * MS));
        drop(held);
        assert!(refused(start + 501 * MS), "searched a millisecond ago");
        assert!(!refused(start + 1_500 * MS));
    }

    #[test]
    fn principals_that_are_gone_do_not_pile_up() {
        let start = Instant::now();
        let limits = RateLimits::new(1_000_000);
        let settings = settings(10, 10, 1_000, 1_000);
        for n in 0..10_000 {
            let now = start + n * 10 * MS;
            assert_eq!(of(&limits, &n.to_string(), &settings, now).take(1, 1, now), Take::Ok);
        }
        assert!(limits.len() < 300, "{} are kept; one second's are 100", limits.len());
    }

    #[test]
    fn another_profile_is_another_allowance_and_refills_neither() {
        let start = Instant::now();
        let limits = RateLimits::new(10);
        let (slow, fast) = (settings(1, 1, 1_000, 1_000), settings(1, 5, 1_000, 1_000));
        assert_eq!(of(&limits, "a", &slow, start).take(1, 1, start), Take::Ok);
        assert_eq!(of(&limits, "a", &fast, start).take(5, 1, start), Take::Ok);
        assert!(matches!(of(&limits, "a", &slow, start).take(1, 1, start), Take::Wait(_)));
        assert!(matches!(of(&limits, "a", &fast, start).take(1, 1, start), Take::Wait(_)));
    }

    #[test]
    fn a_rate_never_allows_more_than_asked_for() {
        for per_second in [1, 3, 7, 1_000, 999_999, 64_000_000, 300_000_000, u32::MAX] {
            let quota = quota(NonZeroU32::new(per_second).unwrap(), NonZeroU32::MIN);
            let period_ns = quota.replenish_interval().as_nanos();
            assert!(period_ns * u128::from(per_second) >= 1_000_000_000, "{per_second}");
            assert!((period_ns - 1) * u128::from(per_second) < 1_000_000_000, "{per_second}");
        }
    }

    #[test]
    fn the_largest_settings_and_the_farthest_time_do_not_overflow() {
        let start = Instant::now();
        let rate =
            PrincipalRate::new(&Arc::new(device("a")), &settings(1, u32::MAX, 1, u32::MAX), start);
        let far = start + Duration::from_hours(100 * 365 * 24);
        for now in [start, far, start] {
            let _ = rate.take(u32::MAX, u32::MAX, now);
            let _ = rate.take(1, 1, now);
        }
    }
}
