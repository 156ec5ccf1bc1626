//! The sandbox of a process that serves: the system (Linux Landlock) lets it read and write what
//! its configuration names, and run nothing.
//!
//! It begins after the configuration was read and before there is a second thread, since a thread
//! is confined alone, with those that it starts. What a broker may not reach even so, the keys of
//! an authority, is said in `plan`.

mod kernel;
mod places;
mod plan;
#[cfg(test)]
mod tests;
mod way;

use std::path::{Path, PathBuf};

use landlock::{AccessFs, make_bitflags};
use serde_json::json;
use tracing::{info, warn};

use self::kernel::{Rights, Support};
use self::places::{Place, Use};
use self::plan::{Plan, READ};
use super::Failure;
use super::running::{about_audit, about_control};
use crate::config::{Config, EstConfig, Origin, SandboxMode};
use crate::pki::{self, Ca};
use crate::server::{self, listener::Endpoint};
use crate::{admin, audit, store};

const DEVICE: Rights = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
/// What every program needs: the resolver of the C library and what it loads for it, how many
/// cores there are, where the program itself is when it has to say where it went wrong.
const SYSTEM: &[(&str, Rights)] = &[
    ("/etc/resolv.conf", READ),
    ("/etc/hosts", READ),
    ("/etc/host.conf", READ),
    ("/etc/nsswitch.conf", READ),
    ("/etc/gai.conf", READ),
    ("/etc/services", READ),
    ("/etc/ld.so.cache", READ),
    ("/etc/localtime", READ),
    ("/run/systemd/resolve", READ),
    ("/lib", READ),
    ("/lib64", READ),
    ("/usr/lib", READ),
    ("/usr/lib64", READ),
    ("/proc/self", READ),
    ("/proc/self/exe", READ),
    ("/sys/fs/cgroup", READ),
    ("/sys/devices/system/cpu", READ),
    ("/dev/null", DEVICE),
    ("/dev/urandom", READ),
];
/// Where a passphrase is asked for.
const TERMINAL: &[(&str, Rights)] = &[("/dev/tty", DEVICE)];

/// What a process will be held to.
#[derive(Debug)]
pub(super) struct Sandbox {
    mode: SandboxMode,
    plan: Plan,
    /// Why there can be none, whatever the system says.
    never: Option<String>,
}

/// The sandbox that a process is in, if it is in one.
#[derive(Debug, Default)]
pub(super) struct InForce(Option<Plan>);

impl Sandbox {
    /// Of a broker with this configuration, which was read from `path`.
    ///
    /// # Errors
    /// When the configuration names what is an authority's own.
    pub(super) fn of_broker(path: &Path, config: &Config) -> Result<Self, Failure> {
        let mut plan = Plan::new(path, None);
        plan.allow_system(SYSTEM);
        plan.allow(&configuration(path))?;
        for place in places::of_broker(config) {
            plan.allow(&place)?;
        }
        plan.warn_of_writable(&[("the configuration", path), ("policies", &config.policies)]);
        Ok(Self { mode: config.broker.sandbox, plan, never: None })
    }

    /// Of `pki serve` with this configuration, which was read from `path`.
    ///
    /// # Errors
    /// When the configuration names what is another authority's own.
    pub(super) fn of_enrolment(path: &Path, config: &EstConfig) -> Result<Self, Failure> {
        let authority = &config.est.authority;
        let mut plan = Plan::new(path, Some(authority));
        plan.allow_system(SYSTEM);
        plan.allow_system(TERMINAL);
        plan.allow(&configuration(path))?;
        for place in places::of_enrolment(config) {
            plan.allow(&place)?;
        }
        plan.allow_own_authority()?;
        plan.warn_of_writable(&[
            ("the configuration", path),
            ("est.policies", &config.est.policies),
        ]);
        // The library of a token's maker opens files that nobody knows.
        let never = Ca::has_key_in_token(authority).then(|| {
            "the key of the authority is in a token, whose library opens files of its own".into()
        });
        Ok(Self { mode: config.sandbox, plan, never })
    }

