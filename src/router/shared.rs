//! Share groups: each message of `$share/<name>/<filter>` goes to one member.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::entries::{Entries, Entry};
use super::{Judge, Peer};
use crate::mqtt::ShareName;
use crate::mqtt::packet::Qos;
use crate::session::Message;

/// The members of one share group of one filter.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: ShareName,
    members: RwLock<Entries>,
    next: AtomicUsize,
}

impl Group {
    pub(super) fn new(name: ShareName) -> Self {
        Self { name, members: RwLock::default(), next: AtomicUsize::new(0) }
    }

    /// Adds a member; `true` when it was none before.
    pub(super) fn join(&self, entry: Entry) -> bool {
        self.members.write().put(entry)
    }

    /// Removes a member; `true` when it was one.
    pub(super) fn leave(&self, peer: &Arc<Peer>) -> bool {
        self.members.write().remove(peer)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.read().is_empty()
    }

    /// True when this holds for some member, with the QoS of its subscription.
    pub(super) fn any(&self, holds: impl Fn(Qos, &Peer) -> bool) -> bool {
        let members = self.members.read();
        members.as_slice().iter().any(|one| holds(one.subscription.options.qos, &one.peer))
    }

    /// Where no member has room, and all of them have publishers told: one of them.
    pub(super) fn refused_by(&self) -> Option<Arc<Peer>> {
        let members = self.members.read();
        let members = members.as_slice();
        let all_refuse = members.iter().all(|one| one.peer.mailbox.refuses());
        members.first().filter(|_| all_refuse).map(|one| Arc::clone(&one.peer))
    }

    /// Chooses the member for a message, round robin: among those that may receive it, one that
    /// is connected if any is. One that refuses publishers is none. `None` when no member may
    /// receive it.
    pub(super) fn choose(&self, message: &Message, judge: Judge<'_>) -> Option<Entry> {
        let members = self.members.read();
        let members = members.as_slice();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut absent = None;
        for offset in 0..members.len() {
            let Some(member) = members.get((start.wrapping_add(offset)) % members.len()) else {
                break;
            };
            let connected = member.peer.mailbox.is_attached();
            if !connected && absent.is_some() {
                continue;
            }
            if member.peer.mailbox.refuses() {
                continue;
            }
            let cleared = member.subscription.is_cleared_under(member.peer.stamp());
            if !cleared && !judge(&member.peer, message) {
                continue;
            }
            if connected {
                return Some(member.clone());
            }
            absent = Some(member.clone());
        }
        absent
    }
}
