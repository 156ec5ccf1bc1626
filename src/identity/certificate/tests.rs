//! Tests of [`super`].

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    PublicKeyData as _, SanType, SerialNumber,
};

use super::*;
use crate::identity::{Binding, Identity, IdentityError, PrincipalKind, Settings, Source};

/// An authority as only a test needs it: any name, any key, any issuer.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn issue(&self, params: &CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }

    fn fingerprint(&self) -> String {
        pki::sha256_hex(&self.issuer.key().subject_public_key_info())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    params.serial_number = Some(SerialNumber::from(vec![0x11; 16]));
    params.use_authority_key_identifier_extension = true;
    params
}

fn facts(
    chain: &[CertificateDer<'_>],
    trusted: &[&Authority],
) -> Result<CertificateFacts, CertificateError> {
    let trusted: Vec<_> = trusted.iter().map(|authority| authority.der.clone()).collect();
    CertificateFacts::from_verified_chain(chain, &TrustedIssuers::new(&trusted).unwrap())
        .map(|(facts, _)| facts)
}

/// What becomes of a certificate with these parameters and, after signing, these bytes replaced.
fn facts_of(
    params: &CertificateParams,
    patch: Option<(&[u8], &[u8])>,
) -> Result<CertificateFacts, CertificateError> {
    let authority = Authority::root("ca");
    let mut der = authority.issue(params).to_vec();
    if let Some((from, to)) = patch {
        assert_eq!(from.len(), to.len());
        let at = der.windows(from.len()).position(|window| window == from).unwrap();
        der[at..at + to.len()].copy_from_slice(to);
    }
    facts(&[der.into()], &[&authority])
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// Adds one more organizational unit, which rcgen's own type would only replace.
fn push_unit(params: &mut CertificateParams, unit: impl Into<DnValue>) {
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), unit);
}

#[test]
fn every_fact_is_read_from_the_certificate() {
    let authority = Authority::root("ca");
    let mut params = params("pump-1");
    params.serial_number = Some(SerialNumber::from(vec![0x00, 0x0a, 0xff]));
    params.subject_alt_names = vec![
        dns("pump-1.example"),
        uri("urn:pump:1"),
        SanType::IpAddress([192, 0, 2, 1].into()),
        uri("spiffe://example/pump-1"),
        dns("pump.example"),
    ];
    params.distinguished_name.push(DnType::OrganizationalUnitName, "Pumps");
    push_unit(&mut params, "Plant 7");
    let leaf = authority.issue(&params);
    let facts = facts(std::slice::from_ref(&leaf), &[&authority]).unwrap();
    assert_eq!(
        facts,
        CertificateFacts {
            cn: "pump-1".into(),
            fingerprint: pki::sha256_hex(&leaf).into(),
            issuer: authority.fingerprint().into(),
            serial: "aff".into(),
            not_after_unix_s: 2_524_608_000,
            spiffe: Some("spiffe://example/pump-1".into()),
            dns_names: vec!["pump-1.example".into(), "pump.example".into()],
            uris: vec!["urn:pump:1".into(), "spiffe://example/pump-1".into()],
            organizational_units: vec!["Pumps".into(), "Plant 7".into()],
        }
    );
}

#[test]
fn a_common_name_that_can_be_read_in_two_ways_is_refused() {
    let form = NameForm::CommonName;
    let unsafe_name = |character| CertificateError::NameUnsafe { form, character };
    let long = "x".repeat(257);
    for (name, expected) in [
        ("a\0b", unsafe_name('\0')),
        ("a\nb", unsafe_name('\n')),
        ("\u{1b}[2J", unsafe_name('\u{1b}')),
        ("a\u{202e}b", unsafe_name('\u{202e}')),
        ("a\u{feff}", unsafe_name('\u{feff}')),
        ("", CertificateError::NameEmpty { form }),
        (&long, CertificateError::NameTooLong { form, bytes: 257, bytes_max: 256 }),
    ] {
        assert_eq!(facts_of(&params(name), None), Err(expected), "{name:?}");
    }
}

