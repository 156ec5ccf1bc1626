//! Private keys that stay in a token (PKCS#11), and sign there.
//!
//! A token's key is named by a URI (RFC 7512) that stands where a key would stand in a file:
//! `pkcs11:token=NAME;object=NAME?module-path=/usr/lib/softhsm/libsofthsm2.so`. The passphrase of
//! such a file is the token's PIN.

use std::path::Path;

use aws_lc_rs::digest;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use parking_lot::Mutex;
use pkcs8::ObjectIdentifier;
use pkcs8::der::asn1::{OctetStringRef, UintRef};
use pkcs8::der::{Decode as _, Encode as _};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use super::key::{KeyType, Passphrase};

const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not named the way tokens are.
    #[error("not a key in a token: write pkcs11:token=NAME;object=NAME?module-path=FILE")]
    NotAUri,
    /// No token of this name is there.
    #[error("no token is called {token:?}")]
    NoToken {
        /// Its name.
        token: String,
    },
    /// There is no key of this name in it, or more than one.
    #[error("{keys} keys of the token are called {object:?}; there has to be one")]
    NotOneKey {
        /// How many.
        keys: usize,
        /// The name.
        object: String,
    },
    /// The key cannot sign here.
    #[error("the token's key is not one on P-256 or P-384")]
    UnfitKey,
    /// The token refuses.
    #[error("the token refuses: {0}")]
    Refused(#[from] Error),
}

/// Where a key is.
struct Place {
    token: String,
    object: String,
    module: String,
}

impl Place {
    fn parse(uri: &str) -> Result<Self, TokenError> {
        let rest = uri.trim().strip_prefix("pkcs11:").ok_or(TokenError::NotAUri)?;
        let (path, query) = rest.split_once('?').ok_or(TokenError::NotAUri)?;
        let value = |part: &str, separator: char, name: &str| {
            let mut pairs = part.split(separator).filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name).ok_or(TokenError::NotAUri)?;
            percent_decoded(value).filter(|value| !value.is_empty()).ok_or(TokenError::NotAUri)
        };
        Ok(Self {
            token: value(path, ';', "token")?,
            object: value(path, ';', "object")?,
            module: value(query, '&', "module-path")?,
        })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.extend(hex::decode(code).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A key in a token, with a session in which it signs.
pub(super) struct TokenKey {
    uri: String,
    session: Mutex<Session>,
    key: ObjectHandle,
    algorithm: &'static SignatureAlgorithm,
    /// The public key's point, uncompressed.
    point: Vec<u8>,
}

impl TokenKey {
    /// The key that a URI names; made on `make`, if the token has none of that name.
    ///
    /// # Errors
    /// When the URI names none, the PIN is wrong, or the token refuses.
    pub(super) fn open(
        uri: &str,
        pin: &Passphrase,
        make: Option<KeyType>,
    ) -> Result<Self, TokenError> {
        let place = Place::parse(uri)?;
        let module = Pkcs11::new(Path::new(&place.module))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // The second time in one program.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut found = None;
        for slot in module.get_slots_with_token()? {
            if module.get_token_info(slot)?.label().trim_end() == place.token {
                found = Some(slot);
            }
        }
        let slot = found.ok_or_else(|| TokenError::NoToken { token: place.token.clone() })?;
        let session = if make.is_some() {
            module.open_rw_session(slot)?
        } else {
            module.open_ro_session(slot)?
        };
        match session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into()))) {
            // Of another session of this program.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let named = |class| {
            session.find_objects(&[
                Attribute::Class(class),
                Attribute::Label(place.object.clone().into_bytes()),
            ])
        };
        if let Some(key_type) = make
            && named(ObjectClass::PRIVATE_KEY)?.is_empty()
        {
            generate(&session, &place.object, key_type)?;
        }
        let one = |keys: Vec<ObjectHandle>| match *keys {
            [key] => Ok(key),
            _ => Err(TokenError::NotOneKey { keys: keys.len(), object: place.object.clone() }),
        };
        let key = one(named(ObjectClass::PRIVATE_KEY)?)?;
        let public = one(named(ObjectClass::PUBLIC_KEY)?)?;
        let (mut curve, mut point) = (None, Vec::new());
        for attribute in
            session.get_attributes(public, &[AttributeType::EcParams, AttributeType::EcPoint])?
        {
            match attribute {
                Attribute::EcParams(der) => curve = ObjectIdentifier::from_der(&der).ok(),
                Attribute::EcPoint(der) => {
                    let octets = <&OctetStringRef>::from_der(&der);
                    point = octets.map_err(|_| TokenError::UnfitKey)?.as_bytes().to_vec();
                }
                _ => {}
            }
        }
        let algorithm: &'static SignatureAlgorithm = match curve {
            Some(P256) => &rcgen::PKCS_ECDSA_P256_SHA256,
            Some(P384) => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ => return Err(TokenError::UnfitKey),
        };
        let uri = uri.trim().to_owned();
        Ok(Self { uri, session: Mutex::new(session), key, algorithm, point })
    }

    /// The URI that names it.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }
}

/// Makes a key that never leaves the token.
fn generate(session: &Session, label: &str, key_type: KeyType) -> Result<(), TokenError> {
    let curve = match key_type {
        KeyType::P256 => P256,
        KeyType::P384 => P384,
        KeyType::Ed25519 => return Err(TokenError::UnfitKey),
    };
    let curve = curve.to_der().map_err(|_| TokenError::UnfitKey)?;
    let label = Attribute::Label(label.as_bytes().to_vec());
    session.generate_key_pair(
        &Mechanism::EccKeyPairGen,
        &[
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(curve),
            label.clone(),
        ],
        &[
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label,
        ],
    )?;
    Ok(())
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let refused = || rcgen::Error::RemoteKeyError;
        let hash = if self.algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            &digest::SHA384
        } else {
            &digest::SHA256
        };
        let hash = digest::digest(hash, message);
        let session = self.session.lock();
        let pair =
            session.sign(&Mechanism::Ecdsa, self.key, hash.as_ref()).map_err(|_| refused())?;
        drop(session);
        // A token gives the two numbers side by side (PKCS#11), a certificate has a sequence of them.
        let (r, s) = pair.split_at(pair.len() / 2);
        let numbers = [UintRef::new(r), UintRef::new(s)];
        let [Ok(r), Ok(s)] = numbers else { return Err(refused()) };
        vec![r, s].to_der().map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_token_is_named_by_its_uri() {
        let place =
            Place::parse("pkcs11:token=My%20HSM;object=ca?module-path=/usr/lib/a.so\n").unwrap();
        assert_eq!(
            (&*place.token, &*place.object, &*place.module),
            ("My HSM", "ca", "/usr/lib/a.so")
        );
        for uri in [
            "",
            "pkcs11:",
            "pkcs11:token=a?module-path=b",
            "pkcs11:token=a;object=b",
            "pkcs11:token=a;object=?module-path=b",
            "pkcs11:token=%zz;object=a?module-path=b",
            "pkcs11:token=%f;object=a?module-path=b",
        ] {
            assert!(matches!(Place::parse(uri), Err(TokenError::NotAUri)), "{uri}");
        }
    }
}
