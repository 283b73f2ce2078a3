//! MQTT 3.1.1 packets: framing, reading, writing. Pure. The only module that knows `rumqttd`.
//!
//! PUBLISH and the four-byte acknowledgements, which are nearly all the traffic, are read and
//! written here, in place: topic and payload are borrowed from the read buffer. The rarer packets
//! with more structure go through `rumqttd`'s codec. What that codec does not check and the standard
//! demands (flags, zero packet identifiers, NUL in strings) is checked here, so that whatever
//! [`parse`] returns is well formed. Whether a topic or filter may be used is not decided here.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttd::protocol::{self as codec, Protocol, v4};

use super::publication::{Delivery, QoS};

/// The protocol level of MQTT 3.1.1, and of MQTT 3.1.
const LEVEL_3_1_1: u8 = 4;
const LEVEL_3_1: u8 = 3;

/// Why bytes are not a packet that a client may send. The connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the packet is malformed ({0})")]
    Malformed(&'static str),
    #[error("the packet is malformed ({0})")]
    Codec(#[from] codec::Error),
    #[error("it announced a packet of {size_bytes} bytes; the limit is {max_bytes}")]
    TooLarge { size_bytes: usize, max_bytes: usize },
    /// A CONNECT that is answered with CONNACK 0x01 (MQTT-3.1.2-2).
    #[error("it speaks protocol level {0}; this broker speaks MQTT 3.1.1 (level 4)")]
    UnsupportedLevel(u8),
}

/// What a client asks for with CONNECT. User name and password are not kept: there is no login.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean_session: bool,
    /// Seconds; 0 switches it off.
    pub(super) keep_alive_s: u16,
    pub(super) will: Option<Will>,
}

/// The message that is published if the client does not say good-bye.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

/// A PUBLISH, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The packet identifier; 0 for `QoS` 0, never 0 otherwise.
    pub(super) id: u16,
}

/// A packet that a client may send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    Connect(Box<Connect>),
    Publish(Publish<'a>),
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    Subscribe {
        id: u16,
        filters: Vec<(String, QoS)>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect,
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
    match v4::check(buffer.iter(), max_bytes) {
        Ok(header) => Ok(Frame::Complete(header.frame_length())),
        Err(codec::Error::InsufficientBytes(missing)) => Ok(Frame::Missing(missing)),
        Err(codec::Error::PayloadSizeLimitExceeded(size_bytes)) => Err(PacketError::TooLarge {
            size_bytes,
            max_bytes,
        }),
        Err(error) => Err(error.into()),
    }
}

/// Reads one packet from exactly its bytes, as [`frame`] found them.
pub(super) fn parse(bytes: &[u8]) -> Result<Incoming<'_>, PacketError> {
    let (&first, rest) = split_first(bytes)?;
    let body = skip_length(rest)?;
    // MQTT 2.2.2: the flags of all but PUBLISH are fixed, anything else closes the connection.
    match first {
        0x30..=0x3F => publish(first & 0x0F, body).map(Incoming::Publish),
        0x40 => only_id(body).map(Incoming::PubAck),
        0x50 => only_id(body).map(Incoming::PubRec),
        0x62 => only_id(body).map(Incoming::PubRel),
        0x70 => only_id(body).map(Incoming::PubComp),
        0x82 => subscribe(bytes, body),
        0xA2 => unsubscribe(bytes, body),
        0xC0 if body.is_empty() => Ok(Incoming::PingReq),
        0xE0 if body.is_empty() => Ok(Incoming::Disconnect),
        0x10 => connect(bytes, body).map(|connect| Incoming::Connect(Box::new(connect))),
        _ => Err(PacketError::Malformed(
            "a packet type or flags that no client may send",
        )),
    }
}

fn publish(flags: u8, body: &[u8]) -> Result<Publish<'_>, PacketError> {
    let (duplicate, retain) = (flags & 0b1000 != 0, flags & 0b0001 != 0);
    let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(PacketError::Malformed("QoS 3"))?;
    let (topic, rest) = string(body)?;
    let (id, payload) = match qos {
        QoS::AtMostOnce if duplicate => {
            return Err(PacketError::Malformed("DUP on QoS 0")); // MQTT-3.3.1-2
        }
        QoS::AtMostOnce => (0, rest),
        QoS::AtLeastOnce | QoS::ExactlyOnce => packet_id(rest)?,
    };
    Ok(Publish {
        topic,
        payload,
        qos,
        retain,
        id,
    })
}

