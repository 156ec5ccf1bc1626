//! Journals are made whole before the engine reads them.
//!
//! A power cut leaves a torn end: any part of what was not synced. That is cut off, and kept in
//! `set-aside`. Where something is missing that a later batch says was synced, the store is
//! damaged, and nothing is touched unless the loss is accepted: then what can be read behind it
//! stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::folder::{Folder, io_failed};
use super::journal::{Journal, Run};

/// What is wrong with the journals, and what to do about it.
#[derive(Debug, Default)]
struct Findings {
    cuts: Vec<Cut>,
    /// What is missing though it was synced: where, and what is known.
    damage: Vec<(PathBuf, String)>,
    /// Numbers of batches between which others are missing.
    gaps: Vec<Run>,
}

/// What of a journal is not whole: all from `from` on but what lies in `keep`.
#[derive(Debug)]
struct Cut {
    path: PathBuf,
    from: u64,
    bytes: u64,
    keep: Vec<(u64, u64)>,
}

/// Cuts torn ends off; says the number of the last batch, where there is one.
///
/// # Errors
/// [`StoreError::Damaged`], and nothing was touched.
pub(super) fn repair(folder: &Folder) -> Result<Option<u64>, StoreError> {
    let read = io_failed("read the journals of the store", &folder.data);
    let mut journals = Vec::new();
    for (id, path) in Journal::list(&folder.data).map_err(&read)? {
        journals.push(Journal::read(id, path, &folder.token).map_err(&read)?);
    }
    let gaps = Gaps::read(folder)?;
    let findings = examine(folder, &journals, &gaps);
    for (file, what) in &findings.damage {
        if !folder.accept_loss {
            return Err(folder.damaged(file, what));
        }
        folder.lost(&format!("{}: {what}", file.display()));
    }
    if journals.is_empty() {
        // The engine takes a store without a journal for an empty one.
        folder.write_data("0.jnl", b"")?;
    }
    for cut in &findings.cuts {
        cut.make(folder)?;
    }
    gaps.add(&findings.gaps)?;
    let last = journals.iter().rev().find_map(|journal| {
        let behind = journal.behind.iter().rev().find_map(|batch| batch.mark);
        let kept = behind.filter(|_| {
            let cut = findings.cuts.iter().find(|cut| cut.path == journal.path);
            cut.is_some_and(|cut| !cut.keep.is_empty())
        });
        kept.map(|mark| mark.number).or_else(|| journal.runs.last().map(|run| run.last))
    });
    Ok(last)
}

/// Says that the journals end before what the tables have.
///
/// # Errors
/// [`StoreError::Damaged`], unless the loss is accepted or was before.
pub(super) fn compare(folder: &Folder, last: Option<u64>, known: u64) -> Result<(), StoreError> {
    let Some(last) = last.filter(|last| *last < known) else { return Ok(()) };
    let gaps = Gaps::read(folder)?;
    let gap = Run { first: last, last: known.saturating_add(1) };
    if gaps.has(gap) {
        return Ok(());
    }
    let what = format!("its journals end with batch {last}, and there was a batch {known}");
    if !folder.accept_loss {
        return Err(folder.damaged(&folder.data, &what));
    }
    folder.lost(&what);
    gaps.add(&[gap])
}

fn examine(folder: &Folder, journals: &[Journal], gaps: &Gaps) -> Findings {
    let mut findings = Findings::default();
    if journals.is_empty() {
        findings.damage.push((folder.data.clone(), "it has no journal".to_owned()));
    }
    for pair in journals.windows(2) {
        let [one, next] = pair else { continue };
        if one.id.checked_add(1) != Some(next.id) {
            let what = format!("there is no journal between {} and {}", one.id, next.id);
            findings.damage.push((folder.data.clone(), what));
        }
    }
    let mut last: Option<u64> = None;
    for (at, journal) in journals.iter().enumerate() {
        for run in &journal.runs {
            findings.follow(last, run.first, journal, gaps);
            last = Some(run.last);
        }
        if !journal.has_tail {
            continue;
        }
        let mut cut = Cut {
            path: journal.path.clone(),
            from: journal.whole_to,
            bytes: journal.bytes,
            keep: Vec::new(),
        };
        let marks = || journal.behind.iter().filter_map(|batch| batch.mark);
        let later = journals.get(at + 1..).unwrap_or_default();
        // A journal is synced before the next one begins.
        let is_sealed = later.iter().any(|later| !later.runs.is_empty());
        // The first that is missing; where nothing is known, the one before the next.
        let missing = last
            .map(|last| last.saturating_add(1))
            .or_else(|| marks().next().map(|mark| mark.number.saturating_sub(1)));
        let was_synced = marks().any(|mark| missing.is_none_or(|missing| mark.synced >= missing));
        if is_sealed || was_synced {
            cut.keep = journal.behind.iter().map(|batch| (batch.from, batch.to)).collect();
            let what = format!(
                "what stands from byte {} on cannot be read, though it was synced; {} batches \
                 behind it can",
                journal.whole_to,
                cut.keep.len()
            );
            findings.damage.push((journal.path.clone(), what));
            for mark in marks() {
                if last.is_some_and(|last| last.saturating_add(1) != mark.number) {
                    findings.gaps.extend(last.map(|last| Run { first: last, last: mark.number }));
                }
                last = Some(mark.number);
            }
        }
        findings.cuts.push(cut);
    }
    findings
}

