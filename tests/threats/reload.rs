//! Rights that are taken away while they are in use, and reloads that fail.

use rustix::process::Signal;

use crate::harness::certificates::Authority;
use crate::harness::setup::PERMIT_ALL;
use crate::harness::wire::{Connect, Publish, Version, Will, property};
use crate::harness::{Broker, Setup};
use crate::{NOT_AUTHORIZED, suback};

const V: Version = Version::Mqtt5;

const LOCKED: &str = r#"
@id("everything")
@reason("as before")
permit (principal, action, resource);

@id("locked")
@reason("a right that is taken away")
forbid (
  principal,
  action in [Action::"read", Action::"write"],
  resource in TopicFilter::"secret/#"
);
"#;

fn reloaded(broker: &Broker, policies: &str) {
    let output = broker.reload_policies(policies);
    assert!(output.status.success(), "{output:?}");
    broker.audited("the reload", |record| record["event"] == "policy.reloaded");
}

/// Threat: subscription survives revocation; retained after revocation.
#[test]
fn a_reload_takes_rights_away_at_once() {
    let broker = Setup::new().plaintext().start();
    let mut writer = broker.simple(V, "writer");
    let mut exact = broker.simple(V, "exact");
    exact.subscribe("secret/a", 1);
    let mut unrelated = broker.simple(V, "unrelated");
    unrelated.subscribe("open/+", 1);
    let durable = Connect::new(V, "durable").durable();
    let mut offline = broker.client(&durable);
    offline.subscribe("secret/a", 1);
    offline.subscribe("open/a", 1);
    offline.disconnect();
    writer.publish_surely(&Publish::new("secret/a", "before").retain());
    exact.receive_text("before");

    reloaded(&broker, LOCKED);
    exact.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    broker.audited("the subscription", |record| {
        record["event"] == "subscription.withdrawn" && record["filter"] == "secret/a"
    });
    // What waited in the session is judged when it leaves.
    writer.publish_surely(&Publish::new("open/a", "open"));
    unrelated.receive_text("open");
    let mut offline = broker.client(&durable);
    offline.receive_text("open");
    offline.ping();
    // And nobody new gets it.
    let mut late = broker.simple(V, "late");
    assert_eq!(suback(&mut late, "secret/a"), NOT_AUTHORIZED);
    writer.send(&Publish::new("secret/a", "after").qos(1, 3));
    assert_eq!(writer.expect_ack_any(0x40, 3), NOT_AUTHORIZED);
}

