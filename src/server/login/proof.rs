//! What a live connection has proven beyond its certificate: how long it counts, and how the
//! client proves it again (MQTT 5.0 section 4.12.1).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::method::Method;
use super::{Attempt, Logins, Step};
use crate::broker::Now;
use crate::gates::grinding;
use crate::identity::method::scram::Exchange;
use crate::identity::method::{Accepted, Offer, Refusal, Verdict};
use crate::mqtt::packet::Auth;
use crate::mqtt::{ReasonCode, UserProperties, Violation};

/// An exchange that waits for the client's answer.
#[derive(Debug)]
pub(in crate::server) struct Pending {
    pub(super) exchange: Exchange,
    pub(super) counted: grinding::Attempt,
}

impl Pending {
    /// Takes the client's answer: who it is, and what proves the broker in turn.
    pub(in crate::server) fn finish(
        self,
        data: &[u8],
        logins: &Logins,
    ) -> Result<(Accepted, Vec<u8>), Refusal> {
        let Self { exchange, counted } = self;
        let (name, proof) =
            exchange.finish(data).map_err(|error| Refusal::Wrong(error.to_string()))?;
        logins.grinding.give_back(counted);
        Ok((Accepted::named(name), proof))
    }
}

/// What a connection has proven by one of the listener's methods.
#[derive(Debug)]
pub(in crate::server) struct Proof {
    logins: Arc<Logins>,
    method: Arc<Method>,
    accepted: Accepted,
    /// The era of the files it rests on.
    era: u64,
    /// When it ends.
    pub(in crate::server) ends_at: Option<Instant>,
    /// The enhanced authentication of CONNECT, the only one that AUTH may name.
    enhanced: Option<Box<str>>,
    pending: Option<Box<Pending>>,
}

/// Why a connection ends by its AUTH packet.
#[derive(Debug)]
pub(in crate::server) enum Ends {
    /// It breaks the specification.
    Violation(Violation),
    /// It proves nothing, or something else.
    Refused(String),
}

/// When something ends, by the clock that only runs forward; `None` never.
fn end_of(accepted: &Accepted, now: Now) -> Option<Instant> {
    let left = accepted.ends?.duration_since(now.wall).unwrap_or(Duration::ZERO);
    // Beyond every clock: the proof has to be given again long before.
    let left = left.min(Duration::from_hours(24 * 366));
    now.instant.checked_add(left)
}

impl Proof {
    pub(in crate::server) fn new(
        logins: &Arc<Logins>,
        method: &Arc<Method>,
        accepted: Accepted,
        enhanced: Option<&str>,
        era: u64,
        now: Now,
    ) -> Self {
        Self {
            logins: Arc::clone(logins),
            method: Arc::clone(method),
            ends_at: end_of(&accepted, now),
            era,
            accepted,
            enhanced: enhanced.map(Into::into),
            pending: None,
        }
    }

    /// Its method.
    pub(in crate::server) fn method(&self) -> &Arc<str> {
        self.method.name()
    }

    /// Why it does not count any more, once the files have changed under it.
    pub(in crate::server) fn withdrawn(&mut self) -> Option<&'static str> {
        let era = self.logins.era.load(Ordering::Acquire);
        if era == self.era {
            return None;
        }
        self.era = era;
        let gone = !self.method.knows(&self.accepted.name);
        gone.then_some("the client's name is not in the file of its method any more")
    }

    /// Takes an AUTH packet of the live connection, and gives the answer. With the last of an
    /// exchange the proof counts anew.
    pub(in crate::server) fn renew(
        &mut self,
        auth: &Auth,
        address: Option<IpAddr>,
        now: Now,
    ) -> Result<Auth, Ends> {
        let violation = |statement, what| Ends::Violation(Violation::protocol(statement, what));
        let Some(enhanced) = &self.enhanced else {
            let what = "AUTH on a connection without an authentication method";
            return Err(violation("MQTT-4.12.0-6", what));
        };
        if auth.method.as_deref() != Some(enhanced) {
            return Err(violation("MQTT-4.12.1-1", "an AUTH of another method than CONNECT"));
        }
        let data = auth.data.as_deref().unwrap_or_default();
        let answer = |reason, data: Option<Vec<u8>>| Auth {
            reason,
            method: Some(enhanced.clone()),
            data: data.map(Into::into),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        let (accepted, proof) = match (auth.reason, self.pending.take()) {
            (ReasonCode::ReAuthenticate, None) => {
                let offer = Offer { username: None, password: None, method: Some(enhanced), data };
                let attempt =
                    Attempt { offer, listener: "", client_id: "", address, now: now.instant };
                match self.method.judge_at_once(&attempt, &self.logins) {
                    Step::Decided(Verdict::Accepted(accepted)) => (accepted, None),
                    Step::Decided(Verdict::Refused(refusal)) => {
                        return Err(Ends::Refused(refusal.to_string()));
                    }
                    Step::Decided(Verdict::NotMyKind) => {
                        return Err(Ends::Refused("the method is not the one of CONNECT".into()));
                    }
                    Step::Challenge(pending, challenge) => {
                        self.pending = Some(pending);
                        return Ok(answer(ReasonCode::ContinueAuthentication, Some(challenge)));
                    }
                }
            }
            (ReasonCode::ContinueAuthentication, Some(pending)) => {
                let finished = pending.finish(data, &self.logins);
                let (accepted, proof) =
                    finished.map_err(|refusal| Ends::Refused(refusal.to_string()))?;
                (accepted, Some(proof))
            }
            _ => return Err(violation("4.12.1", "an AUTH out of its order")),
        };
        // Who is connected stays who it is: with other groups, tags or another name it connects
        // anew, and is judged anew.
        let same = Accepted { ends: None, ..accepted.clone() };
        if same != (Accepted { ends: None, ..self.accepted.clone() }) {
            let why =
                "authenticated again as another name, or with other groups, tags or client id";
            return Err(Ends::Refused(why.to_owned()));
        }
        if accepted.ends.is_some_and(|ends| ends <= SystemTime::now()) {
            return Err(Ends::Refused("the proof has ended already".to_owned()));
        }
        self.ends_at = end_of(&accepted, now);
        self.accepted = accepted;
        Ok(answer(ReasonCode::Success, proof))
    }
}

impl Logins {
    /// The era of the files, to be read before what rests on them is judged.
    pub(in crate::server) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }
}
