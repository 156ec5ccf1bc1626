//! One certificate revocation list (RFC 5280 section 5): read, verified, and turned into a table.
//!
//! A list may name a million certificates: its entries are gone through once and never collected.
//! webpki says whether its form is one that can be relied on; whoever signed it has to be an
//! authority that the broker trusts, and may sign lists.

use rustls::pki_types::CertificateRevocationListDer;
use webpki::BorrowedCertRevocationList;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::points;
use super::{CertificateId, Fingerprint, Serial};
use crate::identity::TrustedIssuers;

/// Bytes of an entry without extensions, roughly: how much room to make at first.
const ENTRY_BYTES: usize = 32;

/// Why a list counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// It is not DER, or lacks what RFC 5280 demands.
    #[error("is no certificate revocation list as RFC 5280 has it: {0}")]
    Malformed(String),
    /// It says only what has changed since another.
    #[error("is a delta list, which is not supported: name the full list")]
    Delta,
    /// It names certificates of other authorities than its own.
    #[error("is an indirect list, which is not supported: name the list of each authority")]
    Indirect,
    /// It names only certificates that were revoked for some reasons.
    #[error("is a list for some reasons only, which is not supported: name the full list")]
    SomeReasons,
    /// It names attribute certificates.
    #[error("is a list of attribute certificates, which clients do not have")]
    AttributeCertificates,
    /// It has an extension that it must not be understood without.
    #[error("has a critical extension that is not supported")]
    CriticalExtension,
    /// Nobody that is trusted has this name.
    #[error("is of {issuer}, which is no authority of any listener's client_ca")]
    UnknownIssuer {
        /// The name in the list.
        issuer: String,
    },
    /// Whoever has the name may not sign lists.
    #[error("is of {issuer}, whose certificate is not for signing lists (no cRLSign)")]
    NotForLists {
        /// The name in the list.
        issuer: String,
    },
    /// It was not signed by whoever has the name.
    #[error("is not signed by {issuer}, whose name it has")]
    BadSignature {
        /// The name in the list.
        issuer: String,
    },
    /// It is of a time to come.
    #[error("is dated {this_update}, in the future")]
    NotYetValid {
        /// When it is to be valid from.
        this_update: String,
    },
}

/// A list that an authority has signed.
#[derive(Debug)]
pub(super) struct Crl {
    /// The fingerprint of the authority's key.
    pub(super) issuer: Fingerprint,
    /// What it may name: all, or the certificates of authorities, or those of others.
    pub(super) scope: Scope,
    /// The raw issuing distribution point; two lists with the same one are versions of one list.
    pub(super) distribution_point: Option<Box<[u8]>>,
    /// Where it is published, when it says so: then it is about the certificates that name one of these
    /// places. `None`: about all in its scope.
    pub(super) places: Option<Box<[Box<str>]>>,
    /// Grows with each version.
    pub(super) number: Serial,
    /// When the next version is due, Unix time.
    pub(super) next_update_unix_s: i64,
    /// In order.
    serials: Box<[Serial]>,
}

/// Which certificates of its authority a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    EndEntities,
    Authorities,
}

impl Scope {
    pub(super) fn is_about(self, is_authority: bool) -> bool {
        match self {
            Self::All => true,
            Self::EndEntities => !is_authority,
            Self::Authorities => is_authority,
        }
    }
}

/// What a list says before and behind its entries.
pub(in crate::identity) struct Header<'a> {
    /// The DER of the issuer's name.
    pub(in crate::identity) issuer: &'a [u8],
    this_update: ASN1Time,
    next_update: ASN1Time,
    number: Serial,
    /// Of the key that signed it.
    pub(in crate::identity) key_identifier: Option<&'a [u8]>,
    scope: Scope,
    distribution_point: Option<Box<[u8]>>,
    places: Option<Box<[Box<str>]>>,
    /// What is signed.
    pub(in crate::identity) signed: &'a [u8],
    /// The contents of the `AlgorithmIdentifier` of the signature.
    pub(in crate::identity) signature_algorithm: &'a [u8],
    pub(in crate::identity) signature: &'a [u8],
}

impl Crl {
    /// Reads and verifies a list, at this time.
    ///
    /// # Errors
    /// [`CrlError`]; the list counts for nothing then.
    pub(super) fn read(
        der: &CertificateRevocationListDer<'_>,
        trusted: &TrustedIssuers,
        now_unix_s: i64,
    ) -> Result<Self, CrlError> {
        let list = BorrowedCertRevocationList::from_der(der).map_err(refused)?;
        let header = Header::read(der)?;
        if header.this_update.timestamp() > now_unix_s {
            let this_update = header.this_update.to_string();
            return Err(CrlError::NotYetValid { this_update });
        }
        let issuer = trusted.signer_of(&header)?;
        let serials = serials_of(&list, der.len() / ENTRY_BYTES)?;
        let Header { next_update, number, scope, distribution_point, places, .. } = header;
        Ok(Self {
            issuer,
            scope,
            distribution_point,
            places,
            number,
            next_update_unix_s: next_update.timestamp(),
            serials,
        })
    }

    /// True when it names this certificate.
    pub(super) fn names(&self, certificate: &CertificateId) -> bool {
        self.issuer == certificate.issuer && self.serials.binary_search(&certificate.serial).is_ok()
    }

    /// True when it would name this certificate, were it revoked. `named` are the places where its
    /// lists are, as it says itself.
    pub(super) fn is_about(&self, is_authority: bool, named: impl Fn() -> Vec<String>) -> bool {
        let is_named = |places: &[Box<str>]| {
            named().iter().any(|url| places.iter().any(|place| **place == **url))
        };
        self.scope.is_about(is_authority) && self.places.as_deref().is_none_or(is_named)
    }

