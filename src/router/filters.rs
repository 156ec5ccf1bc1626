//! The subscription tree: which subscriptions match a topic.
//!
//! A node stands for the levels on the way to it. Literal children of all nodes live in one hash
//! map keyed by (node, level), so that a node costs little and a lookup is one probe however
//! many siblings there are: matching visits only nodes that lie on the way of the topic, and
//! does not grow with unrelated subscriptions.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};

use super::Peer;
use super::entries::{Entries, Entry};
use super::shared::Group;
use crate::mqtt::topic::Level;
use crate::mqtt::{ShareName, TopicFilter};
use crate::session::Subscription;

type NodeId = u32;
const ROOT: NodeId = 0;
/// No such child; the root is nobody's child.
const NONE: NodeId = 0;

#[derive(Debug, Default)]
struct Node {
    plus: NodeId,
    hash: NodeId,
    /// How many children lead on from here, wildcards included.
    children: u32,
    entries: Entries,
    groups: Vec<Arc<Group>>,
}

impl Node {
    fn is_unused(&self) -> bool {
        self.children == 0 && self.entries.is_empty() && self.groups.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Edge {
    parent: NodeId,
    level: Box<str>,
}

#[derive(Hash)]
struct EdgeRef<'a> {
    parent: NodeId,
    level: &'a str,
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.parent == edge.parent && *self.level == *edge.level
    }
}

/// All subscriptions of a broker.
#[derive(Debug)]
pub(super) struct Filters {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    edges: HashMap<Edge, NodeId, ahash::RandomState>,
    subscriptions: usize,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            edges: HashMap::default(),
            subscriptions: 0,
        }
    }
}

impl Filters {
    /// How many subscriptions there are.
    pub(super) fn len(&self) -> usize {
        self.subscriptions
    }

    /// Adds a subscription, in place of the one that the same peer has with the same filter.
    pub(super) fn insert(&mut self, entry: Entry) {
        let filter = entry.subscription.filter.clone();
        let id = self.make(&filter.filter);
        let Some(node) = self.node_mut(id) else { return };
        let added = match &filter.share {
            None => node.entries.put(entry),
            Some(name) => {
                let group = node.groups.iter().find(|group| group.name == *name);
                let group = match group {
                    Some(group) => Arc::clone(group),
                    None => {
                        let group = Arc::new(Group::new(name.clone()));
                        node.groups.push(Arc::clone(&group));
                        group
                    }
                };
                group.join(entry)
            }
        };
        self.subscriptions += usize::from(added);
    }

    /// Removes the subscription that a peer has with this filter.
    pub(super) fn remove(&mut self, peer: &Arc<Peer>, subscription: &Subscription) {
        let Some(path) = self.path(&subscription.filter.filter) else { return };
        let Some(node) = path.last().and_then(|id| self.node_mut(*id)) else { return };
        let removed = match &subscription.filter.share {
            None => node.entries.remove(peer),
            Some(name) => {
                let position = node.groups.iter().position(|group| group.name == *name);
                match position.and_then(|at| node.groups.get(at).cloned().map(|group| (at, group)))
                {
                    Some((at, group)) => {
                        let left = group.leave(peer);
                        if group.is_empty() {
                            node.groups.swap_remove(at);
                        }
                        left
                    }
                    None => false,
                }
            }
        };
        self.subscriptions -= usize::from(removed);
        self.prune(&subscription.filter.filter, &path);
    }

    /// The share group of a filter.
    pub(super) fn group(&self, filter: &TopicFilter, name: &ShareName) -> Option<Arc<Group>> {
        let id = *self.path(filter)?.last()?;
        let node = self.nodes.get(usize::try_from(id).ok()?)?;
        node.groups.iter().find(|group| group.name == *name).cloned()
    }

    /// Calls `entry` for each plain subscription that matches the topic and `group` for each
    /// share group.
    pub(super) fn matching(
        &self,
        topic: &str,
        entry: &mut impl FnMut(&Entry),
        group: &mut impl FnMut(&Arc<Group>),
    ) {
        let mut found = |node: &Node| {
            node.entries.as_slice().iter().for_each(&mut *entry);
            node.groups.iter().for_each(&mut *group);
        };
        self.walk(ROOT, Some(topic), topic.starts_with('$'), &mut found);
    }

