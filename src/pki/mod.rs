//! Certificates and keys: a certificate authority, the profiles of what it issues, and the files
//! that keys live in.
//!
//! A program that issues opens a [`Ca`] once and shares it between threads; each of these holds
//! the inventory alone for as long as it changes it, also against other processes, and blocks for
//! a sync of the disk:
//!
//! | what | call |
//! |---|---|
//! | open | [`Ca::open`], with a way to the passphrases |
//! | a certificate for a request | [`Request::read`], then [`Ca::sign`] under a [`Profile`] and for a name |
//! | one in place of another, for a request | [`Ca::entry`], then [`Ca::renew_by_request`] |
//! | many at a time, with one sync | [`Ca::make`] for each, then [`Ca::hand_out`] |
//! | revoke, and write the lists of revoked ones | [`Ca::by_serial`], `by_name` or `by_file`, then [`Ca::revoke`] |
//! | write the lists before the last ones end | [`Ca::write_crls`] |
//! | what was issued, what became of it | [`Ca::contents`] |
//! | write them when that is due | [`Ca::renew_crls`] |
//! | give them out | [`Ca::published_lists`] |
//! | whom to trust | [`Ca::certificates_pem`] |
//! | let a request in that has no certificate yet | [`Tokens::look`], then [`Tokens::spend`] before it is signed |
//!
//! [`PkiError::Rotated`] says that another authority is in place by now: open it again. The events
//! for the audit log are made of what these return: `audit::Kind::from`.

mod bundle;
mod ca;
pub mod changes;
mod create;
pub mod files;
pub mod inventory;
mod issue;
mod key;
mod name;
mod one_time;
mod place;
mod profile;
mod published;
pub mod request;
mod revoke;
mod rotate;
mod signer;
#[cfg(feature = "pkcs11")]
mod token;
mod upkeep;

pub use bundle::pkcs12;
pub use ca::Ca;
pub use create::{Layout, NewAuthority};
pub use issue::{Issued, Unrecorded};
pub use key::{KeyError, KeySource, KeyType, Passphrase, PrivateKey, Protection};
pub use name::{AlternativeNames, NameError, NameRule, unsafe_character};
pub use one_time::{TOKENS_MAX, Token, TokenRefusal, Tokens};
pub use place::{is_authority, is_root_key, secret_of};
pub use profile::{Profile, ProfileError, ProfileName};
pub use published::Published;
pub use request::{Request, RequestError, Subject};
pub use revoke::{CRL_VALIDITY, Crl, Revoked, Target, plain_serial};
pub use rotate::{Rotated, Rotation};
pub use signer::{Unlock, no_passphrase};

use std::path::PathBuf;

/// Why the authority cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A key or a passphrase cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A profile is not usable.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file is no certificate of an authority, or no key.
    #[error("{}: {problem}", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Certificates of clients and brokers are not issued with an authority's profile.
    #[error("the profile `{profile}` is for `portcullis ca init` and `ca rotate` only")]
    IssuedByProfileCa {
        /// The profile.
        profile: &'static str,
    },
    /// A request is refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The inventory cannot be used.
    #[error(transparent)]
    Inventory(#[from] inventory::InventoryError),
    /// The file is no certificate that this is about.
    #[error("{}: {problem}", path.display())]
    NotACertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is no such certificate.
    #[error("this authority has issued no {what}; see: portcullis cert list")]
    NotIssued {
        /// What was looked for.
        what: String,
    },
    /// The certificate is revoked, so nothing takes its place.
    #[error("the certificate {serial} is revoked ({}); issue a new one instead", reason.as_str())]
    Revoked {
        /// Its serial number.
        serial: String,
        /// Why it was revoked.
        reason: inventory::Reason,
    },
    /// The certificate is revoked already, and that cannot be changed.
    #[error(
        "the certificate {serial} is revoked already; the lists are written again by: portcullis ca crl"
    )]
    AlreadyRevoked {
        /// Its serial number.
        serial: String,
    },
    /// No list could say that the certificate is revoked.
    #[error(
        "the certificate {serial} is of an issuing authority that is not here any more ({issuer}): all that it issued has ended, or its folder in retired/ is gone; bring that back"
    )]
    NotSignedFor {
        /// Its serial number.
        serial: String,
        /// The hash of the authority's key.
        issuer: String,
    },
    /// A certificate is renewed with the profile it was issued with.
    #[error("the certificate {serial} was issued with the profile `{issued}`, not `{asked}`")]
    OtherProfile {
        /// Its serial number.
        serial: String,
        /// The profile it has.
        issued: &'static str,
        /// The profile that was asked for.
        asked: &'static str,
    },
    /// The authority's root is elsewhere, and so is what could vouch for another one.
    #[error("{}: there is no root here that could vouch for another authority; make one above it and take it over in a new folder: portcullis ca import", folder.display())]
    NoRootHere {
        /// The folder of the authority.
        folder: PathBuf,
    },
    /// Another authority has taken the place of this one since it was opened.
    #[error("`ca rotate` has put {name:?} in place of this authority; start again to use it")]
    Rotated {
        /// What the present one is called.
        name: String,
    },
    /// The certificate would be valid longer than its authority.
    #[error(
        "the certificate would outlive its authority, which ends on {ca_not_after}; choose fewer --days"
    )]
    OutlivesCa {
        /// The end of the authority.
        ca_not_after: time::OffsetDateTime,
    },
    /// The end of validity is not a date.
    #[error("the validity ends at no date that a certificate can have")]
    ValidityTooLong,
    /// The file of one-time tokens cannot be read.
    #[error("{}: {problem}; bring it back from a backup, or delete it and make new tokens", path.display())]
    BadTokens {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// As many one-time tokens wait as may.
    #[error("there are {tokens_max} tokens already; delete some: portcullis cert token delete")]
    TooManyTokens {
        /// The bound.
        tokens_max: usize,
    },
    /// There is no randomness for a serial number.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
    /// The certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// The lower-case hex of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// The lower-case hex of a serial number as DER has it, without leading zeros.
#[must_use]
pub fn serial_hex(bytes: &[u8]) -> String {
    let text = hex::encode(bytes);
    let significant = text.trim_start_matches('0');
    if significant.is_empty() { "0".to_owned() } else { significant.to_owned() }
}
