//! The protocol seam: what the server needs to know of a packet, whatever the MQTT version.
//!
//! This file frames packets and tells the versions apart; [`v4`] and [`v5`] know the bytes of
//! their version. No I/O here, and no state: topic aliases are resolved by the session.

mod v4;
mod v5;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::acks::Ack;

/// Where the protocol level stands in CONNECT, counted from the end of the fixed header, bytes
/// (MQTT 3.1.1 and 5, section 3.1.2.2).
const LEVEL_AT: usize = 6;
/// Bytes of a packet's type and its remaining length at most (MQTT 5, section 2.1.4).
const FIXED_HEADER_BYTES_MAX: usize = 5;

/// An MQTT version, told by the protocol level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MqttVersion {
    /// MQTT 3.1.1, level 4.
    V3_1_1,
    /// MQTT 5, level 5.
    V5,
}

/// What an MQTT 5 PUBLISH says besides topic and payload (MQTT 5, section 3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// Names and values, in order; a name may come more than once.
    pub user_properties: Vec<(String, String)>,
    /// MIME type, say.
    pub content_type: Option<String>,
    /// How long the message is of use, seconds.
    pub message_expiry_s: Option<u32>,
    /// 1 if the payload is UTF-8.
    pub payload_format: Option<u8>,
    /// Where an answer goes.
    pub response_topic: Option<String>,
    /// What an answer must repeat.
    pub correlation_data: Option<Bytes>,
    /// The number that stands for the topic.
    pub topic_alias: Option<u16>,
}

/// A packet from a client.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// CONNECT.
    Connect(Hello),
    /// PUBLISH.
    Publish(Publication),
    /// PUBACK with its packet identifier.
    Puback(u16),
    /// PUBREL with its packet identifier.
    Pubrel(u16),
    /// SUBSCRIBE.
    Subscribe(Subscription),
    /// UNSUBSCRIBE with its packet identifier and number of filters.
    Unsubscribe(u16, usize),
    /// PINGREQ.
    Ping,
    /// DISCONNECT.
    Disconnect,
    /// A packet that only a server sends.
    ServersOwn,
}

/// What CONNECT says.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) client_id: String,
    /// Zero means none.
    pub(crate) keep_alive: Duration,
    /// No earlier session is to be resumed.
    pub(crate) clean_start: bool,
    /// How long the session is to outlive the connection, if the client says so (MQTT 5).
    pub(crate) session_expiry: Option<Duration>,
    /// What is published when the connection ends without a DISCONNECT.
    pub(crate) will: Option<Publication>,
}

/// What PUBLISH says.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// Empty if only an alias was sent.
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// Zero at `QoS` 0.
    pub(crate) packet_id: u16,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// `None` if there are none, as always in MQTT 3.1.1.
    pub(crate) properties: Option<Arc<PublishProperties>>,
}

/// What a PUBLISH to a client says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
}

/// What SUBSCRIBE says.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<String>,
    /// It carries a subscription identifier (MQTT 5).
    pub(crate) identified: bool,
}

/// What CONNACK of MQTT 5 tells a client that is accepted (MQTT 5, section 3.2.2.3); `None` is
/// not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_max: Option<u16>,
    pub(crate) qos_max: Option<u8>,
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) topic_alias_max: u16,
    pub(crate) server_keep_alive_s: Option<u16>,
}

/// How a CONNECT is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// Accepted.
    Accepted {
        /// An earlier session is resumed.
        session_present: bool,
        /// Sent in MQTT 5 only.
        offer: Offer,
    },
    /// Refused for now.
    ServerUnavailable,
    /// Refused for good.
    NotAuthorized,
    /// Refused with this code, whatever it means.
    Code(u8),
}

/// Why bytes are not a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WireError {
    /// Larger than the limit that was given.
    TooLarge,
    /// Not this protocol.
    Malformed,
}

