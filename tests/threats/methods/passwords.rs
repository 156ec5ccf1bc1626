//! Passwords.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::harness::Setup;
use crate::harness::raw::Client;
use crate::harness::wire::Will;
use crate::{is, puback, refusal};

const STAFF: &str = "[authentication.staff]\nmethod = \"password\"\nfile = \"passwords\"\n";

fn staff() -> Setup {
    let setup = Setup::new();
    set_password(setup.path(), "ann", "correct horse");
    set_password(setup.path(), "bob", "battery staple");
    setup
}

/// Threat: authentication bypass, and names that are told apart by the cost of the answer.
#[test]
fn a_wrong_password_and_a_name_that_is_not_there_cost_the_same_and_prove_nothing() {
    let broker = staff().methods(&["staff"], STAFF).start();
    let mut ann = broker.client(&login(Version::Mqtt5, "ann", b"correct horse"));
    assert_eq!(puback(&mut ann, "a/b"), 0x10);
    broker.client(&login(Version::Mqtt311, "bob", b"battery staple"));
    let accepted = broker.audited("the login", |record| is(record, "connection.accepted", "ann"));
    assert_eq!(accepted["principal"]["type"], "User", "{accepted}");
    assert_eq!(accepted["method"], "staff", "{accepted}");
    for (name, secret, reason) in [
        ("ann", "battery staple", "the password of \"ann\" is wrong"),
        ("eve", "correct horse", "there is no name \"eve\""),
        ("ann", "", "the password of \"ann\" is wrong"),
        ("", "correct horse", "there is no name \"\""),
    ] {
        let before = hashes(&broker);
        let connect = login(Version::Mqtt5, name, secret.as_bytes());
        let connect = Connect { client_id: "grinder".into(), ..connect };
        assert_eq!(refusal(broker.raw(), &connect), BAD_USER_NAME_OR_PASSWORD, "{name}");
        assert_eq!(hashes(&broker), before + 1, "{name}: one hash, whoever it is");
        why(&broker, "grinder", reason);
    }
    assert_eq!(refusal(broker.raw(), &login(Version::Mqtt311, "ann", b"x")), 4);
    // Nothing, half of it, or another kind.
    let nothing = Connect::new(Version::Mqtt5, "ann");
    let name_only = Connect { username: Some("ann".into()), ..nothing.clone() };
    let password_only = Connect { password: Some(b"correct horse".to_vec()), ..nothing.clone() };
    for connect in [&nothing, &name_only, &password_only] {
        assert_eq!(refusal(broker.raw(), connect), BAD_USER_NAME_OR_PASSWORD);
    }
    assert_eq!(refusal(broker.raw(), &Connect::new(Version::Mqtt311, "ann")), 4);
    let properties = crate::wire::property::authentication_method("SCRAM-SHA-256");
    let enhanced = login(Version::Mqtt5, "ann", b"correct horse").properties(&properties);
    assert_eq!(refusal(broker.raw(), &enhanced), BAD_AUTHENTICATION_METHOD);
    // The client id is bound to the name.
    let other = login(Version::Mqtt5, "bob", b"battery staple");
    let other = Connect { client_id: "ann".into(), ..other };
    assert_eq!(refusal(broker.raw(), &other), 0x85);
    ann.ping();
    // No secret is written anywhere.
    let written = format!("{:?}{}", broker.audit(), broker.stderr());
    assert!(!written.contains("horse") && !written.contains("staple"), "{written}");
}

