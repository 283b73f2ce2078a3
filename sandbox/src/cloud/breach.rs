//! The ways to break a rule, and what each is called: in words, and by a reason of MQTT 5. Pure.

use std::fmt;

/// Reasons of MQTT 5 (section 2.4) that AWS documents, besides those a test chooses.
pub(crate) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    /// From here on a reason means failure.
    pub(crate) const FAILURES: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL: u8 = 0x82;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const KEEP_ALIVE: u8 = 0x8d;
    pub(crate) const TAKEN_OVER: u8 = 0x8e;
    pub(crate) const TOPIC_NAME: u8 = 0x90;
    pub(crate) const RECEIVE_MAX: u8 = 0x93;
    pub(crate) const TOPIC_ALIAS: u8 = 0x94;
    pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA: u8 = 0x97;
    pub(crate) const QOS: u8 = 0x9b;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0xa1;
}

/// Why the server closed a connection on its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// A payload above the limit.
    PayloadTooLarge,
    /// A topic above the limit in bytes.
    TopicTooLong,
    /// A topic above the limit in slashes.
    TooManySlashes,
    /// `QoS` 2.
    Qos2,
    /// A topic under `$`.
    ReservedTopic,
    /// A topic that the policy denies.
    DeniedTopic,
    /// A packet above the size that CONNACK allowed (MQTT 5).
    PacketTooLarge,
    /// A topic alias of zero or above the highest (MQTT 5).
    TopicAlias,
    /// More unacknowledged publishes than allowed.
    InFlightExceeded,
    /// SUBSCRIBE, which the policy denies.
    Subscribe,
    /// A subscription identifier, which AWS does not know (MQTT 5).
    SubscriptionIdentifier,
    /// A client id that is not the certificate's common name.
    ClientId,
    /// Another connection came with the same client id.
    TakenOver,
    /// Nothing was heard for one and a half times the keep alive (MQTT 3.1.1, section 3.1.2.10).
    KeepAlive,
    /// A packet that may not come here: a second CONNECT, a server's packet, an alias that stands
    /// for no topic.
    Protocol,
    /// Bytes that are no MQTT.
    Malformed,
}

impl Breach {
    /// The reason in MQTT 5.
    pub(crate) fn reason(self) -> u8 {
        match self {
            // within the size that CONNACK allows, and still more than AWS takes
            Breach::PayloadTooLarge => reason::QUOTA,
            Breach::PacketTooLarge => reason::PACKET_TOO_LARGE,
            Breach::TopicTooLong | Breach::TooManySlashes | Breach::ReservedTopic => {
                reason::TOPIC_NAME
            }
            Breach::Qos2 => reason::QOS,
            Breach::DeniedTopic | Breach::Subscribe | Breach::ClientId => reason::NOT_AUTHORIZED,
            Breach::TopicAlias => reason::TOPIC_ALIAS,
            Breach::InFlightExceeded => reason::RECEIVE_MAX,
            Breach::SubscriptionIdentifier => reason::SUBSCRIPTION_IDENTIFIER,
            Breach::TakenOver => reason::TAKEN_OVER,
            Breach::KeepAlive => reason::KEEP_ALIVE,
            Breach::Protocol => reason::PROTOCOL,
            Breach::Malformed => reason::MALFORMED,
        }
    }

    /// In plain words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Breach::PayloadTooLarge => "the payload is too large",
            Breach::PacketTooLarge => "the packet is too large",
            Breach::TopicTooLong => "the topic is too long",
            Breach::TooManySlashes => "the topic has too many slashes",
            Breach::Qos2 => "QoS 2 is not supported",
            Breach::ReservedTopic => "the topic is reserved",
            Breach::DeniedTopic => "the policy denies the topic",
            Breach::TopicAlias => "the topic alias is out of range",
            Breach::InFlightExceeded => "too many publishes are unacknowledged",
            Breach::Subscribe => "the policy denies subscribing",
            Breach::SubscriptionIdentifier => "subscription identifiers are not supported",
            Breach::ClientId => "the client id is not the certificate's common name",
            Breach::TakenOver => "another connection came with the same client id",
            Breach::KeepAlive => "the keep alive ran out",
            Breach::Protocol => "the packet may not come here",
            Breach::Malformed => "what was received is not MQTT",
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