impl Findings {
    /// A batch comes after the one with the number `last`.
    fn follow(&mut self, last: Option<u64>, next: u64, journal: &Journal, gaps: &Gaps) {
        let Some(last) = last.filter(|last| last.checked_add(1) != Some(next)) else { return };
        let gap = Run { first: last, last: next };
        if !gaps.has(gap) && !self.gaps.contains(&gap) {
            let what = format!("before it are batches up to {last}, in it those from {next} on");
            self.damage.push((journal.path.clone(), what));
            self.gaps.push(gap);
        }
    }
}

impl Cut {
    /// Keeps what is cut off in `set-aside`, and then cuts.
    fn make(&self, folder: &Folder) -> Result<(), StoreError> {
        let failed = io_failed("set aside what cannot be read", &self.path);
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let aside = folder.set_aside(&format!("{name}-{}", self.from))?;
        let copied = self.copy(&aside).map_err(|error| {
            // A part of it, on a disk that is full, would be taken for all of it.
            let _ = std::fs::remove_file(&aside);
            failed(error)
        })?;
        tracing::warn!(
            file = %self.path.display(),
            offset = self.from,
            kept = %aside.display(),
            "the end of a journal was torn: {copied} bytes are set aside"
        );
        if self.keep.is_empty() {
            let file = OpenOptions::new().write(true).open(&self.path).map_err(&failed)?;
            file.set_len(self.from).and_then(|()| file.sync_all()).map_err(&failed)
        } else {
            self.splice().map_err(failed)?;
            folder.sync_data()
        }
    }

    /// Copies from the place on, without the zeros at the end. Says how many bytes.
    fn copy(&self, to: &Path) -> io::Result<u64> {
        let mut from = File::open(&self.path)?;
        from.seek(SeekFrom::Start(self.from))?;
        let mut to = File::create(to)?;
        let (mut read, mut used) = (0, 0);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let bytes = from.read(&mut chunk)?;
            let Some(part) = chunk.get(..bytes).filter(|part| !part.is_empty()) else { break };
            if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(read))?;
                to.write_all(part)?;
                used = read + last as u64 + 1;
            }
            read += bytes as u64;
        }
        to.set_len(used)?;
        to.sync_all()?;
        Ok(used)
    }

    /// Writes the journal anew, with what is whole of it.
    fn splice(&self) -> io::Result<()> {
        let mut from = File::open(&self.path)?;
        let made = self.path.with_extension("new");
        let mut to = File::create(&made)?;
        let whole = std::iter::once((0, self.from)).chain(self.keep.iter().copied());
        for (begin, end) in whole.filter(|(_, end)| *end <= self.bytes) {
            from.seek(SeekFrom::Start(begin))?;
            io::copy(&mut (&from).take(end.saturating_sub(begin)), &mut to)?;
        }
        to.sync_all()?;
        std::fs::rename(made, &self.path)
    }
}

/// Losses that were accepted: they are no news when the store is opened again.
struct Gaps {
    path: PathBuf,
    known: Vec<Run>,
}

impl Gaps {
    fn read(folder: &Folder) -> Result<Self, StoreError> {
        let path = folder.data.join("accepted");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_failed("read which losses were accepted", &path)(error));
            }
            read => read.unwrap_or_default(),
        };
        let run = |line: &str| {
            let (first, last) = line.split_once(' ')?;
            Some(Run { first: first.parse().ok()?, last: last.parse().ok()? })
        };
        Ok(Self { path, known: text.lines().filter_map(run).collect() })
    }

    fn has(&self, gap: Run) -> bool {
        self.known.contains(&gap)
    }

    fn add(&self, gaps: &[Run]) -> Result<(), StoreError> {
        if gaps.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            gaps.iter().map(|Run { first, last }| format!("{first} {last}\n")).collect();
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| {
            file.write_all(lines.concat().as_bytes())?;
            file.sync_all()
        })
        .map_err(io_failed("note which losses were accepted", &self.path))
    }
}