fn subscribe<'a>(bytes: &[u8], body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, mut rest) = packet_id(body)?;
    // The codec takes the reserved bits of the options for nothing; MQTT-3.8.3-4 closes.
    while !rest.is_empty() {
        let (&options, next) = split_first(string(rest)?.1)?;
        if QoS::from_bits(options).is_none() {
            return Err(PacketError::Malformed("impossible subscription options"));
        }
        rest = next;
    }
    let codec::Packet::Subscribe(subscribe, _) = decode(bytes)? else {
        return Err(PacketError::Malformed("not a SUBSCRIBE"));
    };
    let filters = subscribe.filters.into_iter();
    let filters = filters.map(|filter| (filter.path, own_qos(filter.qos)));
    Ok(Incoming::Subscribe {
        id,
        filters: filters.collect(),
    })
}

fn unsubscribe<'a>(bytes: &[u8], body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, _) = packet_id(body)?;
    let codec::Packet::Unsubscribe(unsubscribe, _) = decode(bytes)? else {
        return Err(PacketError::Malformed("not an UNSUBSCRIBE"));
    };
    if unsubscribe.filters.is_empty() {
        return Err(PacketError::Malformed("UNSUBSCRIBE from nothing")); // MQTT-3.10.3-2
    }
    Ok(Incoming::Unsubscribe {
        id,
        filters: unsubscribe.filters,
    })
}

fn connect(bytes: &[u8], body: &[u8]) -> Result<Connect, PacketError> {
    /// Clean session, will, password and user name in the connect flags (MQTT 3.1.2.3).
    const RESERVED: u8 = 0x01;
    const PASSWORD: u8 = 0x40;
    const USER_NAME: u8 = 0x80;

    let (name, rest) = string(body)?;
    let (&level, after_level) = split_first(rest)?;
    let (&flags, _) = split_first(after_level)?;
    let packet = match (name, level) {
        ("MQTT", LEVEL_3_1_1) => decode(bytes)?,
        // MQTT 3.1 differs in the name of the protocol only; the codec knows the later name.
        ("MQIsdp", LEVEL_3_1) => {
            let mut renamed = BytesMut::with_capacity(bytes.len());
            renamed.put_u8(0x10);
            v4::write_remaining_length(&mut renamed, after_level.len() + 7)?;
            renamed.put_slice(b"\x00\x04MQTT\x04");
            renamed.put_slice(after_level);
            decode(&renamed)?
        }
        ("MQTT" | "MQIsdp", _) => return Err(PacketError::UnsupportedLevel(level)),
        _ => return Err(PacketError::Malformed("not the name of MQTT")),
    };
    let codec::Packet::Connect(connect, _, will, _, _) = packet else {
        return Err(PacketError::Malformed("not a CONNECT"));
    };
    if flags & RESERVED != 0 || flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(PacketError::Malformed("impossible connect flags")); // MQTT-3.1.2-3, -22
    }
    if connect.client_id.contains('\0') {
        return Err(PacketError::Malformed("NUL in the client identifier"));
    }
    Ok(Connect {
        client_id: connect.client_id,
        clean_session: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        will: will.map(own_will).transpose()?,
    })
}

fn own_will(will: codec::LastWill) -> Result<Will, PacketError> {
    Ok(Will {
        topic: std::str::from_utf8(&will.topic)
            .map_err(|_| PacketError::Malformed("a will topic that is not UTF-8"))?
            .to_owned(),
        payload: will.message,
        qos: own_qos(will.qos),
        retain: will.retain,
    })
}

