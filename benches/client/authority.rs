//! The throw-away CA of a run: it certifies the server, and each client under its own name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

/// A CA whose certificate and key lie in a folder, so that another process of the same run can
/// open it too.
pub(crate) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// All clients share a key, which costs the server nothing less; the certificates differ.
    client_key: KeyPair,
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Authority {
    /// Makes a CA and a server certificate for `localhost` and `127.0.0.1` in `directory`.
    pub(crate) fn create(directory: &Path) -> io::Result<Arc<Self>> {
        let ca_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut ca = params("Benchmark CA", vec![])?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key).map_err(io::Error::other)?;
        write_private(&directory.join("ca.pem"), &ca_certificate.pem())?;
        write_private(&directory.join("ca.key"), &ca_key.serialize_pem())?;

        let issuer = Issuer::from_params(&ca, &ca_key);
        let server_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut server = params("localhost", vec!["localhost".into(), "127.0.0.1".into()])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = server.signed_by(&server_key, &issuer).map_err(io::Error::other)?;
        write_private(&directory.join("server.pem"), &server.pem())?;
        write_private(&directory.join("server.key"), &server_key.serialize_pem())?;
        Self::open(directory)
    }

    /// Opens the CA that [`Authority::create`] left in `directory`.
    pub(crate) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        let certificate = std::fs::read(directory.join("ca.pem"))?;
        let certificate = CertificateDer::from_pem_slice(&certificate).map_err(io::Error::other)?;
        let key = std::fs::read_to_string(directory.join("ca.key"))?;
        let key = KeyPair::from_pem(&key).map_err(io::Error::other)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(io::Error::other)?;

        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(io::Error::other)?;
        let client_key = KeyPair::generate().map_err(io::Error::other)?;
        let directory = directory.into();
        Ok(Arc::new(Self { directory, issuer, client_key, provider, verifier }))
    }

    /// The file with the CA's certificate.
    pub(crate) fn ca_certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The file with the server's certificate.
    pub(crate) fn server_certificate(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The file with the server's key.
    pub(crate) fn server_key(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// The folder, for [`Authority::open`].
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A TLS 1.3 client with a certificate whose common name and DNS name is `name`, and which
    /// resumes nothing: every connection is a full mutual handshake.
    pub(crate) fn client(&self, name: &str) -> io::Result<Arc<ClientConfig>> {
        let mut client = params(name, vec![name.into()])?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate =
            client.signed_by(&self.client_key, &self.issuer).map_err(io::Error::other)?;
        let key =
            PrivateKeyDer::try_from(self.client_key.serialize_der()).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_webpki_verifier(Arc::clone(&self.verifier))
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn params(name: &str, subject_alt_names: Vec<String>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(subject_alt_names).map_err(io::Error::other)?;
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(30);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
