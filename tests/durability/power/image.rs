//! What a power cut leaves of a disk.
//!
//! Of what was not settled, any part may be there:
//! - each sector of 512 bytes holds one of the states that it had since it was settled, whatever
//!   other sectors of the same write hold;
//! - so does the length of a file, for itself: what was never written within it is zeros;
//! - each change of a name was made or was not, whatever became of those before it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::disk::{Change, Content, Disk, Names, Object, index, rename};
use crate::crash::chance::Chance;

const SECTOR_BYTES: u64 = 512;

/// How what is kept is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Nothing but what was settled.
    Nothing,
    /// Everything.
    Everything,
    /// The changes before this one of those that were not settled.
    Before(usize),
    /// Each part or not, once in so many times not.
    Most(u64),
    /// Each part or not, once in so many times.
    Few(u64),
    /// All but one part: one sector of this change, or all of it where it has none.
    But(usize),
}

impl Keep {
    pub(super) fn choose(disk: &Disk, chance: &mut Chance) -> Self {
        let pending = disk.pending.len() as u64;
        match chance.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Before(index(chance.below(pending + 1))),
            4 => Self::Most(2 + chance.below(20)),
            5 => Self::Few(2 + chance.below(20)),
            6 => Self::Most(2),
            _ => Self::But(index(chance.below(pending.max(1)))),
        }
    }
}

/// A part of a file that is on the disk in one state or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Sector(u64),
    Length,
}

/// The files and folders that are left.
pub(super) struct Image {
    contents: Vec<Option<Content>>,
    names: Names,
}

impl Image {
    pub(super) fn cut(disk: &Disk, keep: Keep, chance: &mut Chance) -> Self {
        let mut names = disk.settled.clone();
        let mut keeps = Keeps { keep, chance, states: HashMap::new() };
        for (at, (_, change)) in disk.pending.iter().enumerate() {
            if keeps.keeps_name(at) {
                rename(&mut names, change);
            }
        }
        keeps.choose_states(disk);
        let mut contents = disk.contents.clone();
        let mut seen: HashMap<(Object, Part), usize> = HashMap::new();
        for (_, change) in &disk.pending {
            let mut stays = |file: Object, part| {
                let seen = seen.entry((file, part)).or_default();
                *seen += 1;
                *seen <= keeps.states[&(file, part)]
            };
            match change {
                Change::Write { file, offset, data, length } => {
                    let content = contents[file.0].as_mut().unwrap();
                    if stays(*file, Part::Length) {
                        content.length = *length;
                    }
                    for (sector, from, to) in sectors(*offset, data.len() as u64) {
                        if stays(*file, Part::Sector(sector)) {
                            let part = &data[index(from - offset)..index(to - offset)];
                            content.write(from, part);
                        }
                    }
                }
                Change::Truncate { file, length } => {
                    if stays(*file, Part::Length) {
                        contents[file.0].as_mut().unwrap().truncate(*length);
                    }
                }
                Change::Name { .. } | Change::Rename { .. } => {}
            }
        }
        Self { contents, names }
    }

    /// Writes it into a folder that is empty.
    pub(super) fn write(&self, folder: &Path) {
        self.write_below(Disk::ROOT, folder);
    }

    fn write_below(&self, parent: Object, folder: &Path) {
        let begin = (parent, String::new());
        let entries = self.names.range(begin..).take_while(|((folder, _), _)| *folder == parent);
        for ((_, name), object) in entries {
            let path = folder.join(name);
            let Some(content) = &self.contents[object.0] else {
                fs::create_dir(&path).unwrap();
                self.write_below(*object, &path);
                continue;
            };
            let file = fs::File::create(path).unwrap();
            let used = content.bytes.len().min(index(content.length));
            file.write_all_at(&content.bytes[..used], 0).unwrap();
            file.set_len(content.length).unwrap();
        }
    }
}

struct Keeps<'a> {
    keep: Keep,
    chance: &'a mut Chance,
    /// How many of the changes to a part are kept.
    states: HashMap<(Object, Part), usize>,
}

impl Keeps<'_> {
    fn keeps_name(&mut self, at: usize) -> bool {
        match self.keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Before(end) => at < end,
            Keep::Most(times) => !self.chance.once_in(times),
            Keep::Few(times) => self.chance.once_in(times),
            Keep::But(one) => at != one,
        }
    }

    fn choose_states(&mut self, disk: &Disk) {
        // In the order in which they were changed first: the same seed makes the same image.
        let mut parts = Vec::new();
        let mut changes: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, (_, change)) in disk.pending.iter().enumerate() {
            for part in parts_of(change) {
                let of_part = changes.entry(part).or_default();
                if of_part.is_empty() {
                    parts.push(part);
                }
                of_part.push(at);
            }
        }
        let missing = match self.keep {
            Keep::But(one) => disk.pending.get(one).and_then(|(_, change)| {
                let parts = parts_of(change);
                let count = parts.len() as u64;
                (count > 0).then(|| (parts[index(self.chance.below(count))], one))
            }),
            _ => None,
        };
        for part in parts {
            let changes = &changes[&part];
            let count = changes.len();
            let some = |chance: &mut Chance| index(chance.below(count as u64 + 1));
            let kept = match self.keep {
                Keep::Nothing => 0,
                Keep::Everything => count,
                Keep::Before(end) => changes.partition_point(|at| *at < end),
                Keep::Most(times) if !self.chance.once_in(times) => count,
                Keep::Few(times) if !self.chance.once_in(times) => 0,
                Keep::Most(_) | Keep::Few(_) => some(self.chance),
                Keep::But(_) => missing
                    .filter(|(missing, _)| *missing == part)
                    .map_or(count, |(_, one)| changes.partition_point(|at| *at < one)),
            };
            self.states.insert(part, kept);
        }
    }
}

fn parts_of(change: &Change) -> Vec<(Object, Part)> {
    match change {
        Change::Write { file, offset, data, .. } => {
            let sectors = sectors(*offset, data.len() as u64);
            let parts = sectors.map(|(sector, ..)| Part::Sector(sector)).chain([Part::Length]);
            parts.map(|part| (*file, part)).collect()
        }
        Change::Truncate { file, .. } => vec![(*file, Part::Length)],
        Change::Name { .. } | Change::Rename { .. } => Vec::new(),
    }
}

/// The sectors that a write touches, and the bytes in each.
fn sectors(offset: u64, bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + bytes;
    (offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).map(move |sector| {
        let begin = sector * SECTOR_BYTES;
        (sector, begin.max(offset), (begin + SECTOR_BYTES).min(end))
    })
}
