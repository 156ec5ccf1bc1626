//! A backup as a stream of bytes.
//!
//! | part | bytes |
//! |---|---|
//! | head | one line of JSON: the format, and of what and when it is |
//! | block | keyspace (1), length of the content (4), content, SHA-256 of the stream up to here (32) |
//! | end | as a block, with tag 254 and how many records of each keyspace there were |
//!
//! The content of a block is whole records: length of the key, key, length of the value, value.
//! Integers of a fixed width are big-endian, the others LEB128. Keys rise. A block with tag 255
//! holds why no more comes.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use super::{Record, Sink, Space};
use crate::store::codec::{Damage, Fields, put_data, put_u64};
use crate::store::open::{FORMAT, FORMAT_MIN};
use crate::store::{StoreError, folder::io_failed};

/// The version of this format.
const BACKUP_FORMAT: u64 = 1;
/// Bytes of the head, its line feed included.
const HEAD_BYTES_MAX: usize = 1024;
/// Bytes from which on a block takes no further record.
const BLOCK_BYTES: usize = 64 * 1024;
/// A block with the largest record there can be: a page with the largest packet.
const BLOCK_BYTES_MAX: u32 = 320 * 1024 * 1024;
/// Bytes of what is said of a failure.
const FAILURE_BYTES_MAX: usize = 4096;

const END: u8 = 254;
const FAILURE: u8 = 255;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    portcullis_backup: u64,
    store_format: u64,
    made_by: String,
    taken_at: String,
}

impl Head {
    pub(super) fn now(now: SystemTime) -> Self {
        Self {
            portcullis_backup: BACKUP_FORMAT,
            store_format: FORMAT,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            taken_at: humantime::format_rfc3339_seconds(now).to_string(),
        }
    }
}

/// What is in a backup: `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format of the backup: 1.
    pub portcullis_backup: u64,
    /// The format of the store that it is of.
    pub store_format: u64,
    /// The version of the program that made it.
    pub made_by: String,
    /// When it was taken, in UTC.
    pub taken_at: String,
    /// How many records there are, by keyspace.
    pub records: Counts,
    /// Bytes of the file `data`.
    pub bytes: u64,
    /// SHA-256 of the file `data`, in hexadecimal.
    pub sha256: String,
}

/// Records by keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Messages that several sessions wait for.
    pub bodies: u64,
    /// Sessions, subscriptions and what is known of their handshakes.
    pub state: u64,
    /// Pages of queues.
    pub queue: u64,
    /// Retained messages.
    pub retained: u64,
}

impl Counts {
    fn count(&mut self, space: Space) {
        let count = match space {
            Space::Bodies => &mut self.bodies,
            Space::State => &mut self.state,
            Space::Queue => &mut self.queue,
            Space::Retained => &mut self.retained,
        };
        *count = count.saturating_add(1);
    }

    /// All records.
    #[must_use]
    pub fn all(&self) -> u64 {
        [self.bodies, self.state, self.queue, self.retained].iter().sum()
    }
}

/// What was read or written so far.
struct Progress {
    digest: Context,
    bytes: u64,
    counts: Counts,
}

impl Progress {
    fn new() -> Self {
        Self { digest: Context::new(&SHA256), bytes: 0, counts: Counts::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn manifest(self, head: Head) -> Manifest {
        let Head { portcullis_backup, store_format, made_by, taken_at } = head;
        let (records, bytes) = (self.counts, self.bytes);
        let sha256 = hex::encode(self.digest.finish());
        Manifest { portcullis_backup, store_format, made_by, taken_at, records, bytes, sha256 }
    }
}

/// Writes a backup.
pub(super) struct StreamWriter<W> {
    out: W,
    head: Head,
    progress: Progress,
    space: Space,
    block: Vec<u8>,
}

fn unwritten(error: impl Into<io::Error>) -> StoreError {
    StoreError::Failed { doing: "write the backup", error: error.into().to_string() }
}

impl<W: Write> StreamWriter<W> {
    pub(super) fn begin(out: W, head: Head) -> Result<Self, StoreError> {
        let (space, block) = (Space::Bodies, Vec::with_capacity(BLOCK_BYTES));
        let mut line = serde_json::to_vec(&head).map_err(unwritten)?;
        line.push(b'\n');
        let mut writer = Self { out, head, progress: Progress::new(), space, block };
        writer.put(&line)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.progress.take(bytes);
        self.out.write_all(bytes).map_err(unwritten)
    }

    fn put_block(&mut self, tag: u8, content: &[u8]) -> Result<(), StoreError> {
        let bytes = u32::try_from(content.len()).map_err(|_| {
            unwritten(io::Error::new(io::ErrorKind::InvalidData, "a record is too large"))
        })?;
        self.put(&[tag])?;
        self.put(&bytes.to_be_bytes())?;
        self.put(content)?;
        let sum = self.progress.digest.clone().finish();
        self.put(sum.as_ref())
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        self.put_block(self.space as u8, &block)?;
        block.clear();
        block.shrink_to(BLOCK_BYTES);
        self.block = block;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(Manifest, W), StoreError> {
        self.end_block()?;
        let Counts { bodies, state, queue, retained } = self.progress.counts;
        let mut content = Vec::new();
        for count in [bodies, state, queue, retained] {
            put_u64(&mut content, count);
        }
        self.put_block(END, &content)?;
        self.out.flush().map_err(unwritten)?;
        Ok((self.progress.manifest(self.head), self.out))
    }

    /// Says why no more comes.
    pub(super) fn fail(mut self, why: &str) -> Result<(), StoreError> {
        let why = why.as_bytes();
        self.put_block(FAILURE, why.get(..FAILURE_BYTES_MAX).unwrap_or(why))?;
        self.out.flush().map_err(unwritten)
    }
}

impl<W: Write> Sink for StreamWriter<W> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        if record.space != self.space {
            self.end_block()?;
            self.space = record.space;
        }
        self.progress.counts.count(record.space);
        put_data(&mut self.block, record.key);
        put_data(&mut self.block, record.value);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }
}

/// Reads a backup.
pub(super) struct StreamReader<R> {
    input: R,
    /// What it is read from, for errors, and what to do then.
    name: PathBuf,
    remedy: &'static str,
    head: Head,
    progress: Progress,
}

impl<R: Read> StreamReader<R> {
    /// Reads the head.
    pub(super) fn open(input: R, name: PathBuf, remedy: &'static str) -> Result<Self, StoreError> {
        let head = Head::now(SystemTime::UNIX_EPOCH);
        let mut reader = Self { input, name, remedy, head, progress: Progress::new() };
        let mut line = Vec::new();
        loop {
            let [byte] = reader.array()?;
            if byte == b'\n' {
                break;
            }
            line.push(byte);
            if line.len() >= HEAD_BYTES_MAX {
                return Err(reader.damaged("it does not begin as a backup does"));
            }
        }
        reader.head = serde_json::from_slice(&line)
            .map_err(|_| reader.damaged("it does not begin as a backup does"))?;
        reader.check_format(reader.head.portcullis_backup, reader.head.store_format)?;
        Ok(reader)
    }

