//! CONNECT, SUBSCRIBE and UNSUBSCRIBE of MQTT 3.1.1 (and 3.1), read by `rumqttd`'s codec. Pure. What that codec
//! does not check and the standard demands is checked here.

use bytes::{BufMut, BytesMut};
use rumqttd::protocol::{self as codec, Protocol, v4};

use super::bytes::{binary, packet_id, split_first, string, two_bytes};
use super::{Connect, Filter, Incoming, Login, PacketError, SESSION_FOR_EVER, Version, Will};
use crate::local::publication::QoS;

/// Reads a CONNECT whose protocol name and level have been found to be `version`'s. `after_level` is what follows
/// them.
pub(super) fn connect(
    bytes: &[u8],
    is_3_1: bool,
    after_level: &[u8],
) -> Result<Connect, PacketError> {
    /// Clean session, will, password and user name in the connect flags (MQTT 3.1.2.3).
    const RESERVED: u8 = 0x01;
    const WILL: u8 = 0x04;
    const PASSWORD: u8 = 0x40;
    const USER_NAME: u8 = 0x80;

    let (flags, rest) = split_first(after_level)?;
    let (_keep_alive, mut rest) = two_bytes(rest)?;
    let client_id_and_will = if flags & WILL == 0 { 1 } else { 3 };
    let login = (flags & (USER_NAME | PASSWORD)).count_ones();
    for _ in 0..client_id_and_will + login {
        rest = binary(rest)?.1;
    }
    if !rest.is_empty() {
        // MQTT-3.1.2-11, -18, -20
        return Err(PacketError::Malformed("more than the connect flags say"));
    }
    let packet = if is_3_1 {
        // MQTT 3.1 differs in the name of the protocol only; the codec knows the later name.
        let mut renamed = BytesMut::with_capacity(bytes.len());
        renamed.put_u8(0x10);
        v4::write_remaining_length(&mut renamed, after_level.len() + 7)?;
        renamed.put_slice(b"\x00\x04MQTT\x04");
        renamed.put_slice(after_level);
        decode(&renamed)?
    } else {
        decode(bytes)?
    };
    let codec::Packet::Connect(connect, _, will, _, login) = packet else {
        return Err(PacketError::Malformed("not a CONNECT"));
    };
    if flags & RESERVED != 0 || flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(PacketError::Malformed("impossible connect flags")); // MQTT-3.1.2-3, -22
    }
    if connect.client_id.contains('\0') {
        return Err(PacketError::Malformed("NUL in the client identifier"));
    }
    Ok(Connect {
        version: Version::V4,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        session_expiry_s: if connect.clean_session {
            0
        } else {
            SESSION_FOR_EVER
        },
        keep_alive_s: connect.keep_alive,
        receive_max: u16::MAX,
        packet_bytes_max: None,
        authenticates: false,
        login: login.map(|login| Login {
            user: login.username,
            password: login.password.into(),
        }),
        will: will.map(own_will).transpose()?,
    })
}

pub(super) fn subscribe<'a>(bytes: &[u8], body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, mut rest) = packet_id(body)?;
    // The codec takes the reserved bits of the options for nothing; MQTT-3.8.3-4 closes.
    while !rest.is_empty() {
        let (options, next) = split_first(string(rest)?.1)?;
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

fn own_will(will: codec::LastWill) -> Result<Will, PacketError> {
    Ok(Will {
        topic: std::str::from_utf8(&will.topic)
            .map_err(|_| PacketError::Malformed("a will topic that is not UTF-8"))?
            .to_owned(),
        payload: will.message,
        qos: own_qos(will.qos),
        retain: will.retain,
        delay_s: 0,
        properties: bytes::Bytes::new(),
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
