//! Enrolment as a device does it: curl and OpenSSL against `portcullis pki serve`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test fails by panic"
)]

mod place;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use place::service::{BROKER, CONFIG, PERMIT_ALL, Process};
use place::{Place, json_lines, text, until};

impl Place {
    /// Makes a key and a signing request, as EST sends it, in `FILE.b64`.
    fn request(&self, file: &str, options: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {file}.key \
             -out {file}.csr -outform DER {options}"
        ));
        self.openssl(&format!("base64 -in {file}.csr -out {file}.b64"));
    }

    /// A one-time token.
    fn token(&self, name: &str) -> String {
        self.run(&format!("cert token create --ca ca --for {name} --ttl 1h")).trim().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let listed = self.listed();
        listed.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }

    fn audited(&self, event: &str) -> Vec<Value> {
        self.events("est.jsonl", event)
    }

    fn enrolling(&self) -> Service<'_> {
        let process = self.serve();
        let address = process.address("/address");
        Service { place: self, process, address }
    }
}

/// A running `pki serve`.
struct Service<'a> {
    place: &'a Place,
    process: Process,
    address: String,
}

/// What curl was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Service<'_> {
    /// Waits for a line on its standard error.
    fn says(&mut self, what: &str) -> String {
        let said = BufReader::new(self.process.child.stderr.take().unwrap());
        said.lines().map_while(Result::ok).find(|line| line.contains(what)).unwrap()
    }

    fn curl(&self, path: &str, options: &str) -> Answer {
        let line = format!(
            "--silent --show-error --max-time 30 --cacert ca/trust.pem --include {options} \
             https://{}/.well-known/est/{path}",
            self.address
        );
        let output = self.place.command("curl", &line).output().unwrap();
        let all = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        let all = all.strip_prefix("HTTP/1.1 100 Continue\n\n").unwrap_or(&all);
        let Some((head, body)) = all.split_once("\n\n") else {
            return Answer { status: 0, head: text(&output), body: String::new() };
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn post(&self, path: &str, body: &str, options: &str) -> Answer {
        let kind = "--header Content-Type:application/pkcs10";
        self.curl(path, &format!("{kind} --data-binary @{body} {options}"))
    }

    fn enroll(&self, request: &str, name: &str, token: &str) -> Answer {
        self.post("simpleenroll", &format!("{request}.b64"), &format!("--user {name}:{token}"))
    }

    fn renew(&self, request: &str, certificate: &str) -> Answer {
        let shown = format!("--cert {certificate}.pem --key {certificate}.key");
        self.post("simplereenroll", &format!("{request}.b64"), &shown)
    }

    /// Takes the certificate of an answer into `FILE.pem`; it has to be good, and of its key.
    fn take(&self, answer: &Answer, file: &str) {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.head.contains("content-type: application/pkcs7-mime; smime-type=certs-only")
        );
        let place = self.place;
        place.write("answer.b64", &answer.body);
        place.openssl("base64 -d -in answer.b64 -out answer.p7");
        let line = format!("pkcs7 -inform DER -in answer.p7 -print_certs -out {file}.pem");
        place.openssl(&line);
        assert_eq!(place.read(&format!("{file}.pem")).matches("BEGIN CERT").count(), 1);
        let line = format!(
            "verify -purpose sslclient -CAfile ca/trust.pem -untrusted ca/ca.pem {file}.pem"
        );
        place.openssl(&line);
        let of_certificate = place.openssl(&format!("x509 -in {file}.pem -noout -pubkey"));
        let of_key = place.openssl(&format!("pkey -in {file}.key -pubout"));
        assert_eq!(of_certificate, of_key);
    }

    /// Enrolls a device by a token, into `NAME.pem` and `NAME.key`.
    fn enrolled(&self, name: &str, options: &str) {
        self.place.request(name, &format!("-subj /CN={name} {options}"));
        let token = self.place.token(name);
        self.take(&self.enroll(name, name, &token), name);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    /// Ends it, so that all is in the audit file.
    fn end(self) {
        self.process.end();
    }
}

#[test]
fn a_device_learns_whom_to_trust_enrolls_by_a_token_and_renews() {
    let place = Place::with_service();
    let service = place.enrolling();

    let limits =
        fs::read_to_string(format!("/proc/{}/limits", service.process.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "no image of the key: {core}");

    let answer = service.curl("cacerts", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    place.write("answer.b64", &answer.body);
    place.openssl("base64 -d -in answer.b64 -out answer.p7");
    let certificates = place.openssl("pkcs7 -inform DER -in answer.p7 -print_certs");
    assert_eq!(certificates.matches("BEGIN CERT").count(), 2, "{certificates}");

    let answer = service.curl("csrattrs", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    place.write("answer.b64", &answer.body);
    place.openssl("base64 -d -in answer.b64 -out attributes");
    let attributes = place.openssl("asn1parse -in attributes -inform DER");
    assert!(attributes.contains("ecdsa-with-SHA256"), "{attributes}");

    place.request("dev1", "-subj /CN=dev1");
    let token = place.token("dev1");
    service.take(&service.enroll("dev1", "dev1", &token), "dev1");

    place.request("dev1-new", "-subj /CN=dev1");
    service.take(&service.renew("dev1-new", "dev1"), "dev1-new");
    // With a label, and with what it has by now.
    place.request("dev1-newer", "-subj /CN=dev1");
    let shown = "--cert dev1-new.pem --key dev1-new.key";
    let answer = service.post("device/simplereenroll", "dev1-newer.b64", shown);
    service.take(&answer, "dev1-newer");
    service.end();

    let issued = place.audited("enroll.issued");
    let methods: Vec<_> = issued.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["token", "renewal", "renewal"]);
    let listed = place.listed();
    for line in &issued {
        assert_eq!((&line["name"], &line["profile"]), (&"dev1".into(), &"device".into()));
        assert_eq!((&line["listener"], &line["address"]), (&"est".into(), &"127.0.0.1".into()));
        assert!(listed.iter().any(|one| one["serial"] == line["serial"]), "{line}");
    }
    assert_eq!(issued[1]["by"], issued[0]["serial"]);
    assert_eq!(place.audited("certificate.issued").len(), 3);
    assert_eq!(place.audited("enroll.refused").len(), 0);
    let mode = place.path("ca/tokens.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!place.read("ca/tokens.json").contains(&token), "a hash is kept");
    let listed = place.run("cert token list --ca ca --json");
    assert_eq!(json_lines(&listed)[0]["state"], "spent");
}

#[test]
fn a_token_is_good_once_for_its_name_and_until_its_end() {
    let place = Place::with_service();
    let service = place.enrolling();
    for name in ["dev1", "dev2"] {
        place.request(name, &format!("-subj /CN={name}"));
    }
    let token = place.token("dev1");
    let deleted = place.token("dev1");
    let id = json_lines(&place.run("cert token list --ca ca --json"))[1]["id"].clone();
    place.run(&format!("cert token delete --ca ca --id {}", id.as_str().unwrap()));
    let old = place.run("cert token create --ca ca --for dev1 --ttl 1ms").trim().to_owned();
    service.take(&service.enroll("dev1", "dev1", &token), "dev1");

    let mut told = Vec::new();
    for (request, name, token, why) in [
        ("dev1", "dev1", token.as_str(), "the token is spent"),
        ("dev2", "dev2", &token, "the token is for another name"),
        ("dev1", "dev1", &old, "the token has expired"),
        ("dev1", "dev1", &deleted, "there is no such token"),
        ("dev1", "dev1", "guessed", "there is no such token"),
        ("dev2", "nobody", "guessed", "there is no such token"),
    ] {
        let answer = service.enroll(request, name, token);
        assert_eq!(answer.status, 401, "{why}: {answer:?}");
        assert!(answer.head.contains("www-authenticate: basic realm="), "{answer:?}");
        told.push((answer.body, why));
    }
    assert!(told.iter().all(|(body, _)| *body == told[0].0), "they look alike: {told:?}");
    let answer = service.post("simpleenroll", "dev1.b64", "");
    assert_eq!(answer.status, 401, "{answer:?}");
    let answer = service.post("simpleenroll", "dev1.b64", "--header Authorization:Bearer_x");
    assert_eq!(answer.status, 401, "{answer:?}");
    service.end();

    assert_eq!(place.names(), ["localhost", "dev1"]);
    let refused = place.audited("enroll.refused");
    assert_eq!(refused.len(), told.len() + 2);
    for (line, (_, why)) in refused.iter().zip(&told) {
        assert_eq!((&line["status"], &line["why"]), (&401.into(), &(*why).into()), "{line}");
    }
    assert!(!place.read("est.jsonl").contains(&token), "no token is in a log");
}

#[test]
fn of_many_who_show_one_token_at_once_one_gets_a_certificate() {
    let place = Place::with_service();
    let service = place.enrolling();
    place.request("dev1", "-subj /CN=dev1");
    let token = place.token("dev1");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..8).map(|_| scope.spawn(|| service.enroll("dev1", "dev1", &token).status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 401)), "{statuses:?}");
    assert_eq!(place.names(), ["localhost", "dev1"]);
}

#[test]
fn guessing_is_throttled_and_the_answer_says_when_to_come_again() {
    let place = Place::with_service();
    let config = CONFIG
        .replace("[est.tls]", "failures_per_name = 3\nfailure_forgotten_after = \"1h\"\n[est.tls]");
    place.write("pki.toml", &config);
    let service = place.enrolling();
    place.request("dev1", "-subj /CN=dev1");
    let token = place.token("dev1");
    for _ in 0..3 {
        assert_eq!(service.enroll("dev1", "dev1", "guessed").status, 401);
    }
    // Not even the right one is looked at by then.
    let answer = service.enroll("dev1", "dev1", &token);
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.head.contains("retry-after: 30"), "{answer:?}");
    assert_eq!(place.names(), ["localhost"]);
}

#[test]
fn a_request_that_is_none_or_asks_for_more_is_refused_and_leaves_the_token() {
    let place = Place::with_service();
    let service = place.enrolling();
    place.request("dev1", "-subj /CN=dev1");
    place.request("other", "-subj /CN=other");
    place.request("ca", "-subj /CN=dev1 -addext basicConstraints=critical,CA:TRUE");
    place.request("unit", "-subj /O=operators/CN=dev1");
    place.request("server", "-subj /CN=dev1 -addext extendedKeyUsage=serverAuth");
    place.request("ip", "-subj /CN=dev1 -addext subjectAltName=IP:10.0.0.1");
    let mut csr = fs::read(place.path("dev1.csr")).unwrap();
    *csr.last_mut().unwrap() ^= 1;
    fs::write(place.path("signature.b64"), &csr).unwrap();
    place.write("garbage.b64", "this is not base64!");
    place.write("text.b64", "aGVsbG8=");
    place.write("empty.b64", "");
    place.write("huge.b64", &"A".repeat(70_000));
    let token = place.token("dev1");
    let with = format!("--user dev1:{token}");

    for (file, status, told) in [
        ("other", 400, "is for \"other\", not for \"dev1\""),
        ("ca", 400, "CA:TRUE"),
        ("unit", 400, "in its subject"),
        ("server", 400, "extended key usage"),
        ("ip", 400, "IP"),
        ("signature", 400, "signature"),
        ("garbage", 400, "base64"),
        ("text", 400, "PKCS#10"),
        ("empty", 400, "base64"),
        ("huge", 413, "65536 bytes at most"),
    ] {
        let answer = service.post("simpleenroll", &format!("{file}.b64"), &with);
        assert_eq!(answer.status, status, "{file}: {answer:?}");
        assert!(answer.body.contains(told), "{file}: {answer:?}");
    }
    let chunked = "--header Transfer-Encoding:chunked";
    let answer = service.post("simpleenroll", "huge.b64", &format!("{with} {chunked}"));
    assert_eq!(answer.status, 413, "{answer:?}");

    let kind = "--header Content-Type:text/plain --data-binary @dev1.b64";
    let answer = service.curl("simpleenroll", &format!("{kind} {with}"));
    assert_eq!(answer.status, 415, "{answer:?}");
    let answer = service.curl("simpleenroll", &with);
    assert_eq!(answer.status, 405, "{answer:?}");
    assert!(answer.head.contains("allow: post"), "{answer:?}");
    assert_eq!(service.curl("serverkeygen", "").status, 404);
    assert_eq!(service.curl("ca/cacerts", "").status, 404);
    assert_eq!(service.post("server/simpleenroll", "dev1.b64", &with).status, 404);

    assert_eq!(place.names(), ["localhost"], "nothing was issued");
    // PEM is taken too, and the token is good yet.
    place.openssl("req -in dev1.csr -inform DER -out dev1.b64");
    service.take(&service.post("simpleenroll", "dev1.b64", &with), "dev1");
    service.end();
    let refused = place.audited("enroll.refused");
    assert!(refused.iter().any(|line| line["status"] == 413), "{refused:?}");
    assert!(refused.iter().all(|line| line["why"].as_str().is_some_and(|why| !why.is_empty())));
}

#[test]
fn a_policy_decides_and_keeps_the_token() {
    let place = Place::with_service();
    let service = place.enrolling();
    place.request("evil", "-subj /CN=evil");
    let token = place.token("evil");
    let answer = service.enroll("evil", "evil", &token);
    assert_eq!((answer.status, answer.body.trim()), (403, "the policies do not permit it"));
    service.end();
    let refused = place.audited("enroll.refused");
    assert_eq!(refused[0]["why"], "forbidden by no-evil");
    assert_eq!((&refused[0]["name"], &refused[0]["method"]), (&"evil".into(), &"token".into()));
    assert_eq!(place.names(), ["localhost"]);

    // Nothing is allowed that no policy permits.
    place.write(
        "policies/all.cedar",
        &PERMIT_ALL.replace("\"enroll\", resource", "\"connect\", resource"),
    );
    let service = place.enrolling();
    place.request("dev1", "-subj /CN=dev1");
    let token = place.token("dev1");
    assert_eq!(service.enroll("dev1", "dev1", &token).status, 403);
    assert_eq!(json_lines(&place.run("cert token list --ca ca --json"))[0]["state"], "open");
}

#[test]
fn only_the_same_names_are_renewed_and_only_by_a_good_certificate_of_ours() {
    let place = Place::with_service();
    let service = place.enrolling();
    // Names beside its own are given by whoever has the authority, not for a token.
    let alternative = "-addext subjectAltName=DNS:victim.plant.example";
    place.request("foreign", &format!("-subj /CN=dev3 {alternative}"));
    let answer = service.enroll("foreign", "dev3", &place.token("dev3"));
    assert!(answer.status == 403 && answer.body.contains("victim.plant.example"), "{answer:?}");
    place.run("cert issue --ca ca --profile device --name dev1 --dns dev1.plant.example --out .");
    service.enrolled("dev2", "");
    let names = "-addext subjectAltName=DNS:dev1.plant.example";
    place.request("same", &format!("-subj /CN=dev1 {names}"));
    place.request("subject", &format!("-subj /CN=dev2 {names}"));
    place.request("none", "-subj /CN=dev1");
    place.request("more", &format!("-subj /CN=dev1 {names},DNS:b.plant.example"));

    for (request, status) in [("subject", 403), ("none", 403), ("more", 400)] {
        let answer = service.renew(request, "dev1");
        assert_eq!(answer.status, status, "{request}: {answer:?}");
    }
    let answer = service.post("simplereenroll", "same.b64", "");
    assert_eq!(answer.status, 403, "{answer:?}");
    // A token is no certificate, and our own certificate is no token.
    let token = place.token("dev1");
    let answer = service.post("simplereenroll", "same.b64", &format!("--user dev1:{token}"));
    assert_eq!(answer.status, 403, "{answer:?}");
    let answer = service.post("simpleenroll", "same.b64", "--cert dev1.pem --key dev1.key");
    assert_eq!(answer.status, 401, "{answer:?}");
    // One of another authority is not even taken in the handshake.
    place.run("ca init --dir other --no-passphrase");
    place.run("cert issue --ca other --profile device --name dev1 --out elsewhere");
    let answer = service.renew("same", "elsewhere/dev1");
    assert_eq!(answer.status, 0, "{answer:?}");

    place.run("cert revoke --ca ca --name dev1 --reason keyCompromise");
    let answer = service.renew("same", "dev1");
    assert_eq!((answer.status, answer.body.trim()), (403, "the certificate is revoked"));
    place.request("dev2-new", "-subj /CN=dev2");
    service.take(&service.renew("dev2-new", "dev2"), "dev2-new");
    service.end();
    assert_eq!(place.names(), ["localhost", "dev1", "dev2", "dev2"]);
    let refused = place.audited("enroll.refused");
    let in_handshake: Vec<_> = refused.iter().filter(|line| line.get("status").is_none()).collect();
    assert_eq!(in_handshake.len(), 1, "{refused:?}");
    assert!(in_handshake[0]["fingerprint"].is_string(), "{in_handshake:?}");
}

#[test]
fn a_factory_vouches_for_the_name_that_its_certificate_says() {
    let place = Place::with_service();
    let factory = "[est.factory.acme]\nca = \"acme/trust.pem\"\n[audit]";
    place.write("pki.toml", &CONFIG.replace("[audit]", factory));
    place.run("ca init --dir acme --name Acme --no-passphrase");
    place.run("cert issue --ca acme --profile device --name sn-7 --out factory");
    let service = place.enrolling();
    place.request("sn-7", "-subj /CN=sn-7");
    place.request("sn-8", "-subj /CN=sn-8");
    let shown = "--cert factory/sn-7.pem --key factory/sn-7.key";
    let enroll = |request| service.post("simpleenroll", request, shown);
    assert_eq!(enroll("sn-8.b64").status, 403);
    service.take(&enroll("sn-7.b64"), "sn-7");
    // Once more for the same key, since an answer may be lost; for no other.
    service.take(&enroll("sn-7.b64"), "sn-7");
    place.request("thief", "-subj /CN=sn-7");
    let answer = enroll("thief.b64");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("has a certificate already"), "{answer:?}");
    // It is good for a first certificate, not to renew one.
    let answer = service.post("simplereenroll", "sn-7.b64", shown);
    assert_eq!(answer.status, 403, "{answer:?}");
    service.take(&service.renew("sn-7", "sn-7"), "sn-7");
    // What was revoked is not had again by the key that came from the factory.
    place.run("cert revoke --ca ca --name sn-7 --reason keyCompromise");
    let answer = enroll("sn-7.b64");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("revoked"), "{answer:?}");
    service.end();
    let issued = place.audited("enroll.issued");
    assert_eq!((&issued[0]["method"], &issued[0]["by"]), (&"factory".into(), &"acme".into()));
    assert_eq!(place.names(), ["localhost", "sn-7", "sn-7", "sn-7"]);
}

