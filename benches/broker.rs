//! What the broker costs, beside a bare relay of bytes and beside Mosquitto in the same run.
//!
//! ```text
//! cargo bench --bench broker -- [--quick] [--markdown] [SCENARIO…]
//! ```
//! Each scenario runs in three rounds; in each round every server gets a fresh process, one
//! after the other, and the same load from the same client. Every cell shows the least and the
//! median of the rounds. CPU time of the server is the figure: it and ratios within one run are
//! comparable, wall-clock time on shared cores is not.
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
mod scenarios;
mod table;

use std::io;
use std::process::ExitCode;

use client::Version;
use peers::{Options, RELAY_ARGUMENT, Running, Server};
use scenarios::{SCENARIOS, Scale, Scenario};
use table::Row;

const USAGE: &str = "\
usage: cargo bench --bench broker -- [OPTION…] [SCENARIO…]
  SCENARIO         part of a name; all without
  --list           print the names of the scenarios
  --quick          half a second each, a tenth of the connections, one round
  --rounds N       rounds of each scenario (3)
  --markdown       medians alone, for the README
  --server NAME    relay, mosquitto, portcullis, unjudged, reloading or beside, as often as wanted; all
                   without
  --config FILE    Portcullis' configuration instead of config/bench.toml
  --set KEY=VALUE  one more setting for Portcullis, as often as wanted
  --policies N     so many policies beside those of policies/permissive
  --reloading MS   columns for Portcullis while it reloads its policies, and while another one beside
                   it does, with so many milliseconds after each time
  --unjudged PATH  a column for the program built with RUSTFLAGS=\"--cfg portcullis_unjudged\",
                   which judges no message: the rest is what policies cost
  --v5             MQTT 5.0 instead of 3.1.1 (not for the relay)";

struct Arguments {
    scale: Scale,
    rounds: usize,
    markdown: bool,
    servers: Vec<Server>,
    scenarios: Vec<&'static Scenario>,
    options: Options,
}

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
        Ok(Some(arguments)) => report(measure(&arguments)),
        Ok(None) => ExitCode::SUCCESS,
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

/// `None` when the arguments only asked for something to be printed.
fn parse(arguments: &[String]) -> Result<Option<Arguments>, String> {
    let mut scale = Scale::Whole;
    let mut rounds = None;
    let mut markdown = false;
    let mut servers = Vec::new();
    let mut names = Vec::new();
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if options.take(argument, &mut rest)? {
            continue;
        }
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--quick" => scale = Scale::Quick,
            "--markdown" => markdown = true,
            "--rounds" => rounds = Some(peers::value(argument, &mut rest)?),
            "--server" => servers.push(peers::value(argument, &mut rest)?),
            "--list" => {
                for scenario in SCENARIOS {
                    println!("{:18} {}", scenario.name, scenario.title);
                }
                return Ok(None);
            }
            option if option.starts_with('-') => return Err(format!("no option {option}")),
            name => names.push(name),
        }
    }
    if servers.is_empty() {
        servers = Server::ALL.to_vec();
    }
    servers.retain(|server| {
        let keep = server.is_installed(&options)
            && (*server, options.version) != (Server::Relay, Version::V5);
        if !keep {
            eprintln!("{} is left out", server.name());
        }
        keep
    });
    let wanted = |scenario: &&Scenario| {
        names.is_empty() || names.iter().any(|name| scenario.name.contains(name))
    };
    let scenarios: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if scenarios.is_empty() {
        return Err("no such scenario".into());
    }
    let rounds = rounds.unwrap_or(if scale == Scale::Quick { 1 } else { 3 });
    Ok(Some(Arguments { scale, rounds, markdown, servers, scenarios, options }))
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    let mut failed = 0;
    for scenario in &arguments.scenarios {
        for round in 1..=arguments.rounds {
            for server in &arguments.servers {
                if !scenario.suits(*server) {
                    continue;
                }
                eprintln!("{} · {} · round {round}", scenario.name, server.name());
                let run = Running::start(*server, &arguments.options)
                    .and_then(|running| scenario.run(&running, arguments.scale));
                match run {
                    Ok(figures) => {
                        for figure in figures {
                            note(&mut rows, scenario, *server, figure.unit, figure.value);
                        }
                    }
                    Err(error) => {
                        failed += 1;
                        eprintln!("{} · {} · failed: {error}", scenario.name, server.name());
                    }
                }
            }
        }
    }
    let servers: Vec<_> =
        arguments.servers.iter().map(|server| (*server, server.title())).collect();
    if arguments.scale == Scale::Quick {
        println!("A quick look: half a second each, and a tenth of the counts in the titles.\n");
    }
    print!("{}", table::render(&rows, &servers, arguments.markdown));
    match failed {
        0 => Ok(()),
        failed => Err(io::Error::other(format!("{failed} runs failed"))),
    }
}

fn note(
    rows: &mut Vec<Row>,
    scenario: &'static Scenario,
    server: Server,
    unit: scenarios::Unit,
    value: f64,
) {
    let same = |row: &Row| row.scenario.name == scenario.name && row.unit == unit;
    let position = rows.iter().position(same).unwrap_or_else(|| {
        rows.push(Row { scenario, unit, values: Vec::new() });
        rows.len() - 1
    });
    let values = &mut rows[position].values;
    match values.iter_mut().find(|(of, _)| *of == server) {
        Some((_, values)) => values.push(value),
        None => values.push((server, vec![value])),
    }
}
