//! Writing the packets that a server sends, in the client's version. Pure.

use bytes::{BufMut, BytesMut};
use rumqttd::protocol::v4;
use tokio::time::Instant;

use super::properties as property;
use super::{Reason, Version};
use crate::local::publication::{Delivery, QoS};

/// On which terms a client of MQTT 5 is taken (MQTT 5, 3.2.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::local) struct Terms<'a> {
    pub(in crate::local) receive_max: u16,
    pub(in crate::local) packet_bytes_max: u32,
    pub(in crate::local) topic_alias_max: u16,
    /// The keep alive to use in place of the client's.
    pub(in crate::local) keep_alive_s: Option<u16>,
    /// The client identifier it has been given.
    pub(in crate::local) client_id: Option<&'a str>,
}

/// The packets that consist of a packet identifier and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the standard")]
pub(in crate::local) enum Ack {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::local) struct Reply {
    pub(in crate::local) ack: Ack,
    pub(in crate::local) id: u16,
    pub(in crate::local) reason: Reason,
}

impl Reply {
    /// With the reason `Success`.
    pub(in crate::local) fn new(ack: Ack, id: u16) -> Self {
        Reply::because(ack, id, Reason::Success)
    }

    pub(in crate::local) fn because(ack: Ack, id: u16, reason: Reason) -> Self {
        Reply { ack, id, reason }
    }

    /// Whether it ends what the client began with a PUBLISH.
    pub(in crate::local) fn is_last(self) -> bool {
        match self.ack {
            Ack::PubAck | Ack::PubComp => true,
            Ack::PubRec => self.reason.is_refusal(),
            Ack::PubRel => false,
        }
    }
}

/// CONNACK for a client that is let in. A client of MQTT 3.1.1 is told nothing of the terms.
pub(in crate::local) fn put_accepted(
    out: &mut BytesMut,
    version: Version,
    session_present: bool,
    terms: &Terms<'_>,
) {
    let session_present = u8::from(session_present);
    if version == Version::V4 {
        out.put_slice(&[0x20, 2, session_present, 0]);
        return;
    }
    let mut properties = BytesMut::new();
    properties.put_u8(property::RECEIVE_MAXIMUM);
    properties.put_u16(terms.receive_max);
    properties.put_u8(property::MAXIMUM_PACKET_SIZE);
    properties.put_u32(terms.packet_bytes_max);
    properties.put_u8(property::TOPIC_ALIAS_MAXIMUM);
    properties.put_u16(terms.topic_alias_max);
    if let Some(keep_alive_s) = terms.keep_alive_s {
        properties.put_u8(property::SERVER_KEEP_ALIVE);
        properties.put_u16(keep_alive_s);
    }
    if let Some(client_id) = terms.client_id {
        properties.put_u8(property::ASSIGNED_CLIENT_ID);
        put_string(&mut properties, client_id.as_bytes());
    }
    out.put_u8(0x20);
    put_length(out, 2 + length_bytes(properties.len()) + properties.len());
    out.put_slice(&[session_present, 0]);
    put_length(out, properties.len());
    out.put_slice(&properties);
}

/// CONNACK for a client that is not let in. Returns false, and writes nothing, if its version has no code for the reason.
pub(in crate::local) fn put_refused(out: &mut BytesMut, version: Version, reason: Reason) -> bool {
    if version == Version::V5 {
        out.put_slice(&[0x20, 3, 0, reason.code(), 0]);
        return true;
    }
    // MQTT 3.2.2.3
    let code = match reason {
        Reason::UnsupportedVersion => 1,
        Reason::ClientIdInvalid => 2,
        Reason::QuotaExceeded => 3,
        Reason::BadUserNameOrPassword => 4,
        Reason::NotAuthorized => 5,
        _ => return false,
    };
    out.put_slice(&[0x20, 2, 0, code]);
    true
}

/// DISCONNECT, which a server sends in MQTT 5 only: else returns false, and writes nothing.
pub(in crate::local) fn put_disconnect(
    out: &mut BytesMut,
    version: Version,
    reason: Reason,
) -> bool {
    let has_it = version == Version::V5;
    if has_it {
        out.put_slice(&[0xE0, 1, reason.code()]);
    }
    has_it
}

