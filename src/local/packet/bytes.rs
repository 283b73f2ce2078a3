//! The data types that packets are made of (MQTT 5, 1.5): reading them off the front of a slice. Pure.

use super::PacketError;

pub(super) fn split_first(bytes: &[u8]) -> Result<(u8, &[u8]), PacketError> {
    let end = PacketError::Malformed("it ends too early");
    bytes
        .split_first()
        .map(|(first, rest)| (*first, rest))
        .ok_or(end)
}

pub(super) fn split_at(bytes: &[u8], middle: usize) -> Result<(&[u8], &[u8]), PacketError> {
    let end = PacketError::Malformed("it ends too early");
    bytes.split_at_checked(middle).ok_or(end)
}

pub(super) fn two_bytes(bytes: &[u8]) -> Result<(u16, &[u8]), PacketError> {
    let (high, bytes) = split_first(bytes)?;
    let (low, bytes) = split_first(bytes)?;
    Ok((u16::from_be_bytes([high, low]), bytes))
}

pub(super) fn four_bytes(bytes: &[u8]) -> Result<(u32, &[u8]), PacketError> {
    let (high, bytes) = two_bytes(bytes)?;
    let (low, bytes) = two_bytes(bytes)?;
    Ok((u32::from(high) << 16 | u32::from(low), bytes))
}

/// A variable byte integer, in as few bytes as it needs (MQTT5-1.5.5-1).
pub(super) fn variable(bytes: &[u8]) -> Result<(u32, &[u8]), PacketError> {
    let (mut value, mut rest) = (0, bytes);
    for shift in [0, 7, 14, 21] {
        let (byte, next) = split_first(rest)?;
        value |= u32::from(byte & 0x7F) << shift;
        rest = next;
        if byte & 0x80 == 0 {
            return if byte == 0 && shift > 0 {
                Err(PacketError::Malformed("an integer longer than it need be"))
            } else {
                Ok((value, rest))
            };
        }
    }
    Err(PacketError::Malformed("an integer of five bytes"))
}

pub(super) fn binary(bytes: &[u8]) -> Result<(&[u8], &[u8]), PacketError> {
    let (len, bytes) = two_bytes(bytes)?;
    split_at(bytes, usize::from(len))
}

/// A string, which may hold NUL: topics are checked for it by whoever uses them.
pub(super) fn string(bytes: &[u8]) -> Result<(&str, &[u8]), PacketError> {
    let (string, bytes) = binary(bytes)?;
    match std::str::from_utf8(string) {
        Ok(string) => Ok((string, bytes)),
        Err(_) => Err(PacketError::Malformed("a string that is not UTF-8")),
    }
}

/// A string without NUL (MQTT-1.5.3-2, MQTT5-1.5.4-2).
pub(super) fn text(bytes: &[u8]) -> Result<(&str, &[u8]), PacketError> {
    let (string, bytes) = string(bytes)?;
    if string.contains('\0') {
        return Err(PacketError::Malformed("NUL in a string"));
    }
    Ok((string, bytes))
}

pub(super) fn packet_id(bytes: &[u8]) -> Result<(u16, &[u8]), PacketError> {
    match two_bytes(bytes)? {
        (0, _) => Err(PacketError::Malformed("packet identifier 0")), // MQTT-2.3.1-1
        found => Ok(found),
    }
}
