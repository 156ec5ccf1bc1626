//! What a policy reads, and in which direction it uses topic filters.
//!
//! A SUBSCRIBE asks for many topics at once, so "the resource is in this filter" has two
//! answers: the filter covers all of them, or it overlaps some of them. What is granted must
//! cover; what is refused need only overlap; and `!` and `unless` turn one into the other. A
//! policy is therefore rewritten at load: each `TopicFilter::"x"` becomes
//! `TopicFilter::"covers:x"` or `TopicFilter::"overlaps:x"`, by the effect of the policy and the
//! sign of the place. Then one run of Cedar decides, and what it allows is allowed for every
//! topic of the subscription.

use std::sync::Arc;

use cedar_policy::{Policy, pst};
use pst::{BinaryOp, Clause, EntityOrSlot, Expr, Literal, ResourceConstraint, UnaryOp, Var};

use super::conditions::{Conditions, Outlook, disjoint};
use super::ranks::{Bounds, duration_ms, is_session};
use crate::mqtt::TopicName;

/// The prefix of a literal that has to cover the subscription.
pub(super) const COVERS: &str = "covers:";
/// The prefix of a literal that has to overlap the subscription.
pub(super) const OVERLAPS: &str = "overlaps:";

/// What conditions read, as a set. The session and the principal need no mark: nothing of them
/// changes during the life of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads(u16);

impl Reads {
    pub(super) const QOS: Self = Self(1);
    pub(super) const RETAIN: Self = Self(1 << 1);
    pub(super) const WILL: Self = Self(1 << 2);
    /// The name of the topic, its levels, or the resource itself.
    pub(super) const TOPIC: Self = Self(1 << 3);
    /// Properties, numbers that are not only compared with constants, and everything the analysis
    /// does not know.
    pub(super) const VOLATILE: Self = Self(1 << 4);
    /// The client identifier, which only a listener that binds it vouches for.
    pub(super) const CLIENT_ID: Self = Self(1 << 5);
    /// The time, compared with constants or not.
    pub(super) const TIME: Self = Self(1 << 6);
    /// The time, not only compared with constants.
    pub(super) const CLOCK: Self = Self(1 << 7);

    /// The number of levels of the resource.
    pub(super) const LEVELS: Self = Self(1 << 8);

    /// The union.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when both have something in common.
    pub(super) const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True when a decision cannot be kept for other topics of the same class, or for later.
    pub(super) const fn uncacheable(self) -> bool {
        self.any_of(Self::TOPIC.and(Self::VOLATILE))
    }
}

/// A construct that the broker cannot give a sound meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misuse {
    /// What of the policy it is about.
    pub(super) part: MisusedPart,
    /// What is wrong.
    pub(super) message: String,
    /// What to write instead.
    pub(super) remedy: &'static str,
}

/// A part of a policy, to be found in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MisusedPart {
    /// An entity literal, by type and id.
    Literal(Box<str>, Box<str>),
    /// A word or an operator.
    Word(&'static str),
    Whole,
}

/// What the syntax tree of one policy tells.
#[derive(Debug, Default)]
pub(super) struct Analysis {
    pub(super) reads: Reads,
    /// Every `TopicFilter` literal, with duplicates.
    pub(super) filters: Vec<Box<str>>,
    /// The literal of `resource in TopicFilter::"…"` in the scope: without it the policy cannot
    /// apply.
    pub(super) scope: Option<Box<str>>,
    /// Every `Group` literal, with duplicates.
    pub(super) groups: Vec<Box<str>>,
    pub(super) misuses: Vec<Misuse>,
    /// Every attribute whose presence is asked for, with duplicates: Cedar takes any name there.
    pub(super) presences: Vec<Box<str>>,
    /// The constants that numbers are compared with.
    pub(super) bounds: Bounds,
    /// Every listener that is named, with duplicates.
    pub(super) listeners: Vec<Box<str>>,
    /// The conditions hold for some requests and not for others.
    pub(super) conditional: bool,
    forbids: bool,
}

/// Whether a condition's truth moves with the truth of what stands here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Positive,
    Negative,
    /// Neither, or not known.
    None,
}

impl Sign {
    const fn flipped(self) -> Self {
        match self {
            Self::Positive => Self::Negative,
            Self::Negative => Self::Positive,
            Self::None => Self::None,
        }
    }
}

pub(super) const TOPIC_FILTER: &str = "TopicFilter";
/// A thousand years.
const SHORT_MS_MAX: u64 = 1000 * 366 * 24 * 60 * 60 * 1000;
const WRITE_IN: &str = "write `resource in TopicFilter::\"…\"`, joined by && || ! and `unless`";

