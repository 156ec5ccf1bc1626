//! Tests of [`super`], and of what rotating an authority has to do with it.

use time::macros::datetime;
use x509_parser::extensions::ParsedExtension;
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;
use crate::pki::inventory::State;
use crate::pki::{
    Issued, KeySource, KeyType, Layout, NewAuthority, Profile, ProfileName, Protection, Rotated,
    Rotation, Subject, no_passphrase,
};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const DAY: time::Duration = time::Duration::DAY;

fn authority(folder: &Path, layout: Layout) -> Ca {
    let new = NewAuthority::unprotected("Factory", layout);
    Ca::create(folder, &new, NOW).unwrap()
}

fn device() -> Profile {
    Profile::built_in(ProfileName::Device).unwrap()
}

fn issue(ca: &Ca, name: &str) -> Issued {
    ca.issue(&device(), &Subject::named(name), KeyType::P256, NOW).unwrap().0
}

/// The number of a list, and the serial numbers in it with their reasons.
fn read(der: &[u8]) -> (u64, Vec<(String, Option<u8>)>) {
    let (_, crl) = CertificateRevocationList::from_der(der).unwrap();
    let number = crl.crl_number().unwrap().to_string().parse().unwrap();
    let listed = crl.iter_revoked_certificates().map(|one| {
        let reason = one.extensions().iter().find_map(|one| match one.parsed_extension() {
            ParsedExtension::ReasonCode(reason) => Some(reason.0),
            _ => None,
        });
        (serial_hex(one.raw_serial()), reason)
    });
    (number, listed.collect())
}

fn rotation(with_root: bool) -> Rotation<'static> {
    Rotation {
        with_root,
        is_compromised: false,
        name: None,
        new_root_key: KeySource::New(KeyType::P384),
        key: KeySource::New(KeyType::P384),
        issuing_validity: None,
        root_key: None,
        root_protection: &Protection::None,
        protection: &Protection::None,
    }
}

#[test]
fn a_revoked_certificate_is_in_the_next_list_whose_number_grows() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), Layout::RootAndIssuing);
    let [one, two, three] = ["one", "two", "three"].map(|name| issue(&ca, name));
    assert_eq!(read(&std::fs::read(folder.path().join("ca.crl.der")).unwrap()), (1, vec![]));

    let targets = ca.by_name("one", NOW).unwrap();
    let Revoked { certificates, crls } = ca.revoke(&targets, Reason::KeyCompromise, NOW).unwrap();
    assert_eq!(certificates.len(), 1);
    let serial = |issued: &Issued| issued.certificate.serial.clone();
    let [crl] = &*crls.unwrap() else { panic!("one list") };
    assert_eq!(read(&crl.der), (2, vec![(serial(&one), Some(1))]));
    assert_eq!(crl.signed.next_update, NOW + 30 * DAY);

    // By serial number as others write it, and by file, without a reason.
    let colons = serial(&two).to_ascii_uppercase();
    let colons: Vec<&str> =
        colons.as_bytes().chunks(2).map(|byte| std::str::from_utf8(byte).unwrap()).collect();
    let targets = ca.by_serial(&colons.join(":")).unwrap();
    ca.revoke(&targets, Reason::Unspecified, NOW + DAY).unwrap();
    let path = folder.path().join("three.pem");
    std::fs::write(&path, &three.certificate_pem).unwrap();
    let revoked = ca.revoke(&ca.by_file(&path).unwrap(), Reason::Superseded, NOW + 2 * DAY);
    let crls = revoked.unwrap().crls.unwrap();
    let all = [(serial(&one), Some(1)), (serial(&two), None), (serial(&three), Some(4))];
    assert_eq!(read(&crls[0].der), (4, all.to_vec()));

    // Another process goes on with the numbers; nothing is revoked twice or forgotten.
    let again = Ca::open(folder.path(), &mut no_passphrase, NOW).unwrap();
    assert_eq!(read(&again.write_crls(CRL_VALIDITY, NOW).unwrap()[0].der), (5, all.to_vec()));
    let targets = again.by_serial(&serial(&one)).unwrap();
    let error = again.revoke(&targets, Reason::Superseded, NOW).unwrap_err();
    assert!(matches!(error, PkiError::AlreadyRevoked { .. }), "{error}");
    let entry = ca.entry(&serial(&one)).unwrap();
    assert_eq!(entry.revoked, Some((NOW, Reason::KeyCompromise)));
    assert_eq!(entry.state(NOW), State::Revoked);

    let long_after = NOW + 365 * DAY + KEPT_AFTER_END + DAY;
    let crls = ca.write_crls(CRL_VALIDITY, long_after).unwrap();
    assert_eq!(read(&crls[0].der), (6, vec![]), "what has ended long ago is left out");
}

