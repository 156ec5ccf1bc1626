//! What a connection stands on, for as long as it does; and a client that proves again who it
//! is, while it is connected (MQTT 5.0 section 4.12.1).

use std::sync::Arc;
use std::time::Instant;

use super::{Closing, Connection};
use crate::audit::{Event, Kind};
use crate::broker::Now;
use crate::mqtt::packet::{Auth, Packet};
use crate::mqtt::{ReasonCode, Violation};
use crate::server::handshake;
use crate::server::login::{Ends, Proof};
use crate::server::tls_config::Trust;

/// What a client has proven itself by.
#[derive(Debug)]
pub(in crate::server) struct Grounds {
    /// How long its certificate is good for, where it has shown one.
    pub(in crate::server) trust: Option<Trust>,
    /// What it has proven by the listener's methods.
    pub(in crate::server) proof: Option<Proof>,
    /// Its device waits to be approved.
    pub(in crate::server) is_quarantined: bool,
}

impl Grounds {
    /// All of them together; `None`, where there is none.
    pub(in crate::server) fn of(
        trust: Option<Trust>,
        proof: Option<Proof>,
        is_quarantined: bool,
    ) -> Option<Box<Self>> {
        let is_any = trust.is_some() || proof.is_some() || is_quarantined;
        is_any.then(|| Box::new(Self { trust, proof, is_quarantined }))
    }

    /// When the certificate ends, and when the proof does.
    pub(super) fn ends(&self) -> (Option<Instant>, Option<Instant>) {
        let trust = self.trust.as_ref().and_then(|trust| trust.ends_at);
        (trust, self.proof.as_ref().and_then(|proof| proof.ends_at))
    }
}

impl Connection {
    /// Has the method of CONNECT judge an AUTH packet, and answers it. Whoever fails to prove
    /// itself is disconnected.
    pub(super) fn authenticate_again(
        &mut self,
        auth: &Auth,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<(), Closing> {
        let address = self.link.client.address;
        let proof = self.link.grounds.as_mut().and_then(|grounds| grounds.proof.as_mut());
        let Some(proof) = proof else {
            return Err(self.violated(Violation::protocol(
                "MQTT-4.12.0-6",
                "AUTH on a connection without an authentication method",
            )));
        };
        match proof.renew(auth, address, now) {
            Ok(answer) => {
                if answer.reason == ReasonCode::Success {
                    let method = proof.method().clone();
                    let renewed = Kind::AuthenticationRenewed { method };
                    self.link.broker.audit.record(Event::about(&self.link.client, renewed));
                }
                let version = self.link.session.link().version;
                let room = self.link.session.link().packet_bytes_max;
                let packet = Packet::Auth(Box::new(answer));
                let bytes = packet.encoded_bytes(version);
                if room.is_some_and(|most| bytes > most.get() as usize) {
                    return Err(refused("the client takes no packet as large as the answer"));
                }
                packet.encode(version, out);
                Ok(())
            }
            Err(Ends::Violation(violation)) => Err(self.violated(violation)),
            Err(Ends::Refused(why)) => Err(refused(&why)),
        }
    }

    /// Ends the connection where its certificate was revoked, or its authority is gone.
    pub(super) fn check_trust(&mut self) -> Result<(), Closing> {
        let trust = self.link.grounds.as_ref().and_then(|grounds| grounds.trust.as_ref());
        match trust.map(Trust::stands) {
            Some(Err(withdrawn)) => {
                Err(self.withdrawn(ReasonCode::NotAuthorized, &withdrawn.to_string()))
            }
            _ => self.check_registered(),
        }
    }

    /// Ends the connection of whoever is banned, or whose device is not active any more; and of one
    /// that was approved, to come back without quarantine.
    fn check_registered(&mut self) -> Result<(), Closing> {
        let link = &self.link;
        let client_id = link.peer.client_id.shared();
        let (identity, address) = (link.subject.identity(), link.client.address);
        let now = Now::read().wall;
        match link.broker.check_registered(identity, &client_id, address, now) {
            Err(unwelcome) => {
                Err(self.withdrawn(handshake::reason(&unwelcome), &unwelcome.to_string()))
            }
            Ok(admitted) => {
                let was = link.grounds.as_ref().is_some_and(|grounds| grounds.is_quarantined);
                if was == admitted.quarantine.is_some() {
                    return Ok(());
                }
                let why = "the state of the device has changed: connect again".to_owned();
                let reason = ReasonCode::AdministrativeAction;
                Err(Closing::ByBroker { reason, why, told: true })
            }
        }
    }

    /// Ends the connection once what it has proven itself by is gone.
    pub(super) fn check_proof(&mut self) -> Result<(), Closing> {
        let proof = self.link.grounds.as_mut().and_then(|grounds| grounds.proof.as_mut());
        match proof.and_then(Proof::withdrawn) {
            Some(why) => Err(self.withdrawn(ReasonCode::NotAuthorized, why)),
            None => Ok(()),
        }
    }

    /// Whoever is not known any more has no last word.
    fn withdrawn(&mut self, reason: ReasonCode, why: &str) -> Closing {
        if let Some(will) = self.link.will.take() {
            let standing = self.link.peer.standing();
            self.link.broker.discarded(&standing, &will.topic, Arc::default(), why);
        }
        Closing::ByBroker { reason, why: why.to_owned(), told: false }
    }
}

fn refused(why: &str) -> Closing {
    Closing::ByBroker { reason: ReasonCode::NotAuthorized, why: why.to_owned(), told: false }
}
