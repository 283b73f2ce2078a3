//! MQTT packets to and from the cloud, in both versions. The only importer of `rumqttc`, whose codecs read and write
//! all packets but PUBLISH, which is written straight from the spool's bytes.

mod v4;
mod v5;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{Disconnect, PingReq};

use crate::attributes::Attributes;

/// The largest packet the cloud may send us, in bytes: AWS IoT Core's own limit is 149,504.
const PACKET_BYTES_MAX: usize = 160 * 1024;
/// First byte of a PUBLISH at QoS 1, and the bit that marks a repetition (MQTT 3.1.1, 3.3.1).
const PUBLISH_QOS1: u8 = 0b0011_0010;
const PUBLISH_DUP: u8 = 0b0000_1000;
const PUBLISH_RETAIN: u8 = 0b0000_0001;
/// First byte of a PUBACK (MQTT 3.1.1, 3.4.1).
const PUBACK: u8 = 0x40;
/// What a PUBLISH has besides topic, attributes and payload, in bytes at most: fixed header, length of the topic,
/// identifier, length of no attributes.
pub(super) const PUBLISH_OVERHEAD_BYTES: usize = 5 + 2 + 2 + 1;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1, which refuses a message by closing the connection.
    V311,
    /// 5, which says why.
    V5,
}

impl fmt::Display for MqttVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MqttVersion::V311 => "3.1.1",
            MqttVersion::V5 => "5",
        })
    }
}

/// What the cloud publishes if our connection ends without a DISCONNECT: retained, at QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub(super) struct Greeting<'a> {
    pub(super) client_id: &'a str,
    pub(super) keep_alive_s: u16,
    /// How long, in seconds, the cloud keeps subscriptions and messages for us while we are away; 0 for a session
    /// that begins empty and ends with the connection. Over MQTT 3.1.1 it is the cloud that says how long.
    pub(super) session_expiry_s: u32,
    pub(super) will: Option<Will>,
}

/// A message from the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) topic: String,
    /// As they stand in a PUBLISH of MQTT 5; over MQTT 3.1.1 there are none.
    pub(super) attributes: Vec<u8>,
    pub(super) payload: Bytes,
    /// To be acknowledged at QoS 1; `None` at QoS 0.
    pub(super) packet_id: Option<u16>,
}

/// On which terms the cloud takes us (MQTT 5, 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Unacknowledged publishes at most.
    pub(super) receive_max: u16,
    /// The keep alive it wants, in seconds, in place of ours.
    pub(super) keep_alive_s: Option<u16>,
    /// The largest packet it takes, in bytes.
    pub(super) packet_bytes_max: Option<u32>,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            receive_max: u16::MAX,
            keep_alive_s: None,
            packet_bytes_max: None,
        }
    }
}

/// Why a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The cloud does not speak this version.
    Version,
    /// The policy does not allow it.
    NotAuthorized,
    /// The cloud is busy, or a quota is used up; in words.
    Busy(String),
    /// In words.
    Other(String),
}

/// Why a PUBLISH is not accepted (MQTT 5, 3.4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// 0x80.
    Unspecified,
    /// 0x83.
    ImplementationSpecific,
    /// 0x87.
    NotAuthorized,
    /// 0x90.
    TopicNameInvalid,
    /// 0x91.
    PacketIdentifierInUse,
    /// 0x97.
    QuotaExceeded,
    /// 0x99.
    PayloadFormatInvalid,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejection::Unspecified => "unspecified error (0x80)",
            Rejection::ImplementationSpecific => "implementation specific error (0x83)",
            Rejection::NotAuthorized => "not authorized (0x87)",
            Rejection::TopicNameInvalid => "topic name invalid (0x90)",
            Rejection::PacketIdentifierInUse => "packet identifier in use (0x91)",
            Rejection::QuotaExceeded => "quota exceeded (0x97)",
            Rejection::PayloadFormatInvalid => "payload format invalid (0x99)",
        })
    }
}

/// Why the cloud ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// 0x8E: another client has connected with our client id.
    TakenOver,
    /// 0x87.
    NotAuthorized,
    /// Something that we sent; in words.
    Faulted(String),
    /// In words.
    Because(String),
}

/// What the cloud says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// CONNACK: accepted or refused.
    Connected(Result<Terms, Refusal>),
    /// PUBACK of a packet identifier.
    Acknowledged(u16),
    /// PUBACK of a packet identifier whose message was not accepted.
    Rejected(u16, Rejection),
    /// SUBACK of a packet identifier: for each filter why it was refused, `None` if it was not.
    Subscribed(u16, Vec<Option<String>>),
    /// PUBLISH.
    Message(Incoming),
    /// PINGRESP.
    Pong,
    /// DISCONNECT.
    Closing(Closing),
    /// A packet that has no business here; its name.
    Unexpected(&'static str),
}