#[test]
fn a_certificate_is_revoked_even_where_the_list_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), Layout::RootAndIssuing);
    let issued = issue(&ca, "pump");
    std::fs::remove_file(Ca::crls_path(folder.path())).unwrap();
    std::fs::create_dir(Ca::crls_path(folder.path())).unwrap();
    let targets = ca.by_name("pump", NOW).unwrap();
    let revoked = ca.revoke(&targets, Reason::KeyCompromise, NOW).unwrap();
    assert_eq!(revoked.certificates.len(), 1);
    assert!(revoked.crls.is_err());
    std::fs::remove_dir(Ca::crls_path(folder.path())).unwrap();
    let crls = ca.write_crls(CRL_VALIDITY, NOW).unwrap();
    // The number of the list that nobody got is not used again.
    assert_eq!(read(&crls[0].der), (3, vec![(issued.certificate.serial, Some(1))]));
}

#[test]
fn what_this_authority_did_not_issue_is_not_revoked() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = authority(folder.path(), Layout::RootAndIssuing);
    let stranger = issue(&authority(other.path(), Layout::RootAndIssuing), "stranger");
    let path = folder.path().join("stranger.pem");
    std::fs::write(&path, &stranger.certificate_pem).unwrap();
    for (outcome, expected) in [
        (ca.by_name("stranger", NOW), "valid certificate for \"stranger\""),
        (ca.by_serial("00ff"), "serial number ff"),
        (ca.by_serial("no hex"), "serial number no hex"),
        (ca.by_file(&path), "of another authority"),
        (ca.by_file(&folder.path().join("ca.key")), "no certificate in PEM"),
    ] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(ca.contents(|contents| contents.revocations().count()).unwrap(), 0);
}

#[test]
fn a_renewed_certificate_keeps_its_names_and_a_revoked_one_is_not_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), Layout::RootAndIssuing);
    let mut subject = Subject::named("pump");
    subject.alternative_names.uri = vec!["spiffe://plant/pump".to_owned()];
    let (old, _) = ca.issue(&device(), &subject, KeyType::P256, NOW).unwrap();
    let entry = ca.entry(&old.certificate.serial).unwrap();
    let (new, _) = ca.renew(&device(), &entry, KeyType::Ed25519, NOW + DAY).unwrap();
    assert_eq!(new.certificate.alternative_names, old.certificate.alternative_names);
    assert_eq!(new.certificate.renews.as_deref(), Some(&*old.certificate.serial));
    assert_ne!(new.certificate.key, old.certificate.key);
    let entry = ca.entry(&old.certificate.serial).unwrap();
    assert_eq!(entry.renewed_by.as_deref(), Some(&*new.certificate.serial));

    let user = Profile::built_in(ProfileName::User).unwrap();
    let error = ca.renew(&user, &entry, KeyType::P256, NOW).unwrap_err();
    assert!(matches!(error, PkiError::OtherProfile { .. }), "{error}");

    ca.revoke(&ca.by_serial(&old.certificate.serial).unwrap(), Reason::Superseded, NOW).unwrap();
    // With what was read before it was revoked.
    let error = ca.renew(&device(), &entry, KeyType::P256, NOW).unwrap_err();
    assert!(matches!(error, PkiError::Revoked { .. }), "{error}");
}

#[test]
fn a_request_in_place_of_a_certificate_asks_for_the_same_names_or_none() {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), Layout::RootAndIssuing);
    let mut subject = Subject::named("pump");
    subject.alternative_names.dns = vec!["a.b".to_owned(), "c.d".to_owned()];
    let (old, _) = ca.issue(&device(), &subject, KeyType::P256, NOW).unwrap();
    let entry = ca.entry(&old.certificate.serial).unwrap();
    for (name, dns, is_same) in [
        ("pump", &["a.b", "c.d"][..], true),
        ("pump", &["c.d", "a.b"], true),
        ("pump", &[], true),
        ("pump", &["a.b"], false),
        ("pump", &["a.b", "c.d", "e.f"], false),
        ("other", &[], false),
    ] {
        let mut asked = CertificateParams::default();
        asked.distinguished_name = DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, name);
        asked.subject_alt_names =
            dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        let der = asked.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let request = crate::pki::Request::read(der.der()).unwrap();
        let outcome = ca.renew_by_request(&device(), &entry, &request, NOW);
        assert_eq!(outcome.is_ok(), is_same, "{name} {dns:?} {outcome:?}");
        if let Ok(issued) = outcome {
            assert_eq!(issued.certificate.alternative_names.dns, ["a.b", "c.d"]);
        }
    }
}

