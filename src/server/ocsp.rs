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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::breaker::Breaker;
use super::fetch;
use super::tls_config::TlsSetup;
use crate::audit::{Event, Kind};
use crate::broker::{Broker, Now};
use crate::gates::records::RecordLimit;
use crate::identity::revocation::ocsp::{ANSWER_BYTES_MAX, Answer, OcspError, Question};
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
}

impl Status {
    /// Whether a client with the certificate may be here, by what was answered last.
    pub(super) fn judge(&self, now_unix_s: i64) -> Result<(), NotGood> {
        let known = self.known.lock();
        match known.answer {
            Some(Answer::Revoked) => Err(NotGood::Revoked),
            Some(Answer::Good { until_unix_s }) if now_unix_s <= until_unix_s => Ok(()),
            _ if self.without_answer == WithoutAnswer::Admit => Ok(()),
            _ => Err(NotGood::Unknown(Arc::clone(&known.why))),
        }
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
            }),
            asking: tokio::sync::Mutex::default(),
        });
        let mut table = self.table.lock();
        let kept = Arc::clone(table.statuses.entry(id).or_insert(status));
        table.agenda.insert((now, id));
        Ok(kept)
    }

    /// Asks, where it is time to, and judges by the answer.
    pub(super) async fn check(&self, status: &Status) -> Result<(), NotGood> {
        self.ask(status).await;
        status.judge(unix_s(Now::read()))
    }

    /// Asks, unless somebody has done so a while ago.
    async fn ask(&self, status: &Status) {
        if !status.is_due(Instant::now()) {
            return;
        }
        let _one_at_a_time = status.asking.lock().await;
        if !status.is_due(Instant::now()) {
            return;
        }
        let asked = self.ask_now(status).await;
        let now = Now::read();
        let mut known = status.known.lock();
        match asked {
            Ok(answer) => {
                known.answer = Some(answer);
                known.why = "the answer has expired".into();
                known.ask_at = now.instant + self.rest(&status.question, answer, unix_s(now));
            }
            Err(why) => {
                known.why = why.clone().into();
                known.ask_at = now.instant + RETRY;
                drop(known);
                self.say_failed(why, now);
            }
        }
    }

    async fn ask_now(&self, status: &Status) -> Result<Answer, String> {
        let (at, url) = self.responder(&status.question);
        let breaker = self.breakers.get(at).ok_or("no responder is named")?;
        let about = |why: &dyn std::fmt::Display| format!("{url}: {why}");
        let request = status.question.request().map_err(|error| about(&error))?;
        let timeout = self.settings.timeout;
        let place = tokio::time::timeout(timeout, self.requests.acquire()).await;
        let busy = || about(&"as many requests are under way as may be");
        let _place = place.map_err(|_| busy())?.map_err(|_| busy())?;
        if !breaker.may_ask(Instant::now()) {
            return Err(about(&"the responder has failed and is left alone"));
        }
        let answer = fetch::post(url, (MEDIA_TYPE, request), ANSWER_BYTES_MAX, timeout).await;
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
    fn rest(&self, question: &Question, answer: Answer, now_unix_s: i64) -> Duration {
        let spread = u32::from(question.id.serial.last_byte()) + 3 * 256;
        let every = self.settings.every.mul_f64(f64::from(spread) / 1024.0);
        match answer {
            Answer::Revoked => every,
            Answer::Good { until_unix_s } => {
                let left = u64::try_from(until_unix_s - now_unix_s).unwrap_or(0);
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
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut renewals = JoinSet::new();
            let mut is_anyone_out = false;
            while let Some(status) = self.next_due(Instant::now()) {
                if renewals.len() >= RENEWALS_MAX {
                    is_anyone_out |= matches!(renewals.join_next().await, Some(Ok(true)));
                }
                let ocsp = Arc::clone(&self);
                renewals.spawn(async move { ocsp.renew(&status).await });
            }
            while let Some(renewed) = renewals.join_next().await {
                is_anyone_out |= matches!(renewed, Ok(true));
            }
            if is_anyone_out {
                self.broker.rouse_all();
            }
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
            let ask_at = status.known.lock().ask_at;
            if ask_at > now {
                table.agenda.insert((ask_at, id));
                continue;
            }
            // The table's own, and the one here.
            if Arc::strong_count(&status) <= 2 {
                table.statuses.remove(&id);
                continue;
            }
            return Some(status);
        }
    }

    /// True when whoever has the certificate may not be here any more.
    async fn renew(&self, status: &Status) -> bool {
        self.ask(status).await;
        let ask_at = status.known.lock().ask_at;
        self.table.lock().agenda.insert((ask_at, status.question.id));
        status.judge(unix_s(Now::read())).is_err()
    }
}

fn unix_s(now: Now) -> i64 {
    let since = now.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
