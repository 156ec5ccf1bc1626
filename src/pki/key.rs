//! Private keys: made, read, and encrypted at rest under a passphrase.
//!
//! An encrypted key is a PKCS#8 `EncryptedPrivateKeyInfo` (PBES2: PBKDF2-HMAC-SHA256 and
//! AES-256-CBC), which OpenSSL opens. Nothing here prints a key or a passphrase, and both are
//! overwritten when they are let go.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::pbkdf2;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::pkcs5::{EncryptionScheme, pbes2};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize as _, Zeroizing};

use super::files;

/// What OWASP recommends for PBKDF2-HMAC-SHA256.
const PBKDF2_ROUNDS: u32 = 600_000;
/// Bytes of a salt.
const SALT_BYTES: usize = 16;
/// Characters of a passphrase: fewer are tried in minutes by whoever has the file.
const PASSPHRASE_CHARACTERS_MIN: usize = 8;
/// Bytes of a passphrase; no person types more.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Bits of an RSA key, of an authority or in a request.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// The kinds of key that are made here. RSA is read, and not made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256: what every device can do.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    const fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

/// Why a key or a passphrase cannot be used. None of these says what the secret is.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file of the key or the passphrase cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The file holds no key that can sign here.
    #[error(
        "{}: not a private key in PEM that can sign: P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is encrypted in a way that is from before PKCS#8.
    #[error("{0}: encrypted in an old way that is no PKCS#8; convert it with: openssl pkcs8 -topk8 -in {0} -out NEW.key", path.display())]
    OldEncryption {
        /// The file.
        path: PathBuf,
    },
    /// The key is encrypted, and there is no passphrase.
    #[error(
        "{}: the key is encrypted; give its passphrase with --passphrase-file FILE, in PORTCULLIS_PASSPHRASE, or at a terminal",
        path.display()
    )]
    NoPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The same, of the authority that a configuration names.
    #[error(
        "{}: the key is encrypted; give its passphrase with est.passphrase_file, in PORTCULLIS_PASSPHRASE, or at a terminal",
        path.display()
    )]
    NoPassphraseToServe {
        /// The file.
        path: PathBuf,
    },
    /// A key that is to be taken over is encrypted, and nobody gives the passphrase it has.
    #[error("{}: the key is encrypted; give the passphrase that it has now with --old-passphrase-file FILE", path.display())]
    NoOldPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase does not open the key.
    #[error("{}: the passphrase does not open this key", path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase is too short or too long to be one.
    #[error(
        "a passphrase has {PASSPHRASE_CHARACTERS_MIN} characters or more, and {PASSPHRASE_BYTES_MAX} bytes at most"
    )]
    UnfitPassphrase,
    /// The passphrase holds a line break or another control character.
    #[error("a passphrase is one line of text without control characters")]
    PassphraseNotOneLine,
    /// A token cannot be used.
    #[cfg(feature = "pkcs11")]
    #[error(transparent)]
    Token(#[from] super::token::TokenError),
    /// The key is in a token, and this program was built without a way to it.
    #[error(
        "the key is in a token (pkcs11:); build the program with: cargo install --path . --features pkcs11"
    )]
    NoTokens,
    /// The key cannot be made or encrypted.
    #[error("the cryptographic library refuses to {0}")]
    Library(&'static str),
}

/// A passphrase for private keys. Overwritten when it is let go, and never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl Passphrase {
    /// A passphrase that opens an existing key: any length that a key may have been given.
    ///
    /// # Errors
    /// When it is empty or longer than 1,024 bytes, or no single line.
    pub fn existing(text: Zeroizing<String>) -> Result<Self, KeyError> {
        if text.is_empty() || text.len() > PASSPHRASE_BYTES_MAX {
            Err(KeyError::UnfitPassphrase)
        } else if text.chars().any(char::is_control) {
            Err(KeyError::PassphraseNotOneLine)
        } else {
            Ok(Self(text))
        }
    }

    /// The same passphrase, for a key that is to be encrypted with it.
    ///
    /// # Errors
    /// When it has fewer than 8 characters.
    pub fn for_new_key(self) -> Result<Self, KeyError> {
        if self.0.chars().count() < PASSPHRASE_CHARACTERS_MIN {
            Err(KeyError::UnfitPassphrase)
        } else {
            Ok(self)
        }
    }

    /// The first line of a file that nobody else can read.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or it is not one line of text.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(files::read_secret(path, files::Secret::Passphrase)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::PassphraseNotOneLine)?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        Self::existing(Zeroizing::new(line.to_owned()))
    }

    /// The text. A secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How private keys that are written are kept.
pub enum Protection {
    /// As they are: whoever reads the file has the key.
    None,
    /// Under a passphrase.
    Envelope(Box<Envelope>),
}

