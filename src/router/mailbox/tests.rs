//! What goes in, what comes out, what is counted, and who is woken.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use super::expiry::EXPIRE_EVERY;
use super::*;
use crate::mqtt::{SubscriptionFilter, TopicName};
use crate::router::tests::{mailbox_settings, peer, standing};
use crate::session::{Message, MessageId, Subscription, SubscriptionOptions, Via};
use crate::store::Store;

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// Counts its wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn wakes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A delivery of so many bytes, at least one; its number is the message's name.
fn delivery(number: u64, qos: Qos, bytes: usize) -> Delivery {
    let options =
        SubscriptionOptions { qos, no_local: false, retain_as_published: false, id: None };
    let filter = SubscriptionFilter::parse("t").unwrap();
    let via = Arc::new(Via::one(Arc::new(Subscription::new(filter, options))));
    let topic = TopicName::parse("t").unwrap();
    let payload = vec![b'x'; bytes - 1].into();
    let message = Message::new(MessageId(number), topic, payload, qos, false, None, Instant::now());
    Delivery { message: Arc::new(message), via, qos, retain: false, wide: false, seq: None }
}

fn settings(messages_max: u32, bytes_max: u64, overflow: Overflow) -> Arc<Settings> {
    Arc::new(Settings { messages_max, bytes_max, overflow, ..Settings::clone(&mailbox_settings()) })
}

fn mailbox(messages_max: u32, bytes_max: u64, overflow: Overflow) -> (Mailbox, Arc<Budget>) {
    let budget = Arc::new(Budget::new(1000));
    let settings = settings(messages_max, bytes_max, overflow);
    let mailbox = Mailbox::new(Arc::clone(&settings), Arc::clone(&budget), Arc::default());
    mailbox.attach(settings);
    (mailbox, budget)
}

/// What became of it, and whether to wake the connection.
fn post(mailbox: &Mailbox, delivery: Delivery) -> (Posted, bool) {
    let receipt = mailbox.post(delivery, Asked::No);
    (receipt.posted, receipt.wake)
}

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.message.id.0).collect()
}

/// The numbers of what waits.
fn waiting(mailbox: &Mailbox) -> Vec<u64> {
    mailbox.inner.lock().queue.iter().map(|delivery| delivery.message.id.0).collect()
}

fn most(room: u16, messages: usize, bytes: u64) -> Most {
    Most { room, before: None, messages, bytes }
}

fn take(mailbox: &Mailbox, room: u16, count_max: usize, bytes_max: u64) -> Vec<u64> {
    let mut into = Vec::new();
    mailbox.take(most(room, count_max, bytes_max), Waker::noop(), &mut into);
    numbers(&into)
}

#[test]
fn a_full_mailbox_drops_the_newest_and_qos_0_in_any_case() {
    let (mailbox, _) = mailbox(2, 100, Overflow::DropNewest);
    for (number, qos, expected) in [
        (0, Qos::AtMostOnce, Posted::Queued),
        (1, Qos::AtLeastOnce, Posted::Queued),
        (2, Qos::ExactlyOnce, Posted::Dropped),
        (3, Qos::AtMostOnce, Posted::Dropped),
    ] {
        assert_eq!(post(&mailbox, delivery(number, qos, 1)).0, expected, "{number}");
    }
    assert_eq!(waiting(&mailbox), [0, 1]);
}

#[test]
fn a_full_mailbox_drops_the_oldest_where_it_is_told_to() {
    let (mailbox, budget) = mailbox(3, 10, Overflow::DropOldest);
    for (number, qos, bytes, expected, left) in [
        (0, Qos::AtMostOnce, 1, Posted::Queued, &[0][..]),
        (1, Qos::AtLeastOnce, 2, Posted::Queued, &[0, 1]),
        (2, Qos::AtLeastOnce, 3, Posted::Queued, &[0, 1, 2]),
        (3, Qos::AtMostOnce, 1, Posted::Dropped, &[0, 1, 2]),
        (4, Qos::ExactlyOnce, 1, Posted::DroppedOldest(1), &[1, 2, 4]),
        (5, Qos::AtLeastOnce, 9, Posted::DroppedOldest(2), &[4, 5]),
        (6, Qos::AtLeastOnce, 10, Posted::DroppedOldest(2), &[6]),
    ] {
        assert_eq!(post(&mailbox, delivery(number, qos, bytes)).0, expected, "{number}");
        assert_eq!(waiting(&mailbox), left, "{number}");
    }
    assert_eq!((budget.bytes(), budget.messages()), (10, 1));
}

