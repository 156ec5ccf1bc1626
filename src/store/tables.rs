//! Tables of the engine, looked at before it opens them.
//!
//! A keyspace is a folder with the file `current`, which names the version in force and has its
//! checksum; the version lists tables. All of them are archives: sections, then a table of
//! contents, then a trailer. The engine makes room by lengths in there before it compares
//! checksums; and for a keyspace without `current` it makes an empty one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

const TRAILER_BYTES: usize = 38;
/// `SFA!`, the version, and XXH3 for checksums.
const TRAILER_HEAD: [u8; 6] = *b"SFA!\x01\x00";
const CONTENTS_HEAD: [u8; 4] = *b"TOC!";
/// A table of contents has about ten entries.
const CONTENTS_BYTES_MAX: u64 = 1024 * 1024;
/// A version lists tables, with 33 bytes each.
const VERSION_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is wrong, and with which file.
pub(super) type Wrong = (PathBuf, String);

/// Looks at the keyspace in this folder.
pub(super) fn check(keyspace: &Path) -> Result<(), Wrong> {
    let path = keyspace.join("current");
    let current = read(&path, 64)?;
    let wrong = || (path.clone(), "it is not what was written".to_owned());
    let (id, rest) = current.split_first_chunk::<8>().ok_or_else(wrong)?;
    let (sum, _) = rest.split_first_chunk::<16>().ok_or_else(wrong)?;
    let path = keyspace.join(format!("v{}", u64::from_le_bytes(*id)));
    let version = read(&path, VERSION_BYTES_MAX)?;
    if xxh3_128(&version) != u128::from_le_bytes(*sum) {
        return Err((path, "its checksum is wrong".to_owned()));
    }
    let tables = section(&path, version.len() as u64, b"tables")?
        .and_then(|(from, bytes)| {
            let from = usize::try_from(from).ok()?;
            version.get(from..from.checked_add(usize::try_from(bytes).ok()?)?)
        })
        .and_then(table_ids)
        .ok_or_else(|| (path, "it lists no tables".to_owned()))?;
    for id in tables {
        let path = keyspace.join("tables").join(id.to_string());
        let bytes = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.len();
        section(&path, bytes, b"")?;
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Wrong {
    (path.to_owned(), format!("it cannot be read ({error})"))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Wrong> {
    let bytes = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if bytes > bytes_max {
        return Err((path.to_owned(), "it is too large".to_owned()));
    }
    std::fs::read(path).map_err(|error| unreadable(path, &error))
}

/// Where a section of an archive begins, and its bytes. The contents are whole.
fn section(path: &Path, bytes: u64, name: &[u8]) -> Result<Option<(u64, u64)>, Wrong> {
    let wrong = || (path.to_owned(), "its table of contents cannot be read".to_owned());
    let failed = |error: std::io::Error| unreadable(path, &error);
    let file = File::open(path).map_err(failed)?;
    let end = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(wrong)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, end).map_err(failed)?;
    let rest = trailer.strip_prefix(&TRAILER_HEAD).ok_or_else(wrong)?;
    let (sum, rest) = rest.split_first_chunk::<16>().ok_or_else(wrong)?;
    let from = u64::from_le_bytes(*rest.first_chunk().ok_or_else(wrong)?);
    let length = end.checked_sub(from).filter(|length| *length <= CONTENTS_BYTES_MAX);
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
    let mut contents = vec![0; length];
    file.read_exact_at(&mut contents, from).map_err(failed)?;
    if xxh3_128(&contents) != u128::from_le_bytes(*sum) {
        return Err(wrong());
    }
    let mut left = contents.strip_prefix(&CONTENTS_HEAD).and_then(|rest| rest.get(4..));
    let mut found = None;
    while let Some(entry) = left.filter(|left| !left.is_empty()) {
        let (from, rest) = entry.split_first_chunk().ok_or_else(wrong)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
        let (name_bytes, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
        let name_bytes = usize::from(u16::from_le_bytes(*name_bytes));
        let (its_name, rest) = rest.split_at_checked(name_bytes).ok_or_else(wrong)?;
        if its_name == name {
            found = Some((u64::from_le_bytes(*from), u64::from_le_bytes(*length)));
        }
        left = Some(rest);
    }
    Ok(found)
}

/// The tables of a version: levels of runs of tables.
fn table_ids(mut list: &[u8]) -> Option<Vec<u64>> {
    fn take<const N: usize>(list: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = list.split_first_chunk::<N>()?;
        *list = rest;
        Some(*head)
    }
    let mut ids = Vec::new();
    let [levels] = take(&mut list)?;
    for _ in 0..levels {
        let [runs] = take(&mut list)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut list)?) {
                ids.push(u64::from_le_bytes(take(&mut list)?));
                // The kind of its checksum, the checksum, and a sequence number.
                take::<25>(&mut list)?;
            }
        }
    }
    Some(ids)
}
