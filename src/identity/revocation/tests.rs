//! Tests of [`super`].

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::identity::{CertificateFacts, TrustedIssuers};

/// 2026-01-01.
pub(super) const NOW: i64 = 1_767_225_600;

pub(super) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A certificate that does not say where its lists are.
fn nowhere(_: usize) -> Vec<String> {
    Vec::new()
}

impl Authority {
    pub(super) fn root(name: &str) -> Self {
        Self::with(params(name))
    }

    fn with(params: CertificateParams) -> Self {
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn below(&self, name: &str, serial: u64) -> Self {
        let mut params = params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn id(&self, serial: u64) -> CertificateId {
        let spki = self.0.key().subject_public_key_info();
        let issuer = crate::identity::issuer::fingerprint(&crate::pki::sha256_hex(&spki)).unwrap();
        CertificateId { issuer, serial: Serial::new(&serial.to_be_bytes()).unwrap() }
    }

    /// A client's chain.
    pub(super) fn chain(&self, serial: u64, between: &[&Self]) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "client");
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let own = params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap();
        std::iter::once(own.der().clone()).chain(between.iter().map(|it| it.der())).collect()
    }

    pub(super) fn list(&self, number: u64, revoked: &[u64]) -> String {
        self.list_with(number, revoked, |_| {})
    }

