//! Every input that the fuzzers start from or ever crashed on, through the same code again.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its corpus has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::fuzzing;

struct Target {
    name: &'static str,
    run: fn(&[u8]),
}

const TARGETS: [Target; 15] = [
    Target { name: "certificate", run: fuzzing::certificate },
    Target { name: "config", run: fuzzing::config },
    Target { name: "frame", run: fuzzing::frame },
    Target { name: "ocsp", run: fuzzing::ocsp },
    Target { name: "packet", run: fuzzing::packet },
    Target { name: "password", run: fuzzing::password },
    Target { name: "policy", run: fuzzing::policy },
    Target { name: "proxy", run: fuzzing::proxy },
    Target { name: "request", run: fuzzing::request },
    Target { name: "revocation", run: fuzzing::revocation },
    Target { name: "scram", run: fuzzing::scram },
    Target { name: "session", run: fuzzing::session },
    Target { name: "token", run: fuzzing::token },
    Target { name: "topic", run: fuzzing::topic },
    Target { name: "websocket", run: fuzzing::websocket },
];

/// Larger inputs are not for the repository.
const INPUT_BYTES_MAX: u64 = 16 * 1024;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// What is in a folder, without the ends of file names where `suffix` is one.
fn names(folder: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.to_str().unwrap().trim_end_matches(suffix).to_owned()).collect()
}

#[test]
fn every_target_has_a_body_a_corpus_and_a_binary() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&folder("fuzz_targets"), ".rs"), targets);
    assert_eq!(names(&folder("corpus"), ""), targets);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for target in targets {
        let path = format!("path = \"fuzz_targets/{target}.rs\"");
        assert!(manifest.contains(&path), "fuzz/Cargo.toml has no {path}");
    }
}

/// New inputs belong into the corpus, named by what they are; a crash is fixed and its input
/// kept.
#[test]
fn every_input_of_every_corpus_is_survived() {
    for Target { name: target, run } in TARGETS {
        let corpus = folder("corpus").join(target);
        let inputs = names(&corpus, "");
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for name in inputs {
            println!("{target}/{name}");
            let input = corpus.join(name);
            assert!(fs::metadata(&input).unwrap().len() <= INPUT_BYTES_MAX, "too large a seed");
            run(&fs::read(&input).unwrap());
        }
    }
}
