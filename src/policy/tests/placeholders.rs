//! No name, however made, reaches further than one literal level.

use super::world::{bundle, device, publish, receive, receive_ok, subject, subscribe};

const POLICY: &str = r#"
    @id("own") permit (principal, action, resource in TopicFilter::"devices/${cn}/data");
    @id("own-tree") permit (principal, action, resource in TopicFilter::"trees/${principal}/#");
    @id("root") permit (principal, action, resource in TopicFilter::"${client_id}/data");
    @id("of-group") permit (principal, action, resource in TopicFilter::"groups/${group}/data");
    @id("of-tag") permit (principal, action, resource in TopicFilter::"plants/${tag:plant}/data");
"#;

/// Topics and filters that some value of the table below would reach if it were ever taken for
/// more, or less, than one literal level.
const OUT_OF_REACH: [&str; 14] = [
    "devices/x/data",
    "devices//data",
    "devices/data",
    "devices/a/b/data",
    "trees/x/y",
    "trees//y",
    "trees/a/b",
    "x/data",
    "/data",
    "a/b/data",
    "groups/x/data",
    "groups//data",
    "plants/x/data",
    "plants//data",
];

#[test]
fn a_name_is_one_literal_level_or_matches_nothing() {
    let bundle = bundle(POLICY);
    let long = "é".repeat(30_000);
    for name in [
        "+",
        "#",
        "/",
        "a/b",
        "a/#",
        "+/x",
        "x/+",
        "*",
        ".",
        ".*",
        "${cn}",
        "${group}",
        "\0",
        "a\0",
        "",
        " ",
        "$SYS",
        "$share",
        "%2B",
        "\u{202e}x",
        "a+",
        "#a",
        "devices/x",
        "..",
        "\\",
        "\"",
        &long,
    ] {
        let mut named = device(name, &[name]);
        named.tags.insert("plant".into(), name.into());
        let mut named = subject(&bundle, named);
        for target in OUT_OF_REACH {
            assert!(publish(&mut named, target).is_err(), "{name:?} publishes to {target}");
            assert!(receive(&mut named, target).is_err(), "{name:?} receives {target}");
            assert!(subscribe(&mut named, target).is_err(), "{name:?} subscribes {target}");
        }
        for filter in ["#", "+/#", "devices/#", "devices/+/data", "+/data", "trees/#", "trees/+/#"]
        {
            assert!(subscribe(&mut named, filter).is_err(), "{name:?} subscribes {filter}");
            assert!(!receive_ok(&mut named, filter), "{name:?} gets all of {filter}");
        }
        let literal = !name.is_empty() && !name.contains(['/', '+', '#', '\0']);
        if literal {
            for topic in [
                format!("devices/{name}/data"),
                format!("trees/{name}/x/y"),
                format!("groups/{name}/data"),
                format!("plants/{name}/data"),
            ] {
                assert!(publish(&mut named, &topic).is_ok(), "{topic}");
                assert!(subscribe(&mut named, &topic).is_ok(), "{topic}");
            }
            let first = format!("{name}/data");
            assert_eq!(publish(&mut named, &first).is_ok(), !name.starts_with('$'), "{first}");
        }
    }
}

#[test]
fn a_forbid_reaches_exactly_the_principal_it_names_by_placeholder() {
    let bundle = bundle(
        r##"
        @id("all") permit (principal, action in Action::"read", resource in TopicFilter::"#");
        @id("not-own") forbid (principal, action in Action::"read",
            resource in TopicFilter::"devices/${cn}/secret");
        "##,
    );
    let mut dev1 = subject(&bundle, device("dev1", &[]));
    assert!(subscribe(&mut dev1, "devices/dev1/secret").is_err());
    assert!(subscribe(&mut dev1, "devices/+/secret").is_err());
    assert!(subscribe(&mut dev1, "devices/#").is_err());
    assert!(subscribe(&mut dev1, "devices/dev2/secret").is_ok());
    // These values fill nothing, so there is nothing the forbid could overlap.
    for name in ["", "/", "a/b", "+", "a+", "#", "\0", "a\0"] {
        let mut odd = subject(&bundle, device(name, &[]));
        assert!(subscribe(&mut odd, "devices/#").is_ok(), "{name:?}");
    }
}

#[test]
fn a_principal_without_the_value_matches_nothing_by_it() {
    let bundle = bundle(POLICY);
    let mut bare = device("dev1", &[]);
    bare.certificate = None;
    bare.tags.clear();
    let mut bare = subject(&bundle, bare);
    assert!(publish(&mut bare, "devices/dev1/data").is_err());
    assert!(publish(&mut bare, "plants/fra1/data").is_err());
    assert!(publish(&mut bare, "groups/dev1/data").is_err());
    assert!(publish(&mut bare, "trees/dev1/data").is_ok());
}
