//! Tests of [`super`].

use time::macros::datetime;

use super::*;
use crate::pki::{AlternativeNames, ProfileName};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn certificate(serial: &str, name: &str) -> Record {
    Record::Issued(Box::new(Certificate {
        serial: serial.to_owned(),
        name: name.to_owned(),
        profile: ProfileName::Device,
        alternative_names: AlternativeNames {
            uri: vec!["spiffe://plant/a".to_owned()],
            ..Default::default()
        },
        not_before: NOW,
        not_after: datetime!(2027-03-01 12:00 UTC),
        fingerprint: "9c0e".to_owned(),
        key: "af".to_owned(),
        issuer: "ab".to_owned(),
        renews: None,
        to_file: false,
    }))
}

fn revocation(serial: &str) -> Record {
    Record::Revoked(Revocation {
        serial: serial.to_owned(),
        issuer: "ab".to_owned(),
        name: "pump".to_owned(),
        not_after: datetime!(2027-03-01 12:00 UTC),
        reason: Reason::KeyCompromise,
    })
}

fn append(inventory: &Inventory, records: &[Record]) -> Result<(), InventoryError> {
    inventory.hold(|held| held.append(NOW, records))
}

fn serials(inventory: &Inventory) -> Result<Vec<String>, InventoryError> {
    inventory
        .look(|contents| contents.entries().map(|entry| entry.certificate.serial.clone()).collect())
}

#[test]
fn a_record_is_one_line_that_says_all() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::in_folder(folder.path());
    append(&inventory, &[certificate("1f", "pump"), revocation("1f")]).unwrap();
    assert_eq!(
        std::fs::read_to_string(Inventory::path_in(folder.path())).unwrap(),
        concat!(
            r#"{"v":1,"seq":1,"time":"2026-03-01T12:00:00Z","event":"issued","serial":"1f","#,
            r#""name":"pump","profile":"device","alternative_names":{"uri":["spiffe://plant/a"]},"#,
            r#""not_before":"2026-03-01T12:00:00Z","not_after":"2027-03-01T12:00:00Z","#,
            r#""fingerprint":"9c0e","key":"af","issuer":"ab"}"#,
            "\n",
            r#"{"v":1,"seq":2,"time":"2026-03-01T12:00:00Z","event":"revoked","serial":"1f","#,
            r#""issuer":"ab","name":"pump","not_after":"2027-03-01T12:00:00Z","#,
            r#""reason":"keyCompromise"}"#,
            "\n"
        )
    );
    let again = Inventory::in_folder(folder.path());
    let entry = again.look(|contents| contents.by_serial("1f").cloned()).unwrap().unwrap();
    assert_eq!(entry.revoked, Some((NOW, Reason::KeyCompromise)));
    assert_eq!(entry.state(NOW), State::Revoked);
}

#[test]
fn a_process_that_ends_at_any_byte_leaves_an_inventory_of_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Inventory::in_folder(folder.path());
    append(&whole, &[certificate("a1", "one")]).unwrap();
    append(&whole, &[certificate("a2", "two"), certificate("a3", "three")]).unwrap();
    let bytes = std::fs::read(Inventory::path_in(folder.path())).unwrap();
    for cut in 0..=bytes.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = Inventory::path_in(folder.path());
        std::fs::write(&path, &bytes[..cut]).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let inventory = Inventory::in_folder(folder.path());
        let lines = bytes[..cut].split(|byte| *byte == b'\n').count() - 1;
        // Whoever only looks changes nothing, and sees what is whole.
        assert_eq!(serials(&inventory).unwrap().len(), lines, "cut at {cut}");
        assert_eq!(std::fs::read(&path).unwrap(), &bytes[..cut]);
        append(&inventory, &[certificate("b1", "after")]).unwrap();
        for inventory in [inventory, Inventory::in_folder(folder.path())] {
            let serials = serials(&inventory).unwrap();
            assert_eq!(serials.len(), lines + 1, "cut at {cut}");
            assert_eq!(serials.last().unwrap(), "b1");
        }
        let torn = std::fs::read(path.with_extension("torn")).unwrap_or_default();
        let end = bytes[..cut].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        assert_eq!(torn.strip_suffix(b"\n").unwrap_or_default(), &bytes[end..cut], "kept aside");
    }
}

#[test]
fn damage_is_refused_with_its_line_and_nothing_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = Inventory::path_in(folder.path());
    let records = [certificate("a1", "one"), certificate("a2", "two"), certificate("a3", "three")];
    append(&Inventory::in_folder(folder.path()), &records).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    for (text, expected) in [
        (joined(&[lines[0], lines[2]]), "line 2: a line before it is missing"),
        (joined(&[lines[0], lines[0]]), "line 2: a line before it is missing, or it stands twice"),
        (joined(&[lines[0], "nonsense", lines[2]]), "line 2: "),
        (whole.replace("a2", "a1"), "line 2: serial number a1 a second time"),
        (whole.replacen("\"v\":1", "\"v\":2", 1), "line 1: written by a newer version"),
        (whole.replace("\"device\"", "\"\u{1b}[2J\""), "line 1: "),
    ] {
        std::fs::write(&path, &text).unwrap();
        let inventory = Inventory::in_folder(folder.path());
        let error = append(&inventory, &[certificate("b1", "after")]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("backup"), "{error}");
        assert!(!error.contains('\u{1b}'));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let inventory = Inventory::in_folder(folder.path());
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(serials(&inventory).unwrap().len(), 3);
    std::fs::write(&path, joined(&lines[..1])).unwrap();
    assert!(serials(&inventory).unwrap_err().to_string().contains("became shorter"));
}

#[test]
fn writers_take_turns_and_see_what_the_others_wrote() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let folder = folder.path();
            scope.spawn(move || {
                // One for each, as of another process: they share the file and nothing else.
                let inventory = Inventory::in_folder(folder);
                for at in 0..10 {
                    append(&inventory, &[certificate(&format!("{writer}-{at}"), "pump")]).unwrap();
                }
            });
        }
    });
    assert_eq!(serials(&Inventory::in_folder(folder.path())).unwrap().len(), 40);
}

#[test]
fn an_inventory_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Inventory::path_in(folder.path());
    let inventory = Inventory::in_folder(folder.path());
    append(&inventory, &[certificate("a1", "one")]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let error = append(&inventory, &[certificate("a2", "two")]).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}
