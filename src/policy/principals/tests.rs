//! Who is in which group, and who is not. Every allow has its deny.

use std::sync::Arc;

use super::*;
use crate::identity::certificate::ALTERNATIVE_NAME_BYTES_MAX;
use crate::policy::tests::world::{
    device, forbidden, identity, nested, principals, publish, receive, subject, subscribe,
};
use crate::policy::{Bundle, Denial, PolicyEpoch, Question, Words};

const OURS: &str = "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11";
const THEIRS: &str = "bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22";
const LEAF: &str = "cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33";

/// The example of `policies/README.md`, with hashes that look like some.
fn example() -> String {
    format!(
        r#"
[group.staff]
[group.operators]
in = ["staff"]
members = ["User::ann", "Service::scada"]
certificates = ["{LEAF}"]
[[group.operators.granted_by]]
issuer = "{OURS}"
organizational_unit = "Operators"
[[group.operators.granted_by]]
issuer = "{OURS}"
san_uri = "spiffe://plant/ops/*"
[[group.operators.granted_by]]
issuer = "{OURS}"
san_dns = "*.ops.example"
[principal."Device::dev1"]
tags = {{ plant = "fra1", line = "3" }}
[certificate."{LEAF}"]
tags = {{ plant = "ber2" }}
"#
    )
}

fn refusal(text: &str) -> String {
    let error = Principals::parse("principals.toml", text).unwrap_err();
    error.lines().collect::<Vec<_>>().join("\n")
}

/// One text for each number, joined.
fn repeated(numbers: impl Iterator<Item = usize>, text: impl Fn(usize) -> String) -> String {
    numbers.map(text).collect::<Vec<_>>().concat()
}

/// A device whose certificate is changed.
fn certified(name: &str, change: impl FnOnce(&mut CertificateFacts)) -> Identity {
    let mut identity = device(name, &[]);
    identity.tags.clear();
    let mut certificate = (**identity.certificate.as_ref().unwrap()).clone();
    certificate.issuer = OURS.into();
    certificate.dns_names.clear();
    change(&mut certificate);
    identity.certificate = Some(Arc::new(certificate));
    identity
}

fn unit(unit: &str) -> Identity {
    certified("dev9", |certificate| certificate.organizational_units = vec![unit.into()])
}

fn uri(uri: &str) -> Identity {
    certified("dev9", |certificate| certificate.uris = vec![uri.into()])
}

fn dns(name: &str) -> Identity {
    certified("dev9", |certificate| certificate.dns_names = vec![name.into()])
}

/// The same, from another authority.
fn from_others(mut identity: Identity) -> Identity {
    let mut certificate = (**identity.certificate.as_ref().unwrap()).clone();
    certificate.issuer = THEIRS.into();
    identity.certificate = Some(Arc::new(certificate));
    identity
}

fn groups(principals: &Principals, identity: &Identity) -> String {
    principals.resolve(identity).unwrap().groups.join(" ")
}

/// That the first problem begins like this.
fn assert_shown(text: &str, shown: &str) {
    let found = refusal(text);
    let shown = format!("principals.toml:{shown}");
    assert!(found.starts_with(&shown), "{found}\nnot\n{shown}\nfor\n{text}");
}

#[test]
fn a_mistake_in_the_shape_is_shown_with_file_line_column_and_remedy() {
    let long = "x".repeat(257);
    for (text, shown) in [
        ("[group.a", "1:9: unclosed table, expected `]`; correct the TOML"),
        ("[group.a]\n[group.a]", "2:8: duplicate key; correct the TOML"),
        ("[groups.a]", "1:2: unknown key \"groups\"; did you mean group?"),
        (
            "title = 1",
            "1:1: unknown key \"title\"; the keys here are group, principal, certificate",
        ),
        ("group = 1", "1:9: group is a table; write [group.NAME]"),
        ("[group]\na = 1", "2:5: a group is a table; write [group.NAME]"),
        ("[group.\"\"]", "1:8: the name is empty; write one"),
        ("[group.\"a\\u0000\"]", "1:8: the name has the character U+0000; remove it"),
        ("[group.\"a\\u202e\"]", "1:8: the name has the character U+202E; remove it"),
        (&format!("[group.{long}]"), "1:8: the name has 257 bytes; 256 are allowed; shorten it"),
        ("[group.a]\nmember = []", "2:1: unknown key \"member\"; did you mean members?"),
        ("[group.a]\nin = \"b\"", "2:6: in is a list; write in = [\"staff\"]"),
        ("[group.a]\nin = [1]", "2:7: in is a text; write in = [\"staff\"]"),
    ] {
        assert_shown(text, shown);
    }
}