#[test]
fn what_could_never_wait_drives_nothing_out() {
    let (mailbox, budget) = mailbox(3, 10, Overflow::DropOldest);
    post(&mailbox, delivery(0, Qos::AtLeastOnce, 3));
    assert_eq!(post(&mailbox, delivery(1, Qos::AtLeastOnce, 11)).0, Posted::Dropped);
    assert_eq!(waiting(&mailbox), [0]);
    // Nor what the broker's budget has no room for, even with this mailbox empty.
    let settings = settings(1, 2000, Overflow::DropOldest);
    let other = Mailbox::new(settings, Arc::clone(&budget), Arc::default());
    post(&other, delivery(2, Qos::AtLeastOnce, 995));
    assert_eq!(post(&mailbox, delivery(3, Qos::AtLeastOnce, 6)).0, Posted::Dropped);
    assert_eq!(waiting(&mailbox), [0]);
    assert_eq!(post(&mailbox, delivery(4, Qos::AtLeastOnce, 5)).0, Posted::DroppedOldest(1));
    assert_eq!((budget.bytes(), budget.messages()), (1000, 2));
}

#[test]
fn qos_0_needs_a_connection_and_goes_with_it() {
    let (mailbox, budget) = mailbox(10, 100, Overflow::DropNewest);
    for (number, qos) in (0..6).zip(QOS.into_iter().cycle()) {
        post(&mailbox, delivery(number, qos, 5));
    }
    mailbox.detach();
    assert_eq!(waiting(&mailbox), [1, 2, 4, 5]);
    assert_eq!((budget.bytes(), budget.messages()), (20, 4));
    assert_eq!(post(&mailbox, delivery(6, Qos::AtMostOnce, 1)), (Posted::Absent, false));
    assert_eq!(post(&mailbox, delivery(7, Qos::AtLeastOnce, 1)), (Posted::Queued, false));
    mailbox.attach(settings(10, 100, Overflow::DropNewest));
    assert_eq!(post(&mailbox, delivery(8, Qos::AtMostOnce, 1)).0, Posted::Queued);
    assert_eq!(take(&mailbox, 9, 9, 99), [1, 2, 4, 5, 7, 8]);
}

#[test]
fn what_is_taken_is_bounded_in_room_count_and_bytes_and_stays_in_order() {
    let (mailbox, budget) = mailbox(10, 100, Overflow::DropNewest);
    for (number, qos) in (0..9).zip(QOS.into_iter().cycle()) {
        post(&mailbox, delivery(number, qos, 5));
    }
    assert_eq!(take(&mailbox, 0, 9, 99), [0], "QoS 0 needs no room, and passes nobody");
    assert_eq!(take(&mailbox, 0, 9, 99), [0; 0]);
    assert_eq!(take(&mailbox, 1, 9, 99), [1]);
    assert_eq!(take(&mailbox, 1, 9, 99), [2, 3]);
    assert_eq!(take(&mailbox, 9, 1, 99), [4]);
    assert_eq!(take(&mailbox, 9, 9, 6), [5, 6], "up to the message that reaches the bound");
    assert_eq!((budget.bytes(), budget.messages()), (10, 2));
    assert_eq!(take(&mailbox, 9, 9, 99), [7, 8]);
    assert_eq!((budget.bytes(), budget.messages()), (0, 0));
}

#[test]
fn what_came_through_a_subscription_can_be_taken_out() {
    let (mailbox, budget) = mailbox(10, 100, Overflow::DropNewest);
    for number in 0..6 {
        post(&mailbox, delivery(number, Qos::AtLeastOnce, 5));
    }
    let odd = mailbox.extract(|delivery| delivery.message.id.0 % 2 == 1);
    assert_eq!((numbers(&odd), waiting(&mailbox)), (vec![1, 3, 5], vec![0, 2, 4]));
    assert_eq!((budget.bytes(), budget.messages()), (15, 3));
}

#[test]
fn an_ended_mailbox_holds_nothing_and_takes_nothing() {
    let (mailbox, budget) = mailbox(10, 100, Overflow::DropNewest);
    post(&mailbox, delivery(0, Qos::AtLeastOnce, 5));
    mailbox.end();
    assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    for qos in QOS {
        assert_eq!(post(&mailbox, delivery(1, qos, 5)), (Posted::Ended, false));
    }
    drop(mailbox);
    assert_eq!((budget.bytes(), budget.messages()), (0, 0));
}

