//! Certificate signing requests: read, their signature checked, and held against a profile.
//!
//! A request says whom it is for and which key, and nothing else of it ends up in a certificate:
//! the rest is what the profile says. What asks for more than that is refused by name, since a
//! certificate that lacks what was asked for would fail later, and elsewhere.

use std::net::IpAddr;

use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OidRegistry};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::name::AlternativeForm;
use super::profile::Profile;
use super::{AlternativeNames, NameError, key};
use crate::harmless::harmless;

/// Bytes of a request; one with an RSA key of 8,192 bits and 63 names is smaller.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of what is repeated of a request in an error.
const SHOWN_BYTES_MAX: usize = 80;

/// Why a request is refused. Each says what it asks for, and what can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is larger than any request.
    #[error("the request has {bytes} bytes; {REQUEST_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is no request, or only a part of one.
    #[error("not a certificate signing request (PKCS#10) in PEM or DER, or cut off")]
    Malformed,
    /// Who made it does not have the private key, or the bytes have changed.
    #[error(
        "the request's signature is not of its key, or of a kind that is not taken (ECDSA or RSA with SHA-256 or more, Ed25519)"
    )]
    BadSignature,
    /// Its key is weak, or of an unknown kind.
    #[error(
        "the request's key is not taken: P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits are"
    )]
    UnfitKey,
    /// It asks to be an authority.
    #[error("the request asks for a certificate that can issue others (CA:TRUE); none is given")]
    AsksForAuthority,
    /// It asks for a part of the name that no certificate has.
    #[error(
        "the request asks for {what} in its subject; the common name is all there may be, as in: -subj /CN=NAME"
    )]
    AsksForSubject {
        /// The attribute.
        what: String,
    },
    /// The common name is there twice, or is no text.
    #[error("the request's common name is there more than once, or is no text")]
    AmbiguousName,
    /// Nobody says whom it is for.
    #[error("the request names nobody, so the name has to be given: --name NAME")]
    NoName,
    /// It is for somebody else.
    #[error("the request is for {asked:?}, not for {name:?}")]
    OtherName {
        /// The name in the request.
        asked: String,
        /// The name that it may have.
        name: String,
    },
    /// It asks for other alternative names than the certificate that it renews.
    #[error(
        "the request's alternative names are not those of the certificate it takes the place of; renewing changes no names"
    )]
    OtherAlternativeNames,
    /// It asks for a usage that the profile does not have.
    #[error("the request asks for the {kind} {what}, which the profile `{profile}` does not give")]
    AsksForUsage {
        /// `key usage` or `extended key usage`.
        kind: &'static str,
        /// Which.
        what: String,
        /// The profile.
        profile: &'static str,
    },
    /// It asks for an alternative name of a kind that is never given.
    #[error(
        "the request asks for an alternative name that is no DNS name, IP address, URI or address of e-mail"
    )]
    AsksForOtherName,
    /// It asks for an extension that is never given.
    #[error("the request asks for the extension {what}, which is not for requests to say")]
    AsksForExtension {
        /// Its name or object identifier.
        what: String,
    },
    /// It asks twice.
    #[error("the request asks for {what} twice")]
    AsksTwice {
        /// For what.
        what: String,
    },
    /// A name is not allowed.
    #[error("the request's name: {0}")]
    Name(#[from] NameError),
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The common name: the identity of a client, the host of a broker.
    pub name: String,
    /// Its alternative names; the host of a broker is added to them.
    pub alternative_names: AlternativeNames,
}

impl Subject {
    /// A subject without alternative names.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), alternative_names: AlternativeNames::default() }
    }

    /// Refuses names that `profile` does not allow.
    ///
    /// # Errors
    /// Which rule which of them breaks.
    pub fn check(&self, profile: &Profile) -> Result<(), NameError> {
        profile.name_rule.check(&self.name)?;
        let allowed = &profile.alternative_names;
        self.alternative_names.checked(profile.name_rule, &self.name, allowed).map(drop)
    }
}

