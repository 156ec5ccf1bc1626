//! Backups: made while the store is written to, restored, damaged, refused.

use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::folders::{filled, tree};
use super::lines::exported;
use super::*;

/// A backup of an open store, as it goes over the control socket.
fn sent(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    let manifest = store.snapshot().unwrap().send(&mut bytes).unwrap();
    assert_eq!(manifest.bytes, bytes.len() as u64);
    bytes
}

fn stream(bytes: Vec<u8>) -> Reading {
    Reading::stream(Box::new(Cursor::new(bytes)))
}

/// A backup of [`filled`], in a folder of its own.
fn backup_of_filled() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    filled(&folder.path().join("store"));
    let backup = folder.path().join("backup");
    receive(Reading::at(&folder.path().join("store")).unwrap(), &backup).unwrap();
    (folder, backup)
}

/// All files, with what is in them.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let read = |path: std::path::PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    tree(folder).into_iter().filter(|path| path.is_file()).map(read).collect()
}

#[test]
fn a_backup_is_the_store_as_it_was_between_two_batches() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder.path().join("store"));
    let number = begin(&store, "client");
    commit(&store, [enqueue(number, 1), enqueue(number, 2)]);
    let snapshot = store.snapshot().unwrap();
    // What comes later, or goes, changes nothing; nor does giving back its room.
    commit(&store, [enqueue(number, 3), Change::Finished(number, seq(2))]);
    commit(&store, [Change::Finished(number, seq(3))]);
    let (engine, shared) = {
        let threads = store.threads.lock();
        (threads.as_ref().unwrap().engine.clone(), Arc::clone(&store.shared))
    };
    keeper::tidy(&engine, &shared);
    commit(&store, [enqueue(number, 4)]);
    let mut bytes = Vec::new();
    snapshot.send(&mut bytes).unwrap();
    drop(engine);
    let backup = folder.path().join("backup");
    let made = receive(stream(bytes), &backup).unwrap();
    assert_eq!(made.checked.findings, []);
    assert_eq!(made.manifest.records.queue, 1);
    let restored = folder.path().join("restored");
    restore(&backup, &settings(&restored)).unwrap();
    let (again, recovered) = open(&restored);
    assert_eq!(recovered.sessions[0].waiting.len(), 2);
    assert_eq!(numbers(&again, number), [1, 2]);
    // It is a store as any other: it goes on.
    commit(&again, [enqueue(number, 3)]);
    assert!(again.next_session() > number);
    drop(again);
    let (again, _) = open(&restored);
    assert_eq!(numbers(&again, number), [1, 2, 3]);
    assert_eq!(numbers(&store, number), [4]);
}

#[test]
fn what_is_restored_is_what_was_backed_up() {
    let (folder, backup) = backup_of_filled();
    let restored = folder.path().join("restored");
    let manifest = restore(&backup, &settings(&restored)).unwrap();
    assert_eq!(&manifest, Backup::open(&backup).unwrap().manifest());
    let original = exported(Reading::at(&folder.path().join("store")).unwrap());
    assert_eq!(exported(Reading::at(&restored).unwrap()), original);
    assert_eq!(exported(Reading::at(&backup).unwrap()), original);
    let (store, recovered) = open(&restored);
    assert_eq!((recovered.sessions.len(), recovered.retained.len()), (2, 1));
    // The same over the socket.
    assert_eq!(exported(stream(sent(&store))), original);
    assert_eq!(stream(sent(&store)).verify().unwrap().findings, []);
}

#[test]
fn a_backup_is_private_and_said_to_be_what_it_is() {
    let (_folder, backup) = backup_of_filled();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&backup), 0o700);
    for file in tree(&backup) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    let data = std::fs::read(backup.join("data")).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &data);
    let manifest = Backup::open(&backup).unwrap().manifest().clone();
    assert_eq!(manifest.sha256, hex::encode(digest));
    assert_eq!(manifest.bytes, data.len() as u64);
}