    /// How many certificates it names.
    pub(super) fn len(&self) -> usize {
        self.serials.len()
    }

    /// True when both are versions of one list.
    pub(super) fn is_version_of(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.distribution_point == other.distribution_point
    }
}

impl<'a> Header<'a> {
    fn read(der: &'a [u8]) -> Result<Self, CrlError> {
        let (_, fields) = element(der)?;
        let (rest, to_be_signed) = element(fields.data)?;
        let signed = before(fields.data, rest);
        let (rest, algorithm) = element(rest)?;
        let (_, signature) = element(rest)?;
        // The first byte of a BIT STRING says how many bits at its end are not used: none.
        let signature = signature.data.get(1..).ok_or_else(|| malformed("the signature"))?;

        let (rest, _version) = element(to_be_signed.data)?;
        let (issuer_on, _algorithm) = element(rest)?;
        let (rest, _issuer) = element(issuer_on)?;
        let issuer = before(issuer_on, rest);
        let time = |from| ASN1Time::from_der(from).map_err(|_| malformed("a time"));
        let (rest, this_update) = time(rest)?;
        let (mut rest, next_update) = time(rest)?;
        let mut header = Self {
            issuer,
            this_update,
            next_update,
            number: Serial::default(),
            key_identifier: None,
            scope: Scope::All,
            distribution_point: None,
            places: None,
            signed,
            signature_algorithm: algorithm.data,
            signature,
        };
        // The entries, where there are any, stand before the extensions.
        let mut extensions: &[u8] = &[];
        while !rest.is_empty() {
            let (behind, part) = element(rest)?;
            extensions = part.data;
            rest = behind;
        }
        let (_, sequence) = element(extensions)?;
        let mut rest = sequence.data;
        let mut has_number = false;
        while !rest.is_empty() {
            let (behind, extension) =
                X509Extension::from_der(rest).map_err(|_| malformed("an extension"))?;
            rest = behind;
            has_number |= matches!(extension.parsed_extension(), ParsedExtension::CRLNumber(_));
            header.take(&extension)?;
        }
        if has_number { Ok(header) } else { Err(malformed("it has no CRL number")) }
    }

    fn take(&mut self, extension: &X509Extension<'a>) -> Result<(), CrlError> {
        match extension.parsed_extension() {
            ParsedExtension::CRLNumber(number) => {
                let number = Serial::new(&number.to_bytes_be());
                self.number = number.ok_or_else(|| malformed("the CRL number"))?;
            }
            ParsedExtension::IssuingDistributionPoint(point) => {
                if point.indirect_crl {
                    return Err(CrlError::Indirect);
                }
                if point.only_some_reasons.is_some() {
                    return Err(CrlError::SomeReasons);
                }
                if point.only_contains_attribute_certs {
                    return Err(CrlError::AttributeCertificates);
                }
                self.scope = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
                    (false, false) => Scope::All,
                    (true, false) => Scope::EndEntities,
                    (false, true) => Scope::Authorities,
                    (true, true) => return Err(malformed("the issuing distribution point")),
                };
                self.places = point.distribution_point.as_ref().map(points::urls);
                self.distribution_point = Some(extension.value.into());
            }
            ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                self.key_identifier = identifier.key_identifier.as_ref().map(|key| key.0);
            }
            _ if extension.critical => return Err(CrlError::CriticalExtension),
            _ => {}
        }
        Ok(())
    }

    /// The issuer's name, for people.
    pub(in crate::identity) fn issuer_name(&self) -> String {
        X509Name::from_der(self.issuer)
            .map_or_else(|_| "?".to_owned(), |(_, name)| name.to_string())
    }
}

/// The numbers that a list names, in order.
fn serials_of(
    list: &BorrowedCertRevocationList<'_>,
    about: usize,
) -> Result<Box<[Serial]>, CrlError> {
    let mut serials = Vec::with_capacity(about);
    for entry in list {
        let serial = entry.map_err(refused)?.serial_number;
        serials.push(Serial::new(serial).ok_or_else(|| malformed("a serial number"))?);
    }
    serials.sort_unstable();
    serials.dedup();
    Ok(serials.into_boxed_slice())
}

/// Reads `data` as a list, whoever may have signed it. For the fuzzer: nothing may panic, and what
/// is taken for a list is named as one by both readers.
#[doc(hidden)]
pub fn fuzz_list(data: &[u8]) {
    let Ok(list) = BorrowedCertRevocationList::from_der(data) else { return };
    let Ok(header) = Header::read(data) else { return };
    let trusted = TrustedIssuers::default();
    assert!(trusted.signer_of(&header).is_err(), "nobody is trusted");
    drop(serials_of(&list, 0));
}

/// The first element: what follows it, and the element.
fn element(der: &[u8]) -> Result<(&[u8], Any<'_>), CrlError> {
    Any::from_der(der).map_err(|_| malformed("it ends early"))
}

/// What of `all` stands before `rest`, which is its end.
fn before<'a>(all: &'a [u8], rest: &[u8]) -> &'a [u8] {
    all.get(..all.len().saturating_sub(rest.len())).unwrap_or_default()
}

fn malformed(what: &str) -> CrlError {
    CrlError::Malformed(what.to_owned())
}

/// What webpki says, as an error of ours.
fn refused(error: webpki::Error) -> CrlError {
    match error {
        webpki::Error::UnsupportedDeltaCrl => CrlError::Delta,
        webpki::Error::UnsupportedIndirectCrl => CrlError::Indirect,
        webpki::Error::UnsupportedRevocationReasonsPartitioning => CrlError::SomeReasons,
        webpki::Error::UnsupportedCriticalExtension => CrlError::CriticalExtension,
        error => CrlError::Malformed(format!("{error:?}")),
    }
}