/// A request whose signature is good: whoever made it has the private key. What it asks for is
/// not checked yet; see [`Request::subject`].
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) public_key: rcgen::SubjectPublicKeyInfo,
    name: Option<String>,
    alternative_names: AlternativeNames,
    key_usages: Vec<rcgen::KeyUsagePurpose>,
    extended_key_usages: Vec<rcgen::ExtendedKeyUsagePurpose>,
}

impl Request {
    /// Reads a request, PEM or DER, and checks its signature.
    ///
    /// # Errors
    /// When it is too large, malformed, signed by another key or with a weak one, or asks for
    /// something that no profile gives.
    pub fn read(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge { bytes: bytes.len() });
        }
        let is_pem = bytes.windows(10).any(|window| window == b"-----BEGIN");
        let der = if is_pem {
            CertificateSigningRequestDer::from_pem_slice(bytes)
                .map_err(|_| RequestError::Malformed)?
        } else {
            CertificateSigningRequestDer::from(bytes)
        };
        let (rest, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &parsed.certification_request_info;
        if !key::is_strong(info.subject_pki.raw) {
            return Err(RequestError::UnfitKey);
        }
        let (name, alternative_names) = (common_name(&info.subject)?, asked_names(&parsed)?);
        let checked = CertificateSigningRequestParams::from_der(&der).map_err(|error| {
            use rcgen::Error::{
                InvalidCertificationRequestSignature, UnsupportedSignatureAlgorithm,
            };
            match error {
                InvalidCertificationRequestSignature | UnsupportedSignatureAlgorithm => {
                    RequestError::BadSignature
                }
                _ => RequestError::Malformed,
            }
        })?;
        // The algorithm of the key, and not of the signature: a key on P-384 may sign with SHA-256.
        let public_key = rcgen::SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|_| RequestError::UnfitKey)?;
        Ok(Self {
            public_key,
            name,
            alternative_names,
            key_usages: checked.params.key_usages,
            extended_key_usages: checked.params.extended_key_usages,
        })
    }

    /// The common name that it asks for.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Lower-case hex of the SHA-256 of its `SubjectPublicKeyInfo`, as in
    /// [`Certificate::key`](super::inventory::Certificate::key).
    #[must_use]
    pub fn key_hash(&self) -> String {
        super::sha256_hex(&rcgen::PublicKeyData::subject_public_key_info(&self.public_key))
    }

    /// The alternative names that it asks for.
    #[must_use]
    pub const fn alternative_names(&self) -> &AlternativeNames {
        &self.alternative_names
    }

    /// Whom a certificate of `profile` would be for. With `name`, it may be for nobody else.
    ///
    /// # Errors
    /// When it asks for what the profile does not give, or for another name.
    pub fn subject(&self, profile: &Profile, name: Option<&str>) -> Result<Subject, RequestError> {
        let name = match (&self.name, name) {
            (Some(asked), Some(name)) if asked != name => {
                let (asked, name) = (shown(asked), shown(name));
                return Err(RequestError::OtherName { asked, name });
            }
            (Some(asked), _) => asked.as_str(),
            (None, Some(name)) => name,
            (None, None) => return Err(RequestError::NoName),
        };
        let refused =
            |kind, what| RequestError::AsksForUsage { kind, what, profile: profile.name.as_str() };
        for usage in &self.key_usages {
            if !profile.key_usages.contains(usage) {
                return Err(refused("key usage", format!("{usage:?}")));
            }
        }
        for usage in &self.extended_key_usages {
            if !profile.extended_key_usages.contains(usage) {
                return Err(refused("extended key usage", format!("{usage:?}")));
            }
        }
        let alternative_names = self.alternative_names.clone();
        let subject = Subject { name: name.to_owned(), alternative_names };
        subject.check(profile)?;
        Ok(subject)
    }
}

