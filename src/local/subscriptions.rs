//! Which sessions want which topics: a tree of topic filters, one level a node. Pure.
//!
//! Filters and names must be valid; the limit of levels bounds the depth of recursion. Branches
//! without subscriptions are removed.

use std::collections::HashMap;

use super::publication::{QoS, Subscription};
use super::topic;

/// Names a session, or a group of sessions that share a subscription, within the broker. Never used again.
pub(super) type SessionKey = u64;

/// A session and one of its subscriptions.
pub(super) type Match = (SessionKey, Subscription);

/// How one session is to get a message that several of its filters may match: once, with the highest `QoS` of them
/// (MQTT-3.3.5-1) and all their identifiers (MQTT5-3.3.4-4).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) ids: Box<[u32]>,
}

/// Brings the subscriptions of each session together. `found` is sorted by session, as [`Subscriptions::matching`]
/// leaves it; what `publisher` does not want from itself is left out.
pub(super) fn wanted(
    found: &[Match],
    publisher: Option<SessionKey>,
) -> impl Iterator<Item = Wanted> {
    let sessions = found.chunk_by(|one, other| one.0 == other.0);
    sessions.filter_map(move |matches| {
        let own = |(session, subscription): &&Match| {
            !(subscription.no_local && publisher == Some(*session))
        };
        let matches = || matches.iter().filter(own);
        let &(session, _) = matches().next()?;
        let ids = matches().map(|(_, subscription)| subscription.id);
        Some(Wanted {
            session,
            qos: matches().map(|(_, subscription)| subscription.qos).max()?,
            retain_as_published: matches().any(|(_, one)| one.retain_as_published),
            ids: ids.filter(|id| *id > 0).collect(),
        })
    })
}

#[derive(Default)]
struct Node {
    /// Children by level, the wildcard `+` among them.
    children: HashMap<Box<str>, Node>,
    /// Subscriptions to the filter that ends here, and to that filter followed by `#`.
    exact: Vec<Match>,
    subtree: Vec<Match>,
}

/// All subscriptions.
#[derive(Default)]
pub(super) struct Subscriptions {
    root: Node,
    /// Nodes besides the root.
    nodes: usize,
}

impl Subscriptions {
    /// Whether the tree would have more than `nodes_max` nodes with `filter` in it.
    pub(super) fn would_exceed(&self, nodes_max: usize, filter: &str) -> bool {
        let mut node = Some(&self.root);
        let mut missing = 0;
        for level in levels_before_hash(filter) {
            node = node.and_then(|node| node.children.get(level));
            missing += usize::from(node.is_none());
        }
        self.nodes + missing > nodes_max
    }

    /// Adds a subscription, or changes it.
    pub(super) fn insert(
        &mut self,
        filter: &str,
        session: SessionKey,
        subscription: impl Into<Subscription>,
    ) {
        let mut node = &mut self.root;
        for level in levels_before_hash(filter) {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
                self.nodes += 1;
            }
            node = node
                .children
                .get_mut(level)
                .expect("invariant: just inserted");
        }
        let subscribers = node.subscribers(filter);
        match subscribers.iter_mut().find(|(key, _)| *key == session) {
            Some(found) => found.1 = subscription.into(),
            None => subscribers.push((session, subscription.into())),
        }
    }

    /// Removes a subscription if it is there.
    pub(super) fn remove(&mut self, filter: &str, session: SessionKey) {
        self.nodes -= self
            .root
            .remove(&mut levels_before_hash(filter), filter, session);
    }

    /// The subscription of a session to `filter`.
    pub(super) fn get(&self, filter: &str, session: SessionKey) -> Option<Subscription> {
        let mut node = &self.root;
        for level in levels_before_hash(filter) {
            node = node.children.get(level)?;
        }
        let subscribers = if ends_with_hash(filter) {
            &node.subtree
        } else {
            &node.exact
        };
        let found = subscribers.iter().find(|(key, _)| *key == session)?;
        Some(found.1)
    }

    /// Whether there is a filter whose first level is `level`.
    pub(super) fn has_branch(&self, level: &str) -> bool {
        self.root.children.contains_key(level)
    }

    /// Subscriptions and nodes, counted afresh. Panics if the tree keeps what nobody needs; for tests and fuzzing.
    pub(super) fn audit(&self) -> (usize, usize) {
        let (subscriptions, nodes) = self.root.count();
        assert_eq!(self.nodes, nodes, "the nodes of the tree");
        (subscriptions, nodes)
    }

    /// Collects the subscriptions that match the topic `name` into `found`, by session.
    pub(super) fn matching(&self, name: &str, found: &mut Vec<Match>) {
        found.clear();
        if self.root.is_empty() {
            return;
        }
        let wildcards = !topic::is_reserved(name);
        self.root.collect(topic::levels(name), wildcards, found);
        found.sort_by_key(|&(session, _)| session);
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.exact.is_empty() && self.subtree.is_empty()
    }

    fn subscribers(&mut self, filter: &str) -> &mut Vec<Match> {
        if ends_with_hash(filter) {
            &mut self.subtree
        } else {
            &mut self.exact
        }
    }

    /// Subscriptions, and nodes below this one.
    fn count(&self) -> (usize, usize) {
        let own = (self.exact.len() + self.subtree.len(), 0);
        let children = self.children.values().map(|child| {
            assert!(!child.is_empty(), "an empty branch");
            child.count()
        });
        children.fold(own, |(subscriptions, nodes), child| {
            (subscriptions + child.0, nodes + child.1 + 1)
        })
    }

    /// Returns how many nodes went with the subscription.
    fn remove(
        &mut self,
        levels: &mut dyn Iterator<Item = &str>,
        filter: &str,
        session: SessionKey,
    ) -> usize {
        let Some(level) = levels.next() else {
            self.subscribers(filter).retain(|&(key, _)| key != session);
            return 0;
        };
        let Some(child) = self.children.get_mut(level) else {
            return 0;
        };
        let mut removed = child.remove(levels, filter, session);
        if child.is_empty() {
            self.children.remove(level);
            removed += 1;
        }
        removed
    }

    fn collect(
        &self,
        mut levels: std::str::Split<'_, char>,
        wildcards: bool,
        found: &mut Vec<Match>,
    ) {
        if wildcards {
            found.extend_from_slice(&self.subtree);
        }
        let Some(level) = levels.next() else {
            found.extend_from_slice(&self.exact);
            return;
        };
        if let Some(child) = self.children.get(level) {
            child.collect(levels.clone(), true, found);
        }
        if wildcards && let Some(child) = self.children.get("+") {
            child.collect(levels, true, found);
        }
    }
}