#[test]
fn a_factory_of_openssl_with_a_pattern_gives_each_name_once() {
    let place = Place::with_service();
    let factory = "tls_1_2 = true\n[est.factory.acme]\nca = \"acme.pem\"\n\
                   names = [\"pump-*\"]\n[audit]";
    place.write("pki.toml", &CONFIG.replace("[audit]", factory));
    place.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout acme.key -out acme.pem -days 10 -subj /CN=Acme \
         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign",
    );
    for serial in ["1", "2"] {
        place.openssl(&format!(
            "req -new -newkey rsa:2048 -nodes -keyout f{serial}.key -out f{serial}.csr \
             -subj /O=Acme/serialNumber={serial}/CN=sn-{serial}"
        ));
        // As factories make them: no extended key usage, and a far end.
        place
            .write("extensions", "basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature\n");
        place.openssl(&format!(
            "x509 -req -in f{serial}.csr -CA acme.pem -CAkey acme.key -set_serial {serial} \
             -days 20000 -extfile extensions -out f{serial}.pem"
        ));
    }
    let service = place.enrolling();
    let shown = |serial| format!("--tls-max 1.2 --cert f{serial}.pem --key f{serial}.key");
    for name in ["pump-1", "other"] {
        place.request(name, &format!("-subj /CN={name}"));
    }
    let enroll = |name, serial| service.post("simpleenroll", name, &shown(serial));
    assert_eq!(enroll("other.b64", "1").status, 403);
    service.take(&enroll("pump-1.b64", "1"), "pump-1");
    place.request("thief", "-subj /CN=pump-1");
    let answer = enroll("thief.b64", "2");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("has a certificate already"), "{answer:?}");
    assert_eq!(place.names(), ["localhost", "pump-1"]);
}

