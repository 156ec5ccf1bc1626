//! `portcullis policy verify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Failure, put};
use crate::harmless::harmless;
use crate::policy::verify::{Claim, Counterexample, Limits, OwnedWords, Proof, Solver, Verdict};
use crate::policy::{Action, Bundle, PolicyEpoch};

/// Of what was told to the solver about topic filters.
const LAWS_SHOWN: usize = 12;

/// Proves or refutes, for every principal, topic and fact at once: that NEW permits nothing that
/// OLD refuses, or that nobody in a group may do something. Needs the solver cvc5. Exits with 0
/// only when it is proven.
#[derive(Debug, clap::Args)]
#[command(override_usage = "portcullis policy verify [OPTIONS] OLD NEW\n       \
    portcullis policy verify [OPTIONS] DIR --no-principal-in GROUP --action VERB --resource FILTER")]
pub(super) struct VerifyArgs {
    /// The folder of the policies; with NEW, as they are
    #[arg(value_name = "OLD")]
    folder: PathBuf,
    /// The folder of the policies as they would be
    #[arg(
        value_name = "NEW",
        conflicts_with = "no_principal_in",
        required_unless_present = "no_principal_in"
    )]
    new: Option<PathBuf>,
    /// Nobody in this group is to have the right
    #[arg(long, value_name = "GROUP", requires_all = ["action", "resource"])]
    no_principal_in: Option<String>,
    /// connect, publish, subscribe or receive
    #[arg(long, value_name = "VERB", requires = "no_principal_in", value_parser = action)]
    action: Option<Action>,
    /// The topics, as a filter; of subscribe every subscription that overlaps it is meant; of
    /// connect the name of the listener
    #[arg(long, value_name = "FILTER", requires = "no_principal_in")]
    resource: Option<String>,
    /// How long the solver may take for each question that is put to it
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How much memory the solver may take
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: bytesize::ByteSize,
    /// Prints the verdict as JSON
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = load(&self.folder)?;
        let claim = match (&self.new, self.no_principal_in, self.action, self.resource) {
            (Some(new), ..) => Claim::NothingNew { old: folder, new: load(new)? },
            (None, Some(group), Some(action), Some(resource)) => {
                Claim::Nobody { bundle: folder, group, action, resource }
            }
            // clap asks for all of them.
            _ => return Err(Failure("name NEW, or a group, an action and a resource".into())),
        };
        let solver = Solver::find()?;
        let limits = Limits { timeout: self.timeout, memory_bytes_max: self.memory.as_u64() };
        let verdict = claim.decide(&solver, limits)?;
        let asked = self.new.as_deref().unwrap_or(&self.folder);
        if self.json {
            put(&format!("{}\n", json_of(&claim, &verdict, &solver)))?;
        } else {
            put(&text_of(&claim, &verdict, asked))?;
        }
        match verdict {
            Verdict::Proven(_) => Ok(()),
            Verdict::Refuted(_) => Err(Failure("the claim does not hold".into())),
            Verdict::Undecided { why } => {
                Err(Failure(format!("nothing was proven or refuted: {why}")))
            }
        }
    }
}

fn action(text: &str) -> Result<Action, String> {
    let known = Action::OF_CLIENTS.into_iter().find(|action| action.as_str() == text);
    known.ok_or_else(|| "write connect, publish, subscribe or receive".to_owned())
}

fn load(folder: &Path) -> Result<Arc<Bundle>, Failure> {
    // What fails its cases may be what is to be found out about.
    let loaded = Bundle::load_dir_untested(folder, PolicyEpoch(1));
    loaded.map_err(|error| {
        let Failure(why) = Failure::policies(&error);
        Failure(format!("{}: {why}", folder.display()))
    })
}

fn sentence(claim: &Claim) -> String {
    match claim {
        Claim::NothingNew { .. } => "NEW permits nothing that OLD refuses".to_owned(),
        Claim::Nobody { group, action, resource, .. } => {
            format!("no principal in {group:?} may {} {resource:?}", action.as_str())
        }
    }
}

fn text_of(claim: &Claim, verdict: &Verdict, folder: &Path) -> String {
    let claim = sentence(claim);
    let text = match verdict {
        Verdict::Proven(Proof { rules, laws, assumptions }) => {
            let rules: Vec<&str> = rules.iter().map(|id| &**id).collect();
            let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
            let more = laws.len().saturating_sub(LAWS_SHOWN);
            let more = (more > 0).then(|| format!("and {more} more such laws, see --json"));
            let shown = laws.iter().take(LAWS_SHOWN).chain(&more).chain(assumptions);
            let shown: Vec<&str> = shown.map(String::as_str).collect();
            format!(
                "proven: {claim}\n  rules that have a say: {rules}\n  provided that\n    - {}",
                shown.join("\n    - ")
            )
        }
        Verdict::Refuted(found) => {
            let Counterexample { words, old, new } = &**found;
            let old = old.as_ref().map_or_else(String::new, |old| format!("\n  old: {old}"));
            let name = if old.is_empty() { "  " } else { "  new: " };
            format!(
                "refuted: {claim}\n  counterexample: {}{old}\n{name}{new}\n  see: {}",
                words.words(),
                command(folder, words)
            )
        }
        Verdict::Undecided { .. } => format!("undecided: {claim}"),
    };
    format!("{}\n", harmless(&text))
}

/// The question as arguments of `policy explain`.
fn command(folder: &Path, words: &OwnedWords) -> String {
    let folder = folder.display().to_string();
    let mut parts = vec![
        "portcullis policy explain".to_owned(),
        quoted(&folder),
        quoted(&words.principal),
        words.action.to_owned(),
        quoted(&words.resource),
    ];
    parts.extend(words.groups.iter().map(|group| format!("--group {}", quoted(group))));
    parts.extend(
        words
            .facts
            .iter()
            .map(|(name, value)| format!("--fact {}", quoted(&format!("{name}={value}")))),
    );
    parts.join(" ")
}

/// As a shell reads it.
fn quoted(text: &str) -> String {
    let plain = |it: char| it.is_ascii_alphanumeric() || "/:._-=,+@%".contains(it);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn json_of(claim: &Claim, verdict: &Verdict, solver: &Solver) -> Value {
    let mut told = json!({
        "claim": sentence(claim),
        "solver": format!("cvc5 {}", solver.version()),
    });
    let more = match verdict {
        Verdict::Proven(Proof { rules, laws, assumptions }) => json!({
            "verdict": "proven", "rules": rules, "laws": laws, "assumptions": assumptions,
        }),
        Verdict::Refuted(found) => {
            let Counterexample { words, old, new } = &**found;
            let facts: Vec<String> =
                words.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
            json!({
                "verdict": "refuted",
                "counterexample": {
                    "principal": words.principal,
                    "groups": words.groups,
                    "action": words.action,
                    "resource": words.resource,
                    "facts": facts,
                    "old": old.as_ref().map(ToString::to_string),
                    "new": new.to_string(),
                },
            })
        }
        Verdict::Undecided { why } => json!({ "verdict": "undecided", "why": why }),
    };
    if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
        told.extend(more);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counterexample_is_written_as_a_shell_takes_it() {
        let words = OwnedWords {
            principal: "Device::it's".into(),
            groups: vec!["g".into()],
            action: "publish",
            resource: "a/b c".into(),
            facts: vec![("qos".into(), "1".into())],
        };
        assert_eq!(
            command(Path::new("new"), &words),
            r"portcullis policy explain new 'Device::it'\''s' publish 'a/b c' --group g --fact qos=1"
        );
    }
}
