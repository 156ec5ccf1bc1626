//! What is looked after while a store is open: failures, room on the disk.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::*;
use crate::store::engine::Engine;
use crate::store::keeper::{self, Keeper, Space};

const GIB: u64 = 1024 * 1024 * 1024;

fn open_probed(folder: &Path, settings: &Settings, probes: Probes) -> Arc<Store> {
    assert_eq!(folder, settings.folder);
    Store::open_with(settings, (Instant::now(), SystemTime::now()), probes).unwrap().0
}

fn failure(store: &Store) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), store.failed()).await })
        .unwrap()
        .to_string()
}

/// What was committed before a writer failed is there again, and nothing that was not.
fn check_failed(folder: &Path, store: Arc<Store>, number: SessionNo, lost: Commit, why: &str) {
    assert!(!store.is_committed(lost));
    assert!(failure(&store).contains(why));
    let later = store.change(enqueue(number, 9));
    store.flush();
    assert!(!store.poll_committed(later, Waker::noop()));
    let (done, page) = mpsc::channel();
    store.read(number, seq(1), later, (9, 9), move |read| done.send(read.is_err()).unwrap());
    assert!(page.recv().unwrap());
    assert!(store.close().is_err());
    drop(store);
    let (store, _) = open(folder);
    assert_eq!(numbers(&store, number), [1]);
}

/// Opens a store whose third batch goes wrong, after one of a session and one of its queue.
fn failing(
    folder: &Path,
    mut wrong: impl FnMut() -> Result<(), StoreError> + Send + 'static,
) -> (Arc<Store>, SessionNo, Commit) {
    let mut batches = 0;
    let write = Box::new(move || {
        batches += 1;
        if batches > 2 { wrong() } else { Ok(()) }
    });
    let store = open_probed(folder, &settings(folder), Probes { write, ..Probes::default() });
    let number = begin(&store, "client");
    commit(&store, [enqueue(number, 1)]);
    let lost = store.change(enqueue(number, 2));
    store.flush();
    (store, number, lost)
}

#[test]
fn after_a_commit_that_failed_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, number, lost) = failing(folder.path(), || {
        Err(StoreError::Failed { doing: "write to the store", error: "no space left".to_owned() })
    });
    check_failed(folder.path(), store, number, lost, "no space left");
}

#[test]
fn after_a_panic_of_the_writer_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, number, lost) = failing(folder.path(), || panic!("provoked"));
    check_failed(folder.path(), store, number, lost, "has panicked");
}

#[test]
fn a_writer_that_never_comes_back_does_not_keep_the_store_from_being_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, lost) = failing(folder.path(), || {
        loop {
            std::thread::park();
        }
    });
    // As the keeper says when the engine is poisoned.
    store.shared.inbox.fail(inbox::closed());
    assert!(!store.is_committed(lost));
    assert!(store.close().is_err());
}

#[test]
fn an_engine_whose_worker_dies_fails_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(&store, [enqueue(number, 1)]);
    drop(store);
    let (store, engine) = {
        let found = open::open(&settings(folder.path()), &Shared::new(), Clock::now()).unwrap();
        (Arc::new(Shared::new()), found)
    };
    let open::Found { engine, folder: locked, .. } = engine;
    let keeper = Keeper {
        shared: Arc::clone(&store),
        engine: engine.clone(),
        folder: locked,
        free_bytes_min: Some(1),
        read_space: Box::new(keeper::read_space),
    };
    let (stop, stopped) = mpsc::channel();
    let thread = std::thread::spawn(move || keeper.run(&stopped));
    // A table cannot be written: there is no folder for it.
    let tables = folder.path().join("data/keyspaces/2/tables");
    std::fs::rename(&tables, tables.with_extension("gone")).unwrap();
    engine.queue.rotate_memtable().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    // The keeper's own thread has to find it, within its deadline and not at a certain time.
    while store.inbox.failure().is_none() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn below_the_watermark_the_disk_is_full_and_above_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let free_bytes = Arc::new(AtomicU64::new(0));
    for (bytes, free_bytes_min, least) in
        [(100 * GIB, None, 5 * GIB), (GIB, None, GIB), (100 * GIB, Some(7), 7)]
    {
        let shared = Arc::new(Shared::new());
        let found = open::open(&settings(folder.path()), &shared, Clock::now()).unwrap();
        let read = Arc::clone(&free_bytes);
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            engine: found.engine,
            folder: found.folder,
            free_bytes_min,
            read_space: Box::new(move |_| {
                Ok(Space { free_bytes: read.load(Ordering::Relaxed), bytes })
            }),
        };
        for (free, is_full) in [(least, false), (least - 1, true), (least, false)] {
            free_bytes.store(free, Ordering::Relaxed);
            keeper.check_space();
            assert_eq!(shared.is_full.load(Ordering::Relaxed), is_full, "{free}");
        }
    }
}

#[test]
fn a_full_disk_is_known_when_the_store_opens_and_noticed_when_it_is_not_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let free_bytes = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&free_bytes);
    let read_space: keeper::ReadSpace =
        Box::new(move |_| Ok(Space { free_bytes: read.load(Ordering::Relaxed), bytes: 1 }));
    let probes = Probes { read_space, ..Probes::default() };
    let store = open_probed(folder.path(), &settings(folder.path()), probes);
    assert!(store.is_full());
    free_bytes.store(1, Ordering::Relaxed);
    let until = Instant::now() + Duration::from_secs(20);
    // Nobody is told; it has to be seen within the deadline and not at a certain time.
    while store.is_full() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_room_of_what_is_gone_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let sessions = [begin(&store, "one"), begin(&store, "other")];
    let big = message("big", &vec![7; 50_000]);
    for at in 1..=40 {
        commit(&store, sessions.map(|number| Change::Enqueue(number, delivery(at, &big))));
    }
    drop(store);
    let shared = Shared::new();
    let found = open::open(&settings(folder.path()), &shared, Clock::now()).unwrap();
    keeper::tidy(&found.engine, &shared);
    let used = || found.engine.queue.disk_space() + found.engine.bodies.disk_space();
    let (before, tables) = (used(), found.engine.bodies.table_count());
    assert!(before > 100_000 && tables > 0, "{before} {tables}");
    drop(found);
    let (store, _) = open(folder.path());
    commit(&store, sessions.map(|number| Change::Finished(number, seq(40))));
    store.close().unwrap();
    assert_eq!(store.shared.removed.load(Ordering::Relaxed), 80);
    drop(store);
    let found = open::open(&settings(folder.path()), &shared, Clock::now()).unwrap();
    keeper::tidy(&found.engine, &shared);
    let Engine { queue, bodies, .. } = &found.engine;
    assert_eq!((queue.table_count(), bodies.table_count()), (0, 0));
    for keyspace in [2, 3] {
        let tables = folder.path().join(format!("data/keyspaces/{keyspace}/tables"));
        assert_eq!(std::fs::read_dir(tables).unwrap().count(), 0);
    }
    assert_eq!(found.engine.database.journal_count(), 1);
}
