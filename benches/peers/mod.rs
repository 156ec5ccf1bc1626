//! The servers that are measured, each a process of its own on ports of loopback.
#![allow(dead_code, reason = "each benchmark starts its own choice of servers")]

pub(crate) mod relay;

use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Authority, CpuTime, Memory, Target, Version, raise_open_files};
use crate::rules;

/// The argument that makes a benchmark's own binary be the relay.
pub(crate) const RELAY_ARGUMENT: &str = "be-the-relay";

/// The control socket within the server's folder.
const CONTROL: &str = "control/ctl.sock";

/// How long a server may take to listen.
const READY_MAX: Duration = Duration::from_secs(30);

/// The servers that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A bare relay of bytes: the floor.
    Relay,
    /// Mosquitto as the distribution has it, without persistence and without limits.
    Mosquitto,
    /// Portcullis with `config/bench.toml`: every gate, the policies and the audit log.
    Portcullis,
    /// The same, built so that it judges no message: what is left out is the policies' share.
    Unjudged,
    /// Portcullis, told to reload its policies again and again.
    Reloading,
    /// Portcullis, while another one beside it that nobody uses is told so: what the machine makes
    /// of it.
    Beside,
}

impl Server {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 6] = [
        Self::Relay,
        Self::Mosquitto,
        Self::Portcullis,
        Self::Unjudged,
        Self::Reloading,
        Self::Beside,
    ];

    /// The name in tables and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Mosquitto => "mosquitto",
            Self::Portcullis => "portcullis",
            Self::Unjudged => "unjudged",
            Self::Reloading => "reloading",
            Self::Beside => "beside",
        }
    }

    /// The name with its version, for the head of a table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Relay => "bare relay".to_owned(),
            Self::Portcullis => format!("Portcullis {}", env!("CARGO_PKG_VERSION")),
            Self::Unjudged | Self::Reloading => self.name().to_owned(),
            Self::Beside => "another reloading".to_owned(),
            Self::Mosquitto => {
                let help = mosquitto_path().map(|path| Command::new(path).arg("-h").output());
                let help = help.and_then(Result::ok).map(|output| output.stdout);
                let help = String::from_utf8(help.unwrap_or_default()).unwrap_or_default();
                let version = help.split_whitespace().nth(2).unwrap_or_default();
                format!("Mosquitto {version}")
            }
        }
    }

    /// Whether it can be started at all.
    pub(crate) fn is_installed(self, options: &Options) -> bool {
        match self {
            Self::Mosquitto => mosquitto_path().is_some(),
            Self::Unjudged => options.unjudged.is_some(),
            Self::Reloading | Self::Beside => options.reloading.is_some(),
            Self::Relay | Self::Portcullis => true,
        }
    }
}

impl FromStr for Server {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|server| server.name() == name).ok_or(())
    }
}

/// Portcullis as the bench is told to run it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// More `--set key=value` for Portcullis.
    pub(crate) settings: Vec<String>,
    /// Its configuration, unless `config/bench.toml`.
    pub(crate) config: Option<PathBuf>,
    /// So many policies beside those of `policies/permissive`.
    pub(crate) policies: usize,
    /// Columns for Portcullis while policies are reloaded, with such a pause after each time.
    pub(crate) reloading: Option<Duration>,
    /// Mosquitto writes its snapshots.
    pub(crate) persistence: bool,
    /// The program built with `--cfg portcullis_unjudged`.
    pub(crate) unjudged: Option<PathBuf>,
    /// The protocol version that the clients speak.
    pub(crate) version: Version,
}