#[test]
fn a_mailbox_that_goes_gives_its_bytes_back() {
    let (mailbox, budget) = mailbox(10, 100, Overflow::DropNewest);
    post(&mailbox, delivery(0, Qos::AtLeastOnce, 5));
    drop(mailbox);
    assert_eq!((budget.bytes(), budget.messages()), (0, 0));
}

/// A connected peer, and its waker.
fn sleeper() -> (Arc<Peer>, Arc<Count>, Waker) {
    let peer = peer("p");
    peer.mailbox.attach(settings(100, 1000, Overflow::DropNewest));
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    (peer, count, waker)
}

#[test]
fn a_connection_that_waits_is_woken_once_for_a_batch() {
    let (peer, count, waker) = sleeper();
    let mut into = Vec::new();
    let mut batch = Wakes::default();
    batch.post(&peer, delivery(0, Qos::AtMostOnce, 1), Asked::No);
    batch.wake_all();
    assert_eq!(count.wakes(), 0, "it runs: it has not found the mailbox empty yet");
    peer.mailbox.take(most(9, 9, 99), &waker, &mut into);
    batch.post(&peer, delivery(1, Qos::AtMostOnce, 1), Asked::No);
    batch.wake_all();
    assert_eq!(count.wakes(), 0, "it comes again by itself, having got something");
    peer.mailbox.take(most(9, 9, 99), &waker, &mut into);
    peer.mailbox.take(most(9, 9, 99), &waker, &mut into);
    assert_eq!(numbers(&into), [0, 1]);
    let mut other = Wakes::default();
    for number in 2..5 {
        batch.post(&peer, delivery(number, Qos::AtMostOnce, 1), Asked::No);
        other.post(&peer, delivery(number, Qos::AtMostOnce, 1), Asked::No);
    }
    assert_eq!(count.wakes(), 0, "at the end of the batch");
    other.wake_all();
    assert_eq!(count.wakes(), 0, "the first to post has undertaken it");
    batch.wake_all();
    batch.wake_all();
    assert_eq!(count.wakes(), 1);
}

#[test]
fn a_publisher_that_fails_in_the_middle_wakes_those_it_has_posted_to() {
    let (peer, count, waker) = sleeper();
    peer.mailbox.take(most(9, 9, 99), &waker, &mut Vec::new());
    let mut batch = Wakes::default();
    batch.post(&peer, delivery(0, Qos::AtMostOnce, 1), Asked::No);
    drop(batch);
    assert_eq!(count.wakes(), 1);
}

#[test]
fn what_may_not_be_taken_yet_does_not_keep_the_connection_awake() {
    let (peer, count, waker) = sleeper();
    let mut batch = Wakes::default();
    batch.post(&peer, delivery(0, Qos::AtLeastOnce, 1), Asked::No);
    let mut into = Vec::new();
    peer.mailbox.take(most(0, 9, 99), &waker, &mut into);
    batch.post(&peer, delivery(1, Qos::AtLeastOnce, 1), Asked::No);
    batch.wake_all();
    assert_eq!(count.wakes(), 1);
}

#[test]
fn a_signal_wakes_and_is_given_once_and_a_close_is_not_overwritten() {
    let (peer, count, waker) = sleeper();
    let close = Signal::Close(ReasonCode::SessionTakenOver);
    let mut into = Vec::new();
    let mailbox = &peer.mailbox;
    assert_eq!(mailbox.take(most(9, 9, 99), &waker, &mut into), None);
    mailbox.signal(Signal::Rejudge);
    assert_eq!(count.wakes(), 1);
    assert_eq!(mailbox.take(most(9, 9, 99), &waker, &mut into), Some(Signal::Rejudge));
    // Whatever the connection does about it, it sleeps again and has to be woken again.
    mailbox.signal(close);
    assert_eq!(count.wakes(), 2);
    mailbox.signal(Signal::Rejudge);
    mailbox.signal(Signal::Close(ReasonCode::ServerShuttingDown));
    assert_eq!(mailbox.take(most(9, 9, 99), &waker, &mut into), Some(close));
    assert_eq!(mailbox.take(most(9, 9, 99), &waker, &mut into), None);
}

