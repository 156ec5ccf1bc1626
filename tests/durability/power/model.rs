//! The simulated disk itself: what a power cut may take of it, and what it may not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::disk::Disk;
use super::image::{Image, Keep};
use super::log::Event;
use crate::crash::chance::Chance;

/// A disk that begins with an empty folder, whose inode is this.
fn empty() -> (Disk, u64) {
    let folder = tempfile::tempdir().unwrap();
    (Disk::read(folder.path()), fs::metadata(folder.path()).unwrap().ino())
}

fn sync(disk: &mut Disk, inode: u64) {
    disk.take(Event::SyncBegin { inode, thread: 1 });
    disk.take(Event::SyncEnd { inode, thread: 1 });
}

fn cut(disk: &Disk, keep: Keep, seed: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    Image::cut(disk, keep, &mut Chance::new(seed, 0, 0)).write(folder.path());
    folder
}

fn read(folder: &TempDir, name: &str) -> Option<Vec<u8>> {
    fs::read(Path::new(folder.path()).join(name)).ok()
}

/// A file `a` that is there, with these bytes.
fn with_file(bytes: &[u8]) -> (Disk, u64, u64) {
    let (mut disk, root) = empty();
    let inode = root + 1;
    disk.take(Event::Create { parent: root, inode, name: "a" });
    disk.take(Event::Write { inode, offset: 0, data: bytes });
    sync(&mut disk, inode);
    sync(&mut disk, root);
    (disk, root, inode)
}

#[test]
fn a_name_needs_a_sync_of_its_folder() {
    let (mut disk, root) = empty();
    let inode = root + 1;
    disk.take(Event::Create { parent: root, inode, name: "a" });
    disk.take(Event::Write { inode, offset: 0, data: b"x" });
    sync(&mut disk, inode);
    assert_eq!(read(&cut(&disk, Keep::Nothing, 1), "a"), None);
    assert_eq!(read(&cut(&disk, Keep::Everything, 1), "a").unwrap(), b"x");
    sync(&mut disk, root);
    assert_eq!(read(&cut(&disk, Keep::Nothing, 1), "a").unwrap(), b"x");
}

#[test]
fn a_sync_is_for_what_was_written_before_it_began() {
    let (mut disk, _, inode) = with_file(b"1");
    disk.take(Event::Write { inode, offset: 1, data: b"2" });
    disk.take(Event::SyncBegin { inode, thread: 1 });
    disk.take(Event::Write { inode, offset: 2, data: b"3" });
    assert_eq!(read(&cut(&disk, Keep::Nothing, 1), "a").unwrap(), b"1");
    disk.take(Event::SyncEnd { inode, thread: 1 });
    assert_eq!(read(&cut(&disk, Keep::Nothing, 1), "a").unwrap(), b"12");
}

#[test]
fn a_rename_is_made_or_not() {
    let (mut disk, root, _) = with_file(b"old");
    let inode = root + 2;
    disk.take(Event::Create { parent: root, inode, name: "b" });
    disk.take(Event::Write { inode, offset: 0, data: b"new" });
    sync(&mut disk, inode);
    sync(&mut disk, root);
    disk.take(Event::Rename { from: (root, "b"), to: (root, "a") });
    let before = cut(&disk, Keep::Nothing, 1);
    assert_eq!(
        (read(&before, "a"), read(&before, "b")),
        (Some(b"old".into()), Some(b"new".into()))
    );
    sync(&mut disk, root);
    let after = cut(&disk, Keep::Nothing, 1);
    assert_eq!((read(&after, "a"), read(&after, "b")), (Some(b"new".into()), None));
}

#[test]
fn a_write_is_torn_between_sectors_and_nowhere_else() {
    let (mut disk, _, inode) = with_file(&[b'0'; 1024]);
    disk.take(Event::Write { inode, offset: 0, data: &[b'1'; 1024] });
    let mut seen = Vec::new();
    for seed in 0..100 {
        let left = read(&cut(&disk, Keep::Most(2), seed), "a").unwrap();
        let (one, other) = left.split_at(512);
        for sector in [one, other] {
            assert!(sector.iter().all(|byte| *byte == sector[0]));
        }
        seen.push((one[0], other[0]));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [(b'0', b'0'), (b'0', b'1'), (b'1', b'0'), (b'1', b'1')]);
}

#[test]
fn a_sector_has_a_state_that_it_had() {
    let (mut disk, _, inode) = with_file(b"....");
    for offset in 0..4 {
        disk.take(Event::Write { inode, offset, data: b"x" });
    }
    let states: [&[u8]; 5] = [b"....", b"x...", b"xx..", b"xxx.", b"xxxx"];
    for seed in 0..100 {
        let left = read(&cut(&disk, Keep::Few(2), seed), "a").unwrap();
        assert!(states.contains(&&*left), "{left:?}");
    }
}

#[test]
fn what_grew_and_was_not_written_is_zeros() {
    let (mut disk, _, inode) = with_file(b"a");
    disk.take(Event::Truncate { inode, bytes: 2000 });
    sync(&mut disk, inode);
    disk.take(Event::Write { inode, offset: 1, data: b"b" });
    let left = read(&cut(&disk, Keep::Nothing, 1), "a").unwrap();
    assert_eq!((left.len(), left[0], left[1]), (2000, b'a', 0));
}
