//! A word to the broker, over its control socket: what was issued, and that something was revoked,
//! so that it looks at its lists of revoked certificates at once. It would by itself a little
//! later, and nothing depends on it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::server::Shared;
use crate::admin::control::{ABOUT_BYTES_MAX, Command, Request, Response};
use crate::audit::{Event, Kind, event::Outcome};

/// How often it is looked whether something was revoked: by `cert revoke`, another process.
const LOOK: Duration = Duration::from_millis(500);
/// For the whole of a call: the broker loads its lists in it.
const DEADLINE: Duration = Duration::from_secs(30);
/// After a call: the broker hears 4 a second, and what happens meanwhile is told together.
const PAUSE: Duration = Duration::from_millis(300);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Certificates that wait to be told of; what is beyond is not.
const WAITING_MAX: usize = 256;

/// What waits to be told.
pub(super) type Notices = mpsc::Sender<String>;

/// A queue of what is to be told.
pub(super) fn queue() -> (Notices, mpsc::Receiver<String>) {
    mpsc::channel(WAITING_MAX)
}

/// Tells the broker whenever something was issued or revoked, one call at a time.
pub(super) async fn keep_telling(shared: Arc<Shared>, mut issued: mpsc::Receiver<String>) {
    if shared.settings.broker_socket.is_none() {
        return;
    }
    let mut known = None;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut all = Vec::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let Some(count) = revoked(&shared).await else { continue };
                let before = known.replace(count).unwrap_or(count);
                if count > before {
                    shared.tell(format!("revoked: {}", count - before)).await;
                }
            }
            received = issued.recv_many(&mut all, WAITING_MAX) => {
                let about = match (received, all.pop()) {
                    (1, Some(one)) if one.len() <= ABOUT_BYTES_MAX => one,
                    (several, _) => format!("issued: {several} certificates"),
                };
                all.clear();
                shared.tell(about).await;
            }
        }
    }
}

/// How many certificates were revoked, ever.
async fn revoked(shared: &Arc<Shared>) -> Option<usize> {
    let ours = Arc::clone(shared);
    let counted = tokio::task::spawn_blocking(move || {
        ours.authority.current().ca.contents(|contents| contents.revocations().count())
    });
    match counted.await {
        Ok(Ok(count)) => Some(count),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the inventory cannot be looked at");
            None
        }
        Err(_) => None,
    }
}

impl Shared {
    async fn tell(&self, about: String) {
        let Some(socket) = &self.settings.broker_socket else { return };
        let called = tokio::time::timeout(DEADLINE, call(socket, &about)).await;
        let called = called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (outcome, why) = match called {
            Ok(()) => (Outcome::Done, String::new()),
            Err(error) => {
                tracing::warn!(%error, socket = %socket.display(), "the broker cannot be told");
                (Outcome::Failed, error.to_string())
            }
        };
        let told = Kind::BrokerTold { about: about.into(), outcome, why: why.into() };
        self.audit.record(Event::broker(told));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn call(socket: &Path, about: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let command = Command::Revocations { about: about.to_owned() };
    let mut line = serde_json::to_vec(&Request::from(command))?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer).await?;
    match serde_json::from_slice::<Response>(&answer)? {
        Response::Done(_) => Ok(()),
        Response::Failed(why) => Err(io::Error::other(why)),
    }
}
