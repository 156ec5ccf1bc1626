//! Tests of [`super`].

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;
use crate::pki::ProfileName;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn der(params: &CertificateParams) -> Vec<u8> {
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn device() -> Profile {
    Profile::built_in(ProfileName::Device).unwrap()
}

/// What a request for a device certificate comes to.
fn judged(params: &CertificateParams) -> Result<Subject, RequestError> {
    Request::read(&der(params))?.subject(&device(), None)
}

#[test]
fn a_request_says_whom_it_is_for_and_the_profile_says_the_rest() {
    let mut asked = params("pump-1");
    asked.subject_alt_names = vec![
        SanType::DnsName("a.b".try_into().unwrap()),
        SanType::URI("spiffe://plant/pump-1".try_into().unwrap()),
    ];
    asked.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    asked.is_ca = IsCa::ExplicitNoCa;
    let subject = judged(&asked).unwrap();
    assert_eq!(subject.name, "pump-1");
    assert_eq!(subject.alternative_names.dns, ["a.b"]);
    assert_eq!(subject.alternative_names.uri, ["spiffe://plant/pump-1"]);

    let key = KeyPair::generate().unwrap();
    let pem = params("pump-1").serialize_request(&key).unwrap().pem().unwrap();
    let request = Request::read(pem.as_bytes()).unwrap();
    assert_eq!(request.name(), Some("pump-1"));
    let same = request.subject(&device(), Some("pump-1")).unwrap();
    assert_eq!(same, Subject::named("pump-1"));
    let other = request.subject(&device(), Some("pump-2")).unwrap_err();
    assert!(matches!(other, RequestError::OtherName { .. }), "{other}");
}

#[test]
fn a_request_without_a_name_is_for_whom_the_operator_says() {
    let mut nameless = params("");
    nameless.distinguished_name = DistinguishedName::new();
    let request = Request::read(&der(&nameless)).unwrap();
    assert_eq!(request.subject(&device(), None), Err(RequestError::NoName));
    assert_eq!(request.subject(&device(), Some("pump")).unwrap(), Subject::named("pump"));
}

#[test]
fn a_request_that_asks_for_more_is_refused_with_what_and_why() {
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut asked = params("pump-1");
        change(&mut asked);
        asked
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    for (asked, expected) in [
        (with(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "CA:TRUE"),
        (with(&|p| p.distinguished_name.push(DnType::OrganizationalUnitName, "ops")), "OU=ops"),
        (
            with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "extended key usage ServerAuth, which the profile `device`",
        ),
        (
            with(&|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            "key usage KeyCertSign, which the profile `device`",
        ),
        (
            with(&|p| p.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())]),
            "does not allow IP addresses",
        ),
        (
            with(&|p| {
                p.subject_alt_names = vec![SanType::Rfc822Name("a@b.c".try_into().unwrap())];
            }),
            "does not allow addresses of e-mail",
        ),
        (with(&|p| p.subject_alt_names = vec![dns("*.a.b")]), "`*.a.b` is not a DNS name"),
        (with(&|p| p.subject_alt_names = vec![dns("a\0b")]), "is not a DNS name"),
        (
            with(&|p| p.subject_alt_names = vec![SanType::URI("spiffe://P/a".try_into().unwrap())]),
            "is not a SPIFFE ID",
        ),
        (
            with(&|p| p.subject_alt_names = (0..100).map(|n| dns(&format!("a{n}.b"))).collect()),
            "100 alternative names; 63 are allowed",
        ),
        (
            with(&|p| {
                let oid = [1, 3, 6, 1, 4, 1, 99_999, 1];
                p.custom_extensions = vec![CustomExtension::from_oid_content(&oid, vec![5, 0])];
            }),
            "the extension 1.3.6.1.4.1.99999.1",
        ),
        (params("a/b"), "`/`"),
        (params("a+"), "`+`"),
        (params("#"), "`#`"),
        (params("$SYS"), "begins with `$`"),
        (params("a\0b"), "U+0000"),
        (params("a\u{202e}b"), "U+202E"),
        (params(&"x".repeat(65)), "65 bytes; 64 are allowed"),
        (params(&"x".repeat(32_000)), "32000 bytes; 64 are allowed"),
    ] {
        let error = judged(&asked).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.len() < 4_096, "a request does not fill a terminal: {}", error.len());
    }
    let server = Profile::built_in(ProfileName::Server).unwrap();
    let wildcard = Request::read(&der(&params("*"))).unwrap();
    assert!(wildcard.subject(&server, None).is_err());
    assert!(wildcard.subject(&device(), None).is_ok(), "a star means nothing in a topic");
}

#[test]
fn what_is_no_request_or_not_of_its_key_is_refused() {
    let whole = der(&params("pump-1"));
    for cut in 0..whole.len() {
        assert!(Request::read(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_eq!(Request::read(&longer).unwrap_err(), RequestError::Malformed);
    // Any change of what is signed shows, and any other leads to the same or to a refusal.
    let read = Request::read(&whole).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&whole).unwrap();
    let signed = 4 + parsed.certification_request_info.raw.len();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        if let Ok(changed) = Request::read(&changed) {
            assert!(at >= signed, "changed at {at}");
            assert_eq!(changed.name(), read.name());
            assert_eq!(changed.public_key, read.public_key);
        }
    }
    assert_eq!(Request::read(b"").unwrap_err(), RequestError::Malformed);
    assert_eq!(Request::read(b"-----BEGIN nonsense").unwrap_err(), RequestError::Malformed);
    let huge = vec![0x30; REQUEST_BYTES_MAX + 1];
    assert!(matches!(Request::read(&huge).unwrap_err(), RequestError::TooLarge { .. }));
    let mut odd = params("");
    odd.distinguished_name = DistinguishedName::new();
    odd.distinguished_name.push(DnType::CommonName, DnValue::BmpString("a".try_into().unwrap()));
    assert_eq!(judged(&odd).unwrap_err(), RequestError::AmbiguousName);
}

#[test]
fn a_key_that_is_weak_or_unknown_is_refused() {
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let request = params("pump").serialize_request(&p521).unwrap();
    assert_eq!(Request::read(request.der()).unwrap_err(), RequestError::UnfitKey);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = params("pump").serialize_request(&key).unwrap();
        assert!(Request::read(request.der()).is_ok(), "{algorithm:?}");
    }
}