    /// `rest` is what is left of the topic; `system` bars wildcards at the first level
    /// [MQTT-4.7.2-1]. The recursion is as deep as the topic has levels, which the size gate
    /// bounds.
    fn walk(&self, id: NodeId, rest: Option<&str>, system: bool, found: &mut impl FnMut(&Node)) {
        let Some(node) = self.node(id) else { return };
        if node.hash != NONE
            && !system
            && let Some(hash) = self.node(node.hash)
        {
            found(hash);
        }
        let Some(rest) = rest else { return found(node) };
        if node.children == 0 {
            return;
        }
        let (level, below) = match rest.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (rest, None),
        };
        if node.plus != NONE && !system {
            self.walk(node.plus, below, false, found);
        }
        if let Some(child) = self.edges.get(&EdgeRef { parent: id, level }) {
            self.walk(*child, below, false, found);
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)
    }

    fn child(&self, id: NodeId, level: Level<'_>) -> Option<NodeId> {
        let child = match level {
            Level::Plus => self.node(id)?.plus,
            Level::Hash => self.node(id)?.hash,
            Level::Literal(level) => {
                self.edges.get(&EdgeRef { parent: id, level }).copied().unwrap_or(NONE)
            }
        };
        (child != NONE).then_some(child)
    }

    /// The nodes from the root to the end of the filter, where they exist.
    fn path(&self, filter: &TopicFilter) -> Option<Vec<NodeId>> {
        let mut path = vec![ROOT];
        let mut id = ROOT;
        for level in filter.levels() {
            id = self.child(id, level)?;
            path.push(id);
        }
        Some(path)
    }

    /// The node at the end of the filter, made with all that lead to it.
    fn make(&mut self, filter: &TopicFilter) -> NodeId {
        let mut id = ROOT;
        for level in filter.levels() {
            id = match self.child(id, level) {
                Some(child) => child,
                None => self.grow(id, level),
            };
        }
        id
    }

    fn grow(&mut self, parent: NodeId, level: Level<'_>) -> NodeId {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                // 2^32 nodes would need more memory than any machine has.
                let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
                self.nodes.push(Node::default());
                id
            }
        };
        if let Level::Literal(level) = level {
            self.edges.insert(Edge { parent, level: level.into() }, id);
        }
        if let Some(node) = self.node_mut(parent) {
            node.children += 1;
            match level {
                Level::Plus => node.plus = id,
                Level::Hash => node.hash = id,
                Level::Literal(_) => {}
            }
        }
        id
    }

    /// Removes the nodes at the end of a path that lead to nothing any more.
    fn prune(&mut self, filter: &TopicFilter, path: &[NodeId]) {
        let levels: Vec<Level<'_>> = filter.levels().collect();
        for (level, pair) in levels.iter().zip(path.windows(2)).rev() {
            let [parent, id] = *pair else { return };
            if !self.node(id).is_some_and(Node::is_unused) {
                return;
            }
            match level {
                Level::Literal(level) => {
                    self.edges.remove(&EdgeRef { parent, level });
                }
                Level::Plus => self.node_mut(parent).into_iter().for_each(|node| node.plus = NONE),
                Level::Hash => self.node_mut(parent).into_iter().for_each(|node| node.hash = NONE),
            }
            if let Some(node) = self.node_mut(parent) {
                node.children -= 1;
            }
            if let Some(node) = self.node_mut(id) {
                *node = Node::default();
            }
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::SubscriptionFilter;
    use crate::mqtt::packet::Qos;
    use crate::router::tests::peer;
    use crate::session::SubscriptionOptions;

    fn subscription(filter: &str) -> Arc<Subscription> {
        let options = SubscriptionOptions {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        };
        Arc::new(Subscription::new(SubscriptionFilter::parse(filter).unwrap(), options))
    }

    fn matches(filters: &Filters, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut entry = |entry: &Entry| found.push(entry.subscription.filter.to_string());
        filters.matching(topic, &mut entry, &mut |_| {});
        found.sort();
        found
    }

    /// Every filter of up to three levels over an alphabet with wildcards, the empty level and
    /// a `$` level, against [`TopicFilter::matches`].
    #[test]
    fn matching_agrees_with_the_definition_for_every_small_filter() {
        let mut texts = vec![String::new()];
        let mut filters = Vec::new();
        for depth in 0..3 {
            let mut longer = Vec::new();
            for text in &texts {
                for level in ["", "a", "$b", "+", "#"] {
                    let separator = if depth == 0 { "" } else { "/" };
                    longer.push(format!("{text}{separator}{level}"));
                }
            }
            filters.extend(longer.iter().filter_map(|text| TopicFilter::parse(text).ok()));
            texts = longer;
        }
        let peers: Vec<_> = filters.iter().map(|_| peer("p")).collect();
        let mut tree = Filters::default();
        for (peer, filter) in peers.iter().zip(&filters) {
            tree.insert(Entry {
                peer: Arc::clone(peer),
                subscription: subscription(filter.as_str()),
            });
        }
        let topics = ["a", "$b", "/", "a/", "/a", "a/a", "a/$b/a", "$b/a", "z/z/z", "a//a", "//"];
        for topic in topics {
            let mut expected: Vec<_> = filters
                .iter()
                .filter(|filter| filter.matches(topic))
                .map(ToString::to_string)
                .collect();
            expected.sort();
            assert_eq!(matches(&tree, topic), expected, "{topic}");
        }
        for (peer, filter) in peers.iter().zip(&filters) {
            tree.remove(peer, &subscription(filter.as_str()));
        }
        assert_eq!(tree.len(), 0);
        assert!(tree.edges.is_empty(), "nothing is left behind");
        assert_eq!(tree.free.len() + 1, tree.nodes.len());
    }

    #[test]
    fn subscribing_again_replaces() {
        let mut tree = Filters::default();
        let peer = peer("p");
        for _ in 0..3 {
            tree.insert(Entry { peer: Arc::clone(&peer), subscription: subscription("a/+") });
            tree.insert(Entry {
                peer: Arc::clone(&peer),
                subscription: subscription("$share/g/a"),
            });
        }
        assert_eq!(tree.len(), 2);
    }
}