/// The only thing that the subject may say.
fn common_name(subject: &X509Name<'_>) -> Result<Option<String>, RequestError> {
    let registry = OidRegistry::default().with_x509();
    let mut name = None;
    for attribute in subject.iter_attributes() {
        if *attribute.attr_type() != OID_X509_COMMON_NAME {
            let oid = attribute.attr_type();
            let what = x509_parser::objects::oid2abbrev(oid, &registry)
                .map_or_else(|_| oid.to_id_string(), ToOwned::to_owned);
            let value = attribute.as_str().map(shown).unwrap_or_default();
            return Err(RequestError::AsksForSubject { what: format!("{what}={value}") });
        }
        let text = attribute.as_str().map_err(|_| RequestError::AmbiguousName)?;
        if name.replace(text.to_owned()).is_some() {
            return Err(RequestError::AmbiguousName);
        }
    }
    Ok(name)
}

/// The alternative names that the request asks for, once nothing else is asked that nobody gets.
fn asked_names(parsed: &X509CertificationRequest<'_>) -> Result<AlternativeNames, RequestError> {
    let mut requests =
        parsed.certification_request_info.iter_attributes().filter_map(|attribute| match attribute
            .parsed_attribute()
        {
            ParsedCriAttribute::ExtensionRequest(request) => Some(request),
            _ => None,
        });
    let mut names = AlternativeNames::default();
    let Some(request) = requests.next() else { return Ok(names) };
    if requests.next().is_some() {
        return Err(RequestError::AsksTwice { what: "extensions".to_owned() });
    }
    let mut seen = Vec::new();
    for extension in &request.extensions {
        if seen.contains(&&extension.oid) {
            return Err(RequestError::AsksTwice { what: extension_name(extension) });
        }
        seen.push(&extension.oid);
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(RequestError::AsksForAuthority);
            }
            ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_) => {}
            ParsedExtension::ExtendedKeyUsage(ExtendedKeyUsage { other, .. }) => {
                if let Some(other) = other.first() {
                    let what = format!("extendedKeyUsage {}", other.to_id_string());
                    return Err(RequestError::AsksForExtension { what });
                }
            }
            ParsedExtension::SubjectAlternativeName(asked) => {
                for name in &asked.general_names {
                    take_in(&mut names, name)?;
                }
            }
            _ => {
                return Err(RequestError::AsksForExtension { what: extension_name(extension) });
            }
        }
    }
    Ok(names)
}

fn extension_name(extension: &X509Extension<'_>) -> String {
    let registry = OidRegistry::default().with_x509();
    x509_parser::objects::oid2sn(&extension.oid, &registry)
        .map_or_else(|_| extension.oid.to_id_string(), ToOwned::to_owned)
}

fn take_in(names: &mut AlternativeNames, name: &GeneralName<'_>) -> Result<(), RequestError> {
    match name {
        GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
        GeneralName::URI(uri) => names.uri.push((*uri).to_owned()),
        GeneralName::RFC822Name(address) => names.email.push((*address).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            names.ip.push(address.map_err(|_| RequestError::AsksForOtherName)?);
        }
        _ => return Err(RequestError::AsksForOtherName),
    }
    Ok(())
}

/// A text of a stranger as it may stand in an error.
fn shown(text: &str) -> String {
    let (head, rest) = text.split_at(text.floor_char_boundary(SHOWN_BYTES_MAX));
    harmless(head).replace(['\n', '\t'], " ") + if rest.is_empty() { "" } else { "…" }
}

/// The bytes are a request, PEM or DER: refused, or what is issued for it under each profile says
/// what it asked for and no more.
///
/// # Panics
/// When a profile gives a name or a usage that it does not have.
#[doc(hidden)]
#[expect(clippy::panic, reason = "a fuzzer looks for panics")]
pub fn fuzz_request(data: &[u8]) {
    use super::ProfileName;
    let Ok(request) = Request::read(data) else { return };
    for name in ProfileName::ISSUED {
        let Ok(profile) = Profile::built_in(name) else { panic!("the profile {name:?}") };
        let Ok(subject) = request.subject(&profile, None) else { continue };
        assert_eq!(profile.name_rule.check(&subject.name), Ok(()), "{subject:?}");
        let has_uris = !subject.alternative_names.uri.is_empty();
        assert!(!has_uris || profile.alternative_names.contains(&AlternativeForm::Uri));
        assert!(request.key_usages.iter().all(|usage| profile.key_usages.contains(usage)));
    }
}

#[cfg(test)]
mod tests;
