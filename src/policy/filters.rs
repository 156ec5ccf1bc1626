//! Topic filters as sets of topics: does one cover another, do two overlap, what do they share.
//!
//! All three relations are exact, and exact only on normalised filters, which is why nothing
//! here takes text.

use smallvec::SmallVec;

use crate::mqtt::TopicFilter;
use crate::mqtt::topic::Level;

/// A filter whose levels can be compared one by one.
///
/// INVARIANT: a `#` stands last and never first, nor right after a lone empty level: `#` is
/// written `+/#`, and `/#` is `/+/#`, since the parent that their `#` would match is the empty
/// topic, which cannot exist. Any other `x/#` also matches `x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised<'a>(SmallVec<[Level<'a>; 8]>);

impl<'a> Normalised<'a> {
    /// The levels of a filter, normalised.
    #[must_use]
    pub fn of(filter: &'a TopicFilter) -> Self {
        let mut levels: SmallVec<[Level<'a>; 8]> = filter.levels().collect();
        match levels.as_slice() {
            [Level::Hash] => levels.insert(0, Level::Plus),
            [Level::Literal(""), Level::Hash] => levels.insert(1, Level::Plus),
            _ => {}
        }
        Self(levels)
    }

    /// These levels, which hold to the invariant already.
    pub(super) fn of_levels(levels: SmallVec<[Level<'a>; 8]>) -> Self {
        Self(levels)
    }

    /// A topic, as the filter that matches nothing else.
    pub(super) fn of_topic(topic: &'a str) -> Self {
        Self(topic.split('/').map(Level::Literal).collect())
    }

    /// How many levels from the first on have something in common: how near two filters are that
    /// do not meet.
    pub(super) fn leading(&self, other: &Normalised<'_>) -> usize {
        let common = |(mine, theirs): &(&Level<'_>, &Level<'_>)| match (mine, theirs) {
            (Level::Literal(mine), Level::Literal(theirs)) => mine == theirs,
            _ => true,
        };
        self.0.iter().zip(&other.0).take_while(common).count()
    }

    /// The levels, from the first on.
    #[must_use]
    pub fn levels(&self) -> &[Level<'a>] {
        &self.0
    }

    /// True when `self` matches every topic that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (self.0.iter(), other.0.iter());
        let mut first = true;
        loop {
            match (mine.next(), theirs.next()) {
                (Some(Level::Hash), _) | (None, None) => return true,
                (None, _)
                | (_, None | Some(Level::Hash))
                | (Some(Level::Literal(_)), Some(Level::Plus)) => return false,
                (Some(Level::Plus), Some(Level::Plus)) => {}
                (Some(Level::Plus), Some(Level::Literal(text))) => {
                    if !plus_matches(text, first) {
                        return false;
                    }
                }
                (Some(Level::Literal(mine)), Some(Level::Literal(theirs))) => {
                    if mine != theirs {
                        return false;
                    }
                }
            }
            first = false;
        }
    }

    /// True when some topic is matched by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.meet(other).is_some()
    }

    /// The filter that matches exactly the topics matched by both, if there is any such topic.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let mut shared = SmallVec::new();
        let (mut left, mut right) = (self.0.iter(), other.0.iter());
        loop {
            let level = match (left.next(), right.next()) {
                (None, None) => break,
                (Some(Level::Hash), rest) => {
                    shared.extend(rest.copied());
                    shared.extend(right.copied());
                    break;
                }
                (rest, Some(Level::Hash)) => {
                    shared.extend(rest.copied());
                    shared.extend(left.copied());
                    break;
                }
                (None, _) | (_, None) => return None,
                (Some(Level::Plus), Some(level)) | (Some(level), Some(Level::Plus)) => {
                    if let Level::Literal(text) = level
                        && !plus_matches(text, shared.is_empty())
                    {
                        return None;
                    }
                    *level
                }
                (Some(Level::Literal(left)), Some(Level::Literal(right))) => {
                    if left != right {
                        return None;
                    }
                    Level::Literal(left)
                }
            };
            shared.push(level);
        }
        Some(Self(shared))
    }
}

/// Writes the filter as a client would: `#`, not `+/#`.
impl std::fmt::Display for Normalised<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [Level::Plus, Level::Hash] => return f.write_str("#"),
            [Level::Literal(""), Level::Plus, Level::Hash] => return f.write_str("/#"),
            _ => {}
        }
        for (index, level) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(match level {
                Level::Literal(text) => text,
                Level::Plus => "+",
                Level::Hash => "#",
            })?;
        }
        Ok(())
    }
}

/// A wildcard matches any level, but at the first level none that begins with `$`
/// [MQTT-4.7.2-1].
pub(super) fn plus_matches(level: &str, first: bool) -> bool {
    !(first && level.starts_with('$'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::world::{filters, matches, sequences};

    fn parse(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    /// Every topic that can tell two of the filters apart: one level more than the longest of
    /// them, and a level (`z`) that none of them names.
    fn universe() -> Vec<String> {
        sequences(&["", "a", "b", "$s", "z"], 5)
    }

    /// The topics of the universe that a filter matches, as bits.
    fn extent(filter: &str, universe: &[String]) -> Vec<u64> {
        universe
            .chunks(64)
            .map(|topics| {
                let bits = topics.iter().rev();
                bits.fold(0, |word, topic| word << 1 | u64::from(matches(filter, topic)))
            })
            .collect()
    }

    #[test]
    fn cover_overlap_and_meet_agree_with_the_sets_of_topics_for_every_pair_of_filters() {
        let universe = universe();
        let texts = filters(&["", "a", "b", "$s", "+"], 3);
        let parsed: Vec<TopicFilter> = texts.iter().map(|text| parse(text)).collect();
        let extents: Vec<_> = texts.iter().map(|text| extent(text, &universe)).collect();
        let mut meets = ahash::AHashMap::new();
        for (left, left_extent) in parsed.iter().zip(&extents) {
            for (right, right_extent) in parsed.iter().zip(&extents) {
                let (mine, theirs) = (Normalised::of(left), Normalised::of(right));
                let shared: Vec<u64> = left_extent
                    .iter()
                    .zip(right_extent)
                    .map(|(left, right)| left & right)
                    .collect();
                assert_eq!(mine.covers(&theirs), shared == *right_extent, "{left} covers {right}");
                let overlap = shared.iter().any(|word| *word != 0);
                assert_eq!(mine.overlaps(&theirs), overlap, "{left} overlaps {right}");
                if let Some(meet) = mine.meet(&theirs) {
                    let text = meet.to_string();
                    let written = parse(&text);
                    let again = Normalised::of(&written);
                    assert!(again.levels() == meet.levels(), "{left} meets {right}: {text}");
                    let known =
                        meets.entry(text).or_insert_with_key(|text| extent(text, &universe));
                    assert_eq!(*known, shared, "{left} meets {right}");
                }
            }
        }
    }

    #[test]
    fn the_forms_of_everything_are_one() {
        let equal = |left, right| {
            let (left, right) = (parse(left), parse(right));
            Normalised::of(&left) == Normalised::of(&right)
        };
        assert!(equal("#", "+/#"));
        assert!(equal("/#", "/+/#"));
        assert!(!equal("a/#", "a/+/#"));
        assert_eq!(Normalised::of(&parse("+/#")).to_string(), "#");
        assert_eq!(Normalised::of(&parse("/+/#")).to_string(), "/#");
    }
}
