//! The control socket: a few commands for the operator on the same machine.
//!
//! One connection is one call: a line of JSON each way. The socket has mode 0600 and lies in a
//! folder of mode 0700, unless other users are named who may call; whoever calls, the kernel tells
//! who it is, and that decides. A caller names a command, and a
//! question where it asks one, but never a file: what is reloaded are the files the broker was
//! started with. Where the answer is a backup, its bytes follow the line: whoever called writes
//! them, with his own rights.

mod place;
mod question;

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use place::{check, prepare};
pub use question::{SessionAnswer, SessionQuestion};

use self::place::Modes;
use super::registered::{BanRequest, DeviceRequest};
use crate::audit::event::Outcome;
use crate::audit::{AuditLog, Event, Kind};
use crate::gates::records::RecordLimit;
use crate::metrics::Metrics;
use crate::server::accept::Trouble;

/// Bytes of a request, its line feed included.
pub const REQUEST_BYTES_MAX: u64 = 4 * 1024;

/// Calls at a time; more wait in the kernel's queue.
const CALLS_MAX: usize = 4;
/// Of these, by users that may say one thing; beyond that they are refused and do not wait.
const AUTHORITY_CALLS_MAX: usize = 1;
/// Calls of such users: each may look at every list, and leaves a record.
const AUTHORITY_CALLS_PER_SECOND: u32 = 4;
/// Bytes of what such a call is about: all of it goes to the audit log.
pub(crate) const ABOUT_BYTES_MAX: usize = 256;
/// Beyond that, calls that were turned away unheard are counted.
const TURNED_AWAY_RECORDED_PER_SECOND: u32 = 10;
/// For reading a request, and again for writing the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// For writing a part of what follows an answer: the caller may have to wait for its disk.
const PART_DEADLINE: Duration = Duration::from_secs(30);
/// What is removed from the store while a backup is read stays on the disk: whoever reads has to take
/// so many bytes a second, on average from some time on.
const PACE_BYTES: u64 = 4 * 1024 * 1024;
const PACE_FROM: Duration = Duration::from_secs(30);

/// Where the control socket is, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The path of the socket. Its folder is made if there is none.
    pub path: PathBuf,
    /// User ids that may give every command, besides the broker's own.
    pub uids: Vec<u32>,
    /// User ids that may say that certificates were issued or revoked, and nothing else: that of
    /// `pki serve`.
    pub authority_uids: Vec<u32>,
}

/// What somebody may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    All,
    /// That certificates were issued or revoked.
    Revocations,
}

impl Settings {
    /// What a user may say; `None`: nothing.
    fn rights(&self, uid: u32, own_uid: u32) -> Option<Rights> {
        if uid == own_uid || self.uids.contains(&uid) {
            Some(Rights::All)
        } else {
            self.authority_uids.contains(&uid).then_some(Rights::Revocations)
        }
    }
}

/// What the broker can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say how you are.
    Status,
    /// Load configuration, policies and certificates again.
    Reload,
    /// Say what the policies in force answer to a question of a session, and why.
    Explain(SessionQuestion),
    /// Send all that the store holds.
    Backup,
    /// Something about bans.
    Ban {
        /// What.
        request: BanRequest,
        /// Who asks, as the kernel says: no caller says so itself.
        uid: Option<u32>,
    },
    /// Something about devices.
    Device {
        /// What.
        request: DeviceRequest,
        /// Who asks, as the kernel says.
        uid: Option<u32>,
    },
    /// Look at the lists of revoked certificates at once: the authority has issued or revoked.
    Revocations {
        /// What happened, for the audit log.
        about: String,
    },
    /// Say what is odd about those who are connected.
    Survey,
}

/// The words of commands, as they are sent and in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Status,
    Reload,
    Explain,
    Backup,
    Ban,
    Device,
    Revocations,
    Survey,
}