#[test]
fn nothing_is_overwritten_and_half_a_backup_is_none() {
    let (folder, backup) = backup_of_filled();
    let store = folder.path().join("store");
    let make = |place: &str| {
        receive(Reading::at(&store).unwrap(), &folder.path().join(place))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert!(make("backup").unwrap_err().contains("not empty, and nothing is overwritten"));
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    make("empty").unwrap();
    std::fs::create_dir(folder.path().join("new.partial")).unwrap();
    assert!(make("new").unwrap_err().contains("new.partial: a backup that did not come to"));
    assert!(make("absent/new").is_err());
    assert!(make("..").is_err());
    // A broker that goes away in the middle.
    let (open_store, _) = open(&store);
    let whole = sent(&open_store);
    drop(open_store);
    for bytes in [0, 20, whole.len() / 2, whole.len() - 1] {
        let place = folder.path().join("half");
        let error = receive(stream(whole[..bytes].to_vec()), &place).unwrap_err().to_string();
        assert!(error.contains("it ends here, before its end; its log says more"), "{error}");
        assert!(!place.exists() && !folder.path().join("half.partial").exists());
    }
    // A store that is there.
    let error = restore(&backup, &settings(&store)).unwrap_err().to_string();
    assert!(error.contains("there is a store already, and nothing is overwritten"), "{error}");
    let error = restore(&store, &settings(&folder.path().join("other"))).unwrap_err().to_string();
    assert!(error.contains("it is no backup: it has no `manifest.json`"), "{error}");
    assert!(!folder.path().join("other").exists());
}

#[test]
fn a_reader_is_told_why_no_more_comes() {
    let folder = tempfile::tempdir().unwrap();
    let number = filled(folder.path());
    let path = folder.path().join("data/keyspaces/2/tables/1");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    let (store, _) = open(folder.path());
    commit(&store, [enqueue(number, 3)]);
    std::fs::write(&path, bytes).unwrap();
    let mut bytes = Vec::new();
    // The engine may have the block in its cache.
    if let Err(error) = store.snapshot().unwrap().send(&mut bytes) {
        let told = stream(bytes).verify().unwrap_err();
        assert_eq!(told.to_string(), format!("read the store: {error}"));
    }
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let (folder, backup) = backup_of_filled();
    let place = folder.path().join("restored");
    let refused = |what: &str| {
        let error = restore(&backup, &settings(&place)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!place.join("data").exists() && !place.join("data.new").exists());
    };
    let (data, manifest) = (backup.join("data"), backup.join("manifest.json"));
    let whole = std::fs::read(&data).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&data, &changed).unwrap();
    refused("data: byte ");
    std::fs::write(&data, [&whole[..], b"x"].concat()).unwrap();
    refused("there is something behind its end");
    std::fs::write(&data, &whole).unwrap();
    let said = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, said.replace("\"queue\": 2", "\"queue\": 3")).unwrap();
    refused("it does not say what is in `data`");
    std::fs::write(&manifest, said.replace("\"store_format\": 3", "\"store_format\": 4")).unwrap();
    refused("it does not say what is in `data`");
    std::fs::write(&manifest, "{").unwrap();
    refused("it is no manifest of a backup");
    std::fs::remove_file(&manifest).unwrap();
    refused("it is no backup");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &manifest,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    refused("it is not a regular file");
}

/// What is put in place of a record, or nothing, what is said of it, and whether that is a loss.
type Case<'a> = (usize, &'a [u8], Option<&'a [u8]>, &'a str, bool);

#[test]
fn what_is_wrong_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let number = filled(folder.path());
    let checked = verify(folder.path()).unwrap();
    assert_eq!((checked.findings, checked.is_loss), (vec![], false));
    let page = keys::page(number, 1);
    let held = keys::held(number, PacketId::new(1).unwrap());
    let orphan = keys::body(77);
    let body = page::seal_body(&orphan, &message("t", b"x"));
    let stray = keys::page(SessionNo(99), 1);
    let cases: [Case<'_>; 7] = [
        (1, &page, Some(b"damaged"), "queue ", true),
        (1, &stray, Some(b"damaged"), "session 99: there is no such session", true),
        (3, b"kept", Some(b"damaged"), "topic \"kept\": ", true),
        (0, &held, Some(b"damaged"), "of session 0 (\"client\"): ", true),
        (0, &keys::session(number), None, "there is no such session", true),
        (2, &keys::body(0), None, "refers to message 0000000000000000, which is not there", true),
        (2, &orphan, Some(&body), "no queue refers to this message", false),
    ];
    for (keyspace, key, value, what, is_loss) in cases {
        let image = crash_image(folder.path());
        let engine = engine(image.path());
        match value {
            Some(value) => engine.keyspaces()[keyspace].insert(key, value).unwrap(),
            None => engine.keyspaces()[keyspace].remove(key).unwrap(),
        }
        drop(engine);
        let before = contents(image.path());
        let checked = verify(image.path()).unwrap();
        let found: Vec<_> = checked.findings.iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
        assert_eq!(checked.is_loss, is_loss, "{found:?}");
        assert_eq!(contents(image.path()), before);
        // A backup is made of it all the same, says so, and is restored only if nothing is lost.
        let backup = image.path().join("backup");
        let made = receive(Reading::at(image.path()).unwrap(), &backup).unwrap();
        assert_eq!(made.checked.findings, checked.findings);
        let place = image.path().join("restored");
        assert_eq!(restore(&backup, &settings(&place)).is_err(), is_loss);
    }
}

