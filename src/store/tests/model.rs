//! Random changes, with closing and killing in between, against a simple model.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A change by small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    Enqueue {
        session: usize,
        payload: u16,
    },
    /// The same message for all.
    EnqueueAll {
        payload: u16,
    },
    /// So many of those that wait.
    Finish {
        session: usize,
        share: u8,
    },
    Release {
        session: usize,
        share: u8,
    },
    Hold {
        session: usize,
        id: u16,
    },
    Free {
        session: usize,
        id: u16,
    },
    Subscribe {
        session: usize,
        filter: u8,
        id: u32,
    },
    Unsubscribe {
        session: usize,
        filter: u8,
    },
    Retain {
        topic: u8,
        payload: u16,
    },
    Clear {
        topic: u8,
    },
    End {
        session: usize,
    },
    Commit,
    Close,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..4_usize;
    let small = 0..5_u8;
    prop_oneof![
        2 => Just(Step::Begin),
        8 => (session.clone(), any::<u16>())
            .prop_map(|(session, payload)| Step::Enqueue { session, payload }),
        4 => any::<u16>().prop_map(|payload| Step::EnqueueAll { payload }),
        4 => (session.clone(), any::<u8>())
            .prop_map(|(session, share)| Step::Finish { session, share }),
        2 => (session.clone(), any::<u8>())
            .prop_map(|(session, share)| Step::Release { session, share }),
        2 => (session.clone(), 1..5_u16).prop_map(|(session, id)| Step::Hold { session, id }),
        2 => (session.clone(), 1..5_u16).prop_map(|(session, id)| Step::Free { session, id }),
        2 => (session.clone(), small.clone(), 1..9_u32)
            .prop_map(|(session, filter, id)| Step::Subscribe { session, filter, id }),
        1 => (session.clone(), small.clone())
            .prop_map(|(session, filter)| Step::Unsubscribe { session, filter }),
        2 => (small.clone(), any::<u16>())
            .prop_map(|(topic, payload)| Step::Retain { topic, payload }),
        1 => small.prop_map(|topic| Step::Clear { topic }),
        1 => session.prop_map(|session| Step::End { session }),
        6 => Just(Step::Commit),
        1 => Just(Step::Close),
        2 => Just(Step::Kill),
    ]
}