#[test]
fn a_common_name_that_is_not_utf_8_is_refused() {
    let refused = Err(CertificateError::NameUnreadable { form: NameForm::CommonName });
    for (from, to) in
        [(&b"pump"[..], &b"pu\xffp"[..]), (b"pump", b"p\xc0\x80p"), (b"pump", b"p\xed\xa0\x80")]
    {
        assert_eq!(facts_of(&params("pump"), Some((from, to))), refused, "{to:x?}");
    }
    let mut teletex = params("");
    teletex
        .distinguished_name
        .push(DnType::CommonName, DnValue::TeletexString("pump".try_into().unwrap()));
    assert_eq!(facts_of(&teletex, None), refused);
}

#[test]
fn several_common_names_are_refused_as_ambiguous() {
    let mut params = params("pump-1");
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "pump-2");
    assert_eq!(facts_of(&params, None), Err(CertificateError::SeveralCommonNames));
}

#[test]
fn an_organizational_unit_that_can_be_read_in_two_ways_is_refused() {
    let form = NameForm::OrganizationalUnit;
    let long = "x".repeat(257);
    let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
    for (unit, expected) in [
        (utf8(""), CertificateError::NameEmpty { form }),
        (utf8("a\0b"), CertificateError::NameUnsafe { form, character: '\0' }),
        (utf8("a\u{202e}b"), CertificateError::NameUnsafe { form, character: '\u{202e}' }),
        (utf8(&long), CertificateError::NameTooLong { form, bytes: 257, bytes_max: 256 }),
        (
            DnValue::TeletexString("Operators".try_into().unwrap()),
            CertificateError::NameUnreadable { form },
        ),
        (
            DnValue::BmpString("Operators".try_into().unwrap()),
            CertificateError::NameUnreadable { form },
        ),
    ] {
        // Behind a good one, so that every unit is looked at.
        let mut params = params("pump");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Pumps");
        push_unit(&mut params, unit);
        assert_eq!(facts_of(&params, None), Err(expected));
    }
    let mut broken = params("pump");
    broken.distinguished_name.push(DnType::OrganizationalUnitName, "Operators");
    assert_eq!(
        facts_of(&broken, Some((b"Operators", b"Op\xffrators"))),
        Err(CertificateError::NameUnreadable { form })
    );
}

#[test]
fn organizational_units_are_bounded() {
    // Of each type rcgen takes one value only, so the bytes of others are changed into units.
    let with = |units: u8| {
        let mut params = params("pump");
        for number in 0..units {
            params
                .distinguished_name
                .push(DnType::CustomDnType(vec![2, 5, 4, 100 + u64::from(number)]), "u");
        }
        let authority = Authority::root("ca");
        let mut der = authority.issue(&params).to_vec();
        for number in 0..units {
            let of_type = [0x06, 0x03, 0x55, 0x04, 100 + number];
            let at = der.windows(5).position(|window| window == of_type).unwrap();
            der[at + 4] = 11;
        }
        facts(&[der.into()], &[&authority])
    };
    assert_eq!(with(16).unwrap().organizational_units.len(), 16);
    assert_eq!(with(17), Err(CertificateError::TooManyUnits { units: 17, units_max: 16 }));
}

#[test]
fn a_hostile_alternative_name_is_refused() {
    let unsafe_name = |form, character| Err(CertificateError::NameUnsafe { form, character });
    for (names, expected) in [
        (vec![dns("a\0.example")], unsafe_name(NameForm::DnsName, '\0')),
        (vec![dns("a b")], unsafe_name(NameForm::DnsName, ' ')),
        (vec![uri("urn:a\u{7f}")], unsafe_name(NameForm::Uri, '\u{7f}')),
        (vec![dns("")], Err(CertificateError::NameEmpty { form: NameForm::DnsName })),
        (
            vec![dns("a.example"); 65],
            Err(CertificateError::TooManyNames { names: 65, names_max: 64 }),
        ),
        (
            vec![uri(&format!("urn:{}", "x".repeat(2045)))],
            Err(CertificateError::NameTooLong {
                form: NameForm::Uri,
                bytes: 2049,
                bytes_max: 2048,
            }),
        ),
        (vec![uri("spiffe://a/b"), uri("SPIFFE://a/c")], Err(CertificateError::SeveralSpiffeIds)),
    ] {
        let mut params = params("pump");
        params.subject_alt_names = names;
        assert_eq!(facts_of(&params, None), expected);
    }
    let mut params = params("pump");
    params.subject_alt_names = vec![dns("host.example")];
    assert_eq!(
        facts_of(&params, Some((b"host.", b"h\xffst."))),
        Err(CertificateError::NameUnreadable { form: NameForm::DnsName })
    );
}

