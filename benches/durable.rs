//! What durability costs: messages for sessions without a connection, acknowledged when they are on
//! disk, and delivered when the clients are back.
//!
//! ```text
//! cargo bench --bench durable -- [--messages N] [--mosquitto] [--recovery]
//! ```
//! Publishers with a window each send QoS 1 messages of 256 bytes to as many sessions that are
//! offline; then the server is killed and started again, and the sessions come for their messages.
//! CPU time of the server is the figure. The promises differ: Mosquitto acknowledges what is in
//! memory and writes a snapshot now and then, here never before its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::doc_markdown,
    reason = "a benchmark may stop at what it did not expect"
)]

mod client;
mod peers;
mod rules;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::{Client, CpuTime, Publication, Swarm};
use peers::{Options, RELAY_ARGUMENT, Running, Server};

const USAGE: &str = "\
usage: cargo bench --bench durable -- [OPTION…]
  --messages N     messages of each run (200000)
  --mosquitto      Mosquitto beside it, with its snapshots
  --recovery       nothing but a million messages in 10,240 sessions, synced, and the start after it
  --set KEY=VALUE  one more setting for Portcullis, as often as wanted";

const PAYLOAD_BYTES: usize = 256;
/// For what goes on in the background after a drain.
const REST_MAX: Duration = Duration::from_mins(1);

/// Who publishes to whom.
#[derive(Clone, Copy)]
struct Load {
    publishers: usize,
    /// Messages of each publisher without acknowledgement.
    window: u32,
    sessions: usize,
    /// Every session gets every message, instead of those of its own publisher.
    fan_out: bool,
}

impl Load {
    /// The topics that one publisher sends to in turn, each for a session of its own.
    fn topics(&self, publisher: usize) -> Vec<String> {
        let step = self.publishers;
        let end = if self.fan_out { step } else { self.sessions };
        (publisher..end).step_by(step).map(|it| format!("t/{it}")).collect()
    }
}

/// A million messages that wait.
const RECOVERY: Load = Load { publishers: 64, window: 100, sessions: 10_240, fan_out: false };
const RECOVERY_MESSAGES: usize = 1_024_000;

const LOADS: [Load; 5] = [
    Load { publishers: 1, window: 1, sessions: 1, fan_out: false },
    Load { publishers: 16, window: 1, sessions: 16, fan_out: false },
    Load { publishers: 256, window: 1, sessions: 256, fan_out: false },
    Load { publishers: 64, window: 100, sessions: 64, fan_out: false },
    Load { publishers: 16, window: 100, sessions: 100, fan_out: true },
];

/// A server and what it promises.
struct Column {
    title: &'static str,
    server: Server,
    settings: &'static [&'static str],
}

const COLUMNS: [Column; 4] = [
    Column { title: "synced", server: Server::Portcullis, settings: &["store.durability=fsync"] },
    Column { title: "written", server: Server::Portcullis, settings: &["store.durability=os"] },
    Column {
        title: "in memory",
        server: Server::Portcullis,
        settings: &["store.durability=memory"],
    },
    Column { title: "Mosquitto, snapshots", server: Server::Mosquitto, settings: &[] },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, address] = arguments.as_slice()
        && argument == RELAY_ARGUMENT
    {
        return report(address.parse().map_err(io::Error::other).and_then(peers::relay::run));
    }
    // `cargo test --all-targets` runs this too, and is not to wait for minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Ok(Arguments { messages, mosquitto, recovery, options }) => {
            report(measure(messages, mosquitto, recovery, &options))
        }
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn report(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    messages: usize,
    mosquitto: bool,
    recovery: bool,
    options: Options,
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let (mut messages, mut mosquitto, mut recovery) = (200_000, false, false);
    let mut options = Options { persistence: true, ..Options::default() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if options.take(argument, &mut rest)? {
            continue;
        }
        match argument.as_str() {
            "--bench" => {}
            "--messages" => messages = peers::value(argument, &mut rest)?,
            "--mosquitto" => mosquitto = true,
            "--recovery" => recovery = true,
            other => return Err(format!("no option {other}")),
        }
    }
    Ok(Arguments { messages, mosquitto, recovery, options })
}

fn measure(messages: usize, mosquitto: bool, recovery: bool, options: &Options) -> io::Result<()> {
    println!(
        "| publishers × window → sessions | server | acknowledged a second | per sync | \
         CPU-µs each | bytes on disk each | started again, s (CPU) | MiB then | CPU-µs each to drain | \
         MiB on disk after |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    if recovery {
        return run(RECOVERY, &COLUMNS[0], RECOVERY_MESSAGES, options);
    }
    for load in LOADS {
        for column in &COLUMNS {
            if column.server == Server::Mosquitto
                && !(mosquitto && column.server.is_installed(options))
            {
                continue;
            }
            // A publisher that waits for a sync each time is slow.
            let messages = messages.min(load.publishers * load.window as usize * 2_000);
            let messages = if load.fan_out { messages / 10 } else { messages };
            run(load, column, messages, options)?;
        }
    }
    Ok(())
}

