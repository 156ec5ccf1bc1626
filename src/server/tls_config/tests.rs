//! Tests of [`super`].

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::client::{ClientConfig, ClientSessionMemoryCache, Resumption};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConnection};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::*;
use crate::identity::CertificateFacts;

/// Flights of a handshake; more is a loop without end.
const FLIGHTS_MAX: usize = 8;

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and key for tests: valid from a year ago for `days` more from now.
fn params(name: &str, days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - time::Duration::days(365);
    params.not_after = now + time::Duration::days(days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    params
}

fn authority(name: &str, days: i64) -> Authority {
    let mut params = params(name, days);
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn issue(&self, params: &CertificateParams) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }
}

/// The files of a listener, and the authority that issued them.
struct Listener {
    _folder: TempDir,
    authority: Authority,
    tls: listener::Tls,
}

fn listener() -> Listener {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority("CA", 365);
    let (certificate, key) = authority.issue(&params("localhost", 90));
    let path = |name: &str| folder.path().join(name);
    let tls = listener::Tls {
        certificate: path("server.pem"),
        key: path("server.key"),
        client_ca: Some(path("ca.pem")),
        tls_1_2: false,
    };
    write(&tls.certificate, &certificate);
    write(&tls.key, &key.serialize_pem());
    write(&path("ca.pem"), &authority.pem);
    Listener { _folder: folder, authority, tls }
}

