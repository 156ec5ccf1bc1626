//! The inventory: everything an authority issued and revoked, in a file that only grows.
//!
//! A line is on the disk before what it is about is handed out. What a crash left of a last line
//! is cut off and set aside, since nothing was handed out for it; anything else that cannot be
//! read is damage, and refused. Several processes take turns by a lock on the file, and each reads
//! first what the others wrote. Nothing is ever changed or taken out.

mod record;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use time::OffsetDateTime;

pub use record::{AuthorityRecord, Certificate, Reason, Record, Revocation, Role, SignedCrl};
use record::{FORMAT_VERSION, Line, Written};

/// Bytes of a line; a certificate has 64 names of some 2 KiB at most.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// How long one process waits for another to be done; a bulk issue holds the lock for a batch.
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Why the inventory cannot be used. Each says the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The operating system refuses.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner may write it.
    #[error("{0}: has mode {mode:04o}, so that others than its owner can read or change it; run: chmod 600 {0}", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process does not let go of it.
    #[error("{}: another process has been using it for {} s; wait for it to end", path.display(), LOCK_WAIT.as_secs())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A line cannot be read.
    #[error(
        "{}, line {line}: {problem}; nothing is issued or revoked until this is repaired: bring back the file from a backup, or look at the line",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

/// A certificate with what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The certificate.
    pub certificate: Certificate,
    /// When and why it was revoked.
    pub revoked: Option<(OffsetDateTime, Reason)>,
    /// The serial number of the certificate that took its place.
    pub renewed_by: Option<String>,
    /// False where its files may never have been written, since whoever issued it was stopped:
    /// then nobody has its key.
    pub is_written: bool,
}

/// Whether a certificate is good for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is valid, or will be.
    Valid,
    /// It was revoked.
    Revoked,
    /// It has come to its end.
    Expired,
}

impl Entry {
    /// What the certificate is at a time. What was revoked stays so when it has expired.
    #[must_use]
    pub fn state(&self, now: OffsetDateTime) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if self.certificate.not_after < now {
            State::Expired
        } else {
            State::Valid
        }
    }
}

/// What the lines add up to.
#[derive(Debug, Default)]
pub struct Contents {
    entries: Vec<Entry>,
    by_serial: HashMap<String, usize>,
    by_name: HashMap<String, Vec<usize>>,
    revocations: Vec<(OffsetDateTime, Revocation)>,
    /// The issuers that revoked a certificate of a serial number; hardly ever more than one.
    revoked: HashMap<String, Vec<String>>,
    authorities: Vec<AuthorityRecord>,
    crls: HashMap<String, SignedCrl>,
}

impl Contents {
    /// Every certificate, in the order in which they were issued.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The certificate with a serial number: lower-case hex without leading zeros.
    #[must_use]
    pub fn by_serial(&self, serial: &str) -> Option<&Entry> {
        self.by_serial.get(serial).and_then(|at| self.entries.get(*at))
    }

    /// The certificates of a name, in the order in which they were issued.
    pub fn by_name(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.by_name.get(name).into_iter().flatten().filter_map(|at| self.entries.get(*at))
    }

    /// The certificates that may never have been written, of those that are good yet.
    pub fn unwritten(&self, now: OffsetDateTime) -> impl Iterator<Item = &Entry> {
        let is_one = move |entry: &&Entry| !entry.is_written && entry.state(now) == State::Valid;
        self.entries.iter().filter(is_one)
    }

    /// Every revocation and its time, also of certificates that were not issued here.
    pub fn revocations(&self) -> impl Iterator<Item = &(OffsetDateTime, Revocation)> {
        self.revocations.iter()
    }

    /// Whether a certificate of an issuer was revoked.
    #[must_use]
    pub fn is_revoked(&self, issuer: &str, serial: &str) -> bool {
        self.revoked.get(serial).is_some_and(|issuers| issuers.iter().any(|one| one == issuer))
    }

    /// The authorities, in the order in which they were made.
    pub fn authorities(&self) -> impl Iterator<Item = &AuthorityRecord> {
        self.authorities.iter()
    }

    /// The latest list of revoked certificates of an issuer.
    #[must_use]
    pub fn crl(&self, issuer: &str) -> Option<&SignedCrl> {
        self.crls.get(issuer)
    }

    /// Where it is an authority that was revoked, nothing that it issued is good any more.
    fn revoke_below(&mut self, time: OffsetDateTime, revocation: &Revocation) {
        let is_it = |authority: &&AuthorityRecord| {
            authority.name == revocation.name
                && authority.not_after == revocation.not_after
                && authority.issuer != revocation.issuer
        };
        if revocation.reason != Reason::CaCompromise {
            return;
        }
        let Some(authority) = self.authorities.iter().rfind(is_it) else { return };
        let issued = |entry: &&mut Entry| entry.certificate.issuer == authority.issuer;
        for entry in self.entries.iter_mut().filter(issued) {
            entry.revoked.get_or_insert((time, revocation.reason));
        }
    }