fn own_qos(qos: codec::QoS) -> QoS {
    match qos {
        codec::QoS::AtMostOnce => QoS::AtMostOnce,
        codec::QoS::AtLeastOnce => QoS::AtLeastOnce,
        codec::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// Reads one of the rarer packets, copied out of the read buffer, with the codec.
fn decode(bytes: &[u8]) -> Result<codec::Packet, PacketError> {
    Ok(v4::V4.read_mut(&mut BytesMut::from(bytes), bytes.len())?)
}

fn split_first(bytes: &[u8]) -> Result<(&u8, &[u8]), PacketError> {
    let end = PacketError::Malformed("it ends too early");
    bytes.split_first().ok_or(end)
}

fn split_at(bytes: &[u8], middle: usize) -> Result<(&[u8], &[u8]), PacketError> {
    let end = PacketError::Malformed("it ends too early");
    bytes.split_at_checked(middle).ok_or(end)
}

/// The bytes after the remaining length, which [`frame`] has checked.
fn skip_length(mut bytes: &[u8]) -> Result<&[u8], PacketError> {
    loop {
        let (&byte, rest) = split_first(bytes)?;
        bytes = rest;
        if byte & 0x80 == 0 {
            return Ok(bytes);
        }
    }
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), PacketError> {
    let (&high, bytes) = split_first(bytes)?;
    let (&low, bytes) = split_first(bytes)?;
    Ok((u16::from_be_bytes([high, low]), bytes))
}

fn string(bytes: &[u8]) -> Result<(&str, &[u8]), PacketError> {
    let (len, bytes) = number(bytes)?;
    let (string, bytes) = split_at(bytes, usize::from(len))?;
    match std::str::from_utf8(string) {
        Ok(string) => Ok((string, bytes)),
        Err(_) => Err(PacketError::Malformed("a string that is not UTF-8")),
    }
}

fn packet_id(bytes: &[u8]) -> Result<(u16, &[u8]), PacketError> {
    match number(bytes)? {
        (0, _) => Err(PacketError::Malformed("packet identifier 0")), // MQTT-2.3.1-1
        found => Ok(found),
    }
}

fn only_id(body: &[u8]) -> Result<u16, PacketError> {
    match packet_id(body)? {
        (id, []) => Ok(id),
        _ => Err(PacketError::Malformed("bytes after the packet identifier")),
    }
}

/// The return codes of CONNACK that this broker uses (MQTT 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectReturn {
    Accepted { session_present: bool },
    UnacceptableProtocolVersion,
    IdentifierRejected,
}

/// The packets that consist of a packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    UnsubAck(u16),
}

/// In SUBACK: the subscription was refused (MQTT 3.9.3).
pub(super) const SUBSCRIPTION_REFUSED: u8 = 0x80;

pub(super) fn put_connack(out: &mut BytesMut, answer: ConnectReturn) {
    let (session_present, code) = match answer {
        ConnectReturn::Accepted { session_present } => (u8::from(session_present), 0),
        ConnectReturn::UnacceptableProtocolVersion => (0, 1),
        ConnectReturn::IdentifierRejected => (0, 2),
    };
    out.put_slice(&[0x20, 2, session_present, code]);
}

pub(super) fn put_reply(out: &mut BytesMut, reply: Reply) {
    let (first, id) = match reply {
        Reply::PubAck(id) => (0x40, id),
        Reply::PubRec(id) => (0x50, id),
        Reply::PubRel(id) => (0x62, id),
        Reply::PubComp(id) => (0x70, id),
        Reply::UnsubAck(id) => (0xB0, id),
    };
    let [high, low] = id.to_be_bytes();
    out.put_slice(&[first, 2, high, low]);
}

pub(super) fn put_suback(out: &mut BytesMut, id: u16, codes: &[u8]) {
    out.put_u8(0x90);
    put_length(out, 2 + codes.len());
    out.put_u16(id);
    out.put_slice(codes);
}

pub(super) fn put_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// Writes a PUBLISH. `id` is ignored for `QoS` 0.
pub(super) fn put_publish(out: &mut BytesMut, delivery: &Delivery, id: u16, duplicate: bool) {
    let (topic, payload) = delivery.publication.parts();
    let with_id = delivery.qos > QoS::AtMostOnce;
    let id_len = if with_id { 2 } else { 0 };
    out.reserve(5 + 2 + topic.len() + id_len + payload.len());
    let flags = u8::from(duplicate) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_length(out, 2 + topic.len() + id_len + payload.len());
    let topic_len = u16::try_from(topic.len()).expect("invariant: topics came in a packet");
    out.put_u16(topic_len);
    out.put_slice(topic);
    if with_id {
        out.put_u16(id);
    }
    out.put_slice(payload);
}

fn put_length(out: &mut BytesMut, len: usize) {
    v4::write_remaining_length(out, len).expect("invariant: limits keep packets below 256 MiB");
}
