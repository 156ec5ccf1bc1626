//! Tests of [`super`].

use std::os::unix::fs::PermissionsExt as _;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;

use rcgen::PublicKeyData as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::pki::profile::VALIDITY_MAX;
use crate::pki::{
    AlternativeNames, Issued, KeyType, Layout, NameError, NewAuthority, Profile, ProfileName,
    Subject, no_passphrase,
};

struct Authority {
    folder: tempfile::TempDir,
    ca: Ca,
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn create(folder: &Path, layout: Layout) -> Result<Ca, PkiError> {
    let new = NewAuthority::unprotected("Test CA", layout);
    Ca::create(folder, &new, now())
}

fn authority() -> Authority {
    let folder = tempfile::tempdir().unwrap();
    let ca = create(&folder.path().join("ca"), Layout::RootAndIssuing).unwrap();
    Authority { folder, ca }
}

impl Authority {
    fn path(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    fn issue(&self, profile: ProfileName, name: &str) -> Result<Issued, PkiError> {
        let profile = Profile::built_in(profile).unwrap();
        let issued = self.ca.issue(&profile, &Subject::named(name), KeyType::P256, now());
        issued.map(|(issued, _)| issued)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(Ca::trust_path(&self.path())).unwrap()).unwrap();
        Arc::new(roots)
    }

    /// Whether webpki takes the certificate for a client's.
    fn is_client(&self, issued: &Issued) -> bool {
        let chain = chain(issued);
        let (der, above) = chain.split_first().unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider);
        verifier.build().unwrap().verify_client_cert(der, above, UnixTime::now()).is_ok()
    }

    /// Whether webpki takes the certificate for that of a server with this name.
    fn is_server(&self, issued: &Issued, name: &str) -> bool {
        let chain = chain(issued);
        let (der, above) = chain.split_first().unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let name = ServerName::try_from(name).unwrap();
        WebPkiServerVerifier::builder_with_provider(self.roots(), provider)
            .build()
            .unwrap()
            .verify_server_cert(der, above, &name, &[], UnixTime::now())
            .is_ok()
    }
}

fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_authority_keeps_its_key_to_its_owner() {
    let authority = authority();
    assert_eq!(mode_of(&authority.path()), 0o700);
    assert_eq!(mode_of(&Ca::key_path(&authority.path())), 0o600);
    let permissions = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(Ca::key_path(&authority.path()), permissions).unwrap();
    let error = Ca::open(&authority.path(), &mut no_passphrase, now()).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    for secret in ["root.key", "inventory.jsonl"] {
        assert_eq!(mode_of(&authority.path().join(secret)), 0o600, "{secret}");
    }
}

#[test]
fn an_authority_is_never_overwritten() {
    let authority = authority();
    let before = std::fs::read(Ca::key_path(&authority.path())).unwrap();
    for gone in [None, Some(Ca::key_path(&authority.path()))] {
        if let Some(path) = &gone {
            std::fs::remove_file(path).unwrap();
        }
        for layout in [Layout::RootOnly, Layout::RootAndIssuing] {
            let error = create(&authority.path(), layout).unwrap_err();
            assert!(error.to_string().contains("exists already"), "{error}");
        }
        let after = std::fs::read(Ca::key_path(&authority.path())).ok();
        assert_eq!(after, gone.is_none().then(|| before.clone()), "no key without its certificate");
    }
}

#[test]
fn a_certificate_is_good_for_what_its_profile_says_and_nothing_else() {
    let authority = authority();
    let name = "broker.example.com";
    for (profile, client, server) in [
        (ProfileName::Server, false, true),
        (ProfileName::Device, true, false),
        (ProfileName::Service, true, false),
        (ProfileName::User, true, false),
    ] {
        let issued = authority.issue(profile, name).unwrap();
        assert_eq!(authority.is_client(&issued), client, "{profile:?}");
        assert_eq!(authority.is_server(&issued, name), server, "{profile:?}");
        assert!(!authority.is_server(&issued, "other.example.com"), "{profile:?}");
        assert_eq!(chain(&issued).len(), 2, "the issuing authority is sent, a root is not");
    }
    let by_address = authority.issue(ProfileName::Server, "192.0.2.1").unwrap();
    assert!(authority.is_server(&by_address, "192.0.2.1"));
}