/// Reads the syntax tree of a policy.
///
/// # Errors
/// When Cedar cannot give the tree of the policy.
pub(super) fn analyse(policy: &Policy) -> Result<Analysis, pst::PstConstructionError> {
    let tree = policy.to_pst()?;
    let body = tree.body();
    let mut analysis =
        Analysis { forbids: body.effect == pst::Effect::Forbid, ..Analysis::default() };
    analysis.principal(&body.principal);
    analysis.resource(&body.resource);
    let conditions = Conditions::of(body.clauses());
    analysis.conditional = conditions.outlook() != Outlook::Always;
    analysis.misuses.extend(conditions.impossible());
    analysis.misuses.extend(disjoint(analysis.scope.as_deref(), body.clauses()));
    for clause in body.clauses() {
        match clause {
            Clause::When(condition) => analysis.expression(condition, Sign::Positive),
            Clause::Unless(condition) => analysis.expression(condition, Sign::Negative),
        }
    }
    Ok(analysis)
}

impl Analysis {
    fn principal(&mut self, constraint: &pst::PrincipalConstraint) {
        use pst::PrincipalConstraint as Constraint;
        if let Constraint::Eq(EntityOrSlot::Entity(entity))
        | Constraint::In(EntityOrSlot::Entity(entity))
        | Constraint::IsIn(_, EntityOrSlot::Entity(entity)) = constraint
        {
            self.entity(entity);
        }
    }

    fn resource(&mut self, constraint: &ResourceConstraint) {
        match constraint {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => {}
            ResourceConstraint::In(EntityOrSlot::Entity(entity))
            | ResourceConstraint::IsIn(_, EntityOrSlot::Entity(entity))
                if is_filter(entity) =>
            {
                self.scope = Some(entity.eid.as_str().into());
                self.filters.push(entity.eid.as_str().into());
            }
            ResourceConstraint::Eq(EntityOrSlot::Entity(entity))
            | ResourceConstraint::In(EntityOrSlot::Entity(entity))
            | ResourceConstraint::IsIn(_, EntityOrSlot::Entity(entity)) => {
                self.reads = self.reads.and(Reads::TOPIC);
                self.entity(entity);
            }
            ResourceConstraint::Eq(EntityOrSlot::Slot(_))
            | ResourceConstraint::In(EntityOrSlot::Slot(_))
            | ResourceConstraint::IsIn(_, EntityOrSlot::Slot(_)) => {
                self.reads = self.reads.and(Reads::VOLATILE);
            }
        }
    }

    /// An entity literal anywhere but right of `resource in`.
    fn entity(&mut self, entity: &pst::EntityUID) {
        let id: Box<str> = entity.eid.as_str().into();
        let kind = entity.ty.0.id.as_str();
        let (message, remedy) = if is_filter(entity) {
            ("a TopicFilter may stand only right of `resource in`", WRITE_IN)
        } else if is_type(entity, "Subscription") {
            ("comparing the text of a subscription is never sound", WRITE_IN)
        } else if id.contains("${") {
            let remedy = "compare with an attribute, or write `resource in TopicFilter::\"…\"`";
            ("only a TopicFilter has placeholders: this is compared as it is written", remedy)
        } else if is_type(entity, "Topic") && TopicName::parse(&id).is_err() {
            ("no topic has this name: it is compared as it is written", WRITE_IN)
        } else {
            match kind {
                "Group" => self.groups.push(id),
                "Listener" => self.listeners.push(id),
                _ => {}
            }
            return;
        };
        let part = MisusedPart::Literal(kind.into(), id);
        self.misuses.push(Misuse { part, message: message.to_owned(), remedy });
    }

    fn filter(&mut self, entity: &pst::EntityUID, sign: Sign) {
        let id: Box<str> = entity.eid.as_str().into();
        if sign == Sign::None {
            self.misuses.push(Misuse {
                message: "a TopicFilter inside a comparison, a call or the condition of an `if` \
                          has no direction for subscribe"
                    .into(),
                part: MisusedPart::Literal(TOPIC_FILTER.into(), id),
                remedy: WRITE_IN,
            });
        } else {
            self.filters.push(id);
        }
    }

    /// An operator that fails on overflow.
    fn arithmetic(&mut self, operator: &'static str) {
        if self.forbids {
            self.misuses.push(Misuse {
                part: MisusedPart::Word(operator),
                message: format!(
                    "`{operator}` in a forbid: on overflow its evaluation fails, and every \
                     request with it"
                ),
                remedy: "compare with a constant instead",
            });
        }
    }

