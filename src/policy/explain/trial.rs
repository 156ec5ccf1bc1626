//! One rule, tried in the very request that was answered: as a whole, and part by part.

use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Policy, pst};
use pst::BinaryOp;

use super::survey::Neighbour;
use super::{Mark, Part, RuleReport, State};
use crate::policy::anatomy::{Anatomy, Clause};
use crate::policy::drawing::Excerpt;
use crate::policy::judge::{Asker, Prepared};
use crate::policy::load::Rule;
use crate::policy::polarity;
use crate::policy::question::{Answer, Asked};
use crate::policy::schema::Action;

/// Bytes of the text of a part.
const TEXT_BYTES_MAX: usize = 512;
/// Marks of one rule.
const MARKS_MAX: usize = 8;

/// The request that was answered, to be put to parts of rules.
pub(super) struct Trial<'a> {
    pub(super) request: Prepared<'a>,
    pub(super) asker: &'a Asker<'a>,
    pub(super) asked: &'a Asked,
    pub(super) answer: &'a Answer,
}

/// A part of a rule that was tried.
struct Found {
    part: Part,
    bytes: Range<usize>,
    /// Whether it holds; the error, when its evaluation failed.
    holds: Result<bool, String>,
    met: Vec<String>,
}

impl Trial<'_> {
    /// What a rule had to do with the answer.
    pub(super) fn report(&self, Neighbour { rule, is_about_it }: Neighbour<'_>) -> RuleReport {
        let decides = self.answer.policies().contains(&rule.id);
        let (state, error, found) = match self.applies(rule) {
            Ok(true) if decides => {
                let forbids = rule.policy.effect() == cedar_policy::Effect::Forbid;
                let found = if forbids { self.exceptions(rule) } else { Vec::new() };
                (State::Decides, None, found)
            }
            Ok(true) => (State::Applies, None, Vec::new()),
            Err(error) => (State::Fails, Some(error), self.failed_conditions(rule)),
            Ok(false) => {
                let mut found = self.scope(rule);
                let about_scope = found.len();
                found.extend(self.failed_conditions(rule));
                let conditions = found.len().saturating_sub(about_scope);
                let one_thing = matches!((about_scope, conditions), (0, _) | (1, 0));
                let nearly = is_about_it && one_thing;
                (if nearly { State::Nearly } else { State::DoesNotApply }, None, found)
            }
        };
        written(rule, state, error, found)
    }

    /// The policy that answers the request, as it is put to Cedar.
    fn applies(&self, rule: &Rule) -> Result<bool, String> {
        match (self.asked.action(), &rule.rewritten) {
            (Action::Subscribe, Some(rewritten)) => self.request.applies(rewritten),
            _ => self.request.applies(&rule.policy),
        }
    }

    /// A rule of the same effect that has nothing but some parts of another.
    fn holds(&self, part: pst::Template) -> Result<bool, String> {
        let part: pst::StaticPolicy = part.try_into().map_err(text)?;
        let policy = Policy::from_pst(pst::Policy::Static(part)).map_err(text)?;
        match self.asked.action() {
            Action::Subscribe => self.request.applies(&polarity::rewrite(&policy).map_err(text)?),
            _ => self.request.applies(&policy),
        }
    }

    /// What the scope asks, and is not so.
    fn scope(&self, rule: &Rule) -> Vec<Found> {
        let Ok(tree) = rule.policy.to_pst() else { return Vec::new() };
        let anatomy = Anatomy::of(rule.place.text());
        let body = tree.body();
        let mut found = Vec::new();
        let mut principal = empty(body.effect);
        principal.principal = body.principal.clone();
        if let Ok(false) = self.holds(principal) {
            found.push(Found {
                part: Part::Principal,
                bytes: anatomy.principal().unwrap_or_default(),
                holds: Ok(false),
                met: vec![self.who(&body.principal)],
            });
        }
        let mut resource = empty(body.effect);
        resource.resource = body.resource.clone();
        if let Ok(false) = self.holds(resource) {
            found.push(Found {
                part: Part::Resource,
                bytes: anatomy.resource().unwrap_or_default(),
                holds: Ok(false),
                met: vec![self.what(rule)],
            });
        }
        found
    }

    /// The conditions that keep a rule from applying, or whose evaluation fails.
    fn failed_conditions(&self, rule: &Rule) -> Vec<Found> {
        let mut failed: Vec<Found> = Vec::new();
        for (part, clause) in clauses(rule) {
            let operator = if part == Part::When { BinaryOp::And } else { BinaryOp::Or };
            for operand in clause.operands(rule.place.text(), operator) {
                match self.condition(rule, part, &operand) {
                    Ok(holds) if holds == (part == Part::When) => {}
                    // What comes after a condition that is false is not evaluated: it may well
                    // fail by itself.
                    Err(_) if !failed.is_empty() => return failed,
                    holds => failed.push(self.found(part, operand, holds)),
                }
            }
        }
        failed
    }

    /// What would have kept a forbid from applying, and is not so.
    fn exceptions(&self, rule: &Rule) -> Vec<Found> {
        let mut found = Vec::new();
        for (part, clause) in clauses(rule).into_iter().filter(|(part, _)| *part == Part::Unless) {
            for operand in clause.operands(rule.place.text(), BinaryOp::And) {
                if let Ok(false) = self.condition(rule, part, &operand) {
                    found.push(self.found(part, operand, Ok(false)));
                }
            }
        }
        found
    }

    /// Whether a condition is true, in the place where it stands.
    fn condition(&self, rule: &Rule, part: Part, clause: &Clause) -> Result<bool, String> {
        let expression = Arc::clone(&clause.expression);
        let (clause, when) = match part {
            Part::Unless => (pst::Clause::Unless(expression), false),
            _ => (pst::Clause::When(expression), true),
        };
        let effect = match rule.policy.effect() {
            cedar_policy::Effect::Permit => pst::Effect::Permit,
            cedar_policy::Effect::Forbid => pst::Effect::Forbid,
        };
        let policy = empty(effect).try_with_clauses([clause]).map_err(text)?;
        self.holds(policy).map(|applies| applies == when)
    }

    fn found(&self, part: Part, clause: Clause, holds: Result<bool, String>) -> Found {
        let mut met = match &holds {
            Err(error) => vec![bounded(error, TEXT_BYTES_MAX)],
            Ok(_) => Vec::new(),
        };
        met.extend(self.facts(&clause.expression));
        Found { part, bytes: clause.bytes, holds, met }
    }
}