#[test]
fn a_certificate_that_its_factory_takes_back_is_refused_in_the_handshake() {
    let place = Place::with_service();
    let more = "[est.factory.acme]\nca = \"acme/trust.pem\"\n\
                [revocation]\nlists = [\"ca/crls.pem\", \"acme/crls.pem\"]\n[audit]";
    place.write("pki.toml", &CONFIG.replace("[audit]", more));
    place.run("ca init --dir acme --name Acme --no-passphrase");
    for name in ["sn-7", "sn-8"] {
        place.run(&format!("cert issue --ca acme --profile device --name {name} --out factory"));
        place.request(name, &format!("-subj /CN={name}"));
    }
    place.run("ca crl --dir ca");
    place.run("ca crl --dir acme");
    let service = place.enrolling();
    let enroll = |name| {
        let shown = format!("--cert factory/{name}.pem --key factory/{name}.key");
        service.post("simpleenroll", &format!("{name}.b64"), &shown)
    };
    service.take(&enroll("sn-7"), "sn-7");
    place.run("cert revoke --ca acme --name sn-7");
    until("the list is seen", || enroll("sn-7").status == 0);
    service.take(&enroll("sn-8"), "sn-8");
    service.end();
    let refused = place.audited("enroll.refused");
    let why = refused.last().unwrap()["why"].as_str().unwrap();
    assert_eq!(why, "TLS: the client's certificate is revoked");
}

