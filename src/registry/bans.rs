//! The bans in force: one look-up for each thing that a client can be banned by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use ahash::RandomState;
use ipnet::IpNet;
use parking_lot::RwLock;

use super::{Ban, BanId, Banned, By, Client, Principal, Target};

/// The most bans at a time: what a list from elsewhere may hold, and about 30 MiB.
const BANS_MAX: usize = 100_000;
/// The most of them that the broker makes by itself: an operator has room for more.
const BY_FLAPPING_MAX: usize = BANS_MAX / 2;

/// There is no room for another ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {bans_max} bans, the most there may be; remove some, or ban a network")]
pub struct BansFull {
    /// The bound.
    pub bans_max: usize,
}

/// All bans of a broker.
#[derive(Debug, Default)]
pub struct Bans {
    table: RwLock<Table>,
    /// Read without the lock by whoever wants to know whether there is one at all.
    count: AtomicUsize,
}

// INVARIANT: all maps speak of the bans in `by_id`.
#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<BanId, Ban>,
    by_target: HashMap<Target, BanId, RandomState>,
    ends: BTreeSet<(SystemTime, BanId)>,
    /// How many networks there are of each family and prefix length: so many look-ups an address
    /// costs at most, however many networks are banned.
    prefixes: BTreeMap<(bool, u8), usize>,
    by_flapping: usize,
    last_id: u64,
}

impl Bans {
    /// Takes over what the store held.
    pub fn restore(&self, bans: impl IntoIterator<Item = Ban>) {
        let mut table = self.table.write();
        for ban in bans {
            table.insert(ban);
        }
        self.count.store(table.by_id.len(), Ordering::Release);
    }

    /// Bans somebody. Where it is banned already, the ban is replaced and keeps its name; one that
    /// the broker makes by itself never shortens another.
    ///
    /// # Errors
    /// [`BansFull`].
    pub fn add(
        &self,
        target: Target,
        (since, until): (SystemTime, Option<SystemTime>),
        why: Arc<str>,
        by: By,
    ) -> Result<Ban, BansFull> {
        let mut table = self.table.write();
        let before = table.by_target.get(&target).and_then(|id| table.by_id.get(id)).cloned();
        if by == By::Flapping
            && let Some(before) = &before
            && before.is_in_force(since)
            && before.until.is_none_or(|ends| until.is_some_and(|until| until <= ends))
        {
            return Ok(before.clone());
        }
        if before.is_none() {
            if table.by_id.len() >= BANS_MAX {
                return Err(BansFull { bans_max: BANS_MAX });
            }
            if by == By::Flapping && table.by_flapping >= BY_FLAPPING_MAX {
                return Err(BansFull { bans_max: BY_FLAPPING_MAX });
            }
        }
        let id = before.map_or(BanId(table.last_id.saturating_add(1)), |before| before.id);
        let ban = Ban { id, target, since, until, why, by };
        table.remove(id);
        table.insert(ban.clone());
        self.count.store(table.by_id.len(), Ordering::Release);
        Ok(ban)
    }

    /// Takes a ban back; `None`: there is none of this name.
    pub fn remove(&self, id: BanId) -> Option<Ban> {
        let mut table = self.table.write();
        let ban = table.remove(id);
        self.count.store(table.by_id.len(), Ordering::Release);
        ban
    }