/// Why the cloud's bytes make no sense.
#[derive(Debug, thiserror::Error)]
#[error("the cloud sent a malformed packet: {0}")]
pub(super) struct Malformed(String);

/// Takes the next whole packet out of `buffer`.
pub(super) fn read(
    version: MqttVersion,
    buffer: &mut BytesMut,
) -> Result<Option<Answer>, Malformed> {
    match version {
        MqttVersion::V311 => v4::read(buffer),
        MqttVersion::V5 => v5::read(buffer),
    }
}

/// Writes a CONNECT.
pub(super) fn write_connect(
    version: MqttVersion,
    buffer: &mut BytesMut,
    greeting: Greeting<'_>,
) -> Result<(), Malformed> {
    match version {
        MqttVersion::V311 => v4::write_connect(buffer, greeting),
        MqttVersion::V5 => v5::write_connect(buffer, greeting),
    }
}

/// Writes a SUBSCRIBE to `filters` at QoS 1.
pub(super) fn write_subscribe(
    version: MqttVersion,
    buffer: &mut BytesMut,
    packet_id: u16,
    filters: &[String],
) -> Result<(), Malformed> {
    match version {
        MqttVersion::V311 => v4::write_subscribe(buffer, packet_id, filters),
        MqttVersion::V5 => v5::write_subscribe(buffer, packet_id, filters),
    }
}

/// Writes a PUBACK that accepts, which is the same in both versions.
pub(super) fn write_puback(buffer: &mut BytesMut, packet_id: u16) {
    buffer.put_slice(&[PUBACK, 2]);
    buffer.put_u16(packet_id);
}

/// Writes a PINGREQ, which is the same in both versions.
pub(super) fn write_ping(buffer: &mut BytesMut) -> Result<(), Malformed> {
    written(PingReq.write(buffer))
}

/// Writes a DISCONNECT without a reason, which is the same in both versions.
pub(super) fn write_disconnect(buffer: &mut BytesMut) -> Result<(), Malformed> {
    written(Disconnect.write(buffer))
}

fn written(result: Result<usize, Error>) -> Result<(), Malformed> {
    result
        .map(drop)
        .map_err(|error| Malformed(error.to_string()))
}

/// A PUBLISH at QoS 1. Messages never have the retain flag: AWS IoT Core's usual policy does not allow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// What MQTT 3.1.1 has no place for.
    pub(super) attributes: Attributes<'a>,
    /// The time it may still wait, in place of the one among its attributes.
    pub(super) expiry_s: Option<u32>,
    pub(super) packet_id: u16,
    pub(super) dup: bool,
}

/// The bytes that `attributes` take in a PUBLISH, without their length.
pub(super) fn attributes_bytes(version: MqttVersion, attributes: Attributes<'_>) -> usize {
    match version {
        MqttVersion::V311 => 0,
        MqttVersion::V5 => attributes.len(),
    }
}

impl Publish<'_> {
    /// Length of the packet without its fixed header.
    fn remaining_len(&self, version: MqttVersion) -> usize {
        let properties_bytes = match version {
            MqttVersion::V311 => 0,
            MqttVersion::V5 => length_bytes(self.attributes.len()) + self.attributes.len(),
        };
        2 + self.topic.len() + 2 + properties_bytes + self.payload.len()
    }

    /// Appends the packet.
    pub(super) fn write(&self, version: MqttVersion, buffer: &mut BytesMut) {
        let dup = if self.dup { PUBLISH_DUP } else { 0 };
        self.write_with(dup, version, buffer);
    }

    /// Appends the packet with the retain flag.
    pub(super) fn write_retained(&self, version: MqttVersion, buffer: &mut BytesMut) {
        self.write_with(PUBLISH_RETAIN, version, buffer);
    }

    fn write_with(&self, flags: u8, version: MqttVersion, buffer: &mut BytesMut) {
        let remaining = self.remaining_len(version);
        buffer.reserve(remaining + 5);
        buffer.put_u8(PUBLISH_QOS1 | flags);
        put_length(remaining, buffer);
        buffer.put_u16(u16::try_from(self.topic.len()).unwrap_or(u16::MAX));
        buffer.put_slice(self.topic.as_bytes());
        buffer.put_u16(self.packet_id);
        if version == MqttVersion::V5 {
            put_length(self.attributes.len(), buffer);
            self.attributes.put(self.expiry_s, buffer);
        }
        buffer.put_slice(self.payload);
    }
}

/// Writes a variable byte integer (MQTT 5, 1.5.5).
fn put_length(mut len: usize, buffer: &mut BytesMut) {
    loop {
        let byte = u8::try_from(len % 128).unwrap_or(0);
        len /= 128;
        buffer.put_u8(if len > 0 { byte | 128 } else { byte });
        if len == 0 {
            break;
        }
    }
}

/// How many bytes it takes.
pub(super) fn length_bytes(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests;
