//! Tests of [`super`].

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::mpsc;

use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn stopped(why: &'static str) -> Event {
    Event::broker(Kind::BrokerStopped { why: why.into() })
}

fn panicked(message: &str) -> Event {
    Event::broker(Kind::TaskPanicked { task: "test", message: message.to_owned().into() })
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn lines(&self) -> Vec<Value> {
        lines(&self.0.lock())
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says when a write begins, and waits until it may go on.
struct Held {
    memory: Memory,
    begun: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.send(()).ok();
        self.go_on.recv().ok();
        self.memory.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes a few bytes and fails, as often as told.
struct Failing {
    memory: Memory,
    failures: u32,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures == 0 {
            return self.memory.write(bytes);
        }
        self.failures -= 1;
        if self.failures.is_multiple_of(2) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.memory.write(&bytes[..5])
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn small(events_max: u32) -> Settings {
    Settings { queue_events_max: events_max, ..Settings::at("") }
}

#[test]
fn events_are_numbered_from_one_in_the_order_they_were_recorded() {
    let memory = Memory::default();
    let log = AuditLog::to_writer(memory.clone()).unwrap();
    for why in ["a", "b", "c"] {
        log.clone().record(stopped(why));
    }
    assert!(log.flush(PATIENCE));
    let lines = memory.lines();
    assert_eq!(numbers(&lines), [1, 2, 3]);
    let whys: Vec<&Value> = lines.iter().map(|line| &line["why"]).collect();
    assert_eq!(whys, ["a", "b", "c"]);
}

#[test]
fn many_threads_lose_nothing_and_share_no_number() {
    let memory = Memory::default();
    let log = AuditLog::to_writer(memory.clone()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    log.record(stopped("x"));
                }
            });
        }
    });
    assert!(log.close(PATIENCE));
    assert_eq!(numbers(&memory.lines()), (1..=1_600).collect::<Vec<_>>());
}

#[test]
fn a_log_that_is_opened_again_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::at(folder.path().join("audit.jsonl"));
    let metrics = Arc::new(Metrics::new());
    for _ in 0..2 {
        let log = AuditLog::open(&settings, Arc::clone(&metrics)).unwrap();
        log.record(stopped("a"));
        log.record(stopped("b"));
        assert!(log.close(PATIENCE));
    }
    assert_eq!(numbers(&lines(&fs::read(&settings.path).unwrap())), [1, 2, 3, 4]);
    assert_eq!(metrics.audit_written.get(), 4);
    assert_eq!(fs::metadata(&settings.path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_line_that_a_crash_left_incomplete_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::at(folder.path().join("audit.jsonl"));
    fs::write(&settings.path, "{\"seq\":7}\n{\"seq\":8,\"ev").unwrap();
    fs::set_permissions(&settings.path, Permissions::from_mode(0o600)).unwrap();
    let log = AuditLog::open(&settings, Arc::new(Metrics::new())).unwrap();
    log.record(stopped("a"));
    assert!(log.close(PATIENCE));
    let text = fs::read_to_string(&settings.path).unwrap();
    assert!(text.starts_with("{\"seq\":7}\n{\"seq\":8,\"ev\n{\"v\":1,\"seq\":8,"), "{text}");
    assert!(text.ends_with("}\n"));
}

#[test]
fn a_log_that_others_may_read_or_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, allowed) in [
        (0o600, true),
        (0o640, true),
        (0o660, false),
        (0o604, false),
        (0o602, false),
        (0o644, false),
    ] {
        let path = folder.path().join(format!("{mode:o}.jsonl"));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let opened = AuditLog::open(&Settings::at(&path), Arc::new(Metrics::new()));
        assert_eq!(opened.is_ok(), allowed, "{mode:o}");
    }
}

#[test]
fn a_log_that_another_broker_writes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::at(folder.path().join("audit.jsonl"));
    let first = AuditLog::open(&settings, Arc::new(Metrics::new())).unwrap();
    let refused = AuditLog::open(&settings, Arc::new(Metrics::new())).unwrap_err();
    assert!(refused.to_string().contains("another broker"), "{refused}");
    assert!(first.close(Duration::from_secs(10)));
    AuditLog::open(&settings, Arc::new(Metrics::new())).unwrap();
}

#[test]
fn a_log_that_is_a_link_a_folder_or_a_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink(folder.path().join("target"), &link).unwrap();
    for path in [link.as_path(), folder.path(), Path::new("/dev/null")] {
        assert!(AuditLog::open(&Settings::at(path), Arc::new(Metrics::new())).is_err(), "{path:?}");
    }
    assert!(!folder.path().join("target").exists());
}

