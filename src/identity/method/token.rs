//! JSON Web Tokens: who they are about, if one of the configured keys has signed them.
//!
//! The algorithm is the key's, never the token's: a key verifies with the one algorithm of its
//! kind. No key, address or certificate that a token carries is looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

use super::{Accepted, ClaimError, Claims, Conferred, check_name, text};

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The largest set of keys, in bytes.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 64;
const KEY_ID_BYTES_MAX: usize = 256;
const RSA_MODULUS_BYTES_MIN: usize = 256;
const RSA_MODULUS_BYTES_MAX: usize = 1024;
/// What a point begins with of which both numbers are there (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// What tokens have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who has to have made them: `iss`.
    pub issuer: String,
    /// Whom they have to be for: one of these in `aud`.
    pub audience: Vec<String>,
    /// How much clocks may differ.
    pub leeway: Duration,
    /// The claim that is the name of the principal.
    pub name_claim: String,
    /// The claim that the client id has to equal.
    pub client_id_claim: Option<String>,
    /// The claim with the groups.
    pub groups_claim: String,
    /// What they may confer.
    pub conferred: Conferred,
}

/// Why a set of keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is larger than any.
    #[error("is larger than {KEYS_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JSON Web Key Set.
    #[error("is no JSON Web Key Set: {{\"keys\": [...]}}")]
    NotAKeySet,
    /// It has too many keys.
    #[error("has more than {KEYS_MAX} keys")]
    TooMany,
    /// Two keys have the same id.
    #[error("has two keys with the id {kid:?}")]
    Twice {
        /// The id.
        kid: String,
    },
    /// A key is none.
    #[error("holds a key{} that is no {kind} key: its numbers are wrong", named(kid.as_deref()))]
    Impossible {
        /// Its id.
        kid: Option<String>,
        /// What it says it is.
        kind: &'static str,
    },
    /// None of its keys can be used.
    #[error("has no key for EdDSA (Ed25519), ES256, or RS256 with 2048 bits or more")]
    NoneUsable,
}

fn named(kid: Option<&str>) -> String {
    kid.map_or_else(String::new, |kid| format!(" with the id {kid:?}"))
}

/// Keys that tokens are verified with.
pub struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.kid, key.algorithm))).finish()
    }
}

impl Keys {
    /// Reads a JSON Web Key Set (RFC 7517). Keys of other kinds are passed over.
    ///
    /// # Errors
    /// When it is none, or none of its keys can be used.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        if json.len() > KEYS_BYTES_MAX {
            return Err(KeysError::TooLarge);
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| KeysError::NotAKeySet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let mut keys: Vec<Key> = Vec::new();
        for jwk in &set.keys {
            let Some(key) = usable(jwk)? else { continue };
            if let Some(kid) = &key.kid
                && keys.iter().any(|other| other.kid.as_ref() == Some(kid))
            {
                return Err(KeysError::Twice { kid: kid.clone() });
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeysError::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// The key a token names, or the only one there is.
    fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.0.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

/// A key with its one algorithm, where it has one of ours.
fn usable(jwk: &Jwk) -> Result<Option<Key>, KeysError> {
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Ok(None);
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(key) => {
            let modulus = BASE64URL.decode(&key.n).unwrap_or_default();
            let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
            if !(RSA_MODULUS_BYTES_MIN..=RSA_MODULUS_BYTES_MAX).contains(&significant) {
                return Ok(None);
            }
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        _ => return Ok(None),
    };
    if common.key_algorithm.is_some_and(|stated| stated != named) {
        return Ok(None);
    }
    let (kind, is_possible) = check(&jwk.algorithm);
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| is_possible);
    let kid = common.key_id.clone();
    let impossible = KeysError::Impossible { kid: kid.clone(), kind };
    let decoding = decoding.ok_or(impossible)?;
    Ok(Some(Key { kid, algorithm, decoding }))
}

/// What a key says it is, and whether its numbers can be such a key: else nobody would ever be let in
/// by it, and that would show at the first login alone.
fn check(key: &AlgorithmParameters) -> (&'static str, bool) {
    let is_key = |algorithm: &'static dyn VerificationAlgorithm, bytes: Option<Vec<u8>>| {
        bytes.is_some_and(|bytes| ParsedPublicKey::new(algorithm, bytes).is_ok())
    };
    let number = |text: &str| BASE64URL.decode(text).ok();
    match key {
        AlgorithmParameters::OctetKeyPair(key) => {
            ("Ed25519", is_key(&signature::ED25519, number(&key.x)))
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let point = number(&key.x).zip(number(&key.y));
            let point = point.map(|(x, y)| [&[UNCOMPRESSED][..], &x, &y].concat());
            ("P-256", is_key(&signature::ECDSA_P256_SHA256_FIXED, point))
        }
        AlgorithmParameters::RSA(key) => {
            ("RSA", number(&key.n).is_some() && number(&key.e).is_some())
        }
        _ => ("public", false),
    }
}

/// What is wrong with a token, in words.
fn why(error: &jsonwebtoken::errors::Error) -> String {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "it is signed with another algorithm than that of the key".to_owned()
        }
        ErrorKind::InvalidSignature => "the key has not signed it".to_owned(),
        ErrorKind::ExpiredSignature => "it has expired".to_owned(),
        ErrorKind::ImmatureSignature => "it is not valid yet".to_owned(),
        ErrorKind::InvalidIssuer => "another issuer".to_owned(),
        ErrorKind::InvalidAudience => "it is for another audience".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no claim {claim:?}"),
        _ => error.to_string(),
    }
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is larger than any.
    #[error("the token has {bytes} bytes, the most allowed is {TOKEN_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is no token.
    #[error("it is no signed token")]
    NotAToken,
    /// It asks for what this does not understand.
    #[error("the token has critical extensions, none of which is known")]
    Critical,
    /// No key has the id that it names.
    #[error("no key has the id {kid:?} that the token names")]
    UnknownKey {
        /// The id; none: it names no key, and there are several.
        kid: Option<String>,
    },
    /// The signature, or a registered claim, is wrong.
    #[error("the token is refused: {0}")]
    Refused(String),
    /// A claim is wrong.
    #[error("in the token, {0}")]
    Claim(#[from] ClaimError),
}

