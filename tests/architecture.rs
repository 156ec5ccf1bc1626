//! Holds the layering of `ARCHITECTURE.md` and the tidiness of the source, by reading it.
//!
//! A module may use modules of its own layer and of those below, never of one above.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panic"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The layers, lowest first. A module of one layer may use those before it, and its own layer.
const LAYERS: &[&[&str]] = &[
    &["mqtt", "pki", "metrics", "suggest", "harmless"],
    &["identity", "session", "registry"],
    &["policy", "store"],
    &["gates", "router", "audit"],
    &["broker"],
    &["server", "admin", "est", "cluster"],
    &["config"],
    &["cli"],
    &["main", "fuzzing"],
];

/// Lines a source file may have before its tests.
const LINES_MAX: usize = 600;

/// A source file with its text.
struct Source {
    path: PathBuf,
    /// The top-level module it belongs to, `lib` for the root.
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap();
                let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
                let module = first.strip_suffix(".rs").unwrap_or(first).to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: Path::new("src").join(relative), module, text });
            }
        }
    }
    assert!(!found.is_empty(), "no source under {}", root.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    /// The lines that are not unit tests, which may reach for anything.
    fn code(&self) -> Vec<(usize, &str)> {
        let is_test =
            |part: Component<'_>| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs";
        if self.path.components().any(is_test) { Vec::new() } else { code_lines(&self.text) }
    }
}

/// The code of a file without its unit tests, which may reach for anything: the lines before the
/// first `#[cfg(test)]` that opens a module.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| {
            pair[0].trim() == "#[cfg(test)]"
                && (pair[1].trim_start().starts_with("mod ")
                    || pair[1].trim_start().starts_with("#["))
        })
        .unwrap_or(lines.len());
    lines.into_iter().enumerate().take(tests).map(|(at, line)| (at + 1, line)).collect()
}

/// A line without its `//` comment. String literals that hold `//` lose their end, which is
/// harmless here: what is looked for does not stand in strings.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The first path segments after every `crate::` or `portcullis::` of a piece of code, with the
/// line each stands on. `use crate::{a, b::c}` gives `a` and `b`.
fn uses(code: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut starts = Vec::new();
    for (number, line) in code {
        starts.push((text.len(), *number));
        text.push_str(without_comment(line));
        text.push('\n');
    }
    let line_at = |offset: usize| {
        starts.iter().take_while(|(start, _)| *start <= offset).last().map_or(0, |(_, line)| *line)
    };
    for root in ["crate::", "portcullis::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = &text[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 1;
                let mut expects_name = true;
                let mut offset = at + root.len() + 1;
                let mut name = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 1 && expects_name && (c.is_alphanumeric() || c == '_') {
                        name.push(c);
                    } else if !name.is_empty() {
                        found.push((line_at(offset - 1), std::mem::take(&mut name)));
                        expects_name = false;
                    }
                    if depth == 1 && c == ',' {
                        expects_name = true;
                    }
                    if depth == 0 {
                        break;
                    }
                    offset += c.len_utf8();
                }
            } else {
                let name: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((line_at(at), name));
            }
        }
    }
    found
}

#[test]
fn every_module_has_a_layer() {
    let mut unplaced: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.module != "lib" && layer_of(&source.module).is_none())
        .map(|source| format!("{} (module {})", source.path.display(), source.module))
        .collect();
    unplaced.dedup();
    assert!(unplaced.is_empty(), "not in the table of layers: {unplaced:#?}");
}

#[test]
fn no_module_uses_a_higher_layer() {
    let mut wrong = String::new();
    for source in sources() {
        let Some(own) = layer_of(&source.module) else { continue };
        for (line, used) in uses(&source.code()) {
            let Some(layer) = layer_of(&used) else { continue };
            if layer > own {
                let _ = writeln!(
                    wrong,
                    "{}:{line}: {} (layer {own}: {}) uses {used} (layer {layer}: {})",
                    source.path.display(),
                    source.module,
                    LAYERS[own].join(" "),
                    LAYERS[layer].join(" "),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "a module uses a higher layer:\n{wrong}");
}

#[test]
fn the_session_and_the_codec_know_no_socket_no_clock_no_file_and_no_async() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|s| s.module == "session" || s.module == "mqtt") {
        for (number, line) in source.code() {
            let code = without_comment(line);
            for word in
                ["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime::now", "async fn"]
            {
                if code.contains(word) {
                    let _ = writeln!(wrong, "{}:{number}: {word}", source.path.display());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these modules take `now` and bytes as arguments:\n{wrong}");
}

/// Only the policy gate makes a permit; see `ARCHITECTURE.md`, "The life of one PUBLISH".
#[test]
fn only_the_authorize_gate_makes_a_permit() {
    let mut wrong = String::new();
    for source in sources() {
        if source.module == "gates" || source.module == "policy" {
            continue;
        }
        for (number, line) in source.code() {
            let code = without_comment(line);
            if code.contains("Permitted {") || code.contains("Permitted::new") {
                let _ = writeln!(wrong, "{}:{number}: {}", source.path.display(), line.trim());
            }
        }
    }
    assert!(wrong.is_empty(), "a permit is made outside the policy gate:\n{wrong}");
}

#[test]
fn every_source_file_is_tidy() {
    let mut wrong = String::new();
    for source in sources() {
        let path = source.path.display();
        if !source.text.starts_with("//!") {
            let _ = writeln!(wrong, "{path}:1: does not begin with //! saying what it is");
        }
        let code = source.code();
        if code.len() > LINES_MAX {
            let _ = writeln!(wrong, "{path}: {} lines before its tests", code.len());
        }
        for (number, line) in source.text.lines().enumerate() {
            let number = number + 1;
            if line.contains('\t') {
                let _ = writeln!(wrong, "{path}:{number}: a tab");
            }
            if line.ends_with(' ') {
                let _ = writeln!(wrong, "{path}:{number}: a space at the end");
            }
        }
        for (number, line) in code {
            for word in ["todo!", "unimplemented!", "TODO", "FIXME", "XXX"] {
                if line.contains(word) {
                    let _ = writeln!(wrong, "{path}:{number}: {word}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "untidy:\n{wrong}");
}

#[test]
fn uses_are_found_alone_in_groups_and_over_lines() {
    let code = [
        (1, "use crate::mqtt::packet::Publish; // crate::cli is not used"),
        (2, "use crate::{gates::{self, rate}, router,"),
        (3, "    session::Session};"),
        (4, "fn f(x: crate::policy::Facts) -> portcullis::audit::Log {}"),
        (5, "let x = other_crate::broker;"),
    ];
    let mut found = uses(&code);
    found.sort();
    let expected =
        [(1, "mqtt"), (2, "gates"), (2, "router"), (3, "session"), (4, "audit"), (4, "policy")];
    let expected: Vec<_> =
        expected.into_iter().map(|(line, name)| (line, name.to_owned())).collect();
    assert_eq!(found, expected);
}

/// A defence counts when a test fails without it: the threat model names tests that exist.
#[test]
fn every_test_of_the_threat_model_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(root.join("audit/threat-model.md")).unwrap();
    let mut code = String::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code.push_str(&fs::read_to_string(&path).unwrap());
                let _ = writeln!(code, "fn {}(", path.file_stem().unwrap().display());
            }
        }
    }
    let rows = model.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| class"));
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        assert!(!tests.trim().is_empty(), "no test: {row}");
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(code.contains(&format!("fn {name}(")), "no test is called {name}");
        }
    }
}