#[test]
fn a_flood_by_clients_leaves_room_for_the_operator() {
    let memory = Memory::default();
    let metrics = Arc::new(Metrics::new());
    let (begun, writes) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let sink = Held { memory: memory.clone(), begun, go_on };
    let log = AuditLog::start(sink, 0, &small(8), Arc::clone(&metrics)).unwrap();

    log.record(panicked("first"));
    writes.recv().unwrap();
    // The writer is held; from here on everything waits.
    for _ in 0..10 {
        log.record(panicked("flood"));
    }
    log.record(stopped("operator"));
    log.record(stopped("one too many"));
    assert_eq!(metrics.audit_lost.get(), 4);

    drop(release);
    assert!(log.flush(PATIENCE));
    log.record(stopped("after"));
    assert!(log.flush(PATIENCE));
    let lines = memory.lines();
    let told: Vec<&Value> = lines
        .iter()
        .map(|line| line.get("message").or(line.get("why")).unwrap_or(&line["lost"]))
        .collect();
    let mut expected = vec![Value::from("first")];
    expected.extend(std::iter::repeat_n(Value::from("flood"), 7));
    expected.extend([Value::from("operator"), Value::from(4), Value::from("after")]);
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
    assert_eq!(numbers(&lines), (1..=11).collect::<Vec<_>>());
    assert_eq!(lines[9]["event"], "audit.overflow");
}

#[test]
fn what_is_left_out_is_told_at_once_and_then_once_a_second() {
    let memory = Memory::default();
    let metrics = Arc::new(Metrics::new());
    let log = AuditLog::start(memory.clone(), 0, &small(8), Arc::clone(&metrics)).unwrap();
    let told =
        || -> Vec<u64> { memory.lines().iter().filter_map(|line| line["lost"].as_u64()).collect() };
    log.leave_out();
    let patience = Instant::now() + PATIENCE;
    while told().is_empty() {
        assert!(Instant::now() < patience);
        std::thread::yield_now();
    }
    let began = Instant::now();
    for _ in 0..5 {
        log.leave_out();
        log.record(stopped("meanwhile"));
        assert!(log.flush(PATIENCE));
    }
    assert!(told().len() == 1 || began.elapsed() >= LEFT_OUT_TOLD / 2, "{:?}", told());
    while told().iter().sum::<u64>() < 6 {
        assert!(Instant::now() < patience);
        std::thread::yield_now();
    }
    assert!(told().len() <= 3, "{:?}", told());
    log.leave_out();
    assert!(log.close(PATIENCE));
    assert_eq!(told().iter().sum::<u64>(), 7, "the end tells all");
    assert_eq!(metrics.audit_lost.get(), 7);
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    let memory = Memory::default();
    let settings = Settings { queue_bytes_max: 8_000, ..Settings::at("") };
    let metrics = Arc::new(Metrics::new());
    let log = AuditLog::start(memory.clone(), 0, &settings, Arc::clone(&metrics)).unwrap();
    log.record(panicked(&"x".repeat(10_000)));
    assert_eq!(metrics.audit_lost.get(), 1);
    assert!(log.close(PATIENCE));
    assert_eq!(memory.lines()[0]["lost"], 1);
}

#[test]
fn a_write_that_fails_is_tried_again_at_the_byte_where_it_stopped() {
    let memory = Memory::default();
    let metrics = Arc::new(Metrics::new());
    let sink = Failing { memory: memory.clone(), failures: 4 };
    let log = AuditLog::start(sink, 0, &small(8), Arc::clone(&metrics)).unwrap();
    log.record(stopped("a"));
    assert!(log.flush(PATIENCE));
    assert_eq!(numbers(&memory.lines()), [1]);
    assert_eq!(metrics.audit_write_failures.get(), 2);
    assert_eq!(metrics.audit_failing.get(), 0);
}

#[test]
fn a_disk_that_takes_nothing_shows_until_it_does() {
    let metrics = Arc::new(Metrics::new());
    let sink = Failing { memory: Memory::default(), failures: u32::MAX };
    let log = AuditLog::start(sink, 0, &small(8), Arc::clone(&metrics)).unwrap();
    assert_eq!(metrics.audit_failing.get(), 0);
    log.record(stopped("a"));
    let deadline = Instant::now() + PATIENCE;
    while metrics.audit_failing.get() == 0 {
        assert!(Instant::now() < deadline, "never shown");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!log.close(PATIENCE));
}

#[test]
fn closing_with_a_broken_disk_says_so_and_does_not_hang() {
    let sink = Failing { memory: Memory::default(), failures: u32::MAX };
    let metrics = Arc::new(Metrics::new());
    let log = AuditLog::start(sink, 0, &small(8), Arc::clone(&metrics)).unwrap();
    log.record(stopped("a"));
    assert!(!log.close(PATIENCE));
    log.record(stopped("late"));
    assert_eq!(metrics.audit_lost.get(), 1);
    assert!(!log.close(PATIENCE));
    assert!(!log.flush(PATIENCE));
}

#[test]
fn what_is_recorded_after_the_end_is_counted_as_lost() {
    let memory = Memory::default();
    let metrics = Arc::new(Metrics::new());
    let log = AuditLog::start(memory.clone(), 0, &small(8), Arc::clone(&metrics)).unwrap();
    assert!(log.close(PATIENCE));
    log.record(stopped("late"));
    assert_eq!(metrics.audit_lost.get(), 1);
    assert!(memory.lines().is_empty());
}
