//! The filters of a policy set as a tree: which of them match a topic, cover a filter, overlap it.
//!
//! A placeholder is an edge of its own, compared with one level as a literal. No value is ever
//! put into the text of a filter, so no value can become a wildcard or a separator.

use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;

use super::filters::{Normalised, plus_matches};
use super::principals::Resolved;
use crate::identity::Identity;
use crate::mqtt::TopicFilter;
use crate::mqtt::topic::Level;

/// The most levels a filter in a policy may have: it bounds the depth of every walk.
pub(super) const FILTER_LEVELS_MAX: usize = 128;

/// So many literal levels below a node are hashed, fewer compared one by one.
const FEW_LITERALS: usize = 8;

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
            Self::TooDeep(_) => "end it earlier with #",
        }
    }
}

/// One level of a filter in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Literal(Box<str>),
    Plus,
    Hash,
    Placeholder(Placeholder),
}

/// A `TopicFilter` literal of a policy, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyFilter {
    text: Arc<str>,
    steps: Box<[Step]>,
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
    fn fills(&self, placeholder: &Placeholder, level: &str, first: bool) -> bool {
        self.has(placeholder, |value| value == level && usable(value, first))
    }

    fn fills_any(&self, placeholder: &Placeholder, first: bool) -> bool {
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

/// The number of a filter within one trie.
pub(super) type FilterIndex = u32;

/// The tree of filters.
#[derive(Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    plus: Option<Box<Node>>,
    placeholders: Vec<(Placeholder, Node)>,
    /// Filters that end here.
    ends: SmallVec<[FilterIndex; 1]>,
    /// Filters whose `#` stands here: they match this node and everything below.
    hashes: SmallVec<[FilterIndex; 1]>,
}

/// The nodes below a node by literal level.
#[derive(Debug)]
enum Literals {
    /// To be compared one by one.
    Few(Vec<(Box<str>, Node)>),
    Many(AHashMap<Box<str>, Node>),
}

impl Default for Literals {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Literals {
    fn entry(&mut self, text: &str) -> &mut Node {
        if let Self::Few(nodes) = self
            && nodes.len() >= FEW_LITERALS
        {
            *self = Self::Many(nodes.drain(..).collect());
        }
        match self {
            Self::Few(nodes) => {
                let at = nodes.iter().position(|(it, _)| **it == *text).unwrap_or_else(|| {
                    nodes.push((text.into(), Node::default()));
                    nodes.len() - 1
                });
                #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
                &mut nodes[at].1
            }
            Self::Many(nodes) => nodes.entry(text.into()).or_default(),
        }
    }

    fn get(&self, text: &str) -> Option<&Node> {
        match self {
            Self::Few(nodes) => nodes.iter().find(|(it, _)| **it == *text).map(|(_, node)| node),
            Self::Many(nodes) => nodes.get(text),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        let (few, many) = match self {
            Self::Few(nodes) => (Some(nodes), None),
            Self::Many(nodes) => (None, Some(nodes)),
        };
        let few = few.into_iter().flatten().map(|(text, node)| (&**text, node));
        few.chain(many.into_iter().flatten().map(|(text, node)| (&**text, node)))
    }
}

impl Trie {
    /// Adds a filter under a number.
    pub(super) fn insert(&mut self, filter: &PolicyFilter, index: FilterIndex) {
        let mut node = &mut self.root;
        for step in &filter.steps {
            node = match step {
                Step::Hash => {
                    node.hashes.push(index);
                    return;
                }
                Step::Plus => node.plus.get_or_insert_default(),
                Step::Literal(text) => node.literals.entry(text),
                Step::Placeholder(placeholder) => node.placeholder(placeholder),
            };
        }
        node.ends.push(index);
    }

    /// Calls `found` for every filter that matches the topic.
    pub(super) fn matching(
        &self,
        topic: &str,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.root.matching(Some(topic), true, bindings, found);
    }

    /// Calls `found` for every filter that covers this one.
    pub(super) fn covering(
        &self,
        filter: &Normalised<'_>,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.root.covering(filter.levels(), true, bindings, found);
    }

