//! `portcullis policy import`, as a process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use harness::portcullis;

/// Runs a command line; gives its exit code, standard output and standard error.
fn run(folder: &Path, line: &str) -> (i32, String, String) {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = portcullis(&arguments, folder);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn folder_with(name: &str, text: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

#[test]
fn an_acl_file_becomes_a_folder_that_loads() {
    let folder = folder_with("acl", "user bob\ntopic read a/#\npattern write up/%u\n");
    for (broker, principal) in [("mosquitto", "user"), ("vernemq", "device")] {
        let line = format!("policy import {broker} acl --out {broker}/p --principal {principal}");
        let (code, stdout, stderr) = run(folder.path(), &line);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(stdout, format!("{broker}/p/cases.tsv\n{broker}/p/acl.cedar\n"));
        assert!(stderr.contains("nobody may connect yet"), "{stderr}");
        let (code, ids, stderr) = run(folder.path(), &format!("policy check {broker}/p --verbose"));
        assert_eq!(code, 0, "{stderr}");
        assert!(ids.starts_with("acl-line-2\n"), "{ids}");
        let (code, _, stderr) = run(folder.path(), &format!("policy fmt --check {broker}/p"));
        assert_eq!(code, 0, "{stderr}");
    }
    let text = fs::read_to_string(folder.path().join("vernemq/p/acl.cedar")).unwrap();
    assert!(text.contains("principal == Device::\"bob\""), "{text}");
}

#[test]
fn lines_that_cannot_be_translated_are_told_of_and_left_out_only_on_request() {
    let folder = folder_with("acl", "user bob\ntopic read a/#\npattern write up/x%u\n");
    let line = "policy import mosquitto acl --out p";
    let told = "not translated: acl:3:1: a placeholder fills one whole level";
    let (code, stdout, stderr) = run(folder.path(), line);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(told) && stderr.contains("--skip-untranslatable"), "{stderr}");
    assert!(!folder.path().join("p").exists());
    let (code, _, stderr) = run(folder.path(), &format!("{line} --skip-untranslatable"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
    let text = fs::read_to_string(folder.path().join("p/acl.cedar")).unwrap();
    assert!(text.contains("// Line 3 is not in these policies"), "{text}");
    let denial = folder_with("acl", "topic read a/#\ntopic deny a/${x}\n");
    let (code, _, stderr) = run(denial.path(), &format!("{line} --skip-untranslatable"));
    assert_eq!(code, 1, "what narrows cannot be left out");
    assert!(stderr.contains("acl:2:1: "), "{stderr}");
}

#[test]
fn nothing_is_overwritten_and_nothing_bad_is_written() {
    let folder = folder_with("acl", "topic read a\n");
    fs::write(folder.path().join("bad"), "topik a\n").unwrap();
    fs::write(folder.path().join("latin1"), b"topic a\ntopic \xe4\n").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/.hidden"), "mine").unwrap();
    for (arguments, code, expected) in [
        ("acl --out full", 1, "full: not empty, and nothing is overwritten; name another folder"),
        ("acl --out acl", 1, "error: acl: "),
        ("bad --out new", 1, "bad:1:1: a line begins with \"topik\""),
        ("latin1 --out new", 1, "latin1:2: this is no UTF-8"),
        (
            "absent --out new",
            1,
            "error: absent cannot be read: No such file or directory (os error 2)\n",
        ),
        ("acl", 2, "--out"),
        ("acl --out new --principal anonymous", 2, "invalid value"),
        ("acl --out empty", 0, "fine: "),
        ("acl --out empty", 1, "empty: not empty"),
    ] {
        let (exit, _, stderr) = run(folder.path(), &format!("policy import mosquitto {arguments}"));
        assert_eq!(exit, code, "{arguments}: {stderr}");
        assert!(stderr.contains(expected), "{arguments}: {stderr}");
    }
    assert!(!folder.path().join("new").exists());
    assert_eq!(fs::read_dir(folder.path().join("full")).unwrap().count(), 1);
}
