//! The configuration as a specification: what is accepted, what is refused and in which words,
//! and that the files in `config/` tell the truth.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

mod est;
mod files;
mod methods;
mod refusals;
mod registered;

use super::*;
use crate::identity::{Binding, PrincipalKind, Source};
use crate::server::listener::{Endpoint, WebSocket};

const PLAIN: &str =
    "[listener.a]\naddress = \"127.0.0.1:0\"\nplaintext = true\nidentity = \"anonymous\"\n";
const TLS: &str = "[listener.a]\naddress = \"0.0.0.0:8883\"\n[listener.a.tls]\n\
                   certificate = \"c.pem\"\nkey = \"k.pem\"\nclient_ca = \"ca.pem\"\n";

fn parse(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Config::from_text("p.toml", text, Path::new("/etc/p"), &overrides)
}

fn accept(text: &str, overrides: &[&str]) -> Config {
    parse(text, overrides).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// The problems, one per line.
fn refuse(text: &str, overrides: &[&str]) -> String {
    match parse(text, overrides) {
        Ok(_) => panic!("accepted:\n{text}\n{overrides:?}"),
        Err(error) => error.to_string(),
    }
}

fn value<'a>(config: &'a Config, key: &str) -> &'a Origin {
    config.origins.iter().find(|origin| origin.key == key).unwrap_or_else(|| panic!("no {key}"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn file(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The text with every `#key = value` and `#[table]` made active.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_listener_with_tls_needs_no_other_key_to_be_safe() {
    let config = accept(TLS, &[]);
    let listener = &config.listeners[0];
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(tls.certificate, Path::new("/etc/p/c.pem"));
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/p/ca.pem")));
    assert!(!tls.tls_1_2);
    assert_eq!(listener.identity.source, Source::CertificateCn);
    assert_eq!(listener.identity.kind, PrincipalKind::Device);
    assert_eq!(listener.identity.binding, Binding::Exact);
    assert_eq!(listener.proxy_protocol, None);
    assert_eq!(listener.websocket, None);
    assert_eq!(config.policies, Path::new("/etc/p/policies"));
    assert_eq!(config.audit.path, Path::new("/etc/p/audit/audit.jsonl"));
    assert_eq!(config.metrics, None);
    assert_eq!(config.control, None);
    assert_eq!(config.log, LogSettings { level: LogLevel::Info, json: false });
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_key_can_be_set_to_something_else() {
    let config = accept(
        "policies = \"/p\"\n[listener.a]\nunix = \"s.sock\"\nplaintext = true\n\
         identity = \"anonymous\"\nwebsocket = { path = \"/w\", origins = [\"https://x.example\"] }\n\
         [audit]\npath = \"a.log\"\nqueue_max = 99\n[metrics]\naddress = \"[::1]:9\"\n\
         [control]\nsocket = \"c.sock\"\nuids = [0, 1000]\nauthority_uids = [998]\n[log]\nlevel = \"trace\"\njson = true\n\
         [broker]\ndrain = \"1m 30s\"\nqueued_bytes_max = 1073741824\n",
        &[],
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.endpoint, Endpoint::Unix("/etc/p/s.sock".into()));
    assert_eq!(listener.identity.kind, PrincipalKind::Anonymous);
    let websocket = WebSocket { path: "/w".into(), origins: vec!["https://x.example".into()] };
    assert_eq!(listener.websocket, Some(websocket));
    assert_eq!(config.policies, Path::new("/p"));
    assert_eq!(config.audit, AuditSettings { path: "/etc/p/a.log".into(), queue_max: 99 });
    assert_eq!(config.metrics, Some("[::1]:9".parse().unwrap()));
    let (uids, authority_uids) = (vec![0, 1000], vec![998]);
    let control =
        crate::admin::control::Settings { path: "/etc/p/c.sock".into(), uids, authority_uids };
    assert_eq!(config.control, Some(control));
    assert_eq!(config.log, LogSettings { level: LogLevel::Trace, json: true });
    assert_eq!(config.broker.drain, Duration::from_secs(90));
    assert_eq!(config.broker.queued_bytes_max, 1 << 30);
}

#[test]
fn an_override_takes_toml_or_plain_text_and_the_last_one_wins() {
    let config = accept(
        PLAIN,
        &[
            "listener.a.address=127.0.0.1:7",
            "listener.a.websocket={ path = \"/x\" }",
            "listener.a.deny=[\"10.0.0.0/8\", \"::1\"]",
            "metrics.address=[::1]:9",
            "broker.drain=1s",
            " broker.drain = 2s ",
            "broker.sessions_max=7",
            "log.json=true",
            "log.level=\"debug\"",
            "audit.path=/tmp/a=b",
        ],
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.endpoint, Endpoint::Tcp("127.0.0.1:7".parse().unwrap()));
    assert_eq!(listener.websocket.as_ref().unwrap().path, "/x");
    assert_eq!(listener.admission.deny.len(), 2);
    assert_eq!(config.metrics, Some("[::1]:9".parse().unwrap()));
    assert_eq!(config.broker.drain, Duration::from_secs(2));
    assert_eq!(config.broker.sessions_max, 7);
    assert_eq!(config.log, LogSettings { level: LogLevel::Debug, json: true });
    assert_eq!(config.audit.path, Path::new("/tmp/a=b"));
}

#[test]
fn every_value_knows_where_it_was_set() {
    let text = format!("{PLAIN}[broker]\ndrain = \"3s\"\n");
    let config = accept(&text, &["broker.sessions_max=5", "listener.a.deny=[]"]);
    for (key, shown, from) in [
        ("broker.drain", "\"3s\"", "p.toml:6"),
        ("broker.sessions_max", "5", "--set"),
        ("broker.queued_bytes_max", "\"256MiB\"", "default"),
        ("listener.a.identity", "\"anonymous\"", "p.toml:4"),
        ("listener.a.client_id", "\"unbound\"", "default"),
        ("listener.a.principal", "\"anonymous\"", "default"),
        ("listener.a.deny", "[]", "--set"),
        ("listener.a.allow", "[\"0.0.0.0/0\", \"::/0\"]", "default"),
        ("listener.a.tls", "unset", "default"),
        ("metrics.address", "unset", "default"),
        ("profile.default.features.qos_max", "2", "default"),
        ("policies", "\"/etc/p/policies\"", "default"),
    ] {
        let origin = value(&config, key);
        assert_eq!(
            (origin.value.as_str(), origin.from.to_string().as_str()),
            (shown, from),
            "{key}"
        );
    }
    let keys: BTreeSet<&str> = config.origins.iter().map(|origin| origin.key.as_str()).collect();
    assert_eq!(keys.len(), config.origins.len(), "each key once");
}

#[test]
fn a_profile_inherits_from_default_what_it_leaves_unset() {
    let text = format!(
        "{PLAIN}profile = \"slow\"\n[profile.slow.rate]\npackets_per_second = 5\n\
         [profile.default.rate]\npackets_per_second = 50\npackets_burst = 60\n"
    );
    let config = accept(&text, &[]);
    let rate = &config.listeners[0].profile.rate;
    assert_eq!(&*config.listeners[0].profile.name, "slow");
    assert_eq!(rate.packets_per_second.get(), 5);
    assert_eq!(rate.packets_burst.get(), 60);
    assert_eq!(rate.bytes_burst, profile::built_in().rate.bytes_burst);
    let from = |key| value(&config, key).from.to_string();
    assert_eq!(from("profile.slow.rate.packets_per_second"), "p.toml:7");
    assert_eq!(from("profile.slow.rate.packets_burst"), "p.toml:10");
    assert_eq!(from("profile.slow.rate.bytes_burst"), "default");
}

#[test]
fn what_is_allowed_and_risky_is_warned_of() {
    let exposed = "listener.a.address=0.0.0.0:1883";
    for (text, settings, expected) in [
        (PLAIN, &[][..], &[][..]),
        (PLAIN, &[exposed], &["listener.a.plaintext lets", "listener.a.identity is \"anonymous\""]),
        (TLS, &["listener.a.client_id=unbound"], &["listener.a.client_id is \"unbound\""]),
        (
            PLAIN,
            &["listener.a.identity=proxy", "listener.a.proxy_protocol.trusted=[\"::1\"]"],
            &["listener.a.identity is \"proxy\""],
        ),
        (PLAIN, &["profile.x={}"], &["profile.x is used by no listener"]),
        (
            PLAIN,
            &["metrics.address=0.0.0.0:1", "metrics.beyond_loopback=true"],
            &["metrics.address can be read by others"],
        ),
        (
            PLAIN,
            &["profile.default.features.session_expiry_max=forever"],
            &["profile.default.features.session_expiry_max is \"forever\""],
        ),
        (
            PLAIN,
            &["listener.a.websocket.origins=[\"http://x.example\"]"],
            &["listener.a.websocket.origins allows a page"],
        ),
        (
            PLAIN,
            &["profile.default.mailbox.principal_messages_max=9"],
            &["profile.default.mailbox.principal_messages_max is less than one session"],
        ),
    ] {
        let warnings = accept(text, settings).warnings;
        assert_eq!(warnings.len(), expected.len(), "{settings:?} {warnings:?}");
        for (warning, start) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(start), "{warning}");
        }
    }
}

#[test]
fn paths_start_at_the_folder_of_the_file_and_a_writable_file_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    fs::write(&path, PLAIN).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let config = Config::load(&path, &[]).unwrap();
    assert_eq!(config.policies, folder.path().join("policies"));
    assert_eq!(config.warnings, Vec::<String>::new());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let config = Config::load(&path, &[]).unwrap();
    assert_eq!(config.warnings.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        fuzz_config_text(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(
        at in 0_usize..20_000,
        removed in 0_usize..40,
        inserted in "[\\[\\]{}=\"#.,\n0-9a-zé-]{0,10}",
    ) {
        let mut text: Vec<char> = uncommented(&file("portcullis.toml")).chars().collect();
        let start = at % text.len();
        let end = (start + removed).min(text.len());
        text.splice(start..end, inserted.chars());
        fuzz_config_text(&text.into_iter().collect::<String>());
    }

    #[test]
    fn no_override_makes_it_panic(setting in "[a-z.]{0,20}=?.{0,20}") {
        let _ = parse(PLAIN, &[&setting]);
    }
}
