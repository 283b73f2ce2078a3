//! MQTT packets, 3.1.1 and 5: framing, reading, writing. Pure.
//!
//! PUBLISH and acknowledgements, which are nearly all the traffic, are read and written in place: topic,
//! properties and payload are borrowed from the read buffer. Whatever [`parse`] returns is well formed, to the
//! last flag. Whether a topic or filter may be used is not decided here.

mod bytes;
mod connect_flag;
mod properties;
mod reason;
mod v4;
mod v5;
mod write;

use ::bytes::Bytes;
use rumqttd::protocol as codec;

pub(super) use self::properties::Properties;
pub(super) use self::reason::{REFUSALS, Reason};
pub(super) use self::write::{
    Ack, Reply, Terms, put_accepted, put_disconnect, put_pingresp, put_publish, put_refused,
    put_reply, put_suback, put_unsuback,
};

use self::bytes::{packet_id, split_first, string, variable};
use super::memory::Memory;
use super::publication::{QoS, Subscription};

/// The first byte of a CONNECT.
pub(super) const CONNECT: u8 = 0x10;

/// The protocol levels of MQTT 3.1, 3.1.1 and 5.
const LEVEL_3_1: u8 = 3;
const LEVEL_3_1_1: u8 = 4;
const LEVEL_5: u8 = 5;

/// A session that never expires (MQTT 5, 3.1.2.11.2), as a kept one of MQTT 3.1.1 does not.
pub(super) const SESSION_FOR_EVER: u32 = u32::MAX;

/// Which MQTT a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.1.1, and 3.1.
    V4,
    V5,
}

/// Why bytes are not a packet that a client may send. The connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the packet is malformed ({0})")]
    Malformed(&'static str),
    #[error("the packet is malformed ({0})")]
    Codec(#[from] codec::Error),
    /// Well formed, but not to be sent.
    #[error("the packet breaks the protocol ({0})")]
    Forbidden(&'static str),
    #[error("it announced a packet of {size_bytes} bytes; the limit is {max_bytes}")]
    TooLarge { size_bytes: usize, max_bytes: usize },
    #[error("it speaks protocol level {0}; this broker speaks MQTT 3.1.1 (level 4) and 5")]
    UnsupportedLevel(u8),
}

impl PacketError {
    pub(super) fn reason(&self) -> Reason {
        match self {
            PacketError::Malformed(_) | PacketError::Codec(_) => Reason::Malformed,
            PacketError::Forbidden(_) => Reason::ProtocolError,
            PacketError::TooLarge { .. } => Reason::PacketTooLarge,
            PacketError::UnsupportedLevel(_) => Reason::UnsupportedVersion,
        }
    }
}

/// What a client asks for with CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) version: Version,
    pub(super) client_id: String,
    /// Whether a kept session is thrown away.
    pub(super) clean_start: bool,
    /// How long the session outlives the connection; [`SESSION_FOR_EVER`] is for ever.
    pub(super) session_expiry_s: u32,
    /// Seconds; 0 switches it off.
    pub(super) keep_alive_s: u16,
    /// Messages of `QoS` 1 and 2 that the client takes at a time without having acknowledged them.
    pub(super) receive_max: u16,
    /// The largest packet the client takes, fixed header included.
    pub(super) packet_bytes_max: Option<u32>,
    /// Whether it asks for an authentication method, of which there is none.
    pub(super) authenticates: bool,
    pub(super) login: Option<Login>,
    pub(super) will: Option<Will>,
}

/// Who a client says it is. Both may be empty.
#[derive(PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({:?}, ***)", self.user)
    }
}

/// The message that is published if the client does not say good-bye.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// How long after the end of the connection it is published, unless the client comes back.
    pub(super) delay_s: u32,
    /// Its properties, as they came.
    pub(super) properties: Bytes,
}

impl Will {
    /// What it takes as long as it is kept, in bytes, besides its topic.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.properties.len()
    }

    /// The same, counted in `memory`.
    pub(super) fn counted(self, memory: &Memory) -> Self {
        Will {
            payload: memory.counted(self.payload.into()),
            properties: memory.counted(self.properties.into()),
            ..self
        }
    }

    pub(super) fn as_publish(&self) -> Publish<'_> {
        Publish {
            properties: Properties::checked(&self.properties),
            ..Publish::plain(&self.topic, &self.payload, self.qos, self.retain)
        }
    }
}