/// Threat: a session survives the revocation of its certificate's authority.
#[test]
fn connections_end_when_a_reload_takes_their_authority_away() {
    let setup = Setup::new().mutual_tls();
    let certs = setup.path().join("certs");
    let leaving = Authority::new(&certs.join("leaving"), "Leaving CA");
    let between = leaving.below(&certs.join("between"), "Between");
    let (stays, direct, indirect) =
        (setup.device("stays"), leaving.client("direct"), between.client("indirect"));
    let chain = [&indirect.certificate, &between.certificate()].map(|file| read(file));
    std::fs::write(&indirect.certificate, chain.concat()).unwrap();
    let (bundle, staying) =
        (setup.authority().certificate(), read(&setup.authority().certificate()));
    std::fs::write(&bundle, format!("{staying}{}", read(&leaving.certificate()))).unwrap();
    let broker = setup.start();
    let connect = |identity, name: &str| broker.client_tls(identity, &Connect::new(V, name));
    let mut stays = connect(&stays, "stays");
    let mut leave = [connect(&direct, "direct"), connect(&indirect, "indirect")];

    // A reload that changes nothing ends nothing.
    assert!(broker.ctl(&["reload"]).status.success());
    for client in &mut leave {
        client.ping();
    }
    std::fs::write(&bundle, &staying).unwrap();
    assert!(broker.ctl(&["reload"]).status.success());
    for (mut client, name) in leave.into_iter().zip(["direct", "indirect"]) {
        client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
        let closed = broker.audited("the end of the connection", |record| {
            record["event"] == "connection.closed" && record["client_id"] == name
        });
        assert_eq!(
            closed["why"],
            "the authority behind the client's certificate is not trusted any more"
        );
    }
    stays.ping();
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Threat: subscription survives revocation, for deliveries that were under way.
#[test]
fn what_was_in_flight_is_judged_before_it_is_sent_again() {
    let broker = Setup::new().plaintext().start();
    let mut writer = broker.simple(V, "writer");
    for qos in [1, 2] {
        assert!(broker.reload_policies(PERMIT_ALL).status.success());
        let durable = Connect::new(V, &format!("durable{qos}")).durable();
        let mut client = broker.client(&durable);
        client.subscribe("+/a", qos);
        for (topic, payload) in [("secret/a", "secret"), ("open/a", "open")] {
            writer.publish_surely(&Publish::new(topic, payload).qos(qos, 7));
            assert_eq!(client.receive().payload, payload.as_bytes(), "and not acknowledged");
        }
        client.vanish();
        let no_more = LOCKED.replace(
            "action in [Action::\"read\", Action::\"write\"]",
            "action == Action::\"receive\"",
        );
        assert!(broker.reload_policies(&no_more).status.success());
        let mut client = broker.client(&durable);
        let again = client.receive();
        assert_eq!((again.payload.as_slice(), again.dup), (&b"open"[..], true));
        client.ping();
        broker.audited("the refused delivery", |record| {
            record["event"] == "denied"
                && record["verb"] == "receive"
                && record["topic"] == "secret/a"
                && record["client_id"] == format!("durable{qos}")
        });
    }
}

/// Threat: will bypass, by a will that waits.
#[test]
fn a_will_whose_right_was_taken_away_is_discarded_and_audited() {
    let broker = Setup::new().plaintext().start();
    let mut witness = broker.simple(V, "witness");
    witness.subscribe("open/a", 1);
    let live = broker.client(&Connect::new(V, "live").will(Will::new("secret/a", "live").retain()));
    let will = Will::new("secret/a", "delayed").retain().properties(property::will_delay(2));
    broker.client(&Connect::new(V, "delayed").durable().will(will)).vanish();
    reloaded(&broker, LOCKED);
    live.vanish();
    for client_id in ["live", "delayed"] {
        broker.audited("the discarded will", |record| {
            record["event"] == "will.discarded" && record["client_id"] == client_id
        });
    }
    // Given back, the right finds nothing that was kept.
    let output = broker.reload_policies(PERMIT_ALL);
    assert!(output.status.success(), "{output:?}");
    let mut late = broker.simple(V, "late");
    late.subscribe("secret/a", 1);
    late.ping();
    witness.ping();
}

/// Threat: config reload fails open.
#[test]
fn a_reload_that_fails_leaves_the_old_policies_in_force() {
    let broker = Setup::new().plaintext().policies(LOCKED).start();
    let mut client = broker.simple(V, "client");
    let huge = format!("// {}\n{PERMIT_ALL}", "x".repeat(5 << 20));
    let nested = format!(
        "@id(\"deep\") permit (principal, action, resource) when {{ {}true{} }};",
        "(".repeat(5000),
        ")".repeat(5000)
    );
    for (what, policies) in [
        ("no text", ""),
        ("no policy", "// nothing here\n"),
        ("no Cedar", "permit permit permit"),
        (
            "no schema that fits",
            r#"@id("x") permit (principal, action == Action::"fly", resource);"#,
        ),
        ("no id", "permit (principal, action, resource);"),
        ("too much", &huge),
        ("too deep", &nested),
        (
            "a wildcard inside a level",
            r#"@id("x") permit (principal, action, resource in TopicFilter::"a+/b");"#,
        ),
        (
            "an unknown placeholder",
            r#"@id("x") permit (principal, action, resource in TopicFilter::"${root}/b");"#,
        ),
        ("NUL", "\0"),
    ] {
        let output = broker.reload_policies(policies);
        assert!(!output.status.success(), "{what} was taken: {output:?}");
        assert_eq!(suback(&mut client, "secret/a"), NOT_AUTHORIZED, "after {what}");
        assert_eq!(suback(&mut client, "open/a"), 1, "after {what}");
    }
    broker.audited("the failed reload", |record| record["event"] == "policy.reload-failed");
    // A folder that is not there.
    std::fs::remove_dir_all(broker.path().join("policies")).unwrap();
    assert!(!broker.ctl(&["reload"]).status.success());
    assert_eq!(suback(&mut client, "secret/a"), NOT_AUTHORIZED);
}

/// A broker does not start on policies that it would not reload.
/// Threat: a reload that says done and was not.
#[test]
fn a_reload_takes_new_paths_and_names_what_it_does_not_take() {
    let broker = Setup::new().plaintext().start();
    let path = broker.path().join("portcullis.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    let missing = format!("policies = \"nowhere\"\n{before}");
    std::fs::write(&path, missing).unwrap();
    assert!(!broker.ctl(&["reload"]).status.success());
    std::fs::write(
        &path,
        before.replacen("connect_deadline = \"5s\"", "connect_deadline = \"6s\"", 1),
    )
    .unwrap();
    let output = broker.ctl(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("listener.mqtt.connect_deadline"), "{told}");
    broker.audited("what is not in force", |record| {
        record["event"] == "config.reloaded"
            && record["needs_restart"].to_string().contains("listener.mqtt.connect_deadline")
    });
    // The failed reload has put nothing in force, and nothing else is said of it.
    let events: Vec<_> = broker.audit().iter().map(|record| record["event"].to_string()).collect();
    let before = events.iter().position(|event| event == "\"policy.reload-failed\"").unwrap();
    let reloaded = events.iter().position(|event| event == "\"config.reloaded\"").unwrap();
    assert!(before < reloaded, "{events:?}");
}

/// Threat: a reload to policies that do something else than they are said to.
#[test]
fn a_reload_whose_cases_fail_leaves_the_old_policies_in_force() {
    let broker = Setup::new().plaintext().policies(LOCKED).start();
    let mut client = broker.simple(V, "client");
    let case = "Anonymous::anonymous\t-\tsubscribe\tsecret/a\t-\tdeny\tlocked\n";
    broker.write("policies/cases.tsv", case);
    reloaded(&broker, LOCKED);
    let refused = broker.reload_policies(PERMIT_ALL);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("cases.tsv:1:"), "{said}");
    assert!(said.contains("Anonymous::anonymous subscribe secret/a"), "{said}");
    broker.audited("the failed reload", |record| {
        record["event"] == "policy.reload-failed" && record.to_string().contains("cases.tsv:1:")
    });
    assert_eq!(suback(&mut client, "secret/a"), NOT_AUTHORIZED, "the old policies are in force");
    // A table that cannot be read is no table that passes.
    broker.write("policies/cases.tsv", "oops\n");
    assert!(!broker.reload_policies(PERMIT_ALL).status.success());
    assert_eq!(suback(&mut client, "secret/a"), NOT_AUTHORIZED);
    std::fs::remove_file(broker.path().join("policies/cases.tsv")).unwrap();
    reloaded(&broker, PERMIT_ALL);
    assert_eq!(suback(&mut client, "secret/a"), 1);
}

