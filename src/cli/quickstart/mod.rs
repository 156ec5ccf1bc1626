//! `portcullis quickstart`: from nothing to a hardened broker on mTLS, and the proof that it
//! lets through what the policies permit and nothing else.

mod client;
mod demonstration;

use std::path::{Path, PathBuf};

use super::reloader::Source;
use super::running::Running;
use super::sandbox::Sandbox;
use super::{Failure, coloured, serve};
use crate::cli::authority::{AuditArgs, AuditFile};
use crate::config::Config;
use crate::pki::files::{self, Access};
use crate::pki::{
    AlternativeNames, CRL_VALIDITY, Ca, KeyType, Layout, NewAuthority, Profile, ProfileName,
    Protection, Subject, no_passphrase,
};
use time::OffsetDateTime;

use client::Credentials;
use demonstration::Places;

const CONFIG: &str = include_str!("portcullis.toml");
/// The starter policies with their cases, as they stand in `policies/starter`.
const POLICIES: [(&str, &str); 5] = [
    ("connect.cedar", include_str!("../../../policies/starter/connect.cedar")),
    ("devices.cedar", include_str!("../../../policies/starter/devices.cedar")),
    ("commands.cedar", include_str!("../../../policies/starter/commands.cedar")),
    ("cases.tsv", include_str!("../../../policies/starter/cases.tsv")),
    ("principals.toml", include_str!("../../../policies/starter/principals.toml")),
];
/// The devices that get certificates.
const DEVICES: [&str; 2] = ["dev1", "dev2"];

/// Makes certificates, configuration and policies where there are none, serves, and shows with
/// two clients what is let through.
#[derive(Debug, clap::Args)]
pub(super) struct QuickstartArgs {
    /// The folder for all of it
    #[arg(value_name = "DIR", default_value = "quickstart")]
    folder: PathBuf,
    /// Ends after the demonstration; fails if any part of it failed
    #[arg(long)]
    once: bool,
    /// Sets a key of the configuration, such as listener.devices.address=127.0.0.1:0
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl QuickstartArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = self.folder;
        refuse_older(&folder)?;
        files::create_private_folder(&folder)?;
        let folders = Folders::of(&folder);
        if folders.make()? {
            return Err(begin_anew());
        }
        let path = folders.broker.join("portcullis.toml");
        let config =
            Config::load(&path, &self.set).map_err(|error| Failure(error.render(coloured())))?;
        serve::log_to_stderr(&config.log);
        let [dev1, dev2] = DEVICES;
        let places = Places {
            devices: [
                Credentials::read(&folders.devices, dev1)?,
                Credentials::read(&folders.devices, dev2)?,
            ],
            policies: config.policies.clone(),
            audit: config.audit.path.clone(),
        };
        // Its devices' sessions are not for a demonstration once somebody may have used them.
        let is_first = config.store.as_ref().is_none_or(|store| !store.folder.exists());
        Sandbox::prepare_broker(&config)?;
        let sandbox = Sandbox::of_broker(&path, &config)?.begin()?;
        let source = Source { path, overrides: self.set, sandbox };
        serve::to_its_end(async {
            let signals = serve::Signals::hear()?;
            let running = Running::start(config, source).await?;
            let address = running
                .addresses
                .iter()
                .find(|(name, _)| &**name == "devices")
                .map(|(_, address)| address.clone())
                .ok_or_else(|| Failure("the configuration has no listener `devices`".to_owned()))?;
            let address = reachable(&address)?;
            let is_shown = is_first || self.once;
            let (places, shown) = tokio::task::spawn_blocking(move || {
                let shown = if is_shown { demonstration::show(&places, address) } else { Ok(()) };
                (places, shown)
            })
            .await?;
            if self.once || shown.is_err() {
                running.stop("the demonstration is over").await;
                return shown;
            }
            print_commands(&folders, &places, &running, address);
            signals.obey(running).await
        })
    }
}

/// A listener on every address is reached over loopback.
fn reachable(address: &str) -> Result<std::net::SocketAddr, Failure> {
    let mut address: std::net::SocketAddr = address.parse()?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(address)
}

/// Where everything is. The authority, and what the devices have, is not in the broker's folder:
/// it may read that, and nothing around it.
struct Folders {
    authority: PathBuf,
    broker: PathBuf,
    devices: PathBuf,
}

impl Folders {
    fn of(folder: &Path) -> Self {
        Self {
            authority: folder.join("ca"),
            broker: folder.join("broker"),
            devices: folder.join("devices"),
        }
    }

