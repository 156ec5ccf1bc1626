//! Certificates that were taken back.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use crate::NOT_AUTHORIZED;
use crate::harness::certificates::{Authority, Identity};
use crate::harness::wire::{Connect, Publish, Version, Will, property};
use crate::harness::{Broker, Setup};

const V: Version = Version::Mqtt5;

/// A broker that looks at the list of its clients' authority, which names nobody.
fn start(more: &str) -> (Broker, PathBuf) {
    let setup = Setup::new().mutual_tls().plaintext();
    let list = setup.path().join("ca.crl");
    setup.authority().take_back(&list, 1, &[]);
    let config = format!("[revocation]\nlists = [\"ca.crl\"]\n{more}");
    (setup.config(&config).start(), list)
}

fn refused(broker: &Broker, identity: &Identity, why: &str) {
    let mut raw = broker.raw_tls(identity);
    // The alert comes instead of an answer, or the end does.
    let _ = raw.try_send(&Connect::new(V, "refused").bytes());
    raw.expect_end();
    broker.audited(why, |record| {
        record["event"] == "connection.refused"
            && record["gate"] == "tls"
            && record["why"].as_str().unwrap().contains(why)
    });
}

/// Threat: subscription survives revocation.
#[test]
fn a_revoked_certificate_ends_its_session_and_is_refused_from_then_on() {
    let (broker, list) = start("");
    let authority = broker.authority();
    let (gone, stays) = (authority.client("gone"), authority.client("stays"));
    let will = Will::new("wills/gone", "left").properties(property::will_delay(0));
    let mut leaver = broker.client_tls(&gone, &Connect::new(V, "gone").will(will));
    let mut stayer = broker.client_tls(&stays, &Connect::new(V, "stays"));
    stayer.subscribe("wills/#", 1);
    authority.take_back(&list, 2, &[&gone]);
    leaver.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    let closed = broker.audited("the end", |record| record["event"] == "connection.closed");
    assert_eq!(closed["why"], "the client's certificate is revoked");
    refused(&broker, &gone, "certificate is revoked");
    // Its will is nobody's.
    broker.audited("the will", |record| {
        record["event"] == "will.discarded"
            && record["topic"] == "wills/gone"
            && record["why"] == "the client's certificate is revoked"
    });
    stayer.ping();
    // Taken off the list, it is let in again.
    authority.take_back(&list, 3, &[]);
    broker.audited("the third list", |record| {
        record["event"] == "revocation.loaded" && record["certificates"] == 0 && {
            let seen = record["seq"].as_u64().unwrap();
            seen > closed["seq"].as_u64().unwrap()
        }
    });
    broker.client_tls(&gone, &Connect::new(V, "gone")).ping();
}

#[test]
fn the_will_of_a_session_whose_client_has_left_goes_with_its_certificate() {
    let (broker, list) = start("");
    let gone = broker.authority().client("gone");
    let will = Will::new("wills/gone", "left").properties(property::will_delay(1));
    let leaver = broker.client_tls(&gone, &Connect::new(V, "gone").durable().will(will));
    leaver.vanish();
    broker.audited("the end", |record| record["event"] == "connection.closed");
    broker.authority().take_back(&list, 2, &[&gone]);
    broker.audited("the will", |record| {
        record["event"] == "will.discarded"
            && record["why"] == "the client's certificate is revoked"
    });
}

/// Does something to the list of an authority, which somebody else may want to forge.
type Spoil = fn(&PathBuf, &Authority, &Authority);

/// Threat: config reload fails open.
#[test]
fn a_list_that_counts_for_nothing_changes_nothing() {
    let (broker, list) = start("");
    let authority = broker.authority();
    let gone = authority.client("gone");
    authority.take_back(&list, 7, &[&gone]);
    broker.audited("the list", |record| record["certificates"] == 1);
    let forger = Authority::new(&broker.path().join("forger"), "Test CA");
    let spoils: [(Spoil, &str); 5] = [
        (|list, _, _| std::fs::write(list, "garbage").unwrap(), "has no revocation list"),
        (|list, _, _| std::fs::write(list, "").unwrap(), "has no revocation list"),
        (|list, _, _| std::fs::remove_file(list).unwrap(), "cannot open it"),
        (|list, authority, _| authority.take_back(list, 6, &[]), "its CRL number is lower"),
        (|list, _, forger| forger.take_back(list, 8, &[]), "no authority of any listener"),
    ];
    for (spoil, why) in spoils {
        spoil(&list, authority, &forger);
        broker.audited(why, |record| {
            record["event"] == "revocation.load-failed"
                && record["why"].as_str().unwrap().contains(why)
        });
        refused(&broker, &gone, "certificate is revoked");
        let reload = broker.ctl(&["reload"]);
        assert!(!reload.status.success(), "{reload:?}");
        assert!(String::from_utf8_lossy(&reload.stderr).contains(why), "{reload:?}");
    }
    broker.client_tls(&authority.client("other"), &Connect::new(V, "other")).ping();
}

