//! Each change, and what is left of it when the store is opened again.

use std::time::Duration;

use super::*;
use crate::mqtt::packet::PublishProperties;

/// Closes the store and opens it again.
fn reopen(folder: &Path, store: Arc<Store>) -> (Arc<Store>, Recovered) {
    store.close().unwrap();
    drop(store);
    open(folder)
}

fn only(recovered: Recovered) -> RecoveredSession {
    let [session] = <[_; 1]>::try_from(recovered.sessions).unwrap();
    session
}

fn waiting(session: &RecoveredSession) -> Vec<u64> {
    session.waiting.iter().map(|it| it.seq.0.get()).collect()
}

#[test]
fn a_new_store_is_empty_and_its_folder_is_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/store");
    let (store, recovered) = open(&folder);
    assert!(recovered.sessions.is_empty() && recovered.retained.is_empty());
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    store.close().unwrap();
}

#[test]
fn a_session_comes_back_as_it_was_last() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let mut changed = record("client");
    changed.expiry_s = 7;
    commit(
        &store,
        [
            Change::Session(number, changed.clone()),
            Change::Subscribe(number, filter("a/+"), options(Qos::AtMostOnce)),
            Change::Subscribe(number, filter("a/+"), options(Qos::ExactlyOnce)),
            Change::Subscribe(number, filter("$share/g/b"), options(Qos::AtLeastOnce)),
            Change::Subscribe(number, filter("c"), options(Qos::AtLeastOnce)),
            Change::Held(number, PacketId::new(9).unwrap()),
            Change::Held(number, PacketId::new(300).unwrap()),
            Change::Held(number, PacketId::new(1).unwrap()),
        ],
    );
    commit(
        &store,
        [
            Change::Unsubscribe(number, filter("c")),
            Change::Freed(number, PacketId::new(9).unwrap()),
        ],
    );
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!(session.number, number);
    assert_eq!(session.record, *changed);
    let mut subscriptions = session.subscriptions;
    subscriptions.sort_by_key(|(filter, _)| filter.to_string());
    assert_eq!(
        subscriptions,
        [
            (filter("$share/g/b"), options(Qos::AtLeastOnce)),
            (filter("a/+"), options(Qos::ExactlyOnce)),
        ]
    );
    assert_eq!(session.held.iter().map(|id| id.as_u16()).collect::<Vec<_>>(), [1, 300]);
    assert_eq!((session.next_seq, session.waiting), (seq(1), vec![]));
    assert!(store.next_session() > number);
}

#[test]
fn a_filter_of_any_length_can_be_subscribed_to() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let long = filter(&"a".repeat(65_535));
    commit(&store, [Change::Subscribe(number, long.clone(), options(Qos::AtMostOnce))]);
    let (_store, recovered) = reopen(folder.path(), store);
    assert_eq!(only(recovered).subscriptions, [(long, options(Qos::AtMostOnce))]);
}

#[test]
fn a_queue_comes_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    for batch in 0..5 {
        commit(&store, (1..=100).map(|at| enqueue(number, batch * 100 + at)));
    }
    assert_eq!(numbers(&store, number), (1..=500).collect::<Vec<_>>());
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!(waiting(&session), (1..=500).collect::<Vec<_>>());
    assert_eq!(session.waiting[0].bytes, 6);
    assert_eq!(session.next_seq, seq(501));
    let read = queue(&store, number);
    assert_eq!(read.len(), 500);
    for (at, payload) in read {
        assert_eq!(payload, format!("{} {at}", number.0));
    }
}

#[test]
fn a_queue_is_read_in_parts_of_the_size_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    for batch in 0..3 {
        commit(&store, (1..=10).map(|at| enqueue(number, batch * 10 + at)));
    }
    let read = |from, most| {
        let page = try_read(&store, number, from, most).unwrap();
        let numbers: Vec<_> = page.deliveries.iter().map(|it| number_and_payload(it).0).collect();
        (numbers, page.next.0.get())
    };
    assert_eq!(read(1, (3, u64::MAX)), (vec![1, 2, 3], 4));
    assert_eq!(read(9, (3, u64::MAX)), (vec![9, 10, 11], 12));
    assert_eq!(read(1, (0, 0)), (vec![1], 2));
    assert_eq!(read(1, (10, 12)), (vec![1, 2], 3));
    assert_eq!(read(28, (10, u64::MAX)), (vec![28, 29, 30], 31));
    assert_eq!(read(31, (10, u64::MAX)), (vec![], 31));
    let none = try_read(&store, SessionNo(99), 1, (9, 9)).unwrap();
    assert!(none.deliveries.is_empty());
}

