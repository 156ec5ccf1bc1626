//! What a broker can read of the machine that it runs on.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::harness::certificates::{Identity, config_trusting, connect_by};
use crate::harness::{PORTCULLIS, Setup, portcullis, until};

const NO_LISTS_NEEDED: &str = "missing = \"warn\"";

fn run(folder: &Path, line: &str) {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = portcullis(&arguments, folder);
    assert!(output.status.success(), "{line}: {output:?}");
}

fn cannot_be_read(record: &Value) -> bool {
    let why = record["why"].as_str().unwrap_or_default();
    record["event"] == "revocation.load-failed" && why.contains("Permission denied")
}

/// Threat: the issuing key beside the broker. It is named in what a running broker looks at.
#[test]
fn a_running_broker_cannot_read_the_key_of_an_authority() {
    let setup = Setup::new().mutual_tls();
    run(setup.path(), "ca init --dir ca --no-passphrase");
    fs::create_dir(setup.path().join("lists")).unwrap();
    let broker =
        setup.config(&format!("[revocation]\nlists = [\"lists\"]\n{NO_LISTS_NEEDED}")).start();
    broker.said("the sandbox is in force");
    broker.said("/ca lies in ");
    // No thread is left out: what a thread gives up, others do not.
    for thread in fs::read_dir(format!("/proc/{}/task", broker.id())).unwrap().flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("NoNewPrivs:\t1"), "{status}");
    }
    let link = broker.path().join("lists/key.pem");
    symlink(broker.path().join("ca/ca.key"), link).unwrap();
    broker.audited("what is refused", cannot_be_read);

    // And by name.
    let config = fs::read_to_string(broker.path().join("portcullis.toml")).unwrap();
    broker.write("portcullis.toml", &config.replace("\"lists\"", "\"ca/ca.key\""));
    let told = broker.ctl(&["reload"]);
    let stderr = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success(), "{told:?}");
    assert!(stderr.contains("ca/ca.key is outside the sandbox"), "{stderr}");
    for arguments in [["check", "--config"], ["serve", "--config"]] {
        let output = portcullis(&[&arguments[..], &["portcullis.toml"]].concat(), broker.path());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("is the authority's own"), "{stderr}");
    }
}

/// What an editor and a tool of deployment do is a reload as before.
#[test]
fn what_was_replaced_by_rename_is_reloaded() {
    let broker = Setup::new().mutual_tls().plaintext().start();
    let path = |name: &str| broker.path().join(name);
    let names = ["portcullis.toml".to_owned()].into_iter();
    let certificates = fs::read_dir(path("certs")).unwrap();
    let certificates = certificates
        .map(|entry| format!("certs/{}", entry.unwrap().file_name().into_string().unwrap()));
    for name in names.chain(certificates) {
        fs::copy(path(&name), path("next")).unwrap();
        fs::rename(path("next"), path(&name)).unwrap();
    }
    broker.write("next/all.cedar", "@id(\"all\") permit (principal, action, resource);");
    fs::rename(path("policies"), path("before")).unwrap();
    fs::rename(path("next"), path("policies")).unwrap();
    let told = broker.ctl(&["reload"]);
    assert!(told.status.success(), "{told:?}");
    let device = broker.authority().client("dev1");
    let connect = crate::Connect::new(crate::Version::Mqtt5, "dev1");
    broker.client_tls(&device, &connect).ping();
}

/// What is outside is told by its key, and changes nothing.
#[test]
fn a_reload_that_names_another_folder_asks_for_a_restart() {
    let mut broker = Setup::new().mutual_tls().plaintext().start();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("all.cedar"), crate::harness::setup::PERMIT_ALL).unwrap();
    let config = fs::read_to_string(broker.path().join("portcullis.toml")).unwrap();
    let moved = format!("policies = {:?}\n{config}", elsewhere.path());
    broker.write("portcullis.toml", &moved);
    let told = broker.ctl(&["reload"]);
    let stderr = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success(), "{told:?}");
    assert!(stderr.contains("policies: "), "{stderr}");
    assert!(stderr.contains("restart the broker"), "{stderr}");
    broker.restart(rustix::process::Signal::TERM);
    assert!(broker.ctl(&["reload"]).status.success());
}