    /// Who needs a certificate: the profile, the folder and the name of its files.
    fn certificates(&self) -> [(ProfileName, PathBuf, &'static str); 3] {
        let [dev1, dev2] = DEVICES;
        [
            (ProfileName::Server, self.broker.join("certs"), "server"),
            (ProfileName::Device, self.devices.clone(), dev1),
            (ProfileName::Device, self.devices.clone(), dev2),
        ]
    }

    /// Makes what is missing; what is there stays as it is. True when the key of the authority was
    /// needed.
    fn make(&self) -> Result<bool, Failure> {
        let certs = self.broker.join("certs");
        for folder in [&self.broker, &certs, &self.devices] {
            files::create_private_folder(folder)?;
        }
        let missing: Vec<_> = self
            .certificates()
            .into_iter()
            .filter(|(_, folder, name)| !is_issued(folder, name))
            .collect();
        let trusting = [certs.join("ca.pem"), self.devices.join("ca.pem")];
        let is_asked = !missing.is_empty()
            || !trusting.iter().all(|path| path.exists())
            || self.has_an_old_list(OffsetDateTime::now_utc());
        if is_asked {
            self.issue(missing)?;
            let trust = files::read(&Ca::trust_path(&self.authority))?;
            for path in trusting {
                write_if_absent(&path, &String::from_utf8_lossy(&trust))?;
            }
        }
        write_if_absent(&self.broker.join("portcullis.toml"), CONFIG)?;
        let policies = self.broker.join("policies");
        files::create_private_folder(&policies)?;
        let has_policies = std::fs::read_dir(&policies)?
            .filter_map(Result::ok)
            .any(|entry| entry.path().extension().is_some_and(|extension| extension == "cedar"));
        if !has_policies {
            for (name, text) in POLICIES {
                write_if_absent(&policies.join(name), text)?;
            }
        }
        Ok(is_asked)
    }

    /// True when half of the time is over for which a list of the authority is good. Nobody else
    /// looks after one.
    fn has_an_old_list(&self, now: OffsetDateTime) -> bool {
        let lists = Ca::published_lists(&self.authority);
        lists.iter().flatten().any(|list| list.next_update - now < CRL_VALIDITY / 2)
    }

    /// Issues certificates, by an authority that is made where there is none, and makes its list anew
    /// where that is due.
    fn issue(&self, missing: Vec<(ProfileName, PathBuf, &str)>) -> Result<(), Failure> {
        files::create_private_folder(&self.authority)?;
        let audit = AuditFile::open(&AuditArgs::default(), &self.authority)?;
        let ca = if Ca::certificate_path(&self.authority).exists() {
            Ca::open(&self.authority, &mut no_passphrase, OffsetDateTime::now_utc())?
        } else {
            eprintln!("making {}", Ca::certificate_path(&self.authority).display());
            let new = NewAuthority::unprotected("Portcullis quickstart CA", Layout::RootOnly);
            let ca = Ca::create(&self.authority, &new, OffsetDateTime::now_utc())?;
            audit.created(&ca);
            ca
        };
        let now = OffsetDateTime::now_utc();
        if self.has_an_old_list(now) {
            audit.crls(&ca.write_crls(CRL_VALIDITY, now)?);
        }
        for (profile, folder, name) in missing {
            let subject = match profile {
                ProfileName::Server => localhost(),
                _ => Subject::named(name),
            };
            issue((&ca, &audit), &folder, profile, &subject, name)?;
        }
        audit.close()
    }
}

fn localhost() -> Subject {
    let alternative_names = AlternativeNames {
        dns: vec!["localhost".to_owned()],
        ip: vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()],
        ..AlternativeNames::default()
    };
    Subject { name: "localhost".to_owned(), alternative_names }
}

/// Refuses a folder of an earlier version, whose broker would have the authority's key beside it.
fn refuse_older(folder: &Path) -> Result<(), Failure> {
    let config = folder.join("portcullis.toml");
    if !config.exists() {
        return Ok(());
    }
    Err(Failure(format!(
        "{0} was made by an earlier version, which kept the authority's key among the files of the \
         broker; name another folder, or move this one away. To serve what is there: portcullis \
         serve --config {1}",
        folder.display(),
        config.display()
    )))
}