/// A PUBLISH, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    /// Empty if there is only an alias for it.
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The packet identifier; 0 for `QoS` 0, never 0 otherwise.
    pub(super) id: u16,
    pub(super) properties: Properties<'a>,
}

impl<'a> Publish<'a> {
    /// A message without packet identifier and properties.
    pub(super) fn plain(topic: &'a str, payload: &'a [u8], qos: QoS, retain: bool) -> Self {
        Publish {
            topic,
            payload,
            qos,
            retain,
            id: 0,
            properties: Properties::default(),
        }
    }

    /// For how many seconds it may wait to be delivered.
    pub(super) fn expiry_s(&self) -> Option<u32> {
        self.properties.number(properties::MESSAGE_EXPIRY)
    }

    /// The number that stands for the topic, or shall from now on.
    pub(super) fn topic_alias(&self) -> Option<u16> {
        self.properties.short(properties::TOPIC_ALIAS)
    }
}

/// One topic filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) path: String,
    pub(super) subscription: Subscription,
    pub(super) retained: RetainHandling,
}

impl Filter {
    /// A filter as MQTT 3.1.1 has them.
    pub(super) fn plain(path: impl Into<String>, qos: QoS) -> Self {
        Filter {
            path: path.into(),
            subscription: qos.into(),
            retained: RetainHandling::Send,
        }
    }
}

/// Whether a subscription brings the retained messages (MQTT 5, 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetainHandling {
    Send,
    SendIfNew,
    Withhold,
}

/// A DISCONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goodbye {
    /// Whether the will is published all the same.
    pub(super) with_will: bool,
    /// Replaces what CONNECT said.
    pub(super) session_expiry_s: Option<u32>,
}

/// A packet that a client may send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    Connect(Box<Connect>),
    Publish(Publish<'a>),
    PubAck(u16),
    PubRec { id: u16, refused: bool },
    PubRel(u16),
    PubComp(u16),
    Subscribe { id: u16, filters: Vec<Filter> },
    Unsubscribe { id: u16, filters: Vec<String> },
    PingReq,
    Disconnect(Goodbye),
}

/// What the first bytes of a buffer are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A complete packet of this many bytes.
    Complete(usize),
    /// The packet's beginning; at least this many bytes are missing.
    Missing(usize),
}

/// Finds the packet that `buffer` begins with. `max_bytes` limits its remaining length.
pub(super) fn frame(buffer: &[u8], max_bytes: usize) -> Result<Frame, PacketError> {
    match codec::v4::check(buffer.iter(), max_bytes) {
        Ok(header) => Ok(Frame::Complete(header.frame_length())),
        Err(codec::Error::InsufficientBytes(missing)) => Ok(Frame::Missing(missing)),
        Err(codec::Error::PayloadSizeLimitExceeded(size_bytes)) => Err(PacketError::TooLarge {
            size_bytes,
            max_bytes,
        }),
        Err(error) => Err(error.into()),
    }
}