fn ends_with_hash(filter: &str) -> bool {
    topic::levels(filter).next_back() == Some("#")
}

fn levels_before_hash(filter: &str) -> impl Iterator<Item = &str> {
    topic::levels(filter).take_while(|level| *level != "#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::tests::CASES;

    fn matching(subscriptions: &Subscriptions, name: &str) -> Vec<(SessionKey, QoS)> {
        let mut found = Vec::new();
        subscriptions.matching(name, &mut found);
        let wanted = wanted(&found, None);
        wanted.map(|wanted| (wanted.session, wanted.qos)).collect()
    }

    #[test]
    fn the_tree_matches_as_the_standard_says() {
        for &(filter, name, expected) in CASES {
            let mut subscriptions = Subscriptions::default();
            subscriptions.insert(filter, 1, QoS::AtLeastOnce);
            let found = !matching(&subscriptions, name).is_empty();
            assert_eq!(found, expected, "{filter} {name}");
            // And amid other filters, where the tree has more branches.
            for &(other, ..) in CASES {
                subscriptions.insert(other, 2, QoS::AtMostOnce);
            }
            let found = matching(&subscriptions, name).contains(&(1, QoS::AtLeastOnce));
            assert_eq!(found, expected, "{filter} {name}, amid others");
        }
    }

    #[test]
    fn overlapping_filters_match_a_session_once_with_the_highest_qos() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.insert("a/b", 1, QoS::AtMostOnce);
        subscriptions.insert("a/+", 1, QoS::ExactlyOnce);
        subscriptions.insert("#", 1, QoS::AtLeastOnce);
        subscriptions.insert("a/#", 2, QoS::AtMostOnce);
        let found = matching(&subscriptions, "a/b");
        assert_eq!(found, [(1, QoS::ExactlyOnce), (2, QoS::AtMostOnce)]);
    }

    #[test]
    fn a_second_subscription_to_a_filter_replaces_the_first() {
        let mut subscriptions = Subscriptions::default();
        let mut insert = |filter, qos| {
            subscriptions.insert(filter, 1, qos);
            subscriptions.audit().0
        };
        assert_eq!(insert("a/#", QoS::ExactlyOnce), 1);
        assert_eq!(insert("a/#", QoS::AtMostOnce), 1);
        assert_eq!(insert("a", QoS::AtMostOnce), 2);
        assert_eq!(matching(&subscriptions, "a/x"), [(1, QoS::AtMostOnce)]);
    }

    #[test]
    fn removing_the_last_subscription_leaves_no_branch_behind() {
        let mut subscriptions = Subscriptions::default();
        for &(filter, ..) in CASES {
            subscriptions.insert(filter, 1, QoS::AtMostOnce);
            subscriptions.insert(filter, 2, QoS::AtMostOnce);
        }
        for &(filter, ..) in CASES {
            subscriptions.remove(filter, 1);
            subscriptions.remove("not/there", 1);
        }
        assert_eq!(matching(&subscriptions, "sport"), [(2, QoS::AtMostOnce)]);
        for &(filter, ..) in CASES {
            subscriptions.remove(filter, 2);
        }
        assert!(subscriptions.root.is_empty());
        assert_eq!(subscriptions.nodes, 0);
    }

    #[test]
    fn a_filter_needs_room_only_for_the_levels_that_are_not_there_yet() {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.would_exceed(2, "a/b/c"));
        assert!(!subscriptions.would_exceed(3, "a/b/c"));
        subscriptions.insert("a/b/c", 1, QoS::AtMostOnce);
        for there in ["a/b/c", "a/#", "a", "#"] {
            assert!(!subscriptions.would_exceed(3, there), "{there}");
        }
        assert!(subscriptions.would_exceed(3, "a/b/d"));
    }
}
