//! What waits to be written: the last change of each topic, or everything. Pure.

use std::collections::BTreeMap;

use super::Messages;
use super::journal::Kept;
use crate::local::publisher::STATE_TOPIC;

/// See the module.
pub(super) enum Pending {
    /// `None` where the topic's message was cleared.
    Changes(BTreeMap<Box<str>, Option<Kept>>),
    /// All retained messages. Bounded as they are.
    Whole(Messages),
}

impl Default for Pending {
    fn default() -> Self {
        Pending::Changes(BTreeMap::new())
    }
}

impl Pending {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Pending::Changes(changes) if changes.is_empty())
    }

    /// The message of `topic` is `kept` now, and `all` are those there are. More than `topics_max` changes become a
    /// copy of all.
    pub(super) fn change(
        &mut self,
        topic: &str,
        kept: Option<&Kept>,
        all: &Messages,
        topics_max: usize,
    ) {
        match (&mut *self, kept) {
            (Pending::Changes(changes), _) => {
                changes.insert(topic.into(), kept.cloned());
                if changes.len() > topics_max {
                    let mut all = all.clone();
                    all.remove(STATE_TOPIC);
                    *self = Pending::Whole(all);
                }
            }
            (Pending::Whole(messages), Some(kept)) => {
                messages.insert(topic.into(), kept.clone());
            }
            (Pending::Whole(messages), None) => {
                messages.remove(topic);
            }
        }
    }
}