#[test]
fn a_read_sees_what_was_taken_down_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let after = store.change(enqueue(number, 1));
    let (done, page) = mpsc::channel();
    store.read(number, seq(1), after, (9, 999), move |read| done.send(read).unwrap());
    store.flush();
    assert_eq!(page.recv().unwrap().unwrap().deliveries.len(), 1);
}

#[test]
fn what_is_finished_goes_with_its_page_and_is_not_delivered_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(&store, (1..=3).map(|at| enqueue(number, at)));
    commit(&store, (4..=6).map(|at| enqueue(number, at)));
    commit(&store, [Change::Finished(number, seq(2)), Change::Finished(number, seq(4))]);
    assert_eq!(numbers(&store, number), [5, 6]);
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!((waiting(&session), session.next_seq), (vec![5, 6], seq(7)));
    assert_eq!(numbers(&store, number), [5, 6]);
    store.close().unwrap();
    drop(store);
    assert_eq!(count(folder.path(), "queue"), 1);
    let (store, _) = open(folder.path());
    commit(&store, [Change::Finished(number, seq(6))]);
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!((waiting(&session), session.next_seq), (vec![], seq(7)));
    store.close().unwrap();
    drop(store);
    assert_eq!(count(folder.path(), "queue"), 0);
}

#[test]
fn what_is_finished_in_the_same_batch_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(
        &store,
        [
            enqueue(number, 1),
            enqueue(number, 2),
            Change::Finished(number, seq(2)),
            enqueue(number, 3),
        ],
    );
    commit(&store, [enqueue(number, 4), Change::Finished(number, seq(4))]);
    store.close().unwrap();
    drop(store);
    assert_eq!(count(folder.path(), "queue"), 0);
    let (_store, recovered) = open(folder.path());
    let session = only(recovered);
    assert_eq!((waiting(&session), session.next_seq), (vec![], seq(5)));
}

#[test]
fn a_released_delivery_is_known_but_its_message_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(&store, (1..=4).map(|at| enqueue(number, at)));
    commit(&store, [Change::Released(number, seq(3)), Change::Released(number, seq(2))]);
    assert_eq!(numbers(&store, number), [1, 4]);
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!((waiting(&session), &*session.released), (vec![1, 4], &[seq(2), seq(3)][..]));
    assert_eq!(numbers(&store, number), [1, 4]);
    commit(&store, [Change::Finished(number, seq(2))]);
    let (_store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!((waiting(&session), &*session.released), (vec![4], &[seq(3)][..]));
}

#[test]
fn a_session_ends_with_all_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let (one, other) = (begin(&store, "one"), begin(&store, "other"));
    let big = message("big", &[7; 1000]);
    for number in [one, other] {
        let to_both = |at| Change::Enqueue(number, delivery(at, &big));
        commit(
            &store,
            [
                Change::Subscribe(number, filter("a"), options(Qos::AtMostOnce)),
                Change::Held(number, PacketId::new(1).unwrap()),
                to_both(1),
                enqueue(number, 2),
                Change::Released(number, seq(2)),
            ],
        );
    }
    commit(
        &store,
        [
            Change::Held(one, PacketId::new(2).unwrap()),
            enqueue(one, 3),
            Change::End(one),
            enqueue(one, 4),
            Change::Held(one, PacketId::new(3).unwrap()),
        ],
    );
    assert!(numbers(&store, one).is_empty());
    let (store, recovered) = reopen(folder.path(), store);
    let session = only(recovered);
    assert_eq!((session.number, waiting(&session)), (other, vec![1]));
    commit(&store, [Change::End(other)]);
    store.close().unwrap();
    drop(store);
    for keyspace in ["state", "queue", "bodies"] {
        assert_eq!(count(folder.path(), keyspace), 0, "{keyspace}");
    }
    let (store, _) = open(folder.path());
    assert!(store.next_session() > other);
}

#[test]
fn a_message_for_several_is_stored_once_and_goes_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let sessions: Vec<_> = (0..3).map(|at| begin(&store, &format!("client {at}"))).collect();
    let (big, small) = (message("big", &[7; 1000]), message("small", b"s"));
    commit(
        &store,
        sessions.iter().flat_map(|number| {
            [(1, &big), (2, &small)].map(|(at, it)| Change::Enqueue(*number, delivery(at, it)))
        }),
    );
    store.close().unwrap();
    drop(store);
    assert_eq!(count(folder.path(), "bodies"), 1);
    let (mut store, _) = open(folder.path());
    for (at, number) in sessions.iter().enumerate() {
        let page = try_read(&store, *number, 1, (9, 9999)).unwrap();
        assert_eq!(*page.deliveries[0].message.payload, [7; 1000]);
        assert_eq!(*page.deliveries[1].message.payload, *b"s");
        commit(&store, [Change::Finished(*number, seq(2))]);
        store.close().unwrap();
        drop(store);
        assert_eq!(count(folder.path(), "bodies"), usize::from(at < 2), "{at}");
        store = open(folder.path()).0;
    }
}

