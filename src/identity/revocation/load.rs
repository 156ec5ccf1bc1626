//! Revocation lists from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pkcs8::LineEnding;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::{Crl, CrlError, Doubt, Revocations};
use crate::identity::{CertificateError, TrustedIssuers};
use crate::pki::files::{self, FileError};

/// The largest file of lists: a list of a million certificates has some 40 MB, and a third more
/// as PEM.
const LIST_FILE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Files in a folder of lists.
pub const FILES_MAX: usize = 1024;
/// What the names of files in a folder end with that are lists.
const ENDINGS: [&str; 3] = ["crl", "pem", "der"];

/// Where the lists are, and what is done in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Files, and folders of files.
    pub lists: Vec<PathBuf>,
    /// What becomes of the certificates of an authority whose list has expired.
    pub expired: Doubt,
    /// What becomes of the certificates of an authority without a list.
    pub missing: Doubt,
    /// Lists that are fetched, into a folder that is looked at like `lists`.
    pub fetch: Option<Fetch>,
}

/// Lists that are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// From where: plain HTTP, since a list is signed.
    pub urls: Vec<String>,
    /// What URLs have to begin with that certificates name.
    pub from: Vec<String>,
    /// Into which folder.
    pub folder: PathBuf,
    /// How often.
    pub every: Duration,
}

/// Why lists cannot be loaded. Those in force stay.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder cannot be read.
    #[error("{}: cannot read this folder: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder has too many files.
    #[error("{}: has more than {files_max} files; is this the right folder?", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The bound.
        files_max: usize,
    },
    /// A file has no list.
    #[error("{}: has no revocation list, in PEM or DER", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
    },
    /// A file is not PEM.
    #[error("{}: is not PEM: {}", path.display(), files::pem_problem(source))]
    NotPem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate beside a list is none.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// A list counts for nothing.
    #[error("{}: {source}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CrlError,
    },
    /// A list is older than the one in force: somebody may want a revocation to be forgotten.
    #[error("{}: is older than the list in force: its CRL number is lower", path.display())]
    Older {
        /// The file.
        path: PathBuf,
    },
    /// A list that is in force is not there any more.
    #[error(
        "the list of an authority that is in force is not in any file any more; to do without it, \
         restart the broker"
    )]
    Gone,
}

impl LoadError {
    /// The file or folder that it is about.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Folder { path, .. }
            | Self::TooManyFiles { path, .. }
            | Self::NoList { path }
            | Self::NotPem { path, .. }
            | Self::Certificate { path, .. }
            | Self::List { path, .. }
            | Self::Older { path } => Some(path),
            Self::Gone => None,
        }
    }
}

/// Lists that were loaded.
#[derive(Debug)]
pub struct Loaded {
    /// They.
    pub revocations: Revocations,
    /// What works but should be looked after.
    pub warnings: Vec<String>,
}

/// Loads the lists that `settings` name, each verified against the authorities of `trusted`.
/// Whoever signed one may also be an intermediate authority whose certificate is in the same file,
/// and which a trusted authority vouches for.
///
/// Blocks, and computes for a second with a million entries.
///
/// What is wrong with a list that was fetched is a warning: nobody has put it there by hand, and what
/// is due without it is due all the same.
///
/// # Errors
/// [`LoadError`]: where anything is wrong with a list that is named, none is taken; and where one is
/// older than the one of the same authority `in_force`, or gone.
pub fn load(
    settings: &Settings,
    trusted: &TrustedIssuers,
    in_force: &Revocations,
    now_unix_s: i64,
) -> Result<Loaded, LoadError> {
    let (mut loaded, failures) = load_what_can_be(settings, trusted, in_force, now_unix_s)?;
    let fetched = settings.fetch.as_ref().map(|fetch| fetch.folder.as_path());
    let is_fetched = |failure: &LoadError| {
        failure.path().is_some_and(|path| path.parent() == fetched || Some(path) == fetched)
    };
    for failure in failures {
        if !is_fetched(&failure) {
            return Err(failure);
        }
        loaded.warnings.push(failure.to_string());
    }
    Ok(loaded)
}

/// As [`load`], but what is wrong with one file does not keep the lists of others back. Where an
/// authority has no list that can be taken, the one in force stays.
///
/// # Errors
/// When a folder cannot be read.
pub fn load_what_can_be(
    settings: &Settings,
    trusted: &TrustedIssuers,
    in_force: &Revocations,
    now_unix_s: i64,
) -> Result<(Loaded, Vec<LoadError>), LoadError> {
    let mut found: Vec<(PathBuf, Arc<Crl>)> = Vec::new();
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    let fetched = settings.fetch.as_ref().map(|fetch| fetch.folder.clone());
    let named: Vec<PathBuf> = settings.lists.iter().cloned().chain(fetched.clone()).collect();
    for path in files_of(&named, fetched.as_ref(), &mut failures)? {
        let lists = read(&path, trusted, now_unix_s).unwrap_or_else(|failure| {
            failures.push(failure);
            Vec::new()
        });
        for list in lists {
            if list.next_update_unix_s < now_unix_s {
                let effect = match settings.expired {
                    Doubt::Refuse => "certificates of its authority are refused",
                    Doubt::Warn => "what was revoked since is let in",
                };
                warnings.push(format!("{}: the list has expired: {effect}", path.display()));
            }
            // Of two versions of one list the later counts.
            match found.iter_mut().find(|(_, it)| it.is_version_of(&list)) {
                Some(other) if other.1.number < list.number => {
                    *other = (path.clone(), Arc::new(list));
                }
                Some(_) => {}
                None => found.push((path.clone(), Arc::new(list))),
            }
        }
    }
    for before in in_force.lists.iter().flatten().filter(|it| trusted.has(it.issuer)) {
        match found.iter_mut().find(|(_, list)| list.is_version_of(before)) {
            Some((path, list)) if list.number < before.number => {
                failures.push(LoadError::Older { path: path.clone() });
                *list = Arc::clone(before);
            }
            Some(_) => {}
            None => {
                failures.push(LoadError::Gone);
                found.push((PathBuf::new(), Arc::clone(before)));
            }
        }
    }
    let mut lists: Vec<_> = found.into_iter().map(|(_, list)| list).collect();
    for (subject, _) in trusted
        .described()
        .filter(|(_, issuer)| !lists.iter().any(|list| hex::encode(list.issuer.0) == *issuer))
    {
        let effect = match settings.missing {
            Doubt::Refuse => "its certificates are refused",
            Doubt::Warn => "none of its certificates can be revoked",
        };
        warnings.push(format!("there is no revocation list of {subject}: {effect}"));
    }
    lists.sort_by_key(|list| list.issuer);
    let (expired, missing) = (settings.expired, settings.missing);
    let points = in_force.points.allowing(settings.fetch.as_ref().map_or(&[], |it| &it.from));
    let revocations = Revocations { lists: Some(lists), expired, missing, points };
    Ok((Loaded { revocations, warnings }, failures))
}

