//! Tests of [`super`].

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::identity::TrustedIssuers;
use crate::pki::sha256_hex;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn root(name: &str) -> Self {
        Self(
            CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap(),
        )
    }

    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(Self::params(name), key, &self.0).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn hash(&self) -> String {
        sha256_hex(&self.0.key().subject_public_key_info())
    }

    /// What a client shows, with these parts of its subject and these alternative names.
    fn shown(
        &self,
        subject: &[(DnType, &str)],
        names: &[SanType],
        between: &[&Self],
        trusted: &[&Self],
    ) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (part, text) in subject {
            params.distinguished_name.push(part.clone(), *text);
        }
        params.subject_alt_names = names.to_vec();
        params.use_authority_key_identifier_extension = true;
        let own = params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap();
        let own = std::iter::once(own.der().clone());
        let chain: Vec<CertificateDer<'static>> =
            own.chain(between.iter().map(|it| it.0.der().clone())).collect();
        let trusted: Vec<_> = trusted.iter().map(|it| it.0.der().clone()).collect();
        Shown::read(&chain, &TrustedIssuers::new(&trusted).unwrap()).unwrap()
    }
}

fn rule(name: &str, asks: &[(Asked, &str)]) -> Rule {
    let asks = asks.iter().map(|(asked, pattern)| (*asked, asked.check(pattern).unwrap()));
    Rule {
        name: name.into(),
        issuer: None,
        asks: asks.collect(),
        named_by: NamedBy::Cn,
        kind: PrincipalKind::Device,
        binding: Binding::Exact,
        groups: Vec::new(),
        tags: BTreeMap::new(),
    }
}

fn by(rules: &[Rule], shown: &Shown) -> Result<(Identity, Arc<Rule>), RuleError> {
    let rules: Vec<_> = rules.iter().cloned().map(Arc::new).collect();
    identity_by(&rules, shown)
}

fn email(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn a_rule_says_who_somebody_is_and_what_belongs_to_it() {
    let ca = Authority::root("CA");
    let shown = ca.shown(
        &[(DnType::CommonName, "Ann"), (DnType::OrganizationName, "Plant 7")],
        &[email("ann@ops.example")],
        &[],
        &[&ca],
    );
    let people = Rule {
        named_by: NamedBy::SanEmail,
        kind: PrincipalKind::User,
        groups: vec!["operators".into()],
        tags: BTreeMap::from([("site".into(), "north".into())]),
        ..rule("people", &[(Asked::SanEmail, "*@OPS.example")])
    };
    let (identity, fitting) = by(std::slice::from_ref(&people), &shown).unwrap();
    assert_eq!((identity.kind, &*identity.name), (PrincipalKind::User, "ann@ops.example"));
    assert_eq!((identity.groups, identity.tags), (people.groups.clone(), people.tags.clone()));
    assert_eq!(*fitting, people);
    assert_eq!(identity.certificate.as_deref(), Some(&shown.facts));
}

#[test]
fn every_question_of_a_rule_has_to_be_answered_by_the_certificate() {
    use SubjectPart::{Country, Organization, OrganizationalUnit};
    let ca = Authority::root("CA");
    let shown = ca.shown(
        &[
            (DnType::CommonName, "pump-7"),
            (DnType::OrganizationName, "Plant 7"),
            (DnType::OrganizationalUnitName, "Pumps"),
            (DnType::CountryName, "NO"),
        ],
        &[dns("pump-7.plant.example"), uri("spiffe://plant/pumps/7"), dns("*.plant.example")],
        &[],
        &[&ca],
    );
    let (serial, fingerprint) =
        (shown.facts.serial.to_string(), shown.facts.fingerprint.to_string());
    for (asked, pattern, fits) in [
        (Asked::Subject(SubjectPart::CommonName), "pump-*", true),
        (Asked::Subject(SubjectPart::CommonName), "pump-7*", false),
        (Asked::Subject(SubjectPart::CommonName), "Pump-*", false),
        (Asked::Subject(Organization), "Plant 7", true),
        (Asked::Subject(Organization), "Plant 70", false),
        (Asked::Subject(OrganizationalUnit), "Pumps", true),
        (Asked::Subject(OrganizationalUnit), "Valves", false),
        (Asked::Subject(Country), "NO", true),
        (Asked::Subject(SubjectPart::Uid), "pump-7", false),
        (Asked::SanDns, "pump-7.PLANT.example", true),
        (Asked::SanDns, "*.plant.example", true),
        (Asked::SanDns, "*.example", false),
        (Asked::SanUri, "spiffe://plant/pumps/*", true),
        (Asked::SanUri, "spiffe://plant/*", false),
        (Asked::SanEmail, "*@plant.example", false),
        (Asked::Serial, &serial, true),
        (Asked::Serial, "1", false),
        (Asked::Fingerprint, &fingerprint, true),
        (Asked::Fingerprint, &"0".repeat(64), false),
    ] {
        let found = by(&[rule("r", &[(asked, pattern)])], &shown);
        assert_eq!(found.is_ok(), fits, "{asked:?} {pattern}");
        // Beside one that fits.
        let beside = (Asked::Subject(Country), "NO");
        let found = by(&[rule("r", &[beside, (asked, pattern)])], &shown);
        assert_eq!(found.is_ok(), fits, "{asked:?} {pattern}");
    }
    // A name with a wildcard proves none, here either.
    let only_wildcard = ca.shown(&[], &[dns("*.plant.example")], &[], &[&ca]);
    assert!(by(&[rule("r", &[(Asked::SanDns, "*.plant.example")])], &only_wildcard).is_err());
}

#[test]
fn two_authorities_cannot_both_name_somebody() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let issuing = root.below("Issuing");
    let trusted = [&root, &other];
    let own = issuing.shown(&[(DnType::CommonName, "dev1")], &[], &[&issuing], &trusted);
    let foreign = other.shown(&[(DnType::CommonName, "dev1")], &[], &[], &trusted);
    for (issuer, fits) in [(issuing.hash(), true), (root.hash(), true), (other.hash(), false)] {
        let pinned = Rule { issuer: Some(issuer.into()), ..rule("own", &[]) };
        assert_eq!(by(std::slice::from_ref(&pinned), &own).is_ok(), fits);
        assert_eq!(by(&[pinned], &foreign).is_ok(), !fits);
    }
}

