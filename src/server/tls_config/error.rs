//! What can be wrong with the files of a listener's TLS, each with its remedy.

use std::path::PathBuf;

use crate::identity::CertificateError;
use crate::pki::files::{self, FileError};

/// What works but should be looked after.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsWarning {
    /// The server's certificate ends soon.
    #[error("{}: the certificate ends in {days} days; renew it", path.display())]
    CertificateEndsSoon {
        /// The file.
        path: PathBuf,
        /// Whole days left.
        days: i64,
    },
    /// An authority is outside its time, so that no client of it is let in.
    #[error(
        "{}: the authority `{subject}` is outside its time, so that its clients are refused; remove it",
        path.display()
    )]
    AuthorityOutsideItsTime {
        /// The file.
        path: PathBuf,
        /// The authority's name.
        subject: String,
    },
}

/// What is wrong with a listener's TLS, under the key of the file.
#[derive(Debug, thiserror::Error)]
#[error("tls.{key}: {error}")]
pub struct TlsProblem {
    /// The key within `[listener.NAME.tls]`.
    pub key: &'static str,
    /// What is wrong.
    #[source]
    pub error: TlsError,
}

impl TlsError {
    /// With the key under which the file is named.
    pub(super) fn under(key: &'static str) -> impl Fn(Self) -> TlsProblem {
        move |error| TlsProblem { key, error }
    }
}

/// Why a listener's TLS cannot be set up. Each names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or a key is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is damaged.
    #[error("{}: not PEM: {}", path.display(), files::pem_problem(source))]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The file has no certificate.
    #[error(
        "{}: no certificate in it; a PEM certificate begins with -----BEGIN CERTIFICATE-----",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file has no private key.
    #[error(
        "{}: no private key in it; a PEM key begins with -----BEGIN PRIVATE KEY-----",
        path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The private key is encrypted, and there is nobody to ask for the password.
    #[error(
        "{}: the private key is encrypted; decrypt it with: openssl pkey -in {0} -out NEWFILE",
        path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The private key is of a kind that TLS does not use, or damaged.
    #[error("{}: the private key is not usable: {source}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate is damaged.
    #[error("{}: certificate {number} in it: {source}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which certificate of the file, from 1.
        number: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// Key and certificate are not a pair.
    #[error(
        "{}: the private key does not belong to the first certificate in {}; give the key that the certificate was issued for, and put the server's own certificate first",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// The server's certificate has ended.
    #[error("{}: the certificate has ended on {not_after}; renew it", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        not_after: String,
    },
    /// The server's certificate has not begun.
    #[error("{}: the certificate begins on {not_before}; is the clock right?", path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it begins.
        not_before: String,
    },
    /// The certificate may not be used by a server.
    #[error(
        "{}: the certificate is not for servers (its extended key usage lacks serverAuth), so that clients refuse it; issue one with the profile `server`",
        path.display()
    )]
    NotForServers {
        /// The file.
        path: PathBuf,
    },
    /// A certificate among the clients' authorities is none. Its key could issue identities.
    #[error("{}: certificate {number} in it (`{subject}`) is not of an authority; remove it", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// Which certificate of the file, from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
    /// rustls does not take what was read.
    #[error("{}: TLS cannot be set up with it: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}