/// The report, with every part in its place.
fn written(rule: &Rule, state: State, error: Option<String>, mut found: Vec<Found>) -> RuleReport {
    found.truncate(MARKS_MAX);
    let source = &rule.place.source;
    let offset = rule.place.range.start;
    let shift = |bytes: &Range<usize>| offset + bytes.start..offset + bytes.end;
    let start = found.iter().map(|found| found.bytes.start).min();
    let end = found.iter().map(|found| found.bytes.end).max();
    let excerpt = start.zip(end).and_then(|(start, end)| {
        Excerpt::around(&source.name, &source.text, &shift(&(start..end)))
    });
    let (excerpt, excerpt_start) = match excerpt {
        Some((excerpt, start)) => (Some(excerpt), Some(start)),
        None => (None, None),
    };
    let mark = |found: Found| {
        let Found { part, bytes, holds, met } = found;
        let text = rule.place.text().get(bytes.clone()).unwrap_or_default();
        let (line, column) = place_of(rule, &bytes);
        let bytes = shift(&bytes);
        Mark {
            part,
            text: bounded(text, TEXT_BYTES_MAX),
            line,
            column,
            holds: holds.ok(),
            met,
            span: excerpt_start
                .map(|start| (bytes.start.saturating_sub(start), bytes.end.saturating_sub(start))),
        }
    };
    let marks = found.into_iter().map(mark).collect();
    let (line, column) = place_of(rule, &(0..0));
    RuleReport {
        id: Arc::clone(&rule.id),
        effect: rule.policy.effect().into(),
        reason: rule.policy.annotation("reason").map(|reason| bounded(reason, TEXT_BYTES_MAX)),
        file: source.name.to_string(),
        line,
        column,
        state,
        error,
        marks,
        excerpt,
    }
}

/// The clauses of a rule, in order, with their places.
fn clauses(rule: &Rule) -> Vec<(Part, Clause)> {
    let Ok(tree) = rule.policy.to_pst() else { return Vec::new() };
    let anatomy = Anatomy::of(rule.place.text());
    let clauses = tree.body().clauses().iter();
    clauses
        .zip(anatomy.clauses)
        .map(|(clause, bytes)| match clause {
            pst::Clause::When(expression) => {
                (Part::When, Clause { expression: Arc::clone(expression), bytes })
            }
            pst::Clause::Unless(expression) => {
                (Part::Unless, Clause { expression: Arc::clone(expression), bytes })
            }
        })
        .collect()
}

/// A rule that asks nothing.
fn empty(effect: pst::Effect) -> pst::Template {
    pst::Template::new(
        "part",
        effect,
        pst::PrincipalConstraint::Any,
        pst::ActionConstraint::Any,
        pst::ResourceConstraint::Any,
    )
}

/// Line and column of a part.
fn place_of(rule: &Rule, bytes: &Range<usize>) -> (usize, usize) {
    let problem = rule.place.problem_within("", bytes.clone());
    problem.location().map_or((1, 1), |(_, line, column)| (line, column))
}

pub(super) fn bounded(text: &str, bytes_max: usize) -> String {
    match text.get(..text.floor_char_boundary(bytes_max)) {
        Some(head) if head.len() < text.len() => format!("{head}…"),
        _ => text.to_owned(),
    }
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
