//! A filter as it stands in a policy: its levels, its placeholders, and what fills them.

use std::sync::Arc;

use smallvec::SmallVec;

use super::filters::{Normalised, plus_matches};
use super::principals::Resolved;
use crate::identity::Identity;
use crate::mqtt::TopicFilter;
use crate::mqtt::topic::Level;

/// The most levels a filter in a policy may have: it bounds the depth of every walk.
pub(super) const FILTER_LEVELS_MAX: usize = 128;

/// The most filters that one with placeholders is written out as.
const FILLED_MAX: usize = 16;

/// What fills exactly one level of a filter in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placeholder {
    /// `${cn}`: the common name of the certificate.
    Cn,
    /// `${client_id}`: the client identifier.
    ClientId,
    /// `${principal}`: the id of the principal.
    Principal,
    /// `${group}`: any group the principal is in, directly or through other groups.
    Group,
    /// `${tag:NAME}`: the value of that tag.
    Tag(Arc<str>),
}

impl std::fmt::Display for Placeholder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cn => f.write_str("${cn}"),
            Self::ClientId => f.write_str("${client_id}"),
            Self::Principal => f.write_str("${principal}"),
            Self::Group => f.write_str("${group}"),
            Self::Tag(name) => write!(f, "${{tag:{name}}}"),
        }
    }
}

impl Placeholder {
    /// Reads what stands between `${` and `}`.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "cn" => Self::Cn,
            "client_id" => Self::ClientId,
            "principal" => Self::Principal,
            "group" => Self::Group,
            _ => Self::Tag(name.strip_prefix("tag:").filter(|tag| !tag.is_empty())?.into()),
        })
    }
}

/// Why a `TopicFilter` literal of a policy cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterProblem {
    /// It is no topic filter.
    #[error("{0}")]
    Invalid(&'static str),
    /// It begins with `$share/`.
    #[error("a policy judges the filter inside $share/<group>/, never the share itself")]
    Shared,
    /// A placeholder that does not exist.
    #[error("there is no placeholder {0}")]
    UnknownPlaceholder(Box<str>),
    /// A placeholder that is only a part of a level.
    #[error("a placeholder fills one whole level, and {0:?} has more in it")]
    PartOfLevel(Box<str>),
    /// A level that means something to other brokers, and nothing here.
    #[error("{0:?} is a level like any other here, and no wildcard or placeholder")]
    Foreign(Box<str>),
    /// More than [`FILTER_LEVELS_MAX`] levels.
    #[error("a filter in a policy may have {FILTER_LEVELS_MAX} levels, this one has {0}")]
    TooDeep(usize),
}

impl FilterProblem {
    /// What the author can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "write it as in SUBSCRIBE: + and # only as whole levels, # last",
            Self::Shared => "leave out $share/<group>/; context.share_group tells the group",
            Self::UnknownPlaceholder(_) => {
                "there are ${cn}, ${client_id}, ${principal}, ${group} and ${tag:NAME}"
            }
            Self::PartOfLevel(_) => "give the placeholder a level of its own: devices/${cn}/data",
            Self::Foreign(_) => {
                "write + for one level, # for the rest, ${client_id} for %c, ${principal} for %u"
            }
            Self::TooDeep(_) => "end it earlier with #",
        }
    }
}

/// One level of a filter in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Literal(Box<str>),
    Plus,
    Hash,
    Placeholder(Placeholder),
}

impl Step {
    /// With whatever fills a placeholder.
    fn widest(&self) -> Level<'_> {
        match self {
            Self::Literal(text) => Level::Literal(text),
            Self::Plus | Self::Placeholder(_) => Level::Plus,
            Self::Hash => Level::Hash,
        }
    }
}

/// A wildcard of a shell, or what stands for the client id and the user name in Mosquitto.
fn is_foreign(level: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric());
    level == "*" || ["%c", "%u"].iter().any(|mark| level.split(mark).skip(1).any(ends))
}

/// A `TopicFilter` literal of a policy, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyFilter {
    text: Arc<str>,
    pub(super) steps: Box<[Step]>,
}

impl PolicyFilter {
    /// True when one of its levels is `${client_id}`.
    pub(super) fn names_client_id(&self) -> bool {
        self.steps.contains(&Step::Placeholder(Placeholder::ClientId))
    }

    /// Parses the id of a `TopicFilter` entity.
    pub(super) fn parse(text: &str) -> Result<Self, FilterProblem> {
        if text == "$share" || text.starts_with("$share/") {
            return Err(FilterProblem::Shared);
        }
        let filter =
            TopicFilter::parse(text).map_err(|violation| FilterProblem::Invalid(violation.what))?;
        let normalised = Normalised::of(&filter);
        if normalised.levels().len() > FILTER_LEVELS_MAX {
            return Err(FilterProblem::TooDeep(normalised.levels().len()));
        }
        let steps = normalised
            .levels()
            .iter()
            .map(|level| match *level {
                Level::Plus => Ok(Step::Plus),
                Level::Hash => Ok(Step::Hash),
                Level::Literal(text) if is_foreign(text) => {
                    Err(FilterProblem::Foreign(text.into()))
                }
                Level::Literal(text) if !text.contains("${") => Ok(Step::Literal(text.into())),
                Level::Literal(text) => {
                    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
                    let name = name
                        .filter(|name| !name.contains(['$', '{', '}']))
                        .ok_or_else(|| FilterProblem::PartOfLevel(text.into()))?;
                    Placeholder::named(name)
                        .map(Step::Placeholder)
                        .ok_or_else(|| FilterProblem::UnknownPlaceholder(text.into()))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), steps })
    }

