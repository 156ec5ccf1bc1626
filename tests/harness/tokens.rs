//! Tokens, and who makes them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

/// Who makes tokens.
pub struct Maker {
    pair: KeyPair,
    kid: &'static str,
}

impl Maker {
    /// With a new key of this id.
    pub fn new(kid: &'static str) -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ED25519).unwrap(), kid }
    }

    /// Its key set.
    pub fn jwks(&self) -> String {
        let x = BASE64URL.encode(self.pair.public_key_raw());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid});
        json!({ "keys": [key] }).to_string()
    }

    /// A token for somebody, also as client id, that lasts so many seconds.
    pub fn token(&self, name: &str, seconds: u64) -> Vec<u8> {
        self.sign(&claims(name, seconds))
    }

    /// A token of these claims.
    pub fn sign(&self, claims: &Value) -> Vec<u8> {
        let header = Header { kid: Some(self.kid.into()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_der(&self.pair.serialize_der());
        encode(&header, claims, &key).unwrap().into_bytes()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of such a token.
pub fn claims(name: &str, seconds: u64) -> Value {
    json!({
        "iss": "https://id.example", "aud": "mqtt", "sub": name, "cid": name,
        "exp": now() + seconds, "groups": ["ops", "root"], "site": "north",
    })
}