#[test]
fn a_mistake_in_a_value_is_shown_with_file_line_column_and_remedy() {
    for (text, shown) in [
        (
            "[group.staff]\n[group.a]\nin = [\"staf\"]",
            "3:7: group \"staf\" is not declared; did you mean \"staff\"?",
        ),
        (
            "[group.a]\nin = [\"x\\\"y\"]",
            "2:7: group \"x\\\"y\" is not declared; declare it: [group.\"x\\\"y\"]",
        ),
        ("[group.b]\nin = [\"b\"]", "1:8: group \"b\" is in itself; take one group"),
        (
            "[group.a]\nin = [\"b\"]\n[group.b]\nin = [\"c\"]\n[group.c]\nin = [\"b\"]",
            "3:8: group \"b\" is in itself; take one group of the circle out of it",
        ),
        (
            "[group.a]\nmembers = [\"ann\"]",
            "2:12: \"ann\" is no principal; write a type and a name, such as Device::dev1",
        ),
        (
            "[group.a]\nmembers = [\n  \"Usr::ann\"]",
            "3:3: \"Usr\" is no type of principal; did you mean User?",
        ),
        ("[group.a]\nmembers = [\"User::\"]", "2:12: \"User::\" has no name; write a type"),
        ("[group.a]\nmembers = [\"User::\\\"\\\"\"]", "2:12: \"User::\\\"\\\"\" has no name"),
        ("[group.a]\nmembers = [\"User::a\\nb\"]", "2:12: the name has the character U+000A"),
        (
            "[group.a]\nmembers = [\"Anonymous::eve\"]",
            "2:12: nobody is Anonymous::\"eve\"; all clients without credentials are",
        ),
        (
            "[group.a]\ncertificates = [\"ab:cd\"]",
            "2:17: \"ab:cd\" is no hash; write the SHA-256 of the certificate: 64 hexadecimal digits without colons",
        ),
        (
            &format!("[group.a]\ncertificates = [\"{}g\"]", LEAF.get(1..).unwrap()),
            &format!("2:17: \"{}g\" is no hash; write", LEAF.get(1..).unwrap()),
        ),
        (
            "[group.a]\n[group.a.granted_by]\nissuer = \"x\"",
            "2:1: granted_by is a list; write [[group.\"a\".granted_by]]",
        ),
        (
            "[group.a]\n[[group.a.granted_by]]\norganizational_unit = \"x\"",
            "2:1: there is no issuer; say whose certificates confer the group: issuer = \"<hash>\"; `portcullis check` prints",
        ),
        (
            &format!("[group.a]\n[[group.a.granted_by]]\nissuer = \"{OURS}\""),
            "2:1: 0 fields confer the group here; write exactly one of organizational_unit,",
        ),
        (
            &format!(
                "[[group.a.granted_by]]\nissuer = \"{OURS}\"\nsan_dns = \"a\"\nsan_uri = \"u:a\""
            ),
            "1:1: 2 fields confer the group here; write exactly one of organizational_unit,",
        ),
        (
            "[[group.a.granted_by]]\nissuer = \"AA\"\nsan_dns = \"a\"",
            "2:10: \"AA\" is no hash; write the SHA-256 of the public key of the authority:",
        ),
        (
            "[[group.a.granted_by]]\nisuer = \"AA\"\nsan_dns = \"a\"",
            "2:1: unknown key \"isuer\"; did you mean issuer?",
        ),
        (
            "[principal.\"Device::dev1\"]\ngroups = [\"a\"]",
            "2:1: unknown key \"groups\"; the keys here are tags",
        ),
        (
            "[principal.\"Device::d\"]\n[principal.'Device::\"d\"']",
            "1:12: Device::\"d\" stands twice; join the two entries",
        ),
        (
            "[principal.\"Anonymous::anonymous\"]\ntags = { a = \"b\" }",
            "1:12: a client without credentials has no tags; remove it",
        ),
        (
            "[principal.\"Device::dev1\"]\ntags = { plant = 1 }",
            "2:18: a tag is a text; write tags = { plant = \"fra1\" }",
        ),
        ("[principal.\"Device::dev1\"]\ntags = { \"\" = \"x\" }", "2:10: the name is empty"),
        (
            &format!("[certificate.{LEAF}]\n[certificate.{}]", LEAF.to_uppercase()),
            "1:14: this certificate stands twice; join the two entries",
        ),
        ("[certificate.ab12]", "1:14: \"ab12\" is no hash; write the SHA-256 of the certificate"),
    ] {
        assert_shown(text, shown);
    }
}

