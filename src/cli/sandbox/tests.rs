//! The rules are tried on the system itself: each test confines a thread of its own.

use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::time::Duration;

use time::OffsetDateTime;

use super::*;
use crate::pki::{Layout, NewAuthority, no_passphrase};

const CONFIG: &str = "\
[listener.devices]
address = \"127.0.0.1:0\"
[listener.devices.tls]
certificate = \"certs/server.pem\"
key = \"certs/server.key\"
client_ca = \"certs/ca.pem\"
[control]
socket = \"control/portcullis.sock\"
";

/// A folder with a configuration, and what that names.
struct Place(tempfile::TempDir);

impl Place {
    fn new(config: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("portcullis.toml", config);
        for name in ["server.pem", "server.key", "ca.pem"] {
            place.write(&format!("certs/{name}"), name);
        }
        place.write("policies/all.cedar", "permit (principal, action, resource);");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Puts another file, or folder, in the place of one, as editors and tools of deployment do.
    fn replace(&self, name: &str, by: &str) {
        std::fs::rename(self.path(by), self.path(name)).unwrap();
    }

    fn authority(&self, name: &str) -> Ca {
        let new = NewAuthority::unprotected("Plant", Layout::RootAndIssuing);
        Ca::create(&self.path(name), &new, OffsetDateTime::now_utc()).unwrap()
    }

    fn broker(&self) -> Result<Sandbox, Failure> {
        let path = self.path("portcullis.toml");
        let config = Config::load(&path, &[]).unwrap();
        Sandbox::prepare_broker(&config)?;
        Sandbox::of_broker(&path, &config)
    }

    fn enrolment(&self) -> Sandbox {
        let path = self.path("pki.toml");
        let config = EstConfig::load(&path, &[]).unwrap();
        Sandbox::prepare_enrolment(&config);
        Sandbox::of_enrolment(&path, &config).unwrap()
    }

    fn confine(&self, sandbox: Sandbox) -> Confined {
        Confined::by(sandbox, self.0.path())
    }
}

type Task = Box<dyn FnOnce(&InForce) + Send>;

/// A thread that does what it is told in a sandbox.
struct Confined {
    tasks: mpsc::Sender<Task>,
    folder: PathBuf,
}

impl Confined {
    fn by(sandbox: Sandbox, folder: &Path) -> Self {
        assert!(matches!(kernel::support(), Support::Abi(_)), "these tests need Landlock");
        let (tasks, told) = mpsc::channel::<Task>();
        std::thread::spawn(move || {
            let in_force = sandbox.begin().unwrap();
            for task in told {
                task(&in_force);
            }
        });
        Self { tasks, folder: folder.to_owned() }
    }

    fn run<T: Send + 'static>(&self, task: impl FnOnce(&InForce) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let task = move |in_force: &InForce| answer.send(task(in_force)).unwrap();
        self.tasks.send(Box::new(task)).unwrap();
        answered.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let path = self.folder.join(name);
        self.run(move |_| std::fs::read_to_string(path))
    }

