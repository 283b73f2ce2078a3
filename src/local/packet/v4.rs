//! CONNECT, SUBSCRIBE and UNSUBSCRIBE of MQTT 3.1.1 (and 3.1). Pure.
//!
//! SUBSCRIBE and UNSUBSCRIBE are read by `rumqttd`'s codec, and what that does not check and the standard demands is
//! checked here. Not CONNECT: that codec takes no password that is not UTF-8, and takes NUL.

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::{self as codec, Protocol, v4};

use super::bytes::{binary, packet_id, split_first, text, two_bytes};
use super::connect_flag::{CLEAN, PASSWORD, RESERVED, USER_NAME, WILL, WILL_QOS_AND_RETAIN};
use super::{Connect, Filter, Incoming, Login, PacketError, SESSION_FOR_EVER, Version, Will};
use crate::local::publication::QoS;

/// Reads a CONNECT from what follows its protocol level.
pub(super) fn connect(after_level: &[u8]) -> Result<Connect, PacketError> {
    let impossible = || PacketError::Malformed("impossible connect flags");
    let (flags, rest) = split_first(after_level)?;
    let (keep_alive_s, rest) = two_bytes(rest)?;
    if flags & RESERVED != 0 || flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(impossible()); // MQTT-3.1.2-3, -22
    }
    let (client_id, mut rest) = text(rest)?;
    let mut will = None;
    if flags & WILL != 0 {
        let (found, next) = self::will(flags, rest)?;
        (will, rest) = (Some(found), next);
    } else if flags & WILL_QOS_AND_RETAIN != 0 {
        return Err(impossible()); // MQTT-3.1.2-13, -15
    }
    let (login, rest) = self::login(flags, rest)?;
    if !rest.is_empty() {
        // MQTT-3.1.2-11, -18, -20
        return Err(PacketError::Malformed("more than the connect flags say"));
    }
    let clean_session = flags & CLEAN != 0;
    Ok(Connect {
        version: Version::V4,
        client_id: client_id.to_owned(),
        clean_start: clean_session,
        session_expiry_s: if clean_session { 0 } else { SESSION_FOR_EVER },
        keep_alive_s,
        receive_max: u16::MAX,
        packet_bytes_max: None,
        authenticates: false,
        login,
        will,
    })
}

/// The will of a CONNECT with these flags.
pub(super) fn will(flags: u8, bytes: &[u8]) -> Result<(Will, &[u8]), PacketError> {
    let (topic, rest) = text(bytes)?;
    let (payload, rest) = binary(rest)?;
    let will = Will {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload),
        qos: QoS::from_bits(flags >> 3 & 0b11).ok_or(PacketError::Malformed("QoS 3"))?,
        retain: flags & 0x20 != 0,
        delay_s: 0,
        properties: Bytes::new(),
    };
    Ok((will, rest))
}

/// The user name and password of a CONNECT with these flags.
pub(super) fn login(flags: u8, mut rest: &[u8]) -> Result<(Option<Login>, &[u8]), PacketError> {
    let (mut user, mut password) = ("", &[][..]);
    if flags & USER_NAME != 0 {
        (user, rest) = text(rest)?;
    }
    if flags & PASSWORD != 0 {
        (password, rest) = binary(rest)?;
    }
    let login = (flags & (USER_NAME | PASSWORD) != 0).then(|| Login {
        user: user.to_owned(),
        password: password.to_vec(),
    });
    Ok((login, rest))
}

pub(super) fn subscribe<'a>(bytes: &[u8], body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, mut rest) = packet_id(body)?;
    // The codec takes NUL, and the reserved bits of the options for nothing; MQTT-1.5.3-2 and -3.8.3-4 close.
    while !rest.is_empty() {
        let (options, next) = split_first(text(rest)?.1)?;
        if QoS::from_bits(options).is_none() {
            return Err(PacketError::Malformed("impossible subscription options"));
        }
        rest = next;
    }
    let codec::Packet::Subscribe(subscribe, _) = decode(bytes)? else {
        return Err(PacketError::Malformed("not a SUBSCRIBE"));
    };
    let filters = subscribe.filters.into_iter();
    let filters = filters.map(|filter| Filter::plain(filter.path, own_qos(filter.qos)));
    Ok(Incoming::Subscribe {
        id,
        filters: filters.collect(),
    })
}

pub(super) fn unsubscribe<'a>(bytes: &[u8], body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, mut rest) = packet_id(body)?;
    while !rest.is_empty() {
        rest = text(rest)?.1; // the codec takes NUL
    }
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

fn own_qos(qos: codec::QoS) -> QoS {
    match qos {
        codec::QoS::AtMostOnce => QoS::AtMostOnce,
        codec::QoS::AtLeastOnce => QoS::AtLeastOnce,
        codec::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// Reads one packet, copied out of the read buffer.
fn decode(bytes: &[u8]) -> Result<codec::Packet, PacketError> {
    Ok(v4::V4.read_mut(&mut BytesMut::from(bytes), bytes.len())?)
}