    /// Calls `found` for every filter that overlaps this one.
    pub(super) fn overlapping(
        &self,
        filter: &Normalised<'_>,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.root.overlapping(filter.levels(), true, bindings, found);
    }
}

impl Node {
    fn placeholder(&mut self, placeholder: &Placeholder) -> &mut Self {
        let at = self.placeholders.iter().position(|(it, _)| it == placeholder);
        let at = at.unwrap_or_else(|| {
            self.placeholders.push((placeholder.clone(), Self::default()));
            self.placeholders.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        &mut self.placeholders[at].1
    }

    /// The nodes that one literal level leads to.
    fn step<'a>(
        &'a self,
        level: &'a str,
        first: bool,
        bindings: Bindings<'a>,
    ) -> impl Iterator<Item = &'a Self> {
        let plus = self.plus.as_deref().filter(|_| plus_matches(level, first));
        let filled = self
            .placeholders
            .iter()
            .filter(move |(placeholder, _)| bindings.fills(placeholder, level, first))
            .map(|(_, node)| node);
        self.literals.get(level).into_iter().chain(plus).chain(filled)
    }

    /// The nodes that a `+` shares some level with.
    fn every_step<'a>(
        &'a self,
        first: bool,
        bindings: Bindings<'a>,
    ) -> impl Iterator<Item = &'a Self> {
        let literals = self
            .literals
            .iter()
            .filter(move |(text, _)| plus_matches(text, first))
            .map(|(_, node)| node);
        let filled = self
            .placeholders
            .iter()
            .filter(move |(placeholder, _)| bindings.fills_any(placeholder, first))
            .map(|(_, node)| node);
        literals.chain(self.plus.as_deref()).chain(filled)
    }

