//! Packets of MQTT 5 as a client writes them and expects them, independent of the broker's own codec.

use super::wire::packet;

pub(super) fn text(string: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(string.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(string.as_bytes());
    bytes
}

/// A property with a value of any length.
fn with(id: u8, value: &[u8]) -> Vec<u8> {
    [&[id], value].concat()
}

pub(super) fn payload_format(value: u8) -> Vec<u8> {
    with(0x01, &[value])
}

pub(super) fn message_expiry(seconds: u32) -> Vec<u8> {
    with(0x02, &seconds.to_be_bytes())
}

pub(super) fn content_type(value: &str) -> Vec<u8> {
    with(0x03, &text(value))
}

pub(super) fn response_topic(value: &str) -> Vec<u8> {
    with(0x08, &text(value))
}

pub(super) fn correlation_data(value: &str) -> Vec<u8> {
    with(0x09, &text(value))
}

/// Of one byte.
pub(super) fn subscription_id(value: u8) -> Vec<u8> {
    with(0x0B, &[value])
}

pub(super) fn session_expiry(seconds: u32) -> Vec<u8> {
    with(0x11, &seconds.to_be_bytes())
}

pub(super) fn authentication_method(value: &str) -> Vec<u8> {
    with(0x15, &text(value))
}

pub(super) fn will_delay(seconds: u32) -> Vec<u8> {
    with(0x18, &seconds.to_be_bytes())
}

pub(super) fn receive_maximum(value: u16) -> Vec<u8> {
    with(0x21, &value.to_be_bytes())
}

pub(super) fn topic_alias(value: u16) -> Vec<u8> {
    with(0x23, &value.to_be_bytes())
}

pub(super) fn user_property(name: &str, value: &str) -> Vec<u8> {
    with(0x26, &[text(name), text(value)].concat())
}

pub(super) fn maximum_packet_size(bytes: u32) -> Vec<u8> {
    with(0x27, &bytes.to_be_bytes())
}

/// The length of properties, and the properties; together less than 128 bytes.
fn block(properties: &[u8]) -> Vec<u8> {
    let len = u8::try_from(properties.len()).unwrap();
    assert!(len < 128);
    [&[len], properties].concat()
}

/// A will of `QoS` 0.
#[derive(Clone, Copy)]
pub(super) struct Will<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a str,
    pub(super) properties: &'a [u8],
}

/// A CONNECT with a keep alive of a minute.
pub(super) fn connect(id: &str, clean: bool, properties: &[u8], will: Option<Will<'_>>) -> Vec<u8> {
    connect_with(id, clean, 60, properties, will)
}

pub(super) fn connect_with(
    id: &str,
    clean: bool,
    keep_alive_s: u16,
    properties: &[u8],
    will: Option<Will<'_>>,
) -> Vec<u8> {
    let flags = u8::from(clean) << 1 | u8::from(will.is_some()) << 2;
    let mut body = [&text("MQTT")[..], &[5, flags]].concat();
    body.extend(keep_alive_s.to_be_bytes());
    body.extend(block(properties));
    body.extend(text(id));
    if let Some(will) = will {
        body.extend(block(will.properties));
        body.extend([text(will.topic), text(will.payload)].concat());
    }
    packet(0x10, &body)
}

/// A PUBLISH whose first byte has these flags besides the `QoS`; `id` is left out for `QoS` 0.
pub(super) fn publish_with(
    flags: u8,
    (qos, id): (u8, u16),
    topic: &str,
    properties: &[u8],
    payload: &str,
) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(block(properties));
    body.extend(payload.as_bytes());
    packet(0x30 | flags | qos << 1, &body)
}

pub(super) fn publish(number: (u8, u16), topic: &str, properties: &[u8], payload: &str) -> Vec<u8> {
    publish_with(0, number, topic, properties, payload)
}

/// A SUBSCRIBE to filters with their options.
pub(super) fn subscribe(id: u16, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(block(properties));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(super) fn suback(id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&id.to_be_bytes()[..], &[0], codes].concat())
}

pub(super) fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &[0]].concat();
    for filter in filters {
        body.extend(text(filter));
    }
    packet(0xA2, &body)
}

pub(super) fn unsuback(id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0xB0, &[&id.to_be_bytes()[..], &[0], codes].concat())
}

/// An acknowledgement, or its refusal, whose first byte is `first`.
pub(super) fn because(first: u8, id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[reason]].concat())
}

pub(super) fn disconnect(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xE0, &[&[reason][..], &block(properties)].concat())
}

/// A DISCONNECT as the broker sends it.
pub(super) fn disconnected(reason: u8) -> Vec<u8> {
    packet(0xE0, &[reason])
}
