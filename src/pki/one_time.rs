//! One-time tokens: what somebody who has no certificate yet shows to get one over the network.
//!
//! A token is 256 random bits, is shown once, and is kept as its SHA-256: whoever reads the file
//! has none. It is for one name and one profile, and ends. All changes are made under the lock of
//! the inventory, so that several processes may use one file.
//!
//! INVARIANT: that a token is spent is on the disk before a certificate is made for it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::ca::Ca;
use super::files::{self, Access, FileError, Secret};
use super::inventory::Inventory;
use super::place::TOKENS;
use super::{PkiError, ProfileName, sha256_hex};

/// Tokens of one authority: one for every device of a large delivery.
pub const TOKENS_MAX: usize = 20_000;
const TOKEN_BYTES: usize = 32;
/// Bytes of what is taken for a token at all; one has 43.
const SHOWN_BYTES_MAX: usize = 128;
/// Of the hash, what a token is called.
const ID_DIGITS: usize = 12;
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const FORMAT_VERSION: u8 = 1;

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What it is called: the beginning of its hash.
    pub id: String,
    /// The only name that it gives a certificate to.
    pub name: String,
    /// The profile of that.
    pub profile: ProfileName,
    /// Lower-case hex of its SHA-256.
    hash: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub made: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
    /// When it was spent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub spent: Option<OffsetDateTime>,
}

/// Why a token gives nothing. Whoever shows it learns none of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none such, or it was deleted.
    #[error("there is no such token")]
    Unknown,
    /// It is for somebody else.
    #[error("the token is for another name")]
    OtherName,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It has given a certificate, or was about to.
    #[error("the token is spent")]
    Spent,
}

/// The tokens of one authority.
pub struct Tokens {
    folder: PathBuf,
    inventory: Inventory,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    v: u8,
    tokens: Vec<Token>,
}

impl Tokens {
    /// The tokens of the authority in `folder`. No key is needed.
    ///
    /// # Errors
    /// When there is no authority.
    pub fn of(folder: &Path) -> Result<Self, PkiError> {
        files::read(&Ca::certificate_path(folder))?;
        Ok(Self { folder: folder.to_owned(), inventory: Inventory::in_folder(folder) })
    }

    /// The file that they are in.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("tokens.json")
    }

    /// Makes a token, and forgets those that have ended. The text of it is nowhere else.
    ///
    /// # Errors
    /// When there are too many, or the file cannot be used.
    pub fn create(
        &self,
        name: &str,
        profile: ProfileName,
        valid_for: time::Duration,
        now: OffsetDateTime,
    ) -> Result<(Token, Zeroizing<String>), PkiError> {
        let mut secret = Zeroizing::new([0_u8; TOKEN_BYTES]);
        aws_lc_rs::rand::fill(&mut *secret).map_err(|_| PkiError::NoRandomness)?;
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
        let hash = sha256_hex(text.as_bytes());
        let token = Token {
            id: hash.get(..ID_DIGITS).unwrap_or(&hash).to_owned(),
            name: name.to_owned(),
            profile,
            hash,
            made: now,
            ends: now.checked_add(valid_for).ok_or(PkiError::ValidityTooLong)?,
            spent: None,
        };
        self.change(|tokens| {
            tokens.retain(|token| token.ends > now);
            if tokens.len() >= TOKENS_MAX {
                return Err(PkiError::TooManyTokens { tokens_max: TOKENS_MAX });
            }
            tokens.push(token.clone());
            Ok(())
        })?;
        Ok((token, text))
    }

    /// All of them, in the order in which they were made.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self) -> Result<Vec<Token>, PkiError> {
        self.inventory.hold(|_| self.read())
    }

    /// Forgets the tokens that `which` holds of.
    ///
    /// # Errors
    /// When there is none, or the file cannot be used.
    pub fn delete(&self, which: impl Fn(&Token) -> bool) -> Result<Vec<Token>, PkiError> {
        self.change(|tokens| {
            let (gone, kept) = std::mem::take(tokens).into_iter().partition(|token| which(token));
            *tokens = kept;
            Ok(gone)
        })
    }

    /// Looks whether a token would be taken, and takes nothing: what is asked for with it may have
    /// to be refused first.
    ///
    /// # Errors
    /// When the file cannot be read; inside, [`TokenRefusal`].
    pub fn look(
        &self,
        name: &str,
        shown: &str,
        now: OffsetDateTime,
    ) -> Result<Result<Token, TokenRefusal>, PkiError> {
        self.inventory.hold(|_| Ok(find(&mut self.read()?, name, shown, now).cloned()))
    }

    /// Spends a token. When this returns it, that is on the disk, and nobody gets it again: whoever
    /// has it makes one certificate.
    ///
    /// # Errors
    /// When the file cannot be used; inside, [`TokenRefusal`].
    pub fn spend(
        &self,
        name: &str,
        shown: &str,
        now: OffsetDateTime,
    ) -> Result<Result<Token, TokenRefusal>, PkiError> {
        self.inventory.hold(|_| {
            let mut tokens = self.read()?;
            let token = match find(&mut tokens, name, shown, now) {
                Ok(token) => token,
                Err(refusal) => return Ok(Err(refusal)),
            };
            token.spent = Some(now);
            let token = token.clone();
            self.write(tokens)?;
            Ok(Ok(token))
        })
    }

    fn change<T>(
        &self,
        work: impl FnOnce(&mut Vec<Token>) -> Result<T, PkiError>,
    ) -> Result<T, PkiError> {
        self.inventory.hold(|_| {
            let mut tokens = self.read()?;
            let done = work(&mut tokens)?;
            self.write(tokens)?;
            Ok(done)
        })
    }

    fn read(&self) -> Result<Vec<Token>, PkiError> {
        let path = Self::path(&self.folder);
        let text = match files::read_secret_up_to(&path, Secret::Tokens, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(Kept { v: FORMAT_VERSION, tokens }) => Ok(tokens),
            Ok(_) => {
                let problem = "written by a newer version of this program".to_owned();
                Err(PkiError::BadTokens { path, problem })
            }
            Err(error) => {
                let problem = crate::harmless::harmless(&error.to_string());
                Err(PkiError::BadTokens { path, problem })
            }
        }
    }

    fn write(&self, tokens: Vec<Token>) -> Result<(), PkiError> {
        let path = Self::path(&self.folder);
        let text = serde_json::to_vec(&Kept { v: FORMAT_VERSION, tokens }).map_err(|error| {
            PkiError::BadTokens { path: path.clone(), problem: error.to_string() }
        })?;
        Ok(files::put_beside(&path, TOKENS, &text, Access::Owner)?)
    }
}

