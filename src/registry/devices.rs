//! What is known of devices, and what becomes of one that nobody knows.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use super::device::ISSUERS_MAX;
use super::{Barred, Device, Principal, Rule, State};
use crate::identity::{CertificateFacts, Identity};

/// Devices that are known, with whatever state: more than a broker has sessions by default, and
/// about 30 MiB.
const DEVICES_MAX: usize = 200_000;

/// What becomes of a certificate of a trusted authority whose principal is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// It connects, and nobody takes it down.
    #[default]
    Off,
    /// It waits until somebody approves it, unless a rule does.
    Pending,
    /// It is taken down as active.
    Automatic,
}

/// How devices become known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of those that nobody knows.
    pub registration: Registration,
    /// Those that wait, at most: whoever has an authority's key must not fill the store.
    pub pending_max: usize,
    /// How many may begin to wait in a minute, and at once.
    pub pending_per_minute: u32,
    /// Rules that approve; the first that fits does.
    pub approve: Vec<Rule>,
    /// Those that wait are let in, each with this group, and in no way else than others.
    pub quarantine: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: Registration::Off,
            pending_max: 10_000,
            pending_per_minute: 60,
            approve: Vec::new(),
            quarantine: None,
        }
    }
}

/// A client may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// It waits to be approved, and is in this group meanwhile.
    pub quarantine: Option<Arc<str>>,
}

impl Admitted {
    const FREELY: Self = Self { quarantine: None };
}

/// Why a state stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// There is no such device.
    #[error("no device of this name is known; `ctl device list` shows those that are")]
    Unknown,
    /// It is revoked.
    #[error("the device is revoked, which is for good; `ctl device forget` makes it unknown")]
    Revoked,
    /// It does not wait.
    #[error("the device is {state}, not pending")]
    NotPending {
        /// Its state.
        state: State,
    },
    /// It waits, and nobody has approved it.
    #[error("the device is pending; `ctl device approve` lets it in")]
    Pending,
    /// It has as many authorities as it may.
    #[error("the device is known by {ISSUERS_MAX} authorities, the most there may be")]
    IssuersFull,
    /// It is no SHA-256.
    #[error("an authority is named by the SHA-256 of its public key, 64 hexadecimal digits")]
    Issuer,
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Barred),
}

/// The devices of a broker.
#[derive(Debug, Default)]
pub struct Devices {
    settings: Settings,
    table: RwLock<Table>,
    /// Read without the lock: where nobody has a state and nobody is registered, nobody asks.
    count: AtomicUsize,
}

// INVARIANT: `pending` is how many of `known` are.
#[derive(Debug, Default)]
struct Table {
    known: BTreeMap<Principal, Device>,
    pending: usize,
    /// When all that has begun to wait is forgotten, for the rate.
    rate_empty_at: Option<SystemTime>,
}

impl Devices {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes over what the store held.
    pub fn restore(&self, devices: impl IntoIterator<Item = Device>) {
        let mut table = self.table.write();
        for device in devices {
            table.put(device);
        }
        self.count.store(table.known.len(), Ordering::Release);
    }

