//! Bans and the states of devices, as they act on a running broker: on who comes, on who is
//! there, and on the wills of those who are gone.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::{Broker, Now};
use crate::audit::{self, Event, Kind};
use crate::identity::Identity;
use crate::registry::{
    Admitted, Ban, BanId, Banned, BansFull, Barred, By, Client, Device, Principal, Target,
    Unchanged,
};
use crate::router::Standing;
use crate::store::{Change, Commit, StoreError};

/// Bans that have ended and are taken out in one go.
const ENDED_AT_ONCE: usize = 1024;

/// Why somebody is kept out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// It is banned.
    #[error(transparent)]
    Banned(#[from] Banned),
    /// Its device is not active.
    #[error(transparent)]
    Barred(#[from] Barred),
}

impl Broker {
    /// Whether a client may stay that is here, or was when it left a will.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn check_registered(
        &self,
        identity: &Identity,
        client_id: &Arc<str>,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Admitted, Unwelcome> {
        let client = Client {
            identity: Some(identity),
            certificate: identity.certificate.as_ref().map(|facts| &facts.fingerprint),
            client_id: Some(client_id),
            address,
        };
        self.registry.bans.check(&client, now)?;
        Ok(self.registry.devices.check(identity)?)
    }

    /// The same of a client that wants to come in: a device that nobody knows is taken down.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn admit_registered(
        &self,
        identity: &Identity,
        client_id: &Arc<str>,
        subject: &audit::Subject,
        now: Now,
    ) -> Result<Admitted, Unwelcome> {
        let address = subject.address;
        let client = Client {
            identity: Some(identity),
            certificate: identity.certificate.as_ref().map(|facts| &facts.fingerprint),
            client_id: Some(client_id),
            address,
        };
        self.registry.bans.check(&client, now.wall)?;
        if let Some(target) = self.flapping.count(identity, client_id, address, now.instant)
            && let Some(banned) = self.ban_for_flapping(target, now)
        {
            return Err(banned.into());
        }
        let order = self.registry.order.lock();
        let (judged, registered) = self.registry.devices.admit(identity, now.wall);
        if let Some(device) = registered {
            let issuer = identity.certificate.as_ref().map(|facts| Arc::clone(&facts.issuer));
            let kind = Kind::DeviceRegistered {
                state: device.state.as_str(),
                issuer: issuer.unwrap_or_default(),
            };
            self.audit.record(Event::about(&Arc::new(subject.clone()), kind));
            self.keep(Change::Device(Box::new(device)));
        }
        drop(order);
        Ok(judged?)
    }

    /// Counts a connection from this address that came to nothing.
    pub fn count_failed(&self, address: IpAddr, now: Now) {
        if let Some(target) = self.flapping.count_address(address, now.instant) {
            self.ban_for_flapping(target, now);
        }
    }

    /// Bans whoever comes and goes too often. Whoever is connected hears of it with the next look
    /// at the agenda: somebody who comes and goes must not have all be woken each time.
    fn ban_for_flapping(&self, target: Target, now: Now) -> Option<Banned> {
        let (length, why) = self.flapping.sentence(&target)?;
        let until = now.wall.checked_add(length);
        let what = target.noun();
        let _order = self.registry.order.lock();
        let added = self.registry.bans.add(target, (now.wall, until), why.into(), By::Flapping);
        let Ok(ban) = added else { return None };
        let banned = Banned { id: ban.id, what };
        // One that was there already and lasts longer is no news.
        if ban.by == By::Flapping && ban.since == now.wall {
            self.metrics.flapping_bans.inc();
            self.record_ban(&ban);
            self.keep(Change::Ban(Box::new(ban)));
            self.rouse.store(true, Ordering::Release);
        }
        Some(banned)
    }

    /// Bans somebody: whoever is connected and meant by it goes at once.
    ///
    /// # Errors
    /// [`BansFull`].
    pub fn ban(
        &self,
        target: Target,
        length: Option<Duration>,
        why: Arc<str>,
        uid: Option<u32>,
        now: Now,
    ) -> Result<(Ban, Option<Commit>), BansFull> {
        // A time that no calendar has is never.
        let until = length.and_then(|length| now.wall.checked_add(length));
        let _order = self.registry.order.lock();
        let ban = self.registry.bans.add(target, (now.wall, until), why, By::Operator(uid))?;
        self.record_ban(&ban);
        let commit = self.keep(Change::Ban(Box::new(ban.clone())));
        self.rouse_all();
        Ok((ban, commit))
    }

    /// Takes a ban back. `None`: there is none of this name.
    pub fn unban(&self, id: BanId, uid: Option<u32>) -> Option<(Ban, Option<Commit>)> {
        let _order = self.registry.order.lock();
        let ban = self.registry.bans.remove(id)?;
        self.flapping.forgive(&ban.target);
        let target = ban.target.to_string().into();
        self.audit.record(Event::broker(Kind::BanRemoved { ban: id.0, target, uid }));
        let commit = self.keep(Change::Unban(id));
        Some((ban, commit))
    }

    /// Takes out bans that have ended, and tells those that are connected of bans that the broker
    /// has made.
    pub(super) fn look_after_bans(&self, now: Now) {
        let order = self.registry.order.lock();
        for ban in self.registry.bans.take_ended(now.wall, ENDED_AT_ONCE) {
            self.flapping.forgive(&ban.target);
            let target = ban.target.to_string().into();
            self.audit.record(Event::broker(Kind::BanExpired { ban: ban.id.0, target }));
            self.keep(Change::Unban(ban.id));
        }
        drop(order);
        if self.rouse.swap(false, Ordering::AcqRel) {
            self.rouse_all();
        }
    }

    fn record_ban(&self, ban: &Ban) {
        let (by, uid) = match ban.by {
            By::Flapping => ("flapping", None),
            By::Operator(uid) => ("operator", uid),
        };
        self.audit.record(Event::broker(Kind::BanAdded {
            ban: ban.id.0,
            target: ban.target.to_string().into(),
            until: ban.until.map(|until| crate::registry::time_text(until).into()),
            by,
            uid,
            why: Arc::clone(&ban.why),
        }));
    }

    /// Changes the state of a device, or forgets it: whoever is connected and may not stay goes at
    /// once.
    ///
    /// # Errors
    /// [`Unchanged`].
    pub fn change_device(
        &self,
        principal: &Principal,
        change: &DeviceChange,
        uid: Option<u32>,
        now: Now,
    ) -> Result<(Device, Option<Commit>), Unchanged> {
        let devices = &self.registry.devices;
        let _order = self.registry.order.lock();
        let (device, change, state) = match change {
            DeviceChange::Forget => {
                let device = devices.forget(principal)?;
                (device, Change::Forget(principal.clone()), "unknown")
            }
            other => {
                let device = match other {
                    DeviceChange::Approve { issuer } => {
                        devices.approve(principal, issuer.as_deref(), now.wall)
                    }
                    DeviceChange::Activate => devices.activate(principal, now.wall),
                    DeviceChange::Suspend => devices.suspend(principal, now.wall),
                    DeviceChange::Revoke | DeviceChange::Forget => {
                        devices.revoke(principal, now.wall)
                    }
                }?;
                let state = device.state.as_str();
                (device.clone(), Change::Device(Box::new(device)), state)
            }
        };
        let changed = (principal.kind, Arc::clone(&principal.name));
        self.audit.record(Event::broker(Kind::DeviceChanged { device: changed, state, uid }));
        let commit = self.keep(change);
        self.rouse_all();
        Ok((device, commit))
    }

    /// Waits until what was kept is on the disk, as far as the store promises.
    ///
    /// # Errors
    /// When it never will be.
    pub async fn committed(&self, commit: Option<Commit>) -> Result<(), StoreError> {
        let (Some(store), Some(commit)) = (&self.store, commit) else { return Ok(()) };
        let committed = poll_fn(|context| {
            if store.poll_committed(commit, context.waker()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        tokio::select! {
            biased;
            () = committed => Ok(()),
            error = store.failed() => Err(error),
        }
    }

    fn keep(&self, change: Change) -> Option<Commit> {
        let commit = self.store.as_ref().map(|store| store.change(change));
        self.write_soon();
        commit
    }

    /// Whether whoever left a will may still be heard.
    pub(super) fn is_welcome(&self, standing: &Standing, now: Now) -> Result<(), Unwelcome> {
        let facts = &standing.facts;
        let client_id = facts.client_id.shared();
        let address = Some(facts.source_ip);
        self.check_registered(&standing.identity, &client_id, address, now.wall).map(drop)
    }
}

/// What is done to the state of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// It is let in, or another authority's certificates are its own as well.
    Approve {
        /// The authority; none: that of the certificate it came with.
        issuer: Option<String>,
    },
    /// It is let in again.
    Activate,
    /// It is kept out until it is activated.
    Suspend,
    /// It is kept out for good.
    Revoke,
    /// It is unknown again.
    Forget,
}
