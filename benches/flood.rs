//! Do established clients suffer when others flood the handshake?
//!
//! ```text
//! cargo bench --bench flood -- [--seconds 10] [--logins]
//! ```
//! Ten mutual TLS pairs exchange 1,000 QoS 1 messages a second. Then another process, at nice 5
//! on the same cores, opens mutual TLS connections, 256 at a time, each closed once it has its
//! CONNACK. Latency runs from when a message should have been sent, so that one that could not
//! even be sent counts too. With `--logins` the flood is of passwords that are wrong, on another
//! listener: each costs a hash, and as many are sent as are answered.
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

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use client::{Authority, Client, Exchange, Latencies, Pace, Phase, Plan, Swarm, Target, Version};
use peers::{Options, Running, Server};

const USAGE: &str = "\
usage: cargo bench --bench flood -- [OPTION…]
  --seconds N      how long each of the two parts is measured (10)
  --logins         flood with wrong passwords instead of handshakes; Portcullis only
  --server NAME    portcullis or mosquitto, as often as wanted; both without
  --config FILE    Portcullis' configuration instead of config/bench.toml
  --set KEY=VALUE  one more setting for Portcullis, as often as wanted
  --v5             MQTT 5.0 instead of 3.1.1";

/// The argument that makes this binary be the flood.
const FLOOD_ARGUMENT: &str = "be-the-flood";

/// The argument that makes it a flood of passwords.
const LOGINS_ARGUMENT: &str = "be-the-logins";

/// Logins that are under way at a time.
const LOGINS_WIDTH: usize = 32;

/// Connections that the flood keeps opening.
const FLOOD_WIDTH: usize = 256;

/// Before each part is measured.
const SETTLE: Duration = Duration::from_secs(1);

const RATE: u32 = 1_000;

