//! `portcullis doctor`: what is wrong, or will be, with a set-up, and with a broker that runs by it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::revocation::now_unix_s;
use super::{Failure, coloured, count, ctl};
use crate::admin::control::{Command, Response};
use crate::broker::{SharedCertificate, Survey};
use crate::config::Config;
use crate::harmless::harmless;
use crate::identity::{TrustedIssuers, certificate, revocation};
use crate::policy::{Bundle, PolicyEpoch};
use crate::server::listener::{Settings as Listener, Tls};
use crate::server::tls_config;

/// Looks for what is wrong, or soon will be, with a set-up and with the broker that runs by it
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// The broker's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets a key of the configuration, as for `serve`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Days before the end of a certificate at which it is worth a word; an authority's takes longer to
/// replace.
const DAYS_OF_CERTIFICATE: i64 = 30;
const DAYS_OF_AUTHORITY: i64 = 180;
/// Days before a revocation list is due.
const DAYS_OF_LIST: i64 = 2;
const DAY_S: i64 = 24 * 60 * 60;
/// The smallest RSA key that is no weakness.
const RSA_BITS_MIN: usize = 2048;

/// Something to be looked after.
#[derive(Debug, Serialize)]
struct Finding {
    /// `error`: it is wrong now; `warning`: it is a risk, or will be wrong.
    level: Level,
    /// A key of the configuration, a file, or a client.
    place: String,
    what: String,
    remedy: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warning,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, place: impl Into<String>, what: String, remedy: &'static str) {
        self.0.push(Finding { level, place: place.into(), what, remedy });
    }
}

impl DoctorArgs {
    /// Fails too where something was found, whose lines have said it.
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let config = Config::load(&self.config, &self.set)
            .map_err(|error| Failure(error.render(coloured())))?;
        let mut findings = Findings::default();
        for warning in &config.warnings {
            findings.add(
                Level::Warning,
                "configuration",
                warning.clone(),
                "see `portcullis check`",
            );
        }
        // Whose lists they are, nobody knows where the authorities cannot be read.
        if let Some(trusted) = listeners(&config, &mut findings) {
            lists(&config, &trusted, &mut findings);
        }
        policies(&config.policies, &mut findings);
        broker(&config, &mut findings);
        let Findings(findings) = findings;
        if self.json {
            say!("{}", json!(findings));
        } else {
            for Finding { level, place, what, remedy } in &findings {
                let level = if *level == Level::Error { "error" } else { "warning" };
                say!("{level}: {}: {}; {remedy}", harmless(place), harmless(what));
            }
        }
        match findings.len() {
            0 => {
                eprintln!("fine: nothing was found");
                Ok(ExitCode::SUCCESS)
            }
            found => {
                eprintln!("{}", count(found, "finding", "findings"));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// Listeners and their files. Returns the authorities of all of them, where all can be read.
fn listeners(config: &Config, findings: &mut Findings) -> Option<TrustedIssuers> {
    let mut are_read = true;
    let revocations = revocation::none();
    let mut trusted = Vec::new();
    for listener in &config.listeners {
        let key = format!("listener.{}", listener.name);
        let Some(tls) = &listener.tls else {
            if !listener.endpoint.is_local() {
                let what = "has no TLS, and others can reach it".to_owned();
                findings.add(Level::Warning, key, what, "give it tls with client_ca");
            }
            continue;
        };
        match tls_config::server_config(tls, &revocations) {
            Ok(setup) => trusted.push(setup.trusted_issuers),
            Err(error) => {
                are_read = false;
                let remedy = "mend it before the broker is started or reloaded";
                findings.add(Level::Error, key.clone(), error.to_string(), remedy);
            }
        }
        certificates(listener, tls, findings);
        if tls.client_ca.is_none() && !listener.endpoint.is_local() {
            let what = "takes clients without certificates".to_owned();
            findings.add(Level::Warning, key, what, "set tls.client_ca, or know why not");
        }
    }
    are_read.then(|| TrustedIssuers::of_all(trusted.into_iter()))
}

fn certificates(listener: &Listener, tls: &Tls, findings: &mut Findings) {
    let files = [
        (Some(&tls.certificate), DAYS_OF_CERTIFICATE),
        (tls.client_ca.as_ref(), DAYS_OF_AUTHORITY),
    ];
    for (path, days_min) in files {
        let Some(path) = path else { continue };
        // What cannot be read was told already.
        for (at, der) in tls_config::certificates(path).unwrap_or_default().iter().enumerate() {
            let Ok(parsed) = certificate::parse(der) else { continue };
            let subject = parsed.subject().to_string();
            let place = format!("listener.{}: {}: {subject}", listener.name, path.display());
            let days = (parsed.validity().not_after.timestamp() - now_unix_s()) / DAY_S;
            let remedy = "renew it: `portcullis cert renew`, `portcullis ca rotate`";
            if days < 0 {
                findings.add(Level::Error, &*place, "has expired".to_owned(), remedy);
            } else if days < days_min {
                let what =
                    format!("ends in {}", count(usize::try_from(days).unwrap_or(0), "day", "days"));
                findings.add(Level::Warning, &*place, what, remedy);
            }
            // What follows in the chain are authorities, whose keys are elsewhere.
            if path == &tls.certificate && at == 0 && parsed.is_ca() {
                let what =
                    "is the certificate of an authority: the broker holds its key".to_owned();
                let remedy =
                    "give the broker one of its own: `portcullis cert issue --profile server`";
                findings.add(Level::Error, &*place, what, remedy);
            }
            if let Some(weakness) = weakness(&parsed) {
                findings.add(Level::Error, &*place, weakness, "replace it by one with a P-256 key");
            }
        }
    }
}

/// What is weak about a certificate.
fn weakness(parsed: &X509Certificate<'_>) -> Option<String> {
    const SHA_1: [&str; 2] = ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1"];
    if let Ok(PublicKey::RSA(key)) = parsed.public_key().parsed()
        && key.key_size() < RSA_BITS_MIN
    {
        return Some(format!("has an RSA key of {} bits", key.key_size()));
    }
    let signed_with = parsed.signature_algorithm.algorithm.to_id_string();
    let is_root = parsed.subject() == parsed.issuer();
    (SHA_1.contains(&&*signed_with) && !is_root).then(|| "is signed with SHA-1".to_owned())
}

/// Revocation lists.
fn lists(config: &Config, trusted: &TrustedIssuers, findings: &mut Findings) {
    let place = "revocation.lists";
    let Some(settings) = &config.revocation else {
        if config.ocsp.is_none() && trusted.described().next().is_some() {
            let what = "is not set: nobody looks whether a certificate was taken back".to_owned();
            findings.add(
                Level::Warning,
                place,
                what,
                "name the list of each authority in client_ca, or a responder in [ocsp]",
            );
        }
        return;
    };
    match revocation::load(settings, trusted, &revocation::none().load(), now_unix_s()) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                let remedy = "make a new one: `portcullis ca crl`";
                findings.add(Level::Error, place, warning, remedy);
            }
            let due = loaded.revocations.next_update_unix_s().map(|at| at - now_unix_s());
            if due.is_some_and(|due| (0..DAYS_OF_LIST * DAY_S).contains(&due)) {
                let what = "a list has to be replaced within two days".to_owned();
                findings.add(Level::Warning, place, what, "make a new one: `portcullis ca crl`");
            }
        }
        Err(error) => {
            let remedy = "mend it: the broker keeps the lists that it has, and does not start";
            findings.add(Level::Error, place, error.to_string(), remedy);
        }
    }
}

