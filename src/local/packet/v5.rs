//! What MQTT 5 reads differently from 3.1.1: CONNECT, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, acknowledgements. Pure.
//!
//! Not by `rumqttd`'s codec for version 5: that panics on packets that only a server sends, takes
//! properties that occur twice or where they do not belong, and loses their order.

use super::bytes::{packet_id, split_first, text, two_bytes};
use super::connect_flag::{CLEAN, RESERVED, WILL, WILL_QOS_AND_RETAIN};
use super::properties::{self as property, Properties, Value};
use super::{Connect, Filter, Goodbye, Incoming, PacketError, RetainHandling, Version, Will, v4};
use crate::local::publication::{QoS, Subscription};

/// What every acknowledgement may have.
const IN_ACKNOWLEDGEMENT: [u8; 2] = [property::REASON_STRING, property::USER_PROPERTY];

const IN_CONNECT: [u8; 9] = [
    property::SESSION_EXPIRY,
    property::RECEIVE_MAXIMUM,
    property::MAXIMUM_PACKET_SIZE,
    property::TOPIC_ALIAS_MAXIMUM,
    property::REQUEST_RESPONSE_INFORMATION,
    property::REQUEST_PROBLEM_INFORMATION,
    property::USER_PROPERTY,
    property::AUTHENTICATION_METHOD,
    property::AUTHENTICATION_DATA,
];

const IN_WILL: [u8; 7] = [
    property::WILL_DELAY,
    property::PAYLOAD_FORMAT,
    property::MESSAGE_EXPIRY,
    property::CONTENT_TYPE,
    property::RESPONSE_TOPIC,
    property::CORRELATION_DATA,
    property::USER_PROPERTY,
];

const IN_PUBLISH: [u8; 7] = [
    property::PAYLOAD_FORMAT,
    property::MESSAGE_EXPIRY,
    property::CONTENT_TYPE,
    property::RESPONSE_TOPIC,
    property::CORRELATION_DATA,
    property::TOPIC_ALIAS,
    property::USER_PROPERTY,
];

/// Reads a CONNECT from what follows its protocol level.
pub(super) fn connect(after_level: &[u8]) -> Result<Connect, PacketError> {
    let (flags, rest) = split_first(after_level)?;
    let (keep_alive_s, rest) = two_bytes(rest)?;
    let (properties, rest) = Properties::read(Version::V5, rest, &IN_CONNECT)?;
    properties.check_numbers(
        &[property::RECEIVE_MAXIMUM, property::MAXIMUM_PACKET_SIZE],
        &[
            property::REQUEST_PROBLEM_INFORMATION,
            property::REQUEST_RESPONSE_INFORMATION,
        ],
    )?;
    let authenticates = properties.has(property::AUTHENTICATION_METHOD);
    if properties.has(property::AUTHENTICATION_DATA) && !authenticates {
        return Err(PacketError::Forbidden("authentication without a method"));
    }
    let (client_id, mut rest) = text(rest)?;
    let mut will = None;
    if flags & WILL != 0 {
        let (found, next) = self::will(flags, rest)?;
        (will, rest) = (Some(found), next);
    } else if flags & WILL_QOS_AND_RETAIN != 0 {
        return Err(PacketError::Malformed("impossible connect flags"));
    }
    let (login, rest) = v4::login(flags, rest)?;
    if flags & RESERVED != 0 || !rest.is_empty() {
        return Err(PacketError::Malformed("impossible connect flags"));
    }
    Ok(Connect {
        version: Version::V5,
        client_id: client_id.to_owned(),
        clean_start: flags & CLEAN != 0,
        session_expiry_s: properties.number(property::SESSION_EXPIRY).unwrap_or(0),
        keep_alive_s,
        receive_max: (properties.short(property::RECEIVE_MAXIMUM)).unwrap_or(u16::MAX),
        packet_bytes_max: properties.number(property::MAXIMUM_PACKET_SIZE),
        authenticates,
        login,
        will,
    })
}

fn will(flags: u8, bytes: &[u8]) -> Result<(Will, &[u8]), PacketError> {
    let (properties, rest) = Properties::read(Version::V5, bytes, &IN_WILL)?;
    check_message(properties)?;
    let (will, rest) = v4::will(flags, rest)?;
    let will = Will {
        delay_s: properties.number(property::WILL_DELAY).unwrap_or(0),
        properties: bytes::Bytes::copy_from_slice(properties.bytes()),
        ..will
    };
    Ok((will, rest))
}

/// The properties of a PUBLISH, and its payload.
pub(super) fn publish_properties(
    version: Version,
    bytes: &[u8],
) -> Result<(Properties<'_>, &[u8]), PacketError> {
    let (properties, payload) = Properties::read(version, bytes, &IN_PUBLISH)?;
    check_message(properties)?;
    Ok((properties, payload))
}

