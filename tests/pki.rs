//! The authority as a person uses it: the program, and OpenSSL on the other side.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test fails by panic"
)]

mod place;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use place::{PORTCULLIS, Place, json_lines, text};

impl Place {
    fn with_passphrase() -> Self {
        let place = Self::empty();
        place.write_secret("passphrase", "correct horse battery staple\n");
        place
    }

    fn with_authority() -> Self {
        let place = Self::with_passphrase();
        place.run("ca init --dir ca --name Factory --no-passphrase");
        place
    }

    /// What OpenSSL says of a certificate under a file of whom to trust; the chain is in its file.
    fn verified(&self, options: &str, certificate: &str) -> (bool, String) {
        let line = format!("verify {options} -untrusted {certificate} {certificate}");
        let output = self.command("openssl", &line).output().unwrap();
        (output.status.success(), text(&output))
    }

    fn assert_verified(&self, options: &str, certificate: &str) {
        let (verified, said) = self.verified(options, certificate);
        assert!(verified, "{said}");
    }

    fn audited(&self) -> Vec<Value> {
        json_lines(&self.read("ca/audit.jsonl"))
    }
}

#[test]
fn what_is_issued_and_revoked_is_what_openssl_says_too() {
    for key_type in ["p256", "p384", "ed25519"] {
        let place = Place::with_passphrase();
        place.run(&format!("ca init --dir ca --key-type {key_type} --passphrase-file passphrase"));
        let issue =
            format!("cert issue --ca ca --passphrase-file passphrase --key-type {key_type}");
        place.run(&format!("{issue} --profile device --name dev1 --uri spiffe://plant/dev1"));
        place.run(&format!("{issue} --profile server --name broker.example --ip 192.0.2.1"));
        place.run(&format!("{issue} --profile user --name ann --email ann@plant.example"));
        place.assert_verified("-x509_strict -purpose sslclient -CAfile ca/trust.pem", "dev1.pem");
        place.assert_verified(
            "-x509_strict -purpose sslserver -verify_hostname broker.example -CAfile ca/trust.pem",
            "broker.example.pem",
        );
        place.assert_verified("-purpose sslclient -CAfile ca/trust.pem", "ann.pem");
        assert!(!place.verified("-purpose sslserver -CAfile ca/trust.pem", "dev1.pem").0);

        let options = "-crl_check_all -CAfile ca/trust.pem -CRLfile ca/crls.pem";
        place.assert_verified(options, "dev1.pem");
        place.run(
            "cert revoke --ca ca --passphrase-file passphrase --file dev1.pem --reason keyCompromise",
        );
        let (verified, said) = place.verified(options, "dev1.pem");
        assert!(!verified && said.contains("certificate revoked"), "{said}");
        place.assert_verified(options, "ann.pem");
        let crl = place.openssl("crl -in ca/ca.crl.der -inform DER -CAfile ca/ca.pem -noout -text");
        assert!(crl.contains("verify OK") && crl.contains("Key Compromise"), "{crl}");
        place.openssl("crl -in ca/root.crl -CAfile ca/root.pem -noout");
    }
}

