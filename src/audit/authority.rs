//! The events of a certificate authority, from what its inventory says.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Kind;
use crate::pki::inventory::{Certificate, Revocation, SignedCrl};

impl From<&Certificate> for Kind {
    fn from(certificate: &Certificate) -> Self {
        Self::CertificateIssued {
            serial: certificate.serial.as_str().into(),
            name: certificate.name.as_str().into(),
            profile: certificate.profile.as_str(),
            issuer: certificate.issuer.as_str().into(),
            fingerprint: certificate.fingerprint.as_str().into(),
            not_after: rfc3339(certificate.not_after),
            renews: certificate.renews.as_deref().map(Into::into),
        }
    }
}

impl From<&Revocation> for Kind {
    fn from(revocation: &Revocation) -> Self {
        Self::CertificateRevoked {
            serial: revocation.serial.as_str().into(),
            name: revocation.name.as_str().into(),
            issuer: revocation.issuer.as_str().into(),
            reason: revocation.reason.as_str(),
        }
    }
}

impl From<&SignedCrl> for Kind {
    fn from(crl: &SignedCrl) -> Self {
        Self::CrlIssued {
            issuer: crl.issuer.as_str().into(),
            number: crl.number,
            certificates: crl.certificates,
            next_update: rfc3339(crl.next_update),
        }
    }
}

/// A time as it is in the log.
fn rfc3339(time: OffsetDateTime) -> Arc<str> {
    time.format(&Rfc3339).unwrap_or_default().into()
}
