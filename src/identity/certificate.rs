//! Reads what policies and the audit log may know of a client's certificate.
//!
//! The certificate has been verified, but what it says is still the work of whoever asked the
//! authority for it: everything is bounded, and a name that could be read in two ways is refused
//! rather than cleaned.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_DOMAIN_COMPONENT, OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME,
    OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER,
    OID_X509_STATE_OR_PROVINCE_NAME,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AttributeTypeAndValue;

use super::issuer::{Anchor, TrustedIssuers, Vouched, fingerprint};
use super::revocation::{CertificateId, Serial};
use crate::pki;

/// Certificates in a client's chain, its own included.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Bytes of one certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a common name; RFC 5280 says 64 characters, of up to 4 bytes each.
pub const COMMON_NAME_BYTES_MAX: usize = 256;
/// Organizational units of a subject.
pub const ORGANIZATIONAL_UNITS_MAX: usize = 16;
/// Bytes of an organizational unit; RFC 5280 says 64 characters, of up to 4 bytes each.
pub const ORGANIZATIONAL_UNIT_BYTES_MAX: usize = 256;
/// Subject alternative names, of all forms together.
pub const ALTERNATIVE_NAMES_MAX: usize = 64;
/// Bytes of one alternative name; a SPIFFE ID may have 2048.
pub const ALTERNATIVE_NAME_BYTES_MAX: usize = 2048;
/// Parts of a subject's name that are looked at.
const SUBJECT_PARTS_MAX: usize = 32;
/// Bytes of a serial number (RFC 5280 section 4.1.2.2), and one that keeps it positive.
pub const SERIAL_BYTES_MAX: usize = 21;

/// What policies and the audit log may know of a verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The common name of the subject; empty where it has none.
    pub cn: Arc<str>,
    /// Lower-case hex of the SHA-256 of the certificate.
    pub fingerprint: Arc<str>,
    /// Lower-case hex of the SHA-256 of the issuing CA's `SubjectPublicKeyInfo`.
    pub issuer: Arc<str>,
    /// Lower-case hex of the serial number, without leading zeros.
    pub serial: Arc<str>,
    /// The last second of validity, Unix time.
    pub not_after_unix_s: i64,
    /// The first SAN URI with scheme `spiffe`.
    pub spiffe: Option<Arc<str>>,
    /// SAN DNS names, in order.
    pub dns_names: Vec<Arc<str>>,
    /// SAN URIs, in order.
    pub uris: Vec<Arc<str>>,
    /// Organizational units of the subject, in order.
    pub organizational_units: Vec<Arc<str>>,
}

/// Why a certificate is not accepted as the source of an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The client showed none.
    #[error("there is no certificate")]
    Missing,
    /// The chain has too many certificates.
    #[error("the chain has {certificates} certificates; {certificates_max} are allowed")]
    ChainTooLong {
        /// How many there are.
        certificates: usize,
        /// The bound.
        certificates_max: usize,
    },
    /// A certificate is too large.
    #[error("a certificate has {bytes} bytes; {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Not a certificate in DER, or with an extension twice.
    #[error("the certificate is malformed")]
    Malformed,
    /// The subject has several common names, so that it is unclear which is meant.
    #[error("the subject has several common names")]
    SeveralCommonNames,
    /// There are several SPIFFE IDs, where SPIFFE allows one.
    #[error("the certificate has several SPIFFE IDs")]
    SeveralSpiffeIds,
    /// A name is not UTF-8, or of a string type that nobody should use any more.
    #[error("the {form} is not readable as UTF-8")]
    NameUnreadable {
        /// Which name.
        form: NameForm,
    },
    /// A name is too long.
    #[error("the {form} has {bytes} bytes; {bytes_max} are allowed")]
    NameTooLong {
        /// Which name.
        form: NameForm,
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A name has a NUL, a control character, or one that changes how the others are shown.
    #[error("the {form} contains the character U+{:04X}", u32::from(*character))]
    NameUnsafe {
        /// Which name.
        form: NameForm,
        /// The first such character.
        character: char,
    },
    /// A name that has to have contents has none.
    #[error("the {form} is empty")]
    NameEmpty {
        /// Which name.
        form: NameForm,
    },
    /// There are too many alternative names.
    #[error("the certificate has {names} alternative names; {names_max} are allowed")]
    TooManyNames {
        /// How many there are.
        names: usize,
        /// The bound.
        names_max: usize,
    },
    /// There are too many organizational units.
    #[error("the subject has {units} organizational units; {units_max} are allowed")]
    TooManyUnits {
        /// How many there are.
        units: usize,
        /// The bound.
        units_max: usize,
    },
    /// The serial number is negative or too long.
    #[error("the serial number is negative or longer than 20 bytes")]
    SerialInvalid,
    /// No trusted authority is known to have issued it.
    #[error("none of the trusted authorities has issued the certificate")]
    IssuerUnknown,
    /// The authority of the issuer's name has another key than the certificate says.
    #[error(
        "the authority of the issuer's name has another key identifier than the certificate names: \
         it was issued with an older or newer key of that authority, or by a tool that writes a \
         wrong one"
    )]
    IssuerKeyDiffers,
    /// Too many authorities share the issuer's name.
    #[error("too many authorities have the name of the certificate's issuer")]
    IssuerUnclear,
}

