//! Files of passwords: a name and a hash in each line.
//!
//! A hash is an Argon2id PHC string; those of Mosquitto (`$7$`, `$6$`) and of bcrypt are taken
//! as well, and are to be replaced at the first login. A password itself is never kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::check_name;
use crate::pki::files::{self, FileError};

/// The longest password, in bytes: longer ones would only cost time.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The largest file: of some 140,000 names.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What new hashes cost: 19 MiB and two passes, as OWASP recommends.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const SALT_BYTES: usize = 16;

/// Below that a hash is replaced at the next login: the weakest choice that OWASP recommends.
const MEMORY_KIB_MIN: u32 = 7 * 1024;
const WORK_MIN: u64 = 35_840;
/// No line may cost more than that for every guess.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const ITERATIONS_MAX: u32 = 10_000_000;
const BCRYPT_COST_MAX: u32 = 16;

/// Why a file of credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(FileError),
    /// Others may read it.
    #[error(
        "{0}: has mode {mode:04o}, so that others than its owner can use it; run: chmod 600 {0}",
        path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is not what it should be.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and the remedy. Nothing of the line itself.
        problem: &'static str,
    },
}

impl From<FileError> for CredentialFileError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::OpenToOthers { path, mode, .. } => Self::OpenToOthers { path, mode },
            other => Self::File(other),
        }
    }
}

/// Reads a file that nobody but its owner may read.
pub(super) fn read_private(path: &Path) -> Result<String, CredentialFileError> {
    let bytes = files::read_secret_up_to(path, files::Secret::Passwords, FILE_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_| CredentialFileError::Line {
        path: path.to_owned(),
        line: 1,
        problem: "the file is not UTF-8; save it as UTF-8",
    })
}

/// The lines of a file that say something, with their numbers: name and what follows it.
pub(super) fn entries<'a>(
    path: &'a Path,
    text: &'a str,
) -> impl Iterator<Item = Result<(usize, &'a str, &'a str), CredentialFileError>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')).map(
        move |(number, line)| {
            let wrong = |problem| CredentialFileError::Line {
                path: path.to_owned(),
                line: number,
                problem,
            };
            let (name, rest) =
                line.split_once(':').ok_or_else(|| wrong("has no \":\"; write name:hash"))?;
            let named = check_name("name", name);
            named.map_err(|_| wrong("has no usable name; write 1 to 256 visible bytes"))?;
            Ok((number, name, rest.trim_end()))
        },
    )
}

/// The hash of one password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2id { strong: bool },
    Pbkdf2 { iterations: std::num::NonZeroU32, salt: Vec<u8>, hash: Vec<u8> },
    Sha512 { salt: Vec<u8>, hash: Vec<u8> },
    Bcrypt,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

impl Hash {
    /// Reads what stands behind the name.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let kind = if text.starts_with("$argon2") {
            let parsed = PasswordHash::new(text)
                .map_err(|_| "is no Argon2id hash; run: portcullis password set")?;
            parse_argon2(&parsed)?
        } else if let Some(rest) = text.strip_prefix("$7$") {
            parse_pbkdf2(rest).ok_or("is no $7$ hash of mosquitto_passwd")?
        } else if let Some(rest) = text.strip_prefix("$6$") {
            let (salt, hash) = rest.split_once('$').ok_or("is no $6$ hash of mosquitto_passwd")?;
            let parts = parse_salted(salt, hash).ok_or("is no $6$ hash of mosquitto_passwd")?;
            Kind::Sha512 { salt: parts.0, hash: parts.1 }
        } else if ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start)) {
            let parts: Result<bcrypt::HashParts, _> = text.parse();
            let parts = parts.map_err(|_| "is no bcrypt hash")?;
            if parts.get_cost() > BCRYPT_COST_MAX {
                return Err("is a bcrypt hash that costs too much; run: portcullis password set");
            }
            Kind::Bcrypt
        } else {
            return Err("has no hash that is known ($argon2id$, $7$, $6$, $2b$); run: portcullis \
                        password set");
        };
        Ok(Self { text: text.into(), kind })
    }

    /// True when it is the hash of this password. Takes as long as it is meant to.
    #[must_use]
    pub fn is_of(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2id { .. } => {
                Argon2::default().verify_password(password, &*self.text).is_ok()
            }
            Kind::Pbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash)
                    .is_ok()
            }
            Kind::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                let computed = context.finish();
                constant_time::verify_slices_are_equal(computed.as_ref(), hash).is_ok()
            }
            Kind::Bcrypt => bcrypt::verify(password, &self.text).is_ok_and(|same| same),
        }
    }

    /// True when it is to be replaced as soon as the password is known.
    #[must_use]
    pub const fn is_outdated(&self) -> bool {
        !matches!(self.kind, Kind::Argon2id { strong: true })
    }

    /// What it is, in a word.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self.kind {
            Kind::Argon2id { strong: true } => "argon2id",
            Kind::Argon2id { strong: false } => "argon2id, weak",
            Kind::Pbkdf2 { .. } => "pbkdf2-sha512",
            Kind::Sha512 { .. } => "sha512",
            Kind::Bcrypt => "bcrypt",
        }
    }
}

