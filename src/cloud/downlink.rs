//! From the cloud to the device: where a message that comes in goes.
//!
//! No loops by construction: what comes in is published by a [`Publisher`], which has no spool. A message that was
//! retained in the cloud is an ordinary one here: the device cannot know when it is replaced.
//!
//! Invariants: a message is acknowledged only when the local sessions that are kept have it on disk, in the order of
//! arrival (MQTT-4.6.0-2). A disk that fails holds up none; a connection that is lost forgets what it was owed, for the cloud
//! sends it again.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::local::{Delivered, FromCloud, Publisher};
use crate::routes::Routes;
use crate::spool::Seq;

use super::packet::Incoming;

/// Messages that wait for the disk. While there are more, nothing is read from the cloud. AWS sends 100 at a time.
const OWED_MAX: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Downlink {
    routes: Routes,
    publisher: Publisher,
    /// It was told that messages go nowhere.
    told: bool,
    /// The packet identifiers of messages that are not acknowledged, and what of the journal each waits for.
    owed: VecDeque<(u16, Option<Seq>)>,
    kept: watch::Receiver<Seq>,
}

impl Downlink {
    pub(super) fn new(routes: Routes, publisher: Publisher) -> Self {
        Downlink {
            routes,
            told: false,
            owed: VecDeque::new(),
            kept: publisher.kept(),
            publisher,
        }
    }

    /// Hands a message to the local clients. When this returns, those that are there have it in their queues, and those
    /// that are away in their sessions. It is owed an acknowledgement, but while the local broker stops: then it stays with
    /// the cloud.
    pub(super) fn deliver(&mut self, incoming: &Incoming) {
        let journal = match self.hand_over(incoming) {
            Delivered::Taken(journal) => journal,
            Delivered::BadTopic => None,
            Delivered::Stopped => return,
        };
        if let Some(packet_id) = incoming.packet_id {
            self.owed.push_back((packet_id, journal));
        }
    }

    /// The next acknowledgement that may be sent.
    pub(super) fn due(&mut self) -> Option<u16> {
        let kept = *self.kept.borrow_and_update();
        let (packet_id, _) = self
            .owed
            .pop_front_if(|(_, awaits)| awaits.is_none_or(|seq| seq < kept))?;
        Some(packet_id)
    }

    /// Resolves when [`Downlink::due`] may have one.
    pub(super) async fn kept(&mut self) {
        // Its other end lives as long as the publisher.
        if self.owed.is_empty() || self.kept.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether an acknowledgement is owed.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether so many are that no more messages should come.
    pub(super) fn is_congested(&self) -> bool {
        self.owed.len() >= OWED_MAX
    }

    /// The connection has ended.
    pub(super) fn forget_owed(&mut self) {
        self.owed.clear();
    }

    /// A message that leads nowhere is counted, and told of once.
    fn hand_over(&mut self, incoming: &Incoming) -> Delivered {
        let topic = &incoming.topic;
        let why = if let Some(target) = self.routes.target(topic) {
            let message = FromCloud {
                topic: &target,
                attributes: &incoming.attributes,
                payload: &incoming.payload,
                at_least_once: incoming.packet_id.is_some(),
            };
            match self.publisher.deliver(&message) {
                Delivered::BadTopic => {
                    format!("its rule leads to {target:?}, which is no local topic")
                }
                taken_or_stopped => return taken_or_stopped,
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
        Delivered::BadTopic
    }
}
