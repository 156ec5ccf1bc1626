//! What cannot be brought about from outside.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::audit::AuditLog;
use crate::broker;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::router::RetainedSettings;
use crate::router::tests::open_policies;
use crate::server::Server;
use crate::store::{self, Store};

/// A publication to this topic makes the connection's task panic, in unit tests only.
pub(super) const PANICS_ON: &str = "panic";

const CONFIG: &str = r#"
    [listener.open]
    address = "127.0.0.1:0"
    plaintext = true
    identity = "anonymous"
    client_id = "unbound"
"#;

/// Ten thousand of them wait for most of their lives.
#[test]
fn an_idle_connection_is_small() {
    fn bytes_of<F>(_: impl Fn(Box<Connected>) -> F) -> usize {
        size_of::<F>()
    }
    assert!(bytes_of(Connected::serve) <= 64, "{} in the task", bytes_of(Connected::serve));
    assert!(size_of::<Connection>() <= 640, "{} behind it", size_of::<Connection>());
}

/// What the audit log has so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A client of MQTT 3.1.1 whose session would outlive its connection.
async fn connect(address: &str, client_id: u8, session_present: u8) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let connect = [b"\x10\x0D\x00\x04MQTT\x04\x00\x00\x3C\x00\x01".as_slice(), &[client_id]];
    client.write_all(&connect.concat()).await.unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, session_present, 0]);
    client
}

async fn ping(client: &mut TcpStream) {
    client.write_all(&[0xC0, 0]).await.unwrap();
    let mut pong = [0; 2];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0xD0, 0]);
}

/// A broker that serves, until it is stopped.
struct Bench {
    broker: Arc<Broker>,
    address: String,
    log: Log,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Bench {
    fn start(store: Option<Arc<Store>>) -> Self {
        let config = Config::from_text("test", CONFIG, std::path::Path::new("/"), &[]).unwrap();
        let settings = broker::Settings {
            sessions_max: 10,
            queued_bytes_max: 1 << 20,
            retained: RetainedSettings { messages_max: 10, bytes_max: 1 << 20 },
        };
        let log = Log::default();
        let audit = AuditLog::to_writer(log.clone()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let broker = Broker::new(&settings, open_policies(), metrics, audit, store);
        let broker = Arc::new(broker);
        let server =
            Server::bind(config.listeners, (&[], &config.login), &broker, 1 << 20, None, None)
                .unwrap();
        let address = server.addresses()[0].1.clone();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.run(stopped));
        Self { broker, address, log, stop, serving }
    }

    /// Has a client's task panic: it is closed, and nothing said.
    async fn make_panic(&self, client: &mut TcpStream) {
        client.write_all(b"\x30\x07\x00\x05panic").await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(self.broker.metrics.panics.get(), 1);
    }

    /// Stops it: what it has recorded of panics.
    async fn stop(self) -> Vec<String> {
        self.stop.send_replace(true);
        self.serving.await.unwrap();
        assert!(self.broker.audit.close(Duration::from_secs(10)));
        let log = String::from_utf8(self.log.0.lock().clone()).unwrap();
        let is_panic = |line: &&str| line.contains(r#""event":"task.panicked""#);
        log.lines().filter(is_panic).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_panic_ends_the_connection_and_its_session_and_nothing_else() {
    let bench = Bench::start(None);
    let mut bystander = connect(&bench.address, b'b', 0).await;
    let mut victim = connect(&bench.address, b'v', 0).await;
    assert_eq!(bench.broker.session_count(), (2, 2));
    bench.make_panic(&mut victim).await;
    ping(&mut bystander).await;
    assert_eq!(bench.broker.session_count(), (1, 1));
    // Its state was in doubt: there is nothing to resume, and its name is free.
    let mut again = connect(&bench.address, b'v', 0).await;
    ping(&mut again).await;

    let panicked = bench.stop().await;
    assert_eq!(panicked.len(), 1, "{panicked:?}");
    assert!(panicked[0].contains(r#""client_id":"v""#), "{panicked:?}");
}

/// Reads so many bytes.
async fn read<const BYTES: usize>(client: &mut TcpStream) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn after_a_panic_a_durable_session_goes_on_as_the_store_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = store::Settings {
        folder: folder.path().join("store"),
        durability: store::Durability::Fsync,
        accept_loss: false,
        free_bytes_min: Some(0),
    };
    let now = Now::read();
    let (store, _) = Store::open(&settings, (now.instant, now.wall)).unwrap();
    let bench = Bench::start(Some(store));
    let mut victim = connect(&bench.address, b'v', 0).await;
    victim.write_all(b"\x82\x06\x00\x01\x00\x01t\x02").await.unwrap();
    assert_eq!(read(&mut victim).await, *b"\x90\x03\x00\x01\x02");
    // A publication of its own, for which PUBREL has not come.
    victim.write_all(b"\x34\x06\x00\x01u\x00\x07x").await.unwrap();
    assert_eq!(read(&mut victim).await, *b"\x50\x02\x00\x07");
    let mut publisher = connect(&bench.address, b'p', 0).await;
    for (id, payload) in [(1, b'a'), (2, b'b'), (3, b'c')] {
        publisher.write_all(&[0x34, 6, 0, 1, b't', 0, id, payload]).await.unwrap();
        assert_eq!(read(&mut publisher).await, [0x50, 2, 0, id]);
    }
    // The first is acknowledged to its end, the second up to PUBREC, the third not at all.
    for payload in *b"abc" {
        let publish: [u8; 8] = read(&mut victim).await;
        assert_eq!((publish[0], publish[7]), (0x34, payload));
    }
    for (ack, answer) in [([0x50, 2, 0, 1], [0x62, 2, 0, 1]), ([0x50, 2, 0, 2], [0x62, 2, 0, 2])] {
        victim.write_all(&ack).await.unwrap();
        assert_eq!(read(&mut victim).await, answer);
    }
    victim.write_all(&[0x70, 2, 0, 1]).await.unwrap();
    bench.make_panic(&mut victim).await;
    publisher.write_all(&[0x32, 6, 0, 1, b't', 0, 9, b'd']).await.unwrap();
    assert_eq!(read(&mut publisher).await, [0x40, 2, 0, 9]);

    let mut again = connect(&bench.address, b'v', 1).await;
    assert_eq!(read(&mut again).await, [0x62, 2, 0, 2], "PUBREL, again");
    assert_eq!(read(&mut again).await, *b"\x3C\x06\x00\x01t\x00\x03c");
    assert_eq!(read(&mut again).await, *b"\x32\x06\x00\x01t\x00\x04d");
    // What was taken of it before is not taken twice.
    again.write_all(b"\x82\x06\x00\x02\x00\x01u\x01").await.unwrap();
    assert_eq!(read(&mut again).await, *b"\x90\x03\x00\x02\x01");
    again.write_all(b"\x3C\x06\x00\x01u\x00\x07x").await.unwrap();
    assert_eq!(read(&mut again).await, *b"\x50\x02\x00\x07");
    ping(&mut again).await;
    assert_eq!(bench.stop().await.len(), 1);
}
