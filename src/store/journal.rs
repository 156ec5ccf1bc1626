//! Journals of the engine, read before it does.
//!
//! A journal is a run of batches and then zeros. A batch is a start (tag 1, how many items, its
//! sequence number), the items (tag 2, kind, compression, keyspace, lengths, key and value) and
//! an end (tag 3, XXH3 of the items, a magic number); integers are little-endian. The engine drops
//! all that comes after a part it does not understand, and takes the rest of a torn batch for
//! an error: neither is for it to decide.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::keys;
use super::mark::{Mark, RECORD_BYTES, TOKEN_AT, Token};

const TRAILER: [u8; 4] = *b"FJL\x03";
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
/// How far before its token a marked batch begins.
const BEFORE_TOKEN: u64 = (START_BYTES + ITEM_BYTES + keys::MARK.len() + TOKEN_AT) as u64;
const MARK_BYTES: usize = keys::MARK.len() + RECORD_BYTES;
/// From one batch to the next the engine's number grows by less.
const SEQNO_STEP_MAX: u64 = 1 << 32;
/// What is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

mod tag {
    pub(super) const START: u8 = 1;
    pub(super) const ITEM: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const CLEAR: u8 = 4;
}

/// A whole batch, with nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Where it begins.
    pub(super) from: u64,
    /// Where it ends.
    pub(super) to: u64,
    /// The engine's own number.
    seqno: u64,
    /// What it says of itself, where it is one of ours.
    pub(super) mark: Option<Mark>,
}

impl Batch {
    fn follows(&self, last: Option<u64>) -> bool {
        last.is_none_or(|last| (1..SEQNO_STEP_MAX).contains(&self.seqno.wrapping_sub(last)))
    }
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) path: PathBuf,
    /// Journals are numbered in the order in which they were written.
    pub(super) id: u64,
    pub(super) bytes: u64,
    /// The marks of the batches from its beginning on, as far as they follow each other: runs
    /// from one number to another.
    pub(super) runs: Vec<Run>,
    /// Where the last of them ends.
    pub(super) whole_to: u64,
    /// What comes behind is not only zeros.
    pub(super) has_tail: bool,
    /// The whole batches in that tail.
    pub(super) behind: Vec<Batch>,
}

/// Batches whose numbers follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Journal {
    /// The journals of a folder, in order.
    pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let id = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
            found.extend(id.map(|id| (id, path)));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Reads a journal from one end to the other.
    pub(super) fn read(id: u64, path: PathBuf, token: &Token) -> io::Result<Self> {
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut input = Input { reader: BufReader::with_capacity(CHUNK_BYTES, file), at: 0, bytes };
        let mut journal = Self {
            path,
            id,
            bytes,
            runs: Vec::new(),
            whole_to: 0,
            has_tail: false,
            behind: Vec::new(),
        };
        // The one thing of a batch that has no checksum.
        let mut seqno = None;
        while let Some(batch) = input.batch(token)? {
            if !batch.follows(seqno) {
                break;
            }
            seqno = Some(batch.seqno);
            journal.whole_to = batch.to;
            let Some(Mark { number, .. }) = batch.mark else { continue };
            match journal.runs.last_mut().filter(|run| run.last.checked_add(1) == Some(number)) {
                Some(run) => run.last = number,
                None => journal.runs.push(Run { first: number, last: number }),
            }
        }
        journal.has_tail = !input.is_zero_from(journal.whole_to)?;
        if journal.has_tail {
            journal.behind = input.batches_from(journal.whole_to, token, seqno)?;
        }
        Ok(journal)
    }
}

/// A journal that is read. Nothing is made of a length before it was compared with what is left.
struct Input {
    reader: BufReader<File>,
    at: u64,
    bytes: u64,
}

/// What is read makes no batch.
struct Bad;