fn write(path: &Path, contents: &str) {
    std::fs::write(path, contents).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A client that trusts `listener`'s authority and shows `certificate`.
fn client(
    listener: &Listener,
    certificate: Option<(String, KeyPair)>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(listener.authority.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((pem, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
    Arc::new(config)
}

fn device(listener: &Listener) -> (String, KeyPair) {
    listener.authority.issue(&params("pump", 30))
}

/// Shakes hands in memory. The server's side, or the server's error.
fn handshake(
    setup: &TlsSetup,
    client: &Arc<ClientConfig>,
) -> Result<ServerConnection, rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(&setup.config)).unwrap();
    for _ in 0..FLIGHTS_MAX {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(server)
}

fn refusal(setup: &TlsSetup, client: &Arc<ClientConfig>) -> rustls::Error {
    handshake(setup, client).expect_err("the handshake has to fail")
}

#[test]
fn a_client_with_a_certificate_is_let_in_and_its_facts_are_read() {
    let listener = listener();
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    assert_eq!(setup.warnings, []);
    let client = client(&listener, Some(device(&listener)), &[&version::TLS13]);
    let server = handshake(&setup, &client).unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let chain = server.peer_certificates().unwrap();
    let (facts, _) = CertificateFacts::from_verified_chain(chain, &setup.trusted_issuers).unwrap();
    assert_eq!(&*facts.cn, "pump");
}

#[test]
fn a_second_connection_shakes_hands_in_full_too() {
    for (tls_1_2, version) in
        [(false, &version::TLS13), (true, &version::TLS13), (true, &version::TLS12)]
    {
        let mut listener = listener();
        listener.tls.tls_1_2 = tls_1_2;
        let setup = server_config(&listener.tls, &revocation::none()).unwrap();
        let client = client(&listener, Some(device(&listener)), &[version]);
        for _ in 0..3 {
            let server = handshake(&setup, &client).unwrap();
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full), "{version:?}");
            assert_eq!(server.protocol_version(), Some(version.version));
        }
    }
}

#[test]
fn tls_1_2_is_refused_unless_the_listener_takes_it() {
    let mut listener = listener();
    let client = client(&listener, Some(device(&listener)), &[&version::TLS12]);
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    assert!(matches!(refusal(&setup, &client), rustls::Error::PeerIncompatible(_)));
    listener.tls.tls_1_2 = true;
    handshake(&server_config(&listener.tls, &revocation::none()).unwrap(), &client).unwrap();
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let listener = listener();
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    let error = refusal(&setup, &client(&listener, None, &[&version::TLS13]));
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[test]
fn a_client_without_a_certificate_is_let_in_where_none_is_asked_for() {
    let mut listener = listener();
    listener.tls.client_ca = None;
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    assert!(setup.client_cas.is_empty());
    let server = handshake(&setup, &client(&listener, None, &[&version::TLS13])).unwrap();
    assert_eq!(server.peer_certificates(), None);
}

#[test]
fn a_client_of_another_authority_is_refused_even_if_it_has_the_same_name() {
    let listener = listener();
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    for name in ["Other CA", "CA"] {
        let theirs = authority(name, 365).issue(&params("pump", 30));
        let error = refusal(&setup, &client(&listener, Some(theirs), &[&version::TLS13]));
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }
}

#[test]
fn a_client_whose_certificate_is_not_for_clients_now_is_refused() {
    let listener = listener();
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    let mut server_only = params("pump", 30);
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut future = params("pump", 30);
    future.not_before = OffsetDateTime::now_utc() + time::Duration::days(1);
    for params in [params("pump", -1), future, server_only] {
        let theirs = listener.authority.issue(&params);
        let error = refusal(&setup, &client(&listener, Some(theirs), &[&version::TLS13]));
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }
}

#[test]
fn a_client_of_an_authority_that_has_ended_is_refused() {
    let listener = listener();
    let ended = authority("Ended CA", -1);
    let both = format!("{}{}", listener.authority.pem, ended.pem);
    write(listener.tls.client_ca.as_ref().unwrap(), &both);
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    assert!(matches!(
        setup.warnings.as_slice(),
        [TlsWarning::AuthorityOutsideItsTime { subject, .. }] if subject == "CN=Ended CA"
    ));
    let theirs = ended.issue(&params("pump", 30));
    let error = refusal(&setup, &client(&listener, Some(theirs), &[&version::TLS13]));
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    handshake(&setup, &client(&listener, Some(device(&listener)), &[&version::TLS13])).unwrap();

    write(listener.tls.client_ca.as_ref().unwrap(), &ended.pem);
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    refusal(&setup, &client(&listener, Some(ended.issue(&params("pump", 30))), &[&version::TLS13]));
}

#[test]
fn a_chain_beyond_its_bound_is_refused_before_it_is_verified() {
    let listener = listener();
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    let (pem, key) = device(&listener);
    let mut chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    chain.extend(vec![listener.authority.der.clone(); 8]);
    let mut roots = RootCertStore::empty();
    roots.add(listener.authority.der.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let error = refusal(&setup, &Arc::new(client)).to_string();
    assert!(error.contains("certificates: 9"), "{error}");
}

#[test]
fn files_that_do_not_fit_are_refused_with_their_name_and_the_remedy() {
    let other = authority("Other CA", 365);
    let (stray, stray_key) = other.issue(&params("localhost", 90));
    let (ended, ended_key) = other.issue(&params("localhost", -1));
    let mut client_only = params("localhost", 90);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (client_only, _) = other.issue(&client_only);
    let mut future = params("localhost", 90);
    future.not_before = OffsetDateTime::now_utc() + time::Duration::days(1);
    let (future, _) = other.issue(&future);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (file, contents, expected) in [
        ("server.pem", "", "no certificate in it"),
        ("server.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n", "not PEM"),
        ("server.pem", &stray_key.serialize_pem(), "no certificate in it"),
        ("server.pem", &stray, "does not belong to the first certificate"),
        ("server.pem", &ended, "has ended on"),
        ("server.pem", &future, "is the clock right?"),
        ("server.pem", &client_only, "not for servers"),
        (
            "server.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 1 in it: the certificate is malformed",
        ),
        ("server.key", "", "no private key in it"),
        ("server.key", encrypted, "openssl pkey"),
        ("server.key", &ended_key.serialize_pem(), "does not belong to the first certificate"),
        (
            "server.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "not usable",
        ),
        ("ca.pem", "", "no certificate in it"),
        ("ca.pem", &stray, "is not of an authority; remove it"),
    ] {
        let listener = listener();
        let path = listener.tls.certificate.with_file_name(file);
        write(&path, contents);
        let error = server_config(&listener.tls, &revocation::none()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(file), "{error}");
        // A pair that does not fit is told at the key.
        let at_key = file == "server.key" || expected.starts_with("does not belong");
        let key = if at_key { "tls.key: " } else { "tls.c" };
        assert!(error.starts_with(key), "{error}");
    }
}

#[test]
fn a_missing_file_and_a_key_open_to_others_are_refused() {
    let listener = listener();
    let everybody = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&listener.tls.key, everybody).unwrap();
    let error = server_config(&listener.tls, &revocation::none()).unwrap_err().to_string();
    assert!(error.contains("mode 0644"), "{error}");
    assert!(error.contains(&format!("chmod 600 {}", listener.tls.key.display())), "{error}");
    std::fs::remove_file(&listener.tls.key).unwrap();
    assert_eq!(
        server_config(&listener.tls, &revocation::none()).unwrap_err().to_string(),
        format!(
            "tls.key: {}: cannot open it: No such file or directory (os error 2); \
             check the path, or make one with: portcullis ca init, portcullis cert issue",
            listener.tls.key.display()
        )
    );
}

#[test]
fn a_certificate_that_ends_soon_is_worth_a_warning() {
    let listener = listener();
    let (certificate, key) = listener.authority.issue(&params("localhost", 10));
    write(&listener.tls.certificate, &certificate);
    write(&listener.tls.key, &key.serialize_pem());
    let setup = server_config(&listener.tls, &revocation::none()).unwrap();
    assert!(matches!(
        setup.warnings.as_slice(),
        [TlsWarning::CertificateEndsSoon { days: 9..=10, .. }]
    ));
}
