//! OCSP: whether the certificates of clients are revoked is asked of responders, when a client
//! connects and again for as long as it is connected.
//!
//! What was answered is kept for each certificate, and asked once for all who wait for it. Answers
//! are read and verified by [`crate::identity::revocation::ocsp`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::breaker::Breaker;
use super::fetch;
use super::tls_config::TlsSetup;
use crate::audit::{Event, Kind};
use crate::broker::{Broker, Now};
use crate::gates::records::RecordLimit;
use crate::identity::revocation::ocsp::{
    ANSWER_BYTES_MAX, Answer, CertificateStatus, OcspError, Question,
};
use crate::identity::revocation::{CertificateId, is_allowed};

/// Requests under way at a time.
const REQUESTS_MAX: usize = 64;
/// Of these, about clients that are connected: those that come are not to wait behind them.
const RENEWALS_MAX: usize = 32;
/// How soon it is asked again when there was no answer that counts.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked what is to be asked again.
const LOOK: Duration = Duration::from_secs(1);
const MEDIA_TYPE: &str = "application/ocsp-request";

/// Whether and how responders are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of a client where there is no answer that counts.
    pub without_answer: WithoutAnswer,
    /// The URLs of responders that may be asked; below one that ends with a slash, all. A
    /// certificate that names none of them is asked about at the first.
    pub responders: Vec<String>,
    /// How often it is asked about one certificate.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What becomes of a client about whose certificate there is no answer that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutAnswer {
    /// It is refused (`hard`).
    Refuse,
    /// It is let in (`soft`).
    Admit,
}

/// Why a certificate is not, or not any more, held for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotGood {
    #[error("the client's certificate is revoked, says its OCSP responder")]
    Revoked,
    #[error("whether the client's certificate is revoked is unknown: {0}")]
    Unknown(Arc<str>),
}

/// Asks, and keeps what was answered.
#[derive(Debug)]
pub(super) struct Ocsp {
    settings: Settings,
    broker: Arc<Broker>,
    /// One for each of the responders that are named.
    breakers: Box<[Breaker]>,
    requests: Semaphore,
    table: Mutex<Table>,
    /// Somebody may be connected who may not be any more.
    unwelcome: Notify,
    /// Failures of responders that are recorded. Who is refused for one is recorded by himself.
    failures: RecordLimit,
}

#[derive(Debug, Default)]
struct Table {
    statuses: HashMap<CertificateId, Arc<Status>>,
    /// When to look at each of them; at that time or earlier than it has to be asked about again.
    agenda: BTreeSet<(Instant, CertificateId)>,
}

/// What is known of one certificate.
#[derive(Debug)]
pub(super) struct Status {
    question: Question,
    without_answer: WithoutAnswer,
    known: Mutex<Known>,
    /// Held by whoever asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    answer: Option<Answer>,
    /// Why there is no newer one.
    why: Arc<str>,
    ask_at: Instant,
    /// Somebody was let in by it, and may be connected.
    is_relied_on: bool,
}

impl Known {
    fn judge(&self, without_answer: WithoutAnswer, now_unix_s: i64) -> Result<(), NotGood> {
        match &self.answer {
            Some(Answer { status: CertificateStatus::Revoked, .. }) => Err(NotGood::Revoked),
            Some(Answer { until_unix_s, .. }) if now_unix_s <= *until_unix_s => Ok(()),
            _ if without_answer == WithoutAnswer::Admit => Ok(()),
            _ => Err(NotGood::Unknown(Arc::clone(&self.why))),
        }
    }
}

impl Status {
    /// Whether a client with the certificate may be here, by what was answered last.
    pub(super) fn judge(&self, now_unix_s: i64) -> Result<(), NotGood> {
        self.known.lock().judge(self.without_answer, now_unix_s)
    }

    /// As [`Self::judge`], for a client that is let in by it.
    fn rely_on(&self, now_unix_s: i64) -> Result<(), NotGood> {
        let mut known = self.known.lock();
        let judged = known.judge(self.without_answer, now_unix_s);
        known.is_relied_on |= judged.is_ok();
        judged
    }

    fn is_due(&self, now: Instant) -> bool {
        self.known.lock().ask_at <= now
    }
}

