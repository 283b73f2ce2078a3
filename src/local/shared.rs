//! Shared subscriptions, `$share/NAME/FILTER`: each message goes to one session of a group, in turn (MQTT 5, 4.8.2).
//! Pure. Clients of MQTT 3.1.1 may use them too.
//!
//! A group has a key like a session's, under which it stands in the tree of subscriptions.

use std::collections::HashMap;

use super::publication::Subscription;
use super::subscriptions::{Match, SessionKey};

const PREFIX: &str = "$share";

/// What a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    /// The topic filter.
    pub(super) filter: &'a str,
    pub(super) is_shared: bool,
}

impl<'a> Path<'a> {
    /// Takes a path apart; `None` if it begins like a shared subscription and is none (MQTT5-4.8.2-1, -2).
    pub(super) fn new(path: &'a str) -> Option<Self> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if first != PREFIX {
            return Some(Path {
                filter: path,
                is_shared: false,
            });
        }
        let (name, filter) = rest.split_once('/')?;
        let valid = !name.is_empty() && !name.contains(['+', '#']) && !filter.is_empty();
        valid.then_some(Path {
            filter,
            is_shared: true,
        })
    }
}

/// The sessions that share one subscription.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Vec<Match>,
    /// Whose turn it is.
    turn: usize,
}

impl Group {
    /// All members, beginning with the one whose turn it is.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = Match> + use<> {
        let (after, first) = self.members.split_at(self.turn.min(self.members.len()));
        let members = [first, after].concat();
        members.into_iter()
    }

    /// This member was given a message: it is the next one's turn.
    pub(super) fn served(&mut self, session: SessionKey) {
        let at = self.position(session).map_or(0, |at| at + 1);
        self.turn = if at < self.members.len() { at } else { 0 };
    }

    fn position(&self, session: SessionKey) -> Option<usize> {
        self.members.iter().position(|(key, _)| *key == session)
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    keys: HashMap<Box<str>, SessionKey>,
    groups: HashMap<SessionKey, Group>,
}

impl Groups {
    /// Adds a session to the group of `path`, or changes its subscription. A new group gets the key `fresh`. Returns
    /// the group's key.
    pub(super) fn join(
        &mut self,
        path: &str,
        (session, subscription): Match,
        fresh: SessionKey,
    ) -> SessionKey {
        let key = *self.keys.entry(path.into()).or_insert(fresh);
        let group = self.groups.entry(key).or_default();
        match group.members.iter_mut().find(|(key, _)| *key == session) {
            Some(member) => member.1 = subscription,
            None => group.members.push((session, subscription)),
        }
        key
    }

    /// Removes a session from the group of `path`. Returns the key of a group that has ended with it.
    pub(super) fn leave(&mut self, path: &str, session: SessionKey) -> Option<SessionKey> {
        let key = *self.keys.get(path)?;
        let group = self.groups.get_mut(&key)?;
        group.members.retain(|(member, _)| *member != session);
        if !group.members.is_empty() {
            return None;
        }
        self.keys.remove(path);
        self.groups.remove(&key);
        Some(key)
    }

    /// The subscription of a session to the group of `path`.
    pub(super) fn subscription(&self, path: &str, session: SessionKey) -> Option<Subscription> {
        let group = self.groups.get(self.keys.get(path)?)?;
        let (_, subscription) = group.members.get(group.position(session)?)?;
        Some(*subscription)
    }

    /// How many there are. Panics if one has no members or no name; for tests and fuzzing.
    pub(super) fn audit(&self) -> usize {
        let has_members =
            |key| (self.groups.get(key)).is_some_and(|group| !group.members.is_empty());
        assert!(self.keys.values().all(has_members));
        assert_eq!(self.keys.len(), self.groups.len());
        self.groups.len()
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Group> {
        self.groups.get_mut(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::publication::QoS;

    #[test]
    fn a_shared_path_has_a_name_and_a_filter() {
        let path = |filter, is_shared| Some(Path { filter, is_shared });
        assert_eq!(Path::new("$share/group/a/+/#"), path("a/+/#", true));
        assert_eq!(Path::new("$share/group//"), path("/", true));
        for own in ["a", "$SYS/#", "$shared/a/b", "a/$share/b"] {
            assert_eq!(Path::new(own), path(own, false), "{own}");
        }
        for none in [
            "$share",
            "$share/",
            "$share/a",
            "$share/a/",
            "$share//a",
            "$share/+/a",
        ] {
            assert_eq!(Path::new(none), None, "{none}");
        }
    }

    #[test]
    fn everyone_gets_their_turn_and_the_last_to_leave_ends_the_group() {
        let mut groups = Groups::default();
        for session in [1, 2, 3, 2] {
            let key = groups.join("g", (session, QoS::AtMostOnce.into()), 100);
            assert_eq!(key, 100);
        }
        let group = groups.get_mut(100).unwrap();
        let mut served = Vec::new();
        for _ in 0..5 {
            let (next, _) = group.in_turn().next().unwrap();
            group.served(next);
            served.push(next);
        }
        assert_eq!(served, [1, 2, 3, 1, 2]);
        assert_eq!(groups.leave("g", 3), None);
        assert_eq!(groups.leave("h", 1), None);
        let group = groups.get_mut(100).unwrap();
        assert_eq!(group.in_turn().count(), 2);
        group.served(2);
        assert_eq!(groups.leave("g", 1), None);
        assert_eq!(groups.leave("g", 2), Some(100));
        assert!(groups.get_mut(100).is_none());
    }
}
