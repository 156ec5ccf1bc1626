//! Does memory stay where it is? Mutual TLS clients in pairs exchange QoS 1 messages at a steady
//! rate for minutes, while the broker's resident memory is sampled.
//!
//! ```text
//! cargo bench --bench soak -- [--clients 1000] [--rate 5000] [--seconds 600]
//! ```
//! Fails when the memory at the end is more than 5 % and 2 MiB above that after the warm-up, or
//! when a message was lost, came twice or came out of order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::doc_markdown,
    reason = "a benchmark may stop at what it did not expect"
)]

mod client;
mod peers;
mod rules;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::{Exchange, Pace, Plan};
use peers::{Options, Running, Server};

const USAGE: &str = "\
usage: cargo bench --bench soak -- [OPTION…]
  --clients N      mutual TLS clients, half of them publish (1000)
  --rate N         messages a second in all (5000)
  --seconds N      how long, warm-up included (600)
  --server NAME    portcullis or mosquitto (portcullis)
  --config FILE    Portcullis' configuration instead of config/bench.toml
  --set KEY=VALUE  one more setting for Portcullis, as often as wanted
  --v5             MQTT 5.0 instead of 3.1.1";

/// How much more memory the end may show than the warm-up: a share of it, and some bytes.
const GROWTH_SHARE_MAX: f64 = 0.05;
const GROWTH_BYTES_MAX: f64 = 2.0 * MIB;

const MIB: f64 = 1024.0 * 1024.0;

/// How long to wait for the last messages.
const PATIENCE: Duration = Duration::from_secs(10);

struct Arguments {
    clients: usize,
    rate: u32,
    duration: Duration,
    server: Server,
    options: Options,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    resident_bytes: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this too, and is not to wait for minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(arguments) => match soak(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        clients: 1_000,
        rate: 5_000,
        duration: Duration::from_mins(10),
        server: Server::Portcullis,
        options: Options::default(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if parsed.options.take(argument, &mut rest)? {
            continue;
        }
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--clients" => parsed.clients = peers::value(argument, &mut rest)?,
            "--rate" => parsed.rate = peers::value(argument, &mut rest)?,
            "--seconds" => {
                parsed.duration = Duration::from_secs(peers::value(argument, &mut rest)?);
            }
            "--server" => parsed.server = peers::value(argument, &mut rest)?,
            other => return Err(format!("no option {other}")),
        }
    }
    let right = (2..=18_000).contains(&parsed.clients)
        && parsed.rate > 0
        && parsed.duration >= Duration::from_secs(5)
        && parsed.server != Server::Relay;
    if right { Ok(parsed) } else { Err("2 to 18,000 clients, from 1/s, from 5 s".into()) }
}

/// True when memory stayed and nothing was lost.
fn soak(arguments: &Arguments) -> io::Result<bool> {
    let server = Running::start(arguments.server, &arguments.options)?;
    let plan = Plan {
        name: "soak".into(),
        groups: arguments.clients / 2,
        publishers: 1,
        subscribers: 1,
        qos: 1,
        pace: Pace::Rate { per_second: arguments.rate, window: 1_000 },
        payload_bytes: 64,
    };
    let mut exchange = Exchange::open(&server.mtls(), plan)?;
    exchange.swarm().take_latencies();
    eprintln!("{} clients connected", arguments.clients);

    let warm_up = (arguments.duration / 5).min(Duration::from_mins(1));
    let interval = (arguments.duration / 20).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < arguments.duration {
        exchange.run_for(interval)?;
        let sample =
            Sample { at: start.elapsed(), resident_bytes: server.memory().resident_bytes as f64 };
        let is_warm = sample.at >= warm_up;
        eprintln!(
            "{:6.0} s  {:8.2} MiB  {:10} delivered{}",
            sample.at.as_secs_f64(),
            sample.resident_bytes / MIB,
            exchange.delivered(),
            if is_warm { "" } else { "  (warm-up)" },
        );
        if is_warm {
            samples.push(sample);
        }
    }
    let missing = exchange.finish(PATIENCE)?;
    Ok(judge(&samples, &mut exchange, missing))
}

fn judge(samples: &[Sample], exchange: &mut Exchange, missing: u64) -> bool {
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let grown = last.resident_bytes - first.resident_bytes;
    let stays = grown <= first.resident_bytes * GROWTH_SHARE_MAX + GROWTH_BYTES_MAX;
    let held_back = exchange.held_back();
    let disordered = exchange.swarm().disordered();
    let latencies = exchange.swarm().take_latencies();
    println!(
        "resident: {:.2} MiB after the warm-up, {:.2} MiB at the end, {:+.3} MiB per minute: {}",
        first.resident_bytes / MIB,
        last.resident_bytes / MIB,
        growth_per_minute(samples) / MIB,
        if stays { "it stays" } else { "IT GROWS" },
    );
    println!(
        "messages: {} delivered, {missing} lost, {disordered} twice or out of order, {held_back} \
         not sent for want of acknowledgements",
        exchange.delivered(),
    );
    println!(
        "latency: p50 {:?}, p99 {:?}, longest {:?}",
        latencies.percentile(0.5),
        latencies.percentile(0.99),
        latencies.longest(),
    );
    stays && missing == 0 && disordered == 0 && held_back == 0
}

/// The slope of the line through all samples (least squares), in bytes per minute.
fn growth_per_minute(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let minutes = |sample: &Sample| sample.at.as_secs_f64() / 60.0;
    let mean_minutes = samples.iter().map(minutes).sum::<f64>() / count;
    let mean_bytes = samples.iter().map(|sample| sample.resident_bytes).sum::<f64>() / count;
    let (mut above, mut below) = (0.0, 0.0);
    for sample in samples {
        let distance = minutes(sample) - mean_minutes;
        above += distance * (sample.resident_bytes - mean_bytes);
        below += distance * distance;
    }
    if below > 0.0 { above / below } else { 0.0 }
}