#[test]
fn damaged_files_of_a_store_are_named_and_the_rest_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let journal = journal::Journal::list(&folder.path().join("data")).unwrap().pop().unwrap().1;
    let journal = journal.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
    for (missing, named) in [
        ("data/version", "data/version"),
        ("data/identity", "data/identity"),
        ("data/keyspaces/2/current", "data/keyspaces/2/current"),
        ("data/keyspaces/4/tables/1", "data/keyspaces/4/tables/1"),
        (&journal, "data: it has no journal"),
    ] {
        let image = crash_image(folder.path());
        std::fs::remove_file(image.path().join(missing)).unwrap();
        let before = contents(image.path());
        let checked = verify(image.path()).unwrap();
        let found: Vec<_> = checked.findings.iter().map(ToString::to_string).collect();
        let named = format!("{}/{named}", image.path().display());
        assert!(found[0].starts_with(&named), "{found:?}");
        assert!(checked.is_loss && checked.records > 3, "{missing}: {checked:?}");
        assert_eq!(contents(image.path()), before, "{missing}");
        let error = Reading::at(image.path()).unwrap_err();
        assert!(error.to_string().starts_with(&named), "{error}");
        assert_eq!(contents(image.path()), before, "{missing}");
    }
}

#[test]
fn a_store_that_is_used_is_not_read_and_one_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    assert!(matches!(verify(folder.path()), Err(StoreError::InUse(_))));
    drop(store);
    assert_eq!(verify(folder.path()).unwrap().findings, []);
    let empty = tempfile::tempdir().unwrap();
    for place in [empty.path(), &empty.path().join("absent")] {
        let error = verify(place).unwrap_err().to_string();
        assert!(error.contains("there is no store"), "{error}");
    }
    assert_eq!(tree(empty.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_torn_end_is_no_damage_and_a_copy_left_behind_goes() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let journal = journal::Journal::list(&folder.path().join("data")).unwrap().pop().unwrap().1;
    let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
    std::io::Write::write_all(&mut file, b"torn").unwrap();
    let before = contents(folder.path());
    std::fs::create_dir(folder.path().join("copy")).unwrap();
    std::fs::write(folder.path().join("copy/x"), "left").unwrap();
    let checked = verify(folder.path()).unwrap();
    assert_eq!(checked.findings, []);
    assert!(checked.note.unwrap().contains("the end of a journal is torn"));
    assert_eq!(contents(folder.path()), before);
    std::fs::create_dir(folder.path().join("copy")).unwrap();
    drop(open(folder.path()));
    assert!(!folder.path().join("copy").exists());
}

#[test]
fn inspecting_says_who_waits_for_what() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let number = begin(&store, "client");
    let parked = humantime::parse_rfc3339("2026-03-01T12:00:00Z").unwrap();
    let mut record = record("client");
    (record.parked_at, record.expiry_s) = (Some(parked), 60);
    commit(
        &store,
        [
            Change::Session(number, record),
            Change::Subscribe(number, filter("a/#"), options(Qos::AtLeastOnce)),
            enqueue(number, 1),
            enqueue(number, 2),
            enqueue(number, 3),
            Change::Finished(number, seq(1)),
            Change::Released(number, seq(3)),
            Change::Held(number, PacketId::new(7).unwrap()),
            Change::Retain(message("kept", b"1234"), Arc::clone(&super::record("x").account)),
        ],
    );
    drop(store);
    let inspected = inspect(Reading::at(folder.path()).unwrap(), SystemTime::now()).unwrap();
    assert!(inspected.disk_bytes.unwrap() > 0);
    let session = SessionInspected {
        session: number.0,
        client_id: "client".to_owned(),
        principal: "Device::\"anonymous\"".to_owned(),
        subscriptions: 1,
        waiting_messages: 1,
        waiting_bytes: 6,
        received: 1,
        released: 1,
        has_will: false,
        expiry_s: Some(60),
        parked_at: Some("2026-03-01T12:00:00Z".to_owned()),
        expires_at: Some("2026-03-01T12:01:00Z".to_owned()),
    };
    assert_eq!(inspected.sessions, [session]);
    assert_eq!((inspected.retained_messages, inspected.retained_bytes), (1, 8));
}