    /// Makes the folders and files of a broker that it may not make from inside, and removes the
    /// sockets of a dead one, which it may not remove everywhere.
    ///
    /// # Errors
    /// Why the broker could not have been started.
    pub(super) fn prepare_broker(config: &Config) -> Result<(), Failure> {
        audit::prepare(&config.audit.path)
            .map_err(|error| about_audit(&config.audit.path, &error))?;
        if let Some(settings) = &config.store {
            let failed = |error| Failure(format!("store.folder: {error}"));
            store::prepare(settings).map_err(failed)?;
        }
        if let Some(control) = &config.control {
            admin::control::prepare(control)
                .map_err(|error| about_control(&control.path, &error))?;
        }
        let listeners = config.listeners.iter().filter_map(|listener| match &listener.endpoint {
            Endpoint::Unix(path) => Some(path),
            Endpoint::Tcp(_) => None,
        });
        for socket in listeners.chain(config.control.as_ref().map(|control| &control.path)) {
            // Who cannot bind says why.
            let _ = server::remove_stale_socket(socket);
        }
        if let Some(fetch) = config.revocation.as_ref().and_then(|it| it.fetch.as_ref()) {
            pki::files::create_private_folder(&fetch.folder)?;
        }
        Ok(())
    }

    /// Makes what enrolment may not make from inside. What is missing otherwise is told by whoever
    /// needs it.
    pub(super) fn prepare_enrolment(config: &EstConfig) {
        let _ = audit::prepare(&config.audit.path);
        let _ = Ca::prepare(&config.est.authority);
    }

    /// Holds this thread to it, and every one that it starts. To be called before there is another.
    ///
    /// # Errors
    /// When there has to be a sandbox, and there is none.
    pub(super) fn begin(self) -> Result<InForce, Failure> {
        for warning in &self.plan.warnings {
            warn!("sandbox: {warning}");
        }
        let why_not = match (self.mode, &self.never, kernel::support()) {
            // The configuration has a warning of its own.
            (SandboxMode::Off, ..) => return Ok(InForce(None)),
            (_, Some(why), _) => why.clone(),
            (_, None, Support::None(why)) => why.to_owned(),
            (SandboxMode::Require, None, Support::Abi(abi))
                if let Some(why) = kernel::too_little(abi) =>
            {
                why.to_owned()
            }
            (_, None, Support::Abi(abi)) => match kernel::restrict(self.plan.rules()) {
                Ok(()) => {
                    info!(landlock = abi, "the sandbox is in force");
                    return Ok(InForce(Some(self.plan)));
                }
                Err(why) => why,
            },
        };
        if self.mode == SandboxMode::Require {
            return Err(Failure(format!(
                "sandbox is \"require\", and there is none: {why_not}; or write \"on\""
            )));
        }
        warn!("there is no sandbox, and the process can do all that its user may: {why_not}");
        Ok(InForce(None))
    }

    /// The sandbox that there will be, with what is wrong or risky about it for who checks that.
    pub(super) fn checked(
        planned: Result<Self, Failure>,
        warnings: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) -> Option<Self> {
        match planned {
            Ok(sandbox) => {
                warnings.extend(sandbox.warnings());
                problems.extend(sandbox.problem());
                Some(sandbox)
            }
            Err(Failure(why)) => {
                problems.push(why);
                None
            }
        }
    }

    /// What is to be known of it before it begins.
    fn warnings(&self) -> impl Iterator<Item = String> {
        self.plan.warnings.iter().map(|warning| format!("sandbox: {warning}"))
    }

    /// Why it cannot begin, though it has to.
    fn problem(&self) -> Option<String> {
        let why = match kernel::support() {
            Support::None(why) => why,
            Support::Abi(abi) => kernel::too_little(abi)?,
        };
        let is_required = self.mode == SandboxMode::Require;
        is_required.then(|| format!("sandbox is \"require\", and there can be none: {why}"))
    }