#[test]
fn a_signal_for_one_connection_does_not_reach_the_next() {
    let (peer, _, waker) = sleeper();
    let mailbox = &peer.mailbox;
    mailbox.signal(Signal::Close(ReasonCode::SessionTakenOver));
    mailbox.detach();
    mailbox.signal(Signal::Close(ReasonCode::SessionTakenOver));
    mailbox.attach(settings(100, 1000, Overflow::DropNewest));
    assert_eq!(mailbox.take(most(9, 9, 99), &waker, &mut Vec::new()), None);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Post(Qos, usize),
    Take(u16, usize, u64),
    Extract,
    Attach(u32, u64, Overflow),
    Detach,
    End,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let overflow = select(vec![Overflow::DropNewest, Overflow::DropOldest]);
    let step = prop_oneof![
        12 => (select(QOS.to_vec()), 1..40_usize).prop_map(|(qos, bytes)| Step::Post(qos, bytes)),
        3 => (0..6_u16, 0..6_usize, 0..60_u64).prop_map(|(r, c, b)| Step::Take(r, c, b)),
        1 => Just(Step::Extract),
        2 => (1..8_u32, 1..100_u64, overflow).prop_map(|(m, b, o)| Step::Attach(m, b, o)),
        1 => Just(Step::Detach),
    ];
    (0..3_usize, prop_oneof![60 => step, 1 => Just(Step::End)])
}

/// One mailbox, told simply.
struct Model {
    queue: Vec<(u64, Qos, u64)>,
    settings: Settings,
    attached: bool,
    ended: bool,
}

const BUDGET_BYTES_MAX: u64 = 150;

impl Model {
    fn bytes(&self) -> u64 {
        self.queue.iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// `others` is what waits in the other mailboxes.
    fn post(&mut self, number: u64, qos: Qos, bytes: u64, others: u64) -> Posted {
        if self.ended {
            return Posted::Ended;
        }
        if qos == Qos::AtMostOnce && !self.attached {
            return Posted::Absent;
        }
        let drops_newest = self.settings.overflow == Overflow::DropNewest;
        let drops_itself = qos == Qos::AtMostOnce || drops_newest;
        let total = |queued: &[(u64, Qos, u64)]| -> u64 {
            queued.iter().map(|(_, _, bytes)| bytes).sum::<u64>() + bytes
        };
        for dropped in 0..=self.queue.len() {
            let kept = &self.queue[dropped..];
            let fits = kept.len() < self.settings.messages_max as usize
                && total(kept) <= self.settings.bytes_max
                && total(kept) + others <= BUDGET_BYTES_MAX;
            if fits {
                self.queue.drain(..dropped);
                self.queue.push((number, qos, bytes));
                return if dropped == 0 { Posted::Queued } else { Posted::DroppedOldest(dropped) };
            }
            if drops_itself {
                break;
            }
        }
        Posted::Dropped
    }

    fn take(&mut self, mut room: u16, count_max: usize, bytes_max: u64) -> Vec<u64> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < count_max && bytes < bytes_max {
            match self.queue.first() {
                Some((_, qos, _)) if *qos != Qos::AtMostOnce && room == 0 => break,
                None => break,
                Some(_) => {}
            }
            let (number, qos, size) = self.queue.remove(0);
            room -= u16::from(qos != Qos::AtMostOnce);
            bytes += size;
            taken.push(number);
        }
        taken
    }
}

#[test]
fn the_sessions_of_a_principal_share_what_may_wait_while_nobody_takes_it() {
    let shared = Settings {
        messages_max: 3,
        principal_messages_max: 4,
        principal_bytes_max: 100,
        ..Settings::clone(&settings(3, 1000, Overflow::DropNewest))
    };
    let (budget, quota) = (Arc::new(Budget::new(1000)), Arc::<Quota>::default());
    let mailbox = |overflow| {
        let settings = Arc::new(Settings { overflow, ..shared.clone() });
        Mailbox::new(settings, Arc::clone(&budget), Arc::clone(&quota))
    };
    let (one, other) = (mailbox(Overflow::DropNewest), mailbox(Overflow::DropOldest));
    for number in 0..3 {
        assert_eq!(post(&one, delivery(number, Qos::AtLeastOnce, 1)).0, Posted::Queued);
    }
    assert_eq!(post(&other, delivery(3, Qos::AtLeastOnce, 1)).0, Posted::Queued);
    // Its own oldest goes, not what waits for others.
    assert_eq!(post(&other, delivery(4, Qos::AtLeastOnce, 1)).0, Posted::DroppedOldest(1));
    assert_eq!((waiting(&one), waiting(&other)), (vec![0, 1, 2], vec![4]));
    // What would not fit with all of its own gone drives none of them out.
    assert_eq!(post(&other, delivery(5, Qos::AtLeastOnce, 98)).0, Posted::Dropped);
    assert_eq!(waiting(&other), [4]);
    // Whoever is there takes what comes: the bounds of its own mailbox are enough.
    other.attach(other.settings());
    assert_eq!(post(&other, delivery(6, Qos::AtLeastOnce, 1)).0, Posted::Queued);
    assert_eq!(quota.size(), Size { messages: 3, bytes: 3 });
    // What is taken makes room for the others.
    other.detach();
    assert_eq!(quota.size(), Size { messages: 5, bytes: 5 });
    one.attach(one.settings());
    assert_eq!(take(&one, 9, 9, 99), [0, 1, 2]);
    one.detach();
    assert_eq!(post(&other, delivery(7, Qos::AtLeastOnce, 1)).0, Posted::Queued);
}