/// Takes CONNECT out of `inbox`, if it is whole, and says which version it asks for.
pub(crate) fn read_connect(
    inbox: &mut BytesMut,
    packet_bytes_max: usize,
) -> Result<Option<(MqttVersion, Hello)>, WireError> {
    let Some((header_bytes, frame)) = take_frame(inbox, packet_bytes_max)? else {
        return Ok(None);
    };
    let version = match frame.get(header_bytes + LEVEL_AT) {
        Some(4) => MqttVersion::V3_1_1,
        Some(5) => MqttVersion::V5,
        _ => return Err(WireError::Malformed),
    };
    match version.decode(frame)? {
        Inbound::Connect(hello) => Ok(Some((version, hello))),
        _ => Err(WireError::Malformed),
    }
}

impl MqttVersion {
    /// Takes the next whole packet out of `inbox`, if there is one.
    pub(crate) fn read(
        self,
        inbox: &mut BytesMut,
        packet_bytes_max: usize,
    ) -> Result<Option<Inbound>, WireError> {
        match take_frame(inbox, packet_bytes_max)? {
            Some((_, frame)) => self.decode(frame).map(Some),
            None => Ok(None),
        }
    }

    fn decode(self, frame: BytesMut) -> Result<Inbound, WireError> {
        match self {
            MqttVersion::V3_1_1 => v4::decode(frame),
            MqttVersion::V5 => v5::decode(frame),
        }
    }

    /// Writes CONNACK.
    pub(crate) fn connack(self, welcome: Welcome, out: &mut BytesMut) {
        match self {
            MqttVersion::V3_1_1 => v4::connack(welcome, out),
            MqttVersion::V5 => v5::connack(welcome, out),
        }
    }

    /// Writes PUBACK or PUBREC. MQTT 3.1.1 has no reasons.
    pub(crate) fn ack(self, ack: Ack, out: &mut BytesMut) {
        let (first_byte, packet_id, reason) = match ack {
            Ack::Puback(packet_id, reason) => (0x40, packet_id, reason),
            Ack::Pubrec(packet_id, reason) => (0x50, packet_id, reason),
        };
        if self == MqttVersion::V5 && reason != 0 {
            v5::put_with_reason(first_byte, packet_id, reason, out);
        } else {
            put_with_id(first_byte, packet_id, out);
        }
    }

    /// Writes a SUBACK that says `code` of each of `filters`; MQTT 3.1.1 knows 0x80 only for a failure.
    pub(crate) fn suback(self, packet_id: u16, filters: usize, code: u8, out: &mut BytesMut) {
        match self {
            MqttVersion::V3_1_1 => {
                put_listing(0x90, packet_id, &[], (code.min(0x80), filters), out);
            }
            MqttVersion::V5 => put_listing(0x90, packet_id, &[0], (code, filters), out),
        }
    }

    /// Writes a PUBLISH at `QoS` 1.
    pub(crate) fn publish(self, sent: &Sent<'_>, out: &mut BytesMut) {
        let properties: &[u8] = match self {
            MqttVersion::V3_1_1 => &[],
            MqttVersion::V5 => &[0],
        };
        let topic_bytes = u16::try_from(sent.topic.len()).expect("invariant: topics are short");
        out.put_u8(0x32 | if sent.dup { 0x08 } else { 0 });
        let payload = sent.payload;
        put_length(
            2 + sent.topic.len() + 2 + properties.len() + payload.len(),
            out,
        );
        out.put_u16(topic_bytes);
        out.put_slice(sent.topic.as_bytes());
        out.put_u16(sent.packet_id);
        out.put_slice(properties);
        out.put_slice(payload);
    }

    /// Writes an UNSUBACK: there was nothing to unsubscribe.
    pub(crate) fn unsuback(self, packet_id: u16, filters: usize, out: &mut BytesMut) {
        match self {
            MqttVersion::V3_1_1 => put_with_id(0xb0, packet_id, out),
            MqttVersion::V5 => {
                put_listing(0xb0, packet_id, &[0], (v5::NO_SUBSCRIPTION, filters), out);
            }
        }
    }