    /// The ban of exactly this.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<BanId> {
        self.table.read().by_target.get(target).copied()
    }

    /// Takes out at most `count_max` bans that have ended.
    pub fn take_ended(&self, now: SystemTime, count_max: usize) -> Vec<Ban> {
        if self.count() == 0 {
            return Vec::new();
        }
        let mut table = self.table.write();
        let ended = table.ends.iter().take_while(|(until, _)| *until <= now).take(count_max);
        let ended: Vec<_> = ended.map(|(_, id)| *id).collect();
        let ended = ended.into_iter().filter_map(|id| table.remove(id)).collect();
        self.count.store(table.by_id.len(), Ordering::Release);
        ended
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// At most `count_max` bans after this one, in their order.
    #[must_use]
    pub fn page(&self, after: Option<BanId>, count_max: usize) -> Vec<Ban> {
        let table = self.table.read();
        let from = after.map_or(BanId(0), |after| BanId(after.0.saturating_add(1)));
        table.by_id.range(from..).take(count_max).map(|(_, ban)| ban.clone()).collect()
    }

    /// Whether an address is banned.
    ///
    /// # Errors
    /// When it is.
    pub fn check_address(&self, address: IpAddr, now: SystemTime) -> Result<(), Banned> {
        self.check(&Client { address: Some(address), ..Client::default() }, now)
    }

    /// Whether anything that is known of a client is banned.
    ///
    /// # Errors
    /// When something is.
    pub fn check(&self, client: &Client<'_>, now: SystemTime) -> Result<(), Banned> {
        if self.count() == 0 {
            return Ok(());
        }
        let table = self.table.read();
        let Client { identity, certificate, client_id, address } = *client;
        if let Some(address) = address {
            table.check_address(address.to_canonical(), now)?;
        }
        if let Some(certificate) = certificate {
            table.check(&Target::Certificate(Arc::clone(certificate)), now)?;
        }
        let principal = identity.map(Principal::of);
        if let Some(principal) = &principal {
            table.check(&Target::Principal(principal.clone()), now)?;
        }
        if let Some(client_id) = client_id {
            table.check(&Target::ClientId(Arc::clone(client_id)), now)?;
        }
        match (principal, client_id) {
            (Some(principal), Some(client_id)) => {
                table.check(&Target::Client(principal, Arc::clone(client_id)), now)
            }
            _ => Ok(()),
        }
    }
}

impl Table {
    fn insert(&mut self, ban: Ban) {
        self.last_id = self.last_id.max(ban.id.0);
        if let Target::Network(network) = &ban.target {
            *self.prefixes.entry(family(network)).or_default() += 1;
        }
        self.ends.extend(ban.until.map(|until| (until, ban.id)));
        self.by_flapping += usize::from(ban.by == By::Flapping);
        self.by_target.insert(ban.target.clone(), ban.id);
        self.by_id.insert(ban.id, ban);
    }

    fn remove(&mut self, id: BanId) -> Option<Ban> {
        let ban = self.by_id.remove(&id)?;
        self.by_target.remove(&ban.target);
        if let Some(until) = ban.until {
            self.ends.remove(&(until, id));
        }
        self.by_flapping -= usize::from(ban.by == By::Flapping);
        if let Target::Network(network) = &ban.target
            && let Some(count) = self.prefixes.get_mut(&family(network))
        {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&family(network));
            }
        }
        Some(ban)
    }

    fn check(&self, target: &Target, now: SystemTime) -> Result<(), Banned> {
        let ban = self.by_target.get(target).and_then(|id| self.by_id.get(id));
        match ban.filter(|ban| ban.is_in_force(now)) {
            Some(ban) => Err(Banned { id: ban.id, what: ban.target.noun() }),
            None => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr, now: SystemTime) -> Result<(), Banned> {
        let is_six = address.is_ipv6();
        for ((_, length), _) in self.prefixes.range((is_six, 0)..=(is_six, u8::MAX)) {
            let Ok(network) = IpNet::new(address, *length) else { continue };
            self.check(&Target::Network(network.trunc()), now)?;
        }
        Ok(())
    }
}

