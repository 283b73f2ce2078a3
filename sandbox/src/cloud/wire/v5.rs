//! The bytes of MQTT 5.
//!
//! The library reads what is long; what is short or what it gets wrong is done here: it refuses a
//! DISCONNECT without a reason (section 3.14.2.1), and writes one with a reason a byte too long.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rumqttc::v5::mqttbytes::v5::{self as codec, Packet};

use super::{
    Hello, Inbound, Offer, Publication, PublishProperties, Subscription, Welcome, WireError,
    put_length,
};

/// UNSUBACK: no subscription existed (section 3.11.3).
pub(super) const NO_SUBSCRIPTION: u8 = 0x11;
/// CONNACK: not authorized (section 3.2.2.2).
const NOT_AUTHORIZED: u8 = 0x87;
/// CONNACK: server unavailable (section 3.2.2.2).
const SERVER_UNAVAILABLE: u8 = 0x88;
/// The first byte of DISCONNECT.
const DISCONNECT: u8 = 0xe0;

/// Reads one whole packet.
pub(super) fn decode(mut frame: BytesMut) -> Result<Inbound, WireError> {
    if frame.first() == Some(&DISCONNECT) {
        return Ok(Inbound::Disconnect);
    }
    let packet = Packet::read(&mut frame, None).map_err(|_| WireError::Malformed)?;
    Ok(match packet {
        Packet::Connect(connect, will, _) => Inbound::Connect(hello(connect, will)?),
        Packet::Publish(publish) => Inbound::Publish(publication(publish)?),
        Packet::PubAck(puback) => Inbound::Puback(puback.pkid),
        Packet::PubRel(pubrel) => Inbound::Pubrel(pubrel.pkid),
        Packet::Subscribe(subscribe) => Inbound::Subscribe(Subscription {
            packet_id: subscribe.pkid,
            filters: subscribe
                .filters
                .into_iter()
                .map(|filter| filter.path)
                .collect(),
            identified: (subscribe.properties).is_some_and(|properties| properties.id.is_some()),
        }),
        Packet::Unsubscribe(unsubscribe) => {
            Inbound::Unsubscribe(unsubscribe.pkid, unsubscribe.filters.len())
        }
        Packet::PingReq(_) => Inbound::Ping,
        Packet::Disconnect(_) => Inbound::Disconnect,
        Packet::Auth(_)
        | Packet::ConnAck(_)
        | Packet::PubRec(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp(_) => Inbound::ServersOwn,
    })
}

fn hello(connect: codec::Connect, will: Option<codec::LastWill>) -> Result<Hello, WireError> {
    let will = will.map(|will| -> Result<Publication, WireError> {
        let topic = std::str::from_utf8(&will.topic).map_err(|_| WireError::Malformed)?;
        Ok(Publication {
            topic: topic.to_owned(),
            payload: will.message,
            packet_id: 0,
            qos: will.qos as u8,
            dup: false,
            retain: will.retain,
            properties: None,
        })
    });
    let expiry_s = connect
        .properties
        .and_then(|properties| properties.session_expiry_interval);
    Ok(Hello {
        client_id: connect.client_id,
        keep_alive: Duration::from_secs(connect.keep_alive.into()),
        clean_start: connect.clean_start,
        // absent is the same as zero (section 3.1.2.11.2)
        session_expiry: Some(Duration::from_secs(expiry_s.unwrap_or(0).into())),
        will: will.transpose()?,
    })
}

fn publication(publish: codec::Publish) -> Result<Publication, WireError> {
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| WireError::Malformed)?;
    let properties = publish.properties.map(|properties| {
        Arc::new(PublishProperties {
            user_properties: properties.user_properties,
            content_type: properties.content_type,
            message_expiry_s: properties.message_expiry_interval,
            payload_format: properties.payload_format_indicator,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            topic_alias: properties.topic_alias,
        })
    });
    Ok(Publication {
        topic: topic.to_owned(),
        payload: publish.payload,
        packet_id: publish.pkid,
        qos: publish.qos as u8,
        dup: publish.dup,
        retain: publish.retain,
        properties,
    })
}

