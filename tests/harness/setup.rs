//! What a broker is started with. The only place of the tests that spells configuration keys.

use std::fmt::Write as _;
use std::fs;

use tempfile::TempDir;

use super::certificates::{Authority, Identity};
use super::{Broker, Refused};

/// The policies, below the broker's folder.
pub const POLICY_FILE: &str = "policies/test.cedar";
/// The groups and tags, below the broker's folder.
pub const PRINCIPALS_FILE: &str = "policies/principals.toml";
/// The audit log, below the broker's folder.
pub const AUDIT_FOLDER: &str = "audit";
/// The socket of `portcullis ctl`, below the broker's folder.
pub const CONTROL_SOCKET: &str = "control/portcullis.sock";

/// Everybody may do everything.
pub const PERMIT_ALL: &str = "
@id(\"everything\")
@reason(\"a test of what is not policy\")
permit (principal, action, resource);
";

/// A profile whose limits no test meets unless it sets out to.
const GENEROUS: &str = r#"
[profile.default.rate]
packets_per_second = 1000000
packets_burst = 1000000
bytes_per_second = "512MiB"
bytes_burst = "512MiB"
[profile.default.size]
packet_bytes_max = "1MiB"
payload_bytes_max = "1MiB"
topic_bytes_max = 65535
topic_levels_max = 128
client_id_bytes_max = 65535
property_bytes_max = "256KiB"
user_properties_max = 64
filters_per_packet_max = 64
[profile.default.features]
mqtt_3_1 = true
topic_alias_max = 16
session_expiry_max = "1day"
keep_alive_min = "1s"
keep_alive_max = "off"
[profile.default.session]
receive_maximum = 16
inflight_max = 100
sessions_max = 10000
"#;

/// Caps of a listener that let one machine be many clients.
const ADMISSION: &str = r#"
connections_per_address_max = 4096
connections_per_second_per_address = 100000
connections_burst_per_address = 100000
connections_max = 8192
handshakes_max = 4096
connect_deadline = "5s"
first_byte_deadline = "5s"
"#;

/// A broker to be.
pub struct Setup {
    folder: TempDir,
    listeners: String,
    policies: String,
    principals: Option<String>,
    more: String,
    keys: String,
    authority: Option<Authority>,
    generous: bool,
}

impl Setup {
    /// No listener yet, generous limits, everything permitted.
    pub fn new() -> Self {
        Self {
            folder: tempfile::Builder::new().prefix("portcullis-test-").tempdir().unwrap(),
            listeners: String::new(),
            policies: PERMIT_ALL.to_owned(),
            principals: None,
            more: String::new(),
            keys: String::new(),
            authority: None,
            generous: true,
        }
    }

    /// The folder, to put files there before the start.
    pub fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A plaintext listener `mqtt` where everybody is anonymous and may use any client id.
    pub fn plaintext(self) -> Self {
        self.plaintext_named("mqtt", "")
    }

    /// A plaintext listener with further keys.
    pub fn plaintext_named(mut self, name: &str, keys: &str) -> Self {
        let _ = write!(
            self.listeners,
            r#"
[listener.{name}]
address = "127.0.0.1:0"
plaintext = true
identity = "anonymous"
{ADMISSION}
{keys}
"#
        );
        self
    }

    /// A plaintext listener `mqtt` whose clients prove who they are by these methods, each a
    /// table `[authentication.NAME]`.
    pub fn methods(mut self, names: &[&str], tables: &str) -> Self {
        let _ = write!(
            self.listeners,
            r#"
[listener.mqtt]
address = "127.0.0.1:0"
plaintext = true
authentication = {names:?}
{ADMISSION}
{tables}
"#
        );
        self
    }

    /// A plaintext WebSocket listener `ws` at `/mqtt`, for clients and for one origin.
    pub fn websocket(mut self) -> Self {
        self = self.plaintext_named("ws", "");
        self.listeners.push_str(
            r#"[listener.ws.websocket]
path = "/mqtt"
origins = ["https://allowed.example"]
"#,
        );
        self
    }

    /// The WebSocket listeners made so far are open to every page: some clients that are no
    /// browsers send an `Origin`, with a port that is not known beforehand.
    pub fn any_origin(mut self) -> Self {
        self.listeners = self.listeners.replace("https://allowed.example", "*");
        self
    }

    /// A listener `mqtts` with mutual TLS, whose clients are devices named by their
    /// certificate's common name, which is their client id.
    pub fn mutual_tls(self) -> Self {
        self.mutual_tls_with("")
    }

    /// As [`Self::mutual_tls`], with further keys.
    pub fn mutual_tls_with(mut self, keys: &str) -> Self {
        let authority = Authority::new(&self.folder.path().join("certs"), "Test CA");
        let server = authority.server();
        self.add_tls_listener("mqtts", keys, &authority, &server);
        self.authority = Some(authority);
        self
    }

    /// As [`Self::mutual_tls`], and a listener `wss` for WebSocket at `/mqtt`.
    pub fn mutual_tls_and_websocket(mut self) -> Self {
        self = self.mutual_tls();
        let authority = self.authority.take().unwrap();
        let server = authority.server();
        let keys = "websocket = { path = \"/mqtt\", origins = [\"https://allowed.example\"] }";
        self.add_tls_listener("wss", keys, &authority, &server);
        self.authority = Some(authority);
        self
    }

    fn add_tls_listener(
        &mut self,
        name: &str,
        keys: &str,
        authority: &Authority,
        server: &Identity,
    ) {
        // Said by `keys` where it is another.
        let said = keys.lines().any(|line| line.starts_with("identity "));
        let identity = if said { "" } else { "identity = \"certificate-cn\"\n" };
        let by_rules = keys.contains("identity = \"rules\"");
        let principal = if by_rules { "" } else { "principal = \"device\"" };
        let _ = write!(
            self.listeners,
            r#"
[listener.{name}]
address = "127.0.0.1:0"
{identity}{principal}
{ADMISSION}
{keys}
[listener.{name}.tls]
certificate = "{}"
key = "{}"
client_ca = "{}"
"#,
            server.certificate.display(),
            server.key.display(),
            authority.certificate().display(),
        );
    }

    /// A client certificate of the authority of [`Self::mutual_tls`].
    pub fn device(&self, common_name: &str) -> Identity {
        self.authority.as_ref().expect("mutual_tls() comes first").client(common_name)
    }

    /// The authority of [`Self::mutual_tls`].
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("mutual_tls() comes first")
    }

    /// These policies instead of "everything".
    pub fn policies(mut self, text: &str) -> Self {
        text.clone_into(&mut self.policies);
        self
    }

    /// Groups and tags; without them, no group exists.
    pub fn principals(mut self, text: &str) -> Self {
        self.principals = Some(text.to_owned());
        self
    }

    /// The broker's own defaults instead of generous limits.
    pub fn default_limits(mut self) -> Self {
        self.generous = false;
        self
    }

    /// Further configuration, whole tables.
    pub fn config(mut self, text: &str) -> Self {
        self.more.push_str(text);
        self.more.push('\n');
        self
    }

    /// Keys outside all tables.
    pub fn key(mut self, line: &str) -> Self {
        self.keys.push_str(line);
        self.keys.push('\n');
        self
    }

    /// Writes the files.
    fn write(&self) {
        let folder = self.folder.path();
        let policies = folder.join(POLICY_FILE);
        fs::create_dir_all(policies.parent().unwrap()).unwrap();
        fs::write(policies, &self.policies).unwrap();
        if let Some(principals) = &self.principals {
            fs::write(folder.join(PRINCIPALS_FILE), principals).unwrap();
        }
        let profile = if self.generous { GENEROUS } else { "" };
        let text = format!(
            r#"
{}
[audit]
path = "{AUDIT_FOLDER}/audit.jsonl"
[metrics]
address = "127.0.0.1:0"
[control]
socket = "{CONTROL_SOCKET}"
[broker]
drain = "0s"
{profile}
{}
{}
"#,
            self.keys, self.listeners, self.more,
        );
        fs::write(folder.join("portcullis.toml"), text).unwrap();
    }

    /// Starts the broker.
    pub fn start(self) -> Broker {
        self.write();
        Broker::start(self.folder, self.authority)
            .unwrap_or_else(|refused| panic!("the broker refuses to start: {refused:#?}"))
    }

    /// Starts the broker and expects that it refuses.
    pub fn refused(self) -> Refused {
        self.write();
        match Broker::start(self.folder, self.authority) {
            Ok(_) => panic!("the broker started, although it has to refuse"),
            Err(refused) => refused,
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}