#[test]
fn a_tag_that_fits_no_level_of_a_topic_is_refused() {
    for value in ["", "a/b", "+", "#", "a+", "\\u0000", "a\\u001b", "\\u202e", "$SYS", "/"] {
        let found = refusal(&format!("[principal.\"Device::d\"]\ntags = {{ t = \"{value}\" }}"));
        assert!(found.contains(":2:14: the value"), "{value}: {found}");
        assert!(found.contains("write one that can be a level of a topic"), "{value}: {found}");
    }
    let long = "x".repeat(257);
    let found = refusal(&format!("[principal.\"Device::d\"]\ntags = {{ t = \"{long}\" }}"));
    assert!(found.contains("has 257 bytes"), "{found}");
}

#[test]
fn a_pattern_that_means_nothing_or_too_much_is_refused() {
    let long_uri = format!("urn:{}", "x".repeat(ALTERNATIVE_NAME_BYTES_MAX));
    for (field, pattern, problem) in [
        ("organizational_unit", "", "it is empty"),
        ("organizational_unit", "Op*", "compared exactly"),
        ("organizational_unit", "*", "compared exactly"),
        ("organizational_unit", "a\\u0007", "it has the character U+0007"),
        ("organizational_unit", &"x".repeat(257), "it has 257 bytes; 256 are allowed"),
        ("san_uri", "", "it is empty"),
        ("san_uri", "*", "begins with a scheme"),
        ("san_uri", "*://plant/ops", "begins with a scheme"),
        ("san_uri", "sp*://plant/ops", "begins with a scheme"),
        ("san_uri", "spiffe:", "begins with a scheme"),
        ("san_uri", "plant/ops/*", "begins with a scheme"),
        ("san_uri", "spiffe://plant/**", "`**` means nothing here"),
        ("san_uri", "spiffe://plant/ops/ü", "visible ASCII"),
        ("san_uri", "spiffe://plant/o ps", "visible ASCII"),
        ("san_uri", "u:*a*a*a*a*a*a*a*a*a", "more than 8 wildcards"),
        ("san_uri", &long_uri, "2048 are allowed"),
        ("san_dns", "", "it is empty"),
        ("san_dns", "*", "matches every name"),
        ("san_dns", "*.*", "matches every name"),
        ("san_dns", "**.example", "`**` means nothing here"),
        ("san_dns", "a..example", "no DNS name"),
        ("san_dns", ".example", "no DNS name"),
        ("san_dns", "a.example.", "no DNS name"),
        ("san_dns", "a/b.example", "no DNS name"),
        ("san_dns", "a\\u0000.example", "no DNS name"),
        ("san_dns", "ü.example", "no DNS name"),
    ] {
        let found = refusal(&format!(
            "[[group.a.granted_by]]\nissuer = \"{OURS}\"\n{field} = \"{pattern}\""
        ));
        let column = field.len() + 4;
        assert!(found.starts_with(&format!("principals.toml:3:{column}: {field} ")), "{found}");
        assert!(found.contains(problem), "{found}\nnot {problem}");
    }
}