impl Ocsp {
    pub(super) fn new(settings: Settings, broker: &Arc<Broker>) -> Self {
        let breakers = settings.responders.iter().map(|_| Breaker::default()).collect();
        Self {
            settings,
            broker: Arc::clone(broker),
            breakers,
            requests: Semaphore::new(REQUESTS_MAX),
            table: Mutex::default(),
            unwelcome: Notify::new(),
            failures: RecordLimit::per_second(1),
        }
    }

    /// What is known of the first certificate of a verified chain. It stays known for as long as
    /// somebody holds the value.
    pub(super) fn status_of(
        &self,
        id: CertificateId,
        chain: &[CertificateDer<'_>],
        setup: &TlsSetup,
        now: Instant,
    ) -> Result<Arc<Status>, OcspError> {
        if let Some(status) = self.table.lock().statuses.get(&id) {
            return Ok(Arc::clone(status));
        }
        let question = Question::about(chain, &setup.trusted_issuers)?;
        let status = Arc::new(Status {
            question,
            without_answer: self.settings.without_answer,
            known: Mutex::new(Known {
                answer: None,
                why: "nobody has answered yet".into(),
                ask_at: now,
                is_relied_on: false,
            }),
            asking: tokio::sync::Mutex::default(),
        });
        let mut table = self.table.lock();
        let kept = Arc::clone(table.statuses.entry(id).or_insert(status));
        table.agenda.insert((now, id));
        Ok(kept)
    }

    /// Asks, where it is time to, and judges by the answer.
    pub(super) async fn check(self: &Arc<Self>, status: &Arc<Status>) -> Result<(), NotGood> {
        if status.is_due(Instant::now()) {
            // By a task of its own: an answer that comes too late for this client is not lost, and
            // that a responder is slow is learnt.
            let (ocsp, asked) = (Arc::clone(self), Arc::clone(status));
            let _ = tokio::spawn(async move { ocsp.ask(&asked).await }).await;
        }
        status.rely_on(unix_s(Now::read()))
    }

    /// Asks, unless somebody has done so a while ago. Whoever was let in by an earlier answer and may
    /// not be here by this one is put out.
    async fn ask(&self, status: &Status) {
        let _one_at_a_time = status.asking.lock().await;
        if !status.is_due(Instant::now()) {
            return;
        }
        let asked = self.ask_now(status).await;
        let now = Now::read();
        let mut known = status.known.lock();
        let asked = asked.and_then(|answer| match &known.answer {
            // Somebody may want what was said since to be forgotten.
            Some(before) if before.this_update_unix_s > answer.this_update_unix_s => {
                Err("the answer is older than the one before".to_owned())
            }
            _ => Ok(answer),
        });
        let failed = match asked {
            Ok(answer) => {
                known.ask_at = now.instant + self.rest(&status.question, &answer, unix_s(now));
                known.answer = Some(answer);
                known.why = "the answer has expired".into();
                None
            }
            Err(why) => {
                known.why = why.as_str().into();
                known.ask_at = now.instant + RETRY;
                Some(why)
            }
        };
        if known.is_relied_on && known.judge(status.without_answer, unix_s(now)).is_err() {
            known.is_relied_on = false;
            self.unwelcome.notify_one();
        }
        drop(known);
        if let Some(why) = failed {
            self.say_failed(why, now);
        }
    }

    async fn ask_now(&self, status: &Status) -> Result<Answer, String> {
        let (at, url) = self.responder(&status.question);
        let breaker = self.breakers.get(at).ok_or("no responder is named")?;
        let about = |why: &dyn std::fmt::Display| format!("{url}: {why}");
        let request = status.question.request().map_err(|error| about(&error))?;
        let latest = tokio::time::Instant::now() + self.settings.timeout;
        let place = tokio::time::timeout_at(latest, self.requests.acquire()).await;
        let busy = || about(&"as many requests are under way as may be");
        let _place = place.map_err(|_| busy())?.map_err(|_| busy())?;
        if !breaker.may_ask(Instant::now()) {
            return Err(about(&"the responder has failed and is left alone"));
        }
        let left = latest.saturating_duration_since(tokio::time::Instant::now());
        let answer = fetch::post(url, (MEDIA_TYPE, request), ANSWER_BYTES_MAX, left).await;
        let answer = answer.map_err(|why| {
            breaker.failed(Instant::now());
            about(&why)
        })?;
        breaker.answered();
        let in_force = self.broker.revocations.load();
        let judged = status.question.judge(&answer, &in_force, unix_s(Now::read()));
        judged.map_err(|error| about(&error))
    }

    /// Whom to ask, by the place among those that are named, and where.
    fn responder<'a>(&'a self, question: &'a Question) -> (usize, &'a str) {
        let named = &self.settings.responders;
        let allowed = question.urls.iter().find_map(|url| {
            let at = named.iter().position(|it| is_allowed(std::slice::from_ref(it), url))?;
            Some((at, &**url))
        });
        allowed.unwrap_or((0, named.first().map_or("", String::as_str)))
    }