impl Input {
    fn go_to(&mut self, at: u64) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }

    /// The batch that begins here. `None`: there is none, or it is not whole.
    fn batch(&mut self, token: &Token) -> io::Result<Option<Batch>> {
        let from = self.at;
        let found = self.try_batch(token)?;
        Ok(found.ok().map(|(seqno, mark)| Batch { from, to: self.at, seqno, mark }))
    }

    fn try_batch(&mut self, token: &Token) -> io::Result<Result<(u64, Option<Mark>), Bad>> {
        let Some([tag::START, rest @ ..]) = self.array::<START_BYTES>()? else {
            return Ok(Err(Bad));
        };
        let [a, b, c, d, seqno @ ..] = rest;
        let mut mark = None;
        let mut hash = Xxh3::new();
        for item in 0..u32::from_le_bytes([a, b, c, d]) {
            match self.item(&mut hash, token, item == 0)? {
                Ok(found) => mark = mark.or(found),
                Err(Bad) => return Ok(Err(Bad)),
            }
        }
        let Some([tag::END, rest @ ..]) = self.array::<START_BYTES>()? else {
            return Ok(Err(Bad));
        };
        let Some((sum, trailer)) = rest.split_first_chunk::<8>() else { return Ok(Err(Bad)) };
        let is_whole = u64::from_le_bytes(*sum) == hash.digest() && *trailer == TRAILER;
        Ok(if is_whole { Ok((u64::from_le_bytes(seqno), mark)) } else { Err(Bad) })
    }

    /// One item; its mark, if it is `first` and has one.
    fn item(
        &mut self,
        hash: &mut Xxh3,
        token: &Token,
        first: bool,
    ) -> io::Result<Result<Option<Mark>, Bad>> {
        let Some([tag]) = self.array::<1>()? else { return Ok(Err(Bad)) };
        if tag == tag::CLEAR {
            let Some(keyspace) = self.array::<8>()? else { return Ok(Err(Bad)) };
            hash.update(&[tag]);
            hash.update(&keyspace);
            return Ok(Ok(None));
        }
        let Some(head) = self.array::<{ ITEM_BYTES - 1 }>()?.filter(|_| tag == tag::ITEM) else {
            return Ok(Err(Bad));
        };
        // Kind, compression, eight bytes of keyspace, and the lengths.
        let [kind, compression, .., k0, k1, v0, v1, v2, v3, d0, d1, d2, d3] = head;
        let key_bytes = u16::from_le_bytes([k0, k1]);
        let value_bytes = u32::from_le_bytes([v0, v1, v2, v3]);
        let is_plain =
            kind <= 2 && compression == 0 && value_bytes == u32::from_le_bytes([d0, d1, d2, d3]);
        let bytes = u64::from(key_bytes) + u64::from(value_bytes);
        if !is_plain || bytes > self.bytes.saturating_sub(self.at) {
            return Ok(Err(Bad));
        }
        hash.update(&[tag]);
        hash.update(&head);
        if first && bytes == MARK_BYTES as u64 {
            let Some(both) = self.array::<MARK_BYTES>()? else { return Ok(Err(Bad)) };
            hash.update(&both);
            let record = both.strip_prefix(keys::MARK);
            return Ok(Ok(record.and_then(|record| Mark::unseal(record, token).ok())));
        }
        let mut left = bytes;
        let mut chunk = [0; 4096];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let Some(part) = chunk.get_mut(..wanted) else { break };
            if !self.fill(part)? {
                return Ok(Err(Bad));
            }
            hash.update(part);
            left -= wanted as u64;
        }
        Ok(Ok(None))
    }

    fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    /// False where the journal ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_zero_from(&mut self, from: u64) -> io::Result<bool> {
        self.go_to(from)?;
        let (mut chunk, zeros) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        loop {
            let read = self.reader.read(&mut chunk)?;
            match chunk.get(..read) {
                None | Some([]) => return Ok(true),
                // Compared as a whole: a new journal is 64 MiB of them.
                Some(part) if zeros.starts_with(part) => {}
                Some(_) => return Ok(false),
            }
        }
    }

    /// All whole batches with a mark of ours, wherever they are.
    fn batches_from(
        &mut self,
        whole_to: u64,
        token: &Token,
        mut seqno: Option<u64>,
    ) -> io::Result<Vec<Batch>> {
        let mut found = Vec::new();
        let mut from = whole_to;
        while let Some(at) = self.find(token, from)? {
            from = at + 1;
            let Some(start) = at.checked_sub(BEFORE_TOKEN).filter(|at| *at >= whole_to) else {
                continue;
            };
            self.go_to(start)?;
            let batch = self.batch(token)?;
            if let Some(batch) = batch.filter(|it| it.mark.is_some() && it.follows(seqno)) {
                from = batch.to;
                seqno = Some(batch.seqno);
                found.push(batch);
            }
        }
        Ok(found)
    }

    /// Where these bytes are next.
    fn find(&mut self, wanted: &Token, from: u64) -> io::Result<Option<u64>> {
        self.go_to(from)?;
        let mut at = from;
        let mut window = Vec::with_capacity(CHUNK_BYTES + wanted.len());
        loop {
            let kept = window.len();
            let limit = (CHUNK_BYTES - kept) as u64;
            if self.reader.by_ref().take(limit).read_to_end(&mut window)? == 0 {
                return Ok(None);
            }
            let place = window.windows(wanted.len()).position(|bytes| bytes == wanted);
            if let Some(place) = place {
                return Ok(Some(at + place as u64));
            }
            let done = window.len().saturating_sub(wanted.len() - 1);
            window.drain(..done);
            at += done as u64;
        }
    }
}
