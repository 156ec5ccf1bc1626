//! What the inventory says: one line of JSON for each thing that happened.

use rcgen::RevocationReason;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::pki::{AlternativeNames, ProfileName};

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Lower-case hex of the serial number, without leading zeros.
    pub serial: String,
    /// The common name.
    pub name: String,
    /// The profile it was issued with.
    pub profile: ProfileName,
    /// Its alternative names.
    #[serde(default)]
    pub alternative_names: AlternativeNames,
    /// The first second of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// The last second of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Lower-case hex of the SHA-256 of the certificate.
    pub fingerprint: String,
    /// Lower-case hex of the SHA-256 of its `SubjectPublicKeyInfo`.
    pub key: String,
    /// Lower-case hex of the SHA-256 of the `SubjectPublicKeyInfo` of who issued it.
    pub issuer: String,
    /// The serial number of the certificate that this one takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<String>,
    /// Whether it goes to a file with its key, as [`Record::Written`] says when it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_file: bool,
}

/// A certificate that was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Lower-case hex of the serial number, without leading zeros.
    pub serial: String,
    /// Who issued it, as in [`Certificate::issuer`].
    pub issuer: String,
    /// The common name; of a certificate from elsewhere as far as it can be read.
    pub name: String,
    /// When the certificate ends by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Why.
    pub reason: Reason,
}

/// A list of revoked certificates that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCrl {
    /// Who signed it, as in [`Certificate::issuer`].
    pub issuer: String,
    /// Its `CRLNumber`; grows.
    pub number: u64,
    /// When the next one is due.
    #[serde(with = "time::serde::rfc3339")]
    pub next_update: OffsetDateTime,
    /// How many certificates it lists.
    pub certificates: u64,
}

/// Certificates whose files were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Their serial numbers.
    pub serials: Vec<String>,
}

/// An authority that was made, or taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// What it is called.
    pub name: String,
    /// Its key, as in [`Certificate::issuer`].
    pub issuer: String,
    /// What it does.
    pub role: Role,
    /// The last second of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
}

/// What an authority does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It vouches for issuing authorities.
    Root,
    /// It issues certificates.
    Issuing,
}

/// Why a certificate is revoked (RFC 5280, section 5.3.1). Holding one and letting it go again is
/// left out: what was revoked stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum Reason {
    /// No reason is given.
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// Somebody else may have the key of the authority.
    CaCompromise,
    /// Its owner belongs elsewhere now.
    AffiliationChanged,
    /// Another certificate takes its place.
    Superseded,
    /// Its owner is no longer in use.
    CessationOfOperation,
    /// Its owner lost a right that the certificate says it has.
    PrivilegeWithdrawn,
}

impl Reason {
    /// The name in RFC 5280.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "caCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// As it is in a list of revoked certificates, which says nothing rather than `unspecified`.
    pub(in crate::pki) const fn in_crl(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::CaCompromise => Some(RevocationReason::CaCompromise),
            Self::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Record {
    /// An authority was made, or taken over.
    Authority(AuthorityRecord),
    /// A certificate was issued.
    Issued(Box<Certificate>),
    /// A certificate was revoked.
    Revoked(Revocation),
    /// A list of revoked certificates was signed.
    Crl(SignedCrl),
    /// The files of certificates are there, and durable.
    Written(Written),
}

/// The version of the format; changes when a reader of the old one would go wrong.
pub(super) const FORMAT_VERSION: u8 = 1;

/// A line of the inventory.
#[derive(Serialize, Deserialize)]
pub(super) struct Line<R> {
    pub(super) v: u8,
    pub(super) seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) time: OffsetDateTime,
    #[serde(flatten)]
    pub(super) record: R,
}
