//! Where a store, a backup or a running broker is.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure;
use crate::admin::control::{Command, Request, Response};
use crate::cli::{Failure, coloured};
use crate::config::Config;
use crate::harmless::harmless;
use crate::store::{self, Reading, StoreError};

/// For sending the request.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// For a part of the answer: a disk may be busy with something else.
const READ_DEADLINE: Duration = Duration::from_mins(1);
/// Bytes of the line before a backup.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The configuration that says where the store is.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// The broker's configuration file, which says where the store and the control socket are
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets a key of the configuration, as for `serve`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What is read.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("place").required(true).args(["from", "config"]))]
pub(super) struct FromArgs {
    /// The folder of a backup, or of a store that no broker uses
    #[arg(value_name = "FROM")]
    from: Option<PathBuf>,
    /// The broker's configuration file: its store is read, from the broker itself where it runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a key of the configuration, as for `serve`
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
}

impl FromArgs {
    /// True when a backup is meant.
    pub(super) fn is_backup(&self) -> bool {
        self.from.as_ref().is_some_and(|from| from.join(store::MANIFEST).exists())
    }
}

/// A store by its configuration.
pub(super) struct Place {
    pub(super) settings: store::Settings,
    socket: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn place(&self) -> Result<Place, Failure> {
        Place::of(&self.config, &self.set)
    }
}

impl FromArgs {
    /// What is to be read.
    pub(super) fn reading(&self) -> Result<Reading, Failure> {
        self.read(Reading::at, Ok)
    }

    /// Reads with `read_folder`; what a running broker has, with `read`.
    pub(super) fn read<T>(
        &self,
        read_folder: impl FnOnce(&Path) -> Result<T, StoreError>,
        read: impl FnOnce(Reading) -> Result<T, StoreError>,
    ) -> Result<T, Failure> {
        match (&self.from, &self.config) {
            (_, Some(config)) => Place::of(config, &self.set)?.read(read_folder, read),
            (from, None) => match read_folder(from.as_deref().unwrap_or(Path::new("."))) {
                Err(error @ StoreError::InUse(_)) => {
                    let remedy = "name the broker's configuration with --config instead";
                    Err(Failure(format!("{error}; {remedy}")))
                }
                read => read.map_err(|error| failure(&error)),
            },
        }
    }
}

impl Place {
    fn of(config: &Path, set: &[String]) -> Result<Self, Failure> {
        let config =
            Config::load(config, set).map_err(|error| Failure(error.render(coloured())))?;
        let settings = config.store.ok_or_else(|| {
            Failure("store.durability is \"memory\": there is no store; set it to \"fsync\"".into())
        })?;
        Ok(Self { settings, socket: config.control.map(|control| control.path) })
    }

    /// The store to be read, or what the broker sends that has it open.
    pub(super) fn reading(&self) -> Result<Reading, Failure> {
        self.read(Reading::at, Ok)
    }

    /// Reads the store, from the broker where one has it open.
    fn read<T>(
        &self,
        read_folder: impl FnOnce(&Path) -> Result<T, StoreError>,
        read: impl FnOnce(Reading) -> Result<T, StoreError>,
    ) -> Result<T, Failure> {
        match read_folder(&self.settings.folder) {
            Err(error @ StoreError::InUse(_)) => match &self.socket {
                Some(socket) => read(ask(socket)?).map_err(|error| failure(&error)),
                None => {
                    let remedy = "stop it, or set control.socket and start it again";
                    Err(Failure(format!("{error}; {remedy}")))
                }
            },
            read => read.map_err(|error| failure(&error)),
        }
    }
}

/// Asks a running broker for all that its store holds.
fn ask(socket: &Path) -> Result<Reading, Failure> {
    let about = |error: io::Error| Failure(format!("{}: {error}", socket.display()));
    let asked = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(SEND_DEADLINE))?;
        stream.set_read_timeout(Some(READ_DEADLINE))?;
        let mut request = serde_json::to_vec(&Request::from(Command::Backup))?;
        request.push(b'\n');
        // A broker that refuses this user answers without reading.
        let sent = stream.write_all(&request);
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        stream.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            sent?;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker did not answer"));
        }
        Ok((serde_json::from_slice::<Response>(&line)?, stream))
    };
    match asked().map_err(about)? {
        (Response::Done(_), stream) => Ok(Reading::stream(Box::new(stream))),
        (Response::Failed(why), _) => {
            Err(Failure(format!("the broker refuses: {}", harmless(&why))))
        }
    }
}
