//! A message on its way to local subscribers: copied once, shared by all of them. Pure.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::memory::Memory;
use super::packet::Publish;

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

/// How a session wants the messages of a filter (MQTT 5, 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// The highest `QoS` to deliver with.
    pub(super) qos: QoS,
    /// Not what the session itself publishes.
    pub(super) no_local: bool,
    /// With the retain flag of the publisher.
    pub(super) retain_as_published: bool,
    /// The subscription identifier; 0 if there is none.
    pub(super) id: u32,
}

impl From<QoS> for Subscription {
    /// What MQTT 3.1.1 can ask for.
    fn from(qos: QoS) -> Self {
        Subscription {
            qos,
            no_local: false,
            retain_as_published: false,
            id: 0,
        }
    }
}

/// What is kept of a message besides its bytes: queue entry, allocation headers and reference counts, generously.
const OVERHEAD_BYTES: usize = 96;

/// Topic name, properties and payload in one shared allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    /// The topic name, then the properties for its readers, then the payload.
    bytes: Bytes,
    topic_len: usize,
    properties_len: usize,
    expires: Option<Instant>,
}

impl Publication {
    /// Copies a message, which came at `now`, out of a read buffer; it counts in `memory`.
    pub(super) fn new(publish: &Publish<'_>, now: Instant, memory: &Memory) -> Self {
        let for_readers = publish.properties.for_readers();
        let properties_len = for_readers.map(<[u8]>::len).sum();
        let topic = publish.topic.as_bytes();
        let mut bytes = Vec::with_capacity(topic.len() + properties_len + publish.payload.len());
        bytes.extend_from_slice(topic);
        for property in publish.properties.for_readers() {
            bytes.extend_from_slice(property);
        }
        bytes.extend_from_slice(publish.payload);
        let expiry = publish.expiry_s();
        Publication {
            bytes: memory.counted(bytes),
            topic_len: topic.len(),
            properties_len,
            expires: expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
        }
    }

    /// A message that was kept on disk, with its properties as [`Publication::properties`] gave them.
    pub(super) fn restored(
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        expires: Option<Instant>,
    ) -> Self {
        Publication {
            bytes: [topic.as_bytes(), properties, payload].concat().into(),
            topic_len: topic.len(),
            properties_len: properties.len(),
            expires,
        }
    }

    /// The same, counted in `memory`.
    pub(super) fn counted(self, memory: &Memory) -> Self {
        Publication {
            bytes: memory.counted(self.bytes.into()),
            ..self
        }
    }

    /// The topic name.
    pub(super) fn topic(&self) -> &str {
        let (topic, ..) = self.split();
        std::str::from_utf8(topic).expect("invariant: the topic is UTF-8")
    }

    /// The topic name's bytes, valid UTF-8, and the payload.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        let (topic, _, payload) = self.split();
        (topic, payload)
    }

    /// Its properties of MQTT 5, encoded, without the expiry.
    pub(super) fn properties(&self) -> &[u8] {
        self.split().1
    }

    /// When it is not to be delivered any more.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// Whether it is not to be delivered any more (MQTT5-3.3.2-5).
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Bytes of topic name, properties and payload.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the message costs whoever keeps it, in bytes: its own and the bookkeeping around it.
    pub(super) fn cost_bytes(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }

    fn split(&self) -> (&[u8], &[u8], &[u8]) {
        let invariant = "invariant: the bytes begin with topic and properties";
        let (topic, rest) = self
            .bytes
            .split_at_checked(self.topic_len)
            .expect(invariant);
        let (properties, payload) = rest.split_at_checked(self.properties_len).expect(invariant);
        (topic, properties, payload)
    }
}

/// A publication as one session gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) publication: Publication,
    /// The lower of the message's and the subscription's.
    pub(super) qos: QoS,
    /// Set for a retained message sent because of a new subscription (MQTT-3.3.1-8, -9), and as the publisher
    /// set it if the subscription asks for that (MQTT5-3.3.1-13).
    pub(super) retain: bool,
    /// Of the subscriptions it is sent for, as far as they have some.
    pub(super) subscription_ids: Box<[u32]>,
}

impl Delivery {
    /// What it costs the session that keeps it, in bytes.
    pub(super) fn cost_bytes(&self) -> usize {
        self.publication.len() + self.own_bytes()
    }

    /// The part of it that no other session shares.
    pub(super) fn own_bytes(&self) -> usize {
        OVERHEAD_BYTES + size_of_val(&*self.subscription_ids)
    }
}
