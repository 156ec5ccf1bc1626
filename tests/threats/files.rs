//! Files that others may read, and a configuration that says too little.

use std::fs::{Permissions, metadata, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Setup, portcullis};

/// Threat: file permissions.
#[test]
fn a_private_key_that_others_can_read_is_refused() {
    for mode in [0o644, 0o640, 0o604, 0o660] {
        let setup = Setup::new().mutual_tls();
        let key = std::fs::read_dir(setup.path().join("certs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "key"))
            .unwrap();
        set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let refused = setup.refused();
        assert!(!refused.status.success());
        // The file may be shown over several lines; its name is enough, and what to do.
        let name = key.file_name().unwrap().to_str().unwrap();
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        assert!(refused.stderr.contains("chmod"), "{}", refused.stderr);
    }
}

/// Threat: file permissions.
#[test]
fn what_the_broker_writes_is_for_its_owner_alone() {
    let broker = Setup::new().plaintext().start();
    for name in ["audit/audit.jsonl", crate::harness::setup::CONTROL_SOCKET] {
        let mode = metadata(broker.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
}

/// Plaintext and anonymity are asked for by name, and a typing error is not a default.
#[test]
fn a_listener_that_does_not_say_how_it_is_protected_is_refused() {
    for (what, listener) in [
        ("no TLS", "identity = \"anonymous\""),
        ("no TLS, said so", "identity = \"anonymous\"\nplaintext = false"),
        ("no identity", "plaintext = true"),
        ("TLS without a client CA", "[listener.mqtt.tls]\ncertificate = \"x\"\nkey = \"y\""),
        ("a misspelt key", "plaintext = true\nidentity = \"anonymous\"\nconections_max = 5"),
        ("zero", "plaintext = true\nidentity = \"anonymous\"\nconnections_max = 0"),
    ] {
        let config = format!("[listener.mqtt]\naddress = \"127.0.0.1:0\"\n{listener}\n");
        let refused = Setup::new().config(&config).refused();
        assert!(!refused.status.success(), "{what}");
        assert!(refused.stderr.contains("listener.mqtt"), "{what}: {}", refused.stderr);
    }
    let refused = Setup::new().refused();
    assert!(!refused.status.success(), "no listener at all");
}

/// What cannot be opened is told with its key and what to do.
#[test]
fn an_address_in_use_is_told_with_its_key_and_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listener = format!(
        "[listener.mqtt]\naddress = \"{address}\"\nplaintext = true\nidentity = \"anonymous\""
    );
    let refused = Setup::new().config(&listener).refused();
    assert!(refused.stderr.contains("listener.mqtt.address: cannot listen at"), "{refused:?}");
    assert!(refused.stderr.contains("; choose another, or end what listens there"), "{refused:?}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    let policies = crate::harness::setup::PERMIT_ALL;
    std::fs::write(folder.path().join("policies/all.cedar"), policies).unwrap();
    let config = format!(
        "[listener.mqtt]\naddress = \"127.0.0.1:0\"\nplaintext = true\n\
         identity = \"anonymous\"\n[metrics]\naddress = \"{address}\"\n"
    );
    std::fs::write(folder.path().join("p.toml"), config).unwrap();
    let output = portcullis(&["serve", "--config", "p.toml"], folder.path());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("metrics.address: cannot listen at {address}: ")), "{stderr}");
    assert!(stderr.contains("; choose another, or end what listens there"), "{stderr}");
}

/// `check` finds what `serve` would refuse, and binds nothing.
#[test]
fn check_refuses_what_serve_refuses() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "[listener.mqtt]\n").unwrap();
    let output = portcullis(&["check", "--config", "bad.toml"], folder.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = portcullis(&["check", "--config", "absent.toml"], folder.path());
    assert!(!output.status.success());
    // Files that it would write are looked at, and not made.
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("all.cedar"), crate::harness::setup::PERMIT_ALL).unwrap();
    let plain = "[listener.mqtt]\naddress = \"127.0.0.1:0\"\nplaintext = true\n\
                 identity = \"anonymous\"\n[audit]\npath = \"audit/audit.jsonl\"\n\
                 [control]\nsocket = \"control/portcullis.sock\"\n";
    std::fs::write(folder.path().join("good.toml"), plain).unwrap();
    let check = || portcullis(&["check", "--config", "good.toml"], folder.path());
    assert!(check().status.success(), "{:?}", check());
    assert!(!folder.path().join("audit").exists() && !folder.path().join("control").exists());
    let (audit, control) = (folder.path().join("audit"), folder.path().join("control"));
    for made in [&audit, &control] {
        std::fs::create_dir(made).unwrap();
        set_permissions(made, Permissions::from_mode(0o700)).unwrap();
    }
    let log = audit.join("audit.jsonl");
    std::fs::write(&log, "").unwrap();
    for (path, good, bad, key) in
        [(&log, 0o600, 0o644, "audit.path: "), (&control, 0o700, 0o755, "control.socket: ")]
    {
        set_permissions(path, Permissions::from_mode(bad)).unwrap();
        let output = check();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(key), "{output:?}");
        set_permissions(path, Permissions::from_mode(good)).unwrap();
        assert!(check().status.success(), "{:?}", check());
    }
    let output = portcullis(&["frobnicate"], folder.path());
    assert_eq!(output.status.code(), Some(2), "misuse: {output:?}");
}