    fn list_with(
        &self,
        number: u64,
        revoked: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 6, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 12, 1),
            next_update: date_time_ymd(2026, 2, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

pub(super) fn settings(paths: &[&Path]) -> Settings {
    let lists = paths.iter().map(|path| path.to_path_buf()).collect();
    Settings { lists, expired: Doubt::Refuse, missing: Doubt::Refuse, fetch: None }
}

pub(super) fn trusted(authorities: &[&Authority]) -> TrustedIssuers {
    let ders: Vec<_> = authorities.iter().map(|authority| authority.der()).collect();
    TrustedIssuers::new(&ders).unwrap()
}

pub(super) fn loaded(settings: &Settings, authorities: &[&Authority]) -> Revocations {
    load(settings, &trusted(authorities), &Revocations::none(), NOW).unwrap().revocations
}

/// What is said of one list.
fn refused(text: &str, authorities: &[&Authority]) -> String {
    let folder = Folder::new();
    let path = folder.write("ca.crl", text);
    let loaded = load(&settings(&[&path]), &trusted(authorities), &Revocations::none(), NOW);
    loaded.unwrap_err().to_string()
}

#[test]
fn what_a_list_names_is_refused_and_nothing_else() {
    let (folder, ca, other) = (Folder::new(), Authority::root("CA"), Authority::root("Other"));
    let path = folder.write("ca.crl", &ca.list(1, &[7, 3, u64::MAX]));
    let more = folder.write("other.pem", &other.list(1, &[]));
    let revocations = loaded(&settings(&[&path, &more]), &[&ca, &other]);
    assert_eq!(revocations.len(), 3);
    for serial in [3, 7, u64::MAX] {
        let why = NotGood::Revoked { is_authority: false };
        assert_eq!(revocations.check(&[ca.id(serial)], &nowhere, NOW), Err(why));
        assert_eq!(revocations.revoked(&[ca.id(serial)]), Some(why));
        // The same number of another authority.
        assert_eq!(revocations.check(&[other.id(serial)], &nowhere, NOW), Ok(()));
    }
    for serial in [0, 4, 8, u64::MAX - 1] {
        assert_eq!(revocations.check(&[ca.id(serial)], &nowhere, NOW), Ok(()));
        assert_eq!(revocations.revoked(&[ca.id(serial)]), None);
    }
}

#[test]
fn every_certificate_of_a_path_is_looked_up() {
    let (folder, root) = (Folder::new(), Authority::root("Root"));
    let issuing = root.below("Issuing", 40);
    let chain = issuing.chain(7, &[&issuing]);
    let (_, path) = CertificateFacts::from_verified_chain(&chain, &trusted(&[&root])).unwrap();
    assert_eq!(*path.certificates, [issuing.id(7), root.id(40)]);
    // The list of an authority that is not trusted itself, beside its certificate.
    let below = [issuing.0.pem(), issuing.list(1, &[8])].concat();
    let below = folder.write("issuing.pem", &below);
    for (revoked, expected) in
        [(vec![41], Ok(())), (vec![40], Err(NotGood::Revoked { is_authority: true }))]
    {
        let above = folder.write("root.crl", &root.list(1, &revoked));
        let revocations = loaded(&settings(&[&above, &below]), &[&root]);
        assert_eq!(revocations.check(&path.certificates, &nowhere, NOW), expected);
        assert_eq!(revocations.revoked(&path.certificates), expected.err());
    }
    // Without the certificate beside it nobody knows whose list it is.
    let error = refused(&issuing.list(1, &[]), &[&root]);
    assert!(error.ends_with("is of CN=Issuing, which is no authority of any listener's client_ca"));
}

#[test]
fn without_a_list_or_with_an_old_one_a_certificate_is_refused_unless_it_is_to_be_let_in() {
    let (folder, ca, other) = (Folder::new(), Authority::root("CA"), Authority::root("Other"));
    let path = folder.write("ca.crl", &ca.list(1, &[7]));
    let settings = settings(&[&path]);
    let later = date_time_ymd(2026, 2, 2).unix_timestamp();
    let Loaded { revocations, warnings } =
        load(&settings, &trusted(&[&ca, &other]), &Revocations::none(), later).unwrap();
    assert!(warnings[0].contains("ca.crl: the list has expired"), "{warnings:?}");
    assert!(warnings[1].starts_with("there is no revocation list of CN=Other"), "{warnings:?}");
    let is_authority = false;
    assert_eq!(revocations.check(&[ca.id(8)], &nowhere, later - 2 * 24 * 3600), Ok(()));
    assert_eq!(
        revocations.check(&[ca.id(8)], &nowhere, later),
        Err(NotGood::Expired { is_authority })
    );
    assert_eq!(
        revocations.check(&[ca.id(7)], &nowhere, later),
        Err(NotGood::Revoked { is_authority })
    );
    assert_eq!(
        revocations.check(&[other.id(8)], &nowhere, NOW),
        Err(NotGood::NoList { is_authority })
    );
    // Those that are connected are not put out by it.
    assert_eq!(revocations.revoked(&[ca.id(8)]), None);

    let settings = Settings { expired: Doubt::Warn, missing: Doubt::Warn, ..settings };
    let revocations = loaded(&settings, &[&ca, &other]);
    assert_eq!(revocations.check(&[ca.id(8)], &nowhere, later), Ok(()));
    assert_eq!(revocations.check(&[other.id(8)], &nowhere, later), Ok(()));
    assert_eq!(
        revocations.check(&[ca.id(7)], &nowhere, later),
        Err(NotGood::Revoked { is_authority })
    );
}

#[test]
fn a_list_counts_only_when_a_trusted_authority_that_may_sign_lists_has_signed_it() {
    let ca = Authority::root("CA");
    let same_name = Authority::root("CA");
    let error = refused(&same_name.list(1, &[1]), &[&ca]);
    assert!(error.contains("no authority of any listener"), "{error}");
    // The same key identifier, too.
    let (mut mine, mut theirs) = (params("CA"), params("CA"));
    mine.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
    theirs.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
    let (mine, theirs) = (Authority::with(mine), Authority::with(theirs));
    let forged = theirs
        .list_with(1, &[1], |it| it.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]));
    let error = refused(&forged, &[&mine]);
    assert!(error.contains("is not signed by CN=CA"), "{error}");
    let mut only_certificates = params("CA");
    only_certificates.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let signer = Authority::root("CA");
    // rcgen signs no list with such a certificate; the key is the same as in one that may.
    let key = KeyPair::from_pem(&signer.0.key().serialize_pem()).unwrap();
    let unfit = Authority(CertifiedIssuer::self_signed(only_certificates, key).unwrap());
    let error = refused(&signer.list(1, &[1]), &[&unfit]);
    assert!(error.contains("not for signing lists"), "{error}");
    let mut broken = ca.list(1, &[1]);
    let at = broken.len() - 60;
    let other = if broken.as_bytes()[at] == b'A' { "B" } else { "A" };
    broken.replace_range(at..=at, other);
    assert!(refused(&broken, &[&ca]).contains("is not signed by"), "{broken}");
}

#[test]
fn what_a_list_may_not_say_is_named() {
    let ca = Authority::root("CA");
    let future = ca.list_with(1, &[], |it| it.this_update = date_time_ymd(2026, 1, 2));
    assert!(refused(&future, &[&ca]).contains("in the future"));
    assert!(refused("", &[&ca]).contains("has no revocation list"));
    assert!(refused(&ca.0.pem(), &[&ca]).contains("has no revocation list"));
    assert!(refused("0\x03abc", &[&ca]).contains("is no certificate revocation list"));
    assert!(refused("-----BEGIN X509 CRL-----\nAAAA\n", &[&ca]).contains("is not PEM"));
}