    fn is_denied(&self, name: &str) -> bool {
        self.read(name).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    fn may_write(&self, name: &str) -> bool {
        let path = self.folder.join(name);
        self.run(move |_| std::fs::write(path, "written")).is_ok()
    }
}

/// Threat: the issuing key beside the broker.
#[test]
fn an_authority_beside_the_configuration_cannot_be_read() {
    let place = Place::new(CONFIG);
    place.authority("ca");
    place.authority("deeper/below/ca");
    place.write("deeper/note", "a note");
    place.write("openssl/ca.key", "of another make");
    let sandbox = place.broker().unwrap();
    let warnings: Vec<String> = sandbox.warnings().collect();
    assert!(warnings.iter().any(|it| it.contains("/ca lies in")), "{warnings:?}");
    let folder = place.0.path().canonicalize().unwrap();
    let lines = sandbox.lines();
    let reads: Vec<_> = lines.iter().filter(|it| it.starts_with("sandbox reads")).collect();
    let expected = format!("sandbox reads {}, as it is at the start, all but ", folder.display());
    assert_eq!(reads.len(), 1, "{reads:?}");
    assert!(reads[0].starts_with(&expected) && reads[0].contains("/ca"), "{reads:?}");
    let confined = place.confine(sandbox);
    for key in [
        "ca/ca.key",
        "ca/root.key",
        "ca/inventory.jsonl",
        "ca/trust.pem",
        "deeper/below/ca/ca.key",
        "openssl/ca.key",
    ] {
        assert!(confined.is_denied(key), "{key}");
        assert!(!confined.may_write(key), "{key}");
    }
    for name in ["portcullis.toml", "certs/server.key", "policies/all.cedar", "deeper/note"] {
        confined.read(name).unwrap();
    }
    // By whatever way it is asked for.
    symlink("../ca/ca.key", place.path("certs/link.pem")).unwrap();
    assert!(confined.is_denied("certs/link.pem"));
    assert!(confined.is_denied("certs/../ca/ca.key"));
    assert!(confined.is_denied("/proc/self/root/proc/../etc/shadow"));
    // What is made beside later, and what takes the place of a file there, is out of reach too.
    place.write("new.toml", "");
    assert!(confined.is_denied("new.toml"));
    place.replace("portcullis.toml", "new.toml");
    let path = place.path("portcullis.toml");
    let told = confined.run(move |in_force| in_force.check_configuration(&path));
    assert!(told.unwrap_err().0.contains("was replaced, and the sandbox has what was there"));
}

#[test]
fn what_is_replaced_is_read_again_where_no_authority_lies_beside_it() {
    let place = Place::new(CONFIG);
    let confined = place.confine(place.broker().unwrap());
    for name in ["portcullis.toml", "certs/server.pem"] {
        place.write("next", "next");
        place.replace(name, "next");
        assert_eq!(confined.read(name).unwrap(), "next");
    }
    // The folder of the policies as a whole.
    place.write("next/all.cedar", "next");
    std::fs::rename(place.path("policies"), place.path("before")).unwrap();
    place.replace("policies", "next");
    assert_eq!(confined.read("policies/all.cedar").unwrap(), "next");
}

#[test]
fn what_links_lead_to_may_be_switched() {
    // A volume of secrets, and releases of policies.
    let place = Place::new(
        &CONFIG
            .replace("certs/", "secrets/")
            .replace("[control]", "[audit]\npath = \"log/audit.jsonl\"\n[control]"),
    );
    let elsewhere = tempfile::tempdir().unwrap();
    for release in ["one", "two"] {
        let folder = elsewhere.path().join("volume").join(release);
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["server.pem", "server.key", "ca.pem"] {
            std::fs::write(folder.join(name), release).unwrap();
        }
    }
    let volume = elsewhere.path().join("volume");
    symlink("one", volume.join("..data")).unwrap();
    std::fs::create_dir(place.path("secrets")).unwrap();
    for name in ["server.pem", "server.key", "ca.pem"] {
        symlink(volume.join("..data").join(name), place.path("secrets").join(name)).unwrap();
    }
    std::fs::write(elsewhere.path().join("other"), "secret").unwrap();
    let confined = place.confine(place.broker().unwrap());
    assert_eq!(confined.read("secrets/server.pem").unwrap(), "one");
    symlink("two", volume.join("..next")).unwrap();
    std::fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
    assert_eq!(confined.read("secrets/server.pem").unwrap(), "two");
    let other = elsewhere.path().join("other");
    assert!(confined.is_denied(other.to_str().unwrap()));
}

#[test]
fn a_broker_writes_what_is_its_own_and_runs_nothing() {
    let place = Place::new(CONFIG);
    let confined = place.confine(place.broker().unwrap());
    assert!(confined.may_write("store/data.new"));
    for name in ["portcullis.toml", "policies/more.cedar", "certs/server.pem", "new", "/tmp/x"] {
        assert!(!confined.may_write(name), "{name}");
    }
    let (log, socket) = (place.path("audit/audit.jsonl"), place.path("control/portcullis.sock"));
    confined.run(move |_| {
        std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        assert!(std::fs::remove_file(&log).is_err(), "the log stays");
        assert!(std::fs::File::create(&log).is_err(), "and so does what is in it");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::fs::remove_file(&socket).unwrap();
        let ran = std::process::Command::new("/bin/true").status();
        assert_eq!(ran.unwrap_err().kind(), ErrorKind::PermissionDenied);
        // What the C library needs to find a host.
        std::fs::read("/etc/nsswitch.conf").unwrap();
        assert!(std::fs::read("/etc/passwd").is_err());
    });
}

#[test]
fn a_configuration_that_names_what_is_an_authority_s_own_is_refused() {
    let place = Place::new(CONFIG);
    place.authority("ca");
    symlink("../ca/ca.key", place.path("certs/linked.key")).unwrap();
    for named in ["ca/ca.key", "ca/root.key", "ca/inventory.jsonl", "certs/linked.key"] {
        place.write("portcullis.toml", &CONFIG.replace("certs/server.key", named));
        let told = place.broker().unwrap_err().0;
        assert!(told.starts_with("listener.devices.tls.key: "), "{told}");
        assert!(told.contains("is the authority's own"), "{told}");
    }
    for (key, what) in [("policies = \"ca\"", "policies: "), ("[store]\nfolder = \".\"", "store.")]
    {
        place.write("portcullis.toml", &format!("{key}\n{CONFIG}"));
        let told = place.broker().unwrap_err().0;
        assert!(told.starts_with(what), "{told}");
    }
}

/// A list of revoked certificates is written anew by the authority, beside its keys.
#[test]
fn what_an_authority_publishes_is_read_again_and_nothing_else_of_it() {
    let config = CONFIG.replace("certs/ca.pem", "ca/trust.pem");
    let place = Place::new(&format!("{config}[revocation]\nlists = [\"ca/crls.pem\"]\n"));
    let authority = place.authority("ca");
    let confined = place.confine(place.broker().unwrap());
    let before = confined.read("ca/crls.pem").unwrap();
    confined.read("ca/trust.pem").unwrap();
    authority.write_crls(Duration::from_hours(1), OffsetDateTime::now_utc()).unwrap();
    assert_ne!(confined.read("ca/crls.pem").unwrap(), before);
    assert!(confined.is_denied("ca/ca.key"));

    // Where an earlier version has it among the keys, the next one could not be read.
    std::fs::remove_file(place.path("ca/crls.pem")).unwrap();
    place.write("ca/crls.pem", &before);
    let told = place.broker().unwrap_err().0;
    assert!(told.contains("run: portcullis ca crl --dir "), "{told}");
    authority.write_crls(Duration::from_hours(1), OffsetDateTime::now_utc()).unwrap();
    place.broker().unwrap();
}

#[test]
fn enrolment_has_its_authority_without_the_key_of_the_root_and_no_other() {
    let place = Place::new("");
    place.write(
        "pki.toml",
        "[est]\naddress = \"127.0.0.1:0\"\npolicies = \"policies\"\n\
         [est.tls]\ncertificate = \"certs/server.pem\"\nkey = \"certs/server.key\"\n",
    );
    place.authority("ca");
    place.authority("other");
    let confined = place.confine(place.enrolment());
    assert!(confined.is_denied("ca/root.key"));
    assert!(confined.is_denied("other/ca.key"));
    let folder = place.path("ca");
    confined.run(move |_| {
        let now = OffsetDateTime::now_utc();
        let authority = Ca::open(&folder, &mut no_passphrase, now).unwrap();
        authority.write_crls(Duration::from_hours(1), now).unwrap();
        let tokens = pki::Tokens::of(&folder).unwrap();
        let device = pki::ProfileName::Device;
        let (_, token) = tokens.create("dev1", device, time::Duration::HOUR, now).unwrap();
        tokens.spend("dev1", &token, now).unwrap().unwrap();
    });
    // Tokens that somebody else makes meanwhile are found.
    let tokens = pki::Tokens::of(&place.path("ca")).unwrap();
    let now = OffsetDateTime::now_utc();
    let (_, token) =
        tokens.create("dev2", pki::ProfileName::Device, time::Duration::HOUR, now).unwrap();
    let folder = place.path("ca");
    confined.run(move |_| {
        let tokens = pki::Tokens::of(&folder).unwrap();
        tokens.spend("dev2", &token, now).unwrap().unwrap();
    });

    // Without the key of a root all of it is there, whatever takes its place.
    std::fs::rename(place.path("ca/root.key"), place.path("kept-elsewhere.key")).unwrap();
    let confined = place.confine(place.enrolment());
    std::fs::copy(place.path("ca/ca.key"), place.path("next.key")).unwrap();
    place.replace("ca/ca.key", "next.key");
    confined.read("ca/ca.key").unwrap();
    assert!(confined.is_denied("other/ca.key"));
}

#[test]
fn a_reload_is_told_what_lies_outside() {
    let place = Place::new(CONFIG);
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("server.pem");
    std::fs::write(&outside, "").unwrap();
    let confined = place.confine(place.broker().unwrap());
    let config = CONFIG.replace("certs/server.pem", outside.to_str().unwrap());
    let named = Config::from_text("p.toml", &config, place.0.path(), &[]).unwrap();
    let told = confined.run(move |it| it.check_reloaded(&named.origins, |_| true)).unwrap_err().0;
    assert!(told.starts_with("listener.devices.tls.certificate: "), "{told}");
    let why = "is outside the sandbox that was made at the start: restart the broker";
    assert!(told.ends_with(why), "{told}");
    let same = Config::from_text("p.toml", CONFIG, place.0.path(), &[]).unwrap();
    confined.run(move |it| it.check_reloaded(&same.origins, |_| true)).unwrap();
}

/// As in a quickstart of an earlier version.
#[test]
fn a_log_beside_the_configuration_makes_nothing_else_writable() {
    let place = Place::new(&format!("{CONFIG}[audit]\npath = \"audit.jsonl\"\n"));
    let confined = place.confine(place.broker().unwrap());
    let log = place.path("audit.jsonl");
    confined.run(move |_| drop(std::fs::OpenOptions::new().append(true).open(log).unwrap()));
    for name in ["portcullis.toml", "policies/all.cedar", "new"] {
        assert!(!confined.may_write(name), "{name}");
    }
}

#[test]
fn a_socket_beside_the_configuration_lets_nothing_be_removed_and_one_beside_an_authority_is_refused()
 {
    let listener = "[listener.local]\nunix = \"run/b.sock\"\nplaintext = true\n\
                    identity = \"anonymous\"\n";
    let place = Place::new(&format!("{CONFIG}{}", listener.replace("run/", "")));
    let sandbox = place.broker().unwrap();
    let warned = |sandbox: &Sandbox, what: &str| sandbox.warnings().any(|it| it.contains(what));
    assert!(warned(&sandbox, "listener.local.unix: "), "{sandbox:?}");
    let confined = place.confine(sandbox);
    let (folder, own) = (place.0.path().to_owned(), place.path("control/old.sock"));
    place.write("control/old.sock", "");
    confined.run(move |_| {
        drop(std::os::unix::net::UnixListener::bind(folder.join("b.sock")).unwrap());
        for name in ["b.sock", "portcullis.toml", "policies/all.cedar", "certs/server.key"] {
            let refused = std::fs::remove_file(folder.join(name)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{name}");
        }
        std::fs::remove_file(own).unwrap();
    });
    // What stays behind is removed before there is a sandbox.
    assert!(place.path("b.sock").exists());
    place.broker().unwrap();
    assert!(!place.path("b.sock").exists());
    // The policies in or below the folder of the socket.
    place.write("run/policies/all.cedar", "permit (principal, action, resource);");
    place.write("portcullis.toml", &format!("policies = \"run/policies\"\n{CONFIG}{listener}"));
    assert!(warned(&place.broker().unwrap(), "written or removed, and policies is in it"));
    // An authority.
    place.write("portcullis.toml", &format!("{CONFIG}{listener}"));
    assert!(!warned(&place.broker().unwrap(), "listener.local.unix"));
    place.authority("run/ca");
    let told = place.broker().unwrap_err().0;
    assert!(told.starts_with("listener.local.unix: "), "{told}");
    assert!(told.ends_with("give the socket a folder of its own"), "{told}");
}

/// A key that names a path and that nobody thought of is a file to be read.
#[test]
fn what_is_done_with_each_path_of_the_configuration() {
    let text = "\
[listener.a]
address = \"127.0.0.1:0\"
authentication = [\"p\", \"s\"]
[listener.a.tls]
certificate = \"c\"
key = \"k\"
client_ca = \"a\"
[listener.b]
unix = \"run/b.sock\"
plaintext = true
authentication = [\"p\"]
[authentication.p]
method = \"password\"
file = \"hashes/passwords\"
[authentication.s]
method = \"scram\"
file = \"hashes/scram\"
[control]
socket = \"run/c.sock\"
[revocation]
lists = [\"l\"]
";
    let uses = |text: &str| -> Vec<(String, Use)> {
        let config = Config::from_text("p.toml", text, Path::new("/x"), &[]).unwrap();
        let places = places::of_broker(&config).into_iter();
        places.map(|place| (place.key, place.what_for)).collect()
    };
    let expected = [
        ("audit.path", Use::Append),
        ("authentication.p.file", Use::Credentials),
        ("authentication.s.file", Use::Read),
        ("control.socket", Use::Socket),
        ("listener.a.tls.certificate", Use::Read),
        ("listener.a.tls.client_ca", Use::Read),
        ("listener.a.tls.key", Use::Read),
        ("listener.b.unix", Use::Socket),
        ("policies", Use::Policies),
        ("revocation.lists", Use::List),
        ("store.folder", Use::Own),
    ];
    let expected: Vec<_> = expected.map(|(key, it)| (key.to_owned(), it)).into();
    assert_eq!(uses(text), expected);
    let fetching = format!("{text}fetch = [\"http://a/b\"]\n[store]\ndurability = \"memory\"\n");
    let fetching = uses(&fetching);
    assert!(fetching.contains(&("revocation.fetched".to_owned(), Use::Own)), "{fetching:?}");
    assert!(!fetching.iter().any(|(key, _)| key == "store.folder"), "{fetching:?}");
}

#[test]
fn a_folder_with_everything_in_it_is_not_allowed_for_one_file() {
    for folder in ["/", "/etc", "/var/lib", "/home/ann", "/tmp"] {
        assert!(way::is_broad(Path::new(folder)), "{folder}");
    }
    for folder in ["/etc/portcullis", "/home/ann/broker", "/srv/mqtt"] {
        assert!(!way::is_broad(Path::new(folder)), "{folder}");
    }
    let place = Place::new(&CONFIG.replace("certs/ca.pem", "/etc/hostname"));
    let sandbox = place.broker().unwrap();
    let warned = sandbox.warnings().any(|it| it.contains("lies directly in /etc"));
    assert!(warned || !Path::new("/etc/hostname").exists());
    let confined = place.confine(sandbox);
    assert!(confined.is_denied("/etc/passwd"));
    assert!(!confined.is_denied("/etc/hostname"));
}

#[test]
fn what_an_old_landlock_leaves_open_is_said_and_too_little_where_it_is_required() {
    for (abi, cuts, signals) in [(2, true, true), (3, false, true), (5, false, true)] {
        let said = kernel::left_open(abi).unwrap();
        assert_eq!(said.contains("cut to nothing"), cuts, "{abi}: {said}");
        assert_eq!(said.contains("signals"), signals, "{abi}: {said}");
        assert_eq!(kernel::too_little(abi).is_some(), cuts, "{abi}");
    }
    assert_eq!((kernel::left_open(6), kernel::too_little(6)), (None, None));
}

#[test]
fn without_a_sandbox_nothing_starts_that_requires_one() {
    let place = Place::new(&format!("{CONFIG}[broker]\nsandbox = \"require\"\n"));
    let mut sandbox = place.broker().unwrap();
    sandbox.never = Some("it is a test".to_owned());
    assert!(sandbox.begin().unwrap_err().0.contains("it is a test"));
    let mut sandbox = place.broker().unwrap();
    sandbox.never = Some("it is a test".to_owned());
    sandbox.mode = SandboxMode::On;
    assert!(sandbox.begin().unwrap().0.is_none());
    let mut sandbox = place.broker().unwrap();
    sandbox.mode = SandboxMode::Off;
    assert!(sandbox.begin().unwrap().0.is_none());
    std::fs::read("/etc/passwd").unwrap();
}