#[test]
fn a_file_beyond_its_bounds_is_refused() {
    let groups = repeated(0..=131_072, |number| format!("[group.g{number}]\n"));
    assert!(refusal(&groups).contains("more than 131072 groups"));
    let (_, fewer) = groups.split_once('\n').unwrap();
    assert_eq!(Principals::parse("p", fewer).unwrap().groups().iter().count(), 131_072);
    let grants = repeated(0..=1024, |number| {
        format!("[[group.a.granted_by]]\nissuer = \"{OURS}\"\nsan_dns = \"*.d{number}\"\n")
    });
    assert!(refusal(&grants).contains("more than 1024 patterns"));
    assert!(Principals::parse("p", &grants.replace("*.", "")).is_ok(), "exact values are cheap");
    let tags = repeated(0..=64, |number| format!("t{number} = \"x\"\n"));
    assert!(refusal(&format!("[principal.\"Device::d\".tags]\n{tags}")).contains("64 tags"));
    let comment = "# x\n".repeat(1 << 20) + "#";
    assert!(refusal(&comment).contains("larger than 4194304 bytes"));
    let nested = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refusal(&nested).contains("recurs"), "{}", refusal(&nested));
    let wrong = format!("[group.a]\nin = [{}]", "\"x\",".repeat(60));
    assert_eq!(refusal(&wrong).lines().count(), 51, "fifty, and how many more");
}

#[test]
fn no_bytes_are_too_odd_to_be_refused() {
    let valid = example();
    for cut in 0..valid.len() {
        let _ = Principals::parse("p", valid.get(..cut).unwrap());
        let mut changed = valid.clone().into_bytes();
        changed[cut] = b"[]{}\"'=.,#*:\\\n\x00"[cut % 15];
        let _ = Principals::parse("p", &String::from_utf8_lossy(&changed));
    }
}

#[test]
fn somebody_is_in_a_group_by_name_certificate_or_a_field_of_the_right_authority() {
    let principals = principals(&example());
    let user = |name| identity(PrincipalKind::User, name, &[]);
    let leaf = |fingerprint: &str| {
        certified("dev9", |certificate| certificate.fingerprint = fingerprint.into())
    };
    for (who, member) in [
        (user("ann"), true),
        (identity(PrincipalKind::Service, "scada", &[]), true),
        (user("Ann"), false),
        (user("ann "), false),
        (user("scada"), false),
        (device("ann", &[]), false),
        (leaf(LEAF), true),
        (leaf(OURS), false),
        (leaf(LEAF.get(1..).unwrap()), false),
        // The certificate itself is named, whoever issued it.
        (from_others(leaf(LEAF)), true),
        (unit("Operators"), true),
        (unit("operators"), false),
        (unit("Operators "), false),
        (unit("Operators2"), false),
        (unit(""), false),
        (from_others(unit("Operators")), false),
        (uri("spiffe://plant/ops/ann"), true),
        (uri("spiffe://plant/ops/"), false),
        (uri("spiffe://plant/ops/ann/x"), false),
        (uri("spiffe://plant/ops/../dev"), false),
        (uri("https://x/spiffe://plant/ops/ann"), false),
        (from_others(uri("spiffe://plant/ops/ann")), false),
        (dns("ann.ops.example"), true),
        (dns("ANN.Ops.Example"), true),
        (dns("ann.eve.ops.example"), false),
        (dns("ops.example"), false),
        (dns("ann.ops.example.evil.test"), false),
        (dns("annops.example"), false),
        // It stands for many names, so it proves none.
        (dns("*.ops.example"), false),
        (from_others(dns("ann.ops.example")), false),
        // The right value in another field.
        (uri("Operators"), false),
        (dns("Operators"), false),
        (unit("spiffe://plant/ops/ann"), false),
        (unit("ann.ops.example"), false),
        (uri("ann.ops.example"), false),
        (dns("spiffe://plant/ops/ann"), false),
        (certified("Operators", |certificate| certificate.cn = "Operators".into()), false),
        (
            certified("dev9", |certificate| {
                certificate.organizational_units = vec!["Users".into(), "Operators".into()];
            }),
            true,
        ),
    ] {
        let expected = if member { "operators staff" } else { "" };
        assert_eq!(groups(&principals, &who), expected, "{who:?}");
    }
}

