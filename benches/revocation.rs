//! What a revocation list of very many certificates costs: to load, to keep, and at a handshake.
//!
//! ```text
//! cargo bench --bench revocation -- [--entries 1000000] [--handshakes 2000]
//! ```
//! Handshakes (TLS 1.3, mutual, P-256, X25519MLKEM768) are made in memory, and only the server's
//! side is timed, in CPU time of its thread; the three servers take turns. The list is loaded in a
//! process of its own, whose memory is what is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::doc_markdown,
    reason = "a benchmark may stop at what it did not expect"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis::identity::TrustedIssuers;
use portcullis::identity::revocation::{self, Doubt, Revocations, Settings};
use portcullis::server::listener::Tls;
use portcullis::server::tls_config::server_config;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use time::OffsetDateTime;

/// As the program has it: memory is part of what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Handshakes of one server before the next has its turn.
const TURN: usize = 50;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut entries, mut handshakes) = (1_000_000, 2000);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number");
        match &*argument {
            "--entries" => entries = number(),
            "--handshakes" => handshakes = number(),
            "--load" => return load(Path::new(&arguments.next().expect("a folder"))),
            other => panic!("what is {other}? [--entries N] [--handshakes N]"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path(), entries);
    let bytes = std::fs::metadata(folder.path().join("ca.crl")).unwrap().len();
    println!("A list of {entries} certificates, {:.1} MiB.\n", bytes as f64 / MIB);
    let told = Command::new(std::env::current_exe().unwrap())
        .arg("--load")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    println!("{}", String::from_utf8_lossy(&told.stdout));
    world.shake_hands(handshakes.try_into().unwrap());
}

const MIB: f64 = 1024.0 * 1024.0;

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The certificate authority, a server and a client of its, as files.
struct World {
    folder: PathBuf,
    client: Arc<ClientConfig>,
    ca: CertificateDer<'static>,
}

impl World {
    fn new(folder: &Path, entries: u64) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Bench CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |usage, name: &str| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key)
        };
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(folder.join(name), private).unwrap();
        };
        let (server, server_key) = issue(ExtendedKeyUsagePurpose::ServerAuth, "localhost");
        let (device, device_key) = issue(ExtendedKeyUsagePurpose::ClientAuth, "device");
        write("server.pem", &server);
        write("server.key", &server_key.serialize_pem());
        write("ca.pem", &ca.pem());
        write("ca.crl", &list(entries, &ca));
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(device.as_bytes()).unwrap()],
                PrivateKeyDer::try_from(device_key.serialize_der()).unwrap(),
            )
            .unwrap();
        client.resumption = rustls::client::Resumption::disabled();
        let ca = ca.der().clone();
        Self { folder: folder.to_owned(), client: Arc::new(client), ca }
    }

    fn tls(&self) -> Tls {
        Tls {
            certificate: self.folder.join("server.pem"),
            key: self.folder.join("server.key"),
            client_ca: Some(self.folder.join("ca.pem")),
            tls_1_2: false,
        }
    }

    /// rustls as it comes, but for tickets, which nobody makes here.
    fn bare(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_file(self.tls().certificate).unwrap()],
                PrivateKeyDer::from_pem_file(self.tls().key).unwrap(),
            )
            .unwrap();
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    fn shake_hands(&self, handshakes: usize) {
        let none = revocation::none();
        let full = revocation::none();
        full.store(Arc::new(loaded(&self.folder)));
        let servers = [
            ("bare rustls, no list", self.bare()),
            ("Portcullis, no list", server_config(&self.tls(), &none).unwrap().config),
            ("Portcullis, the list", server_config(&self.tls(), &full).unwrap().config),
        ];
        let mut spent = [Duration::ZERO; 3];
        for (_, config) in &servers {
            self.handshake(config);
        }
        for _ in 0..handshakes.div_ceil(TURN) {
            for (spent, (_, config)) in spent.iter_mut().zip(&servers) {
                *spent += (0..TURN).map(|_| self.handshake(config)).sum::<Duration>();
            }
        }
        println!("| server | handshakes per CPU-second | of bare rustls |\n|---|---:|---:|");
        let made = (handshakes.div_ceil(TURN) * TURN) as f64;
        let bare = made / spent[0].as_secs_f64();
        for ((name, _), spent) in servers.iter().zip(spent) {
            let per_second = made / spent.as_secs_f64();
            println!("| {name} | {per_second:.0} | {:.0} % |", 100.0 * per_second / bare);
        }
    }

    /// The CPU time of the server's side.
    fn handshake(&self, config: &Arc<ServerConfig>) -> Duration {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut spent = Duration::ZERO;
        let mut timed = |work: &mut dyn FnMut()| {
            let before = cpu(ClockId::ThreadCPUTime);
            work();
            spent += cpu(ClockId::ThreadCPUTime).saturating_sub(before);
        };
        let mut server = None;
        timed(&mut || server = Some(ServerConnection::new(Arc::clone(config)).unwrap()));
        let mut server = server.unwrap();
        while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut answer = Vec::new();
            timed(&mut || {
                let mut unread = bytes.as_slice();
                while !unread.is_empty() {
                    server.read_tls(&mut unread).unwrap();
                    server.process_new_packets().unwrap();
                }
                while server.wants_write() {
                    server.write_tls(&mut answer).unwrap();
                }
            });
            let mut unread = answer.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        spent
    }
}

/// A list of so many certificates, with serial numbers of 16 bytes as authorities give them.
fn list(entries: u64, ca: &CertifiedIssuer<'_, KeyPair>) -> String {
    let now = OffsetDateTime::now_utc();
    let revoked = (0..entries).map(|at| {
        let serial =
            u128::from(at).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let mut serial = serial.to_be_bytes().to_vec();
        serial[0] = 0x40 | serial[0] & 0x3F;
        RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }
    });
    let params = CertificateRevocationListParams {
        this_update: now - time::Duration::hours(1),
        next_update: now + time::Duration::hours(1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).unwrap().pem().unwrap()
}

fn loaded(folder: &Path) -> Revocations {
    let settings = Settings {
        lists: vec![folder.join("ca.crl")],
        expired: Doubt::Refuse,
        missing: Doubt::Refuse,
        fetch: None,
    };
    let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap();
    let trusted = TrustedIssuers::new(&[ca]).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().try_into().unwrap();
    revocation::load(&settings, &trusted, &Revocations::none(), now).unwrap().revocations
}

/// In a process of its own: loads the list and tells what that took.
fn load(folder: &Path) {
    let before = memory("VmRSS");
    let began = cpu(ClockId::ProcessCPUTime);
    let revocations = loaded(folder);
    let spent = cpu(ClockId::ProcessCPUTime).saturating_sub(began);
    let peak = memory("VmHWM");
    // What was freed goes back to the system after a while.
    std::thread::sleep(Duration::from_secs(12));
    std::hint::black_box(vec![0_u8; 1024]);
    println!(
        "Loaded {} in {:.2} s of CPU; {:.0} MiB at the peak, {:.0} MiB afterwards, over {:.0} MiB.",
        revocations.len(),
        spent.as_secs_f64(),
        peak - before,
        memory("VmRSS") - before,
        before,
    );
}

/// A line of /proc/self/status, in MiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