#[test]
fn a_list_in_parts_is_taken_part_by_part() {
    let (folder, ca) = (Folder::new(), Authority::root("CA"));
    let part = |name: &str, scope, revoked: &[u64]| {
        let text = ca.list_with(5, revoked, |it| {
            let uris = vec![format!("http://crl.example/{name}")];
            let distribution_point = CrlDistributionPoint { uris };
            it.issuing_distribution_point =
                Some(CrlIssuingDistributionPoint { distribution_point, scope });
        });
        folder.write(name, &text);
    };
    part("users.crl", Some(CrlScope::UserCertsOnly), &[1]);
    let settings = settings(&[folder.0.path()]);
    let revocations = loaded(&settings, &[&ca]);
    let place = |name: &str| vec![format!("http://crl.example/{name}")];
    let named = |at: usize| place(if at == 0 { "users.crl" } else { "authorities.crl" });
    assert_eq!(revocations.check(&[ca.id(2)], &named, NOW), Ok(()));
    // A part is about those that name it, and another part may be about the others.
    let elsewhere = |_: usize| place("part-3.crl");
    let none = Err(NotGood::NoList { is_authority: false });
    assert_eq!(revocations.check(&[ca.id(2)], &elsewhere, NOW), none);
    assert_eq!(revocations.check(&[ca.id(2)], &nowhere, NOW), none);
    // Nothing is known of authorities below it.
    let path = [ca.id(2), ca.id(3)];
    assert_eq!(revocations.check(&path, &named, NOW), Err(NotGood::NoList { is_authority: true }));
    part("authorities.crl", Some(CrlScope::CaCertsOnly), &[4]);
    part("part-2.crl", None, &[9]);
    folder.write(".new.crl", "half");
    folder.write("README", "about");
    let revocations = loaded(&settings, &[&ca]);
    assert_eq!(revocations.check(&path, &named, NOW), Ok(()));
    for serial in [1, 4, 9] {
        assert!(revocations.check(&[ca.id(serial)], &named, NOW).is_err(), "{serial}");
    }
}

#[test]
fn a_list_gives_way_only_to_a_later_one() {
    let (folder, ca) = (Folder::new(), Authority::root("CA"));
    let path = folder.write("ca.crl", &ca.list(5, &[7]));
    let settings = settings(&[&path]);
    let in_force = loaded(&settings, &[&ca]);
    let again = |text: &str| {
        folder.write("ca.crl", text);
        load(&settings, &trusted(&[&ca]), &in_force, NOW)
    };
    let error = again(&ca.list(4, &[])).unwrap_err();
    assert!(matches!(error, LoadError::Older { .. }), "{error}");
    let without = Settings { lists: vec![folder.0.path().join("none")], ..settings.clone() };
    std::fs::create_dir(folder.0.path().join("none")).unwrap();
    let error = load(&without, &trusted(&[&ca]), &in_force, NOW).unwrap_err();
    assert!(matches!(error, LoadError::Gone), "{error}");
    // Of an authority that is not trusted any more, nobody needs one.
    load(&without, &trusted(&[]), &in_force, NOW).unwrap();
    for text in [ca.list(5, &[7]), ca.list(6, &[7, 8]), ca.list(300, &[])] {
        again(&text).unwrap();
    }
    // Of two versions in one folder the later counts.
    folder.write("old.crl", &ca.list(2, &[1]));
    folder.write("ca.crl", &ca.list(6, &[2]));
    let settings = Settings { lists: vec![folder.0.path().to_owned()], ..settings };
    let revocations = loaded(&settings, &[&ca]);
    assert!(revocations.check(&[ca.id(1)], &nowhere, NOW).is_ok());
    assert!(revocations.check(&[ca.id(2)], &nowhere, NOW).is_err());
}

#[test]
fn serial_numbers_are_numbers() {
    for (left, right) in [(&[0, 1][..], &[1][..]), (&[0], &[]), (&[0, 0x80], &[0x80])] {
        assert_eq!(Serial::new(left), Serial::new(right));
    }
    assert_ne!(Serial::new(&[1, 0]), Serial::new(&[1]));
    assert!(Serial::new(&[1; 20]).is_some() && Serial::new(&[1; 21]).is_none());
    assert!(Serial::new(&[0; 40]).is_some());
}

