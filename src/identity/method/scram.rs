//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: a password is proven and not shown.
//!
//! The records hold neither the password nor what would do in its place. A name that is not
//! there is given a salt all the same, always the same one, and is refused at the end only.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::password::{CredentialFileError, entries, read_private};

/// The name of the method in CONNECT and AUTH.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Rounds of new records: a client computes them at each login, and so does who guesses.
pub const ROUNDS: NonZeroU32 = NonZeroU32::new(120_000).unwrap();
const ROUNDS_MIN: u32 = 100_000;
const ROUNDS_MAX: u32 = 10_000_000;
const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 64;
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
/// The longest message of a client.
const MESSAGE_BYTES_MAX: usize = 1024;
const NONCE_BYTES_MAX: usize = 256;
/// The name of the line that the salts of names that are not there are made of. No name of a
/// record can begin like this.
const SECRET: &str = "!secret";

/// What proves a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    rounds: NonZeroU32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// Why no record can be made of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It holds what no password of SCRAM may (RFC 4013).
    #[error("the password holds a character that SCRAM allows in none (RFC 4013)")]
    Prohibited,
    /// The system has no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

fn mac(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

impl Record {
    /// The record of a password, with a new salt.
    ///
    /// # Errors
    /// When the password cannot be prepared, or there is no randomness.
    pub fn new(password: &str) -> Result<Self, RecordError> {
        let mut salt = [0_u8; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| RecordError::NoRandomness)?;
        Self::with(password, &salt, ROUNDS)
    }

    fn with(password: &str, salt: &[u8], rounds: NonZeroU32) -> Result<Self, RecordError> {
        let prepared = stringprep::saslprep(password).map_err(|_| RecordError::Prohibited)?;
        let mut salted = [0_u8; KEY_BYTES];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, rounds, salt, prepared.as_bytes(), &mut salted);
        let client_key = mac(&salted, b"Client Key");
        Ok(Self {
            rounds,
            salt: salt.to_vec(),
            stored_key: digest::digest(&digest::SHA256, client_key.as_ref()).as_ref().to_vec(),
            server_key: mac(&salted, b"Server Key").as_ref().to_vec(),
        })
    }

    /// Reads `SCRAM-SHA-256$rounds:salt$StoredKey:ServerKey`, as `PostgreSQL` writes it.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is no record of SCRAM-SHA-256; run: portcullis password set --scram";
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(FORM)?;
        let (salted, keys) = rest.split_once('$').ok_or(FORM)?;
        let (rounds, salt) = salted.split_once(':').ok_or(FORM)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(FORM)?;
        let rounds: NonZeroU32 = rounds.parse().map_err(|_| FORM)?;
        if !(ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds.get()) {
            return Err("has less than 100,000 rounds, or more than 10,000,000; run: portcullis \
                        password set --scram");
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|_| FORM);
        let record = Self {
            rounds,
            salt: decode(salt)?,
            stored_key: decode(stored_key)?,
            server_key: decode(server_key)?,
        };
        let lengths = (record.stored_key.len(), record.server_key.len());
        let salted = (1..=SALT_BYTES_MAX).contains(&record.salt.len());
        if lengths == (KEY_BYTES, KEY_BYTES) && salted { Ok(record) } else { Err(FORM) }
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [salt, stored, server] =
            [&self.salt, &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.rounds)
    }
}

/// The line that a new file of records begins with.
///
/// # Errors
/// When there is no randomness.
pub fn new_secret_line() -> Result<String, RecordError> {
    let mut secret = [0_u8; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| RecordError::NoRandomness)?;
    Ok(format!("{SECRET}:{}", BASE64.encode(secret)))
}

/// The records of a file.
#[derive(Debug)]
pub struct Records {
    by_name: BTreeMap<Arc<str>, Record>,
    /// Of it the salts of names that are not there are made.
    secret: hmac::Key,
}

