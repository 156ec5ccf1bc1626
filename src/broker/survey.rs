//! What is odd about those who are connected.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Broker, Now};

/// Clients that are named of those that share a certificate.
const NAMED_MAX: usize = 8;
/// Certificates, and clients, that are told of.
const TOLD_MAX: usize = 64;

/// What is odd about those who are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// How many are connected.
    pub connected: usize,
    /// Certificates that several clients use at once.
    pub shared: Vec<SharedCertificate>,
    /// Clients that are connected though their certificate was revoked or has expired. There must
    /// be none.
    pub withdrawn: Vec<String>,
}

/// A certificate that several clients use at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedCertificate {
    /// Lower-case hex of its SHA-256.
    pub fingerprint: String,
    /// How many clients use it.
    pub clients: usize,
    /// Some of their client identifiers.
    pub client_ids: Vec<String>,
}

impl Broker {
    /// Looks at everybody who is connected.
    #[must_use]
    pub fn survey(&self, now: Now) -> Survey {
        let mut survey = Survey::default();
        let mut by_certificate: HashMap<Arc<str>, SharedCertificate> = HashMap::new();
        for peer in self.sessions.live() {
            survey.connected += 1;
            let standing = peer.standing();
            let Some(certificate) = &standing.identity.certificate else { continue };
            let client_id = peer.client_id.as_str();
            if self.stands(&standing, now).is_err() && survey.withdrawn.len() < TOLD_MAX {
                survey.withdrawn.push(client_id.to_owned());
            }
            let entry = by_certificate.entry(Arc::clone(&certificate.fingerprint));
            let used = entry.or_insert_with(|| SharedCertificate {
                fingerprint: certificate.fingerprint.to_string(),
                clients: 0,
                client_ids: Vec::new(),
            });
            used.clients += 1;
            if used.client_ids.len() < NAMED_MAX {
                used.client_ids.push(client_id.to_owned());
            }
        }
        survey.shared = by_certificate.into_values().filter(|used| used.clients > 1).collect();
        survey.shared.sort_by(|one, other| {
            other.clients.cmp(&one.clients).then_with(|| one.fingerprint.cmp(&other.fingerprint))
        });
        survey.shared.truncate(TOLD_MAX);
        survey.shared.iter_mut().for_each(|used| used.client_ids.sort_unstable());
        survey
    }
}
