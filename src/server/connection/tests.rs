//! What cannot be brought about from outside.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;
use crate::audit::AuditLog;
use crate::broker;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::router::RetainedSettings;
use crate::router::tests::open_policies;
use crate::server::Server;

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

#[tokio::test]
async fn a_panic_ends_the_connection_and_its_session_and_nothing_else() {
    let config = Config::from_text("test", CONFIG, std::path::Path::new("/"), &[]).unwrap();
    let settings = broker::Settings {
        sessions_max: 10,
        queued_bytes_max: 1 << 20,
        retained: RetainedSettings { messages_max: 10, bytes_max: 1 << 20 },
    };
    let log = Log::default();
    let audit = AuditLog::to_writer(log.clone()).unwrap();
    let metrics = Arc::new(Metrics::new());
    let broker =
        Arc::new(Broker::new(&settings, open_policies(), Arc::clone(&metrics), audit, None));
    let server = Server::bind(config.listeners, &broker, 1 << 20).unwrap();
    let address = server.addresses()[0].1.clone();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server.run(stopped));

    let mut bystander = connect(&address, b'b', 0).await;
    let mut victim = connect(&address, b'v', 0).await;
    assert_eq!(broker.session_count(), (2, 2));
    victim.write_all(b"\x30\x07\x00\x05panic").await.unwrap();
    assert_eq!(victim.read(&mut [0]).await.unwrap(), 0, "closed, and nothing said");
    ping(&mut bystander).await;
    assert_eq!(broker.session_count(), (1, 1));
    assert_eq!(metrics.panics.get(), 1);
    // Its state was in doubt: there is nothing to resume, and its name is free.
    let mut again = connect(&address, b'v', 0).await;
    ping(&mut again).await;

    stop.send_replace(true);
    serving.await.unwrap();
    assert!(broker.audit.close(Duration::from_secs(10)));
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let panicked: Vec<_> =
        log.lines().filter(|line| line.contains(r#""event":"task.panicked""#)).collect();
    assert_eq!(panicked.len(), 1, "{log}");
    assert!(panicked[0].contains(r#""client_id":"v""#), "{panicked:?}");
}
