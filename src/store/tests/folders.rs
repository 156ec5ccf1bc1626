//! The folder of a store: made, half made, damaged, or somebody else's.

use std::path::PathBuf;

use super::*;

pub(super) fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        // The engine removes versions that it has replaced whenever it is opened.
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with('v') || name == "version" {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A store with two sessions that wait, for a message that they share and another, and a retained
/// message; all of it in tables.
pub(super) fn filled(folder: &Path) -> SessionNo {
    let (store, _) = open(folder);
    let number = begin(&store, "client");
    let other = begin(&store, "other");
    let account = Arc::clone(&record("x").account);
    let big = message("big", &[7; 1000]);
    commit(
        &store,
        [
            Change::Enqueue(number, delivery(1, &big)),
            Change::Enqueue(other, delivery(1, &big)),
            enqueue(number, 2),
            Change::Retain(message("kept", b"x"), account),
        ],
    );
    drop(store);
    let engine = engine(folder);
    for keyspace in engine.keyspaces() {
        keyspace.rotate_memtable_and_wait().unwrap();
    }
    number
}

fn refused(folder: &Path) -> String {
    let before = tree(folder);
    let error = try_open(folder).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(tree(folder), before, "{error}");
    let text = error.to_string();
    assert!(text.contains("`--accept-loss`"), "{text}");
    text
}

#[test]
fn a_store_that_was_being_made_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let made = tempfile::tempdir().unwrap();
    drop(open(made.path()));
    // The lock is there, and part of what is to become the store.
    std::fs::write(folder.path().join("lock"), "").unwrap();
    let place = folder.path().join("data.new");
    let whole = crash_image(&made.path().join("data"));
    for name in ["version", "lock", "0.jnl"] {
        let image = tempfile::tempdir().unwrap();
        std::fs::write(image.path().join("lock"), "").unwrap();
        std::fs::create_dir(image.path().join("data.new")).unwrap();
        std::fs::copy(whole.path().join(name), image.path().join("data.new").join(name)).unwrap();
        drop(open(image.path()));
        drop(open(image.path()));
        assert!(!image.path().join("data.new").exists());
    }
    // It was whole, but not in its place yet.
    std::fs::rename(made.path().join("data"), &place).unwrap();
    drop(open(folder.path()));
    assert!(!place.exists());
    // In its place, but the lock does not say so.
    std::fs::write(folder.path().join("lock"), "").unwrap();
    drop(open(folder.path()));
    assert!(!std::fs::read(folder.path().join("lock")).unwrap().is_empty());
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    for name in ["file", "lock", "data/file", "data.new/file", "data/version", ".hidden"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        let before = tree(folder.path());
        let error = try_open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{name}: {error}");
        assert_eq!(tree(folder.path()), before);
    }
    // A file system's own folder is nothing.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lost+found")).unwrap();
    drop(open(folder.path()));
}

#[test]
fn a_store_that_lacks_something_does_not_start_without_it() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let journals = journal::Journal::list(&folder.path().join("data")).unwrap();
    let journal = journals[0].1.file_name().unwrap().to_str().unwrap();
    for (missing, named) in [
        ("data", "/data: "),
        ("data/version", "/data/version: "),
        ("data/identity", "/data/identity: "),
        ("data/keyspaces", "/data/keyspaces/0/current: "),
        ("data/keyspaces/0", "/data/keyspaces/0/current: "),
        ("data/keyspaces/2", "/data/keyspaces/2/current: "),
        ("data/keyspaces/2/current", "/data/keyspaces/2/current: "),
        ("data/keyspaces/2/tables/1", "/data/keyspaces/2/tables/1: "),
        (&format!("data/{journal}"), "/data: it has no journal"),
    ] {
        let image = crash_image(folder.path());
        let path = image.path().join(missing);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        let error = refused(image.path());
        assert!(error.contains(named), "{error}");
        let (store, recovered) = open_lossy(image.path());
        let is_all = missing == "data" || missing == "data/keyspaces";
        let is_queue = missing.contains("/2");
        assert_eq!(recovered.sessions.is_empty(), is_all, "{missing}");
        assert_eq!(recovered.retained.is_empty(), is_all, "{missing}");
        if let Some(session) = recovered.sessions.first() {
            assert_eq!(session.waiting.is_empty(), is_queue, "{missing}");
            commit(&store, [enqueue(session.number, 9)]);
        }
        drop(store);
        let (_store, recovered) = open(image.path());
        assert_eq!(recovered.retained.is_empty(), is_all, "{missing}");
    }
}

#[test]
fn a_journal_that_is_missing_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let number = filled(folder.path());
    let (store, _) = open(folder.path());
    commit(&store, [enqueue(number, 3)]);
    drop(store);
    let data = folder.path().join("data");
    // As if the one that was written to last were gone, and the one before still there.
    let (id, journal) = journal::Journal::list(&data).unwrap().pop().unwrap();
    let token = hex::decode(std::fs::read(data.join("identity")).unwrap()).unwrap();
    let read = journal::Journal::read(id, journal.clone(), &token.try_into().unwrap()).unwrap();
    assert_eq!(read.runs.len(), 1);
    std::fs::copy(&journal, data.join(format!("{}.jnl", id + 2))).unwrap();
    let error = refused(folder.path());
    assert!(error.contains(&format!("no journal between {id} and {}", id + 2)), "{error}");
}