    fn expression(&mut self, expression: &Expr, sign: Sign) {
        match expression {
            Expr::Literal(Literal::EntityUID(entity)) => self.entity(entity),
            Expr::Literal(_) => {}
            Expr::Var(variable) => self.read(variable, &[]),
            Expr::GetAttr { expr, attr } => self.attributes(expr, vec![attr]),
            Expr::HasAttr { expr, attrs } => {
                self.presences.extend(attrs.iter().map(|attr| Box::from(attr.as_str())));
                // Whether these are there depends on the action alone.
                let settled = |attr: &str| matches!(attr, "payload_size" | "time");
                if !matches!(**expr, Expr::Var(Var::Context))
                    || !attrs.iter().all(|attr| settled(attr))
                {
                    self.attributes(expr, attrs.iter().rev().map(AsRef::as_ref).collect());
                }
            }
            Expr::UnaryOp { op: UnaryOp::Not, expr } => self.expression(expr, sign.flipped()),
            Expr::UnaryOp { op, expr } => {
                if *op == UnaryOp::Neg {
                    self.arithmetic("-");
                }
                self.expression(expr, Sign::None);
            }
            Expr::BinaryOp { op: BinaryOp::And | BinaryOp::Or, left, right } => {
                self.expression(left, sign);
                self.expression(right, sign);
            }
            Expr::BinaryOp { op: BinaryOp::In, left, right } => self.membership(left, right, sign),
            Expr::BinaryOp { op, left, right } => {
                if let Some(bounds) = Bounds::of_comparison(*op, left, right) {
                    if bounds.are_of_time() {
                        self.reads = self.reads.and(Reads::TIME);
                    }
                    return self.bounds.add(&bounds);
                }
                match op {
                    BinaryOp::Add => self.arithmetic("+"),
                    BinaryOp::Sub => self.arithmetic("-"),
                    BinaryOp::Mul => self.arithmetic("*"),
                    // The other functions of times cannot fail on times that exist.
                    BinaryOp::Offset if !is_short(right) => self.arithmetic("offset"),
                    BinaryOp::Eq if is_listener(left) => self.listener(right),
                    BinaryOp::Eq if is_listener(right) => self.listener(left),
                    _ => {}
                }
                self.expression(left, Sign::None);
                self.expression(right, Sign::None);
            }
            Expr::Like { expr, .. } => self.expression(expr, Sign::None),
            Expr::Is { expr, in_expr: Some(group), .. } => self.membership(expr, group, sign),
            Expr::Is { expr, in_expr: None, .. } => {
                // The type of a variable is settled by the action and the principal.
                if !matches!(**expr, Expr::Var(_)) {
                    self.expression(expr, Sign::None);
                }
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                self.expression(cond, Sign::None);
                self.expression(then_expr, sign);
                self.expression(else_expr, sign);
            }
            Expr::Set(members) => {
                for member in members {
                    self.expression(member, Sign::None);
                }
            }
            Expr::Record(members) => {
                for member in members.values() {
                    self.expression(member, Sign::None);
                }
            }
            unknown => {
                self.reads = self.reads.and(Reads::VOLATILE);
                self.misuses.push(Misuse {
                    part: MisusedPart::Whole,
                    message: format!("the broker does not know what `{unknown}` reads"),
                    remedy: "write the condition another way",
                });
            }
        }
    }

    /// What `context.session.listener` is compared with.
    fn listener(&mut self, name: &Expr) {
        if let Expr::Literal(Literal::String(name)) = name {
            self.listeners.push(name.as_str().into());
        }
    }

    /// `left in right`.
    fn membership(&mut self, left: &Expr, right: &Expr, sign: Sign) {
        let members: &[Arc<Expr>] = match right {
            Expr::Set(members) => members,
            one => {
                return self.member(left, one, sign);
            }
        };
        for member in members {
            self.member(left, member, sign);
        }
        if members.is_empty() {
            self.expression(left, Sign::None);
        }
    }

    fn member(&mut self, left: &Expr, right: &Expr, sign: Sign) {
        match (left, right) {
            (Expr::Var(Var::Resource), Expr::Literal(Literal::EntityUID(entity)))
                if is_filter(entity) =>
            {
                self.filter(entity, sign);
            }
            _ => {
                self.expression(left, Sign::None);
                self.expression(right, Sign::None);
            }
        }
    }

