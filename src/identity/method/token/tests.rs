//! Tokens that are good, and those that are hostile.

use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use serde_json::{Value, json};

use super::*;

struct Signer {
    pair: KeyPair,
    algorithm: Algorithm,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let kind: &'static SignatureAlgorithm = match algorithm {
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_ECDSA_P256_SHA256,
        };
        Self { pair: KeyPair::generate_for(kind).unwrap(), algorithm }
    }

    fn key(&self) -> EncodingKey {
        let der = self.pair.serialize_der();
        match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
            _ => EncodingKey::from_ec_der(&der),
        }
    }

    fn jwk(&self, kid: Option<&str>) -> Value {
        let raw = self.pair.public_key_raw();
        let b64 = |bytes: &[u8]| BASE64URL.encode(bytes);
        let mut jwk = match self.algorithm {
            Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}),
            _ => json!({
                "kty": "EC", "crv": "P-256", "x": b64(&raw[1..33]), "y": b64(&raw[33..65]),
            }),
        };
        if let Some(kid) = kid {
            jwk["kid"] = kid.into();
        }
        jwk
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(Into::into), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key()).unwrap()
    }
}

fn keys(jwks: &[Value]) -> Keys {
    Keys::parse(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

fn settings() -> Settings {
    Settings {
        issuer: "https://id.example".into(),
        audience: vec!["mqtt".into(), "portcullis".into()],
        leeway: Duration::ZERO,
        name_claim: "sub".into(),
        client_id_claim: None,
        groups_claim: "groups".into(),
        conferred: Conferred { groups: ["ops".into()].into(), tags: ["site".into()].into() },
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": "mqtt", "sub": "ann",
        "exp": get_current_timestamp() + 60, "groups": ["ops", "root"], "site": "north",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn a_token_of_a_configured_key_says_who_it_is() {
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256] {
        let signer = Signer::new(algorithm);
        let token = signer.sign(Some("k1"), &claims());
        let keys = keys(&[signer.jwk(Some("k1")), Signer::new(algorithm).jwk(Some("k2"))]);
        assert!(is_token(token.as_bytes()));
        let accepted = verify(token.as_bytes(), &keys, &settings()).unwrap();
        assert_eq!(&*accepted.name, "ann");
        // What it may not confer is passed over.
        assert_eq!(accepted.groups, [Arc::from("ops")]);
        assert_eq!(accepted.tags[&Arc::from("site")], "north".into());
        let left = accepted.ends.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left <= Duration::from_mins(1) && left > Duration::from_secs(50));
    }
}

#[test]
fn hostile_tokens_are_refused() {
    let (signer, other) = (Signer::new(Algorithm::EdDSA), Signer::new(Algorithm::EdDSA));
    let ec = Signer::new(Algorithm::ES256);
    let keys = keys(&[signer.jwk(Some("k1")), ec.jwk(Some("k2"))]);
    let part = |value: Value| BASE64URL.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({"alg": "none", "kid": "k1"})), part(claims()));
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".into());
    let by_public_key =
        encode(&header, &claims(), &EncodingKey::from_secret(signer.pair.public_key_raw()));
    let good = signer.sign(Some("k1"), &claims());
    let (body, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = body.split_once('.').unwrap();
    let swapped = format!("{head}.{}.{signature}", part(with("sub", json!("root"))));
    let critical = format!(
        "{}.{}.{signature}",
        part(json!({"alg": "EdDSA", "kid": "k1", "crit": ["b64"], "b64": false})),
        part(claims())
    );
    let now = get_current_timestamp();
    let signed = |claims: Value| signer.sign(Some("k1"), &claims);
    for (what, token) in [
        ("alg none", unsigned.clone()),
        ("alg none, with a signature", format!("{unsigned}{signature}")),
        ("HS256 with the public key", by_public_key.unwrap()),
        ("another key", other.sign(Some("k1"), &claims())),
        ("the key of another algorithm", signer.sign(Some("k2"), &claims())),
        ("no key named, among several", signer.sign(None, &claims())),
        ("a path for a key", signer.sign(Some("../../../../dev/null"), &claims())),
        ("an injection for a key", signer.sign(Some("k1' OR 1=1 --"), &claims())),
        ("another payload", swapped),
        ("a critical extension", critical),
        ("no signature", format!("{body}.")),
        ("half a signature", format!("{body}.{}", signature.get(..20).unwrap())),
        ("four parts", format!("{good}.x")),
        ("a key id that is a number", format!("{}.x.y", part(json!({"alg": "EdDSA", "kid": 1})))),
        ("huge", signed(with("pad", json!("x".repeat(TOKEN_BYTES_MAX))))),
        ("no exp", signed(without("exp"))),
        ("exp as text", signed(with("exp", json!((now + 60).to_string())))),
        ("exp with a fraction", signed(with("exp", json!(1e300)))),
        ("exp negative", signed(with("exp", json!(-1)))),
        ("exp beyond time", signed(with("exp", json!(u64::MAX)))),
        ("expired", signed(with("exp", json!(now - 5)))),
        ("not yet", signed(with("nbf", json!(now + 60)))),
        ("nbf as text", signed(with("nbf", json!("0")))),
        ("another issuer", signed(with("iss", json!("https://evil.example")))),
        ("a list of issuers", signed(with("iss", json!(["https://id.example", "x"])))),
        ("no issuer", signed(without("iss"))),
        ("for somebody else", signed(with("aud", json!("other")))),
        ("for nobody", signed(without("aud"))),
        ("aud as number", signed(with("aud", json!(1)))),
        ("no name", signed(without("sub"))),
        ("a name that is a number", signed(with("sub", json!(7)))),
        ("a name that is null", signed(with("sub", Value::Null))),
        ("an empty name", signed(with("sub", json!("")))),
        ("a name with a control character", signed(with("sub", json!("a\u{0}")))),
        ("a long name", signed(with("sub", json!("a".repeat(257))))),
        ("groups as text", signed(with("groups", json!("ops")))),
        ("groups as numbers", signed(with("groups", json!([1])))),
        ("a tag as number", signed(with("site", json!(1)))),
        ("a long tag", signed(with("site", json!("a".repeat(257))))),
        ("claims that are a list", signed(json!(["ann"]))),
        ("nothing", String::new()),
        ("dots", "..".into()),
    ] {
        let refused = verify(token.as_bytes(), &keys, &settings());
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    verify(good.as_bytes(), &keys, &settings()).unwrap();
}

#[test]
fn a_token_signed_with_rsa_is_verified_by_its_key_alone() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};

    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let keys = keys(&[json!({
        "kty": "RSA", "kid": "k1", "alg": "RS256",
        "n": BASE64URL.encode(public.modulus().big_endian_without_leading_zero()),
        "e": BASE64URL.encode(public.exponent().big_endian_without_leading_zero()),
    })]);
    for (algorithm, padding, good) in
        [("RS256", &RSA_PKCS1_SHA256, true), ("RS512", &RSA_PKCS1_SHA512, false)]
    {
        let [header, claims] = [json!({"alg": algorithm, "kid": "k1"}), claims()]
            .map(|part| BASE64URL.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = SystemRandom::new();
        pair.sign(padding, &random, message.as_bytes(), &mut signature).unwrap();
        let token = format!("{message}.{}", BASE64URL.encode(signature));
        assert_eq!(verify(token.as_bytes(), &keys, &settings()).is_ok(), good, "{algorithm}");
    }
}

#[test]
fn a_claim_may_bind_the_client_id_and_has_to_be_there_then() {
    let signer = Signer::new(Algorithm::EdDSA);
    let keys = keys(&[signer.jwk(None)]);
    let bound = Settings { client_id_claim: Some("cid".into()), ..settings() };
    let token = signer.sign(None, &with("cid", json!("pump-7")));
    let accepted = verify(token.as_bytes(), &keys, &bound).unwrap();
    assert_eq!(accepted.client_id.as_deref(), Some("pump-7"));
    for claims in [claims(), with("cid", json!(7))] {
        assert!(verify(signer.sign(None, &claims).as_bytes(), &keys, &bound).is_err());
    }
}

#[test]
fn leeway_holds_at_both_ends() {
    let signer = Signer::new(Algorithm::EdDSA);
    let keys = keys(&[signer.jwk(None)]);
    let lenient = Settings { leeway: Duration::from_secs(30), ..settings() };
    let now = get_current_timestamp();
    for (claims, strict, with_leeway) in [
        (with("exp", json!(now - 10)), false, true),
        (with("exp", json!(now - 40)), false, false),
        (with("nbf", json!(now + 10)), false, true),
        (with("nbf", json!(now + 40)), false, false),
    ] {
        let token = signer.sign(None, &claims);
        assert_eq!(verify(token.as_bytes(), &keys, &settings()).is_ok(), strict, "{claims}");
        assert_eq!(verify(token.as_bytes(), &keys, &lenient).is_ok(), with_leeway, "{claims}");
    }
}

#[test]
fn keys_that_are_not_fit_are_passed_over_and_none_is_an_error() {
    let ed = Signer::new(Algorithm::EdDSA);
    let with = |name: &str, value: &str| {
        let mut jwk = ed.jwk(Some("k"));
        jwk[name] = value.into();
        jwk
    };
    for jwk in [
        with("use", "enc"),
        with("alg", "HS256"),
        with("alg", "RS256"),
        with("crv", "X25519"),
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}),
        json!({"kty": "RSA", "n": BASE64URL.encode([0xff; 128]), "e": "AQAB", "kid": "k"}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "unknown"}),
    ] {
        let parsed = Keys::parse(json!({ "keys": [&jwk] }).to_string().as_bytes());
        assert_eq!(parsed.err(), Some(KeysError::NoneUsable), "{jwk}");
    }
    for (name, jwk) in [
        ("Ed25519", with("x", &BASE64URL.encode([1; 31]))),
        (
            "P-256",
            json!({
                "kty": "EC", "crv": "P-256", "kid": "k",
                "x": BASE64URL.encode([1; 32]), "y": BASE64URL.encode([1; 32]),
            }),
        ),
    ] {
        let parsed = Keys::parse(json!({ "keys": [&jwk] }).to_string().as_bytes());
        let impossible = KeysError::Impossible { kid: Some("k".into()), kind: name };
        assert_eq!(parsed.err(), Some(impossible), "{jwk}");
    }
    let twice = json!({ "keys": [ed.jwk(Some("k")), ed.jwk(Some("k"))] }).to_string();
    assert!(matches!(Keys::parse(twice.as_bytes()), Err(KeysError::Twice { .. })));
    for text in ["", "[]", "{}", "{\"keys\": 7}"] {
        assert_eq!(Keys::parse(text.as_bytes()).err(), Some(KeysError::NotAKeySet), "{text}");
    }
    let rsa = json!({"kty": "RSA", "n": BASE64URL.encode([0xff; 256]), "e": "AQAB"});
    Keys::parse(json!({ "keys": [rsa] }).to_string().as_bytes()).unwrap();
}

#[test]
fn a_password_that_is_no_token_is_not_taken_for_one() {
    for text in ["", "secret", "a.b.c", "eyJhbGciOiJub25lIn0", "e30.e30.x", "\u{e9}.b.c"] {
        assert!(!is_token(text.as_bytes()), "{text}");
    }
    // Wrong tokens are tokens: no other method is asked.
    for text in ["eyJhbGciOiJub25lIn0..", "eyJhbGciOiJub25lIn0.x.y"] {
        assert!(is_token(text.as_bytes()), "{text}");
    }
}