/// The files that are named, and those in the folders that are. Of the folder of fetched lists so many
/// as a folder may have, whatever else there is.
fn files_of(
    named: &[PathBuf],
    fetched: Option<&PathBuf>,
    failures: &mut Vec<LoadError>,
) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = Vec::new();
    for path in named {
        let is_fetched = fetched == Some(path);
        if is_fetched && !path.exists() {
            continue;
        }
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |source| LoadError::Folder { path: path.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let ending = entry.extension().and_then(|ending| ending.to_str());
            if ending.is_some_and(|ending| ENDINGS.contains(&ending)) && !is_hidden(&entry) {
                found.push(entry);
            }
            if found.len() > FILES_MAX {
                let (path, files_max) = (path.clone(), FILES_MAX);
                let failure = LoadError::TooManyFiles { path, files_max };
                if !is_fetched {
                    return Err(failure);
                }
                failures.push(failure);
                found.pop();
                break;
            }
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// What is being written, most likely.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Looks whether `bytes`, which are to go to `path`, are lists that would be taken in the place of
/// those in force. What has to go there: where it takes one of the certificates `beside` to tell who
/// has signed it, these too.
///
/// # Errors
/// As [`load`].
pub fn check(
    bytes: Vec<u8>,
    beside: &[CertificateDer<'_>],
    path: &Path,
    trusted: &TrustedIssuers,
    in_force: &Revocations,
    now_unix_s: i64,
) -> Result<Vec<u8>, LoadError> {
    let lists = |bytes: &[u8]| parse(bytes, path, trusted, now_unix_s);
    let (bytes, lists) = match lists(&bytes) {
        Err(LoadError::List { source: CrlError::UnknownIssuer { .. }, .. })
            if !beside.is_empty() =>
        {
            let bytes = with_certificates(bytes, beside);
            let lists = lists(&bytes)?;
            (bytes, lists)
        }
        lists => (bytes, lists?),
    };
    lists.iter().try_for_each(|list| refuse_older(list, path, in_force))?;
    Ok(bytes)
}

/// A file of lists, as PEM, and certificates.
fn with_certificates(bytes: Vec<u8>, beside: &[CertificateDer<'_>]) -> Vec<u8> {
    let pem = |label: &str, der: &[u8]| {
        // Fails for a label that is none.
        pkcs8::der::pem::encode_string(label, LineEnding::LF, der).unwrap_or_default()
    };
    let mut file = match bytes.first() {
        Some(&DER_SEQUENCE) => pem("X509 CRL", &bytes).into_bytes(),
        _ => bytes,
    };
    for certificate in beside {
        file.extend_from_slice(pem("CERTIFICATE", certificate).as_bytes());
    }
    file
}

/// The lists in one file.
fn read(path: &Path, trusted: &TrustedIssuers, now_unix_s: i64) -> Result<Vec<Crl>, LoadError> {
    parse(&files::read_up_to(path, LIST_FILE_BYTES_MAX)?, path, trusted, now_unix_s)
}

fn refuse_older(list: &Crl, path: &Path, in_force: &Revocations) -> Result<(), LoadError> {
    let before = in_force.lists.iter().flatten().find(|it| it.is_version_of(list));
    match before {
        Some(before) if before.number > list.number => {
            Err(LoadError::Older { path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

fn parse(
    bytes: &[u8],
    path: &Path,
    trusted: &TrustedIssuers,
    now_unix_s: i64,
) -> Result<Vec<Crl>, LoadError> {
    let about = |source| LoadError::List { path: path.to_owned(), source };
    if bytes.first() == Some(&DER_SEQUENCE) {
        let der = CertificateRevocationListDer::from(bytes);
        return Ok(vec![Crl::read(&der, trusted, now_unix_s).map_err(about)?]);
    }
    let not_pem = |source| LoadError::NotPem { path: path.to_owned(), source };
    let not_fit = |source| LoadError::Certificate { path: path.to_owned(), source };
    let beside = CertificateDer::pem_slice_iter(bytes);
    let beside = beside.collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
    let trusted = trusted.with_intermediates(&beside, now_unix_s).map_err(not_fit)?;
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(bytes) {
        lists.push(Crl::read(&der.map_err(not_pem)?, &trusted, now_unix_s).map_err(about)?);
    }
    if lists.is_empty() { Err(LoadError::NoList { path: path.to_owned() }) } else { Ok(lists) }
}

/// DER begins with the tag of a SEQUENCE, PEM with text.
const DER_SEQUENCE: u8 = 0x30;
