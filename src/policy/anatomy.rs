//! Where the parts of one policy stand in its text.
//!
//! Cedar's syntax tree has no positions, so the text is read as far as it takes to find them:
//! brackets, commas, `when`, `unless`, and the operators outside all brackets. What is found is
//! compared with Cedar's own reading before it is told to anybody; see [`Clause::operands`].

use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Policy, pst};
use pst::{BinaryOp, Expr};

use super::scan::{Kind, tokens};

/// The parts of a policy, in bytes of its text.
#[derive(Debug, Default)]
pub(super) struct Anatomy {
    /// What is asked of the principal, the action and the resource.
    pub(super) scope: Vec<Range<usize>>,
    /// What stands in the brackets of each `when` and `unless`, in order.
    pub(super) clauses: Vec<Range<usize>>,
}

impl Anatomy {
    pub(super) fn of(policy: &str) -> Self {
        let mut anatomy = Self::default();
        // The word that the next bracket belongs to.
        let mut word = "";
        let mut before = "";
        let mut depth = 0_usize;
        let mut part: Option<Range<usize>> = None;
        for token in tokens(policy) {
            let text = policy.get(token.bytes.clone()).unwrap_or_default();
            let outside = depth == 0;
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if outside {
                // `@when("x")` is an annotation.
                word = match token.kind {
                    Kind::Open => word,
                    _ if before == "@" => "",
                    _ => text,
                };
                before = text;
                continue;
            }
            let parts = match word {
                "permit" | "forbid" => &mut anatomy.scope,
                "when" | "unless" => &mut anatomy.clauses,
                _ => continue,
            };
            let ends = depth == 0 || (depth == 1 && token.kind == Kind::Comma);
            if ends {
                parts.extend(part.take());
            } else {
                let start = part.map_or(token.bytes.start, |part| part.start);
                part = Some(start..token.bytes.end);
            }
            if depth == 0 {
                word = "";
                before = "";
            }
        }
        anatomy
    }

    /// What is asked of the principal.
    pub(super) fn principal(&self) -> Option<Range<usize>> {
        self.scope.first().cloned()
    }

    /// What is asked of the resource.
    pub(super) fn resource(&self) -> Option<Range<usize>> {
        self.scope.get(2).cloned()
    }
}

/// What stands in the brackets of a `when` or an `unless`.
#[derive(Clone, Debug)]
pub(super) struct Clause {
    pub(super) expression: Arc<Expr>,
    /// In bytes of the policy's text.
    pub(super) bytes: Range<usize>,
}

impl Clause {
    /// The operands of the outermost `&&` or `||`; the clause itself, if it is something else, or
    /// if Cedar reads it differently.
    pub(super) fn operands(&self, policy: &str, operator: BinaryOp) -> Vec<Self> {
        self.divided(policy, operator).unwrap_or_else(|| vec![self.clone()])
    }

    fn divided(&self, policy: &str, operator: BinaryOp) -> Option<Vec<Self>> {
        let sign = match operator {
            BinaryOp::And => "&&",
            BinaryOp::Or => "||",
            _ => return None,
        };
        let operands = divide(policy.get(self.bytes.clone())?, sign)
            .into_iter()
            .map(|bytes| {
                let bytes = within(&self.bytes, &bytes);
                Some(Self { expression: expression(policy.get(bytes.clone())?)?, bytes })
            })
            .collect::<Option<Vec<Self>>>()?;
        let joined = operands
            .iter()
            .map(|operand| Arc::clone(&operand.expression))
            .reduce(|left, right| Arc::new(Expr::BinaryOp { op: operator, left, right }))?;
        (joined == self.expression).then_some(operands)
    }
}

fn within(outer: &Range<usize>, inner: &Range<usize>) -> Range<usize> {
    outer.start.saturating_add(inner.start)..outer.start.saturating_add(inner.end)
}

