//! Groups of principals and how they nest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Groups that one principal may be in, directly or through other groups: each is an entity of
/// every question that Cedar is asked.
pub(super) const GROUPS_MAX: usize = 64;

/// The groups that exist, each with the groups it is in itself.
///
/// INVARIANT: every parent is declared, and no group is in itself, however far away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredGroups(BTreeMap<Arc<str>, Vec<Arc<str>>>);

/// Why a set of groups cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupProblem {
    /// A group is in a group that is not declared.
    #[error("group {group:?} is in {parent:?}, which is not declared")]
    UndeclaredParent {
        /// The group.
        group: Arc<str>,
        /// Where it claims to be in.
        parent: Arc<str>,
    },
    /// A group is in itself through others.
    #[error("group {group:?} is in itself")]
    Cycle {
        /// One group of the circle.
        group: Arc<str>,
    },
}

impl DeclaredGroups {
    /// Takes groups with their parents.
    ///
    /// # Errors
    /// A parent that is not declared, or a group that is in itself.
    pub fn new(parents: BTreeMap<Arc<str>, Vec<Arc<str>>>) -> Result<Self, GroupProblem> {
        for (group, named) in &parents {
            if let Some(parent) = named.iter().find(|parent| !parents.contains_key(*parent)) {
                return Err(GroupProblem::UndeclaredParent {
                    group: Arc::clone(group),
                    parent: Arc::clone(parent),
                });
            }
        }
        let groups = Self(parents);
        groups.check_no_cycle()?;
        Ok(groups)
    }

    /// True when the group is declared.
    #[must_use]
    pub fn contains(&self, group: &str) -> bool {
        self.0.contains_key(group)
    }

    /// The groups this one is directly in.
    pub fn parents(&self, group: &str) -> impl Iterator<Item = &Arc<str>> {
        self.0.get(group).into_iter().flatten()
    }

    /// The groups, with all groups those are in, each once, in order of name; `None` when there
    /// are more than 64.
    #[must_use]
    pub fn closure(&self, direct: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Arc<str>> = direct.iter().collect();
        while let Some(group) = open.pop() {
            if found.insert(Arc::clone(group)) {
                open.extend(self.parents(group));
            }
            if found.len() > GROUPS_MAX {
                return None;
            }
        }
        Some(found.into_iter().collect())
    }

    /// Every declared group with its parents, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<str>])> {
        self.0.iter().map(|(group, parents)| (group, parents.as_slice()))
    }

    /// Takes away groups without parents until none is left; what cannot be taken is a circle,
    /// or hangs on one.
    fn check_no_cycle(&self) -> Result<(), GroupProblem> {
        let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
        let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, parents) in self.iter() {
            waiting.insert(group, parents.len());
            for parent in parents {
                children.entry(parent).or_default().push(group);
            }
        }
        let mut free: Vec<&str> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(group, _)| *group).collect();
        while let Some(group) = free.pop() {
            waiting.remove(group);
            for child in children.get(group).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(child) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        free.push(child);
                    }
                }
            }
        }
        let Some((group, _)) = waiting.first_key_value() else { return Ok(()) };
        // Whoever still waits is in a group that does too: after as many steps as there are such
        // groups, the walk is on the circle.
        let mut group: &str = group;
        for _ in 0..waiting.len() {
            let next = self.parents(group).find(|parent| waiting.contains_key(&***parent));
            group = next.map_or(group, |next| next);
        }
        Err(GroupProblem::Cycle { group: group.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare(groups: &[(&str, &[&str])]) -> Result<DeclaredGroups, GroupProblem> {
        let parents = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        DeclaredGroups::new(
            groups.iter().map(|(name, of)| (Arc::from(*name), parents(of))).collect(),
        )
    }

    #[test]
    fn a_circle_of_groups_is_refused_however_long() {
        for groups in [
            &[("a", &["a"][..])][..],
            &[("a", &["b"]), ("b", &["a"])],
            &[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])],
        ] {
            assert!(matches!(declare(groups), Err(GroupProblem::Cycle { .. })), "{groups:?}");
        }
        assert!(declare(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]).is_ok());
    }

    #[test]
    fn a_group_that_only_hangs_on_a_circle_is_not_the_one_that_is_named() {
        let problem = declare(&[("a", &["m"]), ("m", &["y"]), ("x", &["y"]), ("y", &["x"])]);
        let Err(GroupProblem::Cycle { group }) = problem else { panic!("{problem:?}") };
        assert!(["x", "y"].contains(&&*group), "{group}");
    }

    #[test]
    fn a_parent_must_be_declared() {
        assert_eq!(
            declare(&[("a", &["b"])]).unwrap_err().to_string(),
            "group \"a\" is in \"b\", which is not declared"
        );
    }

    #[test]
    fn the_closure_holds_every_group_once() {
        let groups = declare(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]);
        let closure = groups.unwrap().closure(&["a".into(), "a".into(), "x".into()]);
        assert_eq!(closure.unwrap().join(" "), "a b c d x");
    }

    #[test]
    fn a_closure_ends_at_its_bound() {
        let names: Vec<String> = (0..=GROUPS_MAX).map(|number| number.to_string()).collect();
        let chain = names.iter().zip(names.iter().skip(1).map(Some).chain([None]));
        let parents = chain.map(|(name, next)| {
            (Arc::from(&**name), next.into_iter().map(|next| Arc::from(&**next)).collect())
        });
        let groups = DeclaredGroups::new(parents.collect()).unwrap();
        assert_eq!(groups.closure(&["0".into()]), None);
        assert_eq!(groups.closure(&["1".into()]).unwrap().len(), GROUPS_MAX);
    }
}
