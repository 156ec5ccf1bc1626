//! A disk as a power cut may find it: what is on it for certain, and what may be.
//!
//! - A file's bytes and length are settled by a sync of the file that began after they were
//!   written, once it has ended; `fdatasync` is as good, since reading needs the length.
//! - A name (made, renamed, removed) is settled by a sync of its folder, and by nothing else: a
//!   sync of a new file says nothing of its name. That is POSIX; ext4, XFS and Btrfs promise more.
//! - A rename happens as a whole or not at all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::log::Event;

/// A file or a folder, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Object(pub(super) usize);

/// A name in a folder.
pub(super) type Place = (Object, String);

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Behind these are zeros.
    pub(super) bytes: Vec<u8>,
    pub(super) length: u64,
}

impl Content {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let (from, to) = (index(offset), index(offset) + data.len());
        if self.bytes.len() < to {
            self.bytes.resize(to, 0);
        }
        self.bytes[from..to].copy_from_slice(data);
    }

    /// What lay behind is zeros if the file grows again.
    pub(super) fn truncate(&mut self, length: u64) {
        self.bytes.truncate(index(length));
        self.length = length;
    }
}

/// Something that a power cut may undo.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The length is that of the file afterwards.
    Write {
        file: Object,
        offset: u64,
        data: Vec<u8>,
        length: u64,
    },
    Truncate {
        file: Object,
        length: u64,
    },
    Name {
        place: Place,
        object: Option<Object>,
    },
    Rename {
        from: Place,
        to: Place,
        object: Object,
    },
}

impl Change {
    /// What has to be synced to settle it.
    fn settled_by(&self) -> Object {
        match self {
            Self::Write { file, .. } | Self::Truncate { file, .. } => *file,
            Self::Name { place: (folder, _), .. } | Self::Rename { to: (folder, _), .. } => *folder,
        }
    }
}

/// Names, and what they stand for.
pub(super) type Names = BTreeMap<Place, Object>;

/// Does what a change does to names.
pub(super) fn rename(names: &mut Names, change: &Change) {
    match change {
        Change::Name { place, object: Some(object) } => {
            names.insert(place.clone(), *object);
        }
        Change::Name { place, object: None } => {
            names.remove(place);
        }
        Change::Rename { from, to, object } => {
            names.remove(from);
            names.insert(to.clone(), *object);
        }
        Change::Write { .. } | Change::Truncate { .. } => {}
    }
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The content of each object, where it is a file.
    pub(super) contents: Vec<Option<Content>>,
    pub(super) settled: Names,
    /// In order; each with its number.
    pub(super) pending: Vec<(u64, Change)>,
    /// The names as the running process has them.
    current: Names,
    /// The length of files as the running process has it.
    lengths: HashMap<Object, u64>,
    inodes: HashMap<u64, Object>,
    next: u64,
    /// Syncs under way: up to which change. One thread has several where their ends come late.
    syncs: HashMap<(u64, u64), VecDeque<u64>>,
}

impl Disk {
    pub(super) const ROOT: Object = Object(0);

    /// A folder with all that is in it, all of it settled.
    pub(super) fn read(folder: &Path) -> Self {
        let mut disk = Self {
            contents: Vec::new(),
            settled: Names::new(),
            pending: Vec::new(),
            current: Names::new(),
            lengths: HashMap::new(),
            inodes: HashMap::new(),
            next: 0,
            syncs: HashMap::new(),
        };
        let root = disk.add(std::fs::metadata(folder).unwrap().ino(), None);
        disk.read_below(root, folder);
        disk.current = disk.settled.clone();
        disk
    }

    fn read_below(&mut self, parent: Object, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let content = metadata.is_file().then(|| {
                let mut bytes = std::fs::read(entry.path()).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(used);
                Content { bytes, length: metadata.len() }
            });
            let object = self.add(metadata.ino(), content);
            self.settled.insert((parent, entry.file_name().into_string().unwrap()), object);
            if metadata.is_dir() {
                self.read_below(object, &entry.path());
            }
        }
    }

    fn add(&mut self, inode: u64, content: Option<Content>) -> Object {
        let object = Object(self.contents.len());
        self.lengths.extend(content.as_ref().map(|content| (object, content.length)));
        self.contents.push(content);
        self.inodes.insert(inode, object);
        object
    }

    /// Takes what happened next.
    pub(super) fn take(&mut self, event: Event<'_>) {
        match event {
            Event::MakeFolder { parent, inode, name } => {
                let object = self.add(inode, None);
                self.name(parent, name, Some(object));
            }
            Event::Create { parent, inode, name } => {
                let object = self.add(inode, Some(Content::default()));
                self.name(parent, name, Some(object));
            }
            Event::Unlink { parent, name } => self.name(parent, name, None),
            Event::Rename { from, to } => {
                let from = (self.inodes[&from.0], from.1.to_owned());
                let to = (self.inodes[&to.0], to.1.to_owned());
                let object = self.current[&from];
                self.change(Change::Rename { from, to, object });
            }
            Event::Write { inode, offset, data } => {
                let file = self.inodes[&inode];
                let length = self.lengths[&file].max(offset + data.len() as u64);
                self.lengths.insert(file, length);
                self.change(Change::Write { file, offset, data: data.to_owned(), length });
            }
            Event::Truncate { inode, bytes: length } => {
                let file = self.inodes[&inode];
                self.lengths.insert(file, length);
                self.change(Change::Truncate { file, length });
            }
            Event::SyncBegin { inode, thread } => {
                self.syncs.entry((inode, thread)).or_default().push_back(self.next);
            }
            Event::SyncEnd { inode, thread } => {
                let syncs = self.syncs.get_mut(&(inode, thread)).unwrap();
                let up_to = syncs.pop_front().unwrap();
                self.settle(self.inodes[&inode], up_to);
            }
        }
    }

    fn name(&mut self, parent: u64, name: &str, object: Option<Object>) {
        let place = (self.inodes[&parent], name.to_owned());
        self.change(Change::Name { place, object });
    }

    fn change(&mut self, change: Change) {
        rename(&mut self.current, &change);
        self.pending.push((self.next, change));
        self.next += 1;
    }

    fn settle(&mut self, object: Object, up_to: u64) {
        let (settled, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(number, change)| *number < up_to && change.settled_by() == object);
        self.pending = pending;
        for (_, change) in settled {
            rename(&mut self.settled, &change);
            match change {
                Change::Write { file, offset, data, length } => {
                    let content = self.contents[file.0].as_mut().unwrap();
                    content.write(offset, &data);
                    content.length = length;
                }
                Change::Truncate { file, length } => {
                    self.contents[file.0].as_mut().unwrap().truncate(length);
                }
                Change::Name { .. } | Change::Rename { .. } => {}
            }
        }
    }
}

pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}