    /// How long to wait after an answer: until half of its time is over at most, and not the same
    /// time for all, so that they are not asked about in one moment for ever.
    fn rest(&self, question: &Question, answer: &Answer, now_unix_s: i64) -> Duration {
        let spread = u32::from(question.id.serial.last_byte()) + 3 * 256;
        let every = self.settings.every.mul_f64(f64::from(spread) / 1024.0);
        match answer.status {
            CertificateStatus::Revoked => every,
            CertificateStatus::Good => {
                let left = u64::try_from(answer.until_unix_s - now_unix_s).unwrap_or(0);
                every.min(Duration::from_secs(left / 2)).max(LOOK)
            }
        }
    }

    fn say_failed(&self, why: String, now: Now) {
        if self.failures.may_record(now.instant) {
            warn!("OCSP: {why}");
            self.broker.audit.record(Event::broker(Kind::RevocationFailed { why: why.into() }));
        }
    }

    /// Asks again about the certificates of those that are connected, and puts out who may not be
    /// here any more; forgets the others. Runs for as long as it is polled.
    pub(super) async fn keep(self: Arc<Self>) {
        tokio::join!(self.renew_all(), self.put_out());
    }

    async fn renew_all(self: &Arc<Self>) {
        let mut renewals = JoinSet::new();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while let Some(status) = self.next_due(Instant::now()) {
                if renewals.len() >= RENEWALS_MAX {
                    renewals.join_next().await;
                }
                let ocsp = Arc::clone(self);
                renewals.spawn(async move { ocsp.renew(&status).await });
            }
            while renewals.try_join_next().is_some() {}
        }
    }

    /// Has every connection look at what it stands on, once a second at most.
    async fn put_out(&self) {
        loop {
            self.unwelcome.notified().await;
            self.broker.rouse_all();
            // Waking everybody costs, and what comes meanwhile is told by one more time.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes the next status that is to be looked at from the agenda; who has no client any more is
    /// forgotten.
    fn next_due(&self, now: Instant) -> Option<Arc<Status>> {
        let mut table = self.table.lock();
        loop {
            let first = *table.agenda.first()?;
            let (at, id) = first;
            if at > now {
                return None;
            }
            table.agenda.remove(&first);
            let Some(status) = table.statuses.get(&id).cloned() else { continue };
            let (ask_at, is_revoked) = {
                let known = status.known.lock();
                let is_revoked = |it: &Answer| it.status == CertificateStatus::Revoked;
                (known.ask_at, known.answer.as_ref().is_some_and(is_revoked))
            };
            if ask_at > now {
                table.agenda.insert((ask_at, id));
                continue;
            }
            // Whatever becomes of it, it is looked at again.
            table.agenda.insert((now + RETRY, id));
            // The table's own, and the one here.
            if Arc::strong_count(&status) <= 2 {
                // That it was revoked is kept: an older answer must not undo it.
                if !is_revoked {
                    table.statuses.remove(&id);
                }
                continue;
            }
            return Some(status);
        }
    }

    async fn renew(&self, status: &Status) {
        self.ask(status).await;
        let ask_at = status.known.lock().ask_at;
        self.table.lock().agenda.insert((ask_at, status.question.id));
    }
}

fn unix_s(now: Now) -> i64 {
    let since = now.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
