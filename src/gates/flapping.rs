//! Against clients that come and go all the time: whoever does so too often is banned for a while.
//!
//! Counted are connections: of one principal under one client id, and of one address those that
//! came to nothing. Each table is bounded; what is forgotten makes room. A table that is full
//! counts nobody new, and the rate of the admission gate still holds.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::identity::{Identity, PrincipalKind};
use crate::registry::{Principal, Target};

/// Whatever is counted at a time, in each table: about 10 MiB.
const COUNTED_MAX: usize = 100_000;

/// Bytes of a client id that a ban names.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// How often somebody may come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections of one principal under one client id, within the window.
    pub connects_max: u32,
    /// Connections from one address (of IPv6: from one /64) that came to nothing, within the window;
    /// and those of clients that nobody knows.
    pub address_connects_max: u32,
    /// In what time all that was counted is forgotten.
    pub window: Duration,
    /// How long whoever comes more often is banned.
    pub ban: Duration,
    /// These addresses are never banned: behind them are many.
    pub exempt: Vec<IpNet>,
}

/// What was counted.
#[derive(Debug)]
pub struct Flapping {
    settings: Option<Settings>,
    /// By a hash, whose seed nobody knows: names may be long.
    clients: Mutex<Counts<(u64, u64)>>,
    seeds: (RandomState, RandomState),
    addresses: Mutex<Counts<IpNet>>,
}

impl Flapping {
    /// Nobody has come yet; without settings nobody is counted.
    #[must_use]
    pub fn new(settings: Option<Settings>) -> Self {
        let (clients, addresses) = Default::default();
        Self { settings, clients, addresses, seeds: Default::default() }
    }

    /// How long a ban lasts, and what it is for.
    #[must_use]
    pub fn sentence(&self, target: &Target) -> Option<(Duration, String)> {
        let Settings { connects_max, address_connects_max, window, ban, .. } =
            self.settings.as_ref()?;
        let most = match target {
            Target::Network(_) => address_connects_max,
            _ => connects_max,
        };
        let window = humantime::format_duration(*window);
        Some((*ban, format!("came and went more than {most} times in {window}")))
    }

    /// Forgets how often somebody has come whose ban is over: it begins anew.
    pub fn forgive(&self, target: &Target) {
        match target {
            Target::Network(network) => {
                self.addresses.lock().empty_at.remove(network);
            }
            Target::Client(principal, client_id) => {
                let key = self.key(principal, client_id);
                self.clients.lock().empty_at.remove(&key);
            }
            Target::Principal(_) | Target::ClientId(_) | Target::Certificate(_) => {}
        }
    }

    fn key(&self, principal: &Principal, client_id: &Arc<str>) -> (u64, u64) {
        let key = (principal, client_id);
        (self.seeds.0.hash_one(key), self.seeds.1.hash_one(key))
    }

    /// Counts a client that has proven who it is. `Some`: it has come too often.
    pub fn count(
        &self,
        identity: &Identity,
        client_id: &Arc<str>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Target> {
        let settings = self.settings.as_ref()?;
        // Nobody is banned by a name that anybody may use. And many that share a principal and leave
        // the choice of a client id to the broker are not one that comes again and again.
        if identity.kind == PrincipalKind::Anonymous || client_id.is_empty() {
            return self.count_address(address?, now);
        }
        let principal = Principal::of(identity);
        let key = self.key(&principal, client_id);
        let is_fine = self.clients.lock().count(key, settings.connects_max, settings.window, now);
        if is_fine {
            return None;
        }
        // So many bans must not hold so much: whoever has such names answers for all of them.
        Some(match client_id.len() {
            ..=CLIENT_ID_BYTES_MAX => Target::Client(principal, Arc::clone(client_id)),
            _ => Target::Principal(principal),
        })
    }

    /// Counts a connection that came to nothing. `Some`: there were too many from there.
    pub fn count_address(&self, address: IpAddr, now: Instant) -> Option<Target> {
        let settings = self.settings.as_ref()?;
        let address = address.to_canonical();
        if settings.exempt.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let length = if address.is_ipv4() { 32 } else { 64 };
        let network = IpNet::new(address, length).ok()?.trunc();
        let (most, window) = (settings.address_connects_max, settings.window);
        let is_fine = self.addresses.lock().count(network, most, window, now);
        (!is_fine).then_some(Target::Network(network))
    }
}

/// For each, when all that was counted of it is forgotten.
#[derive(Debug)]
struct Counts<K> {
    empty_at: HashMap<K, Instant, RandomState>,
    /// Before then there is nothing to forget that was not looked at already.
    swept_until: Option<Instant>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self { empty_at: HashMap::default(), swept_until: None }
    }
}