#[test]
fn an_authority_that_was_replaced_signs_its_lists_until_its_last_certificate_ends() {
    for (layout, with_root) in
        [(Layout::RootAndIssuing, false), (Layout::RootAndIssuing, true), (Layout::RootOnly, false)]
    {
        let folder = tempfile::tempdir().unwrap();
        let old = authority(folder.path(), layout);
        let before = issue(&old, "before");
        let Rotated { ca: new, crls, .. } = Ca::rotate(
            folder.path(),
            &rotation(with_root),
            &mut |path, _| no_passphrase(path),
            NOW,
        )
        .unwrap();
        assert_eq!(new.name(), "Factory 2");
        assert_eq!(crls.len(), 2 + usize::from(with_root), "of both, and of a new root");
        let after = issue(&new, "after");
        assert_eq!(after.certificate.issuer, new.issuer_hash());
        assert_eq!(before.certificate.issuer, old.issuer_hash());

        // Who has the old one open still, such as a server, does not go on with it.
        let error = old.issue(&device(), &Subject::named("late"), KeyType::P256, NOW).unwrap_err();
        assert!(matches!(error, PkiError::Rotated { .. }), "{error}");

        let reopened = Ca::open(folder.path(), &mut no_passphrase, NOW).unwrap();
        let targets = reopened.by_name("before", NOW).unwrap();
        let revoked = reopened.revoke(&targets, Reason::KeyCompromise, NOW);
        let crls = revoked.unwrap().crls.unwrap();
        let of_old = crls.iter().find(|crl| crl.signed.issuer == old.issuer_hash()).unwrap();
        assert_eq!(read(&of_old.der).1, [(before.certificate.serial.clone(), Some(1))]);
        let of_new = crls.iter().find(|crl| crl.signed.issuer == new.issuer_hash()).unwrap();
        assert_eq!(read(&of_new.der).1, []);
        let all = std::fs::read_to_string(Ca::crls_path(folder.path())).unwrap();
        let roots = usize::from(layout == Layout::RootAndIssuing) + usize::from(with_root);
        assert_eq!(all.matches("BEGIN X509 CRL").count(), 2 + roots);
    }
}

#[test]
fn a_rotation_that_is_cut_short_is_finished_or_has_not_happened() {
    let folder = tempfile::tempdir().unwrap();
    let old = authority(folder.path(), Layout::RootAndIssuing);
    let next = folder.path().join("next");
    let hash = old.issuer_hash();
    // Prepared, and not committed: it has not happened.
    std::fs::create_dir(folder.path().join(".next")).unwrap();
    assert_eq!(Ca::open(folder.path(), &mut no_passphrase, NOW).unwrap().issuer_hash(), hash);

    // Committed, and stopped after none, one, or all of the files were put in place.
    for moved in [&[][..], &["ca.key"], &["ca.key", "ca.pem"]] {
        let other = tempfile::tempdir().unwrap();
        let donor = authority(other.path(), Layout::RootAndIssuing);
        std::fs::create_dir(&next).unwrap();
        for name in ["ca.key", "ca.pem"] {
            let to = if moved.contains(&name) { folder.path() } else { &next };
            std::fs::copy(other.path().join(name), to.join(name)).unwrap();
        }
        if moved.len() == 2 {
            // Its record is written before its files are moved.
            std::fs::copy(other.path().join("ca.pem"), next.join("ca.pem")).unwrap();
        }
        let opened = Ca::open(folder.path(), &mut no_passphrase, NOW).unwrap();
        assert_eq!(opened.issuer_hash(), donor.issuer_hash(), "{moved:?}");
        assert!(!next.exists());
        issue(&opened, &format!("after-{}", moved.len()));
    }
}