    /// A filter whose placeholders are literal levels like any other: what it covers, it covers
    /// whatever fills them.
    pub(super) fn verbatim(text: &str) -> Option<Self> {
        let filter = TopicFilter::parse(text).ok()?;
        let step = |level: &Level<'_>| match *level {
            Level::Plus => Step::Plus,
            Level::Hash => Step::Hash,
            Level::Literal(text) => Step::Literal(text.into()),
        };
        let steps = Normalised::of(&filter).levels().iter().map(step).collect();
        Some(Self { text: text.into(), steps })
    }

    /// The placeholders in it.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.steps.iter().filter_map(|step| match step {
            Step::Placeholder(placeholder) => Some(placeholder),
            _ => None,
        })
    }

    /// False when no topic is in both, whatever fills the placeholders.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        Normalised::of_levels(self.steps.iter().map(Step::widest).collect())
            .overlaps(&Normalised::of_levels(other.steps.iter().map(Step::widest).collect()))
    }

    /// True when it matches every topic that a wildcard can match.
    pub(super) fn is_everything(&self) -> bool {
        matches!(*self.steps, [Step::Plus, Step::Hash])
    }

    /// True when it has a `+` or a `#`.
    pub(super) fn has_wildcard(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Plus | Step::Hash))
    }

    /// What the filter is for one client, with every placeholder filled: for people to read, and
    /// up to a bound. None when nothing fills one of them.
    pub(super) fn filled<'a>(&'a self, bindings: Bindings<'a>) -> Vec<Normalised<'a>> {
        let mut filled: Vec<SmallVec<[Level<'a>; 8]>> = vec![SmallVec::new()];
        for (depth, step) in self.steps.iter().enumerate() {
            let level = match step {
                Step::Literal(text) => Level::Literal(text),
                Step::Plus => Level::Plus,
                Step::Hash => Level::Hash,
                Step::Placeholder(placeholder) => {
                    let values: Vec<&str> = bindings
                        .values(placeholder)
                        .filter(|value| usable(value, depth == 0))
                        .take(FILLED_MAX)
                        .collect();
                    let with = |levels: &SmallVec<[Level<'a>; 8]>, value| {
                        let mut levels = levels.clone();
                        levels.push(Level::Literal(value));
                        levels
                    };
                    filled = filled
                        .iter()
                        .flat_map(|levels| values.iter().map(move |value| with(levels, value)))
                        .take(FILLED_MAX)
                        .collect();
                    continue;
                }
            };
            for levels in &mut filled {
                levels.push(level);
            }
        }
        filled.into_iter().map(Normalised::of_levels).collect()
    }

    /// The filter as written in the policy.
    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }
}

/// The values that fill placeholders for one principal on one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bindings<'a> {
    /// The principal.
    pub(super) identity: &'a Identity,
    /// Its client identifier.
    pub(super) client_id: &'a str,
    /// Its groups and tags.
    pub(super) resolved: &'a Resolved,
}

impl<'a> Bindings<'a> {
    pub(super) fn fills(&self, placeholder: &Placeholder, level: &str, first: bool) -> bool {
        self.has(placeholder, |value| value == level && usable(value, first))
    }

    pub(super) fn fills_any(&self, placeholder: &Placeholder, first: bool) -> bool {
        self.has(placeholder, |value| usable(value, first))
    }

    fn has(&self, placeholder: &Placeholder, test: impl Fn(&str) -> bool) -> bool {
        self.values(placeholder).any(test)
    }

    /// What the placeholder stands for: one value, several groups, or nothing.
    fn values(&self, placeholder: &Placeholder) -> impl Iterator<Item = &'a str> + use<'a> {
        let identity = self.identity;
        let (one, several): (Option<&'a str>, &'a [Arc<str>]) = match placeholder {
            Placeholder::Cn => (identity.certificate.as_ref().map(|it| &*it.cn), &[]),
            Placeholder::ClientId => (Some(self.client_id), &[]),
            Placeholder::Principal => (Some(&identity.name), &[]),
            Placeholder::Group => (None, &self.resolved.groups),
            Placeholder::Tag(name) => (self.resolved.tags.get(name).map(AsRef::as_ref), &[]),
        };
        one.into_iter().chain(several.iter().map(AsRef::as_ref))
    }
}

/// A value that could be more or less than one literal level fills nothing.
pub(super) fn usable(value: &str, first: bool) -> bool {
    !value.is_empty() && !value.contains(['/', '+', '#', '\0']) && plus_matches(value, first)
}
