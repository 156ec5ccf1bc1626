//! A key, its certificate and those above it in one file of PKCS#12.

use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm,
    PrivateKey as StoredKey, PrivateKeyChain,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::issue::Issued;
use super::key::{Passphrase, PrivateKey};
use super::{KeyError, PkiError};

/// Rounds of the derivations, of the keys and of the checksum: whichever is cheaper is what
/// somebody who guesses passphrases tries.
const ROUNDS: u32 = 600_000;

/// PKCS#12 under a passphrase: AES-256 and HMAC-SHA256, which OpenSSL 3 opens. `roots` are the
/// certificates of those that the owner trusts, PEM.
///
/// # Errors
/// When the library refuses, or a certificate cannot be read.
pub fn pkcs12(
    issued: &Issued,
    key: &PrivateKey,
    roots: &[u8],
    passphrase: &Passphrase,
) -> Result<Vec<u8>, PkiError> {
    let refused = || KeyError::Library("make a file of PKCS#12");
    let mut chain = Vec::new();
    for pem in [issued.chain_pem.as_bytes(), roots] {
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|_| refused())?;
            let certificate = Certificate::from_der(&der).map_err(|_| refused())?;
            if !chain.contains(&certificate) {
                chain.push(certificate);
            }
        }
    }
    let stored = StoredKey::from_der(key.pkcs8()).map_err(|_| refused())?;
    let id = hex::decode(&issued.certificate.key).unwrap_or_default();
    let mut store = KeyStore::new();
    let entry = KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(id, stored, chain));
    store.add_entry(&issued.certificate.name, entry);
    store
        .writer(passphrase.as_str())
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .encryption_iterations(ROUNDS)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .mac_iterations(ROUNDS)
        .write()
        .map_err(|_| refused().into())
}