#[test]
fn tables_that_cannot_be_read_are_refused_and_the_rest_can_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let number = filled(folder.path());
    for (keyspace, lost) in
        [(0, "nothing"), (1, "state"), (2, "queue"), (3, "bodies"), (4, "retained")]
    {
        for place in [0.1, 0.5, 0.9, 1.0] {
            let image = crash_image(folder.path());
            let tables = image.path().join(format!("data/keyspaces/{keyspace}/tables"));
            let table = std::fs::read_dir(tables).unwrap().next().unwrap().unwrap().path();
            let mut bytes = std::fs::read(&table).unwrap();
            #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss)]
            let at = ((bytes.len() - 1) as f64 * place) as usize;
            let from = at.saturating_sub(16);
            bytes[from..=at].iter_mut().for_each(|byte| *byte ^= 0xFF);
            std::fs::write(&table, bytes).unwrap();
            if let Err(error) = try_open(image.path()) {
                assert!(matches!(error, StoreError::Damaged { .. }), "{lost} {place}: {error}");
            } else {
                // Nothing was read there.
                assert!(lost == "bodies" || place > 0.1, "{lost} {place}");
            }
            let (store, recovered) = open_lossy(image.path());
            if lost != "state" {
                assert_eq!(recovered.sessions.len(), 2, "{lost} {place}");
                commit(&store, [enqueue(number, 9)]);
            }
            if lost != "retained" {
                assert_eq!(recovered.retained.len(), 1, "{lost} {place}");
            }
            let places: Vec<_> =
                recovered.losses.iter().filter(|it| it.contains("/tables: what")).collect();
            if lost == "queue" && place < 0.2 {
                assert!(places[0].contains("/2/tables: what `queue` had between"), "{places:?}");
                assert!(places[0].ends_with("its beginning and its end"), "{places:?}");
            }
            drop(store);
            drop(open(image.path()));
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside_where_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let number = filled(folder.path());
    let page = keys::page(number, 1);
    let subscription = keys::held(number, PacketId::new(1).unwrap());
    let cases: [(&str, &[u8], &str); 4] = [
        ("queue", &page, "the deliveries from 1 on of session"),
        ("retained", b"kept", "retained message of \"kept\""),
        ("state", &subscription, "Held"),
        ("state", &keys::session(number), "Record of session"),
    ];
    for (keyspace, key, what) in cases {
        let image = crash_image(folder.path());
        let engine = engine(image.path());
        let at = engine::KEYSPACES.iter().position(|name| *name == keyspace).unwrap();
        engine.keyspaces()[at].insert(key, "damaged").unwrap();
        drop(engine);
        let error = refused(image.path());
        assert!(error.contains(what) && error.contains(&hex::encode(key)), "{error}");
        let (store, recovered) = open_lossy(image.path());
        let aside = image.path().join(format!("set-aside/{keyspace}-{}", hex::encode(key)));
        assert_eq!(std::fs::read(aside).unwrap(), b"damaged");
        let is_session = key == &*keys::session(number);
        assert_eq!(recovered.sessions.len(), 2 - usize::from(is_session));
        assert_eq!(recovered.retained.is_empty(), keyspace == "retained");
        drop(store);
        drop(open(image.path()));
    }
}

#[test]
fn damage_that_is_met_later_costs_its_page_only() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    for at in 1..=4 {
        commit(&store, [enqueue(number, at)]);
    }
    drop(store);
    // The record is whole when the store is opened, and is not any more when it is read: another
    // session's key has its bytes.
    let engine = engine(folder.path());
    let big = message("big", &[7; 1000]);
    let mut writing = page::Writing::new(number, 2);
    writing.push(2, &delivery(2, &big), Some(77), &Clock::now());
    engine.queue.insert(keys::page(number, 2), writing.seal().record).unwrap();
    drop(engine);
    let (store, recovered) = open(folder.path());
    assert_eq!(recovered.sessions[0].waiting.len(), 4);
    for _ in 0..2 {
        assert_eq!(numbers(&store, number), [1, 3, 4]);
        assert_eq!(std::fs::read_dir(folder.path().join("set-aside")).unwrap().count(), 1);
    }
}

#[test]
fn a_store_that_was_closed_does_not_start_with_less_than_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    for seq in 1..=5 {
        commit(&store, [enqueue(number, seq)]);
    }
    store.close().unwrap();
    drop(store);
    let journal = folder.path().join("data/0.jnl");
    let whole = std::fs::read(&journal).unwrap();
    for bytes in [whole.len() / 2, 139, 0] {
        std::fs::write(&journal, &whole[..bytes]).unwrap();
        let error = try_open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        std::fs::write(&journal, &whole).unwrap();
    }
    // What was accepted once is not asked for again.
    std::fs::write(&journal, &whole[..whole.len() / 2]).unwrap();
    drop(open_lossy(folder.path()));
    drop(open(folder.path()));
}

#[test]
fn a_store_has_files_and_folders_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let copy = folder.path().join("its-own");
    for name in ["data/0.jnl", "data/identity", "data/keyspaces/1/current"] {
        let path = folder.path().join(name);
        std::fs::rename(&path, &copy).unwrap();
        std::os::unix::fs::symlink(&copy, &path).unwrap();
        let error = try_open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("is not a regular file"), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&copy, &path).unwrap();
    }
    drop(open(folder.path()));
}

#[test]
fn no_store_is_made_where_another_was_being_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (taken, _) = Folder::take(&settings(folder.path())).unwrap();
    taken.begin_unfinished().unwrap();
    drop(taken);
    let error = try_open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("restoring or importing it was interrupted"), "{error}");
}
