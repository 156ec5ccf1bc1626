//! What the commands of `ca` and `cert` share: which authority, its passphrases, and the audit
//! file that says what they did.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::Failure;
use crate::audit::{AuditLog, Event, Kind, Settings};
use crate::metrics::Metrics;
use crate::pki::inventory::{Certificate, Revocation};
use crate::pki::{Ca, Crl, KeyError, KeySource, KeyType, Passphrase, PkiError, Protection};

/// The environment variable of the passphrase of an authority's keys.
const VARIABLE: &str = "PORTCULLIS_PASSPHRASE";
/// The environment variable of the passphrase of a root's key, where it is another.
const ROOT_VARIABLE: &str = "PORTCULLIS_ROOT_PASSPHRASE";
/// How long the audit file may take to be written, and another command to let go of it.
const AUDIT_WAIT: Duration = Duration::from_secs(30);

/// Where the passphrases of an authority's keys come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct PassphraseArgs {
    /// The passphrase of the authority's keys is the line in this file, which only its owner may
    /// read [default: `PORTCULLIS_PASSPHRASE` in the environment, or a question at the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The passphrase of the root's key, where it is another one [default:
    /// `PORTCULLIS_ROOT_PASSPHRASE`, or as for the others]
    #[arg(long, value_name = "FILE")]
    root_passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// As a configuration file has it.
    pub(super) const fn from_file(passphrase_file: Option<PathBuf>) -> Self {
        Self { passphrase_file, root_passphrase_file: None }
    }
}

/// How keys that are made for an authority are kept.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct NewKeyArgs {
    #[command(flatten)]
    pub(super) passphrases: PassphraseArgs,
    /// Keep the authority's keys without a passphrase: whoever reads the files can be anyone
    #[arg(long, conflicts_with_all = ["passphrase_file", "root_passphrase_file"])]
    no_passphrase: bool,
    /// Keep the issuing key in a token, where it is made if there is none of this name, as in
    /// pkcs11:token=NAME;object=NAME?module-path=FILE; the passphrase is the token's PIN
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "URI", conflicts_with = "no_passphrase")]
    token: Option<String>,
}

/// Where an issuing key comes from, as the command line says.
pub(super) enum IssuingKey {
    New(KeyType, Protection),
    #[cfg(feature = "pkcs11")]
    Token {
        uri: String,
        pin: Passphrase,
        key_type: KeyType,
    },
}

impl IssuingKey {
    pub(super) const fn source(&self) -> KeySource<'_> {
        match self {
            Self::New(key_type, _) => KeySource::New(*key_type),
            #[cfg(feature = "pkcs11")]
            Self::Token { uri, pin, key_type } => {
                KeySource::Token { uri: uri.as_str(), pin, key_type: *key_type }
            }
        }
    }

    pub(super) const fn protection(&self) -> &Protection {
        match self {
            Self::New(_, protection) => protection,
            #[cfg(feature = "pkcs11")]
            Self::Token { .. } => &Protection::None,
        }
    }
}

/// The audit file of an authority.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct AuditArgs {
    /// The audit file that says what was done [default: audit.jsonl in the authority's folder]
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
}

/// Which authority, and how to open it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AuthorityArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    pub(super) ca: PathBuf,
    #[command(flatten)]
    pub(super) passphrases: PassphraseArgs,
    #[command(flatten)]
    pub(super) audit: AuditArgs,
}

impl AuthorityArgs {
    /// Opens the authority and its audit file.
    pub(super) fn open(&self) -> Result<(Ca, AuditFile), Failure> {
        let mut passphrases = Passphrases::new(&self.passphrases);
        let ca =
            Ca::open(&self.ca, &mut |path| passphrases.existing(path), OffsetDateTime::now_utc())?;
        Ok((ca, AuditFile::open(&self.audit, &self.ca)?))
    }
}

/// Passphrases, as they are asked for. One that was typed is asked for once.
pub(super) struct Passphrases {
    args: PassphraseArgs,
    /// The root's key, where it is kept elsewhere.
    root_key: Option<PathBuf>,
    typed: HashMap<PathBuf, Passphrase>,
    /// Whether a person may be asked.
    asks: bool,
}

impl Passphrases {
    pub(super) fn new(args: &PassphraseArgs) -> Self {
        Self { args: args.clone(), root_key: None, typed: HashMap::new(), asks: true }
    }

    /// The same, and nobody is asked.
    pub(super) fn without_asking(self) -> Self {
        Self { asks: false, ..self }
    }

    /// The same, with the root's key in this file.
    pub(super) fn with_root_key(self, root_key: Option<PathBuf>) -> Self {
        Self { root_key, ..self }
    }

    /// The passphrase of a key that there is.
    pub(super) fn existing(&mut self, path: &Path) -> Result<Passphrase, KeyError> {
        if let Some(given) = self.given(path)? {
            return Ok(given);
        }
        if let Some(typed) = self.typed.get(path) {
            return Ok(typed.clone());
        }
        if !self.asks || !std::io::stdin().is_terminal() {
            return Err(KeyError::NoPassphrase { path: path.to_owned() });
        }
        let typed = Passphrase::existing(ask(&format!("Passphrase of {}: ", path.display()))?)?;
        self.typed.insert(path.to_owned(), typed.clone());
        Ok(typed)
    }

