//! `portcullis pki check`: everything that `pki serve` would refuse, and nothing is bound or changed.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use time::OffsetDateTime;

use crate::audit;
use crate::cli::authority::{PassphraseArgs, Passphrases};
use crate::cli::check::{conclude, say_sandbox, say_values, values};
use crate::cli::revocation::now_unix_s;
use crate::cli::sandbox::Sandbox;
use crate::cli::{Failure, coloured, count};
use crate::config::{EstConfig, Origin, SetBy};
use crate::est::Settings;
use crate::identity::TrustedIssuers;
use crate::identity::revocation;
use crate::pki::{Ca, KeyError, Passphrase, PkiError, Tokens};
use crate::policy::{Bundle, PolicyEpoch};
use crate::server::tls_config;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets a key of the configuration
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints the effective values as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = EstConfig::load(&self.config, &self.set)
            .map_err(|error| Failure(error.render(coloured())))?;
        let mut found = Found {
            file: self.config.display().to_string(),
            origins: &config.origins,
            problems: Vec::new(),
            warnings: config.warnings.clone(),
        };
        let settings = &config.est;
        if let Err(error) = audit::check(&config.audit.path) {
            found.problem("audit.path", &format!("{}: {error}", config.audit.path.display()));
        }
        let policies = match Bundle::load_dir(&settings.policies, PolicyEpoch(1)) {
            Ok(bundle) => bundle.policies(),
            Err(error) => {
                let Failure(why) = Failure::policies(&error);
                found.problem("est.policies", &why);
                0
            }
        };
        found.look_at_tls(settings);
        found.look_at_authority(settings);
        found.look_at_broker(settings);
        if let Some(lists) = &config.revocation {
            found.look_at_lists(settings, lists);
        }
        let Found { mut problems, mut warnings, .. } = found;
        let sandbox = Sandbox::of_enrolment(&self.config, &config);
        let sandbox = Sandbox::checked(sandbox, &mut warnings, &mut problems);
        if self.json {
            let told = json!({
                "values": values(&config.origins),
                "policies": policies,
                "sandbox": sandbox.as_ref().map(Sandbox::as_json),
                "warnings": warnings,
                "problems": problems,
            });
            say!("{told}");
        } else {
            say_values(&config.origins);
            sandbox.iter().for_each(say_sandbox);
        }
        let profiles = count(settings.profiles.len(), "profile", "profiles");
        conclude(&warnings, &problems, &profiles, policies)
    }
}

/// What is found, each with the place of the key that it is about.
struct Found<'a> {
    file: String,
    origins: &'a [Origin],
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Found<'_> {
    fn problem(&mut self, key: &str, why: &str) {
        let problem = self.about(key, why);
        self.problems.push(problem);
    }

    fn warn(&mut self, key: &str, why: &str) {
        let warning = self.about(key, why);
        self.warnings.push(warning);
    }

    fn about(&self, key: &str, why: &str) -> String {
        let origin = self.origins.iter().find(|origin| origin.key == key);
        let place = match origin.map(|origin| &origin.from) {
            Some(SetBy::Default) | None => self.file.clone(),
            Some(set) => set.to_string(),
        };
        format!("{place}: {key}: {why}")
    }

    fn look_at_tls(&mut self, settings: &Settings) {
        let none = revocation::none();
        match tls_config::server_config(&settings.tls, &none) {
            Ok(setup) => self.warnings.extend(setup.warnings.iter().map(ToString::to_string)),
            Err(problem) => {
                self.problem(&format!("est.tls.{}", problem.key), &problem.error.to_string());
            }
        }
        for factory in &settings.factories {
            if let Err(error) = tls_config::client_verifier(&factory.ca, &none) {
                self.problem(&format!("est.factory.{}.ca", factory.name), &error.to_string());
            }
        }
        for offered in &settings.profiles {
            if let Err(error) = offered.read() {
                let key = format!("est.profile.{}.file", offered.profile.as_str());
                self.problem(&key, &error.to_string());
            }
        }
    }

    fn look_at_authority(&mut self, settings: &Settings) {
        let key = "est.authority";
        let folder = &settings.authority;
        if let Err(error) = Ca::look(folder, |_| ()) {
            return self.problem(key, &error.to_string());
        }
        if let Err(error) = Tokens::of(folder).and_then(|tokens| tokens.list()) {
            self.problem(key, &error.to_string());
        }
        if let Some(file) = &settings.passphrase_file
            && let Err(error) = Passphrase::from_file(file)
        {
            return self.problem("est.passphrase_file", &error.to_string());
        }
        let args = PassphraseArgs::from_file(settings.passphrase_file.clone());
        let mut passphrases = Passphrases::new(&args).without_asking();
        let mut unlock = |path: &Path| passphrases.existing(path);
        match Ca::read(folder, &mut unlock, OffsetDateTime::now_utc()) {
            Ok(_) => {}
            Err(PkiError::Key(KeyError::NoPassphrase { path })) => {
                let path = path.display();
                self.warn(
                    key,
                    &format!(
                        "{path}: its passphrase is asked for at the start, and is not tried here"
                    ),
                );
            }
            Err(error @ PkiError::Key(_)) if settings.passphrase_file.is_some() => {
                self.problem("est.passphrase_file", &error.to_string());
            }
            Err(error) => self.problem(key, &error.to_string()),
        }
    }

    fn look_at_broker(&mut self, settings: &Settings) {
        let Some(socket) = &settings.broker_socket else { return };
        let is_there =
            socket.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
        if !is_there {
            let why = format!(
                "{}: no broker listens here at present, or this user does not see it",
                socket.display()
            );
            self.warn("est.broker_socket", &why);
        }
    }

    fn look_at_lists(&mut self, settings: &Settings, lists: &revocation::Settings) {
        let folder = &settings.authority;
        let own = [Ca::trust_path(folder), Ca::certificate_path(folder)];
        let factories = settings.factories.iter().map(|factory| factory.ca.clone());
        // What cannot be read of these was told before.
        let all = own.into_iter().chain(factories).flat_map(|path| tls_config::certificates(&path));
        let all: Vec<_> = all.flatten().collect();
        let Ok(trusted) = TrustedIssuers::new(&all) else { return };
        match revocation::load(lists, &trusted, &revocation::none().load(), now_unix_s()) {
            Ok(loaded) => self.warnings.extend(loaded.warnings),
            Err(error) => self.problem("revocation.lists", &error.to_string()),
        }
    }
}