fn family(network: &IpNet) -> (bool, u8) {
    (matches!(network, IpNet::V6(_)), network.prefix_len())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::identity::{Identity, PrincipalKind};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ban(bans: &Bans, target: Target, until: Option<u64>) -> Ban {
        bans.add(target, (at(0), until.map(at)), "why".into(), By::Operator(None)).unwrap()
    }

    fn device(name: &str) -> Identity {
        Identity { kind: PrincipalKind::Device, name: name.into(), ..Identity::anonymous() }
    }

    #[test]
    fn each_thing_that_is_known_of_a_client_can_be_banned() {
        let (sha256, client_id): (Arc<str>, Arc<str>) = ("ab".into(), "c1".into());
        let (banned, other) = (device("gone"), device("other"));
        let client = Client {
            identity: Some(&banned),
            certificate: Some(&sha256),
            client_id: Some(&client_id),
            address: Some("192.0.2.7".parse().unwrap()),
        };
        let principal = Principal::of(&banned);
        for (target, innocent) in [
            (Target::Principal(principal.clone()), Client { identity: Some(&other), ..client }),
            (Target::ClientId("c1".into()), Client { client_id: None, ..client }),
            (
                Target::Client(principal.clone(), "c1".into()),
                Client { identity: Some(&other), ..client },
            ),
            (Target::Client(principal, "c1".into()), Client { client_id: None, ..client }),
            (Target::Certificate("ab".into()), Client { certificate: None, ..client }),
            (
                Target::Network("192.0.2.0/24".parse().unwrap()),
                Client { address: Some("192.0.3.7".parse().unwrap()), ..client },
            ),
        ] {
            let bans = Bans::default();
            let Ban { id, .. } = ban(&bans, target, None);
            assert_eq!(bans.check(&client, at(1)).unwrap_err().id, id);
            assert_eq!(bans.check(&innocent, at(1)), Ok(()));
            bans.remove(id).unwrap();
            assert_eq!(bans.check(&client, at(1)), Ok(()));
            assert_eq!((bans.count(), bans.remove(id)), (0, None));
        }
    }

    #[test]
    fn a_ban_ends_by_itself_and_the_wider_one_stays() {
        let bans = Bans::default();
        let narrow = ban(&bans, Target::Network("192.0.2.7/32".parse().unwrap()), Some(10)).id;
        let wide = ban(&bans, Target::Network("192.0.0.0/16".parse().unwrap()), Some(20)).id;
        let check = |address: &str, now| {
            bans.check_address(address.parse().unwrap(), at(now)).map_err(|banned| banned.id)
        };
        assert_eq!(check("::ffff:192.0.2.7", 9), Err(wide));
        assert_eq!(check("192.0.2.8", 9), Err(wide));
        assert_eq!(check("2001:db8::1", 9), Ok(()));
        bans.remove(wide);
        assert_eq!(check("192.0.2.7", 9), Err(narrow));
        assert_eq!(check("192.0.2.7", 10), Ok(()), "in force up to its end");
        assert_eq!(bans.take_ended(at(9), 8), []);
        assert_eq!(bans.take_ended(at(10), 8).len(), 1);
        assert_eq!(bans.count(), 0);
    }

    #[test]
    fn a_second_ban_replaces_the_first_and_the_broker_shortens_none() {
        let bans = Bans::default();
        let target = || Target::ClientId("a".into());
        let first = ban(&bans, target(), Some(100));
        let by_itself =
            bans.add(target(), (at(1), Some(at(50))), "flaps".into(), By::Flapping).unwrap();
        assert_eq!(by_itself, first);
        let longer =
            bans.add(target(), (at(1), Some(at(200))), "flaps".into(), By::Flapping).unwrap();
        assert_eq!((longer.id, longer.until), (first.id, Some(at(200))));
        let shorter = ban(&bans, target(), Some(5));
        assert_eq!((shorter.id, bans.count()), (first.id, 1));
        assert_eq!(bans.take_ended(at(5), 8), [shorter]);
    }

    #[test]
    fn bans_are_bounded_and_an_operator_has_room_when_the_broker_has_none() {
        let bans = Bans::default();
        let add = |number: usize, by| {
            let target = Target::ClientId(number.to_string().into());
            bans.add(target, (at(0), Some(at(10))), "".into(), by).map(drop)
        };
        for number in 0..BY_FLAPPING_MAX {
            add(number, By::Flapping).unwrap();
        }
        assert_eq!(add(BANS_MAX, By::Flapping), Err(BansFull { bans_max: BY_FLAPPING_MAX }));
        for number in BY_FLAPPING_MAX..BANS_MAX {
            add(number, By::Operator(Some(0))).unwrap();
        }
        assert_eq!(add(BANS_MAX, By::Operator(None)), Err(BansFull { bans_max: BANS_MAX }));
        // What is there already may be changed.
        add(0, By::Operator(None)).unwrap();
        assert_eq!(bans.take_ended(at(10), usize::MAX).len(), BANS_MAX);
        add(BANS_MAX, By::Flapping).unwrap();
    }

    #[test]
    fn pages_hold_all_bans_once() {
        let bans = Bans::default();
        for number in 0..5 {
            ban(&bans, Target::ClientId(number.to_string().into()), None);
        }
        let (mut after, mut seen) = (None, 0);
        loop {
            let page = bans.page(after, 2);
            let Some(last) = page.last() else { break };
            (after, seen) = (Some(last.id), seen + page.len());
        }
        assert_eq!(seen, 5);
        let again = Bans::default();
        again.restore(bans.page(None, 8));
        assert_eq!(again.page(None, 8), bans.page(None, 8));
        assert_eq!(ban(&again, Target::ClientId("x".into()), None).id, BanId(6));
    }
}