#[test]
fn a_process_that_is_killed_gives_no_second_certificate_for_a_token() {
    let place = Place::with_service();
    for round in 0..6_u64 {
        let mut service = place.enrolling();
        let name = format!("dev{round}");
        place.request(&name, &format!("-subj /CN={name}"));
        let token = place.token(&name);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let line = format!(
                    "--silent --max-time 10 --cacert ca/trust.pem --user {name}:{token} \
                     --header Content-Type:application/pkcs10 --data-binary @{name}.b64 \
                     https://{}/.well-known/est/simpleenroll",
                    service.address
                );
                place.command("curl", &line).output().unwrap()
            });
            // Somewhere on the way, another place each time.
            std::thread::sleep(std::time::Duration::from_millis(5 + 7 * round));
            service.process.child.kill().unwrap();
            // What it had locked is free once it is gone.
            service.process.child.wait().unwrap();
            asking.join().unwrap();
        });
        let service = place.enrolling();
        let before = place.names().iter().filter(|one| **one == name).count();
        let answer = service.enroll(&name, &name, &token);
        let after = place.names().iter().filter(|one| **one == name).count();
        assert!(after <= 1, "round {round}: {before} {after} {answer:?}");
    }
}

#[test]
fn another_authority_is_taken_up_after_a_rotation_with_the_same_passphrase() {
    let place = Place::with_service();
    place.write_secret("passphrase", "correct horse battery staple\n");
    fs::remove_dir_all(place.path("ca")).unwrap();
    place.run("ca init --dir ca --name Plant --passphrase-file passphrase");
    fs::remove_file(place.path("localhost.key")).unwrap();
    fs::remove_file(place.path("localhost.pem")).unwrap();
    let issue = "cert issue --ca ca --profile server --name localhost --ip 127.0.0.1";
    place.run(&format!("{issue} --passphrase-file passphrase"));
    let output = place.portcullis("pki serve --config pki.toml");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("passphrase"), "{}", text(&output));
    let given = "passphrase_file = \"passphrase\"\n[est.tls]";
    place.write("pki.toml", &CONFIG.replace("[est.tls]", given));
    let service = place.enrolling();
    service.enrolled("dev1", "");
    let before = service.curl("cacerts", "").body;
    let said = place.portcullis("ca rotate --dir ca --passphrase-file passphrase");
    assert!(said.status.success() && !text(&said).contains("Restart"), "{}", text(&said));
    // It is taken up without a restart, and without a request for a certificate.
    until("the new authority is taken up", || service.curl("cacerts", "").body != before);
    // Issued by the one before, renewed by the one now.
    place.request("dev1-new", "-subj /CN=dev1");
    service.take(&service.renew("dev1-new", "dev1"), "dev1-new");
    let issuers: Vec<Value> = place.listed().iter().map(|one| one["issuer"].clone()).collect();
    assert_ne!(issuers[1], issuers[2], "{issuers:?}");
}