#[test]
fn what_is_reported_is_what_the_certificate_says() {
    let authority = authority();
    let issued = authority.issue(ProfileName::Device, "pump-1").unwrap();
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let said = &issued.certificate;
    assert_eq!(crate::pki::serial_hex(parsed.raw_serial()), said.serial);
    assert_eq!(said.serial.len(), 32, "sixteen bytes, never shorter");
    assert_eq!(crate::pki::sha256_hex(&der), said.fingerprint);
    assert_eq!(crate::pki::sha256_hex(parsed.public_key().raw), said.key);
    assert_eq!(parsed.validity().not_after.to_datetime(), said.not_after);
    assert_eq!(parsed.validity().not_before.to_datetime(), said.not_before);
    let again = authority.issue(ProfileName::Device, "pump-1").unwrap();
    assert_ne!(again.certificate.serial, said.serial);
    let entry = authority.ca.entry(&said.serial).unwrap();
    assert_eq!(entry.certificate, *said, "and what the inventory says");
    let key = crate::pki::PrivateKey::generate(KeyType::P256).unwrap();
    assert!(!format!("{key:?}").contains(&hex::encode(key.der_bytes())), "not for logs");
}

#[test]
fn no_certificate_is_issued_against_its_profile() {
    let authority = authority();
    for name in ["", "a/b", "a+", "a#", "$a", "a\0b"] {
        let outcome = authority.issue(ProfileName::Device, name);
        assert!(matches!(outcome, Err(PkiError::Name(_))), "{name:?}");
    }
    for profile in [ProfileName::Ca, ProfileName::Issuing] {
        let outcome = authority.issue(profile, "Sub CA");
        assert!(matches!(outcome, Err(PkiError::IssuedByProfileCa { .. })));
    }

    let device = Profile::built_in(ProfileName::Device).unwrap();
    let names = AlternativeNames { ip: vec![[192, 0, 2, 1].into()], ..Default::default() };
    let subject = Subject { name: "pump".to_owned(), alternative_names: names };
    let outcome = authority.ca.issue(&device, &subject, KeyType::P256, now());
    assert!(matches!(outcome, Err(PkiError::Name(NameError::FormNotAllowed { .. }))));

    let longer = Profile { validity: VALIDITY_MAX, ..device };
    let outcome = authority.ca.issue(&longer, &Subject::named("pump"), KeyType::P256, now());
    assert!(matches!(outcome, Err(PkiError::OutlivesCa { .. })));
    assert_eq!(authority.ca.contents(|contents| contents.entries().count()).unwrap(), 0);
}

#[test]
fn files_that_make_no_authority_are_refused() {
    let (authority, other) = (authority(), authority());
    let certificate = Ca::certificate_path(&authority.path());
    let own = std::fs::read(&certificate).unwrap();
    let device = authority.issue(ProfileName::Device, "pump").unwrap();
    for (contents, problem) in [
        (b"nonsense".to_vec(), "no certificate"),
        (device.certificate_pem.into_bytes(), "not the certificate of an authority"),
        (std::fs::read(Ca::certificate_path(&other.path())).unwrap(), "is not its key"),
        (std::fs::read(Ca::trust_path(&authority.path())).unwrap(), "is not its key"),
    ] {
        std::fs::write(&certificate, contents).unwrap();
        let error = Ca::open(&authority.path(), &mut no_passphrase, now()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    std::fs::write(&certificate, own).unwrap();
    assert!(Ca::open(&authority.path(), &mut no_passphrase, now()).is_ok());
}

#[test]
fn several_threads_share_an_authority() {
    let authority = authority();
    let issued: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let authority = &authority;
                scope.spawn(move || {
                    let issue = |at| {
                        let name = format!("pump-{thread}-{at}");
                        authority.issue(ProfileName::Device, &name).unwrap().certificate.serial
                    };
                    (0..5).map(issue).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    // As another process would read it.
    Ca::look(&authority.path(), |contents| {
        assert_eq!(contents.entries().count(), 20);
        assert!(issued.iter().all(|serial| contents.by_serial(serial).is_some()));
    })
    .unwrap();
}