/// A delivery of one byte that expires, or does not.
fn expiring(number: u64, expires_at: Option<Instant>) -> Delivery {
    let mut delivery = delivery(number, Qos::AtLeastOnce, 1);
    Arc::get_mut(&mut delivery.message).unwrap().expires_at = expires_at;
    delivery
}

#[test]
fn what_has_expired_makes_room_before_anything_is_dropped() {
    let (mailbox, budget) = mailbox(3, 100, Overflow::DropNewest);
    mailbox.detach();
    let past = Instant::now();
    let future = past + Duration::from_hours(1);
    for (number, at) in [(0, Some(future)), (1, Some(past)), (2, None)] {
        assert_eq!(post(&mailbox, expiring(number, at)).0, Posted::Queued);
    }
    assert_eq!(post(&mailbox, expiring(3, Some(past))).0, Posted::Queued);
    assert_eq!(waiting(&mailbox), [0, 2, 3]);
    // It is not looked through for every message that comes.
    assert_eq!(post(&mailbox, expiring(4, None)).0, Posted::Dropped);
    mailbox.expire(past + 2 * EXPIRE_EVERY);
    assert_eq!(waiting(&mailbox), [0, 2]);
    mailbox.expire(future);
    assert_eq!(waiting(&mailbox), [2]);
    assert_eq!((budget.messages(), budget.bytes()), (1, 1));
    mailbox.expire(future + EXPIRE_EVERY);
    assert_eq!(mailbox.inner.lock().expires_at, None);
}

/// A store in a folder, and a session of it with so many messages waiting.
fn stored(folder: &std::path::Path, mailbox: &Arc<Settings>) -> (Arc<Store>, Arc<Peer>) {
    let settings = crate::store::Settings {
        folder: folder.join("store"),
        durability: Durability::Os,
        accept_loss: false,
        free_bytes_min: Some(0),
    };
    let now = (Instant::now(), std::time::SystemTime::now());
    let (store, _) = Store::open(&settings, now).unwrap();
    let standing = standing("stored", "anonymous");
    let budget = Arc::new(Budget::new(1000));
    let mailbox = Mailbox::new(Arc::clone(mailbox), budget, Arc::default());
    let peer = Arc::new(Peer::new(standing.facts.client_id.clone(), mailbox, standing));
    peer.make_durable(Arc::clone(&store), store.next_session(), &[], Seq::FIRST);
    (store, peer)
}

#[test]
fn what_has_expired_in_the_store_makes_room_and_counts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, peer) = stored(folder.path(), &settings(3, 100, Overflow::DropNewest));
    let now = Instant::now();
    let at = |seconds| Some(now + Duration::from_secs(seconds));
    for (number, expires_at) in [(0, at(1)), (1, at(50)), (2, at(1))] {
        assert_eq!(post(&peer.mailbox, expiring(number, expires_at)).0, Posted::Queued);
    }
    assert_eq!(post(&peer.mailbox, expiring(3, None)).0, Posted::Dropped);
    let backlog = || {
        let inner = peer.mailbox.inner.lock();
        let backlog = inner.backlog.as_ref().unwrap();
        (backlog.size(), backlog.ends().0.map(|(first, last)| (first.0.get(), last.0.get())))
    };
    peer.mailbox.expire(now);
    assert_eq!(backlog(), ((3, 3), Some((1, 3))));
    peer.mailbox.expire(now + Duration::from_secs(3));
    assert_eq!(backlog(), ((1, 1), Some((2, 2))));
    assert_eq!(peer.mailbox.quota.size(), Size { messages: 1, bytes: 1 });
    assert_eq!(post(&peer.mailbox, expiring(4, None)).0, Posted::Queued);
    assert_eq!(backlog(), ((2, 2), Some((2, 4))));
    peer.mailbox.expire(now + Duration::from_secs(100));
    assert_eq!(backlog(), ((1, 1), Some((4, 4))));
}

