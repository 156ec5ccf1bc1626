//! What holds between the `TopicFilter` literals of a query.
//!
//! To the solver a literal is a name: that whoever is in `a/b/#` is also in `a/#`, and never in
//! `c/#`, it has to be told. It is told as Cedar, by forbids: a request that breaks a law of
//! topics is one that nothing allows. Only what is certain is told; what is left out can make a
//! refutation wrong (and that is found out by asking), never a proof.

use std::fmt::Write as _;

use crate::mqtt::TopicFilter;
use crate::policy::filters::Normalised;
use crate::policy::polarity::{COVERS, OVERLAPS};
use crate::policy::schema::Action;

/// A filter as written in a policy, placeholders and all.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// A placeholder is a level that equals only itself: for what is certainly covered.
    exact: TopicFilter,
    /// A placeholder is any level: for what is certainly apart.
    wide: TopicFilter,
}

impl Shape {
    pub(super) fn of(text: &str) -> Option<Self> {
        let level = |level: &str| {
            let placeholder = level.starts_with("${") && level.ends_with('}');
            if placeholder { "+".to_owned() } else { level.to_owned() }
        };
        let wide = text.split('/').map(level).collect::<Vec<_>>().join("/");
        Some(Self { exact: TopicFilter::parse(text).ok()?, wide: TopicFilter::parse(&wide).ok()? })
    }

    /// True when every topic of the other is certainly one of this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        Normalised::of(&self.exact).covers(&Normalised::of(&other.exact))
    }

    /// False when no topic is in both, whatever fills the placeholders.
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        Normalised::of(&self.wide).overlaps(&Normalised::of(&other.wide))
    }
}

/// How a resource is in a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// A topic that the filter matches.
    Matched,
    /// A subscription that the filter covers.
    Covered,
    /// A subscription that overlaps the filter.
    Overlapped,
}

/// A literal of a query.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) relation: Relation,
    /// The filter as written.
    pub(super) filter: String,
    shape: Shape,
}

impl Literal {
    pub(super) fn of(relation: Relation, filter: &str) -> Option<Self> {
        Some(Self { relation, filter: filter.to_owned(), shape: Shape::of(filter)? })
    }

    /// Every literal that the policies of an action can name for a filter.
    pub(super) fn all(action: Action, filter: &str) -> impl Iterator<Item = Self> {
        let relations: &[Relation] = match action {
            Action::Connect | Action::Enroll => &[],
            Action::Publish | Action::Receive => &[Relation::Matched],
            Action::Subscribe => &[Relation::Covered, Relation::Overlapped],
        };
        relations.iter().filter_map(move |relation| Self::of(*relation, filter))
    }

    /// The id of the entity.
    pub(super) fn id(&self) -> String {
        let prefix = match self.relation {
            Relation::Matched => "",
            Relation::Covered => COVERS,
            Relation::Overlapped => OVERLAPS,
        };
        format!("{prefix}{}", self.filter)
    }

    pub(super) fn has_placeholder(&self) -> bool {
        self.filter.split('/').any(|level| level.starts_with("${"))
    }

    /// What is certain of another literal for a resource that is in this one.
    fn implies(&self, other: &Self) -> Option<bool> {
        use Relation::{Covered, Matched, Overlapped};
        let covered = other.shape.covers(&self.shape);
        let apart = !self.shape.may_overlap(&other.shape);
        match (self.relation, other.relation) {
            (Matched, Matched) | (Covered, Covered | Overlapped) => match (covered, apart) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
            (Overlapped, Overlapped) => covered.then_some(true),
            (Overlapped, Covered) => apart.then_some(false),
            _ => None,
        }
    }
}

/// What it says of a resource.
impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.relation {
            Relation::Matched => "what matches",
            Relation::Covered => "what is covered by",
            Relation::Overlapped => "what overlaps",
        };
        write!(f, "{what} {:?}", self.filter)
    }
}

/// `resource in TopicFilter::"…"`.
pub(super) fn is_in(id: &str) -> String {
    format!("resource in {}", entity("TopicFilter", id))
}

/// An entity as Cedar writes it.
pub(super) fn entity(kind: &str, id: &str) -> String {
    format!("{kind}::\"{}\"", id.escape_debug())
}

/// The laws between literals.
#[derive(Debug, Default)]
pub(super) struct Laws {
    /// As conditions of what cannot be.
    pub(super) conditions: Vec<String>,
    /// For people to check.
    pub(super) words: Vec<String>,
}

