//! The HTTP back end.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::*;
use crate::harness::Setup;
use crate::harness::certificates::{Authority, Identity};
use crate::harness::raw::PATIENCE;
use crate::harness::wire::Connack;
use crate::{is, refusal};

/// A server that answers every request the same way, until it is told another.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Status line and headers, and body.
    answer: Arc<Mutex<(String, String)>>,
    asked: mpsc::Receiver<(String, String)>,
}

impl Server {
    pub(super) fn start(body: String) -> Self {
        Self::start_with(body, None)
    }

    /// With TLS, and for clients with a certificate alone, where there is a configuration for it.
    fn start_with(body: String, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(("200 OK".to_owned(), body)));
        let (told, asked) = mpsc::channel();
        let answers = Arc::clone(&answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answers, told, tls) = (Arc::clone(&answers), told.clone(), tls.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    match tls {
                        None => serve(stream, &answers, &told),
                        Some(config) => {
                            let session = rustls::ServerConnection::new(config).unwrap();
                            serve(rustls::StreamOwned::new(session, stream), &answers, &told);
                        }
                    }
                });
            }
        });
        Self { address, answer, asked }
    }

    fn say(&self, status: &str, body: &str) {
        *self.answer.lock().unwrap() = (status.to_owned(), body.to_owned());
    }

    /// The next request: its head and its body.
    pub(super) fn asked(&self) -> (String, String) {
        self.asked.recv_timeout(PATIENCE).unwrap()
    }
}