/// The forms of names that are read from a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// The common name in the subject.
    CommonName,
    /// An organizational unit in the subject.
    OrganizationalUnit,
    /// A DNS name among the subject alternative names.
    DnsName,
    /// A URI among the subject alternative names.
    Uri,
    /// Another form of subject alternative name.
    Other,
}

impl std::fmt::Display for NameForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CommonName => "common name",
            Self::OrganizationalUnit => "organizational unit",
            Self::DnsName => "DNS name",
            Self::Uri => "URI",
            Self::Other => "alternative name",
        })
    }
}

impl CertificateFacts {
    /// What revocation lists call the certificate.
    #[must_use]
    pub fn id(&self) -> Option<CertificateId> {
        let digits = self.serial.len();
        let serial =
            if digits % 2 == 1 { format!("0{}", self.serial) } else { self.serial.to_string() };
        let serial = Serial::new(&hex::decode(serial).ok()?)?;
        Some(CertificateId { issuer: fingerprint(&self.issuer)?, serial })
    }

    /// Reads the chain that a client showed, its own certificate first; also, which trusted
    /// authority stands behind it.
    ///
    /// INVARIANT: the chain has been verified against the same authorities as are in `trusted`;
    /// this function finds the issuer, it does not verify a chain.
    ///
    /// # Errors
    /// When a bound is exceeded, a name is unsafe or ambiguous, or the issuer is unknown.
    pub fn from_verified_chain(
        chain: &[CertificateDer<'_>],
        trusted: &TrustedIssuers,
    ) -> Result<(Self, TrustPath), CertificateError> {
        Shown::read(chain, trusted).map(|shown| (shown.facts, shown.path))
    }
}

/// All that a verified certificate says by which its client can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What policies and the audit log may know of it.
    pub facts: CertificateFacts,
    /// By what it is trusted.
    pub path: TrustPath,
    /// E-mail addresses among the alternative names, in order.
    pub emails: Vec<Arc<str>>,
    /// The parts of the subject's name that are readable, in order.
    pub subject: Vec<(SubjectPart, Arc<str>)>,
}

/// A part of a subject's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectPart {
    /// CN.
    CommonName,
    /// O.
    Organization,
    /// OU.
    OrganizationalUnit,
    /// C.
    Country,
    /// ST.
    State,
    /// L.
    Locality,
    /// The serial number of a device.
    SerialNumber,
    /// UID.
    Uid,
    /// DC.
    DomainComponent,
}