impl Options {
    /// Takes `argument` if it is one of these options, with its value from `rest`.
    pub(crate) fn take(
        &mut self,
        argument: &str,
        rest: &mut std::slice::Iter<'_, String>,
    ) -> Result<bool, String> {
        match argument {
            "--v5" => self.version = Version::V5,
            "--set" => self.settings.push(value(argument, rest)?),
            "--reloading" => {
                self.reloading = Some(Duration::from_millis(value(argument, rest)?));
            }
            "--policies" => self.policies = value(argument, rest)?,
            "--config" => self.config = Some(absolute(value(argument, rest)?)?),
            "--unjudged" => self.unjudged = Some(absolute(value(argument, rest)?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

/// The value that follows the option `name`.
pub(crate) fn value<T: FromStr>(
    name: &str,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<T, String> {
    let text = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
    text.parse().map_err(|_| format!("{name} does not take {text}"))
}

/// A running server. Dropping it ends it and removes its folder.
pub(crate) struct Running {
    child: Child,
    plain: SocketAddr,
    mtls: SocketAddr,
    authority: Arc<Authority>,
    version: Version,
    /// Ends with the value.
    reloading: Option<Sender<()>>,
    /// Another that is reloaded.
    beside: Option<Box<Self>>,
    folder: TempDir,
}

impl Running {
    /// Starts `server` in a new temporary folder and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed, exits, or does not listen within 30 seconds.
    pub(crate) fn start(server: Server, options: &Options) -> io::Result<Self> {
        raise_open_files()?;
        let folder = tempfile::Builder::new()
            .prefix("portcullis-bench-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()?;
        let authority = Authority::create(folder.path())?;
        let (plain, mtls) = (free_address()?, free_address()?);
        let child = command(server, options, folder.path(), &authority, plain, mtls)?.spawn()?;
        let version = options.version;
        let (reloading, beside) = (None, None);
        let mut running =
            Self { child, plain, mtls, authority, version, reloading, beside, folder };
        running.wait_until_ready(server)?;
        if server == Server::Reloading {
            let pause = options.reloading.unwrap_or_default();
            running.reloading = Some(keep_reloading(&running.folder.path().join(CONTROL), pause));
        }
        if server == Server::Beside {
            running.beside = Some(Box::new(Self::start(Server::Reloading, options)?));
        }
        Ok(running)
    }

    fn launch(&mut self, server: Server, options: &Options) -> io::Result<()> {
        let folder = self.folder.path();
        let mut command = command(server, options, folder, &self.authority, self.plain, self.mtls)?;
        self.child = command.spawn()?;
        self.wait_until_ready(server)
    }

    fn wait_until_ready(&mut self, server: Server) -> io::Result<()> {
        let ready = match server {
            Server::Portcullis | Server::Unjudged | Server::Reloading | Server::Beside => {
                self.read_ready_line()
            }
            Server::Relay | Server::Mosquitto => self.wait_for_port(),
        };
        ready.map_err(|error| {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            let log = log.unwrap_or_default();
            io::Error::other(format!("{} is not ready: {error}\n{log}", server.name()))
        })
    }

    /// The plaintext listener.
    pub(crate) fn plain(&self) -> Target {
        Target { address: self.plain, authority: None, version: self.version }
    }

    /// The mutual TLS listener.
    pub(crate) fn mtls(&self) -> Target {
        let authority = Some(Arc::clone(&self.authority));
        Target { address: self.mtls, authority, version: self.version }
    }

    /// Bytes of disk that its folder takes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        disk_bytes(self.folder.path())
    }

    /// Kills it and starts it again on the same folder: the time and the CPU time until it
    /// listens.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub(crate) fn kill_and_restart(
        &mut self,
        server: Server,
        options: &Options,
    ) -> io::Result<(Duration, CpuTime)> {
        self.child.kill()?;
        self.child.wait()?;
        let began = Instant::now();
        self.launch(server, options)?;
        Ok((began.elapsed(), self.cpu()))
    }

    /// A number of `portcullis ctl status`; `None` from any other server.
    pub(crate) fn status(&self, name: &str) -> Option<u64> {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        ctl.arg("ctl").arg("--socket").arg(self.folder.path().join(CONTROL));
        let output = ctl.args(["status", "--json"]).stderr(Stdio::null()).output().ok()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status.get(name)?.as_u64()
    }

    /// CPU time until now.
    pub(crate) fn cpu(&self) -> CpuTime {
        CpuTime::of(self.child.id())
    }

    /// Memory now.
    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }

    /// Reads `{"ready":true,"listeners":{"plain":"127.0.0.1:1883",…}}` from its standard output.
    fn read_ready_line(&mut self) -> io::Result<()> {
        let stdout = self.child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, receiver) = mpsc::channel();
        // Reads on to the end, so that the server never meets a closed pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + READY_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = receiver.recv_timeout(left).map_err(|_| {
                io::Error::other("it printed no line with \"ready\" on standard output")
            })?;
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if value.get("ready") != Some(&serde_json::Value::Bool(true)) {
                continue;
            }
            let address = |name: &str| -> io::Result<SocketAddr> {
                let text = value.get("listeners").and_then(|all| all.get(name)?.as_str());
                let text = text.ok_or_else(|| io::Error::other(format!("no listener {name}")))?;
                text.parse().map_err(io::Error::other)
            };
            self.plain = address("plain")?;
            self.mtls = address("mtls")?;
            return Ok(());
        }
    }

