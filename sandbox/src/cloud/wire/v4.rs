//! The bytes of MQTT 3.1.1.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet};

use super::{Hello, Inbound, Publication, Subscription, Welcome, WireError};

/// Reads one whole packet.
pub(super) fn decode(mut frame: BytesMut) -> Result<Inbound, WireError> {
    let packet_bytes_max = frame.len();
    let packet = Packet::read(&mut frame, packet_bytes_max).map_err(|_| WireError::Malformed)?;
    Ok(match packet {
        Packet::Connect(connect) => Inbound::Connect(Hello {
            client_id: connect.client_id,
            keep_alive: Duration::from_secs(connect.keep_alive.into()),
            clean_start: connect.clean_session,
            session_expiry: None,
            will: connect.last_will.map(|will| Publication {
                topic: will.topic,
                payload: will.message,
                packet_id: 0,
                qos: will.qos as u8,
                dup: false,
                retain: will.retain,
                properties: None,
            }),
        }),
        Packet::Publish(publish) => Inbound::Publish(Publication {
            topic: publish.topic,
            payload: publish.payload,
            packet_id: publish.pkid,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
            properties: None,
        }),
        Packet::PubAck(puback) => Inbound::Puback(puback.pkid),
        Packet::PubRel(pubrel) => Inbound::Pubrel(pubrel.pkid),
        Packet::Subscribe(subscribe) => Inbound::Subscribe(Subscription {
            packet_id: subscribe.pkid,
            filters: subscribe
                .filters
                .into_iter()
                .map(|filter| filter.path)
                .collect(),
            identified: false,
        }),
        Packet::Unsubscribe(unsubscribe) => {
            Inbound::Unsubscribe(unsubscribe.pkid, unsubscribe.topics.len())
        }
        Packet::PingReq => Inbound::Ping,
        Packet::Disconnect => Inbound::Disconnect,
        Packet::ConnAck(_)
        | Packet::PubRec(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp => Inbound::ServersOwn,
    })
}

/// Writes CONNACK.
pub(super) fn connack(welcome: Welcome, out: &mut BytesMut) {
    let (present, code) = match welcome {
        Welcome::Accepted {
            session_present, ..
        } => (session_present, ConnectReturnCode::Success as u8),
        Welcome::ServerUnavailable => (false, ConnectReturnCode::ServiceUnavailable as u8),
        Welcome::NotAuthorized => (false, ConnectReturnCode::NotAuthorized as u8),
        Welcome::Code(code) => (false, code),
    };
    // bytes of the fixed header and of the variable header (MQTT 3.1.1, section 3.2)
    out.put_slice(&[0x20, 2, u8::from(present), code]);
}
