//! What is looked after all the time: that another authority is taken up after `ca rotate`, that the
//! lists of revoked certificates are renewed in time, and that what is served is what there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;

use super::authority::Authority;
use super::lists::{self, Lists};
use crate::audit::{AuditLog, Event};
use crate::pki::changes::{Changes, Marks, RETRY};
use crate::pki::inventory::Role;
use crate::pki::{Ca, Published};

/// How often it is looked: a revocation is to be published within a second or two.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether a list is due to be renewed, and how soon that is tried again.
const RENEW: Duration = Duration::from_mins(1);
/// How long before the end of a root's list somebody is told, every day.
const ROOT_WARNED: time::Duration = time::Duration::days(60);
const TOLD_AGAIN: Duration = Duration::from_hours(24);

/// Looks after the lists of one authority. Each look says what time it is.
pub(super) struct Upkeep {
    authority: Arc<Authority>,
    lists: Arc<Lists>,
    audit: AuditLog,
    /// How long lists are good for that are written here.
    validity: Duration,
    changes: Changes<Marks>,
    /// Who signed the lists that are published, their numbers and their ends.
    known: Vec<Known>,
    renewed_at: Option<Instant>,
    /// When it failed to see that this is the present authority, or to take that up.
    unknown_at: Option<Instant>,
    told_at: Option<Instant>,
}

struct Known {
    issuer: String,
    name: String,
    role: Role,
    is_current: bool,
    /// `None`: it is not in all files.
    number: Option<u64>,
    next_update: OffsetDateTime,
}

impl From<&Published> for Known {
    fn from(list: &Published) -> Self {
        Self {
            issuer: list.issuer.clone(),
            name: list.name.clone(),
            role: list.role,
            is_current: list.is_current,
            number: list.is_in_all.then_some(list.number),
            next_update: list.next_update,
        }
    }
}

impl Upkeep {
    pub(super) fn new(
        authority: Arc<Authority>,
        lists: Arc<Lists>,
        audit: AuditLog,
        validity: Duration,
    ) -> Self {
        Self {
            authority,
            lists,
            audit,
            validity,
            changes: Changes::default(),
            known: Vec::new(),
            renewed_at: None,
            unknown_at: None,
            told_at: None,
        }
    }