/// Writes CONNACK (section 3.2).
pub(super) fn connack(welcome: Welcome, out: &mut BytesMut) {
    let (present, code, offer) = match welcome {
        Welcome::Accepted {
            session_present,
            offer,
        } => (session_present, 0, Some(offer)),
        Welcome::NotAuthorized => (false, NOT_AUTHORIZED, None),
        Welcome::ServerUnavailable => (false, SERVER_UNAVAILABLE, None),
        Welcome::Code(code) => (false, code, None),
    };
    let mut properties = BytesMut::new();
    if let Some(offer) = offer {
        put_offer(offer, &mut properties);
    }
    let mut variable = BytesMut::new();
    variable.put_slice(&[u8::from(present), code]);
    put_length(properties.len(), &mut variable);
    variable.put_slice(&properties);
    out.put_u8(0x20);
    put_length(variable.len(), out);
    out.put_slice(&variable);
}

/// Properties by their identifiers (section 2.2.2.2).
fn put_offer(offer: Offer, out: &mut BytesMut) {
    out.put_u8(0x11);
    out.put_u32(offer.session_expiry_s);
    if let Some(receive_max) = offer.receive_max {
        out.put_u8(0x21);
        out.put_u16(receive_max);
    }
    if let Some(qos_max) = offer.qos_max {
        out.put_slice(&[0x24, qos_max]);
    }
    // retained messages are available
    out.put_slice(&[0x25, 1]);
    if let Some(packet_bytes_max) = offer.packet_bytes_max {
        out.put_u8(0x27);
        out.put_u32(packet_bytes_max);
    }
    out.put_u8(0x22);
    out.put_u16(offer.topic_alias_max);
    // wildcards and shared subscriptions, but no subscription identifiers
    out.put_slice(&[0x28, 1, 0x29, 0, 0x2a, 1]);
    if let Some(keep_alive_s) = offer.server_keep_alive_s {
        out.put_u8(0x13);
        out.put_u16(keep_alive_s);
    }
}

/// A PUBACK or PUBREC with a reason and no properties (section 3.4.2.1).
pub(super) fn put_with_reason(first_byte: u8, packet_id: u16, reason: u8, out: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    out.put_slice(&[first_byte, 3, high, low, reason]);
}

/// Writes DISCONNECT with a reason string (section 3.14.2).
pub(super) fn disconnect(reason: u8, text: &str, out: &mut BytesMut) {
    let text_bytes = u16::try_from(text.len()).expect("invariant: the server's texts are short");
    let mut properties = BytesMut::new();
    properties.put_u8(0x1f);
    properties.put_u16(text_bytes);
    properties.put_slice(text.as_bytes());
    let mut variable = BytesMut::new();
    variable.put_u8(reason);
    put_length(properties.len(), &mut variable);
    variable.put_slice(&properties);
    out.put_u8(DISCONNECT);
    put_length(variable.len(), out);
    out.put_slice(&variable);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Inbound, WireError> {
        decode(BytesMut::from(bytes))
    }

    #[test]
    fn a_disconnect_is_read_with_and_without_reason_and_properties() {
        for bytes in [&[0xe0, 0][..], &[0xe0, 1, 4], &[0xe0, 2, 0, 0]] {
            assert!(matches!(decoded(bytes), Ok(Inbound::Disconnect)));
        }
    }

    #[test]
    fn what_is_cut_short_inside_or_no_utf8_is_malformed() {
        // a topic longer than the packet; properties longer than the packet; a topic of 0xff
        for bytes in [
            &[0x30, 3, 0, 9, b't'][..],
            &[0x30, 4, 0, 1, b't', 0x80],
            &[0x30, 4, 0, 1, 0xff, 0],
        ] {
            assert_eq!(decoded(bytes).unwrap_err(), WireError::Malformed);
        }
    }

    #[test]
    fn what_is_written_can_be_read_by_a_client() {
        let mut out = BytesMut::new();
        disconnect(0x8e, "another", &mut out);
        put_with_reason(0x40, 7, 0x97, &mut out);
        connack(Welcome::Code(0x84), &mut out);
        let Ok(Packet::Disconnect(said)) = Packet::read(&mut out, None) else {
            panic!("no DISCONNECT")
        };
        assert_eq!(
            said.properties.unwrap().reason_string.as_deref(),
            Some("another")
        );
        let Ok(Packet::PubAck(ack)) = Packet::read(&mut out, None) else {
            panic!("no PUBACK")
        };
        assert_eq!(
            (ack.pkid, ack.reason),
            (7, codec::PubAckReason::QuotaExceeded)
        );
        let Ok(Packet::ConnAck(connack)) = Packet::read(&mut out, None) else {
            panic!("no CONNACK")
        };
        assert_eq!(
            connack.code,
            codec::ConnectReturnCode::UnsupportedProtocolVersion
        );
        assert!(out.is_empty());
    }
}