/// Threat: the issuing key beside the broker. The root's is not even for this process, though it
/// lies in the folder; it is named in what is looked at while it runs.
#[test]
fn a_running_service_cannot_read_the_key_of_a_root() {
    let place = Place::with_service();
    fs::create_dir(place.path("lists")).unwrap();
    let lists = "[revocation]\nlists = [\"lists\"]\nmissing = \"warn\"\n[audit]";
    place.write("pki.toml", &CONFIG.replace("[audit]", lists));
    let mut service = place.enrolling();
    service.enrolled("dev1", "");
    std::os::unix::fs::symlink(place.path("ca/root.key"), place.path("lists/root.pem")).unwrap();
    let told = service.says("a revocation list cannot be taken");
    assert!(told.contains("Permission denied"), "{told}");
    drop(service);
    // Nor is a key of the authority taken for its certificate.
    place.write("pki.toml", &CONFIG.replace("\"localhost.key\"", "\"ca/ca.key\""));
    for command in ["serve", "check"] {
        let output = place.portcullis(&format!("pki {command} --config pki.toml"));
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output);
        assert!(told.contains("est.tls.key: "), "{told}");
        assert!(told.contains("is the authority's own"), "{told}");
    }
}

#[test]
fn policies_are_read_again_and_those_with_a_fault_are_not() {
    let place = Place::with_service();
    let service = place.enrolling();
    service.enrolled("dev1", "");
    place.write("policies/all.cedar", "permit (");
    service.signal(rustix::process::Signal::HUP);
    until("a reload fails", || place.audited("policy.reload-failed").len() == 1);
    service.enrolled("dev2", "");
    let forbid = "@id(\"stop\") forbid (principal, action, resource);";
    place.write("policies/all.cedar", &format!("{PERMIT_ALL}{forbid}"));
    service.signal(rustix::process::Signal::HUP);
    until("a reload", || place.audited("policy.reloaded").len() == 1);
    place.request("dev3", "-subj /CN=dev3");
    let token = place.token("dev3");
    assert_eq!(service.enroll("dev3", "dev3", &token).status, 403);
}