impl Command {
    /// The word in requests and in the audit log.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Reload => "reload",
            Self::Explain(_) => "explain",
            Self::Backup => "backup",
            Self::Ban { .. } => "ban",
            Self::Device { .. } => "device",
            Self::Revocations { .. } => "revocations",
            Self::Survey => "survey",
        }
    }

    /// What it is about, for the audit log.
    fn about(&self) -> String {
        match self {
            Self::Status | Self::Reload | Self::Backup | Self::Survey => String::new(),
            Self::Revocations { about } => about.clone(),
            Self::Explain(SessionQuestion { client_id, action, resource, .. }) => {
                format!("{client_id}: {action} {resource}")
            }
            Self::Ban { request, .. } => request.about(),
            Self::Device { request, .. } => request.about(),
        }
    }

    /// The same, of this caller.
    fn asked_by(self, by: Option<u32>) -> Self {
        match self {
            Self::Ban { request, .. } => Self::Ban { request, uid: by },
            Self::Device { request, .. } => Self::Device { request, uid: by },
            other => other,
        }
    }
}

/// A call, as it is sent: `{"verb":"reload"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    verb: Verb,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    question: Option<SessionQuestion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ban: Option<BanRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<DeviceRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<String>,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        let of = |verb| Self { verb, question: None, ban: None, device: None, about: None };
        match command {
            Command::Status => of(Verb::Status),
            Command::Reload => of(Verb::Reload),
            Command::Backup => of(Verb::Backup),
            Command::Survey => of(Verb::Survey),
            Command::Explain(question) => Self { question: Some(question), ..of(Verb::Explain) },
            Command::Ban { request, .. } => Self { ban: Some(request), ..of(Verb::Ban) },
            Command::Device { request, .. } => Self { device: Some(request), ..of(Verb::Device) },
            Command::Revocations { about } => Self { about: Some(about), ..of(Verb::Revocations) },
        }
    }
}

impl TryFrom<Request> for Command {
    type Error = io::Error;