#[test]
fn a_broker_whose_cases_fail_does_not_start() {
    let setup = Setup::new().plaintext().policies(LOCKED);
    std::fs::create_dir_all(setup.path().join("policies")).unwrap();
    let case = "Anonymous::anonymous\t-\tpublish\tsecret/a\t-\tallow\teverything\n";
    std::fs::write(setup.path().join("policies/cases.tsv"), case).unwrap();
    let refused = setup.refused();
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("cases.tsv:1:"), "{}", refused.stderr);
}

#[test]
fn a_broker_without_valid_policies_does_not_start() {
    for policies in ["", "permit permit", "permit (principal, action, resource);"] {
        let refused = Setup::new().plaintext().policies(policies).refused();
        assert!(!refused.status.success());
        assert!(!refused.stderr.is_empty(), "it says why");
    }
}

/// Threat: config reload fails open: a folder that is half copied is valid, and wider.
#[test]
fn only_a_folder_that_is_replaced_as_a_whole_is_loaded_by_itself() {
    let broker = Setup::new().plaintext().key("watch_policies = \"reload\"").start();
    let at = |name: &str| broker.path().join(name);
    let mut client = broker.simple(V, "client");
    assert_eq!(suback(&mut client, "secret/a"), 1);
    let reloads = || {
        let is_reload = |record: &&serde_json::Value| record["event"] == "policy.reloaded";
        broker.audit().iter().filter(is_reload).count()
    };
    let await_reloads = |count: usize| {
        broker.audited("the reload", |_| reloads() == count);
    };
    // Edited in place: told, and not taken.
    broker.write("policies/more.cedar", LOCKED.replace("everything", "more").as_str());
    broker.said("run `portcullis ctl reload`");
    assert_eq!(reloads(), 0);
    assert_eq!(suback(&mut client, "secret/b"), 1);
    // Renamed into place.
    broker.write("next/all.cedar", LOCKED);
    a_moment_passes();
    std::fs::rename(at("policies"), at("old")).unwrap();
    std::fs::rename(at("next"), at("policies")).unwrap();
    client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    await_reloads(1);
    // In the new folder, by a manifest that fits.
    broker.write("policies/all.cedar", PERMIT_ALL);
    let hash = portcullis::pki::sha256_hex(PERMIT_ALL.as_bytes());
    broker.write("policies/policies.sha256", &format!("{hash}  all.cedar\n"));
    await_reloads(2);
    let mut client = broker.simple(V, "client");
    assert_eq!(suback(&mut client, "secret/a"), 1);
    // What is wrong is refused, and everything stays.
    broker.write("next/all.cedar", "permit permit");
    a_moment_passes();
    std::fs::rename(at("policies"), at("older")).unwrap();
    std::fs::rename(at("next"), at("policies")).unwrap();
    broker.audited("the refusal", |record| record["event"] == "policy.reload-failed");
    assert_eq!(suback(&mut client, "secret/a"), 1);
}