#[test]
fn the_broker_is_told_of_what_is_issued_and_revoked() {
    let place = Place::with_service();
    place.run("ca crl --dir ca");
    let more =
        "[revocation]\nlists = [\"ca/crls.pem\"]\n[control]\nsocket = \"run/control.sock\"\n";
    place.write("broker.toml", &format!("{BROKER}{more}"));
    let broker = place.serve_broker();
    let socket = CONFIG.replace("[est.tls]", "broker_socket = \"run/control.sock\"\n[est.tls]");
    place.write("pki.toml", &socket);
    let told = |what: &str| {
        let mut calls = json_lines(&place.read("broker.jsonl"));
        calls.retain(|line| {
            line["verb"] == "revocations" && line["about"].as_str().unwrap().starts_with(what)
        });
        calls
    };
    let service = place.enrolling();
    service.enrolled("dev1", "");
    until("the broker is told of the certificate", || !told("issued: ").is_empty());
    place.run("cert revoke --ca ca --name dev1");
    until("the broker is told of the revocation", || !told("revoked: 1").is_empty());
    assert_eq!(told("revoked: 1")[0]["outcome"], "done");
    service.end();
    drop(broker);
    let told = place.audited("enroll.broker-told");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|line| line["outcome"] == "done"), "{told:?}");

    // Nothing depends on it: without a broker it goes on.
    let service = place.enrolling();
    service.enrolled("dev2", "");
    until("it is on record", || place.audited("enroll.broker-told").len() == 3);
    assert_eq!(place.audited("enroll.broker-told")[2]["outcome"], "failed");
}

