//! The lists of revoked certificates in the folder of an authority, for whoever is to have them.
//! No key is needed.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::ca::short;
use super::changes::Marks;
use super::inventory::Role;
use super::revoke::pem_of;
use super::{Ca, PkiError, files, sha256_hex};

/// Bytes of a file of lists: of a million certificates, and a third more as PEM.
const FILE_BYTES_MAX: u64 = 96 * 1024 * 1024;

/// A list, whose signature is that of the authority beside it.
#[derive(Clone, Debug)]
pub struct Published {
    /// Lower-case hex of the SHA-256 of the `SubjectPublicKeyInfo` of who signed it.
    pub issuer: String,
    /// What that is called.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Whether it is the one in use, not one before it.
    pub is_current: bool,
    /// Its `CRLNumber`.
    pub number: u64,
    /// Whether it is in the file of all lists as well, which is written last.
    pub is_in_all: bool,
    /// When the next one is due.
    pub next_update: OffsetDateTime,
    /// The list.
    pub der: Vec<u8>,
}

/// A place where there may be a list.
#[derive(Clone, Debug)]
struct Place {
    role: Role,
    is_current: bool,
    certificate: PathBuf,
    list: PathBuf,
}

impl Ca {
    /// What tells one state of the lists in a folder from another.
    #[must_use]
    pub fn marks_of_lists(folder: &Path) -> Marks {
        let places = places(folder).into_iter().flat_map(|place| [place.certificate, place.list]);
        Marks::of(places.chain([Self::crls_path(folder)]))
    }

    /// The lists in a folder, and what is wrong with others: one that cannot be read, or was signed
    /// by somebody else than the authority beside it, which a rotation may be about to replace.
    #[must_use]
    pub fn published_lists(folder: &Path) -> Vec<Result<Published, PkiError>> {
        let all = Self::all_lists_pem(folder).unwrap_or_default();
        let places = places(folder).into_iter();
        places.filter(|place| place.list.exists()).map(|place| place.read(&all)).collect()
    }

    /// All lists that are in force, PEM: the file that brokers are given.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn all_lists_pem(folder: &Path) -> Result<Vec<u8>, PkiError> {
        Ok(files::read_up_to(&Self::crls_path(folder), FILE_BYTES_MAX)?)
    }
}

impl Published {
    /// The beginning of the issuer's hash: the `${issuer}` of a profile's `crl_urls`.
    #[must_use]
    pub fn short_issuer(&self) -> &str {
        short(&self.issuer)
    }
}

impl Place {
    fn read(&self, all: &[u8]) -> Result<Published, PkiError> {
        let unfit = |problem| PkiError::NotACertificate { path: self.list.clone(), problem };
        let pem = files::read(&self.certificate)?;
        let certificate =
            CertificateDer::from_pem_slice(&pem).map_err(|_| unfit("no certificate beside it"))?;
        let (_, certificate) = X509Certificate::from_der(&certificate)
            .map_err(|_| unfit("the certificate beside it is malformed"))?;
        let der = files::read_up_to(&self.list, FILE_BYTES_MAX)?;
        let (rest, list) = CertificateRevocationList::from_der(&der)
            .map_err(|_| unfit("no list of revoked certificates"))?;
        if !rest.is_empty() || list.verify_signature(certificate.public_key()).is_err() {
            return Err(unfit("the authority beside this list has not signed it"));
        }
        let next = list.next_update().ok_or_else(|| unfit("the list does not say its end"))?;
        let name = certificate.subject().iter_common_name().next();
        Ok(Published {
            issuer: sha256_hex(certificate.public_key().raw),
            name: name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            role: self.role,
            is_current: self.is_current,
            number: number_of(&list).ok_or_else(|| unfit("the list has no number"))?,
            next_update: next.to_datetime(),
            is_in_all: is_in(all, &der),
            der,
        })
    }
}

fn number_of(list: &CertificateRevocationList<'_>) -> Option<u64> {
    list.crl_number()?.try_into().ok()
}

fn is_in(all: &[u8], der: &[u8]) -> bool {
    std::str::from_utf8(all).is_ok_and(|all| all.contains(&pem_of(der)))
}

/// The number of the list in a file of DER, if it is among `all` as well.
pub(super) fn number_in(path: &Path, all: &[u8]) -> Option<u64> {
    let der = files::read_up_to(path, FILE_BYTES_MAX).ok()?;
    let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
    number_of(&list).filter(|_| is_in(all, &der))
}

/// The file of a list in DER, by that of the same in PEM.
pub(super) fn der_path(pem: &Path) -> PathBuf {
    let mut path = pem.as_os_str().to_owned();
    path.push(".der");
    PathBuf::from(path)
}

/// Where lists are: of the present authorities, and of those before.
fn places(folder: &Path) -> Vec<Place> {
    let of = |folder: &Path, is_current| {
        [
            Place {
                role: Role::Issuing,
                is_current,
                certificate: Ca::certificate_path(folder),
                list: der_path(&Ca::crl_path(folder)),
            },
            Place {
                role: Role::Root,
                is_current,
                certificate: Ca::root_certificate_path(folder),
                list: der_path(&Ca::root_crl_path(folder)),
            },
        ]
    };
    let before = std::fs::read_dir(Ca::retired_path(folder)).into_iter().flatten().flatten();
    let mut before: Vec<PathBuf> = before.map(|entry| entry.path()).collect();
    before.sort();
    of(folder, true).into_iter().chain(before.iter().flat_map(|path| of(path, false))).collect()
}