#[test]
fn what_is_wrong_with_one_file_keeps_no_other_list_back() {
    let (folder, ca, other) = (Folder::new(), Authority::root("CA"), Authority::root("Other"));
    folder.write("ca.crl", &ca.list(5, &[1]));
    folder.write("other.crl", &other.list(5, &[1]));
    let settings = settings(&[folder.0.path()]);
    let both = [&ca, &other];
    let in_force = loaded(&settings, &both);
    folder.write("old.crl", &ca.list(4, &[]));
    folder.write("foreign.crl", &Authority::root("Foreign").list(1, &[]));
    folder.write("ca.crl", &ca.list(6, &[1, 2]));
    folder.write("other.crl", "garbage");
    let (now, failures) = load_what_can_be(&settings, &trusted(&both), &in_force, NOW).unwrap();
    assert_eq!(failures.len(), 3, "{failures:?}");
    // The new list of one authority, and of the other the one that it had.
    for id in [ca.id(1), ca.id(2), other.id(1)] {
        assert!(now.revocations.check(&[id], &nowhere, NOW).is_err());
    }
    assert!(load(&settings, &trusted(&both), &in_force, NOW).is_err());
}

#[test]
fn a_current_list_outweighs_one_of_an_earlier_place_that_has_expired() {
    let (folder, ca) = (Folder::new(), Authority::root("CA"));
    let old = ca.list_with(5, &[1], |it| {
        let uris = vec!["http://crl.example/old.crl".to_owned()];
        let distribution_point = CrlDistributionPoint { uris };
        it.issuing_distribution_point =
            Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        it.next_update = date_time_ymd(2025, 12, 2);
    });
    let paths = [folder.write("old.crl", &old), folder.write("new.crl", &ca.list(6, &[2]))];
    let revocations = loaded(&settings(&[&paths[0], &paths[1]]), &[&ca]);
    let named = |_: usize| vec!["http://crl.example/old.crl".to_owned()];
    assert_eq!(revocations.check(&[ca.id(3)], &named, NOW), Ok(()));
    for revoked in [1, 2] {
        let why = NotGood::Revoked { is_authority: false };
        assert_eq!(revocations.check(&[ca.id(revoked)], &named, NOW), Err(why));
    }
}

#[test]
fn what_was_fetched_and_cannot_be_taken_any_more_keeps_nothing_from_starting() {
    let (named, fetched) = (Folder::new(), Folder::new());
    let (ca, gone) = (Authority::root("CA"), Authority::root("Gone"));
    let path = named.write("ca.crl", &ca.list(1, &[7]));
    fetched.write("gone.crl", &gone.list(1, &[8]));
    for extra in 0..=FILES_MAX {
        std::fs::write(fetched.0.path().join(format!("{extra}.crl")), "garbage").unwrap();
    }
    let fetch = Fetch {
        urls: Vec::new(),
        from: vec!["http://crl.example/".into()],
        folder: fetched.0.path().to_owned(),
        every: std::time::Duration::from_mins(1),
    };
    let with = Settings { fetch: Some(fetch), ..settings(&[&path]) };
    let loaded = load(&with, &trusted(&[&ca]), &Revocations::none(), NOW).unwrap();
    assert_eq!(loaded.revocations.len(), 1);
    assert!(loaded.warnings.iter().any(|it| it.contains("has more than")), "{:?}", loaded.warnings);
    assert!(loaded.warnings.iter().any(|it| it.contains("has no revocation list")));
    // Of what is named it is an error.
    let strict = Settings { fetch: None, lists: vec![path, fetched.0.path().to_owned()], ..with };
    assert!(load(&strict, &trusted(&[&ca]), &Revocations::none(), NOW).is_err());
}

#[test]
fn points_are_bounded_and_the_latest_authorities_stand_beside_them() {
    let root = Authority::root("root");
    let subs: Vec<_> = (1..=10).map(|serial| root.below("sub", serial).der()).collect();
    let points = points::Points::default().allowing(&["http://crl.example/".to_owned()]);
    let naming = |url: String| {
        let mut params = CertificateParams::default();
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url] }];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    };
    let own = naming("http://crl.example/own.crl".into());
    points.note(&naming("http://elsewhere.example/own.crl".into()), &subs[..1]);
    assert!(points.found().is_empty());
    for sub in &subs {
        points.note(&own, std::slice::from_ref(sub));
    }
    points.note(&own, &subs[8..9]);
    let beside = &points.found()[0].1;
    assert_eq!((&beside[0], &beside[1], beside.len()), (&subs[8], &subs[9], 8));
    for other in 0..300 {
        points.note(&own, &[]);
        points.note(&naming(format!("http://crl.example/{other}.crl")), &[]);
    }
    let found = points.found();
    assert_eq!(found.len(), 256);
    assert!(found.iter().any(|(url, _)| url == "http://crl.example/own.crl"));
}