#[test]
fn a_connection_whose_queue_cannot_be_read_is_closed_and_nothing_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (store, peer) = stored(folder.path(), &settings(3, 100, Overflow::DropNewest));
    post(&peer.mailbox, delivery(0, Qos::AtLeastOnce, 1));
    // What is asked of it from now on is refused.
    store.close().unwrap();
    peer.mailbox.attach(peer.mailbox.settings());
    let mut none = Vec::new();
    let signal = peer.mailbox.take(most(9, 9, 99), Waker::noop(), &mut none);
    let signal = signal.or_else(|| peer.mailbox.take(most(9, 9, 99), Waker::noop(), &mut none));
    assert_eq!(signal, Some(Signal::Close(ReasonCode::ImplementationSpecificError)));
    assert_eq!((none.len(), peer.mailbox.len()), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(11),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn mailboxes_and_their_budget_are_exact_after_anything(steps in vec(step(), 1..150)) {
        let budget = Arc::new(Budget::new(BUDGET_BYTES_MAX));
        let quota = Arc::<Quota>::default();
        let first = settings(4, 60, Overflow::DropOldest);
        let mailboxes: Vec<_> =
            (0..3).map(|_| Mailbox::new(Arc::clone(&first), Arc::clone(&budget), Arc::clone(&quota))).collect();
        let mut models: Vec<_> = (0..3)
            .map(|_| Model {
                queue: vec![],
                settings: Settings::clone(&first),
                attached: false,
                ended: false,
            })
            .collect();
        for (number, (which, step)) in (0..).zip(steps) {
            let mailbox = &mailboxes[which];
            let own = models[which].bytes();
            let others = models.iter().map(Model::bytes).sum::<u64>() - own;
            let model = &mut models[which];
            match step {
                Step::Post(qos, bytes) => {
                    let (posted, _) = post(mailbox, delivery(number, qos, bytes));
                    prop_assert_eq!(posted, model.post(number, qos, bytes as u64, others));
                }
                Step::Take(room, count_max, bytes_max) => {
                    let taken = take(mailbox, room, count_max, bytes_max);
                    prop_assert_eq!(taken, model.take(room, count_max, bytes_max));
                }
                Step::Extract => {
                    mailbox.extract(|delivery| delivery.message.id.0 % 3 == 0);
                    model.queue.retain(|(number, _, _)| number % 3 != 0);
                }
                Step::Attach(messages_max, bytes_max, overflow) => {
                    let settings = settings(messages_max, bytes_max, overflow);
                    mailbox.attach(Arc::clone(&settings));
                    model.settings = Settings::clone(&settings);
                    model.attached = true;
                }
                Step::Detach => {
                    mailbox.detach();
                    model.queue.retain(|(_, qos, _)| *qos != Qos::AtMostOnce);
                    model.attached = false;
                }
                Step::End => {
                    mailbox.end();
                    model.queue.clear();
                    model.ended = true;
                }
            }
            for (mailbox, model) in mailboxes.iter().zip(&models) {
                let expected: Vec<u64> = model.queue.iter().map(|(number, _, _)| *number).collect();
                prop_assert_eq!(waiting(mailbox), expected);
                prop_assert_eq!(mailbox.inner.lock().bytes, model.bytes());
            }
            let bytes: u64 = models.iter().map(Model::bytes).sum();
            let messages: usize = models.iter().map(|model| model.queue.len()).sum();
            prop_assert_eq!((budget.bytes(), budget.messages()), (bytes, messages as u64));
            prop_assert!(bytes <= BUDGET_BYTES_MAX);
            let resting = models.iter().filter(|model| !model.attached);
            let messages = resting.clone().map(|model| model.queue.len() as u64).sum();
            let bytes = resting.map(Model::bytes).sum();
            prop_assert_eq!(quota.size(), Size { messages, bytes });
        }
        drop(mailboxes);
        prop_assert_eq!(quota.size(), Size::default());
        prop_assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    }
}