/// Begins this program anew, as it was called, so that no key of the authority is left in memory.
fn begin_anew() -> Failure {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe();
    let error = program.map(|program| {
        std::process::Command::new(program).args(std::env::args_os().skip(1)).exec()
    });
    let (Ok(error) | Err(error)) = error;
    Failure(format!("everything is made, and serving cannot begin: {error}; run this again"))
}

fn is_issued(folder: &Path, name: &str) -> bool {
    ["pem", "key"].iter().all(|kind| folder.join(format!("{name}.{kind}")).exists())
}

fn issue(
    (ca, audit): (&Ca, &AuditFile),
    certs: &Path,
    profile: ProfileName,
    subject: &Subject,
    file: &str,
) -> Result<(), Failure> {
    let (certificate, key) = (certs.join(format!("{file}.pem")), certs.join(format!("{file}.key")));
    eprintln!("making {}", certificate.display());
    let profile = Profile::built_in(profile)?;
    let (issued, made) = ca.issue(&profile, subject, KeyType::P256, OffsetDateTime::now_utc())?;
    audit.issued(&issued.certificate);
    files::write_new_pair(
        (&key, made.to_pem(&Protection::None)?.as_bytes()),
        (&certificate, issued.chain_pem.as_bytes()),
    )?;
    Ok(())
}

fn write_if_absent(path: &Path, text: &str) -> Result<(), Failure> {
    if !path.exists() {
        eprintln!("making {}", path.display());
        files::write_new(path, text.as_bytes(), Access::Everybody)?;
    }
    Ok(())
}

fn print_commands(
    folders: &Folders,
    places: &Places,
    running: &Running,
    address: std::net::SocketAddr,
) {
    let port = address.port();
    let shown = |path: PathBuf| quoted(&path.display().to_string());
    let of_device = |file: &str| shown(folders.devices.join(file));
    let client = |name: &str| {
        format!(
            "-V 5 -h localhost -p {port} --cafile {ca} --cert {certificate} --key {key} -i {name}",
            ca = of_device("ca.pem"),
            certificate = of_device(&format!("{name}.pem")),
            key = of_device(&format!("{name}.key")),
        )
    };
    let metrics = running.metrics_address.map_or_else(String::new, |address| {
        format!("\n\n  # counters\n  curl http://{address}/metrics")
    });
    say!(
        "\nThe broker is running. Try, in another terminal:\n\n  \
         # dev1 may publish below devices/dev1, dev2 may not\n  \
         mosquitto_pub {dev1} -q 1 -r -t devices/dev1/temperature -m 21.5\n  \
         mosquitto_pub {dev2} -q 1 -t devices/dev1/temperature -m 99\n\n  \
         # dev1 reads its own topics: the message above was retained\n  \
         mosquitto_sub {dev1} -t 'devices/dev1/#' -v\n\n  \
         # a filter that is wider than the policy is refused\n  \
         mosquitto_sub {dev1} -t 'devices/#'\n\n  \
         # why: of any client, and of one that is connected\n  \
         {program} policy explain {policies} Device::dev1 subscribe 'devices/#'\n  \
         {program} ctl --socket {socket} explain dev1 subscribe 'devices/#'\n\n  \
         # every refusal, with its reason\n  \
         tail -f {audit}\n\n  \
         # take the certificate of dev2 back: it is put out, and is refused from then on\n  \
         {program} cert revoke --ca {authority} --name dev2\n\n  \
         # after a change in {policies}: put it in force\n  \
         {program} ctl --socket {socket} reload{metrics}\n\n\
         Stop with Ctrl-C.",
        dev1 = client("dev1"),
        dev2 = client("dev2"),
        audit = quoted(&places.audit.display().to_string()),
        policies = quoted(&places.policies.display().to_string()),
        program = program(),
        authority = shown(folders.authority.clone()),
        socket = shown(folders.broker.join("control/portcullis.sock")),
    );
}

/// How this program was called, to be called so again.
fn program() -> String {
    let path = std::env::current_exe().map(|path| path.display().to_string());
    quoted(path.as_deref().unwrap_or("portcullis"))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};

    use super::{Folders, quoted};

    #[test]
    fn the_list_of_the_authority_is_made_anew_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(folder.path());
        folders.issue(Vec::new()).unwrap();
        let now = OffsetDateTime::now_utc();
        assert!(!folders.has_an_old_list(now));
        assert!(folders.has_an_old_list(now + Duration::days(16)));
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(quoted("quickstart/certs/ca.pem"), "quickstart/certs/ca.pem");
        assert_eq!(quoted("sp ace/it's"), r"'sp ace/it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }
}
