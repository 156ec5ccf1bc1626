//! `portcullis check`: everything that `serve` would refuse, and nothing is bound.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::policy::drawn;
use super::revocation::now_unix_s;
use super::running::{self, Listeners};
use super::sandbox::Sandbox;
use super::{Failure, coloured, count};
use crate::admin::control;
use crate::audit;
use crate::config::{Config, Origin};
use crate::harmless::harmless;
use crate::identity::{TrustedIssuers, revocation};
use crate::policy::{Bundle, PolicyEpoch};
use crate::server::{login, tls_config};

/// Checks configuration, certificates and policies.
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

/// An authority that client certificates may come from.
#[derive(Debug, serde::Serialize)]
struct ClientCa {
    listener: Arc<str>,
    subject: String,
    /// As `principals.toml` names it.
    issuer: String,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config, &self.set)
            .map_err(|error| Failure(error.render(coloured())))?;
        let mut problems = Vec::new();
        let mut client_cas = Vec::new();
        let mut warnings = config.warnings.clone();
        warnings.extend(running::mixed_bindings(&config));
        let revocations = revocation::none();
        let mut trusted = Vec::new();
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            match tls_config::server_config(tls, &revocations) {
                Ok(setup) => {
                    warnings.extend(setup.warnings.iter().map(ToString::to_string));
                    trusted.push(Arc::clone(&setup.trusted_issuers));
                    let described = setup.trusted_issuers.described();
                    client_cas.extend(described.map(|(subject, issuer)| ClientCa {
                        listener: Arc::clone(&listener.name),
                        subject,
                        issuer: issuer.to_owned(),
                    }));
                }
                Err(error) => problems.push(format!("listener.{}.{error}", listener.name)),
            }
        }
        for method in &config.methods {
            problems.extend(login::check(method).err().map(|error| error.to_string()));
        }
        if let Some(settings) = &config.revocation {
            let trusted = TrustedIssuers::of_all(trusted.into_iter());
            match revocation::load(settings, &trusted, &revocations.load(), now_unix_s()) {
                Ok(loaded) => warnings.extend(loaded.warnings),
                Err(error) => problems.push(format!("revocation.lists: {error}")),
            }
        }
        if let Err(error) = audit::check(&config.audit.path) {
            problems.push(running::about_audit(&config.audit.path, &error).0);
        }
        if let Some(control) = &config.control
            && let Err(error) = control::check(control)
        {
            problems.push(running::about_control(&control.path, &error).0);
        }
        let sandbox = Sandbox::of_broker(&self.config, &config);
        let sandbox = Sandbox::checked(sandbox, &mut warnings, &mut problems);
        let listeners = Listeners::of(&config);
        let policies = Bundle::load_dir(&config.policies, PolicyEpoch(1)).and_then(|bundle| {
            for refused in [listeners.refuse_unbound(&bundle), listeners.refuse_groups(&bundle)] {
                problems.extend(refused.err().map(|Failure(why)| why));
            }
            bundle.check_listeners(&listeners.names)?;
            Ok(bundle.policies())
        });
        let policies = policies.unwrap_or_else(|error| {
            let Failure(why) = if self.json { Failure::policies(&error) } else { drawn(&error) };
            problems.push(why);
            0
        });
        if self.json {
            let told = json!({
                "values": values(&config.origins),
                "client_cas": client_cas,
                "policies": policies,
                "sandbox": sandbox.as_ref().map(Sandbox::as_json),
                "warnings": warnings,
                "problems": problems,
            });
            say!("{told}");
        } else {
            say_values(&config.origins);
            sandbox.iter().for_each(say_sandbox);
            for ClientCa { listener, subject, issuer } in &client_cas {
                let subject = subject.escape_debug();
                say!("client CA of listener {listener}: issuer = \"{issuer}\"  # {subject}");
            }
            if !client_cas.is_empty() {
                eprintln!(
                    "note: principals.toml names the authority that signed a certificate itself; of \
                     one below these, `portcullis ca show` has the issuer"
                );
            }
        }
        let listeners = count(config.listeners.len(), "listener", "listeners");
        conclude(&warnings, &problems, &listeners, policies)
    }
}

/// Says what was found.
///
/// # Errors
/// When there are problems.
pub(super) fn conclude(
    warnings: &[String],
    problems: &[String],
    what: &str,
    policies: usize,
) -> Result<(), Failure> {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if problems.is_empty() {
        eprintln!("fine: {what}, {}", count(policies, "policy", "policies"));
        Ok(())
    } else {
        Err(Failure(problems.join("\nerror: ")))
    }
}

/// Every effective value with its origin, for machines.
pub(super) fn values(origins: &[Origin]) -> serde_json::Map<String, serde_json::Value> {
    let value = |origin: &Origin| {
        let from = origin.from.to_string();
        (origin.key.clone(), json!({ "value": origin.value, "from": from }))
    };
    origins.iter().map(value).collect()
}

/// The same, for people.
pub(super) fn say_values(origins: &[Origin]) {
    let width = origins.iter().map(|origin| origin.key.len()).max().unwrap_or(0);
    for origin in origins {
        say!("{:width$}  {}  # {}", origin.key, origin.value, origin.from);
    }
}

/// What the sandbox will be, for people.
pub(super) fn say_sandbox(sandbox: &Sandbox) {
    for line in sandbox.lines() {
        say!("{}", harmless(&line));
    }
}
