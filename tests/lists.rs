//! The authority's lists of revoked certificates, as `pki serve` serves and renews them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panic"
)]

mod place;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use place::service::{BROKER, CONFIG, Process};
use place::{Place, text, until};

const LISTS: &str = "[lists]\naddress = \"127.0.0.1:0\"\n\
                     connections_burst_per_address = 10000\n\
                     connections_per_second_per_address = 10000\n";

fn serving(more: &str) -> (Place, Process) {
    let place = Place::with_service();
    place.write("pki.toml", &format!("{CONFIG}{LISTS}{more}"));
    let service = place.serve();
    (place, service)
}

/// What curl says of a request, its head first.
fn curl(place: &Place, service: &Process, path: &str, options: &str) -> String {
    let url = format!("http://{}{path}", service.address("/lists"));
    let line = format!("--silent --show-error --max-time 30 --include {options} {url}");
    text(&place.command("curl", &line).output().unwrap())
}

/// What OpenSSL reads in what is served.
fn shown(place: &Place, service: &Process, path: &str, verified_by: &str) -> String {
    curl(place, service, path, "--no-include --output list");
    place.openssl(&format!("crl -in list -inform DER -CAfile {verified_by} -noout -text"))
}

#[test]
fn the_lists_are_served_as_openssl_reads_them_and_a_revocation_is_in_them_at_once() {
    let (place, service) = serving("");
    until("the lists are served", || {
        curl(&place, &service, "/issuing.crl", "").starts_with("HTTP/1.1 200")
    });
    let head = curl(&place, &service, "/issuing.crl", "--head").to_lowercase();
    for expected in [
        "200 ok",
        "content-type: application/pkix-crl",
        "cache-control: public, max-age=300",
        "etag: ",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    let issuing = shown(&place, &service, "/issuing.crl", "ca/ca.pem");
    assert!(issuing.contains("verify OK") && issuing.contains("No Revoked"), "{issuing}");
    assert!(shown(&place, &service, "/root.crl", "ca/root.pem").contains("verify OK"));
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim();
    let known = format!("--header If-None-Match:{tag}");
    assert!(curl(&place, &service, "/issuing.crl", &known).starts_with("HTTP/1.1 304"));
    assert!(curl(&place, &service, "/ca.key", "").starts_with("HTTP/1.1 404"));
    assert!(curl(&place, &service, "/crls.pem", "--data x").starts_with("HTTP/1.1 405"));

    // A profile says where its authority's list is, and another authority has another place.
    let profile = include_str!("../certs/device.toml");
    let url = "http://lists.example/${issuer}.crl";
    place.write("own.toml", &format!("{profile}crl_urls = [\"{url}\"]\n"));
    place.run("cert issue --ca ca --profile device --profile-file own.toml --name dev1");
    place.run("cert revoke --ca ca --name dev1 --reason keyCompromise");
    until("the revocation is served", || {
        shown(&place, &service, "/issuing.crl", "ca/ca.pem").contains("Key Compromise")
    });
    let certificate = place.openssl("x509 -in dev1.pem -noout -ext crlDistributionPoints");
    let (_, path) = certificate.split_once("URI:http://lists.example").unwrap();
    place.run("ca rotate --dir ca --no-passphrase");
    until("the new authority's list is served", || {
        curl(&place, &service, "/issuing.crl", "--no-include --output list");
        place.openssl("crl -in list -inform DER -noout -issuer").contains("Plant 2")
    });
    let new = shown(&place, &service, "/issuing.crl", "ca/ca.pem");
    assert!(new.contains("verify OK") && new.contains("No Revoked"), "{new}");
    let old = shown(&place, &service, path.trim(), "dev1.pem");
    assert!(old.contains("verify OK") && old.contains("Key Compromise"), "{old}");
    service.end();
}

#[test]
fn who_says_nothing_or_not_enough_is_cut_off() {
    let limits = "first_byte_deadline = \"200ms\"\nrequest_deadline = \"400ms\"\n";
    let (_place, service) = serving(limits);
    for beginning in [&b""[..], b"GET /issuing.crl HTTP/1.1\r\nHost: a"] {
        let mut stream = TcpStream::connect(service.address("/lists")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(beginning).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(!matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock));
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

/// Revokes one of two who are connected to a broker that gets the lists as `revocation` says, the URL
/// of the service put in; their certificates name the list of their authority.
fn one_of_two_is_thrown_out(revocation: &str) {
    let (place, service) = serving("");
    let base = format!("http://{}", service.address("/lists"));
    let profile = include_str!("../certs/device.toml");
    let urls = format!("crl_urls = [\"{base}/${{issuer}}.crl\"]");
    place.write("own.toml", &format!("{profile}{urls}\n"));
    for name in ["dev1", "dev2"] {
        let issue = "cert issue --ca ca --profile device --profile-file own.toml --name";
        place.run(&format!("{issue} {name}"));
    }
    let revocation = revocation.replace("URL", &base);
    let revocation = format!("[revocation]\nfetch_every = \"10s\"\n{revocation}\n");
    place.write("broker.toml", &format!("{BROKER}{revocation}"));
    until("the lists are served", || {
        curl(&place, &service, "/crls.pem", "").starts_with("HTTP/1.1 200")
    });
    let broker = place.serve_broker();
    let address = broker.address("/listeners/devices");
    let port = address.rsplit(':').next().unwrap();
    let client = |program: &str, name: &str, more: &str| {
        let line = format!(
            "-h localhost -p {port} --cafile ca/trust.pem --cert {name}.pem --key {name}.key \
             -i {name} -V mqttv5 -t x {more}"
        );
        let mut command = place.command(program, &line);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut clients = Vec::new();
    for name in ["dev1", "dev2"] {
        // Nobody is let in before the lists are there.
        until("the lists are in force", || {
            client("mosquitto_pub", name, "-m x").wait().unwrap().success()
        });
        clients.push(client("mosquitto_sub", name, ""));
    }
    until("both are connected", || place.events("broker.jsonl", "connection.accepted").len() >= 4);
    place.run("cert revoke --ca ca --name dev1");
    let thrown_out = |name: &str| {
        let closed = place.events("broker.jsonl", "connection.closed");
        let why = "the client's certificate is revoked";
        closed.iter().any(|line| line["client_id"] == name && line["why"] == why)
    };
    until("one is thrown out", || thrown_out("dev1"));
    assert!(!thrown_out("dev2"));
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[test]
fn a_broker_that_fetches_all_lists_throws_out_whose_certificate_is_revoked() {
    one_of_two_is_thrown_out("fetch = [\"URL/crls.pem\"]");
}

#[test]
fn a_broker_that_follows_what_certificates_name_throws_out_whose_certificate_is_revoked() {
    one_of_two_is_thrown_out("fetch = [\"URL/root.crl\"]\nfetch_from = [\"URL/\"]");
}
