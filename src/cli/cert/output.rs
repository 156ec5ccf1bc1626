//! What commands that issue write: files, and what they say.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::cli::Failure;
use crate::cli::authority::{ask, key_passphrase, rfc3339};
use crate::pki::files::{self, Access, FileError};
use crate::pki::{Ca, Issued, Passphrase, PkiError, PrivateKey, Protection, pkcs12, serial_hex};

/// How a certificate and its key are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Bundle {
    /// NAME.pem, the certificate and those above it, and NAME.key
    #[default]
    Pem,
    /// NAME.p12, all of that in one file of PKCS#12 under a passphrase
    P12,
}

/// Where what was issued goes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// The folder for what is issued
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) out: PathBuf,
    /// The form of what is issued
    #[arg(long, value_enum, default_value_t)]
    pub(super) bundle: Bundle,
    /// Encrypt the keys that are issued: the passphrase is the line in this file
    #[arg(long, value_name = "FILE")]
    pub(super) key_passphrase_file: Option<PathBuf>,
    /// Print what was issued as JSON; the key itself is never printed
    #[arg(long)]
    pub(super) json: bool,
}

/// How what is issued is written.
pub(super) struct Output {
    folder: PathBuf,
    form: Form,
}

enum Form {
    Pem(Protection),
    P12 { passphrase: Passphrase, roots: Vec<u8> },
}

impl OutputArgs {
    /// Gets ready to write, before anything is issued that nobody could write.
    pub(super) fn prepare(&self, ca: &Ca) -> Result<Output, Failure> {
        files::remove_abandoned(&self.out);
        let passphrase = key_passphrase(self.key_passphrase_file.as_deref())?;
        let form = match self.bundle {
            Bundle::Pem => Form::Pem(Protection::new(passphrase)?),
            Bundle::P12 => Form::P12 {
                passphrase: match passphrase {
                    Some(passphrase) => passphrase,
                    None => Passphrase::existing(
                        ask("Passphrase for the files of PKCS#12: ").map_err(|_| {
                            Failure(
                                "a file of PKCS#12 needs a passphrase; give one with \
                                 --key-passphrase-file FILE"
                                    .to_owned(),
                            )
                        })?,
                    )?,
                }
                .for_new_key()?,
                roots: files::read(&Ca::trust_path(ca.folder()))?,
            },
        };
        Ok(Output { folder: self.out.clone(), form })
    }
}

/// The files of what was issued: those that are made later, in the order in which they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Paths {
    /// NAME.pem or NAME.p12.
    pub(super) certificate: PathBuf,
    /// NAME.key, unless it is in the same file.
    pub(super) key: Option<PathBuf>,
}

impl Paths {
    /// Refuses to begin when one of the files is there already.
    pub(super) fn check_absent(&self) -> Result<(), FileError> {
        for path in std::iter::once(&self.certificate).chain(&self.key) {
            if path.symlink_metadata().is_ok() {
                return Err(FileError::Exists { path: path.clone() });
            }
        }
        Ok(())
    }
}

impl Output {
    /// The files for a name. The rule for names leaves no `/` in any, so that they stay in the
    /// folder.
    pub(super) fn paths(&self, name: &str) -> Paths {
        let path = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        match self.form {
            Form::Pem(_) => Paths { certificate: path("pem"), key: Some(path("key")) },
            Form::P12 { .. } => Paths { certificate: path("p12"), key: None },
        }
    }

    /// What goes into the files: of the key, if it has one of its own, and of the certificate.
    pub(super) fn contents(
        &self,
        issued: &Issued,
        key: &PrivateKey,
    ) -> Result<(Option<zeroize::Zeroizing<String>>, Vec<u8>), PkiError> {
        Ok(match &self.form {
            Form::Pem(protection) => {
                (Some(key.to_pem(protection)?), issued.chain_pem.clone().into_bytes())
            }
            Form::P12 { passphrase, roots } => (None, pkcs12(issued, key, roots, passphrase)?),
        })
    }

    /// Writes what was issued: both files or none.
    pub(super) fn write(&self, issued: &Issued, key: &PrivateKey) -> Result<Paths, Failure> {
        self.try_write(issued, key).map_err(|Failure(why)| not_handed_out(issued, &why))
    }

    fn try_write(&self, issued: &Issued, key: &PrivateKey) -> Result<Paths, Failure> {
        let paths = self.paths(&issued.certificate.name);
        let (key, certificate) = self.contents(issued, key)?;
        files::create_private_folder(&self.folder)?;
        match (&paths.key, &key) {
            (Some(path), Some(key)) => {
                files::write_new_pair((path, key.as_bytes()), (&paths.certificate, &certificate))?;
            }
            _ => files::write_new(&paths.certificate, &certificate, Access::Owner)?,
        }
        Ok(paths)
    }

    /// The folder that it goes to.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Writes a certificate whose key is elsewhere.
pub(super) fn write_certificate(issued: &Issued, path: &Path) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    files::remove_abandoned(folder);
    files::create_private_folder(folder)
        .and_then(|()| files::write_new(path, issued.chain_pem.as_bytes(), Access::Everybody))
        .map_err(|error| not_handed_out(issued, &error.to_string()))
}

fn not_handed_out(issued: &Issued, why: &str) -> Failure {
    Failure(format!(
        "{why}\nthe certificate {} is in the inventory, and nobody has it: issue another one",
        issued.certificate.serial
    ))
}

/// Says what was issued: words for people, paths or JSON for programs.
pub(super) fn tell(issued: &Issued, paths: &Paths, json: bool) {
    let certificate = &issued.certificate;
    eprintln!(
        "Issued a {} certificate for {:?}, valid until {}, serial {}.",
        certificate.profile.as_str(),
        certificate.name,
        rfc3339(certificate.not_after),
        certificate.serial
    );
    let file = |path: &Path| path.display().to_string();
    if json {
        let mut summary = serde_json::json!({
            "name": certificate.name,
            "profile": certificate.profile.as_str(),
            "certificate": file(&paths.certificate),
            "serial": certificate.serial,
            "fingerprint": certificate.fingerprint,
            "not_after": rfc3339(certificate.not_after),
        });
        if let (Some(key), Some(summary)) = (&paths.key, summary.as_object_mut()) {
            summary.insert("key".to_owned(), file(key).into());
        }
        say!("{summary}");
    } else {
        say!("{}", file(&paths.certificate));
        if let Some(key) = &paths.key {
            say!("{}", file(key));
        }
    }
}

/// The serial number of the first certificate in a file.
pub(super) fn serial_in(path: &Path) -> Result<String, Failure> {
    let unfit = |problem| PkiError::NotACertificate { path: path.to_owned(), problem };
    let pem = files::read(path)?;
    let der =
        CertificateDer::from_pem_slice(&pem).map_err(|_| unfit("no certificate in PEM in it"))?;
    let (_, parsed) =
        X509Certificate::from_der(&der).map_err(|_| unfit("the certificate is malformed"))?;
    Ok(serial_hex(parsed.raw_serial()))
}
