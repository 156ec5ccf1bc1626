//! `portcullis policy import`.

use std::path::{Path, PathBuf};

use crate::cli::{Failure, count};
use crate::identity::PrincipalKind;
use crate::pki::files::{self, Access, FileError};
use crate::policy::import::{Dialect, translate};

/// Makes a policy folder of what another broker has.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    from: Broker,
}

#[derive(Debug, clap::Subcommand)]
enum Broker {
    /// Translates an `acl_file` of Mosquitto
    Mosquitto(FileArgs),
    /// Translates a `vmq.acl` of VerneMQ
    Vernemq(FileArgs),
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The ACL file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder for acl.cedar and cases.tsv; it has to be empty or absent
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What users of the file are in policies
    #[arg(long, value_enum, default_value_t = Principal::User)]
    principal: Principal,
    /// Write the rest where lines cannot be translated, and tell which are missing. A line that the
    /// broker itself would not take, and a denial, are never left out
    #[arg(long)]
    skip_untranslatable: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Principal {
    /// Machines
    Device,
    /// People
    User,
    /// Backend workloads
    Service,
}

impl From<Principal> for PrincipalKind {
    fn from(principal: Principal) -> Self {
        match principal {
            Principal::Device => Self::Device,
            Principal::User => Self::User,
            Principal::Service => Self::Service,
        }
    }
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.from {
            Broker::Mosquitto(args) => args.run(Dialect::Mosquitto),
            Broker::Vernemq(args) => args.run(Dialect::Vernemq),
        }
    }
}

impl FileArgs {
    fn run(self, dialect: Dialect) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let read = files::read(&self.file).map_err(|error| match error {
            // Its remedy is for certificates.
            FileError::Io { source, .. } => Failure(format!("{name} cannot be read: {source}")),
            other => other.into(),
        });
        let text = String::from_utf8(read?).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = error.as_bytes().get(..valid).unwrap_or_default();
            let line = before.split(|byte| *byte == b'\n').count();
            Failure(format!("{name}:{line}: this is no UTF-8; convert the file"))
        })?;
        refuse_occupied(&self.out)?;
        let translation = translate(&name, &text, dialect, self.principal.into())?;
        for note in &translation.notes {
            eprintln!("note: {}", note.line());
        }
        for problem in &translation.untranslated {
            eprintln!("not translated: {}", problem.line());
        }
        if !translation.untranslated.is_empty() && !self.skip_untranslatable {
            return Err(Failure(format!(
                "{} cannot be translated, so that nothing is written; --skip-untranslatable \
                 writes the rest",
                count(translation.untranslated.len(), "line", "lines")
            )));
        }
        files::create_private_folder(&self.out)?;
        for (name, text) in
            [("cases.tsv", &translation.cases), ("acl.cedar", &translation.policies)]
        {
            let path = self.out.join(name);
            files::write_new(&path, text.as_bytes(), Access::Everybody)?;
            say!("{}", path.display());
        }
        let (policies, cases) = translation.counts;
        eprintln!(
            "fine: {} and {}, which hold; nobody may connect yet, acl.cedar says how to permit it",
            count(policies, "policy", "policies"),
            count(cases, "case", "cases"),
        );
        Ok(())
    }
}

/// A folder with something in it may be somebody's policies.
fn refuse_occupied(folder: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure(format!(
                "{}: not empty, and nothing is overwritten; name another folder",
                folder.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure(format!("{}: {error}", folder.display()))),
    }
}
