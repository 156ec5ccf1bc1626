//! Whom a publisher has to wake.

use std::sync::Arc;

use super::{Asked, Delivery, Peer, Receipt};

/// The connections to wake at the end of a publisher's batch, each once; and the peers for which
/// messages were dropped.
#[derive(Debug, Default)]
pub struct Wakes {
    peers: Vec<Arc<Peer>>,
    full: Vec<Arc<Peer>>,
}

impl Wakes {
    /// Posts a delivery to a peer and remembers to wake it.
    pub(in crate::router) fn post(
        &mut self,
        peer: &Arc<Peer>,
        delivery: Delivery,
        asked: Asked,
    ) -> Receipt {
        let receipt = peer.mailbox.post(delivery, asked);
        if receipt.wake {
            self.peers.push(Arc::clone(peer));
        }
        if receipt.tell {
            self.full.push(Arc::clone(peer));
        }
        receipt
    }

    /// A publisher is refused because of this peer, whose mailbox is full.
    pub(in crate::router) fn refused(&mut self, peer: &Arc<Peer>) {
        if peer.mailbox.inner.lock().tell() {
            self.full.push(Arc::clone(peer));
        }
    }

    /// The peers of which it has to be told that messages for them are dropped or refused.
    pub fn take_full(&mut self) -> impl Iterator<Item = Arc<Peer>> {
        self.full.drain(..)
    }

    /// Wakes them.
    pub fn wake_all(&mut self) {
        for peer in self.peers.drain(..) {
            let waker = peer.mailbox.inner.lock().waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        if self.peers.capacity() > 1024 {
            self.peers = Vec::new();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake_all();
    }
}