fn run(load: Load, column: &Column, messages: usize, options: &Options) -> io::Result<()> {
    let mut options = options.clone();
    options.settings.extend(column.settings.iter().map(|&setting| setting.to_owned()));
    options.settings.push("profile.default.features.session_expiry_max=1h".to_owned());
    let mut server = Running::start(column.server, &options)?;
    let mut swarm = Swarm::new()?;
    let connections = swarm.open(&sessions(&server, load)?, 64)?;
    for (number, index) in connections.enumerate() {
        let topic = if load.fan_out { "t/+".to_owned() } else { format!("t/{number}") };
        swarm.subscribe(index, 1, &[topic])?;
        swarm.close(index);
    }
    drop(swarm);

    let each = messages / load.publishers;
    let before = server.disk_bytes();
    let syncs = server.status("store_syncs");
    let (wall, cpu) = publish(&server, load, each as u32)?;
    let sent = (each * load.publishers) as f64;
    let syncs = server.status("store_syncs").zip(syncs).map(|(after, before)| after - before);
    let per_sync = syncs.filter(|syncs| *syncs > 0).map(|syncs| sent / syncs as f64);
    let queued = if load.fan_out { sent * load.sessions as f64 } else { sent };
    let peak = server.disk_bytes().saturating_sub(before);
    let disk = peak as f64 / sent;

    let lasts = column.title == "synced" || column.title == "written";
    let mut restarted = ("–".to_owned(), "–".to_owned());
    if lasts {
        let (wall, cpu) = server.kill_and_restart(column.server, &options)?;
        let cpu = cpu.since(&CpuTime::default());
        let memory = server.memory().resident_bytes as f64 / 1024.0 / 1024.0;
        restarted = (
            format!("{:.2} ({:.2})", wall.as_secs_f64(), cpu.as_secs_f64()),
            format!("{memory:.0}"),
        );
    }
    let drained = drain(&server, load, queued as u64)?;
    let rested = Instant::now();
    let used = || server.disk_bytes().saturating_sub(before);
    let mut left = used();
    while left > peak / 10 && rested.elapsed() < REST_MAX {
        std::thread::sleep(Duration::from_millis(200));
        left = used();
    }
    println!(
        "| {} × {} → {}{} | {} | {:.0} | {} | {:.2} | {:.0} | {} | {} | {:.2} | {:.1} |",
        load.publishers,
        load.window,
        load.sessions,
        if load.fan_out { " each" } else { "" },
        column.title,
        sent / wall.as_secs_f64(),
        per_sync.map_or_else(|| "–".to_owned(), |per_sync| format!("{per_sync:.0}")),
        cpu.as_secs_f64() * 1e6 / sent,
        disk,
        restarted.0,
        restarted.1,
        drained.as_secs_f64() * 1e6 / queued,
        left as f64 / 1024.0 / 1024.0,
    );
    Ok(())
}

fn sessions(server: &Running, load: Load) -> io::Result<Vec<Client>> {
    let target = server.plain();
    let client = |number| Ok(target.client(format!("session-{number}"))?.lasting());
    (0..load.sessions).map(client).collect()
}

/// Sends `each` messages from every publisher, as many at a time as its window allows; the time
/// and the server's CPU time until all are acknowledged.
fn publish(server: &Running, load: Load, each: u32) -> io::Result<(Duration, Duration)> {
    let target = server.plain();
    let mut swarm = Swarm::new()?;
    let clients: Vec<Client> = (0..load.publishers)
        .map(|number| target.client(format!("publisher-{number}")))
        .collect::<io::Result<_>>()?;
    let connections = swarm.open(&clients, 64)?;
    let publication =
        |topic: String| Publication::new(target.version, &topic, 1, false, PAYLOAD_BYTES);
    let publications: Vec<Vec<Publication>> = (0..load.publishers)
        .map(|number| load.topics(number).into_iter().map(publication).collect())
        .collect();
    let mut turns = vec![0; load.publishers];
    let (began, cpu) = (Instant::now(), server.cpu());
    let mut left = vec![each; load.publishers];
    let first = connections.start;
    let mut fill = |swarm: &mut Swarm, number: usize, left: &mut [u32]| {
        let index = first + number;
        let open = load.window.saturating_sub(swarm.connection(index).unacknowledged());
        let count = open.min(left[number]);
        // Half a window at a time, as a client does that is told of several at once.
        if count > 0 && (count * 2 >= load.window || count == left[number]) {
            left[number] -= count;
            let topics = &publications[number];
            turns[number] += 1;
            swarm.publish(index, &topics[turns[number] % topics.len()], count, Instant::now());
        }
    };
    for number in 0..load.publishers {
        fill(&mut swarm, number, &mut left);
    }
    let total = u64::from(each) * load.publishers as u64;
    swarm.settle("acknowledged", total, |swarm| {
        let touched: Vec<usize> = swarm.touched().to_vec();
        for index in touched {
            fill(swarm, index - first, &mut left);
        }
        let open: u64 = (0..load.publishers)
            .map(|number| {
                let waiting = swarm.connection(first + number).unacknowledged();
                u64::from(left[number]) + u64::from(waiting)
            })
            .sum();
        Ok(total - open)
    })?;
    Ok((began.elapsed(), server.cpu().since(&cpu)))
}

/// Connects the sessions and takes all that waits for them: the server's CPU time.
fn drain(server: &Running, load: Load, messages: u64) -> io::Result<Duration> {
    let cpu = server.cpu();
    let mut swarm = Swarm::new()?;
    let connections = swarm.open(&sessions(server, load)?, 64)?;
    let mut taken = 0;
    swarm.settle("delivered", messages, |swarm| {
        let more = connections.clone().map(|index| swarm.connection_mut(index).take_delivered());
        taken += more.sum::<u64>();
        Ok(taken)
    })?;
    Ok(server.cpu().since(&cpu))
}