pub(in crate::local) fn put_reply(out: &mut BytesMut, version: Version, reply: Reply) {
    let (first, reason) = (reply.ack as u8, reply.reason);
    let [high, low] = reply.id.to_be_bytes();
    if version == Version::V4 || reason == Reason::Success {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, reason.code()]);
    }
}

/// SUBACK. `codes` are granted `QoS` and reasons; MQTT 3.1.1 knows one of these, 0x80 (MQTT 3.9.3).
pub(in crate::local) fn put_suback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    out.put_u8(0x90);
    match version {
        Version::V4 => {
            put_length(out, 2 + codes.len());
            out.put_u16(id);
            out.extend(codes.iter().map(|code| (*code).min(super::REFUSALS)));
        }
        Version::V5 => put_codes(out, id, codes),
    }
}

/// UNSUBACK. MQTT 3.1.1 has no `codes`.
pub(in crate::local) fn put_unsuback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    out.put_u8(0xB0);
    match version {
        Version::V4 => {
            put_length(out, 2);
            out.put_u16(id);
        }
        Version::V5 => put_codes(out, id, codes),
    }
}

fn put_codes(out: &mut BytesMut, id: u16, codes: &[u8]) {
    put_length(out, 3 + codes.len());
    out.put_u16(id);
    put_length(out, 0);
    out.put_slice(codes);
}

pub(in crate::local) fn put_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// Writes a PUBLISH. `id` is ignored for `QoS` 0. Returns false, and writes nothing, if it has more than
/// `bytes_max` bytes.
pub(in crate::local) fn put_publish(
    out: &mut BytesMut,
    (version, bytes_max): (Version, u32),
    delivery: &Delivery,
    (id, duplicate): (u16, bool),
    now: Instant,
) -> bool {
    let publication = &delivery.publication;
    let (topic, payload) = publication.parts();
    let properties_len = match version {
        Version::V4 => None,
        Version::V5 => Some(properties_len(delivery)),
    };
    let id_len = if delivery.qos > QoS::AtMostOnce { 2 } else { 0 };
    let properties_bytes = properties_len.map_or(0, |len| length_bytes(len) + len);
    let remaining = 2 + topic.len() + id_len + properties_bytes + payload.len();
    let size = 1 + length_bytes(remaining) + remaining;
    if u32::try_from(size).is_ok_and(|size| size > bytes_max) {
        return false;
    }
    out.reserve(size);
    let flags = u8::from(duplicate) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_length(out, remaining);
    put_string(out, topic);
    if id_len > 0 {
        out.put_u16(id);
    }
    if let Some(len) = properties_len {
        put_length(out, len);
        if let Some(expires) = publication.expires() {
            out.put_u8(property::MESSAGE_EXPIRY);
            out.put_u32(seconds_left(expires, now));
        }
        out.put_slice(publication.properties());
        for id in &delivery.subscription_ids {
            out.put_u8(property::SUBSCRIPTION_ID);
            put_length(out, usize::try_from(*id).unwrap_or(usize::MAX));
        }
    }
    out.put_slice(payload);
    true
}

fn properties_len(delivery: &Delivery) -> usize {
    const EXPIRY_BYTES: usize = 1 + 4;
    let expiry = delivery.publication.expires().map_or(0, |_| EXPIRY_BYTES);
    let ids = delivery.subscription_ids.iter();
    let ids = ids.map(|id| 1 + length_bytes(usize::try_from(*id).unwrap_or(usize::MAX)));
    expiry + delivery.publication.properties().len() + ids.sum::<usize>()
}

/// Whole seconds, rounded up: a message that has not expired has some time left (MQTT5-3.3.2-6).
fn seconds_left(expires: Instant, now: Instant) -> u32 {
    let left = expires.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn put_string(out: &mut BytesMut, string: &[u8]) {
    let len = u16::try_from(string.len()).expect("invariant: strings came in a packet");
    out.put_u16(len);
    out.put_slice(string);
}

/// How many bytes a variable byte integer takes.
fn length_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_length(out: &mut BytesMut, len: usize) {
    v4::write_remaining_length(out, len).expect("invariant: limits keep packets below 256 MiB");
}