/// What holds for a message and for a will.
fn check_message(properties: Properties<'_>) -> Result<(), PacketError> {
    properties.check_numbers(&[], &[property::PAYLOAD_FORMAT])?;
    for found in properties.iter() {
        if found.id == property::RESPONSE_TOPIC
            && let Value::Text(topic) = found.value
            && (topic.is_empty() || topic.contains(['+', '#']))
        {
            // MQTT5-3.3.2-14
            return Err(PacketError::Forbidden("a response topic with wildcards"));
        }
    }
    Ok(())
}

pub(super) fn subscribe<'a>(body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let allowed = [property::SUBSCRIPTION_ID, property::USER_PROPERTY];
    let (id, rest) = packet_id(body)?;
    let (properties, mut rest) = Properties::read(Version::V5, rest, &allowed)?;
    properties.check_numbers(&[property::SUBSCRIPTION_ID], &[])?;
    let subscription_id = properties.number(property::SUBSCRIPTION_ID).unwrap_or(0);
    let mut filters = Vec::new();
    while !rest.is_empty() {
        let (path, after) = text(rest)?;
        let (options, next) = split_first(after)?;
        filters.push(filter(path, options, subscription_id)?);
        rest = next;
    }
    if filters.is_empty() {
        return Err(PacketError::Forbidden("SUBSCRIBE to nothing")); // MQTT5-3.8.3-2
    }
    Ok(Incoming::Subscribe { id, filters })
}

/// A topic filter and its subscription options (MQTT 5, 3.8.3.1).
fn filter(path: &str, options: u8, id: u32) -> Result<Filter, PacketError> {
    let no_local = options & 0b0100 != 0;
    let retained = match options >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::Withhold,
        _ => return Err(PacketError::Malformed("impossible subscription options")),
    };
    if no_local && path.starts_with("$share/") {
        // MQTT5-3.8.3-4
        return Err(PacketError::Forbidden(
            "a shared subscription with No Local",
        ));
    }
    Ok(Filter {
        path: path.to_owned(),
        subscription: Subscription {
            qos: QoS::from_bits(options & 0b11).ok_or(PacketError::Malformed("QoS 3"))?,
            no_local,
            retain_as_published: options & 0b1000 != 0,
            id,
        },
        retained,
    })
}

pub(super) fn unsubscribe<'a>(body: &[u8]) -> Result<Incoming<'a>, PacketError> {
    let (id, rest) = packet_id(body)?;
    let (_, mut rest) = Properties::read(Version::V5, rest, &[property::USER_PROPERTY])?;
    let mut filters = Vec::new();
    while !rest.is_empty() {
        let (path, next) = text(rest)?;
        filters.push(path.to_owned());
        rest = next;
    }
    if filters.is_empty() {
        return Err(PacketError::Forbidden("UNSUBSCRIBE from nothing")); // MQTT5-3.10.3-2
    }
    Ok(Incoming::Unsubscribe { id, filters })
}

pub(super) fn disconnect(body: &[u8]) -> Result<Goodbye, PacketError> {
    /// The reasons a client may give (MQTT 5, 3.14.2.1).
    const REASONS: [u8; 14] = [
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ];
    let allowed = [
        property::SESSION_EXPIRY,
        property::REASON_STRING,
        property::USER_PROPERTY,
    ];
    let (reason, properties) = reason_and_properties(body, &REASONS, &allowed)?;
    Ok(Goodbye {
        with_will: reason != 0,
        session_expiry_s: properties.number(property::SESSION_EXPIRY),
    })
}

/// The packet identifier and the reason of an acknowledgement that may give one of `reasons`.
pub(super) fn acknowledgement(body: &[u8], reasons: &[u8]) -> Result<(u16, u8), PacketError> {
    let (id, rest) = packet_id(body)?;
    let (reason, _) = reason_and_properties(rest, reasons, &IN_ACKNOWLEDGEMENT)?;
    Ok((id, reason))
}

/// A reason and properties, either of which may be left out at the end.
fn reason_and_properties<'a>(
    bytes: &'a [u8],
    reasons: &[u8],
    allowed: &[u8],
) -> Result<(u8, Properties<'a>), PacketError> {
    let Ok((reason, rest)) = split_first(bytes) else {
        return Ok((0, Properties::default()));
    };
    if !reasons.contains(&reason) {
        return Err(PacketError::Malformed("an impossible reason code"));
    }
    if rest.is_empty() {
        return Ok((reason, Properties::default()));
    }
    match Properties::read(Version::V5, rest, allowed)? {
        (properties, []) => Ok((reason, properties)),
        _ => Err(PacketError::Malformed("bytes after the properties")),
    }
}