    /// Takes a record in.
    fn add(&mut self, time: OffsetDateTime, record: Record) -> Result<(), String> {
        match record {
            Record::Authority(authority) => self.authorities.push(authority),
            Record::Issued(certificate) => {
                let at = self.entries.len();
                let (serial, name) = (certificate.serial.clone(), certificate.name.clone());
                if self.by_serial.insert(serial, at).is_some() {
                    return Err(format!("serial number {} a second time", certificate.serial));
                }
                self.by_name.entry(name).or_default().push(at);
                if let Some(renewed) =
                    certificate.renews.as_ref().and_then(|s| self.by_serial.get(s))
                    && let Some(entry) = self.entries.get_mut(*renewed)
                {
                    entry.renewed_by = Some(certificate.serial.clone());
                }
                self.entries.push(Entry {
                    is_written: !certificate.to_file,
                    certificate: *certificate,
                    revoked: None,
                    renewed_by: None,
                });
            }
            Record::Revoked(revocation) => {
                if let Some(at) = self.by_serial.get(&revocation.serial)
                    && let Some(entry) = self.entries.get_mut(*at)
                    && entry.certificate.issuer == revocation.issuer
                {
                    entry.revoked.get_or_insert((time, revocation.reason));
                }
                self.revoke_below(time, &revocation);
                let issuers = self.revoked.entry(revocation.serial.clone()).or_default();
                issuers.push(revocation.issuer.clone());
                self.revocations.push((time, revocation));
            }
            Record::Written(Written { serials }) => {
                for serial in serials {
                    let at = self.by_serial.get(&serial);
                    if let Some(entry) = at.and_then(|at| self.entries.get_mut(*at)) {
                        entry.is_written = true;
                    }
                }
            }
            Record::Crl(crl) => {
                self.crls.insert(crl.issuer.clone(), crl);
            }
        }
        Ok(())
    }
}

/// The inventory of one authority.
pub(super) struct Inventory {
    path: PathBuf,
    read: Mutex<ReadSoFar>,
}

/// What was read so far.
#[derive(Default)]
struct ReadSoFar {
    contents: Contents,
    bytes: u64,
    lines: u64,
}

/// The inventory, held by this process alone, with all that is in it.
pub(super) struct Held<'a> {
    path: &'a Path,
    file: File,
    read: &'a mut ReadSoFar,
}

impl Record {
    /// The files of the certificates with these serial numbers are there.
    pub(super) const fn written(serials: Vec<String>) -> Self {
        Self::Written(Written { serials })
    }
}

impl Inventory {
    /// The file of the inventory in the folder of an authority.
    pub(super) fn path_in(folder: &Path) -> PathBuf {
        folder.join("inventory.jsonl")
    }

    /// The inventory in the folder of an authority. There is none of an authority from before
    /// there were any: it is made by whoever writes first.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: Self::path_in(folder), read: Mutex::default() }
    }

    /// Looks into what is there now. Waits while somebody adds, so that what is seen is on the disk.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub(super) fn look<T>(
        &self,
        looking: impl FnOnce(&Contents) -> T,
    ) -> Result<T, InventoryError> {
        let mut read = self.read.lock();
        match File::open(&self.path) {
            Ok(file) => {
                self.wait_for_lock(&file, FlockOperation::NonBlockingLockShared)?;
                read.catch_up(&self.path, &file).map(drop)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(self.io("open it", source)),
        }
        Ok(looking(&read.contents))
    }

    /// Holds it alone, in this process and among others, while `work` looks and adds.
    ///
    /// # Errors
    /// When it cannot be opened or read, is damaged, or somebody else holds it for too long; and
    /// what `work` returns.
    pub(super) fn hold<T, E: From<InventoryError>>(
        &self,
        work: impl FnOnce(&mut Held<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut read = self.read.lock();
        let file = self.open()?;
        self.wait_for_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let torn = read.catch_up(&self.path, &file)?;
        let mut held = Held { path: &self.path, file, read: &mut read };
        if torn {
            held.set_torn_line_aside()?;
        }
        work(&mut held)
    }

    fn open(&self) -> Result<File, InventoryError> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.io("open it", error.into()))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| self.io("examine it", error))?;
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_file() {
            return Err(self.io("use it", io::Error::other("it is no regular file")));
        }
        if mode & 0o077 != 0 {
            return Err(InventoryError::OpenToOthers { path: self.path.clone(), mode });
        }
        if metadata.len() == 0 {
            // So that a new file is still there after a crash.
            let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))
                .and_then(|folder| folder.sync_all())
                .map_err(|error| self.io("make it durable", error))?;
        }
        Ok(file)
    }

    fn wait_for_lock(&self, file: &File, kind: FlockOperation) -> Result<(), InventoryError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match rustix::fs::flock(file, kind) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(InventoryError::InUse { path: self.path.clone() });
                }
                Err(error) => return Err(self.io("lock it", error.into())),
            }
        }
    }

    fn io(&self, action: &'static str, source: io::Error) -> InventoryError {
        InventoryError::Io { path: self.path.clone(), action, source }
    }
}