/// Reads one packet from exactly its bytes, as [`frame`] found them. A CONNECT says itself which version it is.
pub(super) fn parse(version: Version, bytes: &[u8]) -> Result<Incoming<'_>, PacketError> {
    /// The reasons that a client may give (MQTT 5, 3.4.2.1, 3.5.2.1; 3.6.2.1, 3.7.2.1).
    const OF_PUBLISH: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    const OF_RELEASE: [u8; 2] = [0x00, 0x92];

    let (first, body) = header_and_body(bytes)?;
    if version == Version::V5 {
        variable(split_first(bytes)?.1)?; // MQTT5-1.5.5-1
    }
    // MQTT 2.2.2: the flags of all but PUBLISH are fixed, anything else closes the connection.
    match first {
        0x30..=0x3F => publish(version, first & 0x0F, body).map(Incoming::Publish),
        0x40 => acknowledgement(version, body, &OF_PUBLISH).map(|(id, _)| Incoming::PubAck(id)),
        0x50 => acknowledgement(version, body, &OF_PUBLISH).map(|(id, reason)| Incoming::PubRec {
            id,
            refused: reason >= REFUSALS,
        }),
        0x62 => acknowledgement(version, body, &OF_RELEASE).map(|(id, _)| Incoming::PubRel(id)),
        0x70 => acknowledgement(version, body, &OF_RELEASE).map(|(id, _)| Incoming::PubComp(id)),
        0x82 if version == Version::V4 => v4::subscribe(bytes, body),
        0x82 => v5::subscribe(body),
        0xA2 if version == Version::V4 => v4::unsubscribe(bytes, body),
        0xA2 => v5::unsubscribe(body),
        0xC0 if body.is_empty() => Ok(Incoming::PingReq),
        0xE0 if body.is_empty() => Ok(Incoming::Disconnect(Goodbye::default())),
        0xE0 if version == Version::V5 => v5::disconnect(body).map(Incoming::Disconnect),
        CONNECT => connect(body).map(|connect| Incoming::Connect(Box::new(connect))),
        0xF0 if version == Version::V5 => Err(PacketError::Forbidden("AUTH without a method")),
        _ => Err(PacketError::Malformed(
            "a packet type or flags that no client may send",
        )),
    }
}

/// In which version to answer a CONNECT that cannot be read: in that of its protocol level. Bridges of MQTT 3.1.1 set
/// the highest bit of it.
pub(super) fn version_of_connect(bytes: &[u8]) -> Version {
    let level = header_and_body(bytes).and_then(|(_, body)| split_first(string(body)?.1));
    match level {
        Ok((LEVEL_5..0x80, _)) => Version::V5,
        _ => Version::V4,
    }
}

fn publish(version: Version, flags: u8, body: &[u8]) -> Result<Publish<'_>, PacketError> {
    let (duplicate, retain) = (flags & 0b1000 != 0, flags & 0b0001 != 0);
    let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(PacketError::Malformed("QoS 3"))?;
    let (topic, rest) = string(body)?;
    let (id, rest) = match qos {
        QoS::AtMostOnce if duplicate => {
            return Err(PacketError::Malformed("DUP on QoS 0")); // MQTT-3.3.1-2
        }
        QoS::AtMostOnce => (0, rest),
        QoS::AtLeastOnce | QoS::ExactlyOnce => packet_id(rest)?,
    };
    let (properties, payload) = v5::publish_properties(version, rest)?;
    Ok(Publish {
        topic,
        payload,
        qos,
        retain,
        id,
        properties,
    })
}

/// The packet identifier of an acknowledgement, and its reason, which is 0 in MQTT 3.1.1.
fn acknowledgement(
    version: Version,
    body: &[u8],
    reasons: &[u8],
) -> Result<(u16, u8), PacketError> {
    match version {
        Version::V5 => v5::acknowledgement(body, reasons),
        Version::V4 => match packet_id(body)? {
            (id, []) => Ok((id, 0)),
            _ => Err(PacketError::Malformed("bytes after the packet identifier")),
        },
    }
}

fn connect(body: &[u8]) -> Result<Connect, PacketError> {
    let (name, rest) = string(body)?;
    let (level, after_level) = split_first(rest)?;
    match (name, level) {
        ("MQTT", LEVEL_5) => v5::connect(after_level),
        ("MQTT", LEVEL_3_1_1) | ("MQIsdp", LEVEL_3_1) => v4::connect(after_level),
        ("MQTT" | "MQIsdp", _) => Err(PacketError::UnsupportedLevel(level)),
        _ => Err(PacketError::Malformed("not the name of MQTT")),
    }
}

/// The first byte, and what follows the remaining length, which [`frame`] has checked.
fn header_and_body(bytes: &[u8]) -> Result<(u8, &[u8]), PacketError> {
    let (first, mut bytes) = split_first(bytes)?;
    loop {
        let (byte, rest) = split_first(bytes)?;
        bytes = rest;
        if byte & 0x80 == 0 {
            return Ok((first, bytes));
        }
    }
}
