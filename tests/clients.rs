//! Clients that others wrote: mosquitto's, paho, MQTT.js and rumqttc, over TCP, mutual TLS and
//! WebSocket where they can.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "harness/mod.rs"]
mod harness;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use harness::certificates::Identity;
use harness::raw::PATIENCE;
use harness::wire::{Connect, Publish, Version};
use harness::{Broker, Setup};
use serde_json::json;

/// A broker with every transport, and two identities for its TLS listeners.
struct Stage {
    broker: Broker,
    identities: [(&'static str, Identity); 2],
}

fn stage() -> Stage {
    let setup = Setup::new().plaintext().websocket().mutual_tls_and_websocket().any_origin();
    let identities = ["first", "second"].map(|name| (name, setup.device(name)));
    Stage { broker: setup.start(), identities }
}

/// Where `./tests/run` puts what it installs.
fn tool(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools").join(path)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Starts a program of somebody else's. A missing one fails the test: nothing is skipped.
fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "cannot start {}: {error}; run ./tests/run, which installs it",
            command.get_program().display()
        )
    })
}

fn run(command: &mut Command) {
    let output = spawn(command).wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// A transport, as the clients of this file name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
}

use Transport::{SecureWebSocket, Tcp, Tls, WebSocket};

impl Transport {
    const ALL: [Self; 4] = [Tcp, Tls, WebSocket, SecureWebSocket];

    fn listener(self) -> &'static str {
        match self {
            Tcp => "mqtt",
            Tls => "mqtts",
            WebSocket => "ws",
            SecureWebSocket => "wss",
        }
    }

    fn is_tls(self) -> bool {
        matches!(self, Tls | SecureWebSocket)
    }
}

/// What the scripts are told.
fn plan(stage: &Stage, transport: Transport, version: u8) -> serde_json::Value {
    let port = stage.broker.address(transport.listener()).port();
    let scheme = match transport {
        Tcp => "mqtt",
        Tls => "mqtts",
        WebSocket => "ws",
        SecureWebSocket => "wss",
    };
    let path = if matches!(transport, Tcp | Tls) { "" } else { "/mqtt" };
    let clients = stage.identities.iter().map(|(name, identity)| {
        json!({ "id": name, "certificate": identity.certificate, "key": identity.key })
    });
    let mut plan = json!({
        "port": port,
        "url": format!("{scheme}://127.0.0.1:{port}{path}"),
        "transport": if path.is_empty() { "tcp" } else { "websockets" },
        "version": version,
        "prefix": format!("{}/{version}", transport.listener()),
        "clients": clients.collect::<Vec<_>>(),
    });
    if transport.is_tls() {
        plan["ca"] = json!(stage.broker.authority().certificate());
    }
    plan
}

#[test]
fn paho_works_over_every_transport_and_version() {
    let python = tool("python/bin/python");
    let stage = stage();
    for transport in Transport::ALL {
        for version in [3, 4, 5] {
            println!("paho over {transport:?}, version {version}");
            run(Command::new(&python)
                .arg(script("paho_roundtrip.py"))
                .arg(plan(&stage, transport, version).to_string()));
        }
    }
}

#[test]
fn mqtt_js_works_over_every_transport_and_version() {
    assert!(tool("node/node_modules/mqtt").exists(), "no MQTT.js; run ./tests/run");
    let stage = stage();
    for transport in Transport::ALL {
        for version in [3, 4, 5] {
            println!("MQTT.js over {transport:?}, version {version}");
            run(Command::new("node")
                .env("NODE_PATH", tool("node/node_modules"))
                .arg(script("mqttjs_roundtrip.js"))
                .arg(plan(&stage, transport, version).to_string()));
        }
    }
}

/// `mosquitto_sub` that has subscribed.
struct MosquittoSub {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl MosquittoSub {
    fn start(arguments: &[String]) -> Self {
        let mut child = spawn(
            Command::new("stdbuf")
                .args(["-oL", "mosquitto_sub", "-d", "-F", "got %t %q %r %p"])
                .args(arguments),
        );
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let subscriber = Self { child, lines };
        subscriber.line("Subscribed (mid: 1)");
        subscriber
    }

    /// Waits for a line that begins like this.
    fn line(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("mosquitto_sub does not say {start:?}: {error}; is it installed? run ./tests/run")
            });
            if line.starts_with(start) {
                return line;
            }
        }
    }
}

