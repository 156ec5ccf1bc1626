//! The filters of a policy set as a tree: which of them match a topic, cover a filter, overlap it.
//!
//! A placeholder is an edge of its own, compared with one level as a literal. No value is ever
//! put into the text of a filter, so no value can become a wildcard or a separator.

use ahash::AHashMap;
use smallvec::SmallVec;

use super::filters::{Normalised, plus_matches};
use super::policy_filter::{Bindings, Placeholder, PolicyFilter, Step};
use crate::mqtt::topic::Level;

/// So many literal levels below a node are hashed, fewer compared one by one.
const FEW_LITERALS: usize = 8;

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
    use crate::mqtt::TopicFilter;
    use crate::policy::policy_filter::{FILTER_LEVELS_MAX, FilterProblem};
    use crate::policy::principals::Resolved;
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