impl std::fmt::Debug for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Envelope(_) => "Envelope",
        })
    }
}

impl Protection {
    /// Under this passphrase; as they are without one.
    ///
    /// # Errors
    /// When there is no randomness, or the passphrase is too short for a new key.
    pub fn new(passphrase: Option<Passphrase>) -> Result<Self, KeyError> {
        Ok(match passphrase {
            None => Self::None,
            Some(passphrase) => Self::Envelope(Box::new(Envelope::new(passphrase)?)),
        })
    }
}

/// A key derived from a passphrase once, under which any number of private keys are encrypted:
/// they share its salt, and each has an initialization vector of its own, so that a run that
/// makes thousands pays for one derivation. Whoever guesses the passphrase of one has all, which
/// one passphrase means anyway.
pub struct Envelope {
    key: Zeroizing<[u8; 32]>,
    parameters: pbes2::Pbkdf2Params,
}

impl Envelope {
    fn new(passphrase: Passphrase) -> Result<Self, KeyError> {
        let passphrase = passphrase.for_new_key()?;
        let mut salt = [0_u8; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| KeyError::Library("give randomness"))?;
        let parameters = pbes2::Pbkdf2Params::hmac_sha256(PBKDF2_ROUNDS, &salt)
            .map_err(|_| KeyError::Library("derive a key"))?;
        let mut key = Zeroizing::new([0_u8; 32]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(PBKDF2_ROUNDS).unwrap_or(NonZeroU32::MIN),
            &salt,
            passphrase.as_str().as_bytes(),
            &mut *key,
        );
        Ok(Self { key, parameters })
    }

    /// The key as `EncryptedPrivateKeyInfo`, PEM.
    fn seal(&self, pkcs8: &[u8]) -> Result<String, KeyError> {
        let refused = || KeyError::Library("encrypt a key");
        // With room for the padding, so that no unencrypted copy is left behind by growing.
        let mut data = Zeroizing::new(Vec::with_capacity(pkcs8.len() + 16));
        data.extend_from_slice(pkcs8);
        let context = UnboundCipherKey::new(&AES_256, &*self.key)
            .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
            .and_then(|cipher| cipher.encrypt(&mut *data))
            .map_err(|_| refused())?;
        let DecryptionContext::Iv128(iv) = context else { return Err(refused()) };
        let parameters = pbes2::Parameters {
            kdf: pbes2::Kdf::Pbkdf2(self.parameters),
            encryption: pbes2::EncryptionScheme::Aes256Cbc { iv: *iv.as_ref() },
        };
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: EncryptionScheme::Pbes2(parameters),
            encrypted_data: OctetStringRef::new(&data).map_err(|_| refused())?,
        };
        let der = info.to_der().map_err(|_| refused())?;
        pkcs8::der::pem::encode_string(ENCRYPTED, LineEnding::LF, &der).map_err(|_| refused())
    }
}

/// A private key that can sign. What there is of it in memory as text or DER is overwritten when
/// it is let go.
pub struct PrivateKey(Kept);

/// Where a private key is.
enum Kept {
    /// In memory.
    Here(KeyPair),
    /// In a token, which signs with it.
    #[cfg(feature = "pkcs11")]
    InToken(Box<super::token::TokenKey>),
}

/// Where the key of a new authority comes from.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'a> {
    /// It is made here, and kept in a file.
    New(KeyType),
    /// It is in a token, or made there if the token has none of this name.
    Token {
        /// The URI that names it (RFC 7512).
        uri: &'a str,
        /// The token's PIN.
        pin: &'a Passphrase,
        /// The kind of key, where it is made.
        key_type: KeyType,
    },
}

impl KeySource<'_> {
    /// The key.
    pub(super) fn key(self) -> Result<PrivateKey, KeyError> {
        match self {
            Self::New(key_type) => PrivateKey::generate(key_type),
            Self::Token { uri, pin, key_type } => in_token(uri, pin, Some(key_type)),
        }
    }
}

/// The key in a token.
#[cfg(feature = "pkcs11")]
fn in_token(uri: &str, pin: &Passphrase, make: Option<KeyType>) -> Result<PrivateKey, KeyError> {
    let key = super::token::TokenKey::open(uri, pin, make)?;
    Ok(PrivateKey(Kept::InToken(Box::new(key))))
}