impl ReadSoFar {
    /// Reads what was added since. True when the last line is not complete.
    fn catch_up(&mut self, path: &Path, mut file: &File) -> Result<bool, InventoryError> {
        let io = |source| InventoryError::Io { path: path.to_owned(), action: "read it", source };
        let length = file.metadata().map_err(io)?.len();
        if length < self.bytes {
            return Err(self.damaged(path, "the file became shorter"));
        }
        file.seek(SeekFrom::Start(self.bytes)).map_err(io)?;
        let mut added = io::BufReader::new(file.take(length - self.bytes));
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = io::BufRead::read_until(
                &mut io::Read::take(&mut added, LINE_BYTES_MAX as u64),
                b'\n',
                &mut line,
            )
            .map_err(io)?;
            let Some(text) = line.strip_suffix(b"\n") else {
                if bytes == LINE_BYTES_MAX {
                    return Err(self.damaged(path, "the line is longer than any line is"));
                }
                return Ok(bytes > 0);
            };
            let parsed: Line<Record> = serde_json::from_slice(text)
                .map_err(|error| self.damaged(path, &error.to_string()))?;
            if parsed.v != FORMAT_VERSION {
                return Err(self.damaged(path, "written by a newer version of this program"));
            }
            if parsed.seq != self.lines + 1 {
                return Err(self.damaged(path, "a line before it is missing, or it stands twice"));
            }
            if let Err(problem) = self.contents.add(parsed.time, parsed.record) {
                return Err(self.damaged(path, &problem));
            }
            self.lines += 1;
            self.bytes += bytes as u64;
        }
    }

    fn damaged(&self, path: &Path, problem: &str) -> InventoryError {
        let problem = crate::harmless::harmless(problem);
        InventoryError::Damaged { path: path.to_owned(), line: self.lines + 1, problem }
    }
}

impl Held<'_> {
    /// What is in it.
    pub(super) fn contents(&self) -> &Contents {
        &self.read.contents
    }

    /// Adds records: when this returns, they are on the disk, all of them with one sync.
    ///
    /// # Errors
    /// When they cannot be written; then none of them is there for whoever reads it next.
    pub(super) fn append(
        &mut self,
        now: OffsetDateTime,
        records: &[Record],
    ) -> Result<(), InventoryError> {
        let mut text = Vec::new();
        for (seq, record) in (self.read.lines + 1..).zip(records) {
            let line = Line { v: FORMAT_VERSION, seq, time: now, record };
            serde_json::to_writer(&mut text, &line)
                .map_err(|error| self.io("write it", error.into()))?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // What is there of them would be read as if it had been handed out.
            let _ = self.file.set_len(self.read.bytes).and_then(|()| self.file.sync_data());
            return Err(self.io("write it", error));
        }
        for record in records {
            // INVARIANT: serial numbers are random; `add` refuses nothing that was written here.
            if let Err(problem) = self.read.contents.add(now, record.clone()) {
                return Err(self.read.damaged(self.path, &problem));
            }
        }
        self.read.lines += records.len() as u64;
        self.read.bytes += text.len() as u64;
        Ok(())
    }

    /// Cuts off what a crash left of a last line. It was never on the disk as a whole, so nothing
    /// was handed out for it; it is kept beside the inventory for whoever wants to know.
    fn set_torn_line_aside(&mut self) -> Result<(), InventoryError> {
        let io = |source| InventoryError::Io {
            path: self.path.to_owned(),
            action: "set an incomplete last line aside",
            source,
        };
        let mut torn = Vec::new();
        self.file.seek(SeekFrom::Start(self.read.bytes)).map_err(io)?;
        Read::by_ref(&mut self.file)
            .take(LINE_BYTES_MAX as u64)
            .read_to_end(&mut torn)
            .map_err(io)?;
        torn.push(b'\n');
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
        let aside = self.path.with_extension("torn");
        let aside = rustix::fs::open(&aside, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|error| io(error.into()))?;
        let mut aside = File::from(aside);
        aside.write_all(&torn).and_then(|()| aside.sync_all()).map_err(io)?;
        self.file.set_len(self.read.bytes).and_then(|()| self.file.sync_all()).map_err(io)
    }

    fn io(&self, action: &'static str, source: io::Error) -> InventoryError {
        InventoryError::Io { path: self.path.to_owned(), action, source }
    }
}

#[cfg(test)]
mod tests;