fn policies(folder: &Path, findings: &mut Findings) {
    match Bundle::load_dir(folder, PolicyEpoch(1)) {
        Ok(bundle) => {
            for warning in bundle.warnings().lines() {
                let remedy = "see `portcullis policy check`";
                findings.add(Level::Warning, "policies", warning, remedy);
            }
        }
        Err(error) => {
            let remedy = "see `portcullis policy check`";
            findings.add(Level::Error, "policies", Failure::policies(&error).0, remedy);
        }
    }
}

/// The broker, where one runs.
fn broker(config: &Config, findings: &mut Findings) {
    let Some(control) = &config.control else {
        let what = "is not set: the running broker cannot be asked".to_owned();
        return findings.add(Level::Warning, "control.socket", what, "set it");
    };
    let place = control.path.display().to_string();
    let answer = match ctl::call(&control.path, Command::Survey) {
        Ok(Response::Done(answer)) => serde_json::from_value::<Survey>(answer),
        Ok(Response::Failed(why)) => Err(serde::de::Error::custom(why)),
        Err(error) => {
            let what = format!("the broker cannot be asked: {error}");
            return findings.add(Level::Warning, place, what, "start it, and ask again");
        }
    };
    let survey = match answer {
        Ok(survey) => survey,
        Err(error) => {
            let what = format!("the broker does not answer as it should: {error}");
            return findings.add(Level::Error, place, what, "ask it with a program of its version");
        }
    };
    for SharedCertificate { fingerprint, clients, client_ids } in survey.shared {
        let what = format!(
            "is used by {clients} clients at once: {}",
            client_ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ")
        );
        let remedy = "give each device its own: one that is taken away is taken from all";
        findings.add(Level::Warning, format!("certificate {fingerprint}"), what, remedy);
    }
    for client_id in survey.withdrawn {
        let what = "is connected though its certificate was revoked or has expired".to_owned();
        findings.add(Level::Error, format!("client {client_id:?}"), what, "report this as a bug");
    }
}
