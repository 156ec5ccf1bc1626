//! Tests of [`super`]. That OpenSSL opens what is written is in `tests/pki.rs`.

use super::*;
use crate::pki::files::{Access, write_new};

fn passphrase(text: &str) -> Result<Passphrase, KeyError> {
    Passphrase::existing(Zeroizing::new(text.to_owned()))
}

fn no_question(path: &Path) -> Result<Passphrase, KeyError> {
    Err(KeyError::NoPassphrase { path: path.to_owned() })
}

#[test]
fn a_key_comes_back_from_its_file_whatever_protects_it() {
    let folder = tempfile::tempdir().unwrap();
    let envelope = Protection::new(Some(passphrase("a long passphrase").unwrap())).unwrap();
    for (at, key_type) in [KeyType::P256, KeyType::P384, KeyType::Ed25519].into_iter().enumerate() {
        let key = PrivateKey::generate(key_type).unwrap();
        for (name, protection) in [("plain", &Protection::None), ("sealed", &envelope)] {
            let path = folder.path().join(format!("{name}-{at}.key"));
            let pem = key.to_pem(protection).unwrap();
            assert_eq!(pem.contains("ENCRYPTED"), name == "sealed");
            write_new(&path, pem.as_bytes(), Access::Owner).unwrap();
            let mut asked = 0;
            let read = PrivateKey::read(&path, &mut |_| {
                asked += 1;
                passphrase("a long passphrase")
            })
            .unwrap();
            assert_eq!(read.subject_public_key_info(), key.subject_public_key_info());
            assert_eq!(asked, i32::from(name == "sealed"), "a plain key asks for nothing");
            if name == "sealed" {
                let error =
                    PrivateKey::read(&path, &mut |_| passphrase("another one")).unwrap_err();
                assert!(matches!(error, KeyError::WrongPassphrase { .. }), "{error}");
                let error = PrivateKey::read(&path, &mut no_question).unwrap_err();
                assert!(error.to_string().contains("--passphrase-file"), "{error}");
            }
        }
    }
}

#[test]
fn keys_of_one_run_share_a_derivation_and_no_initialization_vector() {
    let envelope = Protection::new(Some(passphrase("a long passphrase").unwrap())).unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let sealed = [key.to_pem(&envelope).unwrap(), key.to_pem(&envelope).unwrap()];
    let parameters = sealed.map(|pem| {
        let (_, der) = pkcs8::der::pem::decode_vec(pem.as_bytes()).unwrap();
        let info = EncryptedPrivateKeyInfoRef::from_der(&der).unwrap();
        info.encryption_algorithm.pbes2().unwrap().clone()
    });
    assert_eq!(parameters[0].kdf, parameters[1].kdf);
    assert_ne!(parameters[0].encryption, parameters[1].encryption);
    assert_eq!(parameters[0].kdf.pbkdf2().unwrap().iteration_count, 600_000);
}

#[test]
fn a_passphrase_is_one_line_that_is_worth_the_name() {
    for (text, opens, seals) in [
        ("", false, false),
        ("short", true, false),
        ("eight ch", true, true),
        ("two\nlines of it", false, false),
        ("with\0a NUL in it", false, false),
    ] {
        assert_eq!(passphrase(text).is_ok(), opens, "{text:?}");
        let for_new = passphrase(text).and_then(Passphrase::for_new_key);
        assert_eq!(for_new.is_ok(), seals, "{text:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passphrase");
    write_new(&path, b"from a file\r\n", Access::Owner).unwrap();
    assert_eq!(Passphrase::from_file(&path).unwrap().as_str(), "from a file");
    let open = folder.path().join("open");
    write_new(&open, b"from a file\n", Access::Everybody).unwrap();
    assert!(Passphrase::from_file(&open).unwrap_err().to_string().contains("chmod 600"));
    assert_eq!(format!("{:?}", passphrase("a secret one").unwrap()), "Passphrase(…)");
}

#[test]
fn what_is_no_key_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (text, expected)) in [
        ("nonsense", "not a private key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "not a private key",
        ),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "not a private key"),
        ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "openssl pkcs8"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(at.to_string());
        write_new(&path, text.as_bytes(), Access::Owner).unwrap();
        let error = PrivateKey::read(&path, &mut |_| passphrase("a long one")).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}
