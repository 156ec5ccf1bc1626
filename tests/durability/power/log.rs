//! What the shim has written down. See `shim.c`, `struct record`.

use std::path::Path;

/// Something that took effect on the disk. Files and folders are named by their inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    MakeFolder { parent: u64, inode: u64, name: &'a str },
    Create { parent: u64, inode: u64, name: &'a str },
    Write { inode: u64, offset: u64, data: &'a [u8] },
    Truncate { inode: u64, bytes: u64 },
    Rename { from: (u64, &'a str), to: (u64, &'a str) },
    Unlink { parent: u64, name: &'a str },
    SyncBegin { inode: u64, thread: u64 },
    SyncEnd { inode: u64, thread: u64 },
}

/// The bytes of a record's head.
const HEAD_BYTES: usize = 32;

/// A log that was read.
pub(super) struct Log {
    bytes: Vec<u8>,
}

impl Log {
    pub(super) fn read(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).unwrap() }
    }

    /// The events, each with the length of the log behind it.
    pub(super) fn events(&self) -> impl Iterator<Item = (u64, Event<'_>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..)?;
            let length = small(rest.get(..HEAD_BYTES)?, 0);
            // The process may have been killed while it wrote the last one.
            let record = rest.get(..length)?;
            at += length;
            Some((at as u64, parse(record)))
        })
    }
}

fn parse(record: &[u8]) -> Event<'_> {
    let (a, b) = (long(record, 8), long(record, 16));
    let names = &record[HEAD_BYTES..];
    let (name, rest) = names.split_at(small(record, 24));
    let (other, data) = rest.split_at(small(record, 28));
    let (name, other) = (str::from_utf8(name).unwrap(), str::from_utf8(other).unwrap());
    match small(record, 4) {
        1 => Event::MakeFolder { parent: a, inode: b, name },
        2 => Event::Create { parent: a, inode: b, name },
        3 => Event::Write { inode: a, offset: b, data },
        4 => Event::Truncate { inode: a, bytes: b },
        5 => Event::Rename { from: (a, name), to: (b, other) },
        6 => Event::Unlink { parent: a, name },
        7 => Event::SyncBegin { inode: a, thread: b },
        8 => Event::SyncEnd { inode: a, thread: b },
        kind => panic!("no kind of record: {kind}"),
    }
}

fn small(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