#[test]
fn a_negative_serial_number_is_refused() {
    let negative = [0x91, 0x11, 0x11, 0x11];
    assert_eq!(
        facts_of(&params("pump"), Some((&[0x11; 4], &negative))),
        Err(CertificateError::SerialInvalid)
    );
}

#[test]
fn a_chain_beyond_its_bounds_is_refused_unparsed() {
    let garbage = CertificateDer::from(vec![0_u8; 4]);
    let huge = CertificateDer::from(vec![0_u8; CERTIFICATE_BYTES_MAX + 1]);
    let authority = Authority::root("ca");
    for (chain, expected) in [
        (vec![], CertificateError::Missing),
        (vec![garbage.clone()], CertificateError::Malformed),
        (
            vec![garbage.clone(); 9],
            CertificateError::ChainTooLong { certificates: 9, certificates_max: 8 },
        ),
        (
            vec![garbage, huge],
            CertificateError::TooLarge {
                bytes: CERTIFICATE_BYTES_MAX + 1,
                bytes_max: CERTIFICATE_BYTES_MAX,
            },
        ),
    ] {
        assert_eq!(facts(&chain, &[&authority]), Err(expected));
    }
    let mut trailing = authority.issue(&params("pump")).to_vec();
    trailing.push(0);
    assert_eq!(facts(&[trailing.into()], &[&authority]), Err(CertificateError::Malformed));
}

#[test]
fn the_issuer_is_the_authority_whose_key_signed() {
    let root = Authority::root("ca");
    let (old, new) = (Authority::root("rolling"), Authority::root("rolling"));
    let between = root.below("between");
    let leaf = params("pump");
    for (issuer, trusted) in [
        (&root, vec![&old, &new, &root]),
        (&old, vec![&old, &new]),
        (&new, vec![&old, &new]),
        (&new, vec![&new, &old]),
    ] {
        let facts = facts(&[issuer.issue(&leaf)], &trusted).unwrap();
        assert_eq!(*facts.issuer, *issuer.fingerprint());
    }
    let facts = facts(&[between.issue(&leaf), between.der.clone()], &[&root]).unwrap();
    assert_eq!(*facts.issuer, *between.fingerprint());
}

#[test]
fn a_chain_is_trusted_as_long_as_the_authority_at_its_end() {
    let (root, other) = (Authority::root("ca"), Authority::root("other"));
    let between = root.below("between");
    let lowest = between.below("lowest");
    let trusted = |authorities: &[&Authority]| {
        let ders: Vec<_> = authorities.iter().map(|authority| authority.der.clone()).collect();
        TrustedIssuers::new(&ders).unwrap()
    };
    let leaf = params("pump");
    for chain in [
        vec![root.issue(&leaf)],
        vec![between.issue(&leaf), between.der.clone()],
        vec![lowest.issue(&leaf), lowest.der.clone(), between.der.clone()],
        vec![lowest.issue(&leaf), between.der.clone(), lowest.der.clone()],
    ] {
        let read = CertificateFacts::from_verified_chain(&chain, &trusted(&[&other, &root]));
        let (_, path) = read.unwrap();
        assert!(trusted(&[&root]).trust(&path.anchor));
        assert!(!trusted(&[&other]).trust(&path.anchor));
        // An intermediate that is an authority in its own right is not where this chain ended.
        assert!(!trusted(&[&between]).trust(&path.anchor));
        assert!(!trusted(&[]).trust(&path.anchor));
    }
    let chain = [between.issue(&leaf), between.der.clone()];
    let (_, path) = CertificateFacts::from_verified_chain(&chain, &trusted(&[&between])).unwrap();
    assert!(trusted(&[&between]).trust(&path.anchor));
}

#[test]
fn an_intermediate_of_the_client_does_not_hide_the_issuer() {
    let root = Authority::root("ca");
    let between = root.below("between");
    for (issuer, rogue) in [
        (&root, Authority::root("ca")),
        (&between, Authority::root("between")),
        (&between, Authority::root("ca").below("between")),
    ] {
        let leaf = issuer.issue(&params("pump"));
        let chain = [leaf, rogue.der.clone(), between.der.clone()];
        assert_eq!(*facts(&chain, &[&root]).unwrap().issuer, *issuer.fingerprint());
    }
}

