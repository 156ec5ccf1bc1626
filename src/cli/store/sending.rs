//! A broker's side of a backup: a thread that reads the store, and hands on what it reads.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::admin::control::{Part, Reply, Response};
use crate::cli::count;
use crate::store::{Snapshot, Store};

/// Parts that wait to be sent, and about how many bytes each has: what a backup takes of memory.
const PARTS_MAX: usize = 8;
const PART_BYTES: usize = 64 * 1024;

/// Hands out one backup at a time: each keeps what is removed meanwhile on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Backups(Arc<Semaphore>);

impl Backups {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Begins to send all that the store holds now.
    pub(crate) async fn begin(&self, store: Option<Arc<Store>>) -> Reply {
        let failed = |why: &str| Response::Failed(why.to_owned()).into();
        let Some(store) = store else {
            return failed("there is no store: store.durability is \"memory\"");
        };
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            return failed("a backup is being made; try again when it is done");
        };
        // It may have to read from the disk.
        let snapshot = match tokio::task::spawn_blocking(move || store.snapshot()).await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(error)) => return failed(&error.to_string()),
            Err(error) => return failed(&error.to_string()),
        };
        let (parts, receiver) = mpsc::channel(PARTS_MAX);
        let send = move || send(snapshot, parts, permit);
        match std::thread::Builder::new().name("store backup".into()).spawn(send) {
            Ok(_) => Reply::Stream(receiver),
            Err(error) => failed(&format!("a thread for it cannot be started: {error}")),
        }
    }
}

fn send(snapshot: Snapshot, parts: mpsc::Sender<Part>, permit: OwnedSemaphorePermit) {
    let mut out = Parts { parts, bytes: Vec::with_capacity(PART_BYTES) };
    let last = match snapshot.send(&mut out) {
        Ok(manifest) => {
            let records = usize::try_from(manifest.records.all()).unwrap_or(usize::MAX);
            let records = count(records, "record", "records");
            Part::All(format!("{records}, {} bytes, SHA-256 {}", manifest.bytes, manifest.sha256))
        }
        Err(error) => {
            tracing::warn!("a backup came to no end: {error}");
            Part::Failed(error.to_string())
        }
    };
    // Before the caller can ask for another one.
    drop(permit);
    // Whoever has gone does not want to know.
    let _ = out.parts.blocking_send(last);
}

/// Gathers bytes to parts.
struct Parts {
    parts: mpsc::Sender<Part>,
    bytes: Vec<u8>,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > PART_BYTES {
            self.flush()?;
        }
        let taken = bytes.get(..PART_BYTES).unwrap_or(bytes);
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let part = Bytes::from(std::mem::replace(&mut self.bytes, Vec::with_capacity(PART_BYTES)));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more");
        self.parts.blocking_send(Part::Bytes(part)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::mqtt::TopicName;
    use crate::mqtt::packet::Qos;
    use crate::session::{Message, MessageId};
    use crate::store::{Change, Durability, Settings};

    fn open(folder: &std::path::Path) -> Arc<Store> {
        let folder = folder.to_owned();
        let (durability, accept_loss, free_bytes_min) = (Durability::Os, false, Some(1));
        let settings = Settings { folder, durability, accept_loss, free_bytes_min };
        Store::open(&settings, (Instant::now(), SystemTime::now())).unwrap().0
    }

    /// Retains a message, and waits until it is on disk.
    fn retain(store: &Store, topic: &str, bytes: usize) {
        let (topic, payload) = (TopicName::parse(topic).unwrap(), vec![7; bytes].into());
        let (id, qos) = (MessageId(0), Qos::AtLeastOnce);
        let message = Message::new(id, topic, payload, qos, true, None, Instant::now());
        let kind = crate::identity::PrincipalKind::Device;
        let account = crate::identity::Account { kind, name: "d".into() };
        let commit = store.change(Change::Retain(Arc::new(message), Arc::new(account)));
        store.flush();
        while !store.is_committed(commit) {
            std::thread::yield_now();
        }
    }

    fn is_refused(reply: &Reply, what: &str) -> bool {
        matches!(reply, Reply::Answer(Response::Failed(why)) if why.contains(what))
    }

    #[tokio::test]
    async fn one_backup_is_made_at_a_time_and_the_store_goes_on_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        // More than waits for a caller that does not read.
        for number in 0..20 {
            retain(&store, &format!("t/{number}"), PART_BYTES);
        }
        let backups = Backups::new();
        let Reply::Stream(mut parts) = backups.begin(Some(Arc::clone(&store))).await else {
            panic!("no backup");
        };
        assert!(is_refused(&backups.begin(Some(Arc::clone(&store))).await, "is being made"));
        retain(&store, "late", 10);
        let mut bytes = Vec::new();
        let about = loop {
            match parts.recv().await.unwrap() {
                Part::Bytes(part) => bytes.extend_from_slice(&part),
                Part::All(about) => break about,
                Part::Failed(why) => panic!("{why}"),
            }
        };
        // The format, the mark of the last batch, and what was retained before.
        assert!(
            about.starts_with(&format!("22 records, {} bytes, SHA-256 ", bytes.len())),
            "{about}"
        );
        // The next one may be made as soon as the caller knows, or when it has gone.
        for _ in 0..2 {
            let Reply::Stream(parts) = backups.begin(Some(Arc::clone(&store))).await else {
                panic!("no backup");
            };
            drop(parts);
            while backups.0.available_permits() == 0 {
                tokio::task::yield_now().await;
            }
        }
        store.close().unwrap();
        assert!(is_refused(&backups.begin(Some(store)).await, "it is closed"));
        assert!(is_refused(&backups.begin(None).await, "store.durability is \"memory\""));
    }
}
