//! The commands for those who write policies, as they are typed: check, explain, fmt, schema; and
//! `ctl explain` against a running broker.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use harness::wire::{Connect, Version};
use harness::{PORTCULLIS, Setup, portcullis};
use serde_json::Value;

const POLICIES: &str = r#"// Who may connect.
@id("connect")
permit (principal, action == Action::"connect", resource);

@id("own")
@reason("a device uses what is below its own name")
permit (
  principal is Device,
  action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#"
);

@id("small")
permit (
  principal is Device,
  action == Action::"publish",
  resource in TopicFilter::"reports/+"
)
when { context.qos == 1 && context.payload_size <= 1024 };

@id("inside")
forbid (
  principal,
  action == Action::"publish",
  resource in TopicFilter::"devices/+/config"
)
unless { context.session.source_ip.isInRange(ip("10.0.0.0/8")) };
"#;

/// A folder with these policies in `policies/p.cedar`.
fn folder(policies: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    fs::write(folder.path().join("policies/p.cedar"), policies).unwrap();
    fs::write(folder.path().join("policies/principals.toml"), "[group.ops]\n").unwrap();
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    told(&portcullis(arguments, folder))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn policies_are_checked_and_what_is_wrong_is_drawn_where_it_is() {
    let good = folder(POLICIES);
    let (code, out, err) = run(good.path(), &["policy", "check", "policies"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.starts_with("fine: 4 policies, hash ") && !err.contains("warning"), "{err}");

    let (code, out, _) = run(good.path(), &["policy", "check", "policies", "--verbose"]);
    assert_eq!((code, out.as_str()), (0, "connect\ninside\nown\nsmall\n"));

    let open = folder("@id(\"all\") permit (principal, action, resource);\n");
    let (code, out, err) = run(open.path(), &["policy", "check", "policies"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.contains("fine: 1 policy, hash "), "{err}");
    let drawn = "  ⚠ a permit on every topic for everybody, without any condition
   ╭─[policies/p.cedar:1:1]
 1 │ @id(\"all\") permit (principal, action, resource);
   · ────────────────────────────────────────────────
   ╰────
  help: narrow the filter, name a group, or add a condition, or say that it is meant: @lint(\"allow-wildcard\")
";
    assert!(err.starts_with(drawn), "{err}");
    assert!(err.trim_end().ends_with(", 1 warning"), "{err}");

    let bad = folder(&POLICIES.replace("payload_size", "payload_sice"));
    let (code, out, err) = run(bad.path(), &["policy", "check", "policies"]);
    assert_eq!((code, out.as_str()), (1, ""));
    let drawn = "  × for policy `small`, attribute `payload_sice` in context for Action::\"publish\" not found
    ╭─[policies/p.cedar:19:28]
 18 │ )
 19 │ when { context.qos == 1 && context.payload_sice <= 1024 };
    ·                            ────────────────────
    ╰────
  help: did you mean `payload_size`?

error: the policies cannot be loaded: 1 problem
";
    assert_eq!(err, drawn);
}

#[test]
fn policy_folders_below_a_folder_are_checked_and_laid_out_each() {
    let all = tempfile::tempdir().unwrap();
    for (name, text) in [("a", POLICIES), ("b/c", "permit permit"), ("d", POLICIES)] {
        let folder = all.path().join("all").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.cedar"), text).unwrap();
    }
    let (code, _, err) = run(all.path(), &["policy", "check", "all"]);
    assert_eq!(code, 1);
    assert!(err.contains("[all/b/c/p.cedar:1:"), "{err}");
    assert!(err.ends_with("error: the policies in 1 of 3 folders cannot be loaded\n"), "{err}");
    assert_eq!(err.matches("fine: 4 policies").count(), 2, "{err}");
    let (code, out, _) = run(all.path(), &["policy", "check", "all", "--json"]);
    assert_eq!((code, out.lines().count()), (1, 3));
    let (code, out, err) = run(all.path(), &["policy", "fmt", "all"]);
    assert_eq!((code, out.as_str()), (1, "all/a/p.cedar\nall/d/p.cedar\n"));
    assert!(err.ends_with("error: 1 of 3 files cannot be laid out\n"), "{err}");
}

#[test]
fn a_reader_that_has_seen_enough_changes_nothing() {
    let good = folder(POLICIES);
    for arguments in [
        &["policy", "check", "policies", "--verbose"][..],
        &["policy", "check", "policies", "--json"],
        &["policy", "schema"],
        &["policy", "diff", "policies", "policies", "--json"],
    ] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let output = Command::new(PORTCULLIS)
            .args(arguments)
            .current_dir(good.path())
            .stdout(write)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"), "{arguments:?}");
    }
}

#[test]
fn nothing_is_read_from_a_pipe_on_which_nobody_writes() {
    let good = folder(POLICIES);
    let made = Command::new("mkfifo").arg("pipe").current_dir(good.path()).status();
    assert!(made.unwrap().success());
    for arguments in [
        &["policy", "diff", "policies", "policies", "--audit", "pipe"][..],
        &["policy", "import", "mosquitto", "pipe", "--out", "new"],
        &["policy", "fmt", "pipe"],
    ] {
        let (code, _, err) = run(good.path(), arguments);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("it is not a regular file"), "{err}");
    }
}

#[test]
fn what_a_program_was_built_without_is_said() {
    let good = folder(POLICIES);
    let (code, _, err) = run(good.path(), &["policy", "verify", "policies", "--action", "publish"]);
    assert_ne!(code, 0);
    if !cfg!(feature = "verify") {
        assert!(
            err.starts_with("error: this program was built without the feature verify"),
            "{err}"
        );
    }
}

#[test]
fn a_group_that_is_not_declared_is_no_question() {
    let good = folder(POLICIES);
    let asked = ["policy", "explain", "policies", "Device::d", "publish", "a", "--group", "opps"];
    let (code, out, err) = run(good.path(), &asked);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("group \"opps\" is not declared; did you mean ops?"), "{err}");
}

#[test]
fn the_check_of_a_configuration_draws_what_is_wrong_with_policies() {
    let config = "policies = \"policies\"\n[listener.mqtt]\naddress = \"127.0.0.1:0\"\n\
        plaintext = true\nidentity = \"anonymous\"\n[audit]\npath = \"audit/audit.jsonl\"\n";
    for (policy, drawn) in [
        (
            "@id(\"a\") permit (principal, action, resource) when { context.qoss == 1 };",
            "/policies/p.cedar:1:54]",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"connect\", resource == Listener::\"mqqt\");",
            "help: did you mean \"mqtt\"?",
        ),
    ] {
        let folder = folder(policy);
        fs::write(folder.path().join("portcullis.toml"), config).unwrap();
        let (code, _, err) = run(folder.path(), &["check", "--config", "portcullis.toml"]);
        assert_eq!(code, 1);
        assert!(err.contains(drawn), "{err}");
        assert!(err.ends_with("error: the policies cannot be loaded: 1 problem\n"), "{err}");
        let (code, _, err) = run(folder.path(), &["serve", "--config", "portcullis.toml"]);
        assert_eq!(code, 1, "{err}");
    }
}

#[test]
fn what_check_finds_can_be_had_as_json() {
    let bad = folder("@id(\"a\") permit (principal, action, resource in TopicFilter::\"a+\");");
    let (code, out, _) = run(bad.path(), &["policy", "check", "policies", "--json"]);
    let found = json(&out);
    assert_eq!((code, &found["fine"]), (1, &Value::Bool(false)));
    let problem = &found["problems"][0];
    assert_eq!(problem["file"], "policies/p.cedar");
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (Some(1), Some(62)));
    assert!(problem["message"].as_str().unwrap().starts_with("TopicFilter \"a+\""), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().starts_with("write it as in SUBSCRIBE"));

    let good = folder(&POLICIES.replace("== Action::\"connect\"", "== Action::\"receive\""));
    let (code, out, _) = run(good.path(), &["policy", "check", "policies", "--json"]);
    let found = json(&out);
    assert_eq!((code, &found["fine"]), (0, &Value::Bool(true)));
    assert_eq!(found["policies"], 4);
    let messages: Vec<_> =
        found["warnings"].as_array().unwrap().iter().map(|it| &it["message"]).collect();
    assert_eq!(messages[0], "no policy permits `connect`: nobody can use the broker");
    assert_eq!(found["warnings"][0]["file"], Value::Null);
    assert_eq!(messages.len(), 2, "and a permit on everything");
}

