//! What a store refuses, and what it does when it cannot go on.

use super::*;

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    store.close().unwrap();
    // Closing is enough: whoever still has it does not keep it from others.
    let (_second, _) = open(folder.path());
    assert!(store.close().is_ok());
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let engine = engine(folder.path());
    engine.state.insert(keys::FORMAT, writer::number_record(keys::FORMAT, 4)).unwrap();
    drop(engine);
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("a later version wrote it (format 4"), "{error}");
}

#[test]
fn a_database_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = fjall::Database::builder(folder.path()).open().unwrap();
    let other = database.keyspace("state", fjall::KeyspaceCreateOptions::default).unwrap();
    other.insert("key", "value").unwrap();
    drop((other, database));
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn a_closed_store_takes_nothing_and_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    store.close().unwrap();
    let commit = store.change(enqueue(number, 1));
    store.flush();
    assert!(!store.poll_committed(commit, Waker::noop()));
    assert!(try_read(&store, number, 1, (1, 1)).is_err());
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    commit(&store, [enqueue(number, 1)]);
    drop(store);
    let engine = engine(folder.path());
    let key = keys::page(number, 1);
    let mut page = engine.queue.get(key).unwrap().unwrap().to_vec();
    page[5] ^= 1;
    engine.queue.insert(key, page).unwrap();
    drop(engine);
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&hex::encode(key)), "{error}");
}