#[test]
fn an_authority_without_a_list_is_not_relied_on() {
    let (broker, _) = start("");
    let authority = broker.authority();
    let below = authority.below(&broker.path().join("below"), "Below");
    let mut client = below.client("client");
    let chain = [
        std::fs::read_to_string(&client.certificate).unwrap(),
        std::fs::read_to_string(below.certificate()).unwrap(),
    ];
    client.certificate = client.certificate.with_extension("chain");
    std::fs::write(&client.certificate, chain.concat()).unwrap();
    refused(&broker, &client, "there is no revocation list of its issuer");
    let (broker, _) = start("missing = \"warn\"");
    broker.simple(V, "anyone").publish_surely(&Publish::new("a", "b"));
}

#[test]
fn what_is_wrong_with_the_lists_keeps_the_broker_from_starting() {
    let setup = Setup::new().mutual_tls();
    std::fs::write(setup.path().join("ca.crl"), "garbage").unwrap();
    let said = setup.config("[revocation]\nlists = [\"ca.crl\"]").refused().stderr;
    assert!(said.contains("revocation.lists") && said.contains("ca.crl"), "{said}");
}

/// Answers requests with a file, one after the other, until the test ends.
fn serve(file: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let body = std::fs::read(&file).unwrap_or_default();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    format!("http://{address}/ca.crl")
}

#[test]
fn a_list_is_fetched_and_counts_once_it_is_there() {
    let setup = Setup::new().mutual_tls();
    let published = setup.path().join("published.crl");
    let (gone, stays) = (setup.authority().client("gone"), setup.authority().client("stays"));
    setup.authority().take_back(&published, 1, &[&gone]);
    let config = format!("[revocation]\nfetch = [\"{}\"]\n", serve(published));
    let mut broker = setup.config(&config).start();
    broker.audited("the list", |record| record["certificates"] == 1);
    refused(&broker, &gone, "certificate is revoked");
    broker.client_tls(&stays, &Connect::new(V, "stays")).ping();
    // What was fetched is there again before it is fetched again.
    broker.restart(rustix::process::Signal::KILL);
    refused(&broker, &gone, "certificate is revoked");
    let mut raw = broker.raw_tls(&gone);
    let _ = raw.try_send(&Connect::new(V, "gone").bytes());
    raw.expect_end();
}

#[test]
fn what_is_fetched_and_is_no_list_is_not_kept_and_nobody_is_let_in_without_one() {
    let setup = Setup::new().mutual_tls();
    let published = setup.path().join("published.crl");
    std::fs::write(&published, "garbage").unwrap();
    let config = format!("[revocation]\nfetch = [\"{}\"]\n", serve(published));
    let broker = setup.config(&config).start();
    broker.audited("the failure", |record| {
        record["event"] == "revocation.load-failed"
            && record["why"].as_str().unwrap().contains("has no revocation list")
    });
    assert!(std::fs::read_dir(broker.path().join("crls")).unwrap().next().is_none());
    let client = broker.authority().client("client");
    refused(&broker, &client, "there is no revocation list of its issuer");
    assert!(broker.ctl(&["reload"]).status.success());
}

/// A client's certificate that says where the list of its authority is.
fn naming(authority: &Authority, url: &str) -> Identity {
    authority.client_with("naming", |parameters| {
        let uris = vec![url.to_owned()];
        parameters.crl_distribution_points = vec![rcgen::CrlDistributionPoint { uris }];
    })
}

