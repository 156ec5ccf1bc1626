//! Certificates that an OCSP responder speaks of: OpenSSL's, behind a server of the test's own.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rcgen::ExtendedKeyUsagePurpose;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::wire::{Connect, Version};
use crate::harness::{Broker, Setup};
use crate::{NOT_AUTHORIZED, refusal};

const V: Version = Version::Mqtt5;

/// Answers requests for as long as the test runs.
struct Responder {
    url: String,
    /// What it knows, in the format of `openssl ca`.
    index: PathBuf,
    signer: Arc<Mutex<Identity>>,
    asked: Arc<AtomicUsize>,
    is_mute: Arc<Mutex<bool>>,
}

impl Responder {
    /// One that signs with the certificate of a responder that this authority has appointed.
    fn new(authority: &Authority, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let responder = Self {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            index: folder.join("index.txt"),
            signer: Arc::new(Mutex::new(appointed(authority))),
            asked: Arc::default(),
            is_mute: Arc::default(),
        };
        responder.knows(&[], &[]);
        let (ca, index) = (authority.certificate(), responder.index.clone());
        let (asked, is_mute) = (Arc::clone(&responder.asked), Arc::clone(&responder.is_mute));
        let (signer, folder) = (Arc::clone(&responder.signer), folder.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                asked.fetch_add(1, Ordering::SeqCst);
                let Some(request) = body(&mut stream) else { continue };
                if *is_mute.lock() {
                    continue;
                }
                let answer = answer(&request, &folder, (&ca, &index, &signer.lock()));
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/ocsp-response\r\n";
                let length = format!("content-length: {}\r\n\r\n", answer.len());
                let _ = stream.write_all(&[head.as_bytes(), length.as_bytes(), &answer].concat());
            }
        });
        responder
    }

    /// These are good, and these revoked; it has not heard of others.
    fn knows(&self, good: &[&Identity], revoked: &[&Identity]) {
        let mut index = String::new();
        for one in good {
            let serial = hex::encode_upper(one.serial());
            writeln!(index, "V\t491231235959Z\t\t{serial}\tunknown\t/CN={serial}").unwrap();
        }
        for one in revoked {
            let serial = hex::encode_upper(one.serial());
            writeln!(index, "R\t491231235959Z\t260101000000Z\t{serial}\tunknown\t/CN={serial}")
                .unwrap();
        }
        let new = self.index.with_extension("new");
        std::fs::write(&new, index).unwrap();
        std::fs::rename(new, &self.index).unwrap();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn appointed(authority: &Authority) -> Identity {
    authority.client_with("responder", |parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    })
}

/// The body of an HTTP request.
fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            assert!(head.starts_with("post "), "{head}");
            assert!(head.contains("content-type: application/ocsp-request"), "{head}");
            let length = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
            if bytes.len() - (end + 4) >= length {
                return Some(bytes[end + 4..].to_vec());
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).ok()? {
            0 => return None,
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// What OpenSSL answers.
fn answer(
    request: &[u8],
    folder: &Path,
    (ca, index, signer): (&Path, &Path, &Identity),
) -> Vec<u8> {
    let (asked, said) = (folder.join("request.der"), folder.join("response.der"));
    std::fs::write(&asked, request).unwrap();
    let ran = Command::new("openssl")
        .args(["ocsp", "-ndays", "1", "-index"])
        .arg(index)
        .arg("-CA")
        .arg(ca)
        .arg("-rsigner")
        .arg(&signer.certificate)
        .arg("-rkey")
        .arg(&signer.key)
        .arg("-reqin")
        .arg(&asked)
        .arg("-respout")
        .arg(&said)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    std::fs::read(said).unwrap()
}

fn start(mode: &str, more: &str) -> (Broker, Responder) {
    let setup = Setup::new().mutual_tls();
    let responder = Responder::new(setup.authority(), &setup.path().join("responder"));
    let url = &responder.url;
    let config = format!("[ocsp]\nmode = \"{mode}\"\nresponders = [\"{url}\"]\n{more}");
    (setup.config(&config).start(), responder)
}

fn refused(broker: &Broker, identity: &Identity, client_id: &str, why: &str) {
    let connect = Connect::new(V, client_id);
    assert_eq!(refusal(broker.raw_tls(identity), &connect), NOT_AUTHORIZED);
    broker.audited(why, |record| {
        record["event"] == "connection.refused"
            && record["gate"] == "tls"
            && record["client_id"] == client_id
            && record["why"].as_str().unwrap().contains(why)
    });
}

#[test]
fn a_responder_is_asked_once_for_a_while_and_its_answer_counts() {
    let (broker, responder) = start("hard", "");
    let authority = broker.authority();
    let (good, gone) = (authority.client("good"), authority.client("gone"));
    responder.knows(&[&good], &[&gone]);
    broker.client_tls(&good, &Connect::new(V, "good")).ping();
    broker.client_tls(&good, &Connect::new(V, "good")).ping();
    assert_eq!(responder.asked(), 1);
    refused(&broker, &gone, "gone", "the client's certificate is revoked, says its OCSP responder");
    refused(
        &broker,
        &gone,
        "again",
        "the client's certificate is revoked, says its OCSP responder",
    );
    assert_eq!(responder.asked(), 2);
}

/// Threat: subscription survives revocation.
#[test]
fn who_is_revoked_while_connected_is_put_out() {
    let (broker, responder) = start("soft", "every = \"1s\"");
    let authority = broker.authority();
    let (gone, stays) = (authority.client("gone"), authority.client("stays"));
    responder.knows(&[&gone, &stays], &[]);
    let mut leaver = broker.client_tls(&gone, &Connect::new(V, "gone"));
    let mut stayer = broker.client_tls(&stays, &Connect::new(V, "stays"));
    responder.knows(&[&stays], &[&gone]);
    leaver.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    let closed = broker.audited("the end", |record| record["event"] == "connection.closed");
    assert_eq!(closed["why"], "the client's certificate is revoked, says its OCSP responder");
    stayer.ping();
}

/// Ends the others, also where what they wait for does not come.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Threat: subscription survives revocation.
#[test]
fn who_is_revoked_is_put_out_though_others_ask_first() {
    let (broker, responder) = start("hard", "every = \"1s\"");
    let gone = broker.authority().client("gone");
    responder.knows(&[&gone], &[]);
    let mut leaver = broker.client_tls(&gone, &Connect::new(V, "gone"));
    responder.knows(&[], &[&gone]);
    // Whoever connects when it is time to ask learns the answer, and not the session's own turn.
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let (broker, gone) = (&broker, &gone);
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let mut raw = broker.raw_tls(gone);
                    let _ = raw.try_send(&Connect::new(V, name).bytes());
                    // Whatever it is: the first come before it is time.
                    raw.next_packet();
                }
            });
        }
        let _over = Over(is_over);
        leaver.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    });
}

