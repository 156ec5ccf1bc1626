//! `portcullis cert revoke`.

use time::OffsetDateTime;

use super::Selection;
use crate::cli::Failure;
use crate::cli::authority::AuthorityArgs;
use crate::cli::ca::tell_crls;
use crate::pki::inventory::Reason;
use crate::pki::{Ca, Revoked};

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    authority: AuthorityArgs,
    #[command(flatten)]
    which: Selection,
    /// Why, as RFC 5280 calls it
    #[arg(long, value_enum, default_value = "unspecified", value_name = "REASON")]
    reason: Reason,
}

impl RevokeArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let (ca, audit) = self.authority.open()?;
        let targets = match (&self.which.name, &self.which.serial, &self.which.file) {
            (Some(name), _, _) => ca.by_name(name, now)?,
            (_, Some(serial), _) => ca.by_serial(serial)?,
            (_, _, Some(file)) => ca.by_file(file)?,
            // INVARIANT: clap requires one of the three.
            (None, None, None) => Vec::new(),
        };
        let Revoked { certificates: revoked, crls } = ca.revoke(&targets, self.reason, now)?;
        for one in &revoked {
            audit.revoked(one);
        }
        audit.crls(crls.as_deref().unwrap_or_default());
        audit.close()?;
        for one in &revoked {
            eprintln!(
                "Revoked the certificate of {:?}, serial {}: {}.",
                one.name,
                one.serial,
                one.reason.as_str()
            );
        }
        let crls = crls.map_err(|error| {
            Failure(format!(
                "{error}\nwhat was to be revoked is, but the lists of revoked certificates do not \
                 say so yet; mend the cause and run: portcullis ca crl --dir {}",
                ca.folder().display()
            ))
        })?;
        tell_crls(&crls);
        for one in &revoked {
            say!("{}", one.serial);
        }
        say!("{}", Ca::crls_path(ca.folder()).display());
        Ok(())
    }
}