    /// What it will be, as data.
    pub(super) fn as_json(&self) -> serde_json::Value {
        let (reads, writes) = self.plan.shown();
        let (abi, why_not) = match (self.mode, kernel::support()) {
            (SandboxMode::Off, _) => (None, Some("it is switched off")),
            (_, Support::Abi(abi)) => (Some(abi), None),
            (_, Support::None(why)) => (None, Some(why)),
        };
        json!({
            "landlock": abi,
            "why_not": why_not,
            "reads": reads,
            "writes": writes,
            "denied": self.plan.denied,
        })
    }

    /// What it will be, for a person, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let (reads, writes) = self.plan.shown();
        let what = match (self.mode, kernel::support()) {
            (SandboxMode::Off, _) => "sandbox: none, it is switched off".to_owned(),
            (_, Support::Abi(abi)) => format!("sandbox: Landlock, version {abi}"),
            (_, Support::None(why)) => return vec![format!("sandbox: none: {why}")],
        };
        let mut lines = vec![what];
        if let Support::Abi(abi) = kernel::support()
            && let Some(left_open) = kernel::left_open(abi)
        {
            lines.push(format!("sandbox leaves open: {left_open}"));
        }
        if self.mode != SandboxMode::Off {
            let each = |what, paths: Vec<&Path>| -> Vec<String> {
                paths.iter().map(|path| format!("sandbox {what} {}", path.display())).collect()
            };
            // Where an authority lies in a folder, what is beside it has rules one by one.
            for (folder, authorities) in &self.plan.around {
                let but: Vec<_> = authorities.iter().map(|it| it.display().to_string()).collect();
                let (folder, but) = (folder.display(), but.join(" and "));
                lines.push(format!("sandbox reads {folder}, as it is at the start, all but {but}"));
            }
            let is_around = |path: &&Path| self.plan.around.keys().any(|it| path.starts_with(it));
            lines.extend(each("reads", reads.into_iter().filter(|it| !is_around(it)).collect()));
            lines.extend(each("writes", writes));
            lines.extend(each("denies", self.plan.denied.iter().map(PathBuf::as_path).collect()));
        }
        lines
    }
}

impl InForce {
    /// Refuses to read a configuration that was replaced out of reach, with the reason.
    ///
    /// # Errors
    /// What lies outside, and the remedy.
    pub(super) fn check_configuration(&self, path: &Path) -> Result<(), Failure> {
        self.check(&configuration(path))
    }

    /// Refuses to read policies that were replaced out of reach.
    ///
    /// # Errors
    /// As [`Self::check_configuration`].
    pub(super) fn check_policies(&self, path: &Path) -> Result<(), Failure> {
        let (key, path) = ("policies".to_owned(), path.to_owned());
        self.check(&Place { key, path, what_for: Use::Policies })
    }

    /// Refuses a configuration that names files which cannot be read from inside, of those that a
    /// reload reads.
    ///
    /// # Errors
    /// As [`Self::check_configuration`].
    pub(super) fn check_reloaded(
        &self,
        origins: &[Origin],
        is_reloaded: impl Fn(&str) -> bool,
    ) -> Result<(), Failure> {
        for Origin { key, paths, .. } in origins.iter().filter(|origin| is_reloaded(&origin.key)) {
            for path in paths {
                let (key, path, what_for) = (key.clone(), path.clone(), Use::Read);
                self.check(&Place { key, path, what_for })?;
            }
        }
        Ok(())
    }

    fn check(&self, place: &Place) -> Result<(), Failure> {
        let why = self.0.as_ref().and_then(|plan| plan.why_outside(&place.path));
        why.map_or(Ok(()), |why| {
            let (key, path) = (&place.key, place.path.display());
            Err(Failure(format!("{key}: {path} {why}: restart the broker")))
        })
    }
}

fn configuration(path: &Path) -> Place {
    Place { key: "--config".to_owned(), path: path.to_owned(), what_for: Use::Read }
}
