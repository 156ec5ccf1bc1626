//! What a part of a rule met: the facts it read, who asked, what was asked for.

use cedar_policy::{Effect, pst};
use pst::{BinaryOp, Expr, Literal, Var};

use super::survey::here;
use super::trial::{Trial, bounded};
use crate::policy::load::Rule;
use crate::policy::policy_filter::PolicyFilter;
use crate::policy::question::Asked;

/// Facts that are told of one condition.
const FACTS_MAX: usize = 4;
/// Bytes of a value.
const VALUE_BYTES_MAX: usize = 128;

impl Trial<'_> {
    /// The facts that a condition reads, and what they are.
    pub(super) fn facts(&self, expression: &Expr) -> Vec<String> {
        let mut read: Vec<Fact> = expression.reduce(
            &|part| Fact::of(part).map(|fact| vec![fact]),
            &|mut left, right| {
                left.extend(right);
                left
            },
            Vec::new(),
        );
        read.sort();
        read.dedup();
        read.truncate(FACTS_MAX);
        let said = read.into_iter().filter_map(|fact| match fact {
            Fact::Value(path) => {
                let value = self.request.value(&path)?;
                Some(format!("{path} is {}", bounded(&value, VALUE_BYTES_MAX)))
            }
            Fact::Groups => Some(self.groups()),
            Fact::Filter(text) => {
                let filter = PolicyFilter::parse(&text).ok()?;
                (filter.placeholders().next().is_some()).then(|| self.filter_here(&filter))
            }
        });
        said.collect()
    }

    fn groups(&self) -> String {
        let principal = self.asker.principal();
        match self.asker.resolved.groups.as_slice() {
            [] => format!("{principal} is in no group"),
            groups => {
                format!("{principal} is in {}", bounded(&groups.join(", "), VALUE_BYTES_MAX))
            }
        }
    }

    /// Who asks, as far as a scope looks at it.
    pub(super) fn who(&self, constraint: &pst::PrincipalConstraint) -> String {
        use pst::PrincipalConstraint as Constraint;
        let kind = self.asker.identity.kind.as_str();
        match constraint {
            Constraint::In(_) => self.groups(),
            Constraint::IsIn(wanted, _) if wanted.to_string() == kind => self.groups(),
            _ => format!("it is {}", self.asker.principal()),
        }
    }

    /// What is asked for, as far as a scope looks at it.
    pub(super) fn what(&self, rule: &Rule) -> String {
        let wanted = match self.asked {
            Asked::Connect(_) => {
                return format!("the listener is {:?}", self.asker.session.listener);
            }
            Asked::Enroll(facts) => return format!("the profile is {:?}", facts.profile),
            Asked::Subscribe { filter, .. } => filter.filter.to_string(),
            Asked::Publish { message, .. } | Asked::Receive { message, .. } => {
                message.topic.as_str().to_owned()
            }
        };
        let wanted = bounded(&wanted, VALUE_BYTES_MAX);
        let Some(scope) = rule.scope_filter() else { return format!("it is {wanted}") };
        let outside = match (self.asked, rule.policy.effect()) {
            (Asked::Subscribe { .. }, Effect::Permit) => {
                format!("does not cover {wanted}")
            }
            (Asked::Subscribe { .. }, Effect::Forbid) => {
                format!("has nothing in common with {wanted}")
            }
            _ => format!("does not match {wanted}"),
        };
        match here(scope, self.asker) {
            Some(filters) if filters.is_empty() => self.filter_here(scope),
            Some(_) => format!("{}, which {outside}", self.filter_here(scope)),
            None => outside,
        }
    }

    fn filter_here(&self, filter: &PolicyFilter) -> String {
        let here = here(filter, self.asker).unwrap_or_default();
        if here.is_empty() {
            let names: Vec<String> = filter.placeholders().map(ToString::to_string).collect();
            return format!("for this client nothing usable stands for {}", names.join(" and "));
        }
        format!("for this client {}", bounded(&here.join(" and "), VALUE_BYTES_MAX))
    }
}

/// Something a condition reads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    /// An attribute or tag, by its path.
    Value(String),
    /// The groups of the principal.
    Groups,
    /// A filter.
    Filter(String),
}

impl Fact {
    fn of(expression: &Expr) -> Option<Self> {
        match expression {
            Expr::GetAttr { .. } => path(expression).map(Self::Value),
            Expr::BinaryOp { op: BinaryOp::GetTag, left, right } => match (&**left, &**right) {
                (Expr::Var(Var::Principal), Expr::Literal(Literal::String(name))) => {
                    Some(Self::Value(format!("principal.getTag({name:?})")))
                }
                _ => None,
            },
            Expr::Literal(Literal::EntityUID(entity)) => match entity.ty.to_string().as_str() {
                "Group" => Some(Self::Groups),
                "TopicFilter" => Some(Self::Filter(entity.eid.to_string())),
                _ => None,
            },
            _ => None,
        }
    }
}

/// `context.session.listener` and the like.
fn path(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Var(Var::Principal) => Some("principal".to_owned()),
        Expr::Var(Var::Resource) => Some("resource".to_owned()),
        Expr::Var(Var::Context) => Some("context".to_owned()),
        Expr::GetAttr { expr, attr } => {
            let plain = attr.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            plain.then(|| Some(format!("{}.{attr}", path(expr)?)))?
        }
        _ => None,
    }
}