impl Drop for MosquittoSub {
    fn drop(&mut self) {
        // Without a DISCONNECT, as a crash would be; an error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments that say where and as whom.
fn mosquitto(stage: &Stage, transport: Transport, version: &str, who: usize) -> Vec<String> {
    let (name, identity) = &stage.identities[who];
    let port = stage.broker.address(transport.listener()).port().to_string();
    let mut arguments: Vec<String> = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-i", name]
        .into_iter()
        .map(str::to_owned)
        .collect();
    if transport.is_tls() {
        for (flag, file) in [
            ("--cafile", stage.broker.authority().certificate()),
            ("--cert", identity.certificate.clone()),
            ("--key", identity.key.clone()),
        ] {
            arguments.extend([flag.to_owned(), file.display().to_string()]);
        }
    }
    arguments
}

fn with(mut arguments: Vec<String>, more: &[&str]) -> Vec<String> {
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

#[test]
fn mosquitto_clients_work_over_tcp_and_tls_in_every_version() {
    let stage = stage();
    for transport in [Tcp, Tls] {
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            println!("mosquitto over {transport:?}, {version}");
            let topic = format!("{}/{version}", transport.listener());
            let first = mosquitto(&stage, transport, version, 0);
            let second = mosquitto(&stage, transport, version, 1);
            let publish = |more: &[&str]| {
                run(Command::new("mosquitto_pub").args(&second).args(more));
            };

            let everything = format!("{topic}/#");
            let subscriber =
                MosquittoSub::start(&with(first.clone(), &["-t", &everything, "-q", "2"]));
            for qos in ["0", "1", "2"] {
                let topic = format!("{topic}/{qos}");
                publish(&["-t", &topic, "-q", qos, "-m", "hello"]);
                assert_eq!(subscriber.line("got "), format!("got {topic} {qos} 0 hello"));
            }
            let kept = format!("{topic}/kept");
            publish(&["-t", &kept, "-q", "1", "-r", "-m", "kept"]);
            assert_eq!(subscriber.line("got "), format!("got {kept} 1 0 kept"));
            drop(subscriber);

            let will = format!("{topic}/will");
            let subscriber = MosquittoSub::start(&with(
                first,
                &["-t", &kept, "-q", "1", "--will-topic", &will, "--will-payload", "gone"],
            ));
            assert_eq!(subscriber.line("got "), format!("got {kept} 1 1 kept"));
            let mut witness = stage.broker.simple(Version::Mqtt311, "witness");
            witness.subscribe(&will, 0);
            drop(subscriber);
            witness.receive_text("gone");
        }
    }
}

/// One round through rumqttc, whose two versions have the same shape and different types.
macro_rules! rumqttc_round {
    ($module:path, $qos:path, $options:expr, $text:expr) => {{
        use $module as make;
        use $qos as QoS;
        let (client, mut connection) = make::Client::new($options, 16);
        let next = |connection: &mut make::Connection| loop {
            match connection.recv_timeout(PATIENCE) {
                Ok(Ok(make::Event::Incoming(packet))) => return packet,
                Ok(Ok(make::Event::Outgoing(_))) => {}
                Ok(Err(error)) => panic!("rumqttc: {error}"),
                Err(error) => panic!("rumqttc got nothing: {error:?}"),
            }
        };
        client.subscribe("rumqttc/+/x", QoS::ExactlyOnce).unwrap();
        loop {
            if format!("{:?}", next(&mut connection)).starts_with("SubAck") {
                break;
            }
        }
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.publish(format!("rumqttc/{qos:?}/x"), qos, false, "hello".as_bytes()).unwrap();
            loop {
                let packet = next(&mut connection);
                if let Some((topic, packet_qos, payload)) = $text(&packet) {
                    assert_eq!(topic, format!("rumqttc/{qos:?}/x"));
                    assert_eq!((packet_qos, payload), (qos, b"hello".to_vec()));
                    break;
                }
            }
        }
        client.disconnect().unwrap();
    }};
}

/// Where rumqttc connects to: name, port, and TLS.
fn rumqttc_transport(stage: &Stage, transport: Transport) -> rumqttc::Transport {
    if transport == Tls {
        let config = stage.broker.authority().client_config(Some(&stage.identities[0].1));
        rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config.into()))
    } else {
        rumqttc::Transport::Tcp
    }
}

#[test]
fn rumqttc_works_over_tcp_and_tls_in_both_versions() {
    let stage = stage();
    for transport in [Tcp, Tls] {
        println!("rumqttc over {transport:?}");
        let port = stage.broker.address(transport.listener()).port();
        let mut options = rumqttc::MqttOptions::new("first", "localhost", port);
        options.set_transport(rumqttc_transport(&stage, transport));
        rumqttc_round!(rumqttc, rumqttc::QoS, options, |packet: &rumqttc::Packet| match packet {
            rumqttc::Packet::Publish(publish) =>
                Some((publish.topic.clone(), publish.qos, publish.payload.to_vec())),
            _ => None,
        });

        let mut options = rumqttc::v5::MqttOptions::new("first", "localhost", port);
        options.set_transport(rumqttc_transport(&stage, transport));
        rumqttc_round!(
            rumqttc::v5,
            rumqttc::v5::mqttbytes::QoS,
            options,
            |packet: &rumqttc::v5::mqttbytes::v5::Packet| match packet {
                rumqttc::v5::mqttbytes::v5::Packet::Publish(publish) => Some((
                    String::from_utf8(publish.topic.to_vec()).unwrap(),
                    publish.qos,
                    publish.payload.to_vec()
                )),
                _ => None,
            }
        );
    }
}

/// Clients of different makes, versions and transports hear each other.
#[test]
fn transports_and_versions_meet_at_one_topic() {
    let stage = stage();
    let mut secure =
        stage.broker.client_tls(&stage.identities[1].1, &Connect::new(Version::Mqtt5, "second"));
    secure.subscribe("meeting", 1);
    let arguments = mosquitto(&stage, Tcp, "mqttv31", 0);
    let subscriber = MosquittoSub::start(&with(arguments, &["-t", "meeting", "-q", "2"]));
    secure.publish_surely(&Publish::new("meeting", "everyone"));
    secure.receive_text("everyone");
    assert_eq!(subscriber.line("got "), "got meeting 1 0 everyone");
}
