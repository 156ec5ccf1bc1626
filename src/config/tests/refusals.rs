//! What is refused, and in which words.

use std::fs;

use super::super::*;
use super::{PLAIN, TLS, parse, refuse};

#[test]
fn a_wrong_value_is_refused_with_its_place_and_a_remedy() {
    for (setting, expected) in [
        (
            "broker.drain=5",
            "--set:1:14: broker.drain is a number without a unit; \
             write a duration from \"0s\" to \"1h\", such as \"10s\"",
        ),
        (
            "broker.sessions_max=0",
            "--set:1:21: broker.sessions_max is 0, and 0 never means unlimited; \
             write a number from 1 to 100000000, such as 100000",
        ),
        (
            "broker.sessions_max=-1",
            "--set:1:21: broker.sessions_max is -1, out of bounds; \
             write a number from 1 to 100000000, such as 100000",
        ),
        (
            "broker.sessions_max=1.5",
            "--set:1:21: broker.sessions_max is a number with a fraction; \
             write a number from 1 to 100000000, such as 100000",
        ),
        (
            "profile.default.size.packet_bytes_max=0B",
            "--set:1:39: profile.default.size.packet_bytes_max is 0, and 0 never means unlimited; \
             write a number of bytes from \"1KiB\" to \"256MiB\", such as \"256KiB\"",
        ),
        (
            "profile.default.size.packet_bytes_max=1GiB",
            "--set:1:39: profile.default.size.packet_bytes_max is more than 256MiB; \
             write a number of bytes from \"1KiB\" to \"256MiB\", such as \"256KiB\"",
        ),
        (
            "profile.default.size.packet_bytes_max=lots",
            "--set:1:39: profile.default.size.packet_bytes_max is \"lots\", not a number of bytes; \
             write a number of bytes from \"1KiB\" to \"256MiB\", such as \"256KiB\"",
        ),
        (
            "profile.default.features.keep_alive_max=0s",
            "--set:1:41: profile.default.features.keep_alive_max is 0, and 0 never means \
             unlimited; write \"off\" if that is meant",
        ),
        (
            "profile.default.features.keep_alive_min=1500ms",
            "--set:1:41: profile.default.features.keep_alive_min is not in whole seconds; \
             write a duration from \"1s\" to \"18h 12m 15s\", such as \"5s\"",
        ),
        (
            "profile.default.features.qos_max=3",
            "--set:1:34: profile.default.features.qos_max is more than 2; \
             write 0, 1 or 2, such as 2",
        ),
        (
            "profile.default.rate.answer=disconect",
            "--set:1:29: profile.default.rate.answer is \"disconect\"; \
             did you mean \"disconnect\"?",
        ),
        (
            "profile.default.rate.answer=shout",
            "--set:1:29: profile.default.rate.answer is \"shout\"; \
             write one of \"slow-down\", \"disconnect\", such as \"slow-down\"",
        ),
        (
            "listener.a.plaintext=yes",
            "--set:1:22: listener.a.plaintext is text; write true or false, such as false",
        ),
        (
            "listener.a.address=localhost:1883",
            "--set:1:20: listener.a.address is \"localhost:1883\", not an address and a port; \
             write an IP address and a port, such as \"127.0.0.1:8883\" or \"[::]:8883\"",
        ),
        (
            "listener.a.deny=[\"10.1.2.3/8\"]",
            "--set:1:17: listener.a.deny holds \"10.1.2.3/8\", an address inside a network; \
             did you mean \"10.0.0.0/8\"?",
        ),
        (
            "listener.a.allow=[]",
            "--set:1:18: listener.a.allow is empty; \
             name networks, or leave the key out to allow every one",
        ),
        (
            "listener.a.websocket={origins=[\"**\"]}",
            "--set:1:22: listener.a.websocket.origins holds \"**\", which no browser sends as \
             Origin; write a list of origins in lower case such as \"https://example.com\", \
             without a path, or \"*\" for every page, such as []",
        ),
        (
            "audit.path=",
            "--set:1:12: audit.path is empty; \
             write a path, relative to the folder of this file, such as \"/etc/p/audit/audit.jsonl\"",
        ),
        ("audit=1", "--set:1:7: audit is a number, not a table; write [audit] and its keys below"),
    ] {
        let problems = refuse(PLAIN, &[setting]);
        assert!(problems.lines().any(|problem| problem == expected), "{problems}\n{expected}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_contradicts_itself_is_refused_at_the_key_that_was_typed() {
    for (text, settings, expected) in [
        (
            "",
            &[][..],
            "p.toml: listener is missing: nobody could connect; \
                       add [listener.NAME] with its address and tls",
        ),
        (
            "[listener.a]\naddress = \"0.0.0.0:1\"\nidentity = \"anonymous\"",
            &[],
            "p.toml:1:1: listener.a.tls is missing; \
          add [listener.a.tls], or ask for plaintext = true by name",
        ),
        (
            PLAIN,
            &["listener.a.identity=certificate-cn"],
            "--set:1:21: listener.a.identity is \"certificate-cn\", but clients show no certificates; \
          set tls.client_ca, or ask for identity = \"anonymous\" by name",
        ),
        (
            PLAIN,
            &["listener.a.unix=x"],
            "--set:1:17: listener.a.unix stands beside address; keep one of the two",
        ),
        (
            PLAIN,
            &["listener.a.principal=device"],
            "--set:1:22: listener.a.principal is \"device\" beside identity = \"anonymous\"; \
          anonymous clients are of type \"anonymous\", and nobody else is",
        ),
        (
            TLS,
            &["listener.a.principal=anonymous"],
            "--set:1:22: listener.a.principal is \"anonymous\" beside identity = \"certificate-cn\"; \
          anonymous clients are of type \"anonymous\", and nobody else is",
        ),
        (
            PLAIN,
            &["listener.a.client_id=exact"],
            "--set:1:22: listener.a.client_id binds client ids to an identity that all clients \
          share; write \"unbound\" beside identity = \"anonymous\"",
        ),
        (
            TLS,
            &["listener.a.plaintext=true"],
            "--set:1:22: listener.a.plaintext is true beside tls; keep one of the two",
        ),
        (
            TLS,
            &["listener.a.tls.client_certificates=none"],
            "--set:1:36: listener.a.tls.client_certificates is \"none\" beside client_ca; \
          keep one of the two",
        ),
        (
            TLS,
            &["listener.a.identity=anonymous"],
            "--set:1:21: listener.a.identity is \"anonymous\" beside tls.client_ca: certificates \
          would be shown in vain; take the identity from them, or write \
          tls.client_certificates = \"none\"",
        ),
        (
            TLS,
            &["listener.a.identity=proxy"],
            "--set:1:21: listener.a.identity is \"proxy\" without proxy_protocol; \
          write proxy_protocol = { trusted = [\"…\"] }\n\
          --set:1:21: listener.a.identity is \"proxy\" beside tls.client_ca: two sources of one \
          identity; write tls.client_certificates = \"none\", or take it from certificates",
        ),
        (
            PLAIN,
            &["listener.a.proxy_protocol={trusted=[]}"],
            "--set:1:27: listener.a.proxy_protocol.trusted is empty; \
          name the proxies: without one nobody can connect",
        ),
        (
            PLAIN,
            &["listener.a.proxy_protocol={trusted=[\"0.0.0.0/0\"]}"],
            "--set:1:27: listener.a.proxy_protocol.trusted holds every address, so that any client \
          could claim to be another; name the networks of the proxies only",
        ),
        (
            PLAIN,
            &["listener.a.proxy_protocol={}"],
            "--set:1:27: listener.a.proxy_protocol.trusted is missing; \
          write the networks of the proxies",
        ),
        (
            TLS,
            &["listener.a.client_id=prefix"],
            "p.toml:1:1: listener.a.client_id_separator is missing beside client_id = \"prefix\"; \
          write what stands between identity and suffix, and in no identity, such as \":\"",
        ),
        (
            TLS,
            &["listener.a.client_id_separator=:"],
            "--set:1:32: listener.a.client_id_separator has no effect here; \
          write client_id = \"prefix\", or remove the separator",
        ),
        (
            PLAIN,
            &["listener.a.websocket.path=mqtt"],
            "--set:1:27: listener.a.websocket.path is no path of a URL; \
          begin it with \"/\", without query, escapes or spaces",
        ),
        (
            PLAIN,
            &["listener.a.profile=defualt"],
            "--set:1:20: listener.a.profile is \"defualt\", which is not defined; \
          did you mean \"default\"?",
        ),
        (
            PLAIN,
            &["listener.a.profile=cameras"],
            "--set:1:20: listener.a.profile is \"cameras\", which is not defined; \
          add [profile.cameras]",
        ),
        (
            PLAIN,
            &["profile.default.rate.bytes_burst=10KiB"],
            "--set:1:34: profile.default.rate.bytes_burst is 10KiB, but a packet may have 256KiB; \
          set rate.bytes_burst to at least \"256KiB\"",
        ),
        (
            PLAIN,
            &["profile.default.size.packet_bytes_max=4MiB"],
            "--set:1:39: profile.default.size.packet_bytes_max is 4MiB, but rate.bytes_burst 2MiB; \
          set rate.bytes_burst to at least \"4MiB\"",
        ),
        (
            PLAIN,
            &["profile.big.size.packet_bytes_max=4MiB", "listener.a.profile=big"],
            "--set:1:35: profile.big.size.packet_bytes_max is 4MiB, but rate.bytes_burst 2MiB; \
          set rate.bytes_burst to at least \"4MiB\"",
        ),
        (
            PLAIN,
            &["profile.default.mailbox.bytes_max=100KiB"],
            "--set:1:35: profile.default.mailbox.bytes_max is 100KiB, but a packet may have 256KiB; \
          set mailbox.bytes_max to at least \"256KiB\"",
        ),
        (
            PLAIN,
            &["profile.default.features.keep_alive_min=2h"],
            "--set:1:41: profile.default.features.keep_alive_min is more than keep_alive_max; \
          make keep_alive_min the smaller one",
        ),
        (
            PLAIN,
            &[
                "profile.default.features.mqtt_5_0=false",
                "profile.default.features.mqtt_3_1_1=false",
            ],
            "--set:1:35: profile.default.features.mqtt_5_0 is off like every other version; \
          turn one version on",
        ),
        (
            PLAIN,
            &["profile.default.mailbox.bytes_max=1GiB"],
            "--set:1:35: profile.default.mailbox.bytes_max is 1GiB, but broker.queued_bytes_max \
          256MiB; lower it to \"256MiB\", or raise broker.queued_bytes_max",
        ),
        (
            PLAIN,
            &["broker.queued_bytes_max=1MiB"],
            "--set:1:25: broker.queued_bytes_max is 1MiB, but profile.default.mailbox.bytes_max \
          16MiB; set it to at least \"16MiB\", or lower profile.default.mailbox.bytes_max",
        ),
        (
            PLAIN,
            &["metrics.address=0.0.0.0:9464"],
            "--set:1:17: metrics.address is 0.0.0.0:9464, which others can reach, without TLS or \
          login; write a loopback address, or ask for it by beyond_loopback = true",
        ),
        (
            PLAIN,
            &["control.uids=[0]"],
            "--set:1:14: control.uids has no effect without socket; set socket, or remove it",
        ),
        (
            PLAIN,
            &["control.socket=c", "control.authority_uids=[65534]"],
            "--set:1:24: control.authority_uids has 65534, which stands for everybody whom the \
          kernel cannot name; give the caller a user of its own",
        ),
        (
            TLS,
            &["metrics.address=127.0.0.1:8883"],
            "--set:1:17: metrics.address is where listener.a.address listens already; \
          give each its own",
        ),
        (
            "[listener.a]\nunix = \"s\"\nplaintext = true\nidentity = \"anonymous\"\n\
          [control]\nsocket = \"s\"\n",
            &[],
            "p.toml:6:10: control.socket is where listener.a.unix listens already; \
          give each its own",
        ),
        (
            "[listener.a]\nunix = \"s\"\nplaintext = true\nidentity = \"anonymous\"\n\
          deny = [\"::1\"]\n",
            &[],
            "p.toml:5:8: listener.a.deny stands beside unix, where clients have no address; \
          remove it",
        ),
        (
            "[listener.a]\nunix = \"s\"\nplaintext = true\nidentity = \"proxy\"\n\
          proxy_protocol.trusted = [\"::1\"]\n",
            &[],
            "p.toml:5:1: listener.a.proxy_protocol stands beside unix, where a proxy has no address \
          to be trusted by; listen on a loopback address",
        ),
    ] {
        assert_eq!(refuse(text, settings), expected);
    }
}

#[test]
fn what_a_tls_listener_lacks_is_named() {
    for (line, expected) in [
        (
            "certificate",
            "p.toml:3:1: listener.a.tls.certificate is missing; \
                         write the path of a PEM file",
        ),
        ("key", "p.toml:3:1: listener.a.tls.key is missing; write the path of a PEM file"),
        (
            "client_ca",
            "p.toml:3:1: listener.a.tls.client_ca is missing; write the path of the \
                       CA's PEM file, or client_certificates = \"none\"",
        ),
        (
            "address",
            "p.toml:1:1: listener.a.address is missing; \
                     write address = \"0.0.0.0:8883\", or unix = \"path\"",
        ),
    ] {
        let is_kept = |kept: &&str| !kept.starts_with(line);
        let mut text = TLS.lines().filter(is_kept).collect::<Vec<_>>().join("\n");
        if line == "address" {
            text = text.replace("[listener.a]", "[listener.a]\n");
        }
        assert_eq!(refuse(&text, &[]), expected);
    }
}

#[test]
fn addresses_that_cannot_be_bound_together_are_refused_and_others_are_not() {
    for (left, right, allowed) in [
        ("127.0.0.1:1883", "127.0.0.1:1883", false),
        ("0.0.0.0:1883", "127.0.0.1:1883", false),
        ("127.0.0.1:1883", "0.0.0.0:1883", false),
        ("[::]:1883", "127.0.0.1:1883", false),
        ("[::]:1883", "[::1]:1883", false),
        ("0.0.0.0:1883", "[::1]:1883", true),
        ("127.0.0.1:1883", "127.0.0.2:1883", true),
        ("127.0.0.1:1883", "127.0.0.1:1884", true),
        ("127.0.0.1:0", "127.0.0.1:0", true),
    ] {
        let text = format!("{PLAIN}{}", PLAIN.replace("listener.a", "listener.b"));
        let left_setting = format!("listener.a.address={left}");
        let right_setting = format!("listener.b.address={right}");
        let result = parse(&text, &[&left_setting, &right_setting]);
        assert_eq!(result.is_ok(), allowed, "{left} {right}");
    }
}

#[test]
fn an_unknown_key_is_refused_in_every_table_with_the_nearest_known_one() {
    let tables = [
        "listener.a",
        "listener.a.tls",
        "listener.a.websocket",
        "listener.a.proxy_protocol",
        "profile.default",
        "profile.default.rate",
        "profile.default.size",
        "profile.default.features",
        "profile.default.authorize",
        "profile.default.session",
        "profile.default.mailbox",
        "profile.other",
        "profile.other.rate",
        "broker",
        "audit",
        "metrics",
        "control",
        "log",
    ];
    for table in tables {
        let error = refuse(TLS, &[&format!("{table}.zzzzzzzz=1")]);
        assert!(error.contains(&format!("{table}.zzzzzzzz is not a known key; known here: ")));
    }
    for (setting, expected) in [
        ("brokr.drain=1s", "--set:1:1: brokr is not a known key; did you mean broker?"),
        ("broker.drian=1s", "--set:1:1: broker.drian is not a known key; did you mean drain?"),
        (
            "profile.default.rate.packets-burst=1",
            "--set:1:1: profile.default.rate.packets-burst is not a known key; \
             did you mean packets_burst?",
        ),
    ] {
        assert_eq!(refuse(TLS, &[setting]), expected);
    }
    let text = format!("{TLS}policies = \"p\"\n");
    assert_eq!(
        refuse(&text, &[]),
        "p.toml:7:1: listener.a.tls.policies is not a known key; put it above the first [table]"
    );
}

#[test]
fn a_share_that_holds_no_packet_is_refused_and_one_that_is_everything_is_warned_of() {
    let text = format!("{PLAIN}[profile.default.retained]\nbytes_max = \"64KiB\"\n");
    assert_eq!(
        refuse(&text, &[]),
        "p.toml:6:13: profile.default.retained.bytes_max is 64KiB, but a packet may have 256KiB; \
         set retained.bytes_max to at least \"256KiB\""
    );
    let config = super::accept(PLAIN, &["broker.sessions_max=100"]);
    assert_eq!(
        config.warnings,
        ["profile.default.session.sessions_max is not less than broker.sessions_max: \
          one principal can use up what is for all"]
    );
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let error =
        parse("[broker]\ndrain = 1\nspeed = 2\n[log]\nlevel = \"loud\"\n", &[]).unwrap_err();
    let keys: Vec<&str> = error.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["listener", "broker.drain", "broker.speed", "log.level"]);
    let keys: Vec<String> = (0..80).map(|number| format!("k{number} = 1")).collect();
    let many = format!("[listener.x]\n{}", keys.join("\n"));
    let error = parse(&many, &[]).unwrap_err();
    assert_eq!(error.problems().len(), 50);
    assert!(error.to_string().ends_with("more"));
}

#[test]
fn a_problem_is_drawn_with_its_line_and_its_remedy() {
    let text = "[broker]\n# comment\nsesions_max = 5\n";
    let error = parse(&format!("{PLAIN}{text}"), &[]).unwrap_err();
    assert_eq!(
        error.render(false),
        "  × broker.sesions_max is not a known key\n   ╭─[p.toml:7:1]\n 6 │ # comment\n \
         7 │ sesions_max = 5\n   · ─────┬─────\n   ·      ╰── here\n   ╰────\n  \
         help: did you mean sessions_max?\n\n"
    );
}

#[test]
fn control_characters_reach_no_terminal() {
    for text in ["\"a\\u001b[2J\" = 1", "a = \"\u{1b}[2J\"", "# \u{9b}2J\n[broker]\ndrain = 1"] {
        let error = parse(text, &["broker.x=\u{1b}"]).unwrap_err();
        let shown = error.render(false) + &error.to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

#[test]
fn the_path_of_a_socket_is_bounded() {
    let long = format!("control.socket={}", "x".repeat(101));
    assert_eq!(
        refuse(PLAIN, &[&long]),
        "--set:1:16: control.socket is longer than 107 bytes with its folder; \
         choose a shorter path"
    );
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let error = refuse("[listener.a\naddress = 1\n", &[]);
    assert!(error.starts_with("p.toml:1:12: "), "{error}");
    let error = refuse("a = 1\na = 2\n", &[]);
    assert!(error.starts_with("p.toml:2:1: duplicate key; correct the TOML"), "{error}");
    let error = refuse("\n[log] # why\nlevel = \"info\"\n[store]\n[ log ]\njson = true\n", &[]);
    assert_eq!(
        error,
        "p.toml:5:3: duplicate key; it is there already, in line 2; put the keys under the first one"
    );
    let error = refuse("log.level = \"info\"\n[log]\njson = true\n", &[]);
    assert!(error.ends_with("; it is there already; put the keys under the first one"), "{error}");
    let error = refuse("\"é\" = 1\nx = é\n", &[]);
    assert!(error.starts_with("p.toml:2:5: "), "{error}");
}

#[test]
fn an_override_that_cannot_be_laid_over_is_refused() {
    for (setting, expected) in [
        (
            "broker.drain",
            "--set:1:1: has no \"=\"; write --set key=value, such as --set broker.drain=5s",
        ),
        (
            "broker..drain=1",
            "--set:1:1: broker..drain is not a key; \
             write names joined by dots, such as listener.NAME.address",
        ),
        (
            "=1",
            "--set:1:1: is not a key; write names joined by dots, such as listener.NAME.address",
        ),
        (
            "listener.a.address.port=1",
            "--set:1:1: listener.a.address.port goes through address, which is no table; \
             override the key itself",
        ),
        (
            "a.b.c.d.e.f.g.h.i=1",
            "--set:1:1: a.b.c.d.e.f.g.h.i is not a key; \
             write names joined by dots, such as listener.NAME.address",
        ),
    ] {
        assert_eq!(refuse(PLAIN, &[setting]), expected);
    }
    let error = refuse(PLAIN, &["listener.a.deny=[\"::1\""]);
    assert!(error.starts_with("--set:1:17: listener.a.deny is no TOML value: "), "{error}");
}

#[test]
fn names_of_listeners_and_profiles_are_bounded() {
    for name in ["\"a.b\"", "\"\"", "\"ä\"", "\"a b\""] {
        let error = refuse(&PLAIN.replace("listener.a", &format!("listener.{name}")), &[]);
        assert!(error.contains("has a table with the name"), "{error}");
    }
    let many: String =
        (0..65).map(|n| PLAIN.replace("listener.a", &format!("listener.l{n}"))).collect();
    assert!(refuse(&many, &[]).contains("listener has more than 64 tables"));
    assert!(
        refuse("[listener]\naddress = \"::\"", &[])
            .contains("listener.address is text, not a table")
    );
}

#[test]
fn a_file_that_cannot_be_read_as_a_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    let error = || Config::load(&path, &[]).unwrap_err().to_string();
    assert!(error().contains("cannot be read"), "{}", error());
    fs::write(&path, [0xff]).unwrap();
    assert!(error().contains("is not UTF-8"), "{}", error());
    fs::write(&path, vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert!(error().contains("is larger than 1 MiB"), "{}", error());
    fs::write(&path, "").unwrap();
    assert!(error().contains("listener is missing"), "{}", error());
}