/// The stretches between the operators that stand outside all brackets.
fn divide(text: &str, sign: &str) -> Vec<Range<usize>> {
    let mut stretches = Vec::new();
    let mut stretch: Option<Range<usize>> = None;
    let mut depth = 0_usize;
    for token in tokens(text) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && text.get(token.bytes.clone()) == Some(sign) {
            stretches.extend(stretch.take());
        } else {
            let start = stretch.map_or(token.bytes.start, |stretch| stretch.start);
            stretch = Some(start..token.bytes.end);
        }
    }
    stretches.extend(stretch);
    stretches
}

/// Cedar's reading of an expression.
fn expression(text: &str) -> Option<Arc<Expr>> {
    let policy = format!("permit (principal, action, resource) when {{ {text}\n}};");
    let tree = Policy::parse(None, policy).ok()?.to_pst().ok()?;
    match tree.body().clauses().as_slice() {
        [pst::Clause::When(expression)] => Some(Arc::clone(expression)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(policy: &str, ranges: &[Range<usize>]) -> Vec<String> {
        ranges.iter().map(|range| policy.get(range.clone()).unwrap().to_owned()).collect()
    }

    #[test]
    fn scope_and_clauses_are_found_in_any_layout() {
        let policy = r#"@id("a") @when("(never), {") @reason("permit (x, y, z)")
            // permit (not, this, one)
            permit(principal in Group::"a,)b" , // why
              action in [Action::"read", Action::"write"], resource in
              TopicFilter::"a/#",)
            when { context.qos == 1 && // so
                   (context.retain || !context.retain) }
            unless{principal is User}
            when { {a: 1}.a == 1 } ;"#;
        let anatomy = Anatomy::of(policy);
        assert_eq!(
            texts(policy, &anatomy.scope),
            [
                r#"principal in Group::"a,)b""#,
                r#"action in [Action::"read", Action::"write"]"#,
                "resource in\n              TopicFilter::\"a/#\"",
            ]
        );
        assert_eq!(
            texts(policy, &anatomy.clauses),
            [
                "context.qos == 1 && // so\n                   (context.retain || !context.retain)",
                "principal is User",
                "{a: 1}.a == 1",
            ]
        );
    }

    #[test]
    fn a_clause_is_divided_where_cedar_divides_it() {
        let names = |text: &str| {
            let name = |character: char| match character {
                'P'..='S' => format!("context.{character}"),
                other => other.to_string(),
            };
            text.chars().map(name).collect::<String>()
        };
        for (text, and, or) in [
            ("P && Q", &["P", "Q"][..], &["P && Q"][..]),
            ("P && Q && R", &["P", "Q", "R"], &["P && Q && R"]),
            ("P || Q", &["P || Q"], &["P", "Q"]),
            ("P && Q || R && S", &["P && Q || R && S"], &["P && Q", "R && S"]),
            ("(P || Q) && R", &["(P || Q)", "R"], &["(P || Q) && R"]),
            ("(P && Q) && R", &["(P && Q)", "R"], &["(P && Q) && R"]),
            ("P && (Q && R)", &["P", "(Q && R)"], &["P && (Q && R)"]),
            ("if P then Q else R && S", &["if P then Q else R && S"], &["if P then Q else R && S"]),
            ("!(P && Q)", &["!(P && Q)"], &["!(P && Q)"]),
            ("[P && Q] == [R || S]", &["[P && Q] == [R || S]"], &["[P && Q] == [R || S]"]),
            ("P // && \n && Q", &["P", "Q"], &["P // && \n && Q"]),
            ("P == \" && \" && Q", &["P == \" && \"", "Q"], &["P == \" && \" && Q"]),
        ] {
            let policy =
                format!("permit (principal, action, resource) when {{ {} }};", names(text));
            let bytes = Anatomy::of(&policy).clauses[0].clone();
            let clause = Clause { expression: expression(&names(text)).unwrap(), bytes };
            for (operator, expected) in [(BinaryOp::And, and), (BinaryOp::Or, or)] {
                let operands = clause.operands(&policy, operator);
                let ranges: Vec<_> = operands.into_iter().map(|operand| operand.bytes).collect();
                let expected: Vec<String> = expected.iter().map(|text| names(text)).collect();
                assert_eq!(texts(&policy, &ranges), expected, "{text}");
            }
        }
    }
}
