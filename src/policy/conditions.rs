//! Whether the conditions of a policy can hold at all, or hold always.
//!
//! Validation looks at types, not at values: `context.qos > 2` is valid and never true, and a
//! forbid with it forbids nothing. What is known of one number at a time is enough to find that:
//! the conditions are tried with every value that can tell them apart, and whatever does not
//! depend on the number is left open.

use std::collections::BTreeSet;

use cedar_policy::pst;
use pst::{BinaryOp, Clause, Expr, Literal, PatternElem, UnaryOp, Var};

use super::polarity::{Misuse, MisusedPart, TOPIC_FILTER, is_filter};
use super::policy_filter::PolicyFilter;
use super::ranks::{Comparison, Measured};

/// Filters of one policy that are compared with each other.
const NEEDED_MAX: usize = 16;

/// What is known of all the conditions of a policy together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outlook {
    /// They hold for every request.
    Always,
    /// They hold for no request, whatever this number is.
    Never(Measured),
    /// Some requests may fulfil them, and others not.
    #[default]
    Open,
}

/// The conditions of one policy, as far as they are understood.
pub(super) struct Conditions {
    all: Vec<Condition>,
    comparisons: Vec<Comparison>,
}

enum Condition {
    Known(bool),
    Compare(Comparison),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Unknown,
}

impl Conditions {
    pub(super) fn of(clauses: &[Clause]) -> Self {
        let mut conditions = Self { all: Vec::new(), comparisons: Vec::new() };
        for clause in clauses {
            let condition = match clause {
                Clause::When(condition) => conditions.read(condition),
                Clause::Unless(condition) => Condition::Not(Box::new(conditions.read(condition))),
            };
            conditions.all.push(condition);
        }
        conditions
    }

    fn read(&mut self, expression: &Expr) -> Condition {
        match expression {
            Expr::Literal(Literal::Bool(known)) => Condition::Known(*known),
            Expr::Like { pattern, .. }
                if !pattern.is_empty()
                    && pattern.iter().all(|it| matches!(it, PatternElem::Wildcard)) =>
            {
                Condition::Known(true)
            }
            Expr::UnaryOp { op: UnaryOp::Not, expr } => Condition::Not(Box::new(self.read(expr))),
            Expr::BinaryOp { op: BinaryOp::And, left, right } => {
                Condition::And(Box::new(self.read(left)), Box::new(self.read(right)))
            }
            Expr::BinaryOp { op: BinaryOp::Or, left, right } => {
                Condition::Or(Box::new(self.read(left)), Box::new(self.read(right)))
            }
            Expr::BinaryOp { op, left, right } => match Comparison::of(*op, left, right) {
                Some(comparison) => {
                    self.comparisons.push(comparison);
                    Condition::Compare(comparison)
                }
                None => Condition::Unknown,
            },
            _ => Condition::Unknown,
        }
    }

    /// What can never be true: single comparisons, otherwise all of them together.
    pub(super) fn impossible(&self) -> Vec<Misuse> {
        let never = self.comparisons.iter().filter(|comparison| {
            let mut values = self.values(comparison.measured).into_iter();
            !values.any(|value| comparison.holds(value))
        });
        let never: BTreeSet<Measured> = never.map(|comparison| comparison.measured).collect();
        let misuse = |measured: Measured, message, remedy| {
            let part = MisusedPart::Word(measured.described().0);
            Misuse { part, message, remedy }
        };
        if let (true, Outlook::Never(measured)) = (never.is_empty(), self.outlook()) {
            let (attribute, _) = measured.described();
            let message =
                format!("the policy never applies: no `{attribute}` fulfils all of its conditions");
            let remedy = "correct the conditions, or remove the policy";
            return vec![misuse(measured, message, remedy)];
        }
        let told = never.into_iter().map(|measured| {
            let (attribute, values) = measured.described();
            let message = format!("this comparison is never true: `{attribute}` is {values}");
            misuse(measured, message, "correct the number")
        });
        told.collect()
    }

    pub(super) fn outlook(&self) -> Outlook {
        let measured: BTreeSet<Measured> =
            self.comparisons.iter().map(|comparison| comparison.measured).collect();
        if self.hold(None) == Some(true) {
            return Outlook::Always;
        }
        for measured in measured {
            let held: BTreeSet<Option<bool>> = self
                .values(measured)
                .into_iter()
                .map(|value| self.hold(Some((measured, value))))
                .collect();
            if held == BTreeSet::from([Some(false)]) {
                return Outlook::Never(measured);
            }
            if held == BTreeSet::from([Some(true)]) {
                return Outlook::Always;
            }
        }
        Outlook::Open
    }

    /// A value of each interval between the constants that the number is compared with.
    fn values(&self, measured: Measured) -> Vec<i64> {
        let constants = self.comparisons.iter().filter(|it| it.measured == measured);
        let near = constants.flat_map(|it| {
            [it.constant.saturating_sub(1), it.constant, it.constant.saturating_add(1)]
        });
        measured.possible(near)
    }

    /// Whether all hold with this number, if that does not depend on anything else.
    fn hold(&self, number: Option<(Measured, i64)>) -> Option<bool> {
        self.all.iter().map(|condition| condition.holds(number)).reduce(both).unwrap_or(Some(true))
    }
}

