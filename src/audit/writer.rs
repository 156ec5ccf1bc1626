//! From many recorders to one file: a bounded queue and a thread that writes.
//!
//! Recording never waits for the disk. When the queue is full, events are lost, counted, and
//! the log says at that very place how many are missing. When the file cannot be written, what
//! was taken from the queue is kept and tried again, byte for byte, and the queue fills.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::event::{Event, Kind};
use super::line;
use crate::metrics::Metrics;

/// How long the writer lets events gather after the first, so that it wakes a hundred times a
/// second under load and not once for each. A crash loses at most as much.
const GATHER: Duration = Duration::from_millis(10);

/// How often at most the log tells of events that were left out on purpose.
const LEFT_OUT_TOLD: Duration = Duration::from_secs(1);

/// How long the writer waits before it tries a failed write again; the next event ends the wait.
const RETRY: Duration = Duration::from_millis(250);

/// The end of an existing log that is searched for its last complete line. No line is longer.
const TAIL_BYTES: u64 = 256 * 1024;

/// Bytes of capacity that are kept from one batch to the next.
const KEPT_BYTES: usize = 1024 * 1024;

/// Where the log is, and how much may wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file; created with mode 0600, appended to.
    pub path: PathBuf,
    /// Events waiting to be written. Client-driven events get seven eighths of it.
    pub queue_events_max: u32,
    /// Bytes that waiting events may keep alive, roughly; likewise.
    pub queue_bytes_max: u64,
}

impl Settings {
    /// A log at this path, with 8,192 events and 16 MiB waiting at most.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), queue_events_max: 8_192, queue_bytes_max: 16 * 1024 * 1024 }
    }
}

/// A handle to the audit log; a clone records into the same file. When the last one goes, what
/// is queued is still written, but nobody waits for that: call [`AuditLog::close`].
#[derive(Clone, Debug)]
pub struct AuditLog(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// For the writer: there is something to do.
    work: Condvar,
    /// For those who flush: something was written, or failed.
    progress: Condvar,
    events_max: usize,
    bytes_max: usize,
    metrics: Arc<Metrics>,
}

// INVARIANT: synced <= written <= recorded; what lies between `written` and `recorded` is in
// `events` or with the writer.
#[derive(Debug, Default)]
struct Queue {
    events: Vec<Event>,
    bytes: usize,
    lost: u64,
    /// Events that were left out on purpose and are not told yet.
    left_out: u64,
    /// When such were told last.
    left_out_told_at: Option<Instant>,
    recorded: u64,
    written: u64,
    synced: u64,
    flush_to: u64,
    closing: bool,
    closed: bool,
}

impl AuditLog {
    /// Opens the log and starts its writer. Sequence numbers continue after the last line of an
    /// existing file; a line that a crash left incomplete is ended.
    ///
    /// # Errors
    /// When the file cannot be opened or read, is no regular file, or may be written by its
    /// group or read or written by others; when the thread cannot be started.
    pub fn open(settings: &Settings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut file = open_file(&settings.path)?;
        let last_seq = resume(&mut file)?;
        Self::start(LogFile(file), last_seq, settings, metrics)
    }