    /// Devices that are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Those of them that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.table.read().pending
    }

    /// Whether a client that is connected, or was, may stay. Takes nothing down.
    ///
    /// # Errors
    /// [`Barred`].
    pub fn check(&self, identity: &Identity) -> Result<Admitted, Barred> {
        let must_be_known =
            self.settings.registration == Registration::Pending && identity.certificate.is_some();
        if self.count() == 0 && !must_be_known {
            return Ok(Admitted::FREELY);
        }
        let table = self.table.read();
        match table.known.get(&Principal::of(identity)) {
            Some(device) => self.judge(device, identity.certificate.as_deref()),
            // Forgotten while it was connected.
            None if must_be_known => Err(Barred::Unknown),
            None => Ok(Admitted::FREELY),
        }
    }

    fn judge(
        &self,
        device: &Device,
        certificate: Option<&CertificateFacts>,
    ) -> Result<Admitted, Barred> {
        match device.state {
            State::Suspended => return Err(Barred::Suspended),
            State::Revoked => return Err(Barred::Revoked),
            State::Pending => {
                let group = self.settings.quarantine.clone().ok_or(Barred::Pending)?;
                return Ok(Admitted { quarantine: Some(group) });
            }
            State::Active => {}
        }
        let Some(certificate) = certificate else { return Ok(Admitted::FREELY) };
        let is_its_own = device.issuers.is_empty() || device.issuers.contains(&certificate.issuer);
        if self.settings.registration == Registration::Pending && !is_its_own {
            return Err(Barred::OtherIssuer { issuer: Arc::clone(&certificate.issuer) });
        }
        Ok(Admitted::FREELY)
    }

    /// Judges a client that wants to connect, and takes it down where it has to be: then the
    /// device is returned as well, to be kept.
    ///
    /// # Errors
    /// [`Barred`]; one that is pending from now on may have been taken down nevertheless.
    pub fn admit(
        &self,
        identity: &Identity,
        now: SystemTime,
    ) -> (Result<Admitted, Barred>, Option<Device>) {
        let Settings { registration, approve, .. } = &self.settings;
        let certificate = identity.certificate.as_deref();
        let certificate = certificate.filter(|_| *registration != Registration::Off);
        let Some(certificate) = certificate else { return (self.check(identity), None) };
        let principal = Principal::of(identity);
        let is_approved = || approve.iter().any(|rule| rule.approves(&identity.name, certificate));
        // Most come again: they wait for nobody who changes something.
        let known = self.table.read().known.get(&principal).cloned();
        if let Some(device) = known {
            let judged = self.judge(&device, Some(certificate));
            let may_change = match &judged {
                Ok(admitted) => admitted.quarantine.is_some(),
                Err(barred) => matches!(barred, Barred::Pending | Barred::OtherIssuer { .. }),
            };
            if !may_change || !is_approved() {
                return (judged, None);
            }
            return match self.approve(&principal, Some(&certificate.issuer), now) {
                Ok(device) => (Ok(Admitted::FREELY), Some(device)),
                Err(_) => (judged, None),
            };
        }
        let state = match registration {
            Registration::Pending if !is_approved() => State::Pending,
            _ => State::Active,
        };
        let device = Device {
            principal,
            state,
            issuers: vec![Arc::clone(&certificate.issuer)],
            certificate: Some(Arc::clone(&certificate.fingerprint)),
            registered_at: now,
            changed_at: now,
        };
        let mut table = self.table.write();
        // Somebody else may have been faster.
        if let Some(known) = table.known.get(&device.principal) {
            return (self.judge(known, Some(certificate)), None);
        }
        let room = table.take_room(&self.settings, state, now);
        if let Err(barred) = room {
            return (Err(barred), None);
        }
        let judged = self.judge(&device, Some(certificate));
        table.put(device.clone());
        self.count.store(table.known.len(), Ordering::Release);
        (judged, Some(device))
    }

    /// Lets a device in that waits, or takes another authority as one of its own.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn approve(
        &self,
        principal: &Principal,
        issuer: Option<&str>,
        now: SystemTime,
    ) -> Result<Device, Unchanged> {
        let is_sha256 = |text: &str| {
            text.len() == 64 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
        };
        if issuer.is_some_and(|issuer| !is_sha256(issuer)) {
            return Err(Unchanged::Issuer);
        }
        self.change(principal, now, |device| {
            match (device.state, issuer) {
                (State::Pending, _) | (State::Active, Some(_)) => {}
                (State::Revoked, _) => return Err(Unchanged::Revoked),
                (state, _) => return Err(Unchanged::NotPending { state }),
            }
            if let Some(issuer) = issuer
                && device.state == State::Pending
            {
                // The one it came with first was approved by nobody.
                device.issuers = vec![issuer.into()];
            } else if let Some(issuer) = issuer
                && !device.issuers.is_empty()
                && !device.issuers.iter().any(|known| **known == *issuer)
            {
                if device.issuers.len() >= ISSUERS_MAX {
                    return Err(Unchanged::IssuersFull);
                }
                device.issuers.push(issuer.into());
            }
            device.state = State::Active;
            Ok(())
        })
    }

    /// Lets a device in that was suspended; one that nobody knows becomes known, by a certificate
    /// of any authority that its listener trusts.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn activate(&self, principal: &Principal, now: SystemTime) -> Result<Device, Unchanged> {
        self.change_or_make(principal, State::Active, now, |device| match device.state {
            State::Revoked => Err(Unchanged::Revoked),
            State::Pending => Err(Unchanged::Pending),
            State::Active | State::Suspended => Ok(()),
        })
    }

    /// Keeps a device out until it is activated. It need not be known.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn suspend(&self, principal: &Principal, now: SystemTime) -> Result<Device, Unchanged> {
        self.change_or_make(principal, State::Suspended, now, |device| match device.state {
            State::Revoked => Err(Unchanged::Revoked),
            State::Active | State::Pending | State::Suspended => Ok(()),
        })
    }

    /// Keeps a device out for good. It need not be known.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn revoke(&self, principal: &Principal, now: SystemTime) -> Result<Device, Unchanged> {
        self.change_or_make(principal, State::Revoked, now, |_| Ok(()))
    }

    /// Makes a device unknown.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn forget(&self, principal: &Principal) -> Result<Device, Unchanged> {
        let mut table = self.table.write();
        let device = table.remove(principal).ok_or(Unchanged::Unknown)?;
        self.count.store(table.known.len(), Ordering::Release);
        Ok(device)
    }

    fn change(
        &self,
        principal: &Principal,
        now: SystemTime,
        change: impl FnOnce(&mut Device) -> Result<(), Unchanged>,
    ) -> Result<Device, Unchanged> {
        let mut table = self.table.write();
        let mut device = table.known.get(principal).cloned().ok_or(Unchanged::Unknown)?;
        change(&mut device)?;
        device.changed_at = now;
        table.put(device.clone());
        Ok(device)
    }

    fn change_or_make(
        &self,
        principal: &Principal,
        state: State,
        now: SystemTime,
        check: impl FnOnce(&Device) -> Result<(), Unchanged>,
    ) -> Result<Device, Unchanged> {
        let changed = self.change(principal, now, |device| {
            check(device)?;
            device.state = state;
            Ok(())
        });
        if changed != Err(Unchanged::Unknown) {
            return changed;
        }
        let device = Device {
            principal: principal.clone(),
            state,
            issuers: Vec::new(),
            certificate: None,
            registered_at: now,
            changed_at: now,
        };
        let mut table = self.table.write();
        table.take_room(&self.settings, state, now)?;
        table.put(device.clone());
        self.count.store(table.known.len(), Ordering::Release);
        Ok(device)
    }

    /// At most `count_max` devices after this one, in their order, of one state or of all.
    #[must_use]
    pub fn page(
        &self,
        after: Option<&Principal>,
        state: Option<State>,
        count_max: usize,
    ) -> Vec<Device> {
        let table = self.table.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = table.known.range::<Principal, _>((from, Bound::Unbounded));
        let wanted = later
            .map(|(_, device)| device)
            .filter(|device| state.is_none_or(|state| device.state == state));
        wanted.take(count_max).cloned().collect()
    }
}