    fn wait_for_port(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(status.to_string()));
            }
            match TcpStream::connect(self.plain) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reloading = None;
        self.beside = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(
    server: Server,
    options: &Options,
    folder: &Path,
    authority: &Authority,
    plain: SocketAddr,
    mtls: SocketAddr,
) -> io::Result<Command> {
    let mut command = match server {
        Server::Relay => relay(plain)?,
        Server::Mosquitto => mosquitto(folder, authority, plain, mtls, options.persistence)?,
        Server::Portcullis | Server::Reloading | Server::Beside => {
            portcullis(None, folder, authority, options)?
        }
        Server::Unjudged => portcullis(options.unjudged.as_deref(), folder, authority, options)?,
    };
    let log = std::fs::File::create(folder.join("log"))?;
    command.stdin(Stdio::null()).stderr(log);
    Ok(command)
}

/// Tells a broker to reload, one time after the other, until the sender is dropped.
fn keep_reloading(socket: &Path, pause: Duration) -> Sender<()> {
    let (sender, ended) = mpsc::channel::<()>();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
            let mut ctl = Command::new(env!("CARGO_BIN_EXE_portcullis"));
            ctl.arg("ctl").arg("--socket").arg(&socket).arg("reload").stdout(Stdio::null());
            if !ctl.status().is_ok_and(|status| status.success()) {
                return;
            }
        }
    });
    sender
}

/// What the files below a folder take on disk, holes not counted.
fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // Removed meanwhile.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

fn relay(address: SocketAddr) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(RELAY_ARGUMENT).arg(address.to_string()).stdout(Stdio::null());
    Ok(command)
}

fn mosquitto(
    folder: &Path,
    authority: &Authority,
    plain: SocketAddr,
    mtls: SocketAddr,
    persistence: bool,
) -> io::Result<Command> {
    let program = mosquitto_path().ok_or_else(|| io::Error::other("not installed"))?;
    let config = format!(
        "user root\n\
         persistence {persistence}\n\
         persistence_location {folder}/\n\
         autosave_interval 1800\n\
         allow_anonymous true\n\
         max_inflight_messages 0\n\
         max_queued_messages 0\n\
         set_tcp_nodelay true\n\
         log_type error\n\
         log_dest stderr\n\
         listener {plain_port} 127.0.0.1\n\
         listener {mtls_port} 127.0.0.1\n\
         cafile {ca}\n\
         certfile {certificate}\n\
         keyfile {key}\n\
         require_certificate true\n",
        folder = folder.display(),
        plain_port = plain.port(),
        mtls_port = mtls.port(),
        ca = authority.ca_certificate().display(),
        certificate = authority.server_certificate().display(),
        key = authority.server_key().display(),
    );
    let path = folder.join("mosquitto.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(path).stdout(Stdio::null());
    Ok(command)
}

fn portcullis(
    program: Option<&Path>,
    folder: &Path,
    authority: &Authority,
    options: &Options,
) -> io::Result<Command> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = options.config.clone().unwrap_or_else(|| package.join("config/bench.toml"));
    let this = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut command = Command::new(program.unwrap_or(this));
    command.arg("serve").arg("--config").arg(config).arg("--ready-json");
    let mut set = |key: &str, value: &str| {
        command.arg("--set").arg(format!("{key}={value}"));
    };
    set("store.folder", &folder.join("store").display().to_string());
    set("control.socket", &folder.join(CONTROL).display().to_string());
    set("audit.path", &folder.join("audit/audit.jsonl").display().to_string());
    set("listener.plain.address", "127.0.0.1:0");
    set("listener.mtls.address", "127.0.0.1:0");
    let tls = [
        ("certificate", authority.server_certificate()),
        ("key", authority.server_key()),
        ("client_ca", authority.ca_certificate()),
    ];
    for (key, path) in tls {
        set(&format!("listener.mtls.tls.{key}"), &path.display().to_string());
    }
    if options.policies > 0 {
        let policies = folder.join("policies");
        std::fs::create_dir_all(&policies)?;
        let permissive = package.join("policies/permissive/allow-all.cedar");
        rules::write(&policies, &std::fs::read_to_string(permissive)?, options.policies)?;
        set("policies", &policies.display().to_string());
    }
    for setting in &options.settings {
        command.arg("--set").arg(setting);
    }
    // Relative paths of the configuration, for the audit log, end with the run.
    command.current_dir(folder).stdout(Stdio::piped());
    Ok(command)
}

fn mosquitto_path() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("mosquitto"))
        .find(|path| path.is_file())
}

/// An address of loopback that is free now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