/// True when this is meant to be a token, right or wrong: three parts, of which the first is a
/// JSON object that names an algorithm.
#[must_use]
pub fn is_token(data: &[u8]) -> bool {
    header(data).is_some_and(|header| header.contains_key("alg"))
}

fn header(data: &[u8]) -> Option<Claims> {
    let mut parts = data.splitn(4, |byte| *byte == b'.');
    let (first, _, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || first.len() > TOKEN_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&BASE64URL.decode(first).ok()?).ok()
}

/// Verifies a token.
///
/// # Errors
/// Whatever is wrong with it.
pub fn verify(data: &[u8], keys: &Keys, settings: &Settings) -> Result<Accepted, TokenError> {
    if data.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLarge { bytes: data.len() });
    }
    let header = header(data).ok_or(TokenError::NotAToken)?;
    if header.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(kid) => {
            let kid = kid.as_str().filter(|kid| kid.len() <= KEY_ID_BYTES_MAX);
            Some(kid.ok_or(TokenError::NotAToken)?)
        }
    };
    let unknown = || TokenError::UnknownKey { kid: kid.map(str::to_owned) };
    let key = keys.find(kid).ok_or_else(unknown)?;
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = settings.leeway.as_secs();
    validation.validate_nbf = true;
    validation.set_issuer(&[&settings.issuer]);
    validation.set_audience(&settings.audience);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let decoded = decode::<Claims>(data, &key.decoding, &validation);
    let claims = decoded.map_err(|error| TokenError::Refused(why(&error)))?.claims;
    // The library takes a list of issuers as well, of which one is enough.
    if text(&claims, "iss")? != settings.issuer {
        return Err(TokenError::Refused("another issuer".to_owned()));
    }
    accepted(&claims, settings)
}

fn accepted(claims: &Claims, settings: &Settings) -> Result<Accepted, TokenError> {
    let exp = claims.get("exp").and_then(serde_json::Value::as_u64);
    let not_a_time = || ClaimError::Type { claim: "exp".to_owned(), expected: "a time" };
    let ends = exp
        .and_then(|exp| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp)))
        .and_then(|ends| ends.checked_add(settings.leeway))
        .ok_or_else(not_a_time)?;
    // The library takes a token in its last second; it would end at once.
    if ends <= SystemTime::now() {
        return Err(TokenError::Refused("it has expired".to_owned()));
    }
    let name = check_name(&settings.name_claim, text(claims, &settings.name_claim)?)?;
    let client_id = settings.client_id_claim.as_ref();
    let client_id = client_id.map(|claim| text(claims, claim).map(Arc::from)).transpose()?;
    Ok(Accepted {
        name,
        groups: settings.conferred.groups_of(claims, &settings.groups_claim)?,
        tags: settings.conferred.tags_of(claims)?,
        ends: Some(ends),
        client_id,
    })
}

#[cfg(test)]
mod tests;
