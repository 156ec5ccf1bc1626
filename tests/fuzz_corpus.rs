//! Every input that the fuzzers start from or ever crashed on, through the same code again.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its corpus has failed")]

use std::fs;
use std::path::Path;

/// Runs one fuzz target over the files of its corpus. New inputs belong there, named by what
/// they are; a crash is fixed and its input kept.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

#[test]
fn frames() {
    replay("frame", portcullis::fuzzing::frame);
}

#[test]
fn packets() {
    replay("packet", portcullis::fuzzing::packet);
}
