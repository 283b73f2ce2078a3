//! A message on its way to local subscribers: copied once, shared by all of them. Pure.

use bytes::Bytes;

/// `QoS` of a message or of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::enum_variant_names, reason = "the names of the standard")]
pub(super) enum QoS {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl QoS {
    /// The level with this number, `None` if there is none.
    pub(super) fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Topic name and payload in one shared allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    /// The topic name, then the payload.
    bytes: Bytes,
    topic_len: usize,
}

impl Publication {
    /// Copies a message out of a read buffer.
    pub(super) fn new(topic: &str, payload: &[u8]) -> Self {
        let bytes = [topic.as_bytes(), payload].concat();
        Publication {
            bytes: bytes.into(),
            topic_len: topic.len(),
        }
    }

    /// The topic name's bytes, valid UTF-8, and the payload.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes
            .split_at_checked(self.topic_len)
            .expect("invariant: the topic is a prefix of the bytes")
    }

    /// What the message costs whoever keeps it, in bytes: its own and the bookkeeping around it.
    pub(super) fn cost_bytes(&self) -> usize {
        /// Queue entry, allocation headers and reference counts, generously.
        const OVERHEAD_BYTES: usize = 64;
        self.bytes.len() + OVERHEAD_BYTES
    }
}

/// A publication as one session gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) publication: Publication,
    /// The lower of the message's and the subscription's.
    pub(super) qos: QoS,
    /// Set only for a retained message sent because of a new subscription (MQTT-3.3.1-8, -9).
    pub(super) retain: bool,
}