    /// A log into any writer, from sequence number 1, for tests of what is recorded. `flush` of
    /// the writer has to make durable.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to_writer(sink: impl Write + Send + 'static) -> io::Result<Self> {
        Self::start(sink, 0, &Settings::at(""), Arc::new(Metrics::new()))
    }

    fn start(
        sink: impl Write + Send + 'static,
        last_seq: u64,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            events_max: usize::try_from(settings.queue_events_max).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(settings.queue_bytes_max).unwrap_or(usize::MAX),
            metrics,
        });
        let writer = Writer { shared: Arc::clone(&shared), sink, seq: last_seq, lines: Vec::new() };
        let thread =
            std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Takes an event for the log. Never blocks on the file; an event that finds no room is
    /// counted as lost, in the metrics and in the log.
    pub fn record(&self, event: Event) {
        let shared = &self.0.shared;
        let weight_bytes = event.weight_bytes();
        let reserve = |max: usize| if event.kind.is_client_driven() { max - max / 8 } else { max };
        let (events_max, bytes_max) = (reserve(shared.events_max), reserve(shared.bytes_max));

        let mut queue = shared.lock();
        let bytes = queue.bytes.saturating_add(weight_bytes);
        if queue.closing || queue.events.len() >= events_max || bytes > bytes_max {
            queue.lost += 1;
            drop(queue);
            shared.work.notify_one();
            shared.metrics.audit_lost.inc();
            return;
        }
        queue.bytes = bytes;
        queue.recorded += 1;
        queue.events.push(event);
        let length = queue.events.len();
        drop(queue);
        // The writer is woken by the first event, and once more when it should not wait for
        // others to gather.
        if length == 1 || length == shared.hurry_at() {
            shared.work.notify_one();
        }
    }

    /// Counts an event that is left out on purpose, because there are too many of its kind: it
    /// is told in the log as lost, with all others of the same second.
    pub fn leave_out(&self) {
        let shared = &self.0.shared;
        let mut queue = shared.lock();
        queue.left_out += 1;
        let is_first = queue.left_out == 1;
        drop(queue);
        if is_first {
            shared.work.notify_one();
        }
        shared.metrics.audit_lost.inc();
    }

    /// Waits until everything recorded so far is written and made durable. False when that has
    /// not happened within `timeout`. Blocks the calling thread.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let shared = &self.0.shared;
        let deadline = Instant::now() + timeout;
        let mut queue = shared.lock();
        let target = queue.recorded;
        queue.flush_to = queue.flush_to.max(target);
        shared.work.notify_one();
        while queue.synced < target && !queue.closed {
            if shared.progress.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        queue.synced >= target
    }

    /// Ends the log: writes what is queued, takes nothing any more, and waits for the writer.
    /// False when not everything was written within `timeout`. Blocks the calling thread.
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        let shared = &self.0.shared;
        let deadline = Instant::now() + timeout;
        let mut queue = shared.lock();
        queue.closing = true;
        shared.work.notify_all();
        while !queue.closed {
            if shared.progress.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        let complete = queue.closed && queue.synced >= queue.recorded;
        let closed = queue.closed;
        drop(queue);
        if closed && let Some(thread) = self.0.thread.lock().take() {
            // `complete` tells already whether the writer got to its end.
            let _ = thread.join();
        }
        complete
    }
}

impl Queue {
    /// When the events that were left out are to be told; `None` where there are none.
    fn left_out_due(&self, now: Instant) -> Option<Instant> {
        let due = self.left_out_told_at.map_or(now, |at| at + LEFT_OUT_TOLD);
        (self.left_out > 0).then_some(if self.closing { now } else { due })
    }