/// So that what comes now has a later time than what was before: the clock of the file system
/// ticks every 10 ms at most, and its times cannot be set.
fn a_moment_passes() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// Threat: config reload fails open: a folder that is put in place first and filled then.
#[test]
fn a_folder_that_is_filled_after_it_was_put_in_place_is_only_told() {
    let broker = Setup::new().plaintext().key("watch_policies = \"reload\"").start();
    let at = |name: &str| broker.path().join(name);
    let next = |name: &str| {
        std::fs::create_dir(at("next")).unwrap();
        std::fs::rename(at("policies"), at(name)).unwrap();
        std::fs::rename(at("next"), at("policies")).unwrap();
    };
    next("old");
    broker.write("policies/wider.cedar", &PERMIT_ALL.replace("everything", "wider"));
    broker.said("changed after it was put in its place");
    broker.write("policies/locked.cedar", LOCKED);
    broker.said("files were changed where they are");
    // A manifest that names what has not arrived.
    std::fs::create_dir(at("next")).unwrap();
    broker.write("next/wider.cedar", PERMIT_ALL);
    broker.write("next/policies.sha256", &format!("{}  locked.cedar\n", "0".repeat(64)));
    a_moment_passes();
    std::fs::rename(at("policies"), at("older")).unwrap();
    std::fs::rename(at("next"), at("policies")).unwrap();
    broker.said("policies.sha256 does not fit: it does not name wider.cedar");
    let refused = broker.ctl(&["reload"]);
    assert!(!refused.status.success());
    broker.said("reload refused, everything stays as it was");
    assert!(broker.audit().iter().all(|record| record["event"] != "policy.reloaded"));
    std::fs::remove_dir_all(at("policies")).unwrap();
    broker.said("the policy folder cannot be read");
}

/// Threat: policies that are swapped unnoticed.
#[test]
fn a_link_anywhere_on_the_way_may_swap_the_folder() {
    let setup = Setup::new().plaintext().key("watch_policies = \"reload\"");
    let root = setup.path().to_owned();
    std::fs::create_dir_all(root.join("1")).unwrap();
    for (to, link) in [("1", "inner"), ("inner", "current"), ("current", "policies")] {
        std::os::unix::fs::symlink(to, root.join(link)).unwrap();
    }
    let broker = setup.start();
    let mut client = broker.simple(V, "client");
    assert_eq!(suback(&mut client, "secret/a"), 1);
    broker.write("2/all.cedar", LOCKED);
    a_moment_passes();
    std::os::unix::fs::symlink("2", root.join("new")).unwrap();
    std::fs::rename(root.join("new"), root.join("inner")).unwrap();
    client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    broker.said("epoch=2");
    broker.write("2/more.cedar", &LOCKED.replace("\"everything\"", "\"more\""));
    broker.said("files were changed where they are");
    std::fs::remove_file(root.join("inner")).unwrap();
    broker.said("the policy folder cannot be read");
}

/// Threat: a pipe in the policy folder that keeps reloads, and the end, waiting for ever.
#[test]
fn a_pipe_among_the_policies_is_refused_at_once() {
    let mut broker = Setup::new().plaintext().start();
    let pipe = broker.path().join("policies/zz.cedar");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let refused = broker.ctl(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("zz.cedar cannot be read: it is not a regular file"), "{said}");
    std::fs::remove_file(&pipe).unwrap();
    assert!(broker.ctl(&["reload"]).status.success());
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
}

/// Threat: a right outlives its time on a session that is already there.
#[test]
fn a_right_that_ends_at_a_time_ends_then_for_live_subscriptions_and_deliveries() {
    let broker = Setup::new().plaintext().start();
    let mut client = broker.simple(V, "client");
    client.subscribe("window/a", 1);
    let mut other = broker.simple(V, "other");
    other.subscribe("other/a", 1);
    let mut writer = broker.simple(V, "writer");
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let end = humantime::format_rfc3339_millis(end);
    reloaded(
        &broker,
        &format!(
            r#"
@id("everything")
@reason("the rest of the test")
permit (principal, action, resource);

@id("until")
@reason("a window that closes")
forbid (principal, action == Action::"subscribe", resource in TopicFilter::"window/#")
when {{ context.time >= datetime("{end}") }};

@id("no-more")
@reason("what is delivered is judged by the time it leaves")
forbid (principal, action == Action::"receive", resource in TopicFilter::"other/#")
when {{ context.time >= datetime("{end}") }};
"#
        ),
    );
    // Nobody does anything, and the subscription ends by itself.
    client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    broker.audited("the subscription", |record| {
        record["event"] == "subscription.withdrawn" && record["filter"] == "window/a"
    });
    assert_eq!(suback(&mut broker.simple(V, "late"), "window/a"), NOT_AUTHORIZED);
    writer.publish_surely(&Publish::new("other/a", "after"));
    other.ping();
    broker.audited("the delivery", |record| {
        record["event"] == "denied" && record["verb"] == "receive" && record["topic"] == "other/a"
    });
}