    /// A passphrase for a key that is to be made, asked for twice at a terminal.
    fn for_new(&mut self, path: &Path) -> Result<Passphrase, Failure> {
        if let Some(given) = self.given(path)? {
            return Ok(given.for_new_key()?);
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure(format!(
                "{}: there is no passphrase for this key; give one with --passphrase-file FILE or \
                 in {VARIABLE}, or say --no-passphrase",
                path.display()
            )));
        }
        let question = format!("New passphrase for {}: ", path.display());
        let typed = Passphrase::existing(ask(&question)?)?.for_new_key()?;
        if *ask("Once more: ")? != *typed.as_str() {
            return Err(Failure("the two passphrases differ; nothing was made".to_owned()));
        }
        self.typed.insert(path.to_owned(), typed.clone());
        Ok(typed)
    }

    /// The passphrase from a file or the environment.
    fn given(&self, path: &Path) -> Result<Option<Passphrase>, KeyError> {
        let is_root = self.root_key.as_deref() == Some(path)
            || path.file_name().is_some_and(|name| name == "root.key");
        if is_root {
            if let Some(file) = &self.args.root_passphrase_file {
                return Passphrase::from_file(file).map(Some);
            }
            if let Some(text) = variable(ROOT_VARIABLE) {
                return Passphrase::existing(text).map(Some);
            }
        }
        match (&self.args.passphrase_file, variable(VARIABLE)) {
            (Some(file), _) => Passphrase::from_file(file).map(Some),
            (None, Some(text)) => Passphrase::existing(text).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl NewKeyArgs {
    /// Where the issuing key comes from that is to be written to `path`, and how it is kept.
    pub(super) fn issuing_key(
        &self,
        key_type: KeyType,
        passphrases: &mut Passphrases,
        path: &Path,
    ) -> Result<IssuingKey, Failure> {
        #[cfg(feature = "pkcs11")]
        if let Some(uri) = &self.token {
            let pin = passphrases.existing(path)?;
            return Ok(IssuingKey::Token { uri: uri.clone(), pin, key_type });
        }
        Ok(IssuingKey::New(key_type, self.protection(passphrases, path)?))
    }

    /// How a key that is to be written to `path` is kept.
    pub(super) fn protection(
        &self,
        passphrases: &mut Passphrases,
        path: &Path,
    ) -> Result<Protection, Failure> {
        let passphrase = if self.no_passphrase { None } else { Some(passphrases.for_new(path)?) };
        Ok(Protection::new(passphrase)?)
    }
}

fn variable(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(Zeroizing::new)
}

/// Asks at the terminal, without showing what is typed.
pub(super) fn ask(question: &str) -> Result<Zeroizing<String>, KeyError> {
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|_| KeyError::PassphraseNotOneLine)
}

/// An audit file that commands write to. What they did is on record when they end.
pub(super) struct AuditFile {
    log: AuditLog,
    path: PathBuf,
}

impl AuditFile {
    /// Opens the file, before anything is done that has to be in it. Another command may have it
    /// for a while.
    pub(super) fn open(args: &AuditArgs, folder: &Path) -> Result<Self, Failure> {
        let path = args.audit.clone().unwrap_or_else(|| folder.join("audit.jsonl"));
        let deadline = Instant::now() + AUDIT_WAIT;
        loop {
            match AuditLog::open(&Settings::at(&path), Arc::new(Metrics::new())) {
                Ok(log) => return Ok(Self { log, path }),
                Err(error)
                    if error.kind() == std::io::ErrorKind::WouldBlock
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    return Err(Failure(format!(
                        "{}: the audit file cannot be used: {error}; nothing was done",
                        path.display()
                    )));
                }
            }
        }
    }

    pub(super) fn record(&self, kind: Kind) {
        self.log.record(Event::broker(kind));
    }

    /// Makes durable what was recorded.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        if self.log.flush(AUDIT_WAIT) { Ok(()) } else { Err(self.failed()) }
    }

    /// Ends the file.
    pub(super) fn close(self) -> Result<(), Failure> {
        if self.log.close(AUDIT_WAIT) { Ok(()) } else { Err(self.failed()) }
    }

    fn failed(&self) -> Failure {
        Failure(format!(
            "{}: the audit file cannot be written; what was done is in the authority's inventory",
            self.path.display()
        ))
    }

    pub(super) fn created(&self, ca: &Ca) {
        self.record(Kind::CaCreated {
            name: ca.name().into(),
            issuer: ca.issuer_hash().into(),
            not_after: rfc3339(ca.not_after()).into(),
        });
    }

    pub(super) fn issued(&self, certificate: &Certificate) {
        self.record(certificate.into());
    }

    pub(super) fn revoked(&self, revocation: &Revocation) {
        self.record(revocation.into());
    }

    pub(super) fn crls(&self, crls: &[Crl]) {
        for Crl { signed, .. } in crls {
            self.record(signed.into());
        }
    }
}

/// The kinds of key, on the command line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum KeyTypeArg {
    /// ECDSA on P-256
    #[default]
    P256,
    /// ECDSA on P-384
    P384,
    /// Ed25519
    Ed25519,
}

impl From<KeyTypeArg> for KeyType {
    fn from(key_type: KeyTypeArg) -> Self {
        match key_type {
            KeyTypeArg::P256 => Self::P256,
            KeyTypeArg::P384 => Self::P384,
            KeyTypeArg::Ed25519 => Self::Ed25519,
        }
    }
}

/// A number of days of the command line.
pub(super) fn days(days: Option<u32>) -> Option<Duration> {
    days.map(|days| Duration::from_hours(24) * days)
}

/// A time as data.
pub(super) fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// The days from one time to another, whole ones, negative when it has passed.
pub(super) fn days_left(until: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (until - now).whole_seconds().div_euclid(24 * 60 * 60)
}

/// What others ask a command line for, when it does not know the passphrase of a certificate's
/// own key.
pub(super) fn key_passphrase(file: Option<&Path>) -> Result<Option<Passphrase>, PkiError> {
    file.map(Passphrase::from_file).transpose().map_err(PkiError::from)
}