#[test]
fn check_says_what_the_sandbox_will_be() {
    let broker = Setup::new().plaintext().start();
    let check = |more: &[&str]| {
        let output = portcullis(
            &[&["check", "--config", "portcullis.toml"][..], more].concat(),
            broker.path(),
        );
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = broker.path().canonicalize().unwrap();
    let folder = folder.to_str().unwrap();
    let said = check(&[]);
    for line in [
        "sandbox: Landlock, version ".to_owned(),
        format!("sandbox reads {folder}\n"),
        format!("sandbox writes {folder}/store\n"),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    let told: Value = serde_json::from_str(&check(&["--json"])).unwrap();
    assert!(told["sandbox"]["landlock"].as_i64().unwrap() >= 2, "{told}");
    assert_eq!(told["sandbox"]["reads"][0], folder);
    let off = check(&["--set", "broker.sandbox=off"]);
    assert!(off.contains("sandbox: none, it is switched off"), "{off}");
}

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Threat: the issuing key beside the broker, in the quickstart too.
#[test]
fn the_broker_of_the_quickstart_cannot_read_its_authority_s_key() {
    let folder = tempfile::tempdir().unwrap();
    let lists = folder.path().join("demo/broker/lists");
    fs::create_dir_all(&lists).unwrap();
    let mut command = Command::new(PORTCULLIS);
    command.args(["quickstart", "demo"]).current_dir(folder.path());
    for set in [
        "listener.devices.address=127.0.0.1:0",
        "metrics.address=127.0.0.1:0",
        "revocation.lists=[\"lists\"]",
        "revocation.missing=warn",
    ] {
        command.args(["--set", set]);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut broker = Ended(child);
    let output = BufReader::new(broker.0.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "The broker is running. Try, in another terminal:"));

    // It holds nothing open of it, and cannot open the key by a link either.
    let demo = folder.path().join("demo").canonicalize().unwrap();
    for open in fs::read_dir(format!("/proc/{}/fd", broker.0.id())).unwrap().flatten() {
        let leads = fs::read_link(open.path()).unwrap_or_default();
        assert!(!leads.starts_with(demo.join("ca")), "{}", leads.display());
    }
    assert!(demo.join("ca/ca.key").exists());
    symlink(demo.join("ca/ca.key"), lists.join("key.pem")).unwrap();
    let audit = demo.join("broker/audit/audit.jsonl");
    until("the refusal", || {
        let text = fs::read_to_string(&audit).unwrap();
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.any(|record| cannot_be_read(&record)).then_some(())
    });
    // Whoever keeps the authority elsewhere goes on without it.
    drop(broker);
    fs::rename(demo.join("ca"), folder.path().join("kept")).unwrap();
    let once = ["quickstart", "demo", "--once", "--set", "listener.devices.address=127.0.0.1:0"];
    let again = |lists: &[&str]| {
        let metrics = ["--set", "metrics.address=127.0.0.1:0"];
        portcullis(&[&once[..], &metrics, lists].concat(), folder.path())
    };
    let output = again(&["--set", "revocation.lists=[\"../../kept/crls.pem\"]"]);
    assert!(output.status.success(), "{output:?}");
    // But not without its list, by mistake.
    let stderr = String::from_utf8(again(&[]).stderr).unwrap();
    assert!(stderr.contains("error: revocation.lists: "), "{stderr}");
    assert!(!demo.join("ca").exists());
}

#[test]
fn a_device_of_the_quickstart_that_is_revoked_is_put_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PORTCULLIS);
    command.args(["quickstart", "demo", "--set", "listener.devices.address=127.0.0.1:0"]);
    command.args(["--set", "metrics.address=127.0.0.1:0"]).current_dir(folder.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut broker = Ended(child);
    let output = BufReader::new(broker.0.stdout.take().unwrap());
    let said: Vec<String> = output
        .lines()
        .map_while(Result::ok)
        .take_while(|line| line != "Stop with Ctrl-C.")
        .collect();
    let word_after = |word: &str| {
        let line = said.iter().find(|line| line.contains(word)).unwrap();
        line.split(word).nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let address = ([127, 0, 0, 1], word_after(" -p ").parse::<u16>().unwrap()).into();
    let demo = folder.path().join("demo");
    let connect = |name: &str| {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(demo.join("devices/ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let file = |ending: &str| demo.join(format!("devices/{name}.{ending}"));
        let identity = Identity { certificate: file("pem"), key: file("key") };
        let stream = connect_by(address, config_trusting(roots, Some(&identity)));
        crate::Client::over(
            crate::Raw::over(stream),
            &crate::Connect::new(crate::Version::Mqtt5, name),
        )
    };
    let (mut dev1, mut dev2) = (connect("dev1"), connect("dev2"));
    dev2.ping();
    let line = said.iter().find(|line| line.contains(" cert revoke ")).unwrap();
    let revoked =
        Command::new("sh").args(["-c", line]).current_dir(folder.path()).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    dev2.raw.expect_end();
    dev1.ping();
}

#[test]
fn a_quickstart_of_an_earlier_version_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portcullis.toml"), "").unwrap();
    let output = portcullis(&["quickstart", "."], folder.path());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("portcullis serve --config ./portcullis.toml"), "{stderr}");
}