/// The laws between these literals.
pub(super) fn laws(literals: &[Literal]) -> Laws {
    let mut laws = Laws::default();
    for (at, literal) in literals.iter().enumerate() {
        let mut never = Vec::new();
        let mut broken = String::new();
        for (other_at, other) in literals.iter().enumerate().filter(|(other, _)| *other != at) {
            match literal.implies(other) {
                Some(true) => {
                    let _ = write!(broken, " || !({})", is_in(&other.id()));
                    laws.words.push(format!("{literal} is in {other}"));
                }
                // Being apart is mutual: it is told once.
                Some(false) if other_at > at || other.implies(literal) != Some(false) => {
                    never.push(entity("TopicFilter", &other.id()));
                    laws.words.push(format!("{literal} is apart from {other}"));
                }
                _ => {}
            }
        }
        for unusable in literal.unusable() {
            let _ = write!(broken, " || {unusable}");
            laws.words.push(format!("{literal} matches nothing where no value fills a level"));
        }
        if !never.is_empty() {
            let _ = write!(broken, " || resource in [{}]", never.join(", "));
        }
        if let Some(broken) = broken.strip_prefix(" || ") {
            laws.conditions.push(format!("{} && ({broken})", is_in(&literal.id())));
        }
    }
    laws
}

impl Literal {
    /// Where the value of a placeholder can fill no level: then the literal matches nothing.
    fn unusable(&self) -> impl Iterator<Item = String> {
        self.filter.split('/').filter_map(|level| {
            let name = level.strip_prefix("${")?.strip_suffix('}')?;
            // Cedar lets a value be read only after it was asked for.
            let (there, value) = match name.strip_prefix("tag:") {
                Some(tag) => {
                    let tag = tag.escape_debug();
                    (
                        format!("principal.hasTag(\"{tag}\") && "),
                        format!("principal.getTag(\"{tag}\")"),
                    )
                }
                None if name == "cn" => {
                    ("principal has cert && ".to_owned(), "principal.cert.cn".to_owned())
                }
                None if name == "client_id" => {
                    (String::new(), "context.session.client_id".to_owned())
                }
                // The id of an entity, and what groups there are, cannot be said in Cedar.
                None => return None,
            };
            let usable = ["*/*", "*+*", "*#*"].map(|it| format!("!({value} like \"{it}\")"));
            Some(format!("!({there}{value} != \"\" && {})", usable.join(" && ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Relation::{Covered, Matched, Overlapped};

    fn implied(relation: Relation, filter: &str, other: Relation, of: &str) -> Option<bool> {
        let literal = |relation, filter| Literal::of(relation, filter).unwrap();
        literal(relation, filter).implies(&literal(other, of))
    }

    #[test]
    fn only_what_is_certain_of_two_filters_becomes_a_law() {
        for (filter, other, expected) in [
            ("a/b", "a/#", Some(true)),
            ("a/#", "a/b", None),
            ("a/#", "b/#", Some(false)),
            ("$SYS/#", "#", Some(false)),
            ("a/+", "+/b", None),
            ("a/${cn}/x", "a/+/x", Some(true)),
            ("a/${cn}/x", "a/#", Some(true)),
            ("a/+/x", "a/${cn}/x", None),
            ("a/dev1/x", "a/${cn}/x", None),
            ("a/${cn}/x", "a/${client_id}/x", None),
            ("a/${cn}/x", "a/${cn}/#", Some(true)),
            ("a/${cn}/x", "b/#", Some(false)),
        ] {
            assert_eq!(implied(Matched, filter, Matched, other), expected, "{filter} {other}");
            assert_eq!(implied(Covered, filter, Covered, other), expected, "{filter} {other}");
            assert_eq!(implied(Covered, filter, Overlapped, other), expected, "{filter} {other}");
        }
    }

    #[test]
    fn a_subscription_that_overlaps_a_filter_need_not_stay_apart_from_another() {
        assert_eq!(implied(Overlapped, "a/b", Overlapped, "a/#"), Some(true));
        assert_eq!(implied(Overlapped, "a/#", Overlapped, "b/#"), None);
        assert_eq!(implied(Overlapped, "a/#", Covered, "b/#"), Some(false));
        assert_eq!(implied(Overlapped, "a/b", Covered, "a/#"), None);
    }

    #[test]
    fn laws_are_told_as_conditions_that_cannot_be() {
        let literal = |filter| Literal::of(Matched, filter).unwrap();
        let told = laws(&[literal("a/b"), literal("a/#"), literal("c")]);
        assert_eq!(
            told.conditions,
            [
                "resource in TopicFilter::\"a/b\" && (!(resource in TopicFilter::\"a/#\") || \
                 resource in [TopicFilter::\"c\"])",
                "resource in TopicFilter::\"a/#\" && (resource in [TopicFilter::\"c\"])",
            ]
        );
        assert_eq!(
            told.words,
            [
                "what matches \"a/b\" is in what matches \"a/#\"",
                "what matches \"a/b\" is apart from what matches \"c\"",
                "what matches \"a/#\" is apart from what matches \"c\"",
            ]
        );
    }
}
