//! Answers that are held back until what they acknowledge is on disk.
//!
//! Once one answer waits, all later ones wait behind it: acknowledgements go out in the order of
//! what they acknowledge [MQTT-4.6.0-2]. Deliveries do not wait.

use std::collections::VecDeque;
use std::task::Context;

use super::Connection;
use crate::session::{Seq, Step};
use crate::store::{Change, Commit};

/// With so many bytes of answers waiting, nothing more is read.
const ANSWERS_BYTES_MAX: usize = 256 * 1024;

/// Most connections never hold anything: no more than a pointer.
#[derive(Debug, Default)]
pub(in crate::server) struct Held(Option<Box<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    /// What the packets of this round lead to is on disk once this is done.
    commit: Option<Commit>,
    /// There is something to write.
    dirty: bool,
    waiting: VecDeque<(Commit, Vec<u8>)>,
    bytes: usize,
    /// The first that waits is CONNACK: nothing goes out before.
    greeting: bool,
    /// Up to here the store has been told that the session's queue is done with.
    finished: Option<Seq>,
}

impl Held {
    /// With CONNACK waiting.
    pub(in crate::server) fn greeting(commit: Commit, connack: Vec<u8>) -> Self {
        let bytes = connack.len();
        let waiting = VecDeque::from([(commit, connack)]);
        Self(Some(Box::new(Answers { waiting, bytes, greeting: true, ..Answers::default() })))
    }

    /// True while CONNACK waits.
    pub(super) fn is_greeting(&self) -> bool {
        self.0.as_ref().is_some_and(|answers| answers.greeting)
    }

    /// True when the client has to wait before it is read again.
    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|answers| answers.bytes >= ANSWERS_BYTES_MAX)
    }
}

impl Connection {
    /// True while the disk is not so far behind that the client has to wait for it.
    pub(super) fn disk_keeps_up(&self) -> bool {
        !self.link.held.is_full()
            && self.link.broker.store.as_ref().is_none_or(|store| store.has_room())
    }

    /// As [`Self::disk_keeps_up`]; when it does not, the task is woken once it does.
    pub(super) fn poll_disk(&self, cx: &Context<'_>) -> bool {
        // What is held wakes the task when it may be said.
        !self.link.held.is_full()
            && self.link.broker.store.as_ref().is_none_or(|store| store.poll_room(cx.waker()))
    }

    /// The answers of this round have to wait for this.
    pub(super) fn wait_for(&mut self, commit: Option<Commit>) {
        if commit.is_some() {
            let answers = self.link.held.0.get_or_insert_default();
            answers.commit = answers.commit.max(commit);
            answers.dirty = true;
        }
    }

    /// There is something to write, which nobody waits for.
    pub(super) fn write_soon(&mut self) {
        self.link.held.0.get_or_insert_default().dirty = true;
    }

    /// Takes a change of a durable session down; the answers of this round wait for it.
    pub(super) fn change(&mut self, change: impl FnOnce(crate::store::SessionNo) -> Change) {
        let commit = self.link.peer.durable().map(|durable| durable.change(change));
        self.wait_for(commit);
    }

    /// Keeps back what must not be said yet, and puts into `out` what may be said now.
    pub(super) fn hold_answers(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        if self.link.peer.durable().is_some() {
            self.note_steps();
        }
        let Some(answers) = &mut self.link.held.0 else { return };
        let Some(store) = &self.link.broker.store else { return };
        let commit = answers.commit.take();
        if std::mem::take(&mut answers.dirty) {
            store.flush();
        }
        let last = answers.waiting.back().map(|(last, _)| *last);
        if let Some(commit) = commit.max(last)
            && !out.is_empty()
        {
            answers.bytes += out.len();
            answers.waiting.push_back((commit, std::mem::take(out)));
        }
        while let Some((commit, _)) = answers.waiting.front() {
            if !store.poll_committed(*commit, cx.waker()) {
                return;
            }
            let Some((_, bytes)) = answers.waiting.pop_front() else { return };
            answers.bytes -= bytes.len();
            answers.greeting = false;
            out.extend_from_slice(&bytes);
        }
        if answers.finished.is_none() {
            self.link.held.0 = None;
        }
    }

    /// Takes the steps of a durable session down; the answers of this round wait for them.
    pub(super) fn note_steps(&mut self) {
        let Some(durable) = self.link.peer.durable() else { return };
        let mut commit = None;
        for step in self.link.session.take_steps() {
            let taken = durable.change(|session| match step {
                Step::Held(id) => Change::Held(session, id),
                Step::Freed(id) => Change::Freed(session, id),
                Step::Released(seq) => Change::Released(session, seq),
            });
            commit = commit.max(Some(taken));
        }
        self.wait_for(commit);
    }

    /// Tells the store how far a durable session's queue is done with. Nothing waits for it: what
    /// is not written is delivered again.
    pub(super) fn note_finished(&mut self) {
        let Some(durable) = self.link.peer.durable() else { return };
        let Some(finished) = self.link.session.finished() else { return };
        let answers = self.link.held.0.get_or_insert_default();
        if answers.finished < Some(finished) {
            answers.finished = Some(finished);
            durable.change(|session| Change::Finished(session, finished));
        }
    }
}