    /// `expression.….attribute`; `path` holds the attributes, the last one first.
    fn attributes<'a>(&mut self, mut expression: &'a Expr, mut path: Vec<&'a str>) {
        while let Expr::GetAttr { expr, attr } = expression {
            path.push(attr);
            expression = expr;
        }
        path.reverse();
        match expression {
            Expr::Var(variable) => self.read(variable, &path),
            other => self.expression(other, Sign::None),
        }
    }

    fn read(&mut self, variable: &Var, path: &[&str]) {
        let reads = match (variable, path.first().copied()) {
            (Var::Context, Some("session"))
                if path.get(1).is_none_or(|attribute| *attribute == "client_id") =>
            {
                Reads::CLIENT_ID
            }
            (Var::Principal | Var::Action, _) | (Var::Context, Some("session")) => Reads::default(),
            (Var::Context, Some("qos")) => Reads::QOS,
            (Var::Context, Some("retain")) => Reads::RETAIN,
            (Var::Context, Some("will")) => Reads::WILL,
            (Var::Context, Some("time")) => Reads::VOLATILE.and(Reads::TIME).and(Reads::CLOCK),
            (Var::Context, None) => {
                Reads::VOLATILE.and(Reads::CLIENT_ID).and(Reads::TIME).and(Reads::CLOCK)
            }
            (Var::Resource, Some("levels")) => Reads::TOPIC.and(Reads::LEVELS),
            (Var::Resource, _) => Reads::TOPIC,
            (Var::Context, _) => Reads::VOLATILE,
        };
        self.reads = self.reads.and(reads);
    }
}

/// A duration that can be added to any time that exists, as often as a policy has operators.
fn is_short(duration: &Expr) -> bool {
    duration_ms(duration).is_some_and(|ms| ms.unsigned_abs() <= SHORT_MS_MAX)
}

/// `context.session.listener`.
fn is_listener(expression: &Expr) -> bool {
    matches!(expression, Expr::GetAttr { expr, attr } if attr == "listener" && is_session(expr))
}

/// The policy as it judges a whole filter. Only for a policy whose analysis found no misuse.
///
/// # Errors
/// When Cedar does not take the new tree.
pub(super) fn rewrite(policy: &Policy) -> Result<Policy, pst::PstConstructionError> {
    let tree = policy.to_pst()?;
    let mut body = tree.body().clone();
    let rewrite = Rewrite { forbids: body.effect == pst::Effect::Forbid };
    body.resource = match body.resource {
        ResourceConstraint::In(EntityOrSlot::Entity(entity)) => {
            ResourceConstraint::In(EntityOrSlot::Entity(rewrite.entity(&entity, false)))
        }
        ResourceConstraint::IsIn(kind, EntityOrSlot::Entity(entity)) => {
            ResourceConstraint::IsIn(kind, EntityOrSlot::Entity(rewrite.entity(&entity, false)))
        }
        other => other,
    };
    let clauses: Vec<Clause> = body
        .clauses()
        .iter()
        .map(|clause| match clause {
            Clause::When(condition) => Clause::When(rewrite.expression(condition, false)),
            Clause::Unless(condition) => Clause::Unless(rewrite.expression(condition, true)),
        })
        .collect();
    let body = body.try_with_clauses(clauses)?;
    Policy::from_pst(pst::Policy::Static(body.try_into()?))
}

struct Rewrite {
    forbids: bool,
}

impl Rewrite {
    fn entity(&self, entity: &pst::EntityUID, negated: bool) -> pst::EntityUID {
        if !is_filter(entity) {
            return entity.clone();
        }
        let prefix = if self.forbids == negated { COVERS } else { OVERLAPS };
        pst::EntityUID { ty: entity.ty.clone(), eid: format!("{prefix}{}", entity.eid).into() }
    }

    fn expression(&self, expression: &Arc<Expr>, negated: bool) -> Arc<Expr> {
        Arc::new(match &**expression {
            Expr::Literal(Literal::EntityUID(entity)) => {
                Expr::Literal(Literal::EntityUID(self.entity(entity, negated)))
            }
            Expr::UnaryOp { op: UnaryOp::Not, expr } => {
                Expr::UnaryOp { op: UnaryOp::Not, expr: self.expression(expr, !negated) }
            }
            Expr::BinaryOp { op, left, right } => Expr::BinaryOp {
                op: *op,
                left: self.expression(left, negated),
                right: self.expression(right, negated),
            },
            Expr::Is { expr, entity_type, in_expr } => Expr::Is {
                expr: Arc::clone(expr),
                entity_type: entity_type.clone(),
                in_expr: in_expr.as_ref().map(|group| self.expression(group, negated)),
            },
            Expr::IfThenElse { cond, then_expr, else_expr } => Expr::IfThenElse {
                cond: Arc::clone(cond),
                then_expr: self.expression(then_expr, negated),
                else_expr: self.expression(else_expr, negated),
            },
            Expr::Set(members) => {
                Expr::Set(members.iter().map(|member| self.expression(member, negated)).collect())
            }
            // The analysis refuses a TopicFilter in any other place.
            _ => return Arc::clone(expression),
        })
    }
}

pub(super) fn is_filter(entity: &pst::EntityUID) -> bool {
    is_type(entity, TOPIC_FILTER)
}

fn is_type(entity: &pst::EntityUID, name: &str) -> bool {
    entity.ty.0.namespace.is_empty() && entity.ty.0.id.as_str() == name
}