/// Threat: password grinding.
#[test]
fn guesses_are_refused_before_anything_is_hashed() {
    let limits = "[login]\nfailures_per_name = 3\nfailures_per_address = 5\n\
                  failure_forgotten_after = \"1h\"\n";
    let broker = staff().methods(&["staff"], STAFF).config(limits).start();
    let guess =
        |name: &str, secret: &[u8]| refusal(broker.raw(), &login(Version::Mqtt5, name, secret));
    // What is right is not counted.
    for _ in 0..6 {
        broker.client(&login(Version::Mqtt5, "bob", b"battery staple")).disconnect();
    }
    let before = hashes(&broker);
    for _ in 0..3 {
        assert_eq!(guess("ann", b"x"), BAD_USER_NAME_OR_PASSWORD);
    }
    assert_eq!(guess("ann", b"x"), CONNECTION_RATE_EXCEEDED);
    assert_eq!(guess("ann", b"correct horse"), CONNECTION_RATE_EXCEEDED, "nor what is right");
    why(&broker, "ann", "3 logins with the name have failed");
    broker.client(&login(Version::Mqtt5, "bob", b"battery staple")).disconnect();
    // A name that is not there counts like one that is.
    assert_eq!(guess("eve", b"x"), BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(guess("joe", b"x"), BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(guess("bob", b"battery staple"), CONNECTION_RATE_EXCEEDED, "five of the address");
    why(&broker, "bob", "5 logins from the address have failed");
    assert_eq!(hashes(&broker), before + 5);
}

/// Threat: a backend error treated as "next", and a reload that fails open.
#[test]
fn a_file_that_turns_bad_changes_nothing_and_a_name_that_goes_takes_its_sessions_along() {
    let broker = staff().methods(&["staff"], STAFF).start();
    let file = broker.path().join("passwords");
    let good = fs::read_to_string(&file).unwrap();
    let ann = login(Version::Mqtt5, "ann", b"correct horse");
    let mut live = broker.client(&ann.clone().will(Will::new("last/ann", "a will")));
    for bad in ["ann:correct horse\n", "", "\u{0}", "ann"] {
        fs::write(&file, bad).unwrap();
        if bad.is_empty() {
            // Empty is a file without names, not a broken one.
            continue;
        }
        let reload = broker.ctl(&["reload"]);
        assert!(!reload.status.success(), "{bad:?}: {reload:?}");
        let said = String::from_utf8_lossy(&reload.stderr).into_owned();
        assert!(said.contains("authentication.staff.file") && said.contains(":1: "), "{said}");
        assert!(!said.contains("horse"), "{said}");
    }
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let reload = broker.ctl(&["reload"]);
    assert!(String::from_utf8_lossy(&reload.stderr).contains("chmod 600"), "{reload:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(broker.ctl(&["reload"]).status.success());
    live.ping();
    // Nobody has to say so: the file is looked at.
    let mut bob = broker.client(&login(Version::Mqtt5, "bob", b"battery staple"));
    bob.subscribe("last/#", 0);
    let gone = password(broker.path(), &["delete", "ann", "--file", "passwords"], "");
    assert!(gone.status.success(), "{gone:?}");
    live.raw.expect_disconnect(&[0x87]);
    assert_eq!(refusal(broker.raw(), &ann), BAD_USER_NAME_OR_PASSWORD);
    // Whoever is not known any more has no last word.
    broker.audited("the will", |record| is(record, "will.discarded", "ann"));
    bob.publish("last/bob", "first");
    bob.receive_text("first");
    set_password(broker.path(), "eve", "new");
    broker.audited("the reload", |record| record["event"] == "credentials.reloaded");
}

/// Threat: a broken file at the start.
#[test]
fn a_broker_does_not_start_without_its_passwords() {
    let refused = Setup::new().methods(&["staff"], STAFF).refused();
    assert!(refused.stderr.contains("authentication.staff.file"), "{}", refused.stderr);
}

#[test]
fn an_old_hash_is_replaced_at_the_first_login() {
    let setup = Setup::new();
    // By mosquitto_passwd, of the password hunter2.
    let old = "ann:$7$101$YuRQqm5PixDfN+EF$n84H2XtINshF7HJPHRvPLNtWcZNG1NWclqskpEgzo6GbF62L3XJSws4e\
               w1dVgXbH/ztn8CtA+GfyFHCBH++2QQ==\n";
    let file = setup.path().join("passwords");
    fs::write(&file, old).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let broker = setup.methods(&["staff"], STAFF).start();
    let file = broker.path().join("passwords");
    assert_eq!(refusal(broker.raw(), &login(Version::Mqtt5, "ann", b"hunter3")), 0x86);
    assert_eq!(fs::read_to_string(&file).unwrap(), old);
    let mut ann = broker.client(&login(Version::Mqtt5, "ann", b"hunter2"));
    let upgraded = broker.audited("the upgrade", |record| record["event"] == "credential.upgraded");
    assert_eq!((&upgraded["name"], &upgraded["scheme"]), (&"ann".into(), &"pbkdf2-sha512".into()));
    assert!(fs::read_to_string(&file).unwrap().starts_with("ann:$argon2id$v=19$m=19456,t=2,p=1$"));
    broker.audited("the reload", |record| record["event"] == "credentials.reloaded");
    ann.ping();
    broker.client(&login(Version::Mqtt5, "ann", b"hunter2"));
    assert_eq!(refusal(broker.raw(), &login(Version::Mqtt5, "ann", b"hunter3")), 0x86);
}

/// Threat: one proof of two is taken for both.
#[test]
fn on_top_of_a_certificate_both_have_to_be_proven() {
    for (keys, client_id, kind, principal) in [
        ("authentication = [\"staff\"]", "pump", "Device", "pump"),
        // The listener's own `principal` is "device".
        ("authentication = [\"staff\"]\nidentity = \"authentication\"", "ann", "Device", "ann"),
    ] {
        let setup = staff().mutual_tls_with(keys).config(STAFF);
        let pump = setup.device("pump");
        let broker = setup.start();
        let ann = login(Version::Mqtt5, "ann", b"correct horse");
        let ann = Connect { client_id: client_id.into(), ..ann };
        Client::over(broker.raw_tls(&pump), &ann).ping();
        let accepted =
            broker.audited("the login", |record| is(record, "connection.accepted", client_id));
        assert_eq!(accepted["principal"]["type"], kind, "{accepted}");
        assert_eq!(accepted["principal"]["id"], principal, "{accepted}");
        assert_eq!(accepted["method"], "staff", "{accepted}");
        assert!(accepted["certificate_serial"].is_string(), "{accepted}");
        let wrong = Connect { password: Some(b"x".to_vec()), ..ann.clone() };
        assert_eq!(refusal(broker.raw_tls(&pump), &wrong), BAD_USER_NAME_OR_PASSWORD);
        let none = Connect::new(Version::Mqtt5, client_id);
        assert_eq!(refusal(broker.raw_tls(&pump), &none), BAD_USER_NAME_OR_PASSWORD);
        let stranger = broker.authority().connect(broker.address("mqtts"), None);
        let mut stranger = crate::Raw::over(stranger);
        let _ = stranger.try_send(&ann.bytes());
        stranger.expect_end();
    }
}

#[test]
fn the_command_line_makes_files_that_only_their_owner_may_read_and_mixes_no_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], input| {
        let output = password(folder.path(), arguments, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said, String::from_utf8(output.stdout).unwrap())
    };
    assert!(run(&["set", "ann", "--file", "p", "--stdin"], "one\r").0);
    assert!(run(&["set", "bob", "--file", "s", "--stdin", "--scram"], "two").0);
    for file in ["p", "s"] {
        let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    for (arguments, input, why) in [
        (&["set", "a:b", "--file", "p", "--stdin"][..], "x", "choose another"),
        (&["set", "#a", "--file", "p", "--stdin"], "x", "choose another"),
        (&["set", "!secret", "--file", "s", "--stdin", "--scram"], "x", "choose another"),
        (&["set", "a\nb", "--file", "p", "--stdin"], "x", "is no name"),
        (&["set", "ann", "--file", "p", "--stdin"], "", "a password has 1 to"),
        (&["set", "ann", "--file", "p"], "x", "pipe the password to --stdin"),
        (&["set", "ann", "--file", "s", "--stdin"], "x", "holds records of SCRAM"),
        (&["set", "ann", "--file", "p", "--stdin", "--scram"], "x", "holds passwords"),
        (&["delete", "eve", "--file", "p"], "", "there is no \"eve\""),
        (&["delete", "!secret", "--file", "s"], "", "there is no \"!secret\""),
        (&["list", "--file", "none"], "", "is not there"),
    ] {
        let (done, said, _) = run(arguments, input);
        assert!(!done && said.contains(why), "{arguments:?}: {said}");
    }
    assert_eq!(run(&["list", "--file", "p"], "").2, "ann  argon2id\n");
    assert_eq!(run(&["list", "--file", "s"], "").2, "bob  scram-sha-256\n");
    // The last one may go, and the file goes on.
    assert!(run(&["delete", "bob", "--file", "s"], "").0);
    assert!(run(&["set", "eve", "--file", "s", "--stdin", "--scram"], "x").0);
    fs::set_permissions(folder.path().join("p"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(run(&["list", "--file", "p"], "").1.contains("chmod 600"));
}

/// Threat: somebody who is not wanted any more goes on.
#[test]
fn a_right_password_does_not_let_in_who_is_banned_or_suspended() {
    let broker = staff().methods(&["staff"], STAFF).start();
    let ann = login(Version::Mqtt5, "ann", b"correct horse");
    let bob = login(Version::Mqtt5, "bob", b"battery staple");
    for (keep_out, let_in, code) in [
        (
            ["ban", "add", "--principal", "User::ann"],
            ["ban", "remove", "--principal", "User::ann"],
            0x8a,
        ),
        (["ban", "add", "--client-id", "ann"], ["ban", "remove", "--client-id", "ann"], 0x8a),
        (
            ["--json", "device", "suspend", "User::ann"],
            ["--json", "device", "activate", "User::ann"],
            0x87,
        ),
    ] {
        let mut client = broker.client(&ann);
        assert!(broker.ctl(&keep_out).status.success());
        client.raw.expect_disconnect(&[code]);
        let before = hashes(&broker);
        assert_eq!(refusal(broker.raw(), &ann), code);
        // What is banned by what shows before costs no hash.
        let costs = u64::from(keep_out[2] != "--client-id");
        assert_eq!(hashes(&broker) - before, costs, "{keep_out:?}");
        broker.client(&bob).ping();
        assert!(broker.ctl(&let_in).status.success());
        broker.client(&ann).ping();
    }
}
