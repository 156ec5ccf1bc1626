//! Cedar policies on topics: what they mean, and how they are decided at wire speed.
//!
//! Text becomes rules once (`scan` bounds it, `load` parses and validates it,
//! `polarity` and `conditions` read its syntax tree), and rules become a [`Bundle`] that never changes. A
//! [`Subject`] is one principal on one connection under one bundle. It finds the filters that
//! match a topic in a `trie`, and what it has decided for that class of topics in a
//! `cache`; only a class never met before goes to Cedar, in `judge`, the one place where an
//! answer becomes a decision. What is allowed leaves as a [`Permitted`] value, which nothing
//! outside this module can make.
//!
//! The invariants:
//! - Allowed means: Cedar says allow, and no policy failed to evaluate.
//! - What was judged is what is inside the permit: the topic and the facts come from the
//!   message itself.
//! - A value that fills a placeholder is compared with one level. Nothing is ever put into the
//!   text of a filter, a policy or an entity.
//! - SUBSCRIBE is allowed only where every topic of the filter is: see `polarity`.

mod acl;
mod anatomy;
mod bundle;
mod cache;
mod cases;
mod conditions;
mod diff;
mod drawing;
mod enrolment;
mod examiner;
mod explain;
mod facts;
mod filters;
mod folder;
mod format;
mod groups;
pub mod import;
mod judge;
mod lints;
mod live;
mod load;
mod permit;
mod polarity;
mod policy_filter;
mod principals;
mod problem;
mod question;
mod ranks;
mod scan;
mod schema;
mod source;
mod subject;
mod succession;
#[cfg(test)]
mod tests;
mod trie;
#[cfg(feature = "verify")]
pub mod verify;

use std::sync::Arc;

pub use bundle::Bundle;
pub use cases::{By, Case, CaseRun, CaseTables, Expected};
pub use diff::{Answers, Change, Comparison, RuleChanges};
pub use drawing::Excerpt;
pub use enrolment::Enrolment;
pub use examiner::Examiner;
pub use explain::{
    Explanation, Filter, Mark, Part, Portion, Relation, RuleEffect, RuleReport, State,
};
pub use facts::{
    ConnectFacts, Publication, PublishFacts, ReceiveFacts, SessionFacts, SubscribeFacts,
};
pub use filters::Normalised;
pub use folder::{Doubt, FolderChange, FolderState, MANIFEST, Way, is_policy_file};
pub use format::Formatted;
pub use groups::{DeclaredGroups, GroupProblem};
pub use permit::{Denial, Denied, Permitted};
pub use principals::{IgnoredClaim, Principals};
pub use problem::{LoadError, Problem, Problems};
pub use question::{Answer, Asked, FACTS, Question, QuestionError, Sample, TIME, Words};
pub use schema::{Action, SCHEMA, json as schema_json};
pub use source::{policy_files, policy_folders};
pub use subject::{Subject, UNJUDGED};
pub use succession::retire;

/// The generation of a bundle: every reload has a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyEpoch(pub u64);

/// Loads arbitrary bytes as policies, for a fuzz target: whatever they are, this returns. What
/// loads can be explained and laid out, or that is refused.
///
/// # Panics
/// When any of it did.
pub fn fuzz_policy_text(data: &[u8]) -> Option<Arc<Bundle>> {
    let text = std::str::from_utf8(data).ok()?;
    let survived = |error: &LoadError| {
        assert!(error.lines().all(|line| !line.contains(load::PANICKED)), "{}", load::PANICKED);
        let _ = error.problems().draw(false);
    };
    let loaded = Bundle::load_text("fuzz.cedar", text, None, PolicyEpoch(1));
    let bundle = Arc::new(loaded.inspect_err(survived).ok()?);
    let _ = bundle.warnings().draw(false);
    let _ = format::format_text("fuzz.cedar", text).inspect_err(survived);
    for (action, resource) in [("publish", "a/b"), ("subscribe", "a/#"), ("connect", "devices")] {
        let words = Words { principal: "Device::pump-1", action, resource, ..Words::default() };
        if let Ok(question) = Question::parse(&words) {
            let explained = question.explain(&bundle).map_err(LoadError::from);
            if let Ok(explanation) = explained.inspect_err(survived) {
                let _ = explanation.draw(false);
            }
        }
    }
    Some(bundle)
}