#[test]
fn an_answer_is_explained_whatever_it_is() {
    let folder = folder(POLICIES);
    let explain = |arguments: &[&str]| {
        run(folder.path(), &[&["policy", "explain", "policies"], arguments].concat())
    };
    let (code, out, err) = explain(&["Device::d", "publish", "reports/x", "--fact", "qos=1"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("  ✓ allowed by small\n"), "{out}");

    let too_large = ["--fact", "qos=1", "--fact", "payload_size=2KiB"];
    let (code, out, err) =
        explain(&[&["Device::d", "publish", "reports/x"], &too_large[..]].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "  × denied: no policy permits it
    who           Device::\"d\", in no group
    what          publish reports/x
    matched by    reports/+

  · small would permit it, but `context.payload_size <= 1024` is false at policies/p.cedar:19:28
    ╭─[policies/p.cedar:19:28]
 18 │ )
 19 │ when { context.qos == 1 && context.payload_size <= 1024 };
    ·                            ──────────────┬─────────────
    ·                                          ╰── is false: context.payload_size is 2048
    ╰────

    did not apply own, inside
";
    assert_eq!(out, expected);

    let (code, out, _) =
        explain(&["Device::d", "subscribe", "devices/#", "--json", "--group", "ops"]);
    let explanation = json(&out);
    assert_eq!((code, &explanation["allowed"]), (0, &Value::Bool(false)));
    assert_eq!(explanation["would_be_allowed"][0]["filter"], "devices/d/#");
    assert_eq!(explanation["groups"][0], "ops");
    assert_eq!(explanation["rules"][0]["id"], "own");
    assert_eq!(explanation["rules"][0]["state"], "nearly");
    let mark = &explanation["rules"][0]["marks"][0];
    assert_eq!((&mark["line"], &mark["column"]), (&Value::from(10), &Value::from(3)));
}

#[test]
fn what_is_no_question_is_misuse() {
    let folder = folder(POLICIES);
    for (arguments, why) in [
        (
            &["Devise::d", "publish", "a"][..],
            "error: \"Devise\" is no type of principal; did you mean Device?\n",
        ),
        (&["Device::d", "pubish", "a"], "error: \"pubish\" is no action; did you mean publish?\n"),
        (&["Device::d", "publish", "a/#"], "error: \"a/#\" is no topic name"),
        (
            &["Device::d", "publish", "a", "--fact", "qoos=1"],
            "error: \"qoos\" is no fact; did you mean qos?\n",
        ),
        (&["Device::d", "publish", "a", "--fact", "qos"], "error: invalid value 'qos'"),
        (&["Device::d", "publish"], "error: the following required arguments"),
    ] {
        let arguments = [&["policy", "explain", "policies"], arguments].concat();
        let (code, out, err) = run(folder.path(), &arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.starts_with(why), "{err}");
    }
    let (code, _, err) =
        run(folder.path(), &["policy", "explain", "nowhere", "Device::d", "publish", "a"]);
    assert_eq!(code, 1, "{err}");
}

#[test]
fn files_are_laid_out_and_keep_what_they_are() {
    let folder = folder("@id(\"a\")permit(principal,action,resource) // why\n;");
    let file = folder.path().join("policies/p.cedar");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::read_to_string(&file).unwrap();
    let (code, out, err) = run(folder.path(), &["policy", "fmt", "policies", "--check"]);
    assert_eq!((code, out.as_str()), (1, "policies/p.cedar\n"), "{err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "nothing is changed");

    let (code, out, err) = run(folder.path(), &["policy", "fmt", "policies"]);
    assert_eq!((code, out.as_str()), (0, "policies/p.cedar\n"), "{err}");
    let after = fs::read_to_string(&file).unwrap();
    assert!(after.starts_with("@id(\"a\")\npermit (principal, action, resource)"), "{after}");
    assert!(after.contains("// why"), "{after}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(folder.path().join("policies")).unwrap().count(), 2, "no remainder");
    let (code, out, _) = run(folder.path(), &["policy", "fmt", "--check", "policies/p.cedar"]);
    assert_eq!((code, out.as_str()), (0, ""));

    // One file that cannot be read keeps no other from being laid out.
    fs::write(&file, &before).unwrap();
    fs::write(folder.path().join("policies/q.cedar"), "permit (principal, action resource);")
        .unwrap();
    let (code, out, err) = run(folder.path(), &["policy", "fmt", "policies"]);
    assert_eq!((code, out.as_str()), (1, "policies/p.cedar\n"));
    assert!(err.contains("policies/q.cedar:1:27"), "{err}");
    assert!(err.ends_with("error: 1 of 2 files cannot be laid out\n"), "{err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), after);
    assert_eq!(run(folder.path(), &["policy", "fmt"]).0, 2);
}

#[test]
fn the_schema_is_printed_in_either_form() {
    let folder = folder(POLICIES);
    let (code, out, _) = run(folder.path(), &["policy", "schema"]);
    assert!(code == 0 && out.contains("action publish in [write] appliesTo"), "{out}");
    let (code, out, _) = run(folder.path(), &["policy", "schema", "--json"]);
    assert_eq!(code, 0);
    assert!(json(&out)[""]["entityTypes"]["Device"].is_object(), "{out}");
}

#[test]
fn the_session_of_a_client_is_explained_as_it_is_and_the_call_is_audited() {
    let setup = Setup::new().mutual_tls().policies(POLICIES);
    let identity = setup.device("dev1");
    let broker = setup.start();
    let explain = |arguments: &[&str]| told(&broker.ctl(&[&["explain"], arguments].concat()));

    let (code, out, err) = explain(&["dev1", "publish", "a"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("error: there is no session of client \"dev1\"; "), "{err}");

    let client = broker.client_tls(&identity, &Connect::new(Version::Mqtt5, "dev1").durable());
    let (code, out, err) = explain(&["dev1", "publish", "devices/dev1/config", "--fact", "qos=1"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "client \"dev1\": connected: listener mqtts, from 127.0.0.1, over TLS 1.3, MQTT protocol 5

  × denied: forbidden by inside
    who           Device::\"dev1\", in no group
    what          publish devices/dev1/config
    matched by    devices/+/config
                  devices/${cn}/#, for this client devices/dev1/#

  × inside forbids it
    ╭─[policies/test.cedar:27:10]
 26 │ )
 27 │ unless { context.session.source_ip.isInRange(ip(\"10.0.0.0/8\")) };
    ·          ──────────────────────────┬──────────────────────────
    ·                                    ╰── this exception is false: context.session.source_ip is ip(\"127.0.0.1\")
    ╰────

  · own at policies/test.cedar:5:1 would permit it, but a forbid is stronger

    did not apply small
";
    let folder = format!("{}/", broker.path().display());
    assert_eq!(out.replace(&folder, ""), expected);
    let (code, out, _) = explain(&["dev1", "connect", "mqtts", "--json"]);
    assert_eq!(code, 0);
    let answer = json(&out);
    assert_eq!(
        (&answer["connected"], &answer["explanation"]["allowed"]),
        (&true.into(), &true.into())
    );

    let (code, out, err) = explain(&["dev1", "publish", "a", "--fact", "source_ip=10.0.0.1"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("error: source_ip is a fact of the session"), "{err}");

    // Without a connection: the facts of the last one, and the policies in force now.
    client.disconnect();
    broker.audited("the end of the connection", |record| record["event"] == "connection.closed");
    let loosened = POLICIES.replace("10.0.0.0/8", "127.0.0.0/8");
    assert!(broker.reload_policies(&loosened).status.success());
    let (code, out, err) = explain(&["dev1", "publish", "devices/dev1/config"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("client \"dev1\": not connected, judged by its last connection: listener mqtts, from 127.0.0.1"), "{out}");
    assert!(out.contains("✓ allowed by own"), "{out}");

    let call = broker.audited("the call", |record| record["about"] == "dev1: connect mqtts");
    assert_eq!((&call["event"], &call["verb"]), (&"control.call".into(), &"explain".into()));
    broker.audited("the failed call", |record| {
        record["verb"] == "explain" && record["outcome"] == "failed"
    });
}

/// The acceptance of `policy explain`: it answers "why" for each refusal of the quickstart.
#[test]
fn the_quickstart_says_how_to_ask_why_and_the_answer_is_what_it_met() {
    let folder = tempfile::tempdir().unwrap();
    let listener = "listener.devices.address=127.0.0.1:0";
    let metrics = "metrics.address=127.0.0.1:0";
    let arguments = ["quickstart", "my demo", "--once", "--set", listener, "--set", metrics];
    let (code, out, err) = run(folder.path(), &arguments);
    assert_eq!(code, 0, "{out}\n{err}");
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    let refused = lines.iter().filter(|line| line.contains(": refused")).count();
    let mut explained = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(command) = line.strip_prefix("why: portcullis ") else { continue };
        let recorded = lines[index - 1].split_once(": ").unwrap().1;
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("'{PORTCULLIS}' {command}"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let (code, out, err) = told(&output);
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert!(out.starts_with(&format!("  × denied: {recorded}\n")), "{recorded}\n{out}");
        // A rule is drawn, with the part that decided marked in it.
        assert!(out.contains(".cedar:") && out.contains("╰── "), "{out}");
        explained.push(out);
    }
    assert_eq!((refused, explained.len()), (3, 3), "{out}");
    let says = |index: usize, what: &str| {
        let out: &String = &explained[index];
        assert!(out.contains(what), "{what}\n{out}");
    };
    says(0, "for this client devices/dev2/#, which does not match devices/dev1/temperature");
    says(1, "this exception is false: Device::\"dev1\" is in no group");
    says(2, "would be fine devices/dev2/#, by device-own-subtree");
}
