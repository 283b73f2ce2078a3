//! The properties of MQTT 5 packets (MQTT 5, 2.2.2): which may stand where, and their values. Pure.
//!
//! They stay in the bytes they came in: what goes on to subscribers is copied from there as it is.

use std::borrow::Cow;

use super::bytes::{binary, four_bytes, split_at, split_first, text, two_bytes, variable};
use super::{PacketError, Version};
use crate::attributes::Attributes;
pub(super) use crate::attributes::{
    CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, RESPONSE_TOPIC, USER_PROPERTY,
};

pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub(super) const WILL_DELAY: u8 = 0x18;
pub(super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// What a publisher says to whoever reads the message: it goes on to subscribers unchanged, in its order
/// (MQTT5-3.3.2-4, -15, -16, -17, -18, -20).
const FOR_READERS: [u8; 5] = [
    PAYLOAD_FORMAT,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    USER_PROPERTY,
];

/// The value of a property, as far as the broker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Opaque,
}

/// A property: its identifier, its value, and the bytes of both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Property<'a> {
    pub(super) id: u8,
    pub(super) value: Value<'a>,
    bytes: &'a [u8],
}

/// The properties of one packet, checked. Those of a packet of MQTT 3.1.1 are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::local) struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// Reads what stands at the front of `bytes` in a packet that may have the properties `allowed`, each once
    /// but user properties. Returns what comes after them.
    pub(super) fn read(
        version: Version,
        bytes: &'a [u8],
        allowed: &[u8],
    ) -> Result<(Self, &'a [u8]), PacketError> {
        if version == Version::V4 {
            return Ok((Properties::default(), bytes));
        }
        let (len, bytes) = variable(bytes)?;
        let (own, rest) = split_at(bytes, usize::try_from(len).unwrap_or(usize::MAX))?;
        let (mut seen, mut left) = (0_u64, own);
        while !left.is_empty() {
            let (Property { id, .. }, next) = property(left)?;
            if !allowed.contains(&id) {
                return Err(PacketError::Forbidden(
                    "a property that does not belong there",
                ));
            }
            let bit = 1 << id;
            if id != USER_PROPERTY && seen & bit != 0 {
                return Err(PacketError::Forbidden("a property twice"));
            }
            seen |= bit;
            left = next;
        }
        Ok((Properties(own), rest))
    }

    /// Those that [`Properties::for_readers`] wrote, or that a packet had.
    pub(in crate::local) fn checked(bytes: &'a [u8]) -> Self {
        Properties(bytes)
    }

    /// The bytes of the properties that go on to subscribers.
    pub(in crate::local) fn for_readers(self) -> impl Iterator<Item = &'a [u8]> {
        let all = self.iter();
        all.filter(|property| FOR_READERS.contains(&property.id))
            .map(|property| property.bytes)
    }

    /// What the cloud is to know, too: what goes on to subscribers, and the expiry.
    pub(in crate::local) fn attributes(self) -> Cow<'a, [u8]> {
        let all = self.iter();
        Attributes::among(self.0, all.map(|property| (property.id, property.bytes)))
    }

    /// All their bytes.
    pub(in crate::local) fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Property<'a>> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let (property, next) = property(left).ok()?;
            left = next;
            Some(property)
        })
    }

    /// The number that the property `id` has.
    pub(super) fn number(self, id: u8) -> Option<u32> {
        self.iter().find_map(|property| match property.value {
            Value::Number(number) if property.id == id => Some(number),
            _ => None,
        })
    }

    /// The same of a property of two bytes.
    pub(super) fn short(self, id: u8) -> Option<u16> {
        self.number(id)
            .and_then(|number| u16::try_from(number).ok())
    }

    pub(super) fn has(self, id: u8) -> bool {
        self.iter().any(|property| property.id == id)
    }

    /// None of the properties `ids` may be 0, and none of `flags` more than 1.
    pub(super) fn check_numbers(self, ids: &[u8], flags: &[u8]) -> Result<(), PacketError> {
        for property in self.iter() {
            match property.value {
                Value::Number(0) if ids.contains(&property.id) => {
                    return Err(PacketError::Forbidden("a property that is 0"));
                }
                Value::Number(2..) if flags.contains(&property.id) => {
                    return Err(PacketError::Forbidden("a flag that is neither 0 nor 1"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The property that `bytes` begin with.
fn property(bytes: &[u8]) -> Result<(Property<'_>, &[u8]), PacketError> {
    let (id, content) = split_first(bytes)?;
    let (value, rest) = match id {
        PAYLOAD_FORMAT | REQUEST_PROBLEM_INFORMATION | REQUEST_RESPONSE_INFORMATION => {
            let (number, rest) = split_first(content)?;
            (Value::Number(number.into()), rest)
        }
        RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => {
            let (number, rest) = two_bytes(content)?;
            (Value::Number(number.into()), rest)
        }
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
            let (number, rest) = four_bytes(content)?;
            (Value::Number(number), rest)
        }
        SUBSCRIPTION_ID => {
            let (number, rest) = variable(content)?;
            (Value::Number(number), rest)
        }
        CONTENT_TYPE | RESPONSE_TOPIC | AUTHENTICATION_METHOD | REASON_STRING => {
            let (text, rest) = text(content)?;
            (Value::Text(text), rest)
        }
        CORRELATION_DATA | AUTHENTICATION_DATA => (Value::Opaque, binary(content)?.1),
        USER_PROPERTY => (Value::Opaque, text(text(content)?.1)?.1),
        _ => {
            return Err(PacketError::Malformed("a property that no client may send"));
        }
    };
    let (bytes, _) = split_at(bytes, bytes.len() - rest.len())?;
    Ok((Property { id, value, bytes }, rest))
}
