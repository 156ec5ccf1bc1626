//! The sessions of a broker: who owns which client identifier, and takeover.
//!
//! A session is either *live*, then its connection's task owns the protocol state, or *parked*,
//! then it lies here. A new connection that finds a live session of its own signals it and
//! waits until the old task has parked it. A session of another principal is never touched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::wills::{Agenda, PendingWill};
use crate::identity::{Account, Identity, PrincipalKind};
use crate::mqtt::{ClientId, ReasonCode};
use crate::router::{Peer, Signal, Standing};
use crate::session::Session;

const SHARDS: usize = 16;

/// The principal that a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its type.
    pub kind: PrincipalKind,
    /// Its id.
    pub name: Arc<str>,
}

impl Owner {
    /// The owner that an identity is.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self { kind: identity.kind, name: Arc::clone(&identity.name) }
    }
}

/// The term of a session's owner: every new connection begins a new one, and what an older one
/// still wants to write is ignored. With one broker it only ever counts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(u64);

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// For whom the session counts: who began it.
    account: Arc<Account>,
    peer: Arc<Peer>,
    term: Term,
    /// Where the connection comes from that wants the live session.
    claimed_from: Option<Box<IpAddr>>,
    /// Told when a live session is parked or ended.
    departed: Arc<Notify>,
    state: State,
}

impl Entry {
    /// True while the connection of this term has the session.
    fn is_live(&self, term: Term) -> bool {
        self.term == term && matches!(self.state, State::Live)
    }
}

#[derive(Debug)]
enum State {
    Live,
    Parked(Box<Parked>),
}

/// A session without a connection.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) session: Session,
    /// `None`: it never expires.
    pub(super) expires_at: Option<Instant>,
    pub(super) will: Option<PendingWill>,
}

impl Parked {
    /// When the session has something due next: its end or its will.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let will = self.will.as_ref().map(|will| will.due_at);
        [self.expires_at, will].into_iter().flatten().min()
    }
}

/// A session that was ended: what is left to do about it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: Arc<Peer>,
    pub(super) parked: Parked,
}

/// What a CONNECT asks for.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) owner: Owner,
    /// For whom a new session counts.
    pub(super) account: Arc<Account>,
    /// The sessions that may count for it.
    pub(super) sessions_max: u32,
    pub(super) clean_start: bool,
    /// Where the claim comes from; `None` for a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// What a new session is entered with. Its mailbox has the bounds of a resumed one as well.
    pub(super) peer: &'a Arc<Peer>,
}

/// What a CONNECT found.
#[derive(Debug)]
pub(super) enum Claimed {
    /// There was no session, or a clean start ended it; the new one is entered as live.
    New { term: Term, ended: Option<Box<Ended>> },
    /// The session goes on. A will that was due before, and not sent yet, is to be sent.
    Resumed { peer: Arc<Peer>, session: Box<Session>, term: Term, due: Option<PendingWill> },
}

/// Why a CONNECT gets no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSession {
    /// The client identifier belongs to another principal.
    #[error("the client identifier has a session of another principal")]
    OwnedByAnother(Owner),
    /// The broker holds as many sessions as it may.
    #[error("the broker holds as many sessions as it may")]
    Full,
    /// The broker holds as many sessions of this principal as the profile allows.
    #[error("the principal has {sessions_max} sessions, the most its profile allows")]
    AccountFull {
        /// The bound.
        sessions_max: u32,
    },
    /// The present connection of this session did not give it up in time.
    #[error("the session's present connection did not end in time")]
    Busy,
}

/// How often a takeover waits for the old connection, and how long each time.
const TAKEOVER_TRIES: usize = 3;
const TAKEOVER_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Sessions {
    shards: Box<[Mutex<HashMap<ClientId, Entry, ahash::RandomState>>]>,
    hasher: ahash::RandomState,
    count: AtomicUsize,
    // INVARIANT: the sums over the sessions of each account; no entry at zero.
    held: Mutex<HashMap<Arc<Account>, u32, ahash::RandomState>>,
    connected: AtomicUsize,
    last_term: AtomicU64,
    agenda: Agenda,
    count_max: usize,
}

type Shard<'a> = MutexGuard<'a, HashMap<ClientId, Entry, ahash::RandomState>>;