#[test]
fn keys_are_encrypted_the_way_openssl_opens_them() {
    let place = Place::with_passphrase();
    place.run("ca init --dir ca --passphrase-file passphrase");
    for key in ["ca/ca.key", "ca/root.key"] {
        assert!(place.read(key).starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        place.openssl(&format!("pkey -in {key} -passin file:passphrase -noout"));
        let parsed = place.openssl(&format!("asn1parse -in {key}"));
        for part in ["PBES2", "PBKDF2", ":0927C0", "hmacWithSHA256", "aes-256-cbc"] {
            assert!(parsed.contains(part), "{part}: {parsed}");
        }
    }
    let error = place.refused("cert issue --ca ca --profile device --name dev1");
    assert!(error.contains("--passphrase-file"), "{error}");
    place.write("wrong", "not the passphrase\n");
    let error =
        place.refused("cert issue --ca ca --passphrase-file wrong --profile device --name dev1");
    assert!(error.contains("chmod 600"), "{error}");
    place.set_mode("wrong", 0o600);
    let error =
        place.refused("cert issue --ca ca --passphrase-file wrong --profile device --name dev1");
    assert!(error.contains("does not open this key"), "{error}");
    assert!(place.listed().is_empty() && !place.path("dev1.pem").exists());

    // Keys that are issued, and a key that OpenSSL encrypted with scrypt.
    let issue = "cert issue --ca ca --passphrase-file passphrase --profile device";
    place.run(&format!("{issue} --name dev1 --key-passphrase-file passphrase"));
    place.openssl("pkey -in dev1.key -passin file:passphrase -noout");
    place.run(&format!("{issue} --name dev2 --key-passphrase-file passphrase --bundle p12"));
    let shown = place.openssl("pkcs12 -in dev2.p12 -passin file:passphrase -info -nodes");
    assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 3, "{shown}");
    assert_eq!(shown.matches("BEGIN PRIVATE KEY").count(), 1, "{shown}");
    assert!(shown.contains("AES-256-CBC") && shown.contains("Iteration 600000"), "{shown}");
    assert_eq!(fs::metadata(place.path("dev2.p12")).unwrap().permissions().mode() & 0o777, 0o600);

    fs::copy(place.path("passphrase"), place.path("again")).unwrap();
    place.openssl(
        "pkcs8 -topk8 -in ca/ca.key -passin file:passphrase -scrypt -passout file:again -out scrypt.key",
    );
    fs::rename(place.path("scrypt.key"), place.path("ca/ca.key")).unwrap();
    place.set_mode("ca/ca.key", 0o600);
    place.run(&format!("{issue} --name dev3"));
}