impl Records {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, CredentialFileError> {
        Self::parse(path, &read_private(path)?)
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// When a line is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CredentialFileError> {
        let mut by_name = BTreeMap::new();
        let mut secret = None;
        for entry in entries(path, text) {
            let (line, name, rest) = entry?;
            let wrong =
                |problem| CredentialFileError::Line { path: path.to_owned(), line, problem };
            let twice = "names somebody for the second time; remove one of the lines";
            if name == SECRET {
                let bytes = BASE64.decode(rest).ok().filter(|bytes| bytes.len() == KEY_BYTES);
                let bytes = bytes.ok_or_else(|| wrong("is no secret of 32 bytes"))?;
                if secret.replace(hmac::Key::new(hmac::HMAC_SHA256, &bytes)).is_some() {
                    return Err(wrong(twice));
                }
                continue;
            }
            let record = Record::parse(rest).map_err(wrong)?;
            if by_name.insert(Arc::from(name), record).is_some() {
                return Err(wrong(twice));
            }
        }
        let problem = "the file has no line !secret:, which portcullis password set --scram writes";
        let missing = || CredentialFileError::Line { path: path.to_owned(), line: 1, problem };
        Ok(Self { by_name, secret: secret.ok_or_else(missing)? })
    }

    /// True when there is a record of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Each name with its record.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// A record that no password fits, always the same for a name.
    fn decoy(&self, name: &str) -> Record {
        let tag = |what: &str| hmac::sign(&self.secret, format!("{what}:{name}").as_bytes());
        let salt = tag("salt").as_ref().iter().take(SALT_BYTES).copied().collect();
        let rounds = self.by_name.values().next().map_or(ROUNDS, |record| record.rounds);
        let [stored_key, server_key] = ["stored", "server"].map(|what| tag(what).as_ref().to_vec());
        Record { rounds, salt, stored_key, server_key }
    }
}

/// Why a client has proven nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message is not as RFC 5802 says.
    #[error("the client's {0} message is not as RFC 5802 says")]
    Malformed(&'static str),
    /// It asks to act as somebody else.
    #[error("the client asks to act as somebody else")]
    OtherIdentity,
    /// It asks to be bound to the channel.
    #[error("the client asks for channel binding, which is not offered")]
    ChannelBinding,
    /// The nonce or the binding is not the one of this exchange.
    #[error("the client's answer is for another exchange")]
    OtherExchange,
    /// The name is not there.
    #[error("there is no such name")]
    UnknownName,
    /// The password is wrong.
    #[error("the password is wrong")]
    WrongPassword,
    /// The system has no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

/// An exchange between the server's first message and the client's last. Tells no secret.
pub struct Exchange {
    name: Arc<str>,
    record: Record,
    known: bool,
    /// The header of the first message, as base64.
    binding: String,
    nonce: String,
    /// Both first messages, for the proof.
    messages: String,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The parts of a client's first message.
struct First<'a> {
    header: &'a str,
    bare: &'a str,
    name: String,
    nonce: &'a str,
}

impl<'a> First<'a> {
    /// `n,,n=user,r=nonce`; extensions behind the nonce are passed over, as RFC 5802 says.
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        const WRONG: ScramError = ScramError::Malformed("first");
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(WRONG);
        }
        let message = std::str::from_utf8(message).map_err(|_| WRONG)?;
        let (flag, rest) = message.split_once(',').ok_or(WRONG)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(WRONG),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(WRONG)?;
        let header = message.strip_suffix(bare).ok_or(WRONG)?;
        let mut parts = bare.split(',');
        let name = parts.next().and_then(|part| part.strip_prefix("n=")).ok_or(WRONG)?;
        let name = unescape(name).ok_or(WRONG)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(WRONG)?;
        if !is_nonce(nonce) || !parts.all(is_attribute) {
            return Err(WRONG);
        }
        match authzid.strip_prefix("a=") {
            None if authzid.is_empty() => {}
            Some(other) if unescape(other).as_deref() == Some(&name) => {}
            Some(_) => return Err(ScramError::OtherIdentity),
            None => return Err(WRONG),
        }
        Ok(Self { header, bare, name, nonce })
    }

    /// The name that this message is about, to count failures by.
    fn name_of(message: &'a [u8]) -> Option<String> {
        Self::parse(message).ok().map(|first| first.name)
    }
}

