//! The topic aliases that one client of MQTT 5 has set on its connection (MQTT 5, 3.3.2.3.4). Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::packet::Publish;

/// At most as many as the client was told; the topics are as long as topics may be.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    topics: HashMap<u16, Arc<str>>,
}

/// The alias is 0, higher than allowed, or was never set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown;

impl Aliases {
    /// The topic that an alias stands for in place of the packet's own; `None` if the packet has its own.
    pub(super) fn topic(
        &self,
        publish: &Publish<'_>,
        alias_max: u16,
    ) -> Result<Option<Arc<str>>, Unknown> {
        match publish.topic_alias() {
            None => Ok(None),
            Some(alias) if alias == 0 || alias > alias_max => Err(Unknown),
            Some(_) if !publish.topic.is_empty() => Ok(None),
            Some(alias) => self.topics.get(&alias).cloned().map(Some).ok_or(Unknown),
        }
    }

    /// Takes note of the alias that a packet with a topic of its own sets. Both must have been checked.
    pub(super) fn learn(&mut self, publish: &Publish<'_>) {
        if let Some(alias) = publish.topic_alias()
            && self
                .topics
                .get(&alias)
                .is_none_or(|known| **known != *publish.topic)
        {
            self.topics.insert(alias, publish.topic.into());
        }
    }
}