fn parse_argon2(parsed: &PasswordHash) -> Result<Kind, &'static str> {
    if parsed.algorithm.as_str() != "argon2id" || parsed.hash.is_none() {
        return Err("is no Argon2id hash; run: portcullis password set");
    }
    let params = Params::try_from(parsed).map_err(|_| "has no usable parameters of Argon2id")?;
    let (memory_kib, passes) = (params.m_cost(), params.t_cost());
    if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX {
        return Err("costs too much: more than 256 MiB, or more than 16 passes");
    }
    let work = u64::from(memory_kib) * u64::from(passes);
    Ok(Kind::Argon2id { strong: memory_kib >= MEMORY_KIB_MIN && work >= WORK_MIN })
}

fn parse_pbkdf2(rest: &str) -> Option<Kind> {
    let mut parts = rest.split('$');
    let iterations = parts.next()?.parse().ok()?;
    let (salt, hash) = parse_salted(parts.next()?, parts.next()?)?;
    let in_bounds = std::num::NonZeroU32::get(iterations) <= ITERATIONS_MAX;
    (parts.next().is_none() && in_bounds).then_some(Kind::Pbkdf2 { iterations, salt, hash })
}

fn parse_salted(salt: &str, hash: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (salt, hash) = (BASE64.decode(salt).ok()?, BASE64.decode(hash).ok()?);
    (!salt.is_empty() && hash.len() == digest::SHA512_OUTPUT_LEN).then_some((salt, hash))
}

/// Why no hash can be made.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system has no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
    /// The library refuses.
    #[error("the password cannot be hashed: {0}")]
    Library(argon2::password_hash::Error),
}

/// A new hash of a password, as a PHC string.
///
/// # Errors
/// When there is no randomness or memory for it.
pub fn hash(password: &[u8]) -> Result<String, HashError> {
    let mut salt = [0_u8; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| HashError::NoRandomness)?;
    let params = Params::new(MEMORY_KIB, PASSES, 1, None)
        .map_err(|error| HashError::Library(error.into()))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password_with_salt(password, &salt).map_err(HashError::Library)?;
    Ok(hash.to_string())
}

/// The passwords of a file.
#[derive(Debug)]
pub struct Passwords {
    by_name: BTreeMap<Arc<str>, Hash>,
    /// What a name that is not there is compared with.
    decoys: Vec<Hash>,
    seed: hmac::Key,
}