#[test]
fn hashes_are_read_in_either_case() {
    let principals = principals(&example().replace(LEAF, &LEAF.to_uppercase()));
    let leaf = certified("dev9", |certificate| certificate.fingerprint = LEAF.into());
    assert_eq!(groups(&principals, &leaf), "operators staff");
    assert_eq!(*principals.resolve(&leaf).unwrap().tags["plant"], *"ber2");
    let upper = format!(
        "[[group.a.granted_by]]\nissuer = \"{}\"\norganizational_unit = \"x\"",
        OURS.to_uppercase()
    );
    let principals = super::Principals::parse("p", &upper).unwrap();
    assert_eq!(groups(&principals, &unit("x")), "a");
}

#[test]
fn a_tag_of_the_certificate_goes_before_that_of_the_name() {
    let principals = principals(&example());
    let tags = |identity: &Identity| {
        let tags = principals.resolve(identity).unwrap().tags;
        tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let mut dev1 = certified("dev1", |_| ());
    assert_eq!(tags(&dev1), "line=3 plant=fra1");
    assert_eq!(tags(&certified("dev2", |_| ())), "");
    assert_eq!(tags(&identity(PrincipalKind::User, "dev1", &[])), "plant=fra1", "its own");
    let renewed = certified("dev1", |certificate| certificate.fingerprint = LEAF.into());
    assert_eq!(tags(&renewed), "line=3 plant=ber2");
    dev1.tags.insert("line".into(), "4".into());
    assert_eq!(tags(&dev1), "line=4 plant=fra1");
}

#[test]
fn policies_placeholders_and_tags_see_what_the_file_says() {
    const POLICIES: &str = r#"
        @id("operators") permit (principal in Group::"operators", action, resource in TopicFilter::"ops/#");
        @id("staff") permit (principal, action, resource in TopicFilter::"staff/#")
            when { principal in Group::"staff" };
        @id("by-group") permit (principal, action, resource in TopicFilter::"groups/${group}/#");
        @id("by-tag") permit (principal, action, resource in TopicFilter::"plants/${tag:plant}/#");
        @id("no-berlin") forbid (principal is Device, action, resource in TopicFilter::"plants/+/x")
            when { principal.hasTag("plant") && principal.getTag("plant") == "ber2" };"#;
    let principals = principals(&example());
    let bundle = Bundle::load_text("p.cedar", POLICIES, Some(&principals), PolicyEpoch(1));
    let bundle = Arc::new(bundle.unwrap());
    let leaf = |certificate: &mut CertificateFacts| certificate.fingerprint = LEAF.into();
    let mut operator = subject(&bundle, certified("dev1", leaf));
    for topic in ["ops/a", "staff/a", "groups/operators/a", "groups/staff/a", "plants/ber2/a"] {
        assert_eq!(publish(&mut operator, topic), Ok(()), "{topic}");
        assert_eq!(subscribe(&mut operator, topic), Ok(()), "{topic}");
        assert_eq!(receive(&mut operator, topic), Ok(()), "{topic}");
    }
    assert_eq!(publish(&mut operator, "plants/ber2/x"), forbidden(&["no-berlin"]));
    assert_eq!(publish(&mut operator, "plants/fra1/a"), forbidden(&[]), "of its name only");
    let mut plain = subject(&bundle, certified("dev1", |_| ()));
    assert_eq!(publish(&mut plain, "plants/fra1/x"), Ok(()));
    for topic in ["ops/a", "staff/a", "groups/operators/a", "groups/staff/a", "plants/ber2/a"] {
        assert_eq!(publish(&mut plain, topic), forbidden(&[]), "{topic}");
        assert_eq!(subscribe(&mut plain, topic), forbidden(&[]), "{topic}");
    }
}

#[test]
fn a_question_in_words_can_carry_units() {
    let policies = r#"@id("operators")
        permit (principal in Group::"operators", action == Action::"publish", resource);"#;
    let principals = principals(&example());
    let bundle = Bundle::load_text("p.cedar", policies, Some(&principals), PolicyEpoch(1));
    let bundle = Arc::new(bundle.unwrap());
    let ask = |unit, issuer| {
        let question = Question::parse(&Words {
            principal: "Device::dev9",
            action: "publish",
            resource: "a",
            facts: vec![
                ("organizational_unit", unit),
                ("organizational_unit", "Lifts"),
                ("issuer", issuer),
            ],
            ..Words::default()
        });
        question.unwrap().ask(&bundle).to_string()
    };
    assert_eq!(ask("Operators", OURS), "allowed by operators");
    assert_eq!(ask("Operators", THEIRS), "denied: no policy permits it");
    assert_eq!(ask("Users", OURS), "denied: no policy permits it");
}

#[test]
fn a_claim_of_another_authority_is_told_once_for_each_group_and_decides_nothing() {
    let text = format!(
        r#"{}
[group.welders]
[[group.welders.granted_by]]
issuer = "{THEIRS}"
organizational_unit = "Operators"
[[group.welders.granted_by]]
issuer = "{THEIRS}"
organizational_unit = "Welders"
"#,
        example()
    );
    let principals = principals(&text);
    let told = |identity: &Identity| {
        let ignored = principals.ignored_claims(identity).into_iter();
        let told = ignored.map(|claim| {
            format!("{} {}={} {}", claim.group, claim.field, claim.value, claim.issuer)
        });
        told.collect::<Vec<_>>()
    };
    let many = certified("dev9", |certificate| {
        certificate.organizational_units =
            vec!["Operators".into(), "Operators".into(), "Welders".into()];
        certificate.uris = vec!["spiffe://plant/ops/ann".into()];
    });
    let welders = format!("welders organizational_unit=Operators {OURS}");
    let operators = format!("operators organizational_unit=Operators {THEIRS}");
    assert_eq!(told(&many), std::slice::from_ref(&welders));
    assert_eq!(groups(&principals, &many), "operators staff");
    assert_eq!(told(&from_others(many.clone())), [operators]);
    assert_eq!(groups(&principals, &from_others(many)), "welders");
    let dns = from_others(dns("Ann.ops.example"));
    assert_eq!(told(&dns), [format!("operators san_dns=Ann.ops.example {THEIRS}")]);
    assert_eq!(told(&unit("Users")), [""; 0]);
    assert_eq!(told(&Identity::anonymous()), [""; 0]);
    // Whoever is in the group anyway claims nothing in vain.
    let member = certified("dev9", |certificate| {
        certificate.fingerprint = LEAF.into();
        certificate.organizational_units = vec!["Operators".into()];
    });
    assert_eq!(told(&from_others(member)), [""; 0]);
}

#[test]
fn with_more_than_64_groups_everything_is_denied() {
    const POLICIES: &str = r#"@id("all") permit (principal, action, resource);"#;
    let judge = |count: usize| {
        let groups = repeated(0..count, |number| {
            format!("[group.g{number}]\nmembers = [\"Device::dev1\"]\n")
        });
        let principals = principals(&groups);
        let bundle = Bundle::load_text("p.cedar", POLICIES, Some(&principals), PolicyEpoch(1));
        publish(&mut subject(&Arc::new(bundle.unwrap()), device("dev1", &[])), "a")
    };
    assert_eq!(judge(64), Ok(()));
    let denial = judge(65).unwrap_err();
    assert_eq!(denial.errors, ["the principal is in more than 64 groups"]);
    assert_eq!(denial.to_string(), "refused for the principal is in more than 64 groups");
    // Likewise where nothing says which groups exist.
    let bundle = Arc::new(Bundle::load_text("p.cedar", POLICIES, None, PolicyEpoch(1)).unwrap());
    let names: Vec<String> = (0..65).map(|number| format!("g{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(publish(&mut subject(&bundle, device("dev1", &names[1..])), "a"), Ok(()));
    assert_eq!(publish(&mut subject(&bundle, device("dev1", &names)), "a"), Err(denial));
}

#[test]
fn a_group_that_nobody_could_be_in_is_refused() {
    let chain = |count: usize| -> String {
        let group = |number| format!("[group.g{number}]\nin = [\"g{}\"]\n", number + 1);
        repeated(1..count, group) + &format!("[group.g{count}]\n")
    };
    assert!(Principals::parse("p", &chain(64)).is_ok());
    assert!(refusal(&chain(65)).starts_with(
        "principals.toml:1:8: with group \"g1\" come more than 64 groups; nest it in fewer groups"
    ));
}

#[test]
fn a_group_that_is_not_declared_denies_whoever_is_said_to_be_in_it() {
    const POLICIES: &str =
        r#"@id("all") permit (principal, action, resource in TopicFilter::"groups/${group}/#");"#;
    let principals = nested(&[("staff", &[])]);
    let bundle = Bundle::load_text("p.cedar", POLICIES, Some(&principals), PolicyEpoch(1));
    let bundle = Arc::new(bundle.unwrap());
    assert_eq!(publish(&mut subject(&bundle, device("d", &["staff"])), "groups/staff/x"), Ok(()));
    for groups in [&["boss"][..], &["staff", "boss"]] {
        let denial = publish(&mut subject(&bundle, device("d", groups)), "groups/boss/x");
        let error = "group \"boss\" of the principal is not declared in principals.toml";
        assert_eq!(denial, Err(Denial { errors: vec![error.into()], policies: vec![] }));
    }
}

#[test]
fn new_policies_resolve_a_principal_anew() {
    const POLICIES: &str = r#"@id("operators")
        permit (principal in Group::"operators", action, resource);"#;
    let load = |text: &str, epoch| {
        let principals = principals(text);
        let bundle = Bundle::load_text("p.cedar", POLICIES, Some(&principals), epoch);
        Arc::new(bundle.unwrap())
    };
    let with = load(&example(), PolicyEpoch(1));
    let without = load("[group.operators]", PolicyEpoch(2));
    let mut operator = subject(&with, unit("Operators"));
    assert_eq!(publish(&mut operator, "a"), Ok(()));
    operator.rebase(without);
    assert_eq!(publish(&mut operator, "a"), forbidden(&[]));
    operator.rebase(with);
    assert_eq!(publish(&mut operator, "a"), Ok(()));
}

#[test]
fn the_hash_covers_everything_that_the_file_says_and_not_its_order() {
    let hash = |text: &str| {
        let policies = "@id(\"all\") permit (principal, action, resource);";
        let principals = principals(text);
        let bundle = Bundle::load_text("p", policies, Some(&principals), PolicyEpoch(1)).unwrap();
        bundle.hash().to_owned()
    };
    let first = hash(&example());
    let reordered = format!(
        r#"
[certificate."{LEAF}"]
tags = {{ plant = "ber2" }}
[principal.'Device::"dev1"']
tags = {{ line = "3", plant = "fra1" }}
[group.operators]
certificates = ["{LEAF}"]
members = ["Service::scada", "User::ann", "User::ann"]
in = ["staff", "staff"]
granted_by = [
  {{ san_dns = "*.OPS.example", issuer = "{OURS}" }},
  {{ san_uri = "spiffe://plant/ops/*", issuer = "{OURS}" }},
  {{ organizational_unit = "Operators", issuer = "{OURS}" }},
]
[group.staff]
"#
    );
    assert_eq!(hash(&reordered), first);
    for (from, to) in [
        ("in = [\"staff\"]", "in = []"),
        ("\"User::ann\", ", ""),
        ("\"User::ann\"", "\"Device::ann\""),
        ("unit = \"Operators\"", "unit = \"operators\""),
        ("san_uri = \"spiffe://plant/ops/*\"", "san_uri = \"spiffe://plant/ops/x\""),
        ("*.ops", "*.op"),
        ("line = \"3\"", "line = \"4\""),
        ("line = \"3\"", "lane = \"3\""),
        (OURS, THEIRS),
        (LEAF, OURS),
    ] {
        let changed = example().replacen(from, to, 1);
        assert_ne!(changed, example(), "{from}");
        assert_ne!(hash(&changed), first, "{from}");
    }
}