    /// Writes DISCONNECT with a reason; nothing in MQTT 3.1.1, where a server just closes.
    pub(crate) fn disconnect(self, reason: u8, text: &str, out: &mut BytesMut) {
        if self == MqttVersion::V5 {
            v5::disconnect(reason, text, out);
        }
    }
}

/// Writes PUBCOMP, the same in both versions.
pub(crate) fn put_pubcomp(packet_id: u16, out: &mut BytesMut) {
    put_with_id(0x70, packet_id, out);
}

/// Writes PINGRESP, the same in both versions.
pub(crate) fn put_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// Takes the first packet out of `inbox`, if it is whole; with the length of its fixed header.
fn take_frame(
    inbox: &mut BytesMut,
    packet_bytes_max: usize,
) -> Result<Option<(usize, BytesMut)>, WireError> {
    let Some((header_bytes, remaining)) = fixed_header(inbox)? else {
        return Ok(None);
    };
    let packet_bytes = header_bytes + remaining;
    if packet_bytes > packet_bytes_max {
        return Err(WireError::TooLarge);
    }
    if inbox.len() < packet_bytes {
        return Ok(None);
    }
    Ok(Some((header_bytes, inbox.split_to(packet_bytes))))
}

/// Bytes of the fixed header and of the rest of the first packet, if its length is known.
fn fixed_header(inbox: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut remaining = 0;
    for (at, byte) in inbox
        .iter()
        .enumerate()
        .take(FIXED_HEADER_BYTES_MAX)
        .skip(1)
    {
        remaining |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((at + 1, remaining)));
        }
    }
    if inbox.len() < FIXED_HEADER_BYTES_MAX {
        return Ok(None);
    }
    Err(WireError::Malformed)
}

/// A packet of four bytes: type, length 2, packet identifier (MQTT 3.1.1, sections 3.4 to 3.7).
fn put_with_id(first_byte: u8, packet_id: u16, out: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    out.put_slice(&[first_byte, 2, high, low]);
}

/// A packet that says the same of each of many filters: identifier, properties, codes.
fn put_listing(
    first_byte: u8,
    packet_id: u16,
    properties: &[u8],
    (code, times): (u8, usize),
    out: &mut BytesMut,
) {
    out.put_u8(first_byte);
    put_length(2 + properties.len() + times, out);
    out.put_u16(packet_id);
    out.put_slice(properties);
    out.put_bytes(code, times);
}

/// A variable byte integer (MQTT 5, section 1.5.5).
fn put_length(length: usize, out: &mut BytesMut) {
    let mut rest = length;
    loop {
        let low = u8::try_from(rest & 0x7f).expect("invariant: seven bits fit into a byte");
        rest >>= 7;
        if rest == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_only_when_it_is_whole_and_not_too_large() {
        let mut inbox = BytesMut::from(&[0xc0][..]);
        assert!(MqttVersion::V5.read(&mut inbox, 100).unwrap().is_none());
        inbox.put_slice(&[0, 0xc0]);
        let ping = MqttVersion::V5.read(&mut inbox, 100).unwrap();
        assert!(matches!(ping, Some(Inbound::Ping)));
        assert_eq!(inbox[..], [0xc0], "the next packet stays");
        let mut large = BytesMut::from(&[0x30, 0xff, 0x7f][..]);
        assert_eq!(
            MqttVersion::V5.read(&mut large, 100).unwrap_err(),
            WireError::TooLarge
        );
        let mut endless = BytesMut::from(&[0x30, 0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(
            MqttVersion::V5.read(&mut endless, 100).unwrap_err(),
            WireError::Malformed
        );
    }

    #[test]
    fn a_length_is_written_as_it_is_read() {
        for length in [0, 127, 128, 16_383, 16_384, 268_435_455] {
            let mut bytes = BytesMut::from(&[0x30][..]);
            put_length(length, &mut bytes);
            let header_bytes = bytes.len();
            assert_eq!(
                fixed_header(&bytes).unwrap(),
                Some((header_bytes, length)),
                "{length}"
            );
        }
    }
}