struct Arguments {
    duration: Duration,
    servers: Vec<Server>,
    options: Options,
    logins: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().map_or("", String::as_str);
    let result = if first == FLOOD_ARGUMENT {
        flood(&arguments[1..])
    } else if first == LOGINS_ARGUMENT {
        logins(&arguments[1..])
    } else {
        // `cargo test --all-targets` runs this too, and is not to wait for minutes.
        if !arguments.iter().any(|argument| argument == "--bench") {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        match parse(&arguments) {
            Ok(arguments) => measure(&arguments),
            Err(problem) => {
                eprintln!("{problem}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        duration: Duration::from_secs(10),
        servers: Vec::new(),
        options: Options::default(),
        logins: false,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if parsed.options.take(argument, &mut rest)? {
            continue;
        }
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--seconds" => {
                let seconds = peers::value::<u64>(argument, &mut rest)?.clamp(1, 600);
                parsed.duration = Duration::from_secs(seconds);
            }
            "--logins" => parsed.logins = true,
            "--server" => parsed.servers.push(peers::value(argument, &mut rest)?),
            other => return Err(format!("no option {other}")),
        }
    }
    if parsed.logins {
        parsed.servers = vec![Server::Portcullis];
    }
    if parsed.servers.is_empty() {
        parsed.servers = vec![Server::Mosquitto, Server::Portcullis];
    }
    parsed
        .servers
        .retain(|server| *server != Server::Relay && server.is_installed(&parsed.options));
    Ok(parsed)
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let rate = if arguments.logins { "logins/s" } else { "handshakes/s" };
    println!("| server | part | p50, ms | p99, ms | longest, ms | messages through | {rate} |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    let mut failed = Ok(());
    for server in &arguments.servers {
        if let Err(error) = measure_one(*server, arguments) {
            failed = Err(io::Error::other(format!("{}: {error}", server.name())));
            eprintln!("{} failed: {error}", server.name());
        }
    }
    failed
}

fn measure_one(server: Server, arguments: &Arguments) -> io::Result<()> {
    let mut options = arguments.options.clone();
    let folder = tempfile::tempdir()?;
    if arguments.logins {
        take_passwords(&mut options, folder.path())?;
    }
    let running = Running::start(server, &options)?;
    let target = running.mtls();
    let plan = Plan {
        name: "established".into(),
        groups: 10,
        publishers: 1,
        subscribers: 1,
        qos: 1,
        pace: Pace::Rate { per_second: RATE, window: 10_000 },
        payload_bytes: 64,
    };
    let mut exchange = Exchange::open(&target, plan)?;
    let through = part(&mut exchange, arguments.duration)?;
    let quiet = finish(&mut exchange)?;
    print_part(&server.title(), "quiet", &quiet, through, None);

    let flooding = arguments.duration + 2 * SETTLE;
    let mut flood = if arguments.logins {
        Flood::start_logins(&running.plain(), flooding)?
    } else {
        Flood::start(&target, flooding)?
    };
    let through = part(&mut exchange, arguments.duration)?;
    let rate = flood.finish()?;
    let flooded = finish(&mut exchange)?;
    print_part(&server.title(), "flood", &flooded, through, Some(rate));
    Ok(())
}

/// The listener in plaintext asks for passwords, and lets nobody be slowed down who guesses.
fn take_passwords(options: &mut Options, folder: &Path) -> io::Result<()> {
    let hash = portcullis::identity::method::password::hash(b"correct horse");
    let path = folder.join("passwords");
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    writeln!(file, "ann:{}", hash.map_err(io::Error::other)?)?;
    for setting in [
        "listener.plain.identity=authentication",
        "listener.plain.principal=user",
        "listener.plain.authentication=[\"staff\"]",
        "authentication.staff.method=password",
        &format!("authentication.staff.file={}", path.display()),
        "login.failures_per_address=100000",
        "login.failures_per_name=100000",
        "login.failure_forgotten_after=1s",
    ] {
        options.settings.push(setting.to_owned());
    }
    Ok(())
}

/// Runs one part. Returns the share of its messages that arrived within it.
fn part(exchange: &mut Exchange, duration: Duration) -> io::Result<f64> {
    exchange.run_for(SETTLE)?;
    exchange.swarm().take_latencies();
    let before = exchange.delivered();
    exchange.run_for(duration)?;
    let arrived = exchange.delivered() - before;
    Ok(arrived as f64 / (f64::from(RATE) * duration.as_secs_f64()))
}

/// Waits for the messages that are late, and returns the latencies of the part with theirs.
fn finish(exchange: &mut Exchange) -> io::Result<Latencies> {
    match exchange.finish(Duration::from_secs(20))? {
        0 => Ok(exchange.swarm().take_latencies()),
        missing => Err(io::Error::other(format!("{missing} messages never arrived"))),
    }
}

fn print_part(server: &str, part: &str, latencies: &Latencies, through: f64, rate: Option<f64>) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!(
        "| {server} | {part} | {:.2} | {:.2} | {:.2} | {:.1} % | {} |",
        ms(latencies.percentile(0.5)),
        ms(latencies.percentile(0.99)),
        ms(latencies.longest()),
        through * 100.0,
        rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}")),
    );
}

/// The process that floods.
struct Flood(Child);

impl Flood {
    fn start(target: &Target, duration: Duration) -> io::Result<Self> {
        let authority = target.authority.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(FLOOD_ARGUMENT)
            .arg(target.address.to_string())
            .arg(authority.directory())
            .arg(duration.as_secs().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    fn start_logins(target: &Target, duration: Duration) -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg(LOGINS_ARGUMENT)
            .arg(target.address.to_string())
            .arg(duration.as_secs().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Waits for its end. Returns the handshakes a second that succeeded.
    fn finish(&mut self) -> io::Result<f64> {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            io::Read::read_to_string(&mut stdout, &mut text)?;
        }
        text.trim().parse().map_err(|_| io::Error::other("the flood ended early"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Floods, as a process of its own, and prints the handshakes a second that succeeded.
fn flood(arguments: &[String]) -> io::Result<()> {
    let [address, directory, seconds] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::nice(5)?;
    let target = Target {
        address: address.parse().map_err(io::Error::other)?,
        authority: Some(Authority::open(Path::new(directory))?),
        version: Version::V3_1_1,
    };
    let seconds: u64 = seconds.parse().map_err(io::Error::other)?;
    let clients = (0..FLOOD_WIDTH).map(|index| target.client(format!("flood-{index}")));
    let clients = clients.collect::<io::Result<Vec<Client>>>()?;

    let mut swarm = Swarm::new()?;
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    for client in &clients {
        swarm.begin(client)?;
    }
    let mut succeeded = 0_u64;
    while Instant::now() < end {
        swarm.turn(end)?;
        for position in 0..swarm.touched().len() {
            let index = swarm.touched()[position];
            match swarm.connection(index).phase() {
                Phase::Opening => continue,
                Phase::Ready => {
                    succeeded += 1;
                    swarm.close(index);
                }
                Phase::Closed => {}
            }
            swarm.begin_again(index, &clients[index])?;
        }
    }
    eprintln!("the flood: {succeeded} succeeded, {} failed", swarm.failures());
    println!("{}", succeeded as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// Floods with passwords, as a process of its own, and prints the logins a second that were
/// answered.
fn logins(arguments: &[String]) -> io::Result<()> {
    let [address, seconds] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::nice(5)?;
    let address: std::net::SocketAddr = address.parse().map_err(io::Error::other)?;
    let seconds: u64 = seconds.parse().map_err(io::Error::other)?;
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    // MQTT 3.1.1, client id, user name and password "ann": half of them are a name that is there.
    let connect = |known: bool| {
        let name: &[u8] = if known { b"\x00\x03ann" } else { b"\x00\x03eve" };
        let body = [b"\x00\x04MQTT\x04\xc2\x00\x3c", name, name, name].concat();
        [&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()
    };
    let answered = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LOGINS_WIDTH)
            .map(|index| {
                let connect = connect(index % 2 == 0);
                scope.spawn(move || {
                    let mut answered = 0_u64;
                    while Instant::now() < end {
                        let mut stream = std::net::TcpStream::connect(address)?;
                        stream.write_all(&connect)?;
                        let mut connack = [0; 4];
                        io::Read::read_exact(&mut stream, &mut connack)?;
                        answered += u64::from(connack[3] == 4);
                    }
                    io::Result::Ok(answered)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<io::Result<u64>>()
    })?;
    println!("{}", answered as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
