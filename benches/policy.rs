//! What decisions of the policies cost, by path, with few policies and with very many.
//!
//! ```text
//! cargo bench --bench policy -- [--policies 10,1000,100000] [--sessions 10000]
//! ```
//! Time is wall time of one thread in this process, the median of several batches: run it on a
//! quiet machine. Memory is resident memory over what was there before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::doc_markdown,
    reason = "a benchmark may stop at what it did not expect"
)]

mod rules;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis::identity::{CertificateFacts, Identity, PrincipalKind};
use portcullis::mqtt::packet::Qos;
use portcullis::mqtt::{ClientId, ProtocolVersion, SubscriptionFilter, TopicName};
use portcullis::policy::{
    Bundle, ConnectFacts, PolicyEpoch, Publication, PublishFacts, SessionFacts, Subject,
    SubscribeFacts,
};

/// As the program has it: memory is part of what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "\
usage: cargo bench --bench policy -- [OPTION…]
  --policies N,N   how many policies to load (10,1000,100000)
  --sessions N     sessions whose memory is measured (10000)";

/// Policies for the whole fleet, beside the many that concern others.
const FLEET: &str = r#"
@id("connect") permit(principal is Device, action == Action::"connect", resource)
  when { context.session.tls_version >= 13 };
@id("own") permit(principal is Device, action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#");
@id("telemetry") permit(principal is Device, action == Action::"publish",
  resource in TopicFilter::"telemetry/+/${cn}/#")
  when { context.qos <= 1 && context.payload_size <= 65536 };
@id("volatile") permit(principal is Device, action == Action::"publish",
  resource in TopicFilter::"volatile/#") when { context.user_properties.contains("a=b") };
@id("commands") forbid(principal, action in Action::"write",
  resource in TopicFilter::"+/+/command/#") unless { principal in Group::"operators" };
"#;
const FLEET_RULES: usize = 5;

const BATCHES: usize = 21;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this too, and is not to wait for minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some((sizes, sessions)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut columns: Vec<Vec<(&str, String)>> = Vec::new();
    for size in &sizes {
        columns.push(measure(*size, sessions));
    }
    print!("| what |");
    for size in &sizes {
        print!(" {size} policies |");
    }
    print!("\n|---|");
    println!("{}", "---:|".repeat(sizes.len()));
    for (row, (what, _)) in columns.first().into_iter().flatten().enumerate() {
        print!("| {what} |");
        for column in &columns {
            print!(" {} |", column.get(row).map_or("", |(_, value)| value));
        }
        println!();
    }
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Option<(Vec<usize>, usize)> {
    let (mut sizes, mut sessions) = (vec![10, 1_000, 100_000], 10_000);
    let mut arguments = arguments.iter().filter(|argument| *argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--policies" => {
                sizes = value.split(',').map(|size| size.parse().ok()).collect::<Option<_>>()?;
            }
            "--sessions" => sessions = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((sizes, sessions))
}

fn measure(policies: usize, sessions: usize) -> Vec<(&'static str, String)> {
    eprintln!("{policies} policies …");
    let folder = tempfile::tempdir().unwrap();
    rules::write(folder.path(), FLEET, policies.saturating_sub(FLEET_RULES)).unwrap();
    let before = resident_bytes();
    let began = Instant::now();
    let bundle = Bundle::load_dir(folder.path(), PolicyEpoch(1));
    let bundle = bundle.unwrap_or_else(|error| panic!("{:?}", error.lines().next()));
    let load = began.elapsed();
    let bytes_per_policy = resident_bytes().saturating_sub(before) / bundle.policies();

    let mut rows = vec![
        ("load", format!("{:.2} s", load.as_secs_f64())),
        ("memory per policy", format!("{:.1} KB", bytes_per_policy as f64 / 1000.0)),
    ];
    let mut device = Client::new(&bundle, 0);
    // The compiled rules are shared by a fleet, of which somebody is always there.
    let mut first = Client::new(&bundle, 1);
    first.connect();
    assert!(device.publish("devices/dev0/a") && !device.publish("devices/dev1/a"));

    rows.push((
        "CONNECT, compiled rules shared",
        micros(&mut || {
            let mut client = Client::new(&bundle, 2);
            let began = Instant::now();
            client.connect();
            began.elapsed()
        }),
    ));
    let filter = SubscriptionFilter::parse("devices/dev0/#").unwrap();
    rows.push((
        "SUBSCRIBE, with receive_ok",
        micros(&mut || {
            let began = Instant::now();
            device.subscribe(&filter);
            began.elapsed()
        }),
    ));
    let known = Message::new("devices/dev0/sensor/temperature");
    rows.push(("topic known", nanos(100_000, |_| assert!(device.ask(&known)))));
    let limited = Message::new("telemetry/fra1/dev0/sensor");
    rows.push(("topic known, size limited", nanos(100_000, |_| assert!(device.ask(&limited)))));
    let unseen: Vec<Message> =
        (0..1_000).map(|n| Message::new(&format!("devices/dev0/sensor/{n}"))).collect();
    rows.push(("topic never seen", nanos(1_000, |at| assert!(device.ask(&unseen[at])))));
    let foreign: Vec<Message> =
        (0..1_000).map(|n| Message::new(&format!("other/{n}/sensor"))).collect();
    rows.push((
        "topic never seen, nothing applies",
        nanos(1_000, |at| assert!(!device.ask(&foreign[at]))),
    ));
    let cold = Message::new("volatile/dev0/x");
    rows.push(("decision by Cedar", nanos(200, |_| assert!(!device.ask(&cold)))));

    let clients = |active: bool| {
        let before = resident_bytes();
        let clients: Vec<Client> = (0..sessions)
            .map(|number| {
                let mut client = Client::new(&bundle, number);
                client.connect();
                if active {
                    for topic in ["a", "b", "c", "d"] {
                        assert!(client.publish(&format!("devices/dev{number}/{topic}")));
                        assert!(client.publish(&format!("telemetry/fra1/dev{number}/{topic}")));
                    }
                } else {
                    client.subject.shed();
                }
                client
            })
            .collect();
        let bytes = resident_bytes().saturating_sub(before) / sessions;
        drop(clients);
        bytes
    };
    // What the identity and the session facts take is not the policies'.
    let idle = clients(false);
    rows.push((
        "memory per active session, eight topics",
        format!("{} B", clients(true).saturating_sub(idle)),
    ));
    rows.push(("memory per idle session, identity included", format!("{idle} B")));
    rows
}

/// The median of single runs, in microseconds.
fn micros(run: &mut dyn FnMut() -> Duration) -> String {
    let mut all: Vec<Duration> = (0..BATCHES * 10).map(|_| run()).collect();
    all.sort();
    format!("{:.1} µs", all[all.len() / 2].as_secs_f64() * 1e6)
}

/// The median over batches of so many runs each, in nanoseconds for one.
fn nanos(runs: usize, mut run: impl FnMut(usize)) -> String {
    let mut all: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let began = Instant::now();
            for at in 0..runs {
                run(at);
            }
            began.elapsed().as_nanos() as f64 / runs as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    let median = all[all.len() / 2];
    if median < 1_000.0 { format!("{median:.0} ns") } else { format!("{:.1} µs", median / 1000.0) }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

struct Message(TopicName);

impl Message {
    fn new(topic: &str) -> Self {
        Self(TopicName::parse(topic).unwrap())
    }
}

impl Publication for &Message {
    fn topic(&self) -> &TopicName {
        &self.0
    }

    fn facts(&self) -> PublishFacts<'_> {
        PublishFacts {
            qos: Qos::AtLeastOnce,
            retain: false,
            will: false,
            payload_bytes: 64,
            content_type: None,
            user_properties: None,
        }
    }
}

struct Client {
    subject: Subject,
    now: SystemTime,
}

impl Client {
    fn new(bundle: &Arc<Bundle>, number: usize) -> Self {
        let name: Arc<str> = format!("dev{number}").into();
        let certificate = CertificateFacts {
            cn: Arc::clone(&name),
            fingerprint: "ab".repeat(32).into(),
            issuer: "cd".repeat(32).into(),
            serial: "1".into(),
            not_after_unix_s: 4_000_000_000,
            spiffe: None,
            dns_names: Vec::new(),
            uris: Vec::new(),
            organizational_units: Vec::new(),
        };
        let session = SessionFacts {
            client_id: ClientId::parse(&name).unwrap(),
            listener: "devices".into(),
            source_ip: [127, 0, 0, 1].into(),
            protocol: ProtocolVersion::V5,
            tls_version: 13,
        };
        let identity = Identity {
            kind: PrincipalKind::Device,
            name,
            groups: Vec::new(),
            tags: BTreeMap::new(),
            certificate: Some(Arc::new(certificate)),
        };
        let subject = Subject::new(Arc::clone(bundle), Arc::new(identity), Arc::new(session));
        Self { subject, now: UNIX_EPOCH + Duration::from_hours(500_000) }
    }

    fn connect(&mut self) {
        let facts = ConnectFacts {
            clean_start: true,
            session_expiry_s: 0,
            keep_alive_s: 60,
            has_will: false,
            now: self.now,
        };
        self.subject.connect(&facts).unwrap();
    }

    fn subscribe(&mut self, filter: &SubscriptionFilter) {
        let facts = SubscribeFacts { qos: Qos::AtLeastOnce, no_local: false, now: self.now };
        black_box(self.subject.subscribe(filter, &facts).unwrap());
        assert!(self.subject.receive_ok(&filter.filter));
    }

    fn publish(&mut self, topic: &str) -> bool {
        self.ask(&Message::new(topic))
    }

    fn ask(&mut self, message: &Message) -> bool {
        black_box(self.subject.publish(message, self.now)).is_ok()
    }
}