#[test]
fn an_issuer_that_nobody_trusted_vouches_for_is_refused() {
    let root = Authority::root("ca");
    let rogue = Authority::root("ca");
    let leaf = rogue.issue(&params("pump"));
    let unknown = Err(CertificateError::IssuerUnknown);
    assert_eq!(facts(&[leaf.clone(), rogue.der.clone()], &[&root]), unknown);
    let differs = Err(CertificateError::IssuerKeyDiffers);
    assert_eq!(facts(std::slice::from_ref(&leaf), &[&root]), differs);
    assert_eq!(facts(&[leaf], &[&Authority::root("other")]), unknown);
}

#[test]
fn the_search_for_an_issuer_is_bounded() {
    let authorities: Vec<_> = (0..20).map(|_| Authority::root("ca")).collect();
    let trusted: Vec<_> = authorities.iter().collect();
    let mut params = params("pump");
    // Without it, every authority of that name has to be tried.
    params.use_authority_key_identifier_extension = false;
    let leaf = Authority::root("ca").issue(&params);
    assert_eq!(facts(&[leaf], &trusted), Err(CertificateError::IssuerUnclear));
}

#[test]
fn an_identity_is_the_name_that_the_listener_asks_for() {
    let with_names = |cn: &str, names: Vec<SanType>| {
        let mut params = params(cn);
        params.subject_alt_names = names;
        facts_of(&params, None).unwrap()
    };
    let full = with_names("pump", vec![uri("urn:a"), dns("a.example"), dns("b.example")]);
    let bare = with_names("pump", vec![]);
    let wild = with_names("pump", vec![dns("*.example")]);
    let nameless = CertificateFacts { cn: "".into(), ..bare.clone() };
    let missing = |form| Err(IdentityError::NameMissing { form });
    for (source, facts, expected) in [
        (Source::CertificateCn, &full, Ok("pump")),
        (Source::CertificateSanDns, &full, Ok("a.example")),
        (Source::CertificateSanUri, &full, Ok("urn:a")),
        (Source::CertificateCn, &nameless, missing(NameForm::CommonName)),
        (Source::CertificateSanDns, &bare, missing(NameForm::DnsName)),
        (Source::CertificateSanUri, &bare, missing(NameForm::Uri)),
        (Source::CertificateSanDns, &wild, Err(IdentityError::Wildcard)),
        (Source::Anonymous, &full, Err(IdentityError::OtherSource { expected: Source::Anonymous })),
        (Source::Proxy, &full, Err(IdentityError::OtherSource { expected: Source::Proxy })),
    ] {
        let settings = Settings {
            source,
            kind: PrincipalKind::Device,
            binding: Binding::Exact,
            rules: Vec::new(),
        };
        let identity = Identity::from_certificate(&settings, facts.clone());
        assert_eq!(
            identity.as_ref().map(|identity| &*identity.name),
            expected.as_ref().copied(),
            "{source:?}"
        );
        if let Ok(identity) = identity {
            assert_eq!(identity.kind, PrincipalKind::Device);
            assert_eq!(identity.certificate.as_deref(), Some(facts));
        }
    }
}

#[test]
fn a_proxy_names_an_identity_only_where_the_listener_trusts_one() {
    let settings = |source| Settings {
        source,
        kind: PrincipalKind::Device,
        binding: Binding::Exact,
        rules: Vec::new(),
    };
    let named = |source, name| Identity::from_proxy(&settings(source), name);
    assert_eq!(&*named(Source::Proxy, "pump").unwrap().name, "pump");
    assert!(named(Source::Proxy, "").is_err());
    assert!(named(Source::Proxy, "a\0b").is_err());
    assert!(named(Source::CertificateCn, "pump").is_err());
    assert!(named(Source::Anonymous, "pump").is_err());
}

#[test]
fn no_cut_or_flipped_certificate_makes_the_reader_panic() {
    let authority = Authority::root("ca");
    let der = authority.issue(&params("pump")).to_vec();
    for at in 0..der.len() {
        crate::identity::fuzz_client_certificate(&der[..at]);
        for bit in [0x01, 0x40, 0x80] {
            let mut flipped = der.clone();
            flipped[at] ^= bit;
            crate::identity::fuzz_client_certificate(&flipped);
            let _ = facts(&[flipped.into()], &[&authority]);
        }
    }
}
