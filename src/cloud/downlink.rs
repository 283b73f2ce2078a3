//! From the cloud to the device: where a message that comes in goes.
//!
//! No loops by construction: what comes in is published by a [`Publisher`], which has no spool. A message that was
//! retained in the cloud is an ordinary one here: the device cannot know when it is replaced.

use crate::local::{Delivered, FromCloud, Publisher};
use crate::routes::Routes;

use super::packet::Incoming;

/// See the module.
#[derive(Debug)]
pub(super) struct Downlink {
    routes: Routes,
    publisher: Publisher,
    /// It was told that messages go nowhere.
    told: bool,
}

impl Downlink {
    pub(super) fn new(routes: Routes, publisher: Publisher) -> Self {
        Downlink {
            routes,
            publisher,
            told: false,
        }
    }

    /// Hands a message to the local clients. When this returns, those that are there have it in their queues, and those
    /// that are away in their sessions. One that leads nowhere is counted, and told of once. Returns whether it may be
    /// acknowledged: not while the local broker stops.
    pub(super) fn deliver(&mut self, incoming: &Incoming) -> bool {
        let topic = &incoming.topic;
        let why = if let Some(target) = self.routes.target(topic) {
            let message = FromCloud {
                topic: &target,
                attributes: &incoming.attributes,
                payload: &incoming.payload,
                at_least_once: incoming.packet_id.is_some(),
            };
            match self.publisher.deliver(&message) {
                Delivered::Taken => return true,
                Delivered::Stopped => return false,
                Delivered::BadTopic => {
                    format!("its rule leads to {target:?}, which is no local topic")
                }
            }
        } else {
            self.publisher.drop_one();
            "no rule of CLOUD_SUBSCRIBE is for it (was there one an hour ago?)".to_owned()
        };
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "a message from the cloud on {topic:?} was dropped, others like it will be in silence: {why}"
            );
        }
        true
    }
}