#[test]
fn a_list_that_a_certificate_names_is_fetched_where_that_is_allowed() {
    let setup = Setup::new().mutual_tls();
    let published = setup.path().join("published.crl");
    let url = serve(published.clone());
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let foreign = format!("http://{}/ca.crl", elsewhere.local_addr().unwrap());
    let (own, other) = (naming(setup.authority(), &url), naming(setup.authority(), &foreign));
    let gone = naming(setup.authority(), &url);
    setup.authority().take_back(&published, 1, &[&gone]);
    let allowed = url.strip_suffix("ca.crl").unwrap();
    let config = format!("[revocation]\nfetch_from = [\"{allowed}\"]\n");
    let broker = setup.config(&config).start();
    // Nobody is let in before the list is there, and a name alone brings none.
    refused(&broker, &other, "there is no revocation list of its issuer");
    assert!(elsewhere.accept().is_err(), "nobody was asked there");
    refused(&broker, &own, "there is no revocation list of its issuer");
    broker.audited("the list", |record| record["certificates"] == 1);
    broker.client_tls(&own, &Connect::new(V, "naming")).ping();
    refused(&broker, &gone, "certificate is revoked");
    assert!(elsewhere.accept().is_err(), "nobody was asked there");
}

#[test]
fn the_list_of_an_authority_between_is_fetched_and_verified_by_what_its_client_has_shown() {
    let setup = Setup::new().mutual_tls();
    let (above, published) = (setup.path().join("above.crl"), setup.path().join("below.crl"));
    setup.authority().take_back(&above, 1, &[]);
    let below = setup.authority().below(&setup.path().join("below"), "Below");
    let url = serve(published.clone());
    let with_chain = |mut client: Identity| {
        let chain = [
            std::fs::read_to_string(&client.certificate).unwrap(),
            std::fs::read_to_string(below.certificate()).unwrap(),
        ];
        client.certificate = client.certificate.with_extension("chain");
        std::fs::write(&client.certificate, chain.concat()).unwrap();
        client
    };
    let (own, gone) = (naming(&below, &url), naming(&below, &url));
    below.take_back(&published, 1, &[&gone]);
    let (own, gone) = (with_chain(own), with_chain(gone));
    let config = format!("[revocation]\nlists = [\"above.crl\"]\nfetch_from = [\"{url}\"]\n");
    let mut broker = setup.config(&config).start();
    refused(&broker, &own, "there is no revocation list of its issuer");
    broker.audited("the list", |record| record["certificates"] == 1);
    broker.client_tls(&own, &Connect::new(V, "naming")).ping();
    refused(&broker, &gone, "certificate is revoked");
    // After a restart it is known before anybody names it.
    broker.restart(rustix::process::Signal::KILL);
    refused(&broker, &gone, "certificate is revoked");
    broker.client_tls(&own, &Connect::new(V, "naming")).ping();
}

#[test]
fn a_server_that_never_answers_keeps_no_other_list_back() {
    let setup = Setup::new().mutual_tls();
    let published = setup.path().join("published.crl");
    let gone = setup.authority().client("gone");
    setup.authority().take_back(&published, 1, &[&gone]);
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_url = format!("http://{}/ca.crl", mute.local_addr().unwrap());
    let url = serve(published);
    let config = format!("[revocation]\nfetch = [\"{mute_url}\", \"{url}\"]\n");
    let broker = setup.config(&config).start();
    broker.audited("the list", |record| record["certificates"] == 1);
    mute.accept().unwrap();
}

/// Threat: subscription survives revocation.
#[test]
fn a_list_that_is_fetched_is_fetched_at_once_where_somebody_says_that_it_has_changed() {
    let setup = Setup::new().mutual_tls();
    let published = setup.path().join("published.crl");
    let names = ["first", "second", "third"];
    let [first, second, third] = names.map(|name| setup.authority().client(name));
    setup.authority().take_back(&published, 1, &[&first]);
    let config = format!("[revocation]\nfetch = [\"{}\"]\n", serve(published.clone()));
    let broker = setup.config(&config).start();
    broker.audited("the list", |record| record["certificates"] == 1);
    let mut leaver = broker.client_tls(&second, &Connect::new(V, "second"));
    broker.authority().take_back(&published, 2, &[&first, &second]);
    assert!(broker.ctl(&["reload"]).status.success());
    leaver.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    // What `pki serve` says when something was revoked.
    let mut leaver = broker.client_tls(&third, &Connect::new(V, "third"));
    broker.authority().take_back(&published, 3, &[&first, &second, &third]);
    let socket = broker.path().join("control/portcullis.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(socket).unwrap();
    socket.write_all(b"{\"verb\":\"revocations\",\"about\":\"revoked: 1\"}\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), "{\"done\":{\"certificates\":3}}");
    leaver.raw.expect_disconnect(&[NOT_AUTHORIZED]);
}