/// What the store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    sessions: BTreeMap<u64, Modelled>,
    retained: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Modelled {
    subscriptions: BTreeMap<String, u32>,
    held: Vec<u16>,
    released: Vec<u64>,
    waiting: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

/// A payload above and below what is stored once for all.
fn payload(number: u16) -> Vec<u8> {
    number.to_be_bytes().repeat(if number.is_multiple_of(2) { 4 } else { 200 })
}

impl Model {
    fn nth(&mut self, nth: usize) -> Option<(u64, &mut Modelled)> {
        let at = nth.checked_rem(self.sessions.len())?;
        self.sessions.iter_mut().nth(at).map(|(number, session)| (*number, session))
    }

    /// Does to itself what the returned changes do to the store.
    fn apply(&mut self, step: &Step, store: &Store) -> Vec<Change> {
        let filter_of = |at: u8| filter(&format!("f/{at}"));
        match *step {
            Step::Begin => {
                let number = store.next_session();
                self.sessions.insert(number.0, Modelled::default());
                vec![Change::Session(number, record(&format!("client {}", number.0)))]
            }
            Step::EnqueueAll { payload: it } => {
                let message = message("t", &payload(it));
                let enqueue = |(number, session): (&u64, &mut Modelled)| {
                    session.last += 1;
                    session.waiting.insert(session.last, message.payload.to_vec());
                    Change::Enqueue(SessionNo(*number), delivery(session.last, &message))
                };
                self.sessions.iter_mut().map(enqueue).collect()
            }
            Step::Retain { topic, payload: it } => {
                let text = format!("r/{topic}");
                self.retained.insert(text.clone(), payload(it));
                vec![Change::Retain(message(&text, &payload(it)), record("x").account.clone())]
            }
            Step::Clear { topic: at } => {
                let text = format!("r/{at}");
                self.retained.remove(&text);
                vec![Change::Clear(topic(&text))]
            }
            Step::End { session } => {
                let Some((number, _)) = self.nth(session) else { return Vec::new() };
                self.sessions.remove(&number);
                vec![Change::End(SessionNo(number))]
            }
            Step::Enqueue { session, .. }
            | Step::Finish { session, .. }
            | Step::Release { session, .. }
            | Step::Hold { session, .. }
            | Step::Free { session, .. }
            | Step::Subscribe { session, .. }
            | Step::Unsubscribe { session, .. } => {
                let Some((number, session)) = self.nth(session) else { return Vec::new() };
                session.apply(SessionNo(number), step, &filter_of).into_iter().collect()
            }
            Step::Commit | Step::Close | Step::Kill => Vec::new(),
        }
    }

    fn of(store: &Store, recovered: &Recovered) -> Self {
        let sessions = recovered.sessions.iter().map(|it| {
            let number = it.number;
            let page = try_read(store, number, 1, (usize::MAX, u64::MAX)).unwrap();
            let waiting: BTreeMap<_, _> = page
                .deliveries
                .iter()
                .map(|it| (it.seq.unwrap().0.get(), it.message.payload.to_vec()))
                .collect();
            let told: Vec<_> = it.waiting.iter().map(|it| it.seq.0.get()).collect();
            assert_eq!(told, waiting.keys().copied().collect::<Vec<_>>());
            let subscription = |(filter, options): &(SubscriptionFilter, SubscriptionOptions)| {
                (filter.to_string(), options.id.unwrap().get())
            };
            let modelled = Modelled {
                subscriptions: it.subscriptions.iter().map(subscription).collect(),
                held: it.held.iter().map(|id| id.as_u16()).collect(),
                released: it.released.iter().map(|seq| seq.0.get()).collect(),
                waiting,
                last: it.next_seq.0.get() - 1,
            };
            (number.0, modelled)
        });
        let retained = recovered
            .retained
            .iter()
            .map(|it| (it.message.topic.to_string(), it.message.payload.to_vec()));
        Self { sessions: sessions.collect(), retained: retained.collect() }
    }
}

impl Modelled {
    fn apply(
        &mut self,
        number: SessionNo,
        step: &Step,
        filter_of: &dyn Fn(u8) -> SubscriptionFilter,
    ) -> Option<Change> {
        Some(match *step {
            Step::Enqueue { payload: it, .. } => {
                self.last += 1;
                self.waiting.insert(self.last, payload(it));
                Change::Enqueue(number, delivery(self.last, &message("t", &payload(it))))
            }
            Step::Finish { share, .. } => {
                let up_to = self.pick(share)?;
                self.waiting.retain(|at, _| *at > up_to);
                self.released.retain(|at| *at > up_to);
                Change::Finished(number, seq(up_to))
            }
            Step::Release { share, .. } => {
                let at = self.pick(share)?;
                self.waiting.remove(&at)?;
                self.released.push(at);
                self.released.sort_unstable();
                Change::Released(number, seq(at))
            }
            Step::Hold { id, .. } => {
                if !self.held.contains(&id) {
                    self.held.push(id);
                    self.held.sort_unstable();
                }
                Change::Held(number, PacketId::new(id).unwrap())
            }
            Step::Free { id, .. } => {
                self.held.retain(|held| *held != id);
                Change::Freed(number, PacketId::new(id).unwrap())
            }
            Step::Subscribe { filter: at, id, .. } => {
                self.subscriptions.insert(filter_of(at).to_string(), id);
                let id = std::num::NonZeroU32::new(id);
                let options = SubscriptionOptions { id, ..options(Qos::AtLeastOnce) };
                Change::Subscribe(number, filter_of(at), options)
            }
            Step::Unsubscribe { filter: at, .. } => {
                self.subscriptions.remove(&filter_of(at).to_string());
                Change::Unsubscribe(number, filter_of(at))
            }
            _ => return None,
        })
    }

    /// One of the deliveries that are not finished.
    fn pick(&self, share: u8) -> Option<u64> {
        let mut all: Vec<_> = self.waiting.keys().chain(&self.released).copied().collect();
        all.sort_unstable();
        all.get(usize::from(share) * all.len() / 256).copied()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_store_holds_what_a_simple_model_holds(steps in vec(step(), 1..120)) {
        let mut folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(folder.path());
        let mut model = Model::default();
        let mut last = Commit(0);
        for step in steps.iter().chain([&Step::Kill]) {
            for change in model.apply(step, &store) {
                last = store.change(change);
            }
            if !matches!(step, Step::Commit | Step::Close | Step::Kill) {
                continue;
            }
            if matches!(step, Step::Close) {
                store.close().unwrap();
            } else {
                // Something that has to be written, so that nothing waits for its time.
                last = last.max(store.change(Change::Clear(topic("none"))));
                store.flush();
                store.shared.inbox.wait(last).unwrap();
            }
            if matches!(step, Step::Kill) {
                folder = crash_image(folder.path());
            }
            if matches!(step, Step::Close | Step::Kill) {
                let (opened, recovered) = open(folder.path());
                store = opened;
                last = Commit(0);
                prop_assert_eq!(&Model::of(&store, &recovered), &model);
            }
        }
        for number in model.sessions.keys() {
            store.change(Change::End(SessionNo(*number)));
        }
        store.close().unwrap();
        for keyspace in ["state", "queue", "bodies"] {
            prop_assert_eq!(count(folder.path(), keyspace), 0, "{}", keyspace);
        }
    }
}