/// As root, since only root can be two users; whom the socket listens to is a test of its own.
#[test]
fn an_authority_of_another_user_tells_the_broker_what_was_revoked_and_nothing_else() {
    const USER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::with_service();
    // What is the authority's belongs to that user; the rest can be reached.
    fs::create_dir(place.path("own")).unwrap();
    for name in ["localhost.pem", "localhost.key"] {
        fs::copy(place.path(name), place.path("own").join(name)).unwrap();
    }
    fs::copy(place::PORTCULLIS, place.path("program")).unwrap();
    for (name, mode) in [(".", 0o711), ("program", 0o755), ("ca/trust.pem", 0o644)] {
        place.set_mode(name, mode);
    }
    for folder in ["ca", "own"] {
        let inside = fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in inside.chain([place.path(folder)]) {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
    let config = CONFIG
        .replace("localhost.", "own/localhost.")
        .replace("est.jsonl", "own/est.jsonl")
        .replace("[est.tls]", "broker_socket = \"run/control.sock\"\n[est.tls]");
    place.write("pki.toml", &config);
    let control = format!("[control]\nsocket = \"run/control.sock\"\nauthority_uids = [{USER}]\n");
    let lists = "[revocation]\nlists = [\"ca/crls.pem\"]\n";
    place.write("broker.toml", &format!("{BROKER}{lists}{control}"));
    let broker = place.serve_broker();
    let as_user = |line: &str| {
        let mut command = place.command(place.path("program").to_str().unwrap(), line);
        std::os::unix::process::CommandExt::uid(&mut command, USER);
        std::os::unix::process::CommandExt::gid(&mut command, USER);
        command
    };
    let service = Process::start(&mut as_user("pki serve --config pki.toml --ready-json"));
    let issue = "cert issue --ca ca --profile device --name dev1 --out own";
    let issued = as_user(issue).output().unwrap();
    assert!(issued.status.success(), "{}", text(&issued));
    let revoked = as_user("cert revoke --ca ca --name dev1").output().unwrap();
    assert!(revoked.status.success(), "{}", text(&revoked));
    let calls = || place.events("broker.jsonl", "control.call");
    until("the broker is told", || calls().iter().any(|call| call["about"] == "revoked: 1"));
    let call = calls().into_iter().find(|call| call["about"] == "revoked: 1").unwrap();
    assert_eq!((&call["outcome"], &call["uid"]), (&"done".into(), &USER.into()));
    for verb in ["status", "reload"] {
        let refused = as_user(&format!("ctl --socket run/control.sock {verb}")).output().unwrap();
        assert!(!refused.status.success(), "{verb}");
        assert!(text(&refused).contains("may only say"), "{verb}: {}", text(&refused));
    }
    service.end();
    drop(broker);
    let told = place.events("own/est.jsonl", "enroll.broker-told");
    assert!(told.iter().any(|line| line["outcome"] == "done"), "{told:?}");
}

#[test]
fn a_configuration_is_checked_with_all_files_that_it_names_and_nothing_is_changed() {
    let place = Place::with_service();
    let more = "[lists]\naddress = \"127.0.0.1:0\"\n[revocation]\nlists = [\"ca/crls.pem\"]\n";
    let config = format!("{CONFIG}{more}");
    let fine = |place: &Place| {
        let output = place.portcullis("pki check --config pki.toml");
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    place.write("pki.toml", &config);
    let said = fine(&place);
    assert!(said.contains("fine: 1 profile, 2 policies"), "{said}");
    assert!(said.contains("lists.validity"), "{said}");
    let values = place.run("pki check --config pki.toml --json");
    let values: Value = serde_json::from_str(&values).unwrap();
    assert_eq!(values["problems"], serde_json::json!([]));
    assert_eq!(values["values"]["est.policies"]["from"], "pki.toml:5");
    assert!(!place.path("est.jsonl").exists(), "nothing is made");

    place.write("no.crl", "nothing");
    place.write("secret", "correct horse battery staple\n");
    place.set_mode("secret", 0o644);
    fs::copy(place.path("localhost.key"), place.path("open.key")).unwrap();
    place.set_mode("open.key", 0o640);
    for (from, to, told) in [
        ("\"policies\"", "\"nowhere\"", "pki.toml:5: est.policies: "),
        ("\"ca\"", "\"nowhere\"", "pki.toml:4: est.authority: "),
        ("\"localhost.pem\"", "\"nowhere.pem\"", "pki.toml:9: est.tls.certificate: "),
        ("\"localhost.key\"", "\"open.key\"", "the private key has mode 0640"),
        ("\"est.jsonl\"", "\"policies\"", "pki.toml:12: audit.path: "),
        ("\"ca/crls.pem\"", "\"no.crl\"", "pki.toml:16: revocation.lists: "),
        ("[audit]", "[est.factory.a]\nca = \"no.crl\"\n[audit]", "pki.toml:12: est.factory.a.ca: "),
        (
            "[audit]",
            "[est.profile.device]\nfile = \"no.crl\"\n[audit]",
            "pki.toml:12: est.profile.device.file: ",
        ),
        (
            "[est.tls]",
            "passphrase_file = \"secret\"\n[est.tls]",
            "secret: the file of a passphrase has mode 0644",
        ),
    ] {
        place.write("pki.toml", &config.replacen(from, to, 1));
        let said = place.refused("pki check --config pki.toml");
        assert!(said.contains(told), "{to}: {said}");
    }

    // A passphrase that is not at hand is asked for at the start, not here.
    fs::remove_dir_all(place.path("ca")).unwrap();
    place.set_mode("secret", 0o600);
    place.run("ca init --dir ca --name Plant --passphrase-file secret");
    place.write("pki.toml", &config);
    assert!(fine(&place).contains("is asked for at the start"));
    let given = "passphrase_file = \"secret\"\n[est.tls]";
    place.write("pki.toml", &config.replace("[est.tls]", given));
    assert!(fine(&place).contains("ca/root.key is needed for `portcullis ca rotate` only"));
    fs::remove_file(place.path("ca/root.key")).unwrap();
    assert!(!fine(&place).contains("warning"), "{}", fine(&place));
    place.write_secret("secret", "not the passphrase\n");
    let said = place.refused("pki check --config pki.toml");
    assert!(said.contains("pki.toml:8: est.passphrase_file: "), "{said}");
}

#[test]
fn who_says_nothing_or_comes_too_often_is_cut_off() {
    let place = Place::with_service();
    let limits = "first_byte_deadline = \"200ms\"\nrequest_deadline = \"3s\"\nrequests_burst = 1\n\
                  requests_per_second = 1\nconnections_per_address_max = 3\n[est.tls]";
    place.write("pki.toml", &CONFIG.replace("[est.tls]", limits));
    let service = place.enrolling();
    // Nothing at all, and no more than the beginning of a handshake.
    for beginning in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = std::net::TcpStream::connect(&service.address).unwrap();
        std::io::Write::write_all(&mut stream, beginning).unwrap();
        let bound = std::time::Duration::from_secs(20);
        stream.set_read_timeout(Some(bound)).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(&service.address).unwrap();
            std::io::Write::write_all(&mut stream, b"\x16").unwrap();
            stream
        })
        .collect();
    let answer = service.curl("cacerts", "");
    assert_eq!(answer.status, 0, "one more than its share: {answer:?}");
    drop(held);
    until("there is room again", || service.curl("cacerts", "").status == 200);
    // One request for a certificate at once, and one a second.
    place.request("dev1", "-subj /CN=dev1");
    let statuses: Vec<u16> =
        (0..6).map(|_| service.post("simpleenroll", "dev1.b64", "").status).collect();
    assert!(statuses.contains(&429) && statuses[0] == 401, "{statuses:?}");
    // A body that does not come.
    let half = "--header Content-Length:1000 --header Expect: --max-time 20";
    until("it is cut off", || {
        let status = service.post("simpleenroll", "dev1.b64", half).status;
        assert!(matches!(status, 0 | 408 | 429), "{status}");
        matches!(status, 0 | 408)
    });
    service.end();
    assert_eq!(place.names(), ["localhost"]);
    let refused = place.audited("enroll.refused");
    for why in ["nothing was sent", "the handshake took too long", "has 3 connections already"] {
        let is_so = |line: &Value| line["why"].as_str().unwrap().contains(why);
        assert!(refused.iter().any(is_so), "{why}: {refused:?}");
    }
}

#[test]
fn a_configuration_with_a_fault_is_refused_with_line_and_remedy() {
    let place = Place::with_service();
    for (from, to, told) in [
        ("authority =", "autority =", "did you mean authority?"),
        ("key = \"localhost.key\"", "", "est.tls.key is missing"),
        ("[audit]", "[est.profile.devise]\n[audit]", "did you mean \"device\"?"),
        ("[audit]", "[est.factory.acme]\n[audit]", "est.factory.acme.ca is missing"),
        ("[audit]", "[listener.a]\n[audit]", "listener is not a known key"),
        ("[audit]", "[est.profile.device]\nnames = [\"a*b*\"]\n[audit]", "has more than one *"),
        ("\"policies\"", "\"nowhere\"", "nowhere"),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        place.write("pki.toml", &CONFIG.replacen(from, to, 1));
        let output = place.portcullis("pki serve --config pki.toml --ready-json");
        assert_eq!(output.status.code(), Some(1), "{to}");
        let said = text(&output).replace(['\n', '│'], " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(told), "{to}: {said}");
    }
}
