//! Certificates for tests, made with rcgen and not with the broker's own `pki`: what the broker
//! accepts must not depend on who issued it, and a hostile certificate has to be possible.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::raw::PATIENCE;

/// A certificate authority and the folder with what it issued.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate with its key, both also as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new authority whose files go to this folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer =
            CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        fs::create_dir_all(folder).unwrap();
        let authority = Self { issuer, folder: folder.to_owned() };
        fs::write(authority.certificate(), authority.issuer.pem()).unwrap();
        authority
    }

    /// An intermediate authority that this one has issued; its clients' chains end here.
    pub fn below(&self, folder: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(parameters, key, &self.issuer).unwrap();
        fs::create_dir_all(folder).unwrap();
        let authority = Self { issuer, folder: folder.to_owned() };
        fs::write(authority.certificate(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The file with the authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The SHA-256 of the authority's public key, as `principals.toml` names an issuer.
    pub fn issuer_hash(&self) -> String {
        let key = self.issuer.key().subject_public_key_info();
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key))
    }

    /// Makes whoever trusts this authority by its file trust another one as well.
    pub fn vouch_for(&self, other: &Self) {
        let both = [self.issuer.pem(), other.issuer.pem()].concat();
        fs::write(self.certificate(), both).unwrap();
    }

    /// A client certificate with this common name.
    pub fn client(&self, common_name: &str) -> Identity {
        self.client_with(common_name, |_| {})
    }

    /// A client certificate that is changed before it is signed.
    pub fn client_with(
        &self,
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut parameters);
        self.issue(parameters)
    }

    /// A server certificate for loopback.
    pub fn server(&self) -> Identity {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "localhost");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.issue(parameters)
    }

    fn issue(&self, mut parameters: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        // Names may be hostile, so files are numbered.
        let number = fs::read_dir(&self.folder).unwrap().count();
        let identity = Identity {
            certificate: self.folder.join(format!("{number}.crt")),
            key: self.folder.join(format!("{number}.key")),
        };
        fs::write(&identity.certificate, certificate.pem()).unwrap();
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&identity.key).unwrap();
        std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes()).unwrap();
        identity
    }

    /// Writes a list of those that are taken back, in place of the one that is there: whole, as
    /// whoever publishes lists should.
    pub fn take_back(&self, to: &Path, number: u64, revoked: &[&Identity]) {
        self.take_back_for(to, number, revoked, time::Duration::hours(1));
    }

    /// The same, with a list that is good for so long.
    pub fn take_back_for(
        &self,
        to: &Path,
        number: u64,
        revoked: &[&Identity],
        good_for: time::Duration,
    ) {
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial()),
            revocation_time: OffsetDateTime::now_utc(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc() - time::Duration::hours(1),
            next_update: OffsetDateTime::now_utc() + good_for,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let new = to.with_extension("new");
        fs::write(&new, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        fs::rename(new, to).unwrap();
    }

    /// TLS settings of a client that trusts this authority.
    pub fn client_config(&self, identity: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        config_trusting(roots, identity)
    }

    /// A TLS connection whose handshake may still fail: TLS 1.3 tells a client that its
    /// certificate was refused only when it reads.
    pub fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        connect_by(address, self.client_config(identity))
    }
}

/// TLS settings of a client that trusts these authorities.
pub fn config_trusting(roots: RootCertStore, identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some(identity) => {
            config.with_client_auth_cert(identity.chain(), identity.private_key()).unwrap()
        }
        None => config.with_no_client_auth(),
    }
}

/// A TLS connection with these settings, whose handshake may still fail.
pub fn connect_by(
    address: SocketAddr,
    config: ClientConfig,
) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

impl Identity {
    /// The chain, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(&self.certificate).unwrap().map(Result::unwrap).collect()
    }

    /// The serial number, as it stands in the certificate.
    pub fn serial(&self) -> Vec<u8> {
        let chain = self.chain();
        let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
        certificate.raw_serial().to_vec()
    }

    /// The key.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }
}