#[test]
fn an_authority_without_a_passphrase_is_one_by_choice() {
    let place = Place::with_passphrase();
    let error = place.refused("ca init --dir ca");
    assert!(error.contains("--no-passphrase"), "{error}");
    assert!(!place.path("ca/ca.key").exists());
    place.run("ca init --dir ca --no-passphrase");
    assert!(place.read("ca/ca.key").starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn requests_that_openssl_makes_are_signed() {
    let place = Place::with_authority();
    for (name, key) in [
        ("p256", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"),
        // OpenSSL signs with SHA-256 here, whatever the curve.
        ("p384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha256"),
        ("ed25519", "-newkey ed25519"),
        ("rsa", "-newkey rsa:2048"),
    ] {
        for form in ["PEM", "DER"] {
            let made = format!("req -new {key} -nodes -keyout {name}.key -subj /CN={name}-{form}");
            place.openssl(&format!(
                "{made} -addext subjectAltName=URI:spiffe://plant/{name} -outform {form} -out {name}.csr"
            ));
            place.run(&format!("cert sign --ca ca --profile device {name}.csr"));
            let certificate = format!("{name}-{form}.pem");
            place.assert_verified(
                "-x509_strict -purpose sslclient -CAfile ca/trust.pem",
                &certificate,
            );
            let of_certificate = place.openssl(&format!("x509 -in {certificate} -noout -pubkey"));
            assert_eq!(of_certificate, place.openssl(&format!("pkey -in {name}.key -pubout")));
        }
    }
}

#[test]
fn a_hostile_request_is_refused_and_leaves_nothing_behind() {
    let place = Place::with_authority();
    let before = place.read("ca/inventory.jsonl");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    for (file, expected) in [
        ("asks-for-authority.der", "CA:TRUE"),
        ("asks-for-unit.der", "O=Acme"),
        ("bad-signature.der", "signature"),
        ("empty", "not a certificate signing request"),
        ("filter-in-name.der", "`#`"),
        ("hundred-names.der", "100 alternative names"),
        ("key-identifier.der", "subjectKeyIdentifier"),
        ("level-in-name.der", "`/`"),
        ("nameless.der", "--name NAME"),
        ("other-name.der", "an alternative name that is no DNS name"),
        ("rsa-server.der", "extended key usage ServerAuth"),
        ("trailing.der", "not a certificate signing request"),
        ("truncated.der", "cut off"),
        ("two-names.der", "more than once"),
        ("weak-rsa.der", "key is not taken"),
    ] {
        fs::copy(corpus.join(file), place.path("csr")).unwrap();
        let error = place.refused("cert sign --ca ca --profile device --out out csr");
        assert!(error.contains(expected) && error.contains("csr: "), "{file}: {error}");
    }
    assert_eq!(place.read("ca/inventory.jsonl"), before);
    assert!(!place.path("out").exists());
}

#[test]
fn an_authority_that_openssl_made_is_taken_over() {
    let place = Place::with_passphrase();
    place.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout old.key -out old.pem -days 400 \
         -subj /C=DE/O=Works/OU=One/CN=Works -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    place
        .run("ca import --dir ca --certificate old.pem --key old.key --passphrase-file passphrase");
    let issue = "cert issue --ca ca --passphrase-file passphrase --profile device --days 30";
    place.run(&format!("{issue} --name dev1"));
    place.assert_verified(
        "-x509_strict -CAfile ca/trust.pem -CRLfile ca/crls.pem -crl_check",
        "dev1.pem",
    );
    // One that it issued before, which the inventory does not know.
    place.openssl("req -new -newkey ed25519 -nodes -keyout b.key -subj /CN=before -out b.csr");
    place.openssl(
        "x509 -req -in b.csr -CA old.pem -CAkey old.key -CAcreateserial -days 30 -out b.pem",
    );
    place.assert_verified("-CAfile ca/trust.pem -CRLfile ca/crls.pem -crl_check", "b.pem");
    place.run("cert revoke --ca ca --passphrase-file passphrase --file b.pem");
    assert!(!place.verified("-CAfile ca/trust.pem -CRLfile ca/crls.pem -crl_check", "b.pem").0);

    // Not every file is an authority that can be taken over.
    place.openssl("req -x509 -newkey ed25519 -nodes -keyout leaf.key -out leaf.pem -subj /CN=a -addext basicConstraints=CA:FALSE");
    // Two values of one kind cannot be written again in their order.
    place.openssl(
        "req -x509 -newkey ed25519 -nodes -keyout twice.key -out twice.pem -subj /OU=a/OU=b/CN=a",
    );
    for (line, expected) in [
        ("--certificate leaf.pem --key leaf.key", "not the certificate of an authority"),
        ("--certificate old.pem --key leaf.key", "is not its key"),
        ("--certificate twice.pem --key twice.key", "no certificate would lead to it"),
    ] {
        let error = place.refused(&format!("ca import --dir other --no-passphrase {line}"));
        assert!(error.contains(expected), "{error}");
    }
    assert!(!place.path("other/ca.pem").exists());
}

#[test]
fn a_new_issuing_authority_leaves_no_certificate_behind() {
    let place = Place::with_authority();
    let issue = "cert issue --ca ca --profile device";
    place.run(&format!("{issue} --name before"));
    fs::copy(place.path("ca/trust.pem"), place.path("old-trust.pem")).unwrap();
    place.run("ca rotate --dir ca --no-passphrase");
    place.run(&format!("{issue} --name after"));
    let options = "-crl_check_all -CRLfile ca/crls.pem";
    for trust in ["old-trust.pem", "ca/trust.pem"] {
        for certificate in ["before.pem", "after.pem"] {
            place.assert_verified(&format!("{options} -CAfile {trust}"), certificate);
        }
    }
    place.run("cert revoke --ca ca --name before");
    assert!(!place.verified(&format!("{options} -CAfile ca/trust.pem"), "before.pem").0);
    place.assert_verified(&format!("{options} -CAfile ca/trust.pem"), "after.pem");
    let shown = place.run("ca show --dir ca");
    assert!(shown.contains("Factory 2") && shown.contains("issuing authority before"), "{shown}");
}

#[test]
fn an_issuing_key_in_other_hands_is_revoked_by_the_root() {
    for root in ["", "--root"] {
        let place = Place::with_authority();
        let issue = "cert issue --ca ca --profile device";
        place.run(&format!("{issue} --name before"));
        place.run(&format!("ca rotate --dir ca --compromised --no-passphrase {root}"));
        place.run(&format!("{issue} --name after"));
        let options = "-crl_check_all -CRLfile ca/crls.pem -CAfile ca/trust.pem";
        let (verified, said) = place.verified(options, "before.pem");
        assert!(!verified && said.contains("certificate revoked"), "{said}");
        place.assert_verified(options, "after.pem");
        assert!(place.audited().iter().any(|line| line["reason"] == "caCompromise"));
        // What it issued is revoked with it, and nobody renews it.
        let valid = place.run("cert list --ca ca --state valid");
        assert!(valid.contains("after") && !valid.contains("before"), "{valid}");
        assert!(place.run("cert list --ca ca --state revoked").contains("before"));
        let refused = place.refused("cert renew --ca ca --name before --replace");
        assert!(refused.contains("is revoked (caCompromise)"), "{refused}");
    }
}

#[test]
fn a_new_root_is_trusted_by_whoever_trusts_the_old_one() {
    let place = Place::with_authority();
    let issue = "cert issue --ca ca --profile device";
    place.run(&format!("{issue} --name before"));
    fs::copy(place.path("ca/trust.pem"), place.path("old-trust.pem")).unwrap();
    // The root's key is elsewhere until it is needed.
    fs::rename(place.path("ca/root.key"), place.path("offline.key")).unwrap();
    let error = place.refused("ca rotate --dir ca --root --no-passphrase");
    assert!(error.contains("root.key"), "{error}");
    place.run("ca rotate --dir ca --root --root-key offline.key --no-passphrase");
    place.run(&format!("{issue} --name after"));
    for (trust, certificate) in [
        ("ca/trust.pem", "before.pem"),
        ("ca/trust.pem", "after.pem"),
        ("old-trust.pem", "before.pem"),
        ("old-trust.pem", "after.pem"),
        ("ca/root.pem", "after.pem"),
    ] {
        place.assert_verified(&format!("-x509_strict -CAfile {trust}"), certificate);
        place.assert_verified(
            &format!("-crl_check_all -CRLfile ca/crls.pem -CAfile {trust}"),
            certificate,
        );
    }
    assert!(!place.verified("-CAfile ca/root.pem", "before.pem").0);
    place.run("cert revoke --ca ca --name before");
    place.run("ca rotate --dir ca --no-passphrase");
    place.run(&format!("{issue} --name last"));
    place.assert_verified("-CAfile ca/trust.pem", "last.pem");
    place.assert_verified("-CAfile old-trust.pem", "last.pem");
}

#[test]
fn a_root_may_have_a_passphrase_of_its_own() {
    let place = Place::with_passphrase();
    place.write_secret("other", "another passphrase\n");
    place.run("ca init --dir ca --passphrase-file passphrase --root-passphrase-file other");
    place.openssl("pkey -in ca/root.key -passin file:other -noout");
    place.openssl("pkey -in ca/ca.key -passin file:passphrase -noout");
    fs::rename(place.path("ca/root.key"), place.path("offline.key")).unwrap();
    let rotate = "ca rotate --dir ca --root-key offline.key --passphrase-file passphrase";
    let error = place.refused(rotate);
    assert!(error.contains("offline.key: the passphrase does not open this key"), "{error}");
    place.run(&format!("{rotate} --root-passphrase-file other"));
    place.run("cert issue --ca ca --passphrase-file passphrase --profile device --name dev1");
    place.assert_verified("-CAfile ca/trust.pem", "dev1.pem");
    // A rotation that was refused left nothing behind.
    assert!(!place.path("ca/.next").exists() && !place.path("ca/next").exists());
    assert_eq!(fs::read_dir(place.path("ca/retired")).unwrap().count(), 1);
}

#[test]
fn everything_that_was_done_is_in_the_audit_file() {
    let place = Place::with_authority();
    place.run("cert issue --ca ca --profile device --name dev1");
    let issued = place.listed()[0].clone();
    place.run("cert renew --ca ca --name dev1 --replace");
    place.run(&format!(
        "cert revoke --ca ca --serial {} --reason superseded",
        issued["serial"].as_str().unwrap()
    ));
    place.run("ca crl --dir ca");
    place.run("ca rotate --dir ca --no-passphrase");
    let audited = place.audited();
    let events: Vec<&str> = audited.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        [
            "ca.created",
            "certificate.issued",
            "certificate.issued",
            "certificate.revoked",
            "crl.issued",
            "crl.issued",
            "ca.rotated",
            "crl.issued",
            "crl.issued",
        ]
    );
    assert_eq!(audited[1]["serial"], issued["serial"]);
    assert_eq!(audited[2]["renews"], issued["serial"]);
    assert_eq!(audited[3]["reason"], "superseded");
    assert_eq!(audited[8]["seq"], 9);
}

#[test]
fn a_renewed_certificate_takes_the_place_of_its_files_when_told() {
    let place = Place::with_authority();
    place.run("cert issue --ca ca --profile server --name broker --dns mqtt.example --out certs");
    let old = place.read("certs/broker.pem");
    let error = place.refused("cert renew --ca ca --name broker --out certs");
    assert!(error.contains("--replace"), "{error}");
    assert_eq!(place.listed().len(), 1, "nothing was issued");
    place.run("cert renew --ca ca --name broker --out certs --replace --key-type p384");
    let [first, second] = &*place.listed() else { panic!("{:?}", place.listed()) };
    assert_eq!(first["renewed_by"], second["serial"]);
    assert_eq!(second["alternative_names"], first["alternative_names"]);
    let aside = format!("certs/broker.{}.pem", first["serial"].as_str().unwrap());
    assert_eq!(place.read(&aside), old);
    place.assert_verified("-verify_hostname mqtt.example -CAfile ca/trust.pem", "certs/broker.pem");
    // With a key that stays where it is.
    place.openssl("req -new -newkey ed25519 -nodes -keyout own.key -subj /CN=broker -out own.csr");
    place.run("cert renew --ca ca --name broker --request own.csr --out own");
    place.assert_verified("-verify_hostname mqtt.example -CAfile ca/trust.pem", "own/broker.pem");
    place.openssl("req -new -newkey ed25519 -nodes -keyout own.key -subj /CN=other -out own.csr");
    let error = place.refused("cert renew --ca ca --name broker --request own.csr --out other");
    assert!(error.contains("is for \"other\", not for \"broker\""), "{error}");

    place.run("cert revoke --ca ca --name broker");
    let error = place.refused("cert renew --ca ca --name broker --out again");
    assert!(error.contains("is revoked"), "{error}");
    assert!(place.listed().iter().all(|one| one["state"] == "revoked"));
}

#[test]
fn a_table_is_issued_as_a_whole_or_not_at_all() {
    let place = Place::with_authority();
    place.write("bad.csv", "name,uri\ndev1,\ndev/2,\ndev3,spiffe://Plant/3\n");
    let before = place.read("ca/inventory.jsonl");
    let error = place.refused("cert issue --ca ca --profile device --csv bad.csv --out out");
    for expected in [
        "bad.csv, line 3, column name: the name contains `/`",
        "bad.csv, line 4, column uri: `spiffe://Plant/3` is not a SPIFFE ID",
        "nothing was issued",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(place.read("ca/inventory.jsonl"), before);
    assert!(!place.path("out").exists());

    place.write("good.csv", "name,uri\ndev1,\ndev2,spiffe://plant/2; urn:two\n");
    place.run(
        "cert issue --ca ca --profile device --csv good.csv --out out --key-passphrase-file passphrase",
    );
    for name in ["dev1", "dev2"] {
        place.assert_verified("-CAfile ca/trust.pem", &format!("out/{name}.pem"));
        place.openssl(&format!("pkey -in out/{name}.key -passin file:passphrase -noout"));
        for (ending, mode) in [("pem", 0o644), ("key", 0o600)] {
            let path = place.path(&format!("out/{name}.{ending}"));
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{ending}");
        }
    }
    let again = "cert issue --ca ca --profile device --csv good.csv --out out";
    let error = place.refused(again);
    assert!(error.contains("--skip-existing"), "{error}");
    place.run(&format!("{again} --skip-existing"));
    assert_eq!(place.listed().len(), 2);
}

/// Whatever was written is in the inventory, and the inventory is whole, whenever the program is
/// killed.
#[test]
fn the_inventory_survives_a_kill_at_any_point() {
    const DEVICES: usize = 1_500;
    let place = Place::with_authority();
    let names: Vec<String> = (0..DEVICES).map(|at| format!("dev{at}")).collect();
    place.write("all.csv", &format!("name\n{}\n", names.join("\n")));
    let line = "cert issue --ca ca --profile device --csv all.csv --out out --skip-existing";
    for wait_ms in [0, 20, 60, 120, 200, 300, 450, 600] {
        let mut child = place
            .command(PORTCULLIS, line)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
        place.assert_written_is_recorded();
    }
    place.run(line);
    place.assert_written_is_recorded();
    // What is in doubt is in no file.
    let in_doubt = place.run("cert list --ca ca --unwritten --json");
    for one in json_lines(&in_doubt) {
        let file = format!("out/{}.pem", one["name"].as_str().unwrap());
        let written =
            portcullis::pki::sha256_hex(&pem_to_der(&fs::read(place.path(&file)).unwrap()));
        assert_ne!(one["fingerprint"], written, "{one}");
    }
    for folder in ["out", "ca"] {
        let names = fs::read_dir(place.path(folder)).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!names.any(|name| name.starts_with(".portcullis-")), "{folder}");
    }
    for at in 0..DEVICES {
        assert!(place.path(&format!("out/dev{at}.pem")).exists());
        assert!(place.path(&format!("out/dev{at}.key")).exists());
    }
}

impl Place {
    fn assert_written_is_recorded(&self) {
        let recorded: BTreeSet<String> = self
            .listed()
            .iter()
            .map(|one| one["fingerprint"].as_str().unwrap().to_owned())
            .collect();
        let Ok(entries) = fs::read_dir(self.path("out")) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            let pem = fs::read(&path).unwrap();
            let der = pem_to_der(&pem);
            assert!(recorded.contains(&portcullis::pki::sha256_hex(&der)), "{}", path.display());
        }
    }
}

fn pem_to_der(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

#[test]
fn a_profile_of_ones_own_says_where_the_lists_are() {
    let place = Place::with_authority();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/device.toml");
    let profile = fs::read_to_string(built_in).unwrap();
    place.write("own.toml", &format!("{profile}crl_urls = [\"http://crl.example/ca.crl.der\"]\n"));
    let issue = "cert issue --ca ca --profile device --name dev1";
    place.run(&format!("{issue} --profile-file own.toml"));
    let shown = place.openssl("x509 -in dev1.pem -noout -ext crlDistributionPoints");
    assert!(shown.contains("URI:http://crl.example/ca.crl.der"), "{shown}");
    place.write("own.toml", &format!("{profile}crl_urls = [\"ldap://crl.example\"]\n"));
    let error = place.refused(&format!("{issue} --out other --profile-file own.toml"));
    assert!(error.contains("crl_urls"), "{error}");
}

/// As a program leaves it that is stopped between the inventory and the files.
#[test]
fn a_certificate_that_may_never_have_been_written_is_told_until_it_is_found() {
    let place = Place::with_authority();
    place.write("all.csv", "name\ndev1\ndev2\n");
    let line = "cert issue --ca ca --profile device --csv all.csv --out out --skip-existing";
    place.run(line);
    assert_eq!(place.run("cert list --ca ca --unwritten"), "");
    let inventory = place.read("ca/inventory.jsonl");
    let lines: Vec<&str> = inventory.lines().collect();
    let (last, before) = lines.split_last().unwrap();
    assert!(last.contains("\"event\":\"written\""), "{last}");
    place.write("ca/inventory.jsonl", &format!("{}\n", before.join("\n")));
    for name in ["out/dev2.pem", "out/dev2.key"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    let abandoned = ["out/.portcullis-0123456789abcdef.tmp", "ca/.portcullis-0123456789abcdef.tmp"];
    for name in abandoned {
        place.write(name, "");
    }
    let shown = place.run("cert list --ca ca");
    assert_eq!(shown.matches(" unwritten ").count(), 2, "{shown}");
    let said = place.portcullis(line);
    assert!(text(&said).contains("1 certificate of a run that was stopped"), "{}", text(&said));
    let in_doubt = json_lines(&place.run("cert list --ca ca --unwritten --json"));
    assert_eq!(in_doubt.len(), 1, "{in_doubt:?}");
    assert_eq!((&in_doubt[0]["name"], &in_doubt[0]["written"]), (&"dev2".into(), &false.into()));
    for name in abandoned {
        assert!(!place.path(name).exists(), "{name}");
    }
    place.run(&format!("cert revoke --ca ca --serial {}", in_doubt[0]["serial"].as_str().unwrap()));
    assert_eq!(place.run("cert list --ca ca --unwritten"), "");
    place.assert_verified(
        "-CAfile ca/trust.pem -crl_check_all -CRLfile ca/crls.pem",
        "out/dev2.pem",
    );
}

#[test]
fn names_with_blanks_around_them_are_refused() {
    let place = Place::with_authority();
    for name in [" ", "dev1 ", " dev1"] {
        let line = "cert issue --ca ca --profile device --name";
        let output = place.command(PORTCULLIS, line).arg(name).output().unwrap();
        assert!(text(&output).contains("begins or ends with a blank"), "{}", text(&output));
        let line = "cert token create --ca ca --for";
        let output = place.command(PORTCULLIS, line).arg(name).output().unwrap();
        assert!(text(&output).contains("begins or ends with a blank"), "{}", text(&output));
    }
    assert!(place.listed().is_empty());
}

#[test]
fn names_of_others_do_nothing_to_a_terminal() {
    let place = Place::with_authority();
    let output = place
        .command(PORTCULLIS, "cert issue --ca ca --profile server --name")
        .arg("\u{1b}[2Jbroker")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!text(&output).contains('\u{1b}'), "{}", text(&output));
    let listed = place.run("cert list --ca ca");
    assert_eq!(listed, "");
}

/// The issuing key is made in a token, signs there, and never leaves it.
#[cfg(feature = "pkcs11")]
#[test]
fn an_issuing_key_stays_in_its_token() {
    let module =
        ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let module = module.into_iter().find(|path| Path::new(path).exists()).unwrap();
    let place = Place::with_passphrase();
    fs::create_dir(place.path("tokens")).unwrap();
    let tokens = place.path("tokens");
    place.write("softhsm2.conf", &format!("directories.tokendir = {}\n", tokens.display()));
    let run = |program: &str, line: &str| {
        let mut command = place.command(program, line);
        let output = command.env("SOFTHSM2_CONF", place.path("softhsm2.conf")).output().unwrap();
        assert!(output.status.success(), "{program} {line}: {}", text(&output));
        text(&output)
    };
    run("softhsm2-util", "--init-token --free --label portcullis --so-pin 12345678 --pin 87654321");
    place.write_secret("pin", "87654321\n");
    let portcullis = |line: &str| run(PORTCULLIS, line);
    let token = format!("pkcs11:token=portcullis;object=issuing?module-path={module}");
    portcullis(&format!(
        "ca init --dir ca --passphrase-file pin --root-passphrase-file passphrase --token {token}"
    ));
    assert_eq!(place.read("ca/ca.key").trim(), token);
    let issue = "cert issue --ca ca --passphrase-file pin --profile device";
    portcullis(&format!("{issue} --name dev1"));
    portcullis("cert revoke --ca ca --passphrase-file pin --name dev1");
    portcullis(&format!("{issue} --name dev2"));
    let options = "-x509_strict -crl_check_all -CRLfile ca/crls.pem -CAfile ca/trust.pem";
    place.assert_verified(options, "dev2.pem");
    assert!(!place.verified(options, "dev1.pem").0);

    // The next one is another key of the same token, while the old one signs its lists.
    let next = token.replace("issuing", "issuing-2");
    portcullis(&format!(
        "ca rotate --dir ca --passphrase-file pin --root-passphrase-file passphrase --key-type p384 --token {next}"
    ));
    portcullis(&format!("{issue} --name dev3"));
    place.assert_verified(options, "dev3.pem");
    place.assert_verified(options, "dev2.pem");

    place.write_secret("wrong", "11111111\n");
    let mut command = place.command(
        PORTCULLIS,
        "cert issue --ca ca --passphrase-file wrong --profile device --name dev4",
    );
    let output = command.env("SOFTHSM2_CONF", place.path("softhsm2.conf")).output().unwrap();
    assert!(
        !output.status.success() && text(&output).contains("token refuses"),
        "{}",
        text(&output)
    );
}