#[test]
fn where_no_rule_or_more_than_one_fits_nobody_is_let_in() {
    let ca = Authority::root("CA");
    let shown = ca.shown(&[(DnType::CommonName, "dev1")], &[], &[], &[&ca]);
    assert_eq!(by(&[], &shown).unwrap_err(), RuleError::NoneFits);
    let cn = |name, pattern| rule(name, &[(Asked::Subject(SubjectPart::CommonName), pattern)]);
    assert_eq!(by(&[cn("a", "x*")], &shown).unwrap_err(), RuleError::NoneFits);
    let several = by(&[cn("a", "dev*"), cn("b", "x"), cn("c", "*1")], &shown).unwrap_err();
    assert_eq!(several, RuleError::SeveralFit { first: "a".into(), second: "c".into() });
    let lacking = Rule { named_by: NamedBy::SanUri, ..rule("a", &[]) };
    assert!(matches!(by(&[lacking], &shown), Err(RuleError::NameMissing { .. })));
    for named_by in [NamedBy::Serial, NamedBy::Fingerprint] {
        let (identity, _) = by(&[Rule { named_by, ..rule("a", &[]) }], &shown).unwrap();
        assert!(identity.name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{identity:?}");
    }
    let wild = ca.shown(&[], &[dns("*.example")], &[], &[&ca]);
    let by_dns = Rule { named_by: NamedBy::SanDns, ..rule("a", &[]) };
    assert!(matches!(by(&[by_dns], &wild), Err(RuleError::NameUnfit { .. })));
}

#[test]
fn a_pattern_that_nobody_can_mean_is_refused() {
    for (asked, pattern) in [
        (Asked::Subject(SubjectPart::CommonName), "*"),
        (Asked::Subject(SubjectPart::CommonName), "a**"),
        (Asked::Subject(SubjectPart::CommonName), " a"),
        (Asked::SanEmail, "ann"),
        (Asked::SanDns, "*"),
        (Asked::SanUri, "*"),
        (Asked::Serial, "0a"),
        (Asked::Serial, "AB"),
        (Asked::Fingerprint, "ab"),
    ] {
        assert!(asked.check(pattern).is_err(), "{asked:?} {pattern}");
    }
}

#[test]
fn a_name_is_the_value_that_the_rule_asks_for_and_the_only_one() {
    let ca = Authority::root("CA");
    let by_dns =
        Rule { named_by: NamedBy::SanDns, ..rule("fleet", &[(Asked::SanDns, "*.plant.example")]) };
    let named = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| dns(name)).collect();
        let shown = ca.shown(&[(DnType::CommonName, "x")], &names, &[], &[&ca]);
        by(std::slice::from_ref(&by_dns), &shown).map(|(identity, _)| identity.name.to_string())
    };
    assert_eq!(named(&["victim.other", "X.plant.example"]).unwrap(), "x.plant.example");
    let several = named(&["a.plant.example", "b.plant.example"]).unwrap_err();
    assert_eq!(several, RuleError::SeveralNames { what: "san_dns" });
}