impl<K: Hash + Eq> Counts<K> {
    /// Counts one more; `false`: there were as many as there may be.
    fn count(&mut self, key: K, most: u32, window: Duration, now: Instant) -> bool {
        let each = window / most.max(1);
        if let Some(at) = self.empty_at.get_mut(&key) {
            let empty_at = (*at).max(now) + each;
            let is_fine = empty_at <= now + window;
            if is_fine {
                *at = empty_at;
            }
            return is_fine;
        }
        if self.empty_at.len() >= COUNTED_MAX && !self.sweep(window, now) {
            return true;
        }
        self.empty_at.insert(key, now + each);
        true
    }

    /// Forgets whoever has not come for long; not more often than ten times in a window.
    fn sweep(&mut self, window: Duration, now: Instant) -> bool {
        if self.swept_until.is_some_and(|until| now < until) {
            return false;
        }
        self.swept_until = Some(now + window / 10);
        self.empty_at.retain(|_, at| *at > now);
        self.empty_at.len() < COUNTED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            connects_max: 3,
            address_connects_max: 2,
            window: Duration::from_mins(1),
            ban: Duration::from_mins(5),
            exempt: vec!["127.0.0.0/8".parse().unwrap()],
        }
    }

    fn device(name: &str) -> Identity {
        Identity { kind: PrincipalKind::Device, name: name.into(), ..Identity::anonymous() }
    }

    #[test]
    fn whoever_comes_too_often_is_named_and_nobody_else() {
        let flapping = Flapping::new(Some(settings()));
        let (began, client_id) = (Instant::now(), Arc::from("c1"));
        let one = device("a");
        let come = |identity: &Identity, client_id: &Arc<str>, after_s| {
            flapping.count(identity, client_id, None, began + Duration::from_secs(after_s))
        };
        for _ in 0..3 {
            assert_eq!(come(&one, &client_id, 0), None);
        }
        let target = come(&one, &client_id, 0).unwrap();
        assert_eq!(target, Target::Client(Principal::of(&one), "c1".into()));
        let (ban, why) = flapping.sentence(&target).unwrap();
        assert_eq!(ban, Duration::from_mins(5));
        assert_eq!(why, "came and went more than 3 times in 1m");
        flapping.forgive(&target);
        for _ in 0..3 {
            assert_eq!(come(&one, &client_id, 0), None);
        }
        // Neither who shares its name, nor who uses its client id.
        assert_eq!(come(&one, &"c2".into(), 0), None);
        assert_eq!(come(&device("b"), &client_id, 0), None);
        // One in twenty seconds is what it may do for ever.
        for at in 1..100 {
            assert_eq!(come(&one, &client_id, at * 20), None);
        }
    }

    #[test]
    fn addresses_count_for_whom_nobody_knows() {
        let flapping = Flapping::new(Some(settings()));
        let now = Instant::now();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let anonymous = Identity::anonymous();
        for (one, two, network) in [
            ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::1", "2001:db8::2", "2001:db8::/64"),
        ] {
            assert_eq!(flapping.count(&anonymous, &"c1".into(), address(one), now), None);
            assert_eq!(flapping.count_address(address(two).unwrap(), now), None);
            let target = flapping.count(&anonymous, &"c2".into(), address(one), now);
            assert_eq!(target, Some(Target::Network(network.parse().unwrap())));
        }
        let target = flapping.count(&device("a"), &"".into(), address("192.0.2.7"), now);
        assert_eq!(target, Some(Target::Network("192.0.2.7/32".parse().unwrap())));
        for _ in 0..9 {
            assert_eq!(flapping.count_address(address("127.0.0.1").unwrap(), now), None);
            assert_eq!(flapping.count(&anonymous, &"c1".into(), None, now), None);
        }
    }

    #[test]
    fn without_settings_nobody_is_counted() {
        let flapping = Flapping::new(None);
        for _ in 0..9 {
            let target = flapping.count(&device("a"), &"c".into(), None, Instant::now());
            assert_eq!(target, None);
        }
    }

    #[test]
    fn what_is_counted_is_bounded_and_what_is_forgotten_makes_room() {
        let mut counts = Counts::default();
        let (now, window) = (Instant::now(), Duration::from_mins(1));
        for key in 0..COUNTED_MAX {
            assert!(counts.count(key, 1, window, now));
        }
        assert!(!counts.count(0, 1, window, now));
        // One too many is not counted.
        assert!(counts.count(COUNTED_MAX, 1, window, now));
        assert!(counts.count(COUNTED_MAX, 1, window, now));
        assert_eq!(counts.empty_at.len(), COUNTED_MAX);
        let later = now + window;
        assert!(counts.count(COUNTED_MAX, 1, window, later));
        assert!(!counts.count(COUNTED_MAX, 1, window, later));
        assert_eq!(counts.empty_at.len(), 1);
    }
}