#[cfg(not(feature = "pkcs11"))]
fn in_token(_: &str, _: &Passphrase, _: Option<KeyType>) -> Result<PrivateKey, KeyError> {
    Err(KeyError::NoTokens)
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        match &mut self.0 {
            Kept::Here(key) => key.zeroize(),
            #[cfg(feature = "pkcs11")]
            Kept::InToken(_) => {}
        }
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.0 {
            Kept::Here(key) => key.der_bytes(),
            #[cfg(feature = "pkcs11")]
            Kept::InToken(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &self.0 {
            Kept::Here(key) => PublicKeyData::algorithm(key),
            #[cfg(feature = "pkcs11")]
            Kept::InToken(key) => PublicKeyData::algorithm(&**key),
        }
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.0 {
            Kept::Here(key) => key.sign(message),
            #[cfg(feature = "pkcs11")]
            Kept::InToken(key) => key.sign(message),
        }
    }
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// When the cryptographic library cannot make one.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        KeyPair::generate_for(key_type.algorithm())
            .map(|key| Self(Kept::Here(key)))
            .map_err(|_| KeyError::Library("make a key"))
    }

    /// The key in a file that nobody else can read, or in the token that the file names. `unlock`
    /// is asked for the passphrase of that file if the key is encrypted, and for the PIN of a
    /// token, and only then.
    ///
    /// # Errors
    /// When the file cannot be read or is open to others, holds no key that can sign, or the
    /// passphrase does not open it.
    pub fn read(
        path: &Path,
        unlock: &mut dyn FnMut(&Path) -> Result<Passphrase, KeyError>,
    ) -> Result<Self, KeyError> {
        let pem = Zeroizing::new(files::read_key(path)?);
        let not_a_key = || KeyError::NotAKey { path: path.to_owned() };
        let text = std::str::from_utf8(&pem).map_err(|_| not_a_key())?;
        if text.starts_with("pkcs11:") {
            return in_token(text, &unlock(path)?, None);
        }
        if text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::OldEncryption { path: path.to_owned() });
        }
        let key = match text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            None => {
                let mut der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| not_a_key())?;
                let key = KeyPair::try_from(&der);
                der.zeroize();
                key
            }
            Some(at) => {
                let (_, begins) = text.split_at(at);
                let (label, der) = pkcs8::der::pem::decode_vec(section(begins).as_bytes())
                    .map_err(|_| not_a_key())?;
                let info = EncryptedPrivateKeyInfoRef::from_der(&der).map_err(|_| not_a_key())?;
                if label != ENCRYPTED {
                    return Err(not_a_key());
                }
                let passphrase = unlock(path)?;
                let document = info
                    .decrypt(passphrase.as_str())
                    .map_err(|_| KeyError::WrongPassphrase { path: path.to_owned() })?;
                KeyPair::try_from(document.as_bytes())
            }
        };
        let key = Self(Kept::Here(key.map_err(|_| not_a_key())?));
        if is_strong(&key.subject_public_key_info()) { Ok(key) } else { Err(not_a_key()) }
    }

    /// PKCS#8 in PEM, encrypted or not; a secret if not. Of a key in a token, the URI that names it.
    ///
    /// # Errors
    /// When the cryptographic library cannot encrypt it.
    pub fn to_pem(&self, protection: &Protection) -> Result<Zeroizing<String>, KeyError> {
        Ok(Zeroizing::new(match (&self.0, protection) {
            (Kept::Here(key), Protection::None) => key.serialize_pem(),
            (Kept::Here(key), Protection::Envelope(envelope)) => {
                envelope.seal(key.serialized_der())?
            }
            #[cfg(feature = "pkcs11")]
            (Kept::InToken(key), _) => format!("{}\n", key.uri()),
        }))
    }

    /// PKCS#8 in DER, a secret; nothing of a key that cannot leave its token.
    pub(super) fn pkcs8(&self) -> &[u8] {
        match &self.0 {
            Kept::Here(key) => key.serialized_der(),
            #[cfg(feature = "pkcs11")]
            Kept::InToken(_) => &[],
        }
    }
}

/// The first section of a PEM text, to the end of its last line.
fn section(text: &str) -> &str {
    let end = text.find("-----END").map_or(text.len(), |at| {
        let rest = text.get(at..).unwrap_or_default();
        at + rest.find('\n').map_or(rest.len(), |line| line + 1)
    });
    text.get(..end).unwrap_or(text)
}

/// Whether a public key is of a kind and size that may sign here: P-256, P-384, Ed25519, or RSA
/// of 2048 to 8192 bits.
pub(super) fn is_strong(spki: &[u8]) -> bool {
    let Ok(key) = rcgen::SubjectPublicKeyInfo::from_der(spki) else { return false };
    let algorithm = PublicKeyData::algorithm(&key);
    if algorithm == &rcgen::PKCS_RSA_SHA256 {
        rsa_bits(spki).is_some_and(|bits| RSA_BITS.contains(&bits))
    } else {
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
            .contains(&algorithm)
    }
}

/// The size of an RSA key; its leading zeros do not count.
fn rsa_bits(spki: &[u8]) -> Option<usize> {
    let (_, parsed) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    match parsed.parsed().ok()? {
        PublicKey::RSA(key) => Some(8 * key.modulus.iter().skip_while(|byte| **byte == 0).count()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