    /// How many events the log has to say are missing now.
    fn take_lost(&mut self) -> u64 {
        let now = Instant::now();
        let left_out = match self.left_out_due(now) {
            Some(due) if due <= now => {
                self.left_out_told_at = Some(now);
                std::mem::take(&mut self.left_out)
            }
            _ => 0,
        };
        std::mem::take(&mut self.lost).saturating_add(left_out)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// The length of the queue at which the writer stops waiting for more.
    const fn hurry_at(&self) -> usize {
        let half = self.events_max / 2;
        if half == 0 { 1 } else { half }
    }
}

/// A file whose `flush` reaches the disk.
struct LogFile(File);

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

struct Writer<W> {
    shared: Arc<Shared>,
    sink: W,
    /// The number of the last line.
    seq: u64,
    lines: Vec<u8>,
}

/// What the writer has to do next.
struct Batch {
    lost: u64,
    durable: bool,
    last: bool,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let batch = self.next_batch(&mut events);
            let taken = events.len() as u64;
            let lines = self.format(&mut events, batch.lost);
            let written = self.write_out(batch.durable);
            let mut queue = self.shared.lock();
            if written {
                self.shared.metrics.audit_written.inc_by(lines);
                queue.written += taken;
                if batch.durable {
                    queue.synced = queue.written;
                }
            }
            queue.closed = batch.last || !written;
            let closed = queue.closed;
            drop(queue);
            self.shared.progress.notify_all();
            if closed {
                return;
            }
        }
    }

    /// Waits for work, and takes all there is.
    fn next_batch(&self, events: &mut Vec<Event>) -> Batch {
        let mut queue = self.shared.lock();
        let idle = |queue: &Queue| {
            queue.events.is_empty()
                && queue.lost == 0
                && queue.flush_to <= queue.synced
                && !queue.closing
        };
        while idle(&queue) {
            let now = Instant::now();
            match queue.left_out_due(now) {
                None => self.shared.work.wait(&mut queue),
                Some(due) if due <= now => break,
                Some(due) => drop(self.shared.work.wait_until(&mut queue, due)),
            }
        }
        let deadline = Instant::now() + GATHER;
        while !queue.closing
            && queue.flush_to <= queue.synced
            && queue.events.len() < self.shared.hurry_at()
        {
            if self.shared.work.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        std::mem::swap(&mut queue.events, events);
        queue.bytes = 0;
        Batch {
            lost: queue.take_lost(),
            durable: queue.closing || queue.flush_to > queue.synced,
            last: queue.closing,
        }
    }

    /// Turns the events into lines; returns how many.
    fn format(&mut self, events: &mut Vec<Event>, lost: u64) -> u64 {
        let mut lines = 0;
        let overflow = (lost > 0).then(|| Event::broker(Kind::AuditOverflow { lost }));
        for event in events.drain(..).chain(overflow) {
            let seq = self.seq.saturating_add(1);
            match line::append(&mut self.lines, seq, &event) {
                Ok(()) => {
                    self.seq = seq;
                    lines += 1;
                }
                Err(error) => {
                    self.shared.metrics.audit_lost.inc();
                    tracing::error!(%error, "an audit event cannot be written as JSON");
                }
            }
        }
        lines
    }

    /// Writes `lines`, trying again until it succeeds or the log is to close. False when it was
    /// given up.
    fn write_out(&mut self, durable: bool) -> bool {
        let mut done = 0;
        let mut failed = false;
        while let Err(error) = self.try_write(&mut done, durable) {
            self.shared.metrics.audit_write_failures.inc();
            self.shared.metrics.audit_failing.set(1);
            if !failed {
                tracing::error!(%error, "the audit log cannot be written; trying again");
                failed = true;
            }
            let mut queue = self.shared.lock();
            if queue.closing {
                tracing::error!(
                    bytes = self.lines.len().saturating_sub(done),
                    "the end of the audit log is lost"
                );
                return false;
            }
            self.shared.work.wait_for(&mut queue, RETRY);
        }
        if failed {
            self.shared.metrics.audit_failing.set(0);
            tracing::info!("the audit log is written again");
        }
        self.lines.clear();
        self.lines.shrink_to(KEPT_BYTES);
        true
    }

    fn try_write(&mut self, done: &mut usize, durable: bool) -> io::Result<()> {
        while let Some(rest) = self.lines.get(*done..).filter(|rest| !rest.is_empty()) {
            match self.sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => *done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if durable { self.sink.flush() } else { Ok(()) }
    }
}

/// NONBLOCK so that a FIFO without a reader is refused and not waited for.
const FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::APPEND)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Says whether a log could be opened at a path, and changes nothing. One that a running broker
/// writes is fine.
///
/// # Errors
/// What [`AuditLog::open`] would say of the file, or of the folder that it would be made in.
pub fn check(path: &Path) -> io::Result<()> {
    match rustix::fs::open(path, FLAGS, Mode::empty()) {
        Ok(file) => check_private(path, &File::from(file)),
        Err(rustix::io::Errno::NOENT) => {
            // Folders that are missing are made, in the one that is there.
            let mut folders = path.ancestors().skip(1).map(|folder| match folder.as_os_str() {
                empty if empty.is_empty() => Path::new("."),
                _ => folder,
            });
            let folder = folders.find(|folder| folder.symlink_metadata().is_ok());
            let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            Ok(rustix::fs::access(folder.unwrap_or(Path::new(".")), rights)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the file of a log where there is none, with its folder, and looks at nothing else: for a
/// process that may make no files there once it opens the log.
///
/// # Errors
/// What the system says.
pub fn prepare(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let flags = FLAGS | OFlags::CREATE;
    drop(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    Ok(())
}

/// Opens for appending, creating with mode 0600, and refuses what is not a private file.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = FLAGS | OFlags::CREATE;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| io::Error::new(error.kind(), "it is in use by another broker"))?;
    check_private(path, &file)?;
    Ok(file)
}

fn check_private(path: &Path, file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.mode() & 0o027 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "it has mode {1:04o}; it may be written by its owner and read by \
                 its group at most; run: chmod 640 {0}",
                path.display(),
                metadata.mode() & 0o7777
            ),
        ));
    }
    Ok(())
}

/// The last sequence number in the file, 0 if there is none. Ends an incomplete last line.
fn resume(file: &mut File) -> io::Result<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }

    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    Read::by_ref(file).take(TAIL_BYTES).read_to_end(&mut tail)?;
    if tail.last().is_some_and(|byte| *byte != b'\n') {
        file.write_all(b"\n")?;
    }
    let last = tail
        .rsplit(|byte| *byte == b'\n')
        .find_map(|line| serde_json::from_slice::<Numbered>(line).ok());
    Ok(last.map_or(0, |line| line.seq))
}

#[cfg(test)]
mod tests;