impl Sessions {
    pub(super) fn new(count_max: u32) -> Self {
        Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            hasher: ahash::RandomState::new(),
            count: 0.into(),
            held: Mutex::default(),
            connected: 0.into(),
            last_term: 0.into(),
            agenda: Agenda::default(),
            count_max: count_max as usize,
        }
    }

    /// All sessions, and those with a connection.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.count.load(Relaxed), self.connected.load(Relaxed))
    }

    /// Who a session is judged as, and whether it has a connection.
    pub(super) fn standing(&self, client_id: &ClientId) -> Option<(Standing, bool)> {
        let shard = self.shard(client_id);
        let entry = shard.get(client_id)?;
        Some((entry.peer.standing(), matches!(entry.state, State::Live)))
    }

    /// Gives the client identifier to a new connection. A live session of the same owner is taken
    /// over; the claim's peer is entered where there was no session to resume. The mailbox of the
    /// one that is given is attached: from here on it hears signals.
    pub(super) async fn claim(
        &self,
        claim: &Claim<'_>,
        now: Instant,
    ) -> Result<Claimed, NoSession> {
        for _ in 0..TAKEOVER_TRIES {
            let departed = match self.try_claim(claim, now)? {
                Ok(claimed) => return Ok(claimed),
                Err(departed) => departed,
            };
            // Past the time it is tried once more: the notice may just have come.
            let _ = tokio::time::timeout(TAKEOVER_WAIT, departed).await;
        }
        Err(NoSession::Busy)
    }

    /// `Ok(Err(_))`: a live session was told to go, and this future waits until it has.
    fn try_claim(
        &self,
        claim: &Claim<'_>,
        now: Instant,
    ) -> Result<Result<Claimed, impl Future<Output = ()> + use<>>, NoSession> {
        let Claim { owner, peer: new_peer, clean_start, .. } = claim;
        let client_id = &new_peer.client_id;
        let mut shard = self.shard(client_id);
        let Some(entry) = shard.get_mut(client_id) else {
            self.reserve(&claim.account, claim.sessions_max)?;
            let term = self.next_term();
            let entry = Entry {
                owner: owner.clone(),
                account: Arc::clone(&claim.account),
                peer: Arc::clone(new_peer),
                term,
                claimed_from: None,
                departed: Arc::new(Notify::new()),
                state: State::Live,
            };
            shard.insert(client_id.clone(), entry);
            self.connected.fetch_add(1, Relaxed);
            new_peer.mailbox.attach(new_peer.mailbox.settings());
            return Ok(Ok(Claimed::New { term, ended: None }));
        };
        if entry.owner != *owner {
            return Err(NoSession::OwnedByAnother(entry.owner.clone()));
        }
        match std::mem::replace(&mut entry.state, State::Live) {
            State::Live => {
                entry.claimed_from = claim.address.map(Box::new);
                entry.peer.mailbox.signal(Signal::Close(ReasonCode::SessionTakenOver));
                let departed = Arc::clone(&entry.departed).notified_owned();
                Ok(Err(departed))
            }
            State::Parked(parked) => {
                entry.term = self.next_term();
                self.connected.fetch_add(1, Relaxed);
                let term = entry.term;
                if let Some(at) = parked.due_at() {
                    self.agenda.remove(at, client_id);
                }
                let expired = parked.expires_at.is_some_and(|at| at <= now);
                if *clean_start || expired {
                    let peer = std::mem::replace(&mut entry.peer, Arc::clone(new_peer));
                    new_peer.mailbox.attach(new_peer.mailbox.settings());
                    let ended = Some(Box::new(Ended { peer, parked: *parked }));
                    return Ok(Ok(Claimed::New { term, ended }));
                }
                let peer = Arc::clone(&entry.peer);
                peer.mailbox.attach(new_peer.mailbox.settings());
                let Parked { session, will, .. } = *parked;
                let due = will.filter(|will| will.due_at <= now);
                Ok(Ok(Claimed::Resumed { peer, session: Box::new(session), term, due }))
            }
        }
    }

    /// Enters a session that the store held. It was counted when it began: the bounds do not
    /// matter.
    pub(super) fn restore(
        &self,
        owner: Owner,
        account: Arc<Account>,
        peer: Arc<Peer>,
        parked: Parked,
    ) {
        let client_id = peer.client_id.clone();
        self.count.fetch_add(1, Relaxed);
        *self.held.lock().entry(Arc::clone(&account)).or_default() += 1;
        if let Some(at) = parked.due_at() {
            self.agenda.add(at, client_id.clone());
        }
        let entry = Entry {
            owner,
            account,
            peer,
            term: self.next_term(),
            claimed_from: None,
            departed: Arc::new(Notify::new()),
            state: State::Parked(Box::new(parked)),
        };
        self.shard(&client_id).insert(client_id, entry);
    }

    /// Where the connection comes from that the one of `term` has to make room for.
    pub(super) fn claimed_from(&self, client_id: &ClientId, term: Term) -> Option<IpAddr> {
        let shard = self.shard(client_id);
        shard.get(client_id).filter(|entry| entry.is_live(term))?.claimed_from.as_deref().copied()
    }

    /// The connection of `term` is gone.
    pub(super) fn leave(&self, client_id: &ClientId, term: Term) -> Leaving<'_> {
        Leaving { sessions: self, client_id: client_id.clone(), term, parked: false }
    }

    fn park(&self, client_id: &ClientId, term: Term, parked: Parked) {
        let mut shard = self.shard(client_id);
        let Some(entry) = shard.get_mut(client_id).filter(|entry| entry.is_live(term)) else {
            return;
        };
        if let Some(at) = parked.due_at() {
            self.agenda.add(at, client_id.clone());
        }
        entry.state = State::Parked(Box::new(parked));
        self.connected.fetch_sub(1, Relaxed);
        entry.departed.notify_waiters();
    }

    fn end(&self, client_id: &ClientId, term: Term) {
        let mut shard = self.shard(client_id);
        if shard.get(client_id).is_some_and(|entry| entry.is_live(term))
            && let Some(entry) = shard.remove(client_id)
        {
            self.release(&entry.account);
            self.connected.fetch_sub(1, Relaxed);
            entry.departed.notify_waiters();
        }
    }

    /// Removes a parked session that has expired by `now`; else, when its will is due, takes the
    /// will out. `None`: neither.
    pub(super) fn due(&self, client_id: &ClientId, now: Instant) -> Option<Due> {
        let mut shard = self.shard(client_id);
        let entry = shard.get_mut(client_id)?;
        let State::Parked(parked) = &mut entry.state else { return None };
        if parked.expires_at.is_some_and(|at| at <= now) {
            let entry = shard.remove(client_id)?;
            self.release(&entry.account);
            let State::Parked(parked) = entry.state else { return None };
            return Some(Due::Ended(Box::new(Ended { peer: entry.peer, parked: *parked })));
        }
        let will = parked.will.take_if(|will| will.due_at <= now);
        if let Some(at) = parked.due_at() {
            self.agenda.add(at, client_id.clone());
        }
        let expires_at = parked.expires_at;
        Some(Due::Will { will: will?, peer: Arc::clone(&entry.peer), expires_at })
    }

    /// The parked sessions of one shard after the other: those of the `nth`.
    pub(super) fn parked(&self, nth: usize) -> Vec<Arc<Peer>> {
        let Some(shard) = self.shards.get(nth % SHARDS) else { return Vec::new() };
        let shard = shard.lock();
        let parked = shard.values().filter(|entry| matches!(entry.state, State::Parked(_)));
        parked.map(|entry| Arc::clone(&entry.peer)).collect()
    }

    /// When which parked session has something due.
    pub(super) fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// Takes a place for one more session.
    fn reserve(&self, account: &Arc<Account>, sessions_max: u32) -> Result<(), NoSession> {
        let mut held = self.held.lock();
        let of_account = held.get(account).copied().unwrap_or(0);
        if of_account >= sessions_max {
            return Err(NoSession::AccountFull { sessions_max });
        }
        let room = |count| (count < self.count_max).then_some(count + 1);
        if self.count.fetch_update(Relaxed, Relaxed, room).is_err() {
            return Err(NoSession::Full);
        }
        held.insert(Arc::clone(account), of_account + 1);
        Ok(())
    }

    /// Gives the place of a session back.
    fn release(&self, account: &Arc<Account>) {
        let mut held = self.held.lock();
        self.count.fetch_sub(1, Relaxed);
        if let Some(of_account) = held.get_mut(account) {
            *of_account = of_account.saturating_sub(1);
            if *of_account == 0 {
                held.remove(account);
            }
        }
    }

    fn next_term(&self) -> Term {
        Term(self.last_term.fetch_add(1, Relaxed) + 1)
    }

    /// Every live session, shard by shard: none is locked while its sessions are looked at.
    pub(super) fn live(&self) -> impl Iterator<Item = Arc<Peer>> {
        self.shards.iter().flat_map(|shard| {
            let shard = shard.lock();
            let live = shard.values().filter(|entry| matches!(entry.state, State::Live));
            live.map(|entry| Arc::clone(&entry.peer)).collect::<Vec<_>>()
        })
    }

    /// Sends a signal to every live session.
    pub(super) fn signal_all(&self, signal: Signal) {
        for peer in self.live() {
            peer.mailbox.signal(signal);
        }
    }

    fn shard(&self, client_id: &ClientId) -> Shard<'_> {
        let hash = self.hasher.hash_one(client_id.as_str());
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "the index is below SHARDS, their number")]
        self.shards[index].lock()
    }
}

/// A live session whose connection is gone: it is parked, or else ends with this value. So
/// nobody waits for ever for a task that fails on its way out.
#[must_use]
pub(super) struct Leaving<'a> {
    sessions: &'a Sessions,
    client_id: ClientId,
    term: Term,
    parked: bool,
}

impl Leaving<'_> {
    /// Leaves the session to the next connection.
    pub(super) fn park(mut self, parked: Parked) {
        self.parked = true;
        self.sessions.park(&self.client_id, self.term, parked);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.parked {
            self.sessions.end(&self.client_id, self.term);
        }
    }
}

/// What [`Sessions::due`] found.
#[derive(Debug)]
pub(super) enum Due {
    /// The session has expired and is gone.
    Ended(Box<Ended>),
    /// Its will is due; the session stays.
    Will {
        will: PendingWill,
        peer: Arc<Peer>,
        /// `None`: it never expires.
        expires_at: Option<Instant>,
    },
}