impl Shown {
    /// Reads the chain that a client has shown and the handshake has verified, leaf first.
    ///
    /// # Errors
    /// As [`CertificateFacts::from_verified_chain`].
    pub fn read(
        chain: &[CertificateDer<'_>],
        trusted: &TrustedIssuers,
    ) -> Result<Self, CertificateError> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::Missing)?;
        check_chain_size(leaf, intermediates)?;
        let certificate = parse(leaf)?;
        let names = AlternativeNames::read(&certificate)?;
        let cn = common_name(&certificate)?;
        let organizational_units = organizational_units(&certificate)?;
        let serial = serial(&certificate)?;
        let intermediates =
            intermediates.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
        let Vouched { issuer, anchor, between } =
            trusted.issuer_of(&certificate, &intermediates)?;
        let id = |issuer: &str, serial: &[u8]| {
            Some(CertificateId { issuer: fingerprint(issuer)?, serial: Serial::new(serial)? })
        };
        let own = id(&issuer, certificate.raw_serial());
        let above = between.iter().map(|(issuer, serial)| id(issuer, serial));
        let certificates = std::iter::once(own).chain(above).collect::<Option<_>>();
        let certificates = certificates.ok_or(CertificateError::SerialInvalid)?;
        let facts = CertificateFacts {
            cn,
            fingerprint: fingerprint_of(leaf).into(),
            issuer,
            serial,
            not_after_unix_s: certificate.validity().not_after.timestamp(),
            spiffe: names.spiffe()?,
            dns_names: names.dns_names,
            uris: names.uris,
            organizational_units,
        };
        Ok(Self {
            facts,
            path: TrustPath { certificates, anchor },
            emails: names.emails,
            subject: subject_parts(&certificate),
        })
    }

    /// True when the key with this SHA-256, lower-case hex, is of an authority of the path.
    #[must_use]
    pub fn has_issuer(&self, wanted: &str) -> bool {
        let Some(wanted) = fingerprint(wanted) else { return false };
        self.path.certificates.iter().any(|certificate| certificate.issuer == wanted)
    }

    /// The only value of a part of the subject's name.
    #[must_use]
    pub fn only(&self, part: SubjectPart) -> Option<&Arc<str>> {
        let mut values = self.subject.iter().filter(|(found, _)| *found == part);
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value)
    }
}

/// The parts of a subject that are readable, bounded, and without characters that no name needs.
fn subject_parts(certificate: &X509Certificate<'_>) -> Vec<(SubjectPart, Arc<str>)> {
    let read = |attribute: &AttributeTypeAndValue<'_>| {
        let part = SubjectPart::OIDS.iter().find(|(oid, _)| oid == attribute.attr_type())?.1;
        let text = attribute.as_str().ok()?;
        Some((part, check_name(NameForm::CommonName, text).ok()?))
    };
    certificate.subject().iter_attributes().filter_map(read).take(SUBJECT_PARTS_MAX).collect()
}

impl SubjectPart {
    const OIDS: [(Oid<'static>, Self); 9] = [
        (OID_X509_COMMON_NAME, Self::CommonName),
        (OID_X509_ORGANIZATION_NAME, Self::Organization),
        (OID_X509_ORGANIZATIONAL_UNIT, Self::OrganizationalUnit),
        (OID_X509_COUNTRY_NAME, Self::Country),
        (OID_X509_STATE_OR_PROVINCE_NAME, Self::State),
        (OID_X509_LOCALITY_NAME, Self::Locality),
        (OID_X509_SERIALNUMBER, Self::SerialNumber),
        (oid!(0.9.2342.19200300.100.1.1), Self::Uid),
        (OID_DOMAIN_COMPONENT, Self::DomainComponent),
    ];
}

/// The certificates by which a client's is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPath {
    /// The client's own first; the trusted authority's is not among them.
    pub certificates: Box<[CertificateId]>,
    /// Where it ends.
    pub anchor: Anchor,
}

/// Lower-case hex of the SHA-256 of a certificate.
#[must_use]
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    pki::sha256_hex(certificate)
}

/// Refuses a chain that is too long or has too large a certificate, before anything parses it.
///
/// # Errors
/// When it exceeds [`CHAIN_CERTIFICATES_MAX`] or [`CERTIFICATE_BYTES_MAX`].
pub fn check_chain_size(
    leaf: &[u8],
    intermediates: &[CertificateDer<'_>],
) -> Result<(), CertificateError> {
    let certificates = intermediates.len().saturating_add(1);
    if certificates > CHAIN_CERTIFICATES_MAX {
        return Err(CertificateError::ChainTooLong {
            certificates,
            certificates_max: CHAIN_CERTIFICATES_MAX,
        });
    }
    check_size(leaf)?;
    intermediates.iter().try_for_each(|der| check_size(der))
}

fn check_size(der: &[u8]) -> Result<(), CertificateError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(CertificateError::TooLarge {
            bytes: der.len(),
            bytes_max: CERTIFICATE_BYTES_MAX,
        });
    }
    Ok(())
}

/// Parses one certificate with nothing behind it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    check_size(der)?;
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<Arc<str>, CertificateError> {
    let form = NameForm::CommonName;
    let mut names = certificate.subject().iter_common_name();
    let Some(name) = names.next() else { return Ok("".into()) };
    if names.next().is_some() {
        return Err(CertificateError::SeveralCommonNames);
    }
    let text = name.as_str().map_err(|_| CertificateError::NameUnreadable { form })?;
    check_name(form, text)
}