/// Threat: a responder that is kept from the broker.
#[test]
fn without_an_answer_hard_refuses_and_soft_admits() {
    for (mode, is_admitted) in [("hard", false), ("soft", true)] {
        let (broker, responder) = start(mode, "");
        *responder.is_mute.lock() = true;
        let client = broker.authority().client("client");
        if is_admitted {
            broker.client_tls(&client, &Connect::new(V, "client")).ping();
        } else {
            let why = "whether the client's certificate is revoked is unknown";
            refused(&broker, &client, "client", why);
        }
        broker.audited("the failure", |record| {
            record["event"] == "revocation.load-failed"
                && record["why"].as_str().unwrap().contains(&responder.url)
        });
    }
}

#[test]
fn whom_the_responder_does_not_know_or_speaks_of_without_leave_is_not_known() {
    let (broker, responder) = start("hard", "");
    let authority = broker.authority();
    let unknown = authority.client("unknown");
    refused(&broker, &unknown, "unknown", "the responder does not know the certificate");
    // Signed by a client of the same authority, and by a responder of another one.
    let client = authority.client("client");
    let forger = Authority::new(&broker.path().join("forger"), "Test CA");
    for signer in [authority.client("signer"), appointed(&forger)] {
        *responder.signer.lock() = signer;
        let victim = authority.client("victim");
        responder.knows(&[&victim, &client], &[]);
        refused(&broker, &victim, "victim", "signed neither by the certificate's issuer");
    }
    *responder.signer.lock() = appointed(authority);
    broker.client_tls(&client, &Connect::new(V, "client")).ping();
}

#[test]
fn a_certificate_says_whom_to_ask_only_where_it_may() {
    let (broker, responder) = start("hard", "");
    let authority = broker.authority();
    // DER of an authority information access that names an OCSP responder by its URL.
    let element = |tag: u8, contents: &[u8]| {
        [&[tag, u8::try_from(contents.len()).unwrap()], contents].concat()
    };
    let naming = |url: &str| {
        let method = element(6, &[43, 6, 1, 5, 5, 7, 48, 1]);
        let access = [method, element(0x86, url.as_bytes())].concat();
        let all = element(48, &element(48, &access));
        authority.client_with("naming", |parameters| {
            let oid = [1, 3, 6, 1, 5, 5, 7, 1, 1];
            let extension = rcgen::CustomExtension::from_oid_content(&oid, all);
            parameters.custom_extensions.push(extension);
        })
    };
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = naming(&format!("http://{}/", elsewhere.local_addr().unwrap()));
    let own = naming(&format!("{}own", responder.url));
    responder.knows(&[&other, &own], &[]);
    broker.client_tls(&other, &Connect::new(V, "naming")).ping();
    broker.client_tls(&own, &Connect::new(V, "naming")).ping();
    assert_eq!(responder.asked(), 2);
    assert!(elsewhere.accept().is_err(), "nobody was asked there");
}

#[test]
fn a_mode_without_responders_is_refused() {
    let said = Setup::new().mutual_tls().config("[ocsp]\nmode = \"hard\"\n").refused().stderr;
    assert!(said.contains("ocsp.responders") && said.contains("name the URLs"), "{said}");
    let late = "[ocsp]\nmode = \"soft\"\nresponders = [\"http://localhost/\"]\ntimeout = \"10s\"\n";
    let said = Setup::new().mutual_tls().config(late).refused().stderr;
    assert!(said.contains("ocsp.timeout is not shorter than listener."), "{said}");
}