impl Condition {
    fn holds(&self, number: Option<(Measured, i64)>) -> Option<bool> {
        match self {
            Self::Known(known) => Some(*known),
            Self::Compare(comparison) => number
                .filter(|(measured, _)| *measured == comparison.measured)
                .map(|(_, value)| comparison.holds(value)),
            Self::Not(condition) => condition.holds(number).map(|held| !held),
            Self::And(left, right) => both(left.holds(number), right.holds(number)),
            Self::Or(left, right) => {
                let not = |held: Option<bool>| held.map(|held| !held);
                not(both(not(left.holds(number)), not(right.holds(number))))
            }
            Self::Unknown => None,
        }
    }
}

/// Finds two filters without which the policy cannot apply, and that have no topic in common.
pub(super) fn disjoint(scope: Option<&str>, clauses: &[Clause]) -> Option<Misuse> {
    let mut needed: Vec<&str> = scope.into_iter().collect();
    for clause in clauses {
        if let Clause::When(condition) = clause {
            needed_filters(condition, &mut needed);
        }
    }
    let parsed = needed.iter().filter_map(|text| PolicyFilter::parse(text).ok()).take(NEEDED_MAX);
    let parsed: Vec<PolicyFilter> = parsed.collect();
    parsed.iter().enumerate().find_map(|(index, filter)| {
        let other = parsed.iter().take(index).find(|other| !other.may_meet(filter))?;
        let (other, filter) = (other.text(), filter.text());
        Some(Misuse {
            part: MisusedPart::Literal(TOPIC_FILTER.into(), filter.as_ref().into()),
            message: format!(
                "the policy never applies: no topic is in both {other:?} and {filter:?}"
            ),
            remedy: "correct one of the filters; || stands between alternatives",
        })
    })
}

/// The filters without which a condition cannot hold.
fn needed_filters<'a>(condition: &'a Expr, needed: &mut Vec<&'a str>) {
    match condition {
        Expr::BinaryOp { op: BinaryOp::And, left, right } => {
            needed_filters(left, needed);
            needed_filters(right, needed);
        }
        Expr::BinaryOp { op: BinaryOp::In, left, right }
        | Expr::Is { expr: left, in_expr: Some(right), .. } => {
            if let (Expr::Var(Var::Resource), Expr::Literal(Literal::EntityUID(entity))) =
                (&**left, &**right)
                && is_filter(entity)
            {
                needed.push(entity.eid.as_str());
            }
        }
        _ => {}
    }
}

fn both(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn outlook(conditions: &str) -> Outlook {
        let text = format!("permit(principal, action, resource) {conditions};");
        let tree = Policy::parse(None, text).unwrap().to_pst().unwrap();
        Conditions::of(tree.body().clauses()).outlook()
    }

    #[test]
    fn what_no_number_fulfils_is_found() {
        for (condition, measured) in [
            ("context.qos > 2", Measured::Qos),
            ("context.qos == 1 && context.qos == 2", Measured::Qos),
            ("context.retain && !(context.qos <= 2)", Measured::Qos),
            ("context.session.tls_version == 1", Measured::TlsVersion),
            (
                "12 < context.session.tls_version && context.session.tls_version < 13",
                Measured::TlsVersion,
            ),
            ("context.session.protocol_version >= 6 || false", Measured::ProtocolVersion),
            ("context.payload_size < 0", Measured::Payload),
            ("context.payload_size > 10 && context.payload_size <= 10", Measured::Payload),
            (
                "context.time < datetime(\"2026-01-01\") && context.time > datetime(\"2026-06-01\")",
                Measured::Time,
            ),
            (
                "context.time.toTime() > duration(\"22h\") && context.time.toTime() < duration(\"6h\")",
                Measured::TimeOfDay,
            ),
            ("context.time.toTime() >= duration(\"24h\")", Measured::TimeOfDay),
        ] {
            let found = outlook(&format!("when {{ {condition} }}"));
            assert_eq!(found, Outlook::Never(measured), "{condition}");
        }
        assert_eq!(
            outlook("when { context.qos == 1 } unless { context.qos < 2 }"),
            Outlook::Never(Measured::Qos)
        );
    }

    #[test]
    fn what_always_holds_is_no_condition() {
        for conditions in [
            "",
            "when { true }",
            "when { resource.name like \"*\" } unless { false }",
            "when { context.qos <= 2 }",
            "unless { context.payload_size < 0 }",
        ] {
            assert_eq!(outlook(conditions), Outlook::Always, "{conditions}");
        }
    }

    #[test]
    fn what_may_hold_is_open() {
        for condition in [
            "context.qos == 1 || context.qos == 2",
            "context.qos > 2 || context.retain",
            "context.qos == 1 && context.payload_size < 1",
            "resource.name like \"a*\"",
            "context.time.toTime() > duration(\"22h\") || context.time.toTime() < duration(\"6h\")",
            "if context.retain then false else true",
        ] {
            assert_eq!(outlook(&format!("when {{ {condition} }}")), Outlook::Open, "{condition}");
        }
    }
}