    fn try_from(request: Request) -> io::Result<Self> {
        let Request { verb, question, ban, device, about } = request;
        if about.is_some() && verb != Verb::Revocations {
            return Err(invalid("only revocations has what it is about"));
        }
        if about.as_ref().is_some_and(|about| about.len() > ABOUT_BYTES_MAX) {
            return Err(invalid(&format!(
                "what it is about is longer than {ABOUT_BYTES_MAX} bytes"
            )));
        }
        match (verb, question, ban, device) {
            (Verb::Status, None, None, None) => Ok(Self::Status),
            (Verb::Reload, None, None, None) => Ok(Self::Reload),
            (Verb::Backup, None, None, None) => Ok(Self::Backup),
            (Verb::Survey, None, None, None) => Ok(Self::Survey),
            (Verb::Revocations, None, None, None) => {
                Ok(Self::Revocations { about: about.unwrap_or_default() })
            }
            (Verb::Explain, Some(question), None, None) => Ok(Self::Explain(question)),
            (Verb::Explain, None, ..) => Err(invalid("there is no question to explain")),
            (Verb::Ban, None, Some(request), None) => Ok(Self::Ban { request, uid: None }),
            (Verb::Device, None, None, Some(request)) => Ok(Self::Device { request, uid: None }),
            (Verb::Ban | Verb::Device, None, None, None) => {
                Err(invalid("it does not say what to do"))
            }
            (_, Some(_), ..) => Err(invalid("only explain has a question")),
            _ => Err(invalid("only ban and device have a request of this name")),
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The answer, as it is sent: `{"done":…}` or `{"failed":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The command was carried out, with this result.
    Done(serde_json::Value),
    /// It was not, for this reason; nothing has changed.
    Failed(String),
}

/// What a caller gets.
#[derive(Debug)]
pub enum Reply {
    /// An answer.
    Answer(Response),
    /// The answer `{"done":null}`, and the bytes that these parts are.
    Stream(mpsc::Receiver<Part>),
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Answer(response)
    }
}

/// A part of what follows an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes to send.
    Bytes(Bytes),
    /// All is sent: what it was, for the audit log.
    All(String),
    /// No more comes, for this reason.
    Failed(String),
}

type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// What carries out the commands.
#[derive(Clone)]
pub struct ControlHandle(Arc<dyn Fn(Command) -> Answer + Send + Sync>);

impl ControlHandle {
    /// Commands are carried out by this function. Two reloads never run at a time, and none is
    /// broken off because its caller went away.
    pub fn new<F, A, R>(carry_out: F) -> Self
    where
        F: Fn(Command) -> A + Send + Sync + 'static,
        A: Future<Output = R> + Send + 'static,
        R: Into<Reply>,
    {
        Self(Arc::new(move |command| {
            let answer = carry_out(command);
            Box::pin(async { answer.await.into() })
        }))
    }
}

impl fmt::Debug for ControlHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlHandle").finish_non_exhaustive()
    }
}

/// The control socket, bound and not serving yet. Dropping it removes the file.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    own_uid: u32,
    settings: Settings,
    /// Held by a caller that may say one thing: it must not keep an operator waiting.
    authority: Semaphore,
    /// Calls of such callers that are heard.
    heard: RecordLimit,
    /// Calls that were turned away and are recorded.
    turned_away: RecordLimit,
    /// For reading a request, and again for writing the answer.
    deadline: Duration,
    /// For writing a part of what follows an answer.
    part_deadline: Duration,
    /// From when on the pace counts.
    pace_from: Duration,
    handle: ControlHandle,
    reload: Mutex<()>,
    audit: AuditLog,
}

impl Control {
    /// Binds the socket. One that a dead broker left behind is replaced.
    ///
    /// # Errors
    /// When the folder is not the broker's own or others may enter it, when another broker
    /// listens there, when the path is something else than a socket, or the system refuses.
    pub fn bind(settings: Settings, handle: ControlHandle, audit: AuditLog) -> io::Result<Self> {
        let own_uid = rustix::process::geteuid().as_raw();
        let modes = Modes::of(&settings, own_uid);
        place::prepare(&settings)?;
        place::remove_stale(&settings.path)?;
        let listener = UnixListener::bind(&settings.path)?;
        fs::set_permissions(&settings.path, Permissions::from_mode(modes.socket))?;
        let shared = Shared {
            own_uid,
            settings,
            authority: Semaphore::new(AUTHORITY_CALLS_MAX),
            heard: RecordLimit::per_second(AUTHORITY_CALLS_PER_SECOND),
            turned_away: RecordLimit::per_second(TURNED_AWAY_RECORDED_PER_SECOND),
            deadline: DEADLINE,
            part_deadline: PART_DEADLINE,
            pace_from: PACE_FROM,
            handle,
            reload: Mutex::new(()),
            audit,
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Serves until the future is dropped; calls end with it.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let mut calls = JoinSet::new();
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if calls.len() < CALLS_MAX => match accepted {
                    Ok((stream, _)) => {
                        trouble.ends();
                        let shared = Arc::clone(&self.shared);
                        calls.spawn(async move { shared.call(stream).await });
                    }
                    Err(error) => trouble.bear("control.socket", &error).await,
                },
                Some(ended) = calls.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        metrics.panics.inc();
                        let message = error.to_string().into();
                        let kind = Kind::TaskPanicked { task: "control", message };
                        self.shared.audit.record(Event::broker(kind));
                    }
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nothing depends on it: what stays behind is replaced at the next start.
        let _ = fs::remove_file(&self.shared.settings.path);
    }
}

impl Shared {
    async fn call(&self, mut stream: UnixStream) {
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        let rights = uid.and_then(|uid| self.settings.rights(uid, self.own_uid));
        let Some(rights) = rights else {
            let why = "this user may not control the broker";
            return self.turn_away(&mut stream, uid, why).await;
        };
        let place = match rights {
            Rights::All => None,
            // Whoever waited here would hold one of the places that operators need.
            Rights::Revocations => match self.authority.try_acquire() {
                Err(_) => {
                    let why = "another call of this kind is not answered yet: one call at a time";
                    return self.turn_away(&mut stream, uid, why).await;
                }
                Ok(_) if !self.heard.may_record(std::time::Instant::now()) => {
                    let why =
                        &format!("this user may call {AUTHORITY_CALLS_PER_SECOND} times a second");
                    return self.turn_away(&mut stream, uid, why).await;
                }
                Ok(place) => Some(place),
            },
        };
        let (command, reply) = match self.read_request(&mut stream).await {
            Ok(command) => {
                let command = command.asked_by(uid);
                let is_within =
                    rights == Rights::All || matches!(command, Command::Revocations { .. });
                let reply = if is_within {
                    self.carry_out(command.clone()).await
                } else {
                    let why = "this user may only say that certificates were issued or revoked";
                    Response::Failed(why.to_owned()).into()
                };
                (Some(command), reply)
            }
            Err(error) => (None, Response::Failed(error.to_string()).into()),
        };
        let response = match reply {
            Reply::Answer(response) => response,
            Reply::Stream(parts) => {
                // It is on record before the first byte leaves, and again when it ended.
                self.record(uid, command.as_ref(), "begins", Ok(()));
                let ended = self.send(&mut stream, parts).await;
                let about = ended.as_deref().unwrap_or_default();
                self.record(uid, command.as_ref(), about, ended.as_ref().map(drop));
                return;
            }
        };
        let about = command.as_ref().map(Command::about).unwrap_or_default();
        let outcome = match &response {
            Response::Done(_) => Ok(()),
            Response::Failed(why) => Err(why),
        };
        self.record(uid, command.as_ref(), &about, outcome);
        // Whoever has the answer may call again.
        drop(place);
        if let Err(error) = self.write_response(&mut stream, &response).await {
            tracing::debug!(%error, "a caller of the control socket did not take its answer");
        }
    }

    /// Who may say nothing, or not so much, is not listened to. Anybody on the machine may try.
    async fn turn_away(&self, stream: &mut UnixStream, uid: Option<u32>, why: &str) {
        let why = why.to_owned();
        if self.turned_away.may_record(std::time::Instant::now()) {
            self.record(uid, None, "", Err(&why));
        } else {
            self.audit.leave_out();
        }
        if let Err(error) = self.write_response(stream, &Response::Failed(why)).await {
            tracing::debug!(%error, "a caller that was turned away did not take its answer");
        }
    }

    async fn carry_out(&self, command: Command) -> Reply {
        let _one_at_a_time = match command {
            Command::Reload => Some(self.reload.lock().await),
            _ => None,
        };
        (self.handle.0)(command).await
    }

    /// Sends what follows an answer. Says what it was, or why not all of it was sent.
    async fn send(
        &self,
        stream: &mut UnixStream,
        mut parts: mpsc::Receiver<Part>,
    ) -> Result<String, String> {
        let lost = |error: io::Error| format!("the caller did not take it: {error}");
        let mut line = serde_json::to_vec(&Response::Done(serde_json::Value::Null))
            .map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.write(stream, &line).await.map_err(lost)?;
        let (began, mut sent) = (Instant::now(), 0_u64);
        loop {
            match parts.recv().await {
                Some(Part::Bytes(bytes)) => {
                    self.write(stream, &bytes).await.map_err(lost)?;
                    sent += bytes.len() as u64;
                    let elapsed = began.elapsed();
                    let due = u128::from(PACE_BYTES) * elapsed.as_micros() / 1_000_000;
                    if elapsed >= self.pace_from && u128::from(sent) < due {
                        return Err(
                            "the caller takes less than 4 MiB a second, and what is removed \
                                    meanwhile cannot go: write it to a faster place"
                                .to_owned(),
                        );
                    }
                }
                Some(Part::All(what)) => {
                    return stream.shutdown().await.map_err(lost).map(|()| what);
                }
                Some(Part::Failed(why)) => return Err(why),
                None => return Err("whoever made it has ended".to_owned()),
            }
        }
    }

    async fn write(&self, stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
        timeout(self.part_deadline, stream.write_all(bytes))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn record(
        &self,
        uid: Option<u32>,
        command: Option<&Command>,
        about: &str,
        ended: Result<(), &String>,
    ) {
        let (outcome, why) = match ended {
            Ok(()) => (Outcome::Done, String::new()),
            Err(why) => (Outcome::Failed, why.clone()),
        };
        let verb = command.map(Command::as_str);
        let about = about.to_owned().into();
        let call = Kind::ControlCall { uid, verb, about, outcome, why: why.into() };
        self.audit.record(Event::broker(call));
    }

    async fn read_request(&self, stream: &mut UnixStream) -> io::Result<Command> {
        let mut line = Vec::new();
        let mut limited = BufReader::new(stream.take(REQUEST_BYTES_MAX));
        timeout(self.deadline, limited.read_until(b'\n', &mut line))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the request took too long"))??;
        if line.pop() != Some(b'\n') {
            return Err(invalid(&format!(
                "a request is one line of at most {REQUEST_BYTES_MAX} bytes"
            )));
        }
        serde_json::from_slice::<Request>(&line)?.try_into()
    }

    async fn write_response(&self, stream: &mut UnixStream, response: &Response) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        let written = async {
            stream.write_all(&line).await?;
            stream.shutdown().await
        };
        timeout(self.deadline, written)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

#[cfg(test)]
mod tests;
