//! Methods of authentication, and the lists of listeners.

use std::time::Duration;

use super::*;
use crate::server::login::{How, KeysFrom};

const PEOPLE: &str = "[listener.a]\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
const STAFF: &str = "[authentication.staff]\nmethod = \"password\"\nfile = \"p\"\n";
const TOKENS: &str = "[authentication.tokens]\nmethod = \"jwt\"\nissuer = \"i\"\n\
                      audience = [\"a\"]\nkeys = \"k\"\n";
const STRONG: &str = "[authentication.strong]\nmethod = \"scram\"\nfile = \"s\"\n";
const BACKEND: &str = "[authentication.backend]\nmethod = \"http\"\n\
                       url = \"https://auth.example/x\"\nca = \"ca.pem\"\n";

fn with(list: &str, tables: &[&str]) -> String {
    format!("{PEOPLE}authentication = {list}\n{}", tables.concat())
}

#[test]
fn a_list_of_methods_makes_clients_users_unless_they_show_certificates() {
    let config = accept(&with("[\"tokens\", \"staff\"]", &[STAFF, TOKENS]), &[]);
    let listener = &config.listeners[0];
    assert_eq!(listener.identity.source, Source::Authentication);
    assert_eq!(listener.identity.kind, PrincipalKind::User);
    assert_eq!(listener.identity.binding, Binding::Exact);
    assert_eq!(listener.authentication, ["tokens".into(), "staff".into()]);
    assert_eq!(config.warnings, Vec::<String>::new());
    let mutual = format!("{TLS}{STAFF}");
    let config = accept(&mutual, &["listener.a.authentication=[\"staff\"]"]);
    assert_eq!(config.listeners[0].identity.source, Source::CertificateCn);
    assert_eq!(config.listeners[0].identity.kind, PrincipalKind::Device);
    let by_method = ["listener.a.authentication=[\"staff\"]", "listener.a.identity=authentication"];
    let config = accept(&mutual, &by_method);
    assert_eq!(config.listeners[0].identity.source, Source::Authentication);
    assert!(config.listeners[0].tls.as_ref().unwrap().client_ca.is_some());
}

#[test]
fn every_default_of_a_method_is_the_safe_one() {
    let config = accept(&with("[\"tokens\", \"backend\"]", &[BACKEND, TOKENS]), &[]);
    let [backend, tokens] = &config.methods[..] else { panic!("{:?}", config.methods) };
    let How::Http { server, conferred, kept, .. } = &backend.how else { panic!("{backend:?}") };
    assert_eq!(server.timeout, Duration::from_secs(3));
    assert_eq!(server.ca.as_deref(), Some(Path::new("/etc/p/ca.pem")));
    assert!(conferred.groups.is_empty() && conferred.tags.is_empty());
    assert_eq!(*kept, Duration::from_secs(30));
    let How::Token { keys: KeysFrom::File(file), tokens } = &tokens.how else {
        panic!("{tokens:?}")
    };
    assert_eq!(file, Path::new("/etc/p/k"));
    assert!(tokens.conferred.groups.is_empty() && tokens.conferred.tags.is_empty());
    assert_eq!((tokens.leeway, &*tokens.name_claim), (Duration::ZERO, "sub"));
    assert_eq!(config.login.failures.per_name.get(), 10);
}

#[test]
fn lists_and_methods_that_mean_nothing_are_refused_with_the_remedy() {
    let staff = with("[\"staff\"]", &[STAFF]);
    let remove = |text: &str, line: &str| text.replacen(&format!("{line}\n"), "", 1);
    for (text, settings, expected) in [
        (with("[]", &[]), &[][..], "listener.a.authentication is empty"),
        (with("[\"stuff\"]", &[STAFF]), &[], "names \"stuff\", which is not defined; did you mean"),
        (with("[\"x\"]", &[]), &[], "add [authentication.x]"),
        (with("[\"staff\", \"staff\"]", &[STAFF]), &[], "names \"staff\" twice"),
        (
            with("[\"staff\", \"tokens\"]", &[STAFF, TOKENS]),
            &[],
            "names \"tokens\" behind \"staff\", which decides every password",
        ),
        (
            with("[\"staff\", \"backend\"]", &[STAFF, BACKEND]),
            &[],
            "names \"backend\" behind \"staff\"",
        ),
        (staff.clone(), &["listener.a.identity=anonymous"], "is \"anonymous\" beside authentic"),
        (staff.clone(), &["listener.a.address=0.0.0.0:1"], "without TLS that others can reach"),
        (PEOPLE.into(), &["listener.a.identity=authentication"], "without a list of methods"),
        (remove(&staff, "file = \"p\""), &[], "authentication.staff.file is missing"),
        (remove(&staff, "method = \"password\""), &[], "authentication.staff.method is missing"),
        (staff.clone(), &["authentication.staff.principal=anonymous"], "staff.principal is"),
        (staff.clone(), &["authentication.staff.method=psk"], "authentication.staff.method is"),
        (staff.clone(), &["authentication.staff.url=\"x\""], "is not a known key"),
        (
            remove(&with("[\"tokens\"]", &[TOKENS]), "issuer = \"i\""),
            &[],
            "authentication.tokens.issuer is missing",
        ),
        (
            with("[\"tokens\"]", &[TOKENS]),
            &["authentication.tokens.audience=[]"],
            "audience is empty",
        ),
        (
            with("[\"tokens\"]", &[TOKENS]),
            &["authentication.tokens.keys_url=\"https://k.example\""],
            "ca is missing",
        ),
        (
            with("[\"tokens\"]", &[TOKENS]),
            &["authentication.tokens.keys_url=\"https://k.example\"", "authentication.tokens.ca=c"],
            "keys_url stands beside keys",
        ),
        (
            with("[\"backend\"]", &[BACKEND]),
            &["authentication.backend.url=\"http://auth.example\""],
            "is without TLS",
        ),
        (
            with("[\"backend\"]", &[BACKEND]),
            &["authentication.backend.url=\"https://u:p@auth.example\""],
            "holds a user name",
        ),
        (
            with("[\"backend\"]", &[BACKEND]),
            &["authentication.backend.url=\"ftp://auth.example/x\""],
            "is no URL of a server",
        ),
        (
            with("[\"backend\"]", &[BACKEND]),
            &["authentication.backend.certificate=c.pem"],
            "certificate and key go together",
        ),
        (
            with("[\"backend\"]", &[BACKEND]),
            &["authentication.backend.cache=2m"],
            "authentication.backend.cache is",
        ),
    ] {
        let problems = refuse(&text, settings);
        assert!(problems.contains(expected), "{expected:?} is not in {problems}\nof {settings:?}");
    }
    let strong = with("[\"staff\", \"strong\"]", &[STAFF, STRONG]);
    assert_eq!(accept(&strong, &[]).warnings, Vec::<String>::new());
    let unused = accept(&format!("{PLAIN}{STAFF}"), &[]).warnings;
    assert_eq!(unused, ["authentication.staff is used by no listener"]);
}