/// The name that a client's first message is about.
#[must_use]
pub fn name_of(message: &[u8]) -> Option<String> {
    First::name_of(message)
}

/// `=2C` stands for a comma and `=3D` for an equals sign; nothing else may follow one.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return None,
        };
        name.push(character);
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

/// Printable ASCII without a comma.
fn is_nonce(text: &str) -> bool {
    let printable = |byte: u8| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e);
    (1..=NONCE_BYTES_MAX).contains(&text.len()) && text.bytes().all(printable)
}

/// A letter, an equals sign and a value; `m=` would be an extension that has to be understood.
fn is_attribute(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|letter| letter.is_ascii_alphabetic() && letter != b'm')
        && bytes.next() == Some(b'=')
        && bytes.next().is_some()
}

impl Exchange {
    /// Takes the client's first message, and gives the server's.
    ///
    /// # Errors
    /// When the message is not as it should be.
    pub fn begin(records: &Records, message: &[u8]) -> Result<(Self, Vec<u8>), ScramError> {
        let mut random = [0_u8; 24];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| ScramError::NoRandomness)?;
        Self::begin_with(records, message, &BASE64.encode(random))
    }

    fn begin_with(
        records: &Records,
        message: &[u8],
        own_nonce: &str,
    ) -> Result<(Self, Vec<u8>), ScramError> {
        let First { header, bare, name, nonce } = First::parse(message)?;
        let found = records.by_name.get(&*name);
        let record = found.cloned().unwrap_or_else(|| records.decoy(&name));
        let nonce = format!("{nonce}{own_nonce}");
        let challenge = format!("r={nonce},s={},i={}", BASE64.encode(&record.salt), record.rounds);
        let exchange = Self {
            name: name.into(),
            record,
            known: found.is_some(),
            binding: BASE64.encode(header),
            nonce,
            messages: format!("{bare},{challenge}"),
        };
        Ok((exchange, challenge.into_bytes()))
    }

    /// Whom it is about.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes the client's last message: who it is, and the server's own proof.
    ///
    /// # Errors
    /// When the message is not as it should be, or proves nothing.
    pub fn finish(self, message: &[u8]) -> Result<(Arc<str>, Vec<u8>), ScramError> {
        const WRONG: ScramError = ScramError::Malformed("last");
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(WRONG);
        }
        let message = std::str::from_utf8(message).map_err(|_| WRONG)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(WRONG)?;
        let mut parts = without_proof.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(WRONG)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(WRONG)?;
        if !parts.all(is_attribute) {
            return Err(WRONG);
        }
        let proof = BASE64.decode(proof).map_err(|_| WRONG)?;
        if proof.len() != KEY_BYTES {
            return Err(WRONG);
        }
        if binding != self.binding || nonce != self.nonce {
            return Err(ScramError::OtherExchange);
        }
        let all = format!("{},{without_proof}", self.messages);
        let signature = mac(&self.record.stored_key, all.as_bytes());
        let client_key: Vec<u8> =
            proof.iter().zip(signature.as_ref()).map(|(left, right)| left ^ right).collect();
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let same =
            constant_time::verify_slices_are_equal(stored_key.as_ref(), &self.record.stored_key);
        match (self.known, same) {
            (true, Ok(())) => {
                let verifier = mac(&self.record.server_key, all.as_bytes());
                let answer = format!("v={}", BASE64.encode(verifier.as_ref()));
                Ok((self.name, answer.into_bytes()))
            }
            (true, Err(_)) => Err(ScramError::WrongPassword),
            (false, _) => Err(ScramError::UnknownName),
        }
    }
}

#[cfg(test)]
mod tests;