/// What was changed of a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, bytes: Vec<u8> },
    Copy { from: prop::sample::Index, to: prop::sample::Index, bytes: usize },
}

impl Mutation {
    fn apply(&self, file: &mut Vec<u8>) {
        let place = |at: &prop::sample::Index, file: &[u8]| at.index(file.len().max(1));
        match self {
            Self::Flip { at, bit } => {
                let at = place(at, file);
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Cut { at } => file.truncate(place(at, file)),
            Self::Insert { at, bytes } => {
                let at = place(at, file).min(file.len());
                file.splice(at..at, bytes.iter().copied());
            }
            Self::Copy { from, to, bytes } => {
                let from = place(from, file).min(file.len());
                let part = file[from..(from + bytes).min(file.len())].to_vec();
                let to = place(to, file).min(file.len());
                file.splice(to..(to + part.len()).min(file.len()), part);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        1 => at().prop_map(|at| Mutation::Cut { at }),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        2 => (at(), at(), 1..80_usize)
            .prop_map(|(from, to, bytes)| Mutation::Copy { from, to, bytes }),
    ]
}

#[test]
fn a_backup_with_random_changes_is_refused_or_says_the_same() {
    let (folder, backup) = backup_of_filled();
    let whole = exported(Reading::at(&backup).unwrap());
    let files =
        ["data", "manifest.json"].map(|name| (name, std::fs::read(backup.join(name)).unwrap()));
    let changed = folder.path().join("changed");
    std::fs::create_dir(&changed).unwrap();
    let mutations = (any::<bool>(), prop::collection::vec(mutation(), 1..4));
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(1500));
    let run = runner.run(&mutations, |(is_manifest, mutations)| {
        for (name, bytes) in &files {
            let mut bytes = bytes.clone();
            if (*name == "manifest.json") == is_manifest {
                for mutation in &mutations {
                    mutation.apply(&mut bytes);
                }
            }
            std::fs::write(changed.join(name), bytes).unwrap();
        }
        let mut out = Vec::new();
        if let Ok(reading) = Reading::at(&changed)
            && export(reading, &mut out).is_ok()
        {
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole.clone());
            prop_assert!(verify(&changed).unwrap().findings.is_empty());
        }
        Ok(())
    });
    run.unwrap();
}

/// Bytes that whoever made a backup can choose: all checksums are right.
#[test]
fn a_backup_with_any_records_is_checked_without_a_panic() {
    use crate::store::codec::Record;
    let bytes = prop::collection::vec(any::<u8>(), 0..120);
    let key = prop_oneof![
        Just(keys::session(SessionNo(1)).to_vec()),
        Just(keys::progress(SessionNo(1)).to_vec()),
        Just(keys::page(SessionNo(1), u64::MAX).to_vec()),
        Just(keys::body(u64::MAX).to_vec()),
        Just(b"kept".to_vec()),
        prop::collection::vec(any::<u8>(), 1..20),
    ];
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let base = engine(folder.path());
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(256));
    let run = runner.run(&(key, bytes, 0..4_usize), |(key, bytes, keyspace)| {
        let mut sealed = Record::new();
        sealed.fields().extend_from_slice(&bytes);
        let keyspace = base.keyspaces()[keyspace].clone();
        keyspace.insert(key.as_slice(), sealed.seal(&key)).unwrap();
        let mut backup = Vec::new();
        Snapshot::alone(&base).send(&mut backup).unwrap();
        keyspace.remove(key.as_slice()).unwrap();
        let _ = stream(backup.clone()).verify().unwrap();
        let _ = inspect(stream(backup.clone()), SystemTime::now());
        let _ = export(stream(backup), &mut std::io::sink());
        Ok(())
    });
    run.unwrap();
}
