//! What a store holds, across closing, killing and opening it again.

mod backups;
mod effects;
mod faults;
#[allow(clippy::cast_possible_truncation, reason = "what is tested is small")]
mod folders;
mod keeping;
mod lines;
mod model;
mod records;
mod registered;
#[allow(clippy::cast_possible_truncation, reason = "what is tested is small")]
mod torn;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use smallvec::SmallVec;

use super::*;
use crate::identity::{Account, Identity, PrincipalKind};
use crate::mqtt::packet::{PacketId, Qos};
use crate::mqtt::{ClientId, ProtocolVersion, SubscriptionFilter, TopicName};
use crate::policy::SessionFacts;
use crate::session::{Delivery, Message, Overflow, SubscriptionOptions, Via};

fn seq(number: u64) -> Seq {
    Seq(NonZeroU64::new(number).unwrap())
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

fn filter(text: &str) -> SubscriptionFilter {
    SubscriptionFilter::parse(text).unwrap()
}

fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, no_local: false, retain_as_published: true, id: None }
}

fn record(client_id: &str) -> Box<SessionRecord> {
    let identity = Identity { kind: PrincipalKind::Device, ..Identity::anonymous() };
    Box::new(SessionRecord {
        account: Arc::new(Account::of(&identity, None)),
        identity: Arc::new(identity),
        facts: Arc::new(SessionFacts {
            client_id: ClientId::parse(client_id).unwrap(),
            listener: "main".into(),
            source_ip: [192, 0, 2, 1].into(),
            protocol: ProtocolVersion::V5,
            tls_version: 13,
        }),
        retained: QueueBounds { messages_max: 1, bytes_max: 2 },
        queue: QueueBounds { messages_max: u32::MAX, bytes_max: u64::MAX },
        principal: QueueBounds { messages_max: 3, bytes_max: 4 },
        overflow: Overflow::DropOldest,
        durability: Durability::Fsync,
        expiry_s: u32::MAX,
        parked_at: None,
        will: None,
    })
}

fn message(text: &str, payload: &[u8]) -> Arc<Message> {
    let now = Instant::now();
    let (id, qos) = (MessageId(0), Qos::AtLeastOnce);
    Arc::new(Message::new(id, topic(text), payload.into(), qos, false, None, now))
}

fn delivery(number: u64, message: &Arc<Message>) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        via: Arc::new(Via { subscriptions: SmallVec::new(), ids: SmallVec::new() }),
        qos: Qos::AtLeastOnce,
        retain: false,
        wide: false,
        seq: Some(seq(number)),
    }
}

fn enqueue(session: SessionNo, number: u64) -> Change {
    let payload = format!("{} {number}", session.0);
    Change::Enqueue(session, delivery(number, &message("a/b", payload.as_bytes())))
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        durability: Durability::Os,
        accept_loss: false,
        free_bytes_min: Some(1),
    }
}

/// Opens a store, and accepts the loss of what cannot be read.
fn open_lossy(folder: &Path) -> (Arc<Store>, Recovered) {
    let settings = Settings { accept_loss: true, ..settings(folder) };
    Store::open(&settings, (Instant::now(), SystemTime::now())).unwrap()
}

/// The engine in a store's folder.
fn engine(folder: &Path) -> engine::Engine {
    engine::Engine::open(&folder.join("data")).unwrap()
}

fn try_open(folder: &Path) -> Result<(Arc<Store>, Recovered), StoreError> {
    Store::open(&settings(folder), (Instant::now(), SystemTime::now()))
}

fn open(folder: &Path) -> (Arc<Store>, Recovered) {
    try_open(folder).unwrap()
}

/// Writes changes in one batch, though the writer may be looking for more just now, and waits for
/// it.
fn commit(store: &Store, changes: impl IntoIterator<Item = Change>) {
    let together = store.together();
    let commit = changes.into_iter().map(|change| store.change(change)).last().unwrap();
    drop(together);
    store.flush();
    store.shared.inbox.wait(commit).unwrap();
    assert!(store.is_committed(commit));
}

/// A new session with nothing.
fn begin(store: &Store, client_id: &str) -> SessionNo {
    let number = store.next_session();
    commit(store, [Change::Session(number, record(client_id))]);
    number
}

fn try_read(
    store: &Store,
    session: SessionNo,
    from: u64,
    most: (usize, u64),
) -> Result<Page, StoreError> {
    let (done, page) = mpsc::channel();
    store.read(session, seq(from), Commit(0), most, move |read| done.send(read).unwrap());
    page.recv().unwrap()
}

/// The numbers and payloads of a whole queue.
fn queue(store: &Store, session: SessionNo) -> Vec<(u64, String)> {
    let page = try_read(store, session, 1, (usize::MAX, u64::MAX)).unwrap();
    page.deliveries.iter().map(number_and_payload).collect()
}

fn number_and_payload(delivery: &Delivery) -> (u64, String) {
    let payload = String::from_utf8_lossy(&delivery.message.payload).into_owned();
    (delivery.seq.unwrap().0.get(), payload)
}

fn numbers(store: &Store, session: SessionNo) -> Vec<u64> {
    queue(store, session).into_iter().map(|(number, _)| number).collect()
}

/// The folder as a crash would leave it now.
fn crash_image(folder: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let image = tempfile::tempdir().unwrap();
    copy(folder, image.path());
    image
}

/// How many records there are of a kind.
fn count(folder: &Path, keyspace: &str) -> usize {
    let database = fjall::Database::builder(folder.join("data")).open().unwrap();
    let keyspace = database.keyspace(keyspace, fjall::KeyspaceCreateOptions::default).unwrap();
    keyspace.iter().map(|found| found.key().unwrap()).filter(|key| !key.starts_with(b"m")).count()
}