    fn matching(
        &self,
        rest: Option<&str>,
        first: bool,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.hashes.iter().copied().for_each(&mut *found);
        let Some(rest) = rest else {
            self.ends.iter().copied().for_each(found);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        for node in self.step(level, first, bindings) {
            node.matching(rest, false, bindings, found);
        }
    }

    fn covering(
        &self,
        levels: &[Level<'_>],
        first: bool,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.hashes.iter().copied().for_each(&mut *found);
        match levels.split_first() {
            None => self.ends.iter().copied().for_each(found),
            Some((Level::Hash, _)) => {}
            Some((Level::Plus, rest)) => {
                if let Some(plus) = &self.plus {
                    plus.covering(rest, false, bindings, found);
                }
            }
            Some((Level::Literal(level), rest)) => {
                for node in self.step(level, first, bindings) {
                    node.covering(rest, false, bindings, found);
                }
            }
        }
    }

    fn overlapping(
        &self,
        levels: &[Level<'_>],
        first: bool,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.hashes.iter().copied().for_each(&mut *found);
        match levels.split_first() {
            None => self.ends.iter().copied().for_each(found),
            Some((Level::Hash, _)) => self.all_but_hashes(first, bindings, found),
            Some((Level::Plus, rest)) => {
                for node in self.every_step(first, bindings) {
                    node.overlapping(rest, false, bindings, found);
                }
            }
            Some((Level::Literal(level), rest)) => {
                for node in self.step(level, first, bindings) {
                    node.overlapping(rest, false, bindings, found);
                }
            }
        }
    }

    /// Everything at and below this node that some topic reaches, but for the node's own `#`.
    fn all_but_hashes(
        &self,
        first: bool,
        bindings: Bindings<'_>,
        found: &mut impl FnMut(FilterIndex),
    ) {
        self.ends.iter().copied().for_each(&mut *found);
        for node in self.every_step(first, bindings) {
            node.hashes.iter().copied().for_each(&mut *found);
            node.all_but_hashes(false, bindings, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::world::{device, filters, matches, sequences};

    fn collect(walk: impl FnOnce(&mut dyn FnMut(FilterIndex))) -> Vec<FilterIndex> {
        let mut found = Vec::new();
        walk(&mut |index| found.push(index));
        found.sort_unstable();
        found
    }

    /// Walks a tree of every filter over these levels with every such filter, and every topic that
    /// can tell two of them apart.
    fn check_walks(levels: &[&str], longest: usize) {
        let identity = device("dev1", &[]);
        let resolved = Resolved::default();
        let bindings = Bindings { identity: &identity, client_id: "c", resolved: &resolved };
        let texts = filters(&[levels, &["+"]].concat(), longest);
        let parsed: Vec<TopicFilter> =
            texts.iter().map(|text| TopicFilter::parse(text).unwrap()).collect();
        let normalised: Vec<_> = parsed.iter().map(Normalised::of).collect();
        let mut trie = Trie::default();
        for (index, text) in (0..).zip(&texts) {
            trie.insert(&PolicyFilter::parse(text).unwrap(), index);
        }
        let every = |test: &dyn Fn(usize) -> bool| -> Vec<FilterIndex> {
            (0..).zip(0..texts.len()).filter(|(_, at)| test(*at)).map(|(index, _)| index).collect()
        };
        for filter in &normalised {
            assert_eq!(
                collect(|mut found| trie.covering(filter, bindings, &mut found)),
                every(&|at| normalised[at].covers(filter)),
                "covering {filter}"
            );
            assert_eq!(
                collect(|mut found| trie.overlapping(filter, bindings, &mut found)),
                every(&|at| normalised[at].overlaps(filter)),
                "overlapping {filter}"
            );
        }
        for topic in sequences(&[levels, &["z"]].concat(), longest + 1) {
            assert_eq!(
                collect(|mut found| trie.matching(&topic, bindings, &mut found)),
                every(&|at| matches(&texts[at], &topic)),
                "matching {topic}"
            );
        }
    }

    #[test]
    fn a_walk_finds_what_comparing_with_every_filter_finds() {
        check_walks(&["", "a", "$s"], 3);
    }

    #[test]
    fn a_walk_finds_as_much_where_literals_are_hashed() {
        let names: Vec<String> = (0..FEW_LITERALS).map(|number| format!("l{number}")).collect();
        for more in [&["$s"][..], &["", "$s"], &["", "a", "$s"]] {
            let names = names.iter().take(FEW_LITERALS - 1).map(String::as_str);
            check_walks(&names.chain(more.iter().copied()).collect::<Vec<_>>(), 2);
        }
    }

    #[test]
    fn a_value_that_is_not_one_level_fills_no_filter() {
        let resolved = Resolved::default();
        let filled = |name: &str, filter: &str| {
            let identity = device(name, &[]);
            let bindings = Bindings { identity: &identity, client_id: "c", resolved: &resolved };
            let filter = PolicyFilter::parse(filter).unwrap();
            filter.filled(bindings).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for name in ["", "/", "a/b", "+", "a+", "#", "\0", "a\0"] {
            assert_eq!(filled(name, "a/${principal}/#"), "", "{name:?}");
            assert_eq!(filled(name, "${principal}/#"), "", "{name:?}");
        }
        assert_eq!(filled("$a", "a/${principal}/#"), "a/$a/#");
        assert_eq!(filled("$a", "${principal}/#"), "");
        assert_eq!(filled("${cn}", "a/${principal}"), "a/${cn}");
    }

    #[test]
    fn a_filter_that_says_nothing_sound_is_refused_with_a_remedy() {
        for (text, problem) in [
            ("", "a topic filter is empty"),
            ("a/#/b", "a # is not the last level of its filter"),
            ("a+/b", "a + is not a whole level of its filter"),
            (
                "$share/g/a",
                "a policy judges the filter inside $share/<group>/, never the share itself",
            ),
            ("$share", "a policy judges the filter inside $share/<group>/, never the share itself"),
            ("a/${cm}", "there is no placeholder ${cm}"),
            ("a/${tag:}", "there is no placeholder ${tag:}"),
            ("a/${}", "there is no placeholder ${}"),
            ("a/x${cn}", "a placeholder fills one whole level, and \"x${cn}\" has more in it"),
            ("a/${cn}x", "a placeholder fills one whole level, and \"${cn}x\" has more in it"),
            (
                "a/${cn}${cn}",
                "a placeholder fills one whole level, and \"${cn}${cn}\" has more in it",
            ),
            ("${tag:a/b}", "a placeholder fills one whole level, and \"${tag:a\" has more in it"),
        ] {
            let found = PolicyFilter::parse(text).unwrap_err();
            assert_eq!(found.to_string(), problem, "{text}");
            assert!(!found.remedy().is_empty());
        }
        let deep = vec!["a"; FILTER_LEVELS_MAX].join("/");
        assert!(PolicyFilter::parse(&deep).is_ok());
        let deeper = PolicyFilter::parse(&format!("{deep}/a")).unwrap_err();
        assert_eq!(deeper, FilterProblem::TooDeep(FILTER_LEVELS_MAX + 1));
    }
}
