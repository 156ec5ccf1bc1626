//! The normative statements of both specifications, and why some have no test.
//!
//! A test covers a statement by naming it in its documentation, after `MQTT 5:` or
//! `MQTT 3.1.1:`. What is neither covered nor excused here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const CLIENT: &str = "binds clients";

/// A section of a specification: its statements are numbered from the first to the last.
type Section = (&'static str, u32, u32);

/// Appendix B of MQTT 5.0.
const MQTT_5: &[Section] = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

/// Appendix B of MQTT 3.1.1.
const MQTT_3_1_1: &[Section] = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// Statements of MQTT 5.0 without a test, and why.
const EXCUSED_5: &[(&str, &str)] = &[
    ("3.1.2-20", CLIENT),
    ("3.2.2-4", CLIENT),
    ("3.2.2-5", CLIENT),
    ("3.3.2-10", CLIENT),
    ("3.3.4-8", CLIENT),
    ("3.6.2-2", "the broker's PUBREL never has a property"),
    ("3.6.2-3", "the broker's PUBREL never has a property"),
    ("3.15.2-2", "the broker's AUTH never has a reason string"),
    ("3.15.2-3", "the broker's AUTH never has a user property"),
    ("4.3.3-7", "a copy that was sent cannot be seen to expire but by the resend of 4.4.0-1"),
    ("4.5.0-2", CLIENT),
    ("4.6.0-1", CLIENT),
    ("4.6.0-2", CLIENT),
    ("4.6.0-3", CLIENT),
    ("4.6.0-4", CLIENT),
    ("4.8.2-5", "an absence for ever; the tests of 4.8.2-4 and -6 come as close as can be"),
    ("4.12.0-3", CLIENT),
];

/// Statements of MQTT 3.1.1 without a test, and why.
const EXCUSED_3_1_1: &[(&str, &str)] = &[
    ("3.1.2-23", CLIENT),
    ("4.5.0-2", CLIENT),
    ("4.6.0-1", CLIENT),
    ("4.6.0-2", CLIENT),
    ("4.6.0-3", CLIENT),
    ("4.6.0-4", CLIENT),
    ("7.0.0-1", "speaks of what is server and client in one; the broker opens no connection"),
    ("7.0.0-2", "demands no extension: every client of tests/clients.rs works without one"),
];

fn all(sections: &[Section]) -> BTreeSet<String> {
    sections
        .iter()
        .flat_map(|(section, first, last)| {
            (*first..=*last).map(move |number| format!("{section}-{number}"))
        })
        .collect()
}

/// What the tests say they cover: version, statement, and the files that name it.
fn covered() -> BTreeMap<(&'static str, String), BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "statements.rs") {
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut version = None;
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            let Some(comment) = line.trim().strip_prefix("/// ") else {
                version = None;
                continue;
            };
            if comment.starts_with("MQTT 5:") {
                version = Some("5");
            } else if comment.starts_with("MQTT 3.1.1:") {
                version = Some("3.1.1");
            }
            let Some(version) = version else { continue };
            for rest in comment.split("[MQTT-").skip(1) {
                let statement = rest.split(']').next().unwrap().to_owned();
                found.entry((version, statement)).or_default().insert(file.clone());
            }
        }
    }
    found
}

#[test]
fn every_statement_is_covered_or_excused() {
    let covered = covered();
    for (version, sections, excused) in
        [("5", MQTT_5, EXCUSED_5), ("3.1.1", MQTT_3_1_1, EXCUSED_3_1_1)]
    {
        let all = all(sections);
        let named: BTreeSet<String> = covered
            .keys()
            .filter(|(named, _)| *named == version)
            .map(|(_, statement)| statement.clone())
            .collect();
        let excused: BTreeSet<String> = excused.iter().map(|(id, _)| (*id).to_owned()).collect();

        let unknown: Vec<_> = named.union(&excused).filter(|id| !all.contains(*id)).collect();
        assert!(unknown.is_empty(), "MQTT {version} has no such statements: {unknown:?}");
        let both: Vec<_> = named.intersection(&excused).collect();
        assert!(both.is_empty(), "MQTT {version}, covered and excused: {both:?}");
        let forgotten: Vec<_> =
            all.iter().filter(|id| !named.contains(*id) && !excused.contains(*id)).collect();
        assert!(forgotten.is_empty(), "MQTT {version}, neither: {forgotten:?}");
        println!("MQTT {version}: {} covered, {} excused", named.len(), excused.len());
    }
}