/// Answers one request, unless the client goes before.
fn serve(
    stream: impl Read + Write,
    answers: &Mutex<(String, String)>,
    told: &mpsc::Sender<(String, String)>,
) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    loop {
        match stream.read_line(&mut head) {
            Ok(length) if length > 2 => {}
            Ok(2) => break,
            _ => return,
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let _ = told.send((head, String::from_utf8(body).unwrap()));
    let (status, body) = answers.lock().unwrap().clone();
    if status.is_empty() {
        // Says nothing, until the other side goes.
        let _ = stream.read_line(&mut String::new());
        return;
    }
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.get_mut().write_all(text.as_bytes());
    let _ = stream.get_mut().flush();
}

fn broker(server: &Server) -> Broker {
    let tables = format!(
        "[authentication.backend]\nmethod = \"http\"\nurl = \"http://{}/login?x=1\"\n\
         timeout = \"500ms\"\ngroups = [\"ops\"]\ntags = [\"site\"]\n",
        server.address
    );
    let limits = "[login]\nfailures_per_name = 1000\nfailures_per_address = 1000\n";
    Setup::new().principals("[group.ops]\n").methods(&["backend"], &tables).config(limits).start()
}

#[test]
fn a_server_decides_and_its_yes_is_kept_until_a_reload() {
    let yes = json!({"allow": true, "groups": ["ops"], "tags": {"site": "north"}});
    let server = Server::start(yes.to_string());
    let broker = broker(&server);
    let ann = login(Version::Mqtt5, "ann", b"correct horse");
    broker.client(&ann).disconnect();
    let (head, body) = server.asked();
    assert!(head.starts_with("POST /login?x=1 HTTP/1.1"), "{head}");
    let asked: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        asked,
        json!({
            "username": "ann", "password": "correct horse", "client_id": "ann",
            "listener": "mqtt", "address": "127.0.0.1",
        })
    );
    // The same again is not asked; another password is.
    broker.client(&ann).disconnect();
    server.say("200 OK", r#"{"allow": false}"#);
    broker.client(&ann).disconnect();
    assert!(server.asked.try_recv().is_err());
    let wrong = login(Version::Mqtt5, "ann", b"correct horsf");
    assert_eq!(refusal(broker.raw(), &wrong), BAD_USER_NAME_OR_PASSWORD);
    server.asked();
    // A no is asked for each time.
    assert_eq!(refusal(broker.raw(), &wrong), BAD_USER_NAME_OR_PASSWORD);
    server.asked();
    assert!(broker.ctl(&["reload"]).status.success());
    assert_eq!(refusal(broker.raw(), &ann), BAD_USER_NAME_OR_PASSWORD);
    server.asked();
    // The server names the principal, which is what the client id is bound to.
    server.say("200 OK", r#"{"allow": true, "principal": "device-7"}"#);
    assert_eq!(refusal(broker.raw(), &wrong), 0x85);
    broker.client(&Connect { client_id: "device-7".into(), ..wrong });
    let record =
        broker.audited("the login", |record| is(record, "connection.accepted", "device-7"));
    assert_eq!(record["principal"]["id"], "device-7");
    assert!(!format!("{:?}{}", broker.audit(), broker.stderr()).contains("horse"));
}

/// Threat: authentication bypass: a fault in the method.
#[test]
fn whatever_is_no_clear_yes_in_time_refuses() {
    let server = Server::start(String::new());
    let elsewhere = Server::start(r#"{"allow": true}"#.to_owned());
    let ann = login(Version::Mqtt5, "ann", b"correct horse");
    let yes = r#"{"allow": true}"#;
    let redirect = format!("302 Found\r\nLocation: http://{}/", elsewhere.address);
    let huge = format!("{{\"allow\": true, \"x\": \"{}\"}}", "x".repeat(70_000));
    for answers in [
        vec![("500 Internal Server Error", yes), ("204 No Content", ""), (&redirect, yes)],
        vec![("200 OK", ""), ("200 OK", "yes"), ("200 OK", r#"{"allow": "true"}"#)],
        vec![("200 OK", &huge), ("", ""), ("100 Continue", yes), ("nonsense", yes)],
    ] {
        let broker = broker(&server);
        for (status, body) in answers {
            server.say(status, body);
            assert_eq!(refusal(broker.raw(), &ann), SERVER_UNAVAILABLE, "{status} {body:.30}");
        }
        server.say("200 OK", yes);
        broker.client(&ann);
    }
    assert!(elsewhere.asked.try_recv().is_err(), "a redirect was followed");
    // Nobody there at all; after five failures nobody is asked any more.
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = Arc::default();
        let asked = mpsc::channel().1;
        Server { address: listener.local_addr().unwrap(), answer, asked }
    };
    let broker = broker(&closed);
    for _ in 0..5 {
        assert_eq!(refusal(broker.raw(), &ann), SERVER_UNAVAILABLE);
    }
    assert_eq!(refusal(broker.raw(), &ann), SERVER_UNAVAILABLE);
    why(&broker, "ann", "has failed and is left alone");
    assert!(!format!("{:?}", broker.audit()).contains("x=1"), "a query may hold a secret");
    // MQTT 3.1.1 has a code of its own for it.
    let mut raw = broker.raw();
    raw.send(&login(Version::Mqtt311, "ann", b"x").bytes());
    assert_eq!(Connack::parse(Version::Mqtt311, &raw.recv_packet()).code, 3);
}

/// Threat: somebody else answers for the server, or asks it.
#[test]
fn the_server_is_known_by_its_ca_and_knows_the_broker_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(&folder.path().join("ours"), "Ours");
    let other = Authority::new(&folder.path().join("other"), "Other");
    let (server, client) = (authority.server(), authority.client("broker"));
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(authority.certificate()).unwrap();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(server.chain(), server.private_key())
        .unwrap();
    let server = Server::start_with(r#"{"allow": true}"#.to_owned(), Some(Arc::new(config)));
    let ann = login(Version::Mqtt5, "ann", b"correct horse");
    let broker = |ca: &Authority, client: Option<&Identity>| {
        let shown = client.map_or_else(String::new, |it| {
            let (certificate, key) = (it.certificate.display(), it.key.display());
            format!("certificate = \"{certificate}\"\nkey = \"{key}\"\n")
        });
        let tables = format!(
            "[authentication.backend]\nmethod = \"http\"\nurl = \"https://localhost:{}/login\"\n\
             ca = \"{}\"\n{shown}",
            server.address.port(),
            ca.certificate().display()
        );
        Setup::new().methods(&["backend"], &tables).start()
    };
    broker(&authority, Some(&client)).client(&ann);
    for (ca, client) in [(&other, Some(&client)), (&authority, None)] {
        let broker = broker(ca, client);
        assert_eq!(refusal(broker.raw(), &ann), SERVER_UNAVAILABLE);
    }
}