/// The token that is shown, if it may be spent by `name`.
fn find<'a>(
    tokens: &'a mut [Token],
    name: &str,
    shown: &str,
    now: OffsetDateTime,
) -> Result<&'a mut Token, TokenRefusal> {
    if shown.len() > SHOWN_BYTES_MAX {
        return Err(TokenRefusal::Unknown);
    }
    // What is compared are hashes: how long that takes says nothing of the token.
    let hash = sha256_hex(shown.as_bytes());
    let token = tokens.iter_mut().find(|token| token.hash == hash).ok_or(TokenRefusal::Unknown)?;
    if token.name != name {
        Err(TokenRefusal::OtherName)
    } else if token.spent.is_some() {
        Err(TokenRefusal::Spent)
    } else if token.ends <= now {
        Err(TokenRefusal::Expired)
    } else {
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place() -> (tempfile::TempDir, Tokens) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "").unwrap();
        let tokens = Tokens::of(folder.path()).unwrap();
        (folder, tokens)
    }

    const HOUR: time::Duration = time::Duration::HOUR;

    #[test]
    fn a_token_is_spent_once_by_its_name_before_its_end() {
        let (folder, tokens) = place();
        let now = OffsetDateTime::now_utc();
        let (token, text) = tokens.create("dev1", ProfileName::Device, HOUR, now).unwrap();
        let path = Tokens::path(folder.path());
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(&**text), "only its hash is kept");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        let spend = |name, text: &str, now| tokens.spend(name, text, now).unwrap();
        assert_eq!(spend("dev2", &text, now), Err(TokenRefusal::OtherName));
        assert_eq!(spend("dev1", "x", now), Err(TokenRefusal::Unknown));
        assert_eq!(spend("dev1", &"x".repeat(10_000), now), Err(TokenRefusal::Unknown));
        assert_eq!(spend("dev1", &text, now + HOUR), Err(TokenRefusal::Expired));
        assert_eq!(tokens.look("dev1", &text, now).unwrap(), Ok(token.clone()));
        assert_eq!(spend("dev1", &text, now).unwrap().id, token.id);
        assert_eq!(spend("dev1", &text, now), Err(TokenRefusal::Spent));
        assert_eq!(tokens.look("dev1", &text, now).unwrap(), Err(TokenRefusal::Spent));
    }

    #[test]
    fn of_many_at_once_one_spends_a_token() {
        let (folder, tokens) = place();
        let now = OffsetDateTime::now_utc();
        let (_, text) = tokens.create("dev1", ProfileName::Device, HOUR, now).unwrap();
        let spent = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let tokens = Tokens::of(folder.path()).unwrap();
                        tokens.spend("dev1", &text, now).unwrap().is_ok()
                    })
                })
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).filter(|it| *it).count()
        });
        assert_eq!(spent, 1);
    }

    #[test]
    fn what_has_ended_or_was_deleted_is_forgotten() {
        let (_folder, tokens) = place();
        let now = OffsetDateTime::now_utc();
        let (_, old) = tokens.create("dev1", ProfileName::Device, HOUR, now).unwrap();
        let later = now + HOUR;
        let (new, text) = tokens.create("dev2", ProfileName::Device, HOUR, later).unwrap();
        assert_eq!(tokens.list().unwrap(), std::slice::from_ref(&new));
        assert_eq!(tokens.look("dev1", &old, now).unwrap(), Err(TokenRefusal::Unknown));
        assert_eq!(tokens.delete(|token| token.name == "dev2").unwrap(), [new]);
        assert_eq!(tokens.spend("dev2", &text, later).unwrap(), Err(TokenRefusal::Unknown));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_damaged_is_refused() {
        let (folder, tokens) = place();
        let path = Tokens::path(folder.path());
        for (text, mode) in [("{\"v\":1,\"tokens\":[]}", 0o644), ("{\"v\":1", 0o600), ("{}", 0o600)]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = tokens.spend("dev1", "x", OffsetDateTime::now_utc()).unwrap_err();
            assert!(error.to_string().contains("tokens.json"), "{error}");
        }
    }
}