#[test]
fn a_large_batch_makes_several_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let big = message("big", &vec![7; 40_000]);
    commit(&store, (1..=5).map(|at| Change::Enqueue(number, delivery(at, &big))));
    assert_eq!(numbers(&store, number), [1, 2, 3, 4, 5]);
    store.close().unwrap();
    drop(store);
    // Each takes entries until it has 64 KiB.
    assert_eq!(count(folder.path(), "queue"), 3);
}

#[test]
fn what_has_expired_is_neither_delivered_nor_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let expiring = |text: &str, seconds| {
        let properties = PublishProperties { message_expiry_s: Some(seconds), ..<_>::default() };
        let (id, qos) = (MessageId(0), Qos::AtLeastOnce);
        let (payload, properties) = (b"x".as_slice().into(), Some(Box::new(properties)));
        let arrived = Instant::now();
        Arc::new(Message::new(id, topic(text), payload, qos, true, properties, arrived))
    };
    let (soon, late) = (expiring("soon", 100), expiring("late", 10_000));
    let account = Arc::clone(&record("x").account);
    commit(
        &store,
        [
            Change::Enqueue(number, delivery(1, &expiring("gone", 0))),
            Change::Enqueue(number, delivery(2, &late)),
            Change::Retain(Arc::clone(&soon), Arc::clone(&account)),
            Change::Retain(Arc::clone(&late), Arc::clone(&account)),
        ],
    );
    commit(&store, [Change::Enqueue(number, delivery(3, &soon))]);
    let page = try_read(&store, number, 1, (9, 999)).unwrap();
    let numbers: Vec<_> = page.deliveries.iter().map(|it| number_and_payload(it).0).collect();
    assert_eq!((numbers, page.next), (vec![2, 3], seq(4)));
    let left = page.deliveries[0].message.expiry_left_s(Instant::now()).unwrap();
    assert!((9_995..=10_000).contains(&left), "{left}");
    store.close().unwrap();
    drop(store);
    let later = (Instant::now(), SystemTime::now() + Duration::from_secs(200));
    let (store, recovered) = Store::open(&settings(folder.path()), later).unwrap();
    let topics: Vec<_> = recovered.retained.iter().map(|it| it.message.topic.as_str()).collect();
    assert_eq!(topics, ["late"]);
    let left = recovered.retained[0].message.expiry_left_s(later.0).unwrap();
    assert!((9_795..=9_801).contains(&left), "{left}");
    let session = only(recovered);
    assert_eq!((waiting(&session), session.next_seq), (vec![2], seq(4)));
    store.close().unwrap();
    drop(store);
    assert_eq!((count(folder.path(), "queue"), count(folder.path(), "retained")), (1, 1));
    let (_store, recovered) = open(folder.path());
    assert_eq!(only(recovered).next_seq, seq(4));
}

#[test]
fn a_topic_keeps_its_last_retained_message() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let account = Arc::clone(&record("x").account);
    let retain = |text, payload: &str| {
        Change::Retain(message(text, payload.as_bytes()), Arc::clone(&account))
    };
    commit(&store, [retain("a", "1"), retain("b", "1"), retain("a", "2"), retain("c", "1")]);
    commit(&store, [Change::Clear(topic("b")), retain("c", "2"), Change::Clear(topic("c"))]);
    commit(&store, [retain("c", "3"), retain(&"d".repeat(65_535), "1")]);
    let (_store, recovered) = reopen(folder.path(), store);
    let kept: Vec<_> = recovered
        .retained
        .iter()
        .map(|it| (it.message.topic.as_str(), &*it.message.payload))
        .collect();
    assert_eq!(kept, [("a", b"2".as_slice()), ("c", b"3"), (&"d".repeat(65_535), b"1"),]);
    assert_eq!(recovered.retained[0].account, account);
}

#[test]
fn what_nobody_waits_for_is_written_when_the_store_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(&store, (1..=3).map(|at| enqueue(number, at)));
    store.change(Change::Finished(number, seq(2)));
    let (_store, recovered) = reopen(folder.path(), store);
    assert_eq!(waiting(&only(recovered)), [3]);
}

#[test]
fn numbers_of_sessions_are_not_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut given = Vec::new();
    for _ in 0..3 {
        let (store, _) = open(folder.path());
        for _ in 0..2 {
            let number = begin(&store, "client");
            commit(&store, [Change::End(number)]);
            given.push(number);
        }
    }
    assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
}