fn organizational_units(
    certificate: &X509Certificate<'_>,
) -> Result<Vec<Arc<str>>, CertificateError> {
    let form = NameForm::OrganizationalUnit;
    let units = certificate.subject().iter_organizational_unit().count();
    if units > ORGANIZATIONAL_UNITS_MAX {
        return Err(CertificateError::TooManyUnits { units, units_max: ORGANIZATIONAL_UNITS_MAX });
    }
    let read = |unit: &AttributeTypeAndValue<'_>| {
        let text = unit.as_str().map_err(|_| CertificateError::NameUnreadable { form })?;
        check_name(form, text)
    };
    certificate.subject().iter_organizational_unit().map(read).collect()
}

/// Refuses a name that is too long or has characters that no name needs.
pub(super) fn check_name(form: NameForm, text: &str) -> Result<Arc<str>, CertificateError> {
    let bytes_max = match form {
        NameForm::CommonName => COMMON_NAME_BYTES_MAX,
        NameForm::OrganizationalUnit => ORGANIZATIONAL_UNIT_BYTES_MAX,
        NameForm::DnsName | NameForm::Uri | NameForm::Other => ALTERNATIVE_NAME_BYTES_MAX,
    };
    if text.is_empty() {
        return Err(CertificateError::NameEmpty { form });
    }
    if text.len() > bytes_max {
        return Err(CertificateError::NameTooLong { form, bytes: text.len(), bytes_max });
    }
    let character = match form {
        NameForm::DnsName | NameForm::Uri => text.chars().find(|c| !c.is_ascii_graphic()),
        NameForm::CommonName | NameForm::OrganizationalUnit | NameForm::Other => {
            pki::unsafe_character(text)
        }
    };
    match character {
        Some(character) => Err(CertificateError::NameUnsafe { form, character }),
        None => Ok(text.into()),
    }
}

/// The subject alternative names that identities are made of.
#[derive(Default)]
struct AlternativeNames {
    dns_names: Vec<Arc<str>>,
    uris: Vec<Arc<str>>,
    emails: Vec<Arc<str>>,
}

impl AlternativeNames {
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let mut names = Self::default();
        let extension =
            certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
        let Some(extension) = extension else { return Ok(names) };
        let all = &extension.value.general_names;
        if all.len() > ALTERNATIVE_NAMES_MAX {
            return Err(CertificateError::TooManyNames {
                names: all.len(),
                names_max: ALTERNATIVE_NAMES_MAX,
            });
        }
        for name in all {
            match name {
                GeneralName::DNSName(text) => {
                    names.dns_names.push(check_name(NameForm::DnsName, text)?);
                }
                // Nobody is named by one that could be read in two ways, and nothing else shows it.
                GeneralName::RFC822Name(text) => {
                    names.emails.extend(check_name(NameForm::DnsName, text).ok());
                }
                GeneralName::URI(text) => names.uris.push(check_name(NameForm::Uri, text)?),
                GeneralName::Invalid(tag, _) => {
                    let form = match tag.0 {
                        2 => NameForm::DnsName,
                        6 => NameForm::Uri,
                        _ => NameForm::Other,
                    };
                    return Err(CertificateError::NameUnreadable { form });
                }
                // No identity comes from them, and nothing shows them.
                _ => {}
            }
        }
        Ok(names)
    }

    fn spiffe(&self) -> Result<Option<Arc<str>>, CertificateError> {
        let mut ids = self.uris.iter().filter(|uri| {
            uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
        });
        let first = ids.next().cloned();
        if ids.next().is_some() { Err(CertificateError::SeveralSpiffeIds) } else { Ok(first) }
    }
}

fn serial(certificate: &X509Certificate<'_>) -> Result<Arc<str>, CertificateError> {
    let bytes = certificate.raw_serial();
    // Two's complement: without its leading zero, 255 would read as -1 and the other way round.
    let negative = bytes.first().is_none_or(|first| first & 0x80 != 0);
    if negative || bytes.len() > SERIAL_BYTES_MAX {
        return Err(CertificateError::SerialInvalid);
    }
    Ok(pki::serial_hex(bytes).into())
}

#[cfg(test)]
mod tests;