impl Table {
    fn put(&mut self, device: Device) {
        self.pending += usize::from(device.state == State::Pending);
        if let Some(before) = self.known.insert(device.principal.clone(), device) {
            self.pending -= usize::from(before.state == State::Pending);
        }
    }

    fn remove(&mut self, principal: &Principal) -> Option<Device> {
        let device = self.known.remove(principal)?;
        self.pending -= usize::from(device.state == State::Pending);
        Some(device)
    }

    /// Whether one more may be taken down; one that will wait counts for the rate.
    fn take_room(
        &mut self,
        settings: &Settings,
        state: State,
        now: SystemTime,
    ) -> Result<(), Barred> {
        if self.known.len() >= DEVICES_MAX {
            return Err(Barred::Full { devices_max: DEVICES_MAX });
        }
        if state != State::Pending {
            return Ok(());
        }
        let pending_max = settings.pending_max;
        if self.pending >= pending_max {
            return Err(Barred::PendingFull { pending_max });
        }
        let minute = Duration::from_mins(1);
        let each = minute / settings.pending_per_minute.max(1);
        // A clock that was set back must not keep everybody out until it has caught up.
        let full_at = now + minute;
        let counted = self.rate_empty_at.unwrap_or(now).clamp(now, full_at);
        let empty_at = counted + each;
        self.rate_empty_at = Some(counted);
        if empty_at > full_at {
            return Err(Barred::TooFast);
        }
        self.rate_empty_at = Some(empty_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::identity::PrincipalKind;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn issuer(which: char) -> Arc<str> {
        which.to_string().repeat(64).into()
    }

    fn device(name: &str, by: char) -> Identity {
        let facts = CertificateFacts {
            cn: name.into(),
            fingerprint: "9c0e".into(),
            issuer: issuer(by),
            serial: "1f".into(),
            not_after_unix_s: 0,
            spiffe: None,
            dns_names: Vec::new(),
            uris: Vec::new(),
            organizational_units: Vec::new(),
        };
        Identity {
            kind: PrincipalKind::Device,
            name: name.into(),
            certificate: Some(Arc::new(facts)),
            ..Identity::anonymous()
        }
    }

    fn devices(registration: Registration, more: impl FnOnce(&mut Settings)) -> Devices {
        let mut settings = Settings { registration, ..Settings::default() };
        more(&mut settings);
        Devices::new(settings)
    }

    #[test]
    fn a_device_waits_until_it_is_approved() {
        let devices = devices(Registration::Pending, |_| {});
        let (new, principal) = (device("a", 'a'), Principal::of(&device("a", 'a')));
        let (judged, taken) = devices.admit(&new, at(0));
        assert_eq!((judged, taken.unwrap().state), (Err(Barred::Pending), State::Pending));
        // It is taken down once.
        assert_eq!(devices.admit(&new, at(1)), (Err(Barred::Pending), None));
        assert_eq!(devices.activate(&principal, at(1)), Err(Unchanged::Pending));
        assert_eq!(devices.approve(&principal, None, at(2)).unwrap().state, State::Active);
        assert_eq!(devices.admit(&new, at(3)), (Ok(Admitted::FREELY), None));
        assert_eq!(
            devices.approve(&principal, None, at(4)),
            Err(Unchanged::NotPending { state: State::Active })
        );
    }

    #[test]
    fn states_keep_out_and_let_in() {
        for registration in [Registration::Off, Registration::Pending, Registration::Automatic] {
            let devices = devices(registration, |_| {});
            let (one, principal) = (device("a", 'a'), Principal::of(&device("a", 'a')));
            let come = |now| devices.admit(&one, at(now)).0.and_then(|_| devices.check(&one));
            devices.activate(&principal, at(0)).unwrap();
            assert_eq!(come(1), Ok(Admitted::FREELY));
            devices.suspend(&principal, at(1)).unwrap();
            assert_eq!(come(2), Err(Barred::Suspended));
            devices.activate(&principal, at(2)).unwrap();
            assert_eq!(come(3), Ok(Admitted::FREELY));
            devices.revoke(&principal, at(3)).unwrap();
            assert_eq!(come(4), Err(Barred::Revoked));
            for refused in [
                devices.activate(&principal, at(4)),
                devices.suspend(&principal, at(4)),
                devices.approve(&principal, None, at(4)),
            ] {
                assert_eq!(refused, Err(Unchanged::Revoked));
            }
            devices.forget(&principal).unwrap();
            assert_eq!(devices.forget(&principal), Err(Unchanged::Unknown));
            let known = devices.admit(&one, at(5));
            match registration {
                Registration::Off => assert_eq!(known, (Ok(Admitted::FREELY), None)),
                Registration::Pending => assert_eq!(known.0, Err(Barred::Pending)),
                Registration::Automatic => assert_eq!(known.1.unwrap().state, State::Active),
            }
        }
    }

    #[test]
    fn whoever_has_no_certificate_is_not_registered_but_may_be_suspended() {
        let devices = devices(Registration::Pending, |_| {});
        let user = Identity { certificate: None, ..device("ann", 'a') };
        assert_eq!(devices.admit(&user, at(0)), (Ok(Admitted::FREELY), None));
        devices.suspend(&Principal::of(&user), at(0)).unwrap();
        assert_eq!(devices.admit(&user, at(0)), (Err(Barred::Suspended), None));
    }

    #[test]
    fn another_authority_does_not_name_a_device_that_is_known() {
        let devices = devices(Registration::Pending, |_| {});
        let (own, other) = (device("a", 'a'), device("a", 'b'));
        let principal = Principal::of(&own);
        devices.admit(&own, at(0)).1.unwrap();
        devices.approve(&principal, None, at(0)).unwrap();
        let barred = Err(Barred::OtherIssuer { issuer: issuer('b') });
        assert_eq!(devices.admit(&other, at(1)), (barred.clone(), None));
        assert_eq!(devices.check(&other), barred);
        assert_eq!(devices.approve(&principal, Some("b"), at(1)), Err(Unchanged::Issuer));
        devices.approve(&principal, Some(&issuer('b')), at(1)).unwrap();
        assert_eq!(devices.admit(&other, at(2)).0, Ok(Admitted::FREELY));
        assert_eq!(devices.admit(&own, at(2)).0, Ok(Admitted::FREELY));
    }

    #[test]
    fn a_rule_approves_whom_it_names_and_nobody_else() {
        let rule = Rule { issuer: Some(issuer('a')), name: "sensor-*".into() };
        let devices = devices(Registration::Pending, |settings| settings.approve = vec![rule]);
        for (identity, state) in [
            (device("sensor-1", 'a'), State::Active),
            (device("sensor-2", 'b'), State::Pending),
            (device("valve-1", 'a'), State::Pending),
        ] {
            assert_eq!(devices.admit(&identity, at(0)).1.unwrap().state, state);
        }
        // What waits is approved when it comes again with a certificate that the rule names.
        let (judged, changed) = devices.admit(&device("sensor-2", 'a'), at(1));
        assert_eq!((judged, changed.unwrap().state), (Ok(Admitted::FREELY), State::Active));
        let barred = Err(Barred::OtherIssuer { issuer: issuer('b') });
        assert_eq!(devices.admit(&device("sensor-2", 'b'), at(2)), (barred, None));
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_rate() {
        let waiting = devices(Registration::Pending, |settings| {
            settings.pending_max = 3;
            settings.pending_per_minute = 2;
        });
        let come = |name: &str, now| waiting.admit(&device(name, 'a'), at(now)).0.unwrap_err();
        assert_eq!(come("a", 0), Barred::Pending);
        assert_eq!(come("b", 0), Barred::Pending);
        assert_eq!(come("c", 29), Barred::TooFast);
        assert_eq!(come("c", 30), Barred::Pending);
        assert_eq!(come("d", 300), Barred::PendingFull { pending_max: 3 });
        // Who is let in makes room, and the clock may be set back.
        waiting.approve(&Principal::of(&device("a", 'a')), None, at(300)).unwrap();
        assert_eq!(come("d", 300), Barred::Pending);
        waiting.forget(&Principal::of(&device("d", 'a'))).unwrap();
        assert_eq!(come("e", 10), Barred::TooFast);
        assert_eq!(come("e", 45), Barred::Pending);
    }

    #[test]
    fn quarantine_lets_in_what_waits_with_a_mark() {
        let devices = devices(Registration::Pending, |settings| {
            settings.quarantine = Some("new".into());
        });
        let (judged, taken) = devices.admit(&device("a", 'a'), at(0));
        let marked = Ok(Admitted { quarantine: Some("new".into()) });
        assert_eq!((&judged, taken.unwrap().state), (&marked, State::Pending));
        assert_eq!(devices.check(&device("a", 'a')), marked);
        devices.approve(&Principal::of(&device("a", 'a')), None, at(1)).unwrap();
        assert_eq!(devices.check(&device("a", 'a')), Ok(Admitted::FREELY));
    }

    #[test]
    fn pages_hold_the_devices_of_a_state_once() {
        let devices = devices(Registration::Pending, |_| {});
        for name in ["a", "b", "c", "d", "e"] {
            devices.admit(&device(name, 'a'), at(0)).1.unwrap();
        }
        devices.approve(&Principal::of(&device("c", 'a')), None, at(1)).unwrap();
        let first = devices.page(None, Some(State::Pending), 3);
        let names: Vec<_> = first.iter().map(|device| &*device.principal.name).collect();
        assert_eq!(names, ["a", "b", "d"]);
        let rest = devices.page(first.last().map(|last| &last.principal), None, 3);
        assert_eq!(rest.len(), 1);
    }
}