    /// Looks again and again, until the future is dropped.
    pub(super) async fn keep_looking(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Of a thread that may wait for the disk.
            self =
                self.looked(|upkeep| upkeep.look(OffsetDateTime::now_utc(), Instant::now())).await;
        }
    }

    /// What there is after a look. After a panic it is begun anew, from nothing.
    async fn looked(self, look: impl FnOnce(&mut Self) + Send + 'static) -> Self {
        let (authority, lists) = (Arc::clone(&self.authority), Arc::clone(&self.lists));
        let (audit, validity) = (self.audit.clone(), self.validity);
        let looked = tokio::task::spawn_blocking(move || {
            let mut upkeep = self;
            look(&mut upkeep);
            upkeep
        });
        looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a look at the lists of revoked certificates failed; begun anew");
            Self::new(authority, lists, audit, validity)
        })
    }

    /// Looks once; what is wrong goes to the log, and is tried again.
    pub(super) fn look(&mut self, now: OffsetDateTime, instant: Instant) {
        self.publish(instant);
        let is_due = |at: Option<Instant>, every| {
            at.is_none_or(|at| instant.saturating_duration_since(at) >= every)
        };
        if is_due(self.renewed_at, RENEW) {
            self.renewed_at = Some(instant);
            if self.renew(now) {
                self.publish(instant);
            }
        } else if is_due(self.unknown_at, RETRY) {
            // Another authority may be in place, whose key needs its passphrase derived.
            self.unknown_at = self.authority.work(Ca::check_in_place).err().map(|error| {
                tracing::warn!(%error, "the present authority cannot be used");
                instant
            });
        }
        if is_due(self.told_at, TOLD_AGAIN) {
            let ending = self.ending(now);
            for told in &ending {
                tracing::warn!("{told}");
            }
            self.told_at = (!ending.is_empty()).then_some(instant);
        }
    }

    fn publish(&mut self, instant: Instant) {
        let folder = self.authority.folder();
        if !self.changes.are_due(Ca::marks_of_lists(folder), instant) {
            return;
        }
        let (found, all, is_whole) = lists::read(folder);
        if !is_whole {
            self.changes.failed(instant);
        }
        self.known = found.iter().map(Known::from).collect();
        self.lists.publish(found, all);
    }

    /// True when lists were written.
    fn renew(&self, now: OffsetDateTime) -> bool {
        let published = |issuer: &str| {
            self.known.iter().find(|known| known.issuer == issuer).and_then(|known| known.number)
        };
        let renewed = self.authority.work(|ca| ca.renew_crls(self.validity, &published, now));
        match renewed {
            Ok(crls) => {
                for crl in &crls {
                    let (number, authority) = (crl.signed.number, &crl.authority);
                    tracing::info!(number, authority, "a list of revoked certificates is renewed");
                    self.audit.record(Event::broker((&crl.signed).into()));
                }
                !crls.is_empty()
            }
            Err(error) => {
                let every = RETRY.as_secs();
                tracing::error!(%error, "the lists of revoked certificates cannot be renewed; tried again in {every} s");
                false
            }
        }
    }

    /// The lists that end soon, and that are not renewed here: the root's key is elsewhere.
    fn ending(&self, now: OffsetDateTime) -> Vec<String> {
        let roots = self.known.iter().filter(|known| {
            known.role == Role::Root && known.is_current && known.next_update - now < ROOT_WARNED
        });
        roots
            .map(|root| {
                let name = crate::harmless::harmless(&root.name);
                let end = root.next_update.date();
                format!(
                    "the list of revoked certificates of the root {name:?} ends on {end}, and the \
                     root's key is not here: portcullis ca rotate --root"
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::audit;
    use crate::config::EstConfig;
    use crate::identity::revocation;
    use crate::metrics::Metrics;
    use crate::pki::{
        KeySource, KeyType, Layout, NewAuthority, Profile, ProfileName, Protection, Rotation,
        Subject, files, no_passphrase,
    };

    const CONFIG: &str = "[est]\naddress = \"127.0.0.1:0\"\n\
                          [est.tls]\ncertificate = \"s.pem\"\nkey = \"s.key\"\n";
    const DAY: time::Duration = time::Duration::DAY;

    struct Bench {
        folder: TempDir,
        audit: AuditLog,
        upkeep: Upkeep,
        /// How often the authority was opened.
        opened: Arc<AtomicUsize>,
        /// Its passphrase is another by now.
        is_locked: Arc<AtomicBool>,
    }

    fn bench(now: OffsetDateTime) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let new = NewAuthority::unprotected("Plant", Layout::RootAndIssuing);
        let path = |name: &str| folder.path().join(name);
        files::create_private_folder(&path("ca")).unwrap();
        let ca = Ca::create(&path("ca"), &new, now).unwrap();
        let server = Profile::built_in(ProfileName::Server).unwrap();
        let (issued, key) =
            ca.issue(&server, &Subject::named("localhost"), KeyType::P256, now).unwrap();
        let key = key.to_pem(&Protection::None).unwrap();
        let certificate = issued.chain_pem.as_bytes();
        files::write_new_pair((&path("s.key"), key.as_bytes()), (&path("s.pem"), certificate))
            .unwrap();
        let config = EstConfig::from_text("pki.toml", CONFIG, folder.path(), &[]).unwrap();
        let settings = Arc::new(config.est);
        let of = path("ca");
        let (opened, is_locked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, locked) = (Arc::clone(&opened), Arc::clone(&is_locked));
        let open = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            if locked.load(Ordering::Relaxed) {
                no_passphrase(&of)?;
            }
            Ca::open(&of, &mut no_passphrase, OffsetDateTime::now_utc())
        });
        let authority = Authority::new(open, Arc::clone(&settings), revocation::none()).unwrap();
        let log = audit::Settings::at(path("audit.jsonl"));
        let audit = AuditLog::open(&log, Arc::new(Metrics::new())).unwrap();
        let lists = Arc::new(Lists::new(&settings.lists));
        let validity = settings.lists.validity;
        let upkeep = Upkeep::new(Arc::new(authority), lists, audit.clone(), validity);
        Bench { folder, audit, upkeep, opened, is_locked }
    }

    impl Bench {
        /// The numbers of the issuing authority's lists that were written here.
        fn audited(&self) -> Vec<u64> {
            assert!(self.audit.flush(Duration::from_secs(30)));
            let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
            let lines = text.lines().map(|it| serde_json::from_str(it).unwrap());
            let lines = lines.filter(|line: &serde_json::Value| line["event"] == "crl.issued");
            lines.map(|line| line["number"].as_u64().unwrap()).collect()
        }

        /// The number that the inventory has last.
        fn recorded(&self) -> u64 {
            let current = self.upkeep.authority.current();
            let issuer = current.ca.issuer_hash();
            current.ca.contents(|contents| contents.crl(&issuer).unwrap().number).unwrap()
        }

        fn published(&self) -> Option<u64> {
            self.upkeep.known.iter().find(|known| known.role == Role::Issuing)?.number
        }
    }

    #[test]
    fn a_list_is_renewed_in_time_audited_and_published_and_a_failure_is_tried_again() {
        let (now, began) = (OffsetDateTime::now_utc(), Instant::now());
        let mut bench = bench(now);
        bench.upkeep.look(now, began);
        assert_eq!((bench.published(), bench.recorded()), (Some(1), 1));
        let later = now + 16 * DAY;
        bench.upkeep.look(later, began + RENEW);
        assert_eq!((bench.published(), bench.recorded()), (Some(2), 2));
        assert_eq!(bench.audited(), [2]);

        // A folder is in the way of the last file.
        let crls = bench.folder.path().join("ca/crls.pem");
        std::fs::remove_file(&crls).unwrap();
        std::fs::create_dir(&crls).unwrap();
        let later = later + 16 * DAY;
        bench.upkeep.look(later, began + 2 * RENEW);
        assert_eq!(bench.recorded(), 3);
        std::fs::remove_dir(&crls).unwrap();
        bench.upkeep.look(later, began + 2 * RENEW + RENEW / 2);
        assert_eq!(bench.recorded(), 3, "not before its time");
        bench.upkeep.look(later, began + 3 * RENEW);
        assert_eq!((bench.published(), bench.recorded()), (Some(4), 4));
        bench.upkeep.look(later, began + 4 * RENEW);
        assert_eq!(bench.recorded(), 4);
        assert_eq!(bench.audited(), [2, 4]);
    }

    #[tokio::test]
    async fn a_look_that_panics_is_not_the_last() {
        let (now, began) = (OffsetDateTime::now_utc(), Instant::now());
        let Bench { folder: _folder, upkeep, .. } = bench(now);
        let mut upkeep = upkeep.looked(|_| panic!("on purpose")).await;
        assert!(upkeep.known.is_empty());
        upkeep = upkeep.looked(move |upkeep| upkeep.look(now, began)).await;
        assert!(!upkeep.known.is_empty());
    }

    #[test]
    fn the_end_of_the_roots_list_is_told_two_months_before() {
        let (now, began) = (OffsetDateTime::now_utc(), Instant::now());
        let mut bench = bench(now);
        bench.upkeep.look(now, began);
        assert_eq!(bench.upkeep.ending(now), Vec::<String>::new());
        let end = bench.upkeep.known.iter().find(|known| known.role == Role::Root).unwrap();
        let end = end.next_update;
        assert_eq!(bench.upkeep.ending(end - 61 * DAY), Vec::<String>::new());
        let told = bench.upkeep.ending(end - 59 * DAY).remove(0);
        assert!(told.contains("\"Plant Root\"") && told.contains("ca rotate --root"), "{told}");
    }

    #[test]
    fn another_authority_is_taken_up_and_one_that_cannot_be_is_tried_once_a_minute() {
        let (now, began) = (OffsetDateTime::now_utc(), Instant::now());
        let mut bench = bench(now);
        let second = Duration::from_secs(1);
        bench.upkeep.look(now, began);
        bench.upkeep.look(now, began + second);
        let before = bench.upkeep.authority.current().ca.issuer_hash();
        let rotation = Rotation {
            with_root: false,
            is_compromised: false,
            name: None,
            new_root_key: KeySource::New(KeyType::P256),
            key: KeySource::New(KeyType::P256),
            issuing_validity: None,
            root_key: None,
            root_protection: &Protection::None,
            protection: &Protection::None,
        };
        let unlock = &mut |path: &Path, _: bool| no_passphrase(path);
        Ca::rotate(&bench.folder.path().join("ca"), &rotation, unlock, now).unwrap();
        bench.is_locked.store(true, Ordering::Relaxed);
        let opened = |bench: &Bench| bench.opened.load(Ordering::Relaxed);
        assert_eq!(opened(&bench), 1);
        for seconds in 2..30 {
            bench.upkeep.look(now, began + seconds * second);
        }
        assert_eq!(opened(&bench), 2);
        assert_eq!(bench.upkeep.authority.current().ca.issuer_hash(), before);
        bench.is_locked.store(false, Ordering::Relaxed);
        bench.upkeep.look(now, began + RENEW + 2 * second);
        assert_ne!(bench.upkeep.authority.current().ca.issuer_hash(), before);
        assert_eq!(opened(&bench), 3);
    }
}
