//! Proofs about policies: a claim about every principal, topic and fact at once.
//!
//! `cedar-policy-symcc` turns policies into formulas and an SMT solver looks for a request that
//! breaks the claim. What a topic filter means is told to it as laws (`literals`), only the rules
//! that matter are given to it (`neighbours`), and what it finds is asked of the policies before
//! it is believed (`model`).
//!
//! INVARIANT: a proof leaves out only requests that the broker never makes. Anything else that
//! goes wrong on the way is [`Verdict::Undecided`], which is no proof.

mod decision;
mod laws;
mod literals;
mod model;
mod neighbours;
mod query;
mod solver;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::load::on_large_stack;
use super::schema::Action;
use super::{Answer, Asked, Bundle, Question};
use crate::suggest::nearest;
use decision::Decision;
use literals::Shape;

pub use model::OwnedWords;
pub use solver::{NoSolver, Solver, Version};

/// What is to be proven or refuted.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The new policies permit nothing that the old ones refuse.
    NothingNew {
        /// The policies as they are.
        old: Arc<Bundle>,
        /// The policies as they would be.
        new: Arc<Bundle>,
    },
    /// No principal in a group may do something.
    Nobody {
        /// The policies.
        bundle: Arc<Bundle>,
        /// The group.
        group: String,
        /// What they may not do.
        action: Action,
        /// Where: a topic filter; of connect, a listener.
        resource: String,
    },
}

/// What the solver may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For each question to it.
    pub timeout: Duration,
    /// Of its address space.
    pub memory_bytes_max: u64,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Proven(Proof),
    /// It does not hold.
    Refuted(Box<Counterexample>),
    /// Neither was found out.
    Undecided {
        /// Why.
        why: String,
    },
}

/// What a proof is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The rules that were looked at, by id; the others make no difference.
    pub rules: BTreeSet<Arc<str>>,
    /// What the solver was told about topic filters, and cannot check.
    pub laws: BTreeSet<String>,
    /// Under what it holds besides, a sentence each.
    pub assumptions: Vec<String>,
}

/// A request that breaks a claim; the policies have confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The request.
    pub words: OwnedWords,
    /// What the old policies say, where there are such.
    pub old: Option<Answer>,
    /// What the policies say.
    pub new: Answer,
}

/// Why a claim means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The group does not exist.
    #[error("there is no group {group:?} in principals.toml; {remedy}")]
    UnknownGroup {
        /// The group.
        group: String,
        /// What to write instead.
        remedy: String,
    },
    /// The filter is none.
    #[error("{0:?} is no topic filter; write it as in SUBSCRIBE, without $share/<group>/")]
    NoFilter(String),
}

impl Claim {
    /// Proves or refutes it.
    ///
    /// # Errors
    /// [`ClaimError`] when it means nothing.
    pub fn decide(&self, solver: &Solver, limits: Limits) -> Result<Verdict, ClaimError> {
        self.check()?;
        let decided = on_large_stack("verify", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(Decision { claim: self, solver, limits }.run()),
                Err(error) => undecided(format!("there is no runtime: {error}")),
            }
        });
        Ok(decided.unwrap_or_else(|problem| undecided(problem.line())))
    }

    fn check(&self) -> Result<(), ClaimError> {
        let Self::Nobody { bundle, group, action, resource } = self else { return Ok(()) };
        if let Some(declared) = bundle.declared_groups()
            && !declared.contains(group)
        {
            let near = nearest(group, declared.iter().map(|(known, _)| &**known));
            let remedy = near.map_or_else(
                || "declare it, or name another".to_owned(),
                |known| format!("did you mean {known}?"),
            );
            return Err(ClaimError::UnknownGroup { group: group.clone(), remedy });
        }
        let shared = resource == "$share" || resource.starts_with("$share/");
        let placeholder = resource.contains("${");
        if *action != Action::Connect && (shared || placeholder || Shape::of(resource).is_none()) {
            return Err(ClaimError::NoFilter(resource.clone()));
        }
        Ok(())
    }

    /// The policies that a request has to be allowed by.
    fn bundle(&self) -> &Arc<Bundle> {
        match self {
            Self::NothingNew { new, .. } => new,
            Self::Nobody { bundle, .. } => bundle,
        }
    }

    /// Asks the policies: the answers, if they break the claim.
    fn broken_by(&self, words: &OwnedWords) -> Option<(Option<Answer>, Answer)> {
        let question = Question::parse(&words.words()).ok()?;
        let answer = question.ask(self.bundle());
        if !answer.is_allowed() {
            return None;
        }
        match self {
            Self::NothingNew { old, .. } => {
                let before = question.ask(old);
                (!before.is_allowed()).then_some((Some(before), answer))
            }
            Self::Nobody { bundle, group, resource, .. } => {
                let resolved = bundle.resolve(&question.identity).ok()?;
                let member = resolved.groups.iter().any(|it| **it == **group);
                let meant = match &question.asked {
                    Asked::Connect(_) => *question.session.listener == **resource,
                    // No claim is about it.
                    Asked::Enroll(_) => false,
                    Asked::Publish { .. } | Asked::Receive { .. } | Asked::Subscribe { .. } => {
                        // What a topic overlaps matches it.
                        Shape::of(resource)?.may_overlap(&Shape::of(&words.resource)?)
                    }
                };
                (member && meant).then_some((None, answer))
            }
        }
    }
}

fn undecided(why: impl Into<String>) -> Verdict {
    Verdict::Undecided { why: why.into() }
}