    fn check_format(&self, backup: u64, store: u64) -> Result<(), StoreError> {
        if backup == BACKUP_FORMAT && (FORMAT_MIN..=FORMAT).contains(&store) {
            return Ok(());
        }
        let why = format!(
            "another version made it (format {backup} of a store of format {store}; this one \
             reads {BACKUP_FORMAT} of {FORMAT_MIN} to {FORMAT}): use that version"
        );
        Err(StoreError::Foreign { folder: self.name.clone(), why })
    }

    fn damaged(&self, what: &str) -> StoreError {
        let what = format!("byte {}: {what}; {}", self.progress.bytes, self.remedy);
        StoreError::Damaged { file: self.name.clone(), what }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StoreError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.progress.take(bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends here, before its end"))
            }
            Err(error) => Err(io_failed("read the backup", &self.name)(error)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a block into `content`; its tag.
    fn block(&mut self, content: &mut Vec<u8>) -> Result<u8, StoreError> {
        let [tag, length @ ..] = self.array::<5>()?;
        let length = u32::from_be_bytes(length);
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged("the length of a block is impossible"));
        }
        content.clear();
        // Room is made as the bytes come.
        let read = self.input.by_ref().take(length.into()).read_to_end(content);
        let read = read.map_err(io_failed("read the backup", &self.name))?;
        self.progress.take(content);
        if read as u64 != u64::from(length) {
            return Err(self.damaged("it ends here, before its end"));
        }
        let sum = self.progress.digest.clone().finish();
        if self.array::<SHA256_OUTPUT_LEN>()? != sum.as_ref() {
            return Err(self.damaged("the checksum of the block before is wrong"));
        }
        Ok(tag)
    }

    /// Gives all records to the sink. What is in the manifest was compared with what came.
    pub(super) fn each(mut self, sink: &mut impl Sink) -> Result<Manifest, StoreError> {
        let mut content = Vec::new();
        let mut last: Option<(Space, Vec<u8>)> = None;
        loop {
            let tag = self.block(&mut content)?;
            match Space::ALL.into_iter().find(|space| *space as u8 == tag) {
                Some(space) => self.records(space, &content, &mut last, sink)?,
                None if tag == END => break,
                None if tag == FAILURE => {
                    let error = String::from_utf8_lossy(&content).into_owned();
                    return Err(StoreError::Failed { doing: "read the store", error });
                }
                None => return Err(self.damaged("the kind of a block is unknown")),
            }
            content.shrink_to(BLOCK_BYTES);
        }
        let mut counts = Fields::of(&content);
        let Counts { bodies, state, queue, retained } = self.progress.counts;
        let is_all = [bodies, state, queue, retained]
            .iter()
            .all(|count| counts.u64().is_ok_and(|expected| expected == *count));
        if !is_all || !counts.is_empty() {
            return Err(self.damaged("it does not have as many records as it says"));
        }
        let mut behind = Vec::new();
        let read = self.input.by_ref().take(1).read_to_end(&mut behind);
        if read.map_err(io_failed("read the backup", &self.name))? > 0 {
            return Err(self.damaged("there is something behind its end"));
        }
        Ok(self.progress.manifest(self.head))
    }

    fn records(
        &mut self,
        space: Space,
        content: &[u8],
        last: &mut Option<(Space, Vec<u8>)>,
        sink: &mut impl Sink,
    ) -> Result<(), StoreError> {
        let mut fields = Fields::of(content);
        while !fields.is_empty() {
            let both = fields.data().and_then(|key| Ok((key, fields.data()?)));
            let (key, value) = both.map_err(|Damage(why)| self.damaged(why))?;
            if u16::try_from(key.len()).is_err() || key.is_empty() {
                return Err(self.damaged("the key of a record is too long or empty"));
            }
            match last {
                Some((of, before)) if (*of, &**before) >= (space, key) => {
                    return Err(self.damaged("its records are not in order"));
                }
                Some((of, before)) => {
                    *of = space;
                    before.clear();
                    before.extend_from_slice(key);
                }
                None => *last = Some((space, key.to_vec())),
            }
            self.progress.counts.count(space);
            sink.record(&Record { space, key, value })?;
        }
        Ok(())
    }
}
