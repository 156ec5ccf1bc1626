//! Certificates and keys: a small certificate authority, the profiles of what it issues, and the
//! files that keys live in.

mod ca;
pub mod files;
mod issue;
mod key;
mod name;
mod profile;

pub use ca::Ca;
pub use issue::Issued;
pub use key::{KeyError, KeyType, Passphrase, PrivateKey, Protection};
pub use name::{AlternativeNames, NameError, NameRule, unsafe_character};
pub use profile::{Profile, ProfileError, ProfileName};

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
    /// Certificates of clients and brokers are not issued with the authority's profile.
    #[error("the profile `ca` is for `portcullis ca init` only")]
    IssuedByProfileCa,
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