impl Passwords {
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
        for entry in entries(path, text) {
            let (line, name, rest) = entry?;
            let wrong =
                |problem| CredentialFileError::Line { path: path.to_owned(), line, problem };
            let hash = Hash::parse(rest).map_err(wrong)?;
            if by_name.insert(Arc::from(name), hash).is_some() {
                return Err(wrong("names somebody for the second time; remove one of the lines"));
            }
        }
        let decoys = if by_name.is_empty() {
            Hash::parse(DECOY).into_iter().collect()
        } else {
            by_name.values().cloned().collect()
        };
        let mut seed = [0_u8; 32];
        // Without randomness the choice of a decoy could be foreseen; it decides nothing.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Ok(Self { by_name, decoys, seed: hmac::Key::new(hmac::HMAC_SHA256, &seed) })
    }

    /// The hash to compare with, and whether it is the one of this name. For a name that is not
    /// there it is another one, always the same: so that an answer costs what one of a name that
    /// is there does, whatever the hashes of the file cost.
    #[must_use]
    pub fn hash_of(&self, name: &str) -> (Option<&Hash>, Known) {
        if let Some(hash) = self.by_name.get(name) {
            return (Some(hash), Known::Yes);
        }
        let tag = hmac::sign(&self.seed, name.as_bytes());
        let number = tag.as_ref().iter().take(7).fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (self.decoys.get(number % self.decoys.len().max(1)), Known::No)
    }

    /// True when there is a hash of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Each name with its hash.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Hash)> {
        self.by_name.iter()
    }
}

/// Whether a name is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// A hash of random bytes nobody has kept, with the cost of a new one.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$ZGVjb3lkZWNveWRlY295ZA\
                     $5PpIbhbKRuFKnYjDLzoTJHpcjX7CPKVTrfKiqvUPdcM";

/// A file of credentials that is changed line by line, by one at a time.
#[derive(Debug)]
pub struct Editing {
    path: PathBuf,
    text: String,
    exists: bool,
    /// The folder, locked: the file itself is replaced.
    _lock: File,
}

impl Editing {
    /// Takes the file, and waits until nobody else changes it.
    ///
    /// # Errors
    /// When it is there and cannot be read, or its folder cannot be locked.
    pub fn begin(path: &Path) -> Result<Self, CredentialFileError> {
        let io = |source| {
            let path = path.to_owned();
            CredentialFileError::File(FileError::Io { path, action: "lock its folder", source })
        };
        // A link stays, and where it leads is what is changed.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let lock = File::open(folder.unwrap_or(Path::new("."))).map_err(io)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| io(error.into()))?;
        let exists = path.exists();
        let text = if exists { read_private(&path)? } else { String::new() };
        Ok(Self { path, text, exists, _lock: lock })
    }

    /// What stands behind a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    /// The text as it is now.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts a line behind all others.
    pub fn push(&mut self, line: &str) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Puts something else behind a name, or removes its line. Other lines stay as they are.
    pub fn put(&mut self, name: &str, rest: Option<&str>) {
        let is_its = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        let line = rest.map(|rest| format!("{name}:{rest}"));
        let mut lines: Vec<&str> = self.text.lines().collect();
        match (lines.iter().position(|line| is_its(line)), &line) {
            (Some(at), Some(line)) => {
                if let Some(old) = lines.get_mut(at) {
                    *old = line;
                }
            }
            (None, Some(line)) => lines.push(line),
            (_, None) => lines.retain(|line| !is_its(line)),
        }
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        self.text = text;
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// What the operating system says; the file is then as it was.
    pub fn write(self) -> Result<(), CredentialFileError> {
        if self.exists {
            files::replace(&self.path, self.text.as_bytes())?;
        } else {
            files::write_new(&self.path, self.text.as_bytes(), files::Access::Owner)?;
        }
        Ok(())
    }
}

/// Puts a new hash in the place of an old one, unless somebody has changed it meanwhile.
///
/// # Errors
/// When the file cannot be changed.
pub fn upgrade(path: &Path, name: &str, old: &Hash, new: &str) -> Result<(), CredentialFileError> {
    let mut editing = Editing::begin(path)?;
    if editing.find(name).map(str::trim_end) != Some(&*old.text) {
        return Ok(());
    }
    editing.put(name, Some(new));
    editing.write()
}

#[cfg(test)]
mod tests;
