//! What the store costs. In release only:
//! `cargo test --release --lib store::tests::figures -- --ignored --nocapture --test-threads 1`.

use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The CPU time of the process without that of some work of this thread.
struct Cpu {
    begun: Duration,
    elsewhere: Duration,
    at: Instant,
}

impl Cpu {
    fn begin() -> Self {
        let begun = cpu(ClockId::ProcessCPUTime);
        Self { begun, elsewhere: Duration::ZERO, at: Instant::now() }
    }

    fn without<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (begun, at) = (cpu(ClockId::ThreadCPUTime), Instant::now());
        let done = work();
        self.elsewhere += cpu(ClockId::ThreadCPUTime).saturating_sub(begun);
        self.at += at.elapsed();
        done
    }

    fn say(&self, what: &str, count: u64) {
        let before = self.begun + self.elsewhere;
        let used = cpu(ClockId::ProcessCPUTime).saturating_sub(before);
        let each = used.as_secs_f64() * 1e6 / count as f64;
        let rate = count as f64 / self.at.elapsed().as_secs_f64();
        println!("{what}: {each:.2} us of CPU each, {rate:.0} a second, {used:.2?} in all");
    }
}

fn fsync(folder: &Path) -> Settings {
    Settings { durability: Durability::Fsync, ..settings(folder) }
}

fn fill(store: &Store, sessions: &[SessionNo], rounds: u64, per_round: u64) -> Cpu {
    let payload = [b'x'; 256];
    let mut cpu = Cpu::begin();
    for round in 0..rounds {
        let changes: Vec<Change> = cpu.without(|| {
            (0..per_round)
                .flat_map(|at| sessions.iter().map(move |number| (at, *number)))
                .map(|(at, number)| {
                    let it = delivery(round * per_round + at + 1, &message("a/b", &payload));
                    Change::Enqueue(number, it)
                })
                .collect()
        });
        commit(store, changes);
    }
    cpu
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn disk_bytes(folder: &Path) -> u64 {
    let output = Command::new("du").arg("-sk").arg(folder).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "prints figures and asserts nothing: run it by name, in release"]
fn enqueue_and_drain() {
    let folder = tempfile::tempdir().unwrap();
    let now = (Instant::now(), SystemTime::now());
    let (store, _) = Store::open(&fsync(folder.path()), now).unwrap();
    let sessions: Vec<_> = (0..64).map(|at| begin(&store, &format!("client {at}"))).collect();
    let count = 100 * 100 * 64;
    fill(&store, &sessions, 100, 100).say("enqueue", count);
    let peak = disk_bytes(folder.path());
    println!("on disk: {} bytes each", peak / count);
    let cpu = Cpu::begin();
    for number in sessions {
        let mut from = 1;
        loop {
            let page = try_read(&store, number, from, (256, 128 * 1024)).unwrap();
            let Some(last) = page.deliveries.last() else { break };
            store.change(Change::Finished(number, last.seq.unwrap()));
            store.flush();
            from = page.next.0.get();
        }
    }
    cpu.say("drain", count);
    // Longer than the store waits before it tidies up.
    std::thread::sleep(Duration::from_secs(12));
    println!("on disk when idle: {} % of {peak}", disk_bytes(folder.path()) * 100 / peak);
}

#[test]
#[ignore = "prints figures and asserts nothing: run it by name, in release"]
fn open_a_million() {
    const FOLDER: &str = "PORTCULLIS_FIGURES_FOLDER";
    if let Ok(folder) = std::env::var(FOLDER) {
        let cpu = Cpu::begin();
        let now = (Instant::now(), SystemTime::now());
        let (_store, recovered) = Store::open(&fsync(Path::new(&folder)), now).unwrap();
        let waiting: u64 = recovered.sessions.iter().map(|it| it.waiting.len() as u64).sum();
        cpu.say("open", waiting);
        let (peak, now) = (status("VmHWM") / 1024, status("VmRSS") / 1024);
        println!("{} sessions, at most {peak} MiB, now {now} MiB", recovered.sessions.len());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let now = (Instant::now(), SystemTime::now());
    let (store, _) = Store::open(&fsync(folder.path()), now).unwrap();
    let sessions: Vec<_> = (0..10_000).map(|_| store.next_session()).collect();
    let client = |number: &SessionNo| record(&format!("client {}", number.0));
    commit(&store, sessions.iter().map(|number| Change::Session(*number, client(number))));
    fill(&store, &sessions, 100, 1).say("enqueue, a page each", 1_000_000);
    drop(store);
    println!("on disk: {} bytes", disk_bytes(folder.path()));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::figures::open_a_million", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(child.success());
}
