//! Publishing to the local clients from within the relay: what comes from the cloud, and the relay's own state.
//!
//! It has no spool, so nothing that goes this way can go back to the cloud.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::counters::Counters;
use super::limits::Limits;
use super::packet::{Properties, Publish};
use super::publication::QoS;
use super::topic;
use crate::spool::Seq;

/// The retained topic that tells local clients the relay's state. Only the relay publishes to it.
pub const STATE_TOPIC: &str = "cloud-relay/state";

/// A message from the cloud.
#[derive(Clone, Copy, Debug)]
pub struct FromCloud<'a> {
    /// Its local topic.
    pub topic: &'a str,
    /// The properties that are for its readers and its expiry, as they stand in a PUBLISH of MQTT 5.
    pub attributes: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether it is of `QoS` 1; otherwise it is of `QoS` 0.
    pub at_least_once: bool,
}

/// What became of a message from the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The local broker has it. If sessions that are kept have it, it is safe when the watermark of their journal,
    /// [`Publisher::kept`], has passed this number.
    Taken(Option<Seq>),
    /// Its topic is no name that a local client could publish to. It is counted.
    BadTopic,
    /// The local broker has stopped.
    Stopped,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    stopped: CancellationToken,
    broker: Arc<Mutex<Broker>>,
    limits: Limits,
    counters: Arc<Counters>,
}

impl Publisher {
    pub(super) fn new(
        broker: Arc<Mutex<Broker>>,
        limits: Limits,
        counters: Arc<Counters>,
        stopped: CancellationToken,
    ) -> Self {
        Publisher {
            stopped,
            broker,
            limits,
            counters,
        }
    }

    /// Hands a message from the cloud to the local subscribers; those that are away with a session that is kept find it
    /// there.
    pub fn deliver(&self, message: &FromCloud<'_>) -> Delivered {
        let topic = message.topic;
        if self.stopped.is_cancelled() {
            return Delivered::Stopped;
        }
        let bad = !topic::is_valid_name(topic, &self.limits)
            || topic::is_reserved(topic)
            || topic == STATE_TOPIC;
        if bad {
            self.drop_one();
            return Delivered::BadTopic;
        }
        let qos = if message.at_least_once {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let journal = self.publish(&Publish {
            properties: Properties::checked(message.attributes),
            ..Publish::plain(topic, message.payload, qos, false)
        });
        self.counters.messages_from_cloud.add(1);
        Delivered::Taken(journal)
    }

    /// The watermark of the journal of local sessions: everything below is safe, or nothing has to wait.
    pub fn kept(&self) -> watch::Receiver<Seq> {
        let broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        broker.kept()
    }

    /// Counts a message from the cloud that goes nowhere.
    pub fn drop_one(&self) {
        self.counters.dropped_from_cloud.add(1);
    }

    /// Tells the relay's state, retained.
    pub fn tell_state(&self, payload: &[u8]) {
        self.publish(&Publish::plain(
            STATE_TOPIC,
            payload,
            QoS::AtLeastOnce,
            true,
        ));
    }

    /// Returns the last change that this made to the journal.
    fn publish(&self, publish: &Publish<'_>) -> Option<Seq> {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = broker.changes();
        broker.publish_own(publish, None, Instant::now());
        broker.changed_since(before)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}
