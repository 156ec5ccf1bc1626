//! What the tests of the transports share: loopback connections and throw-away certificates.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

use super::{Scratch, Socket, Transport};

/// A connection over loopback: the broker's end, and a blocking peer.
pub(crate) fn connected() -> (Socket, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nodelay(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    (Socket::Tcp(stream), peer)
}

/// Reads once.
pub(crate) async fn read(transport: &mut Transport) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        let mut plain = Scratch::take();
        transport
            .poll_read(cx, &mut plain)
            .map(|read| read.map(|count| assert_eq!(count, plain.len())))
            .map(|read| read.map(|()| plain.to_vec()))
    })
    .await
}

/// Reads until `bytes` have come; fewer at the end of the stream.
pub(crate) async fn read_exact(transport: &mut Transport, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let read = read(transport).await.unwrap();
        if read.is_empty() {
            break;
        }
        all.extend_from_slice(&read);
    }
    all
}

/// Writes all of `bytes`.
pub(crate) async fn write(transport: &mut Transport, bytes: &[u8]) {
    let mut handed_over = false;
    poll_fn(|cx| {
        if handed_over {
            return transport.poll_flush(cx);
        }
        handed_over = true;
        transport.poll_write(cx, bytes)
    })
    .await
    .unwrap();
    assert!(!transport.has_pending());
}

/// A CA with a server's and a client's certificate.
pub(crate) struct Certificates {
    ca: CertificateDer<'static>,
    server: (CertificateDer<'static>, KeyPair),
    /// The client's leaf.
    pub(crate) client: CertificateDer<'static>,
    client_key: KeyPair,
}

impl Certificates {
    pub(crate) fn generate() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            (certificate.der().clone(), key)
        };
        let (client, client_key) = leaf("device-1");
        Self { ca, server: leaf("localhost"), client, client_key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        roots
    }

    /// A server that demands a client certificate.
    pub(crate) fn server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let (certificate, key) = &self.server;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], private_key(key))
            .unwrap();
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// A client, with its certificate if it is `identified`.
    pub(crate) fn client(&self, identified: bool) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        if identified {
            builder
                .with_client_auth_cert(vec![self.client.clone()], private_key(&self.client_key))
                .unwrap()
        } else {
            builder.with_no_client_auth()
        }
    }
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// A client's session, before its first byte.
pub(crate) fn client_connection(config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}
