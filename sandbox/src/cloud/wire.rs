//! The protocol seam: what the server needs to know of a packet, whatever the MQTT version.
//!
//! MQTT 3.1.1 is spoken; another version is another [`Protocol`]. No I/O here.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{self, Packet};
use rumqttc::mqttbytes::{Error, Protocol as Level};

use super::acks::Ack;

/// A packet from a client.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// CONNECT.
    Connect(Hello),
    /// PUBLISH.
    Publish(Publication),
    /// PUBREL with its packet identifier.
    Pubrel(u16),
    /// SUBSCRIBE with its packet identifier and number of filters.
    Subscribe(u16, usize),
    /// UNSUBSCRIBE with its packet identifier.
    Unsubscribe(u16),
    /// PINGREQ.
    Ping,
    /// DISCONNECT.
    Disconnect,
    /// A packet that only a server sends.
    ServersOwn,
}

/// What CONNECT says.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) client_id: String,
    /// Zero means none.
    pub(crate) keep_alive: Duration,
}

/// What PUBLISH says.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// Zero at `QoS` 0.
    pub(crate) packet_id: u16,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

/// How a CONNECT is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// Accepted, with no session.
    Accepted,
    /// Refused for now.
    ServerUnavailable,
    /// Refused for good.
    NotAuthorized,
}

/// Why bytes are not a packet.
#[derive(Debug)]
pub(crate) enum WireError {
    /// Larger than the limit that was given.
    TooLarge,
    /// Not this protocol.
    Malformed,
}

/// An MQTT version.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1.
    V4,
}

impl Protocol {
    /// Takes the next whole packet out of `inbox`, if there is one.
    pub(crate) fn read(
        self,
        inbox: &mut BytesMut,
        packet_bytes_max: usize,
    ) -> Result<Option<Inbound>, WireError> {
        let Protocol::V4 = self;
        match Packet::read(inbox, packet_bytes_max) {
            Ok(packet) => inbound(packet).map(Some),
            Err(Error::InsufficientBytes(_)) => Ok(None),
            Err(Error::PayloadSizeLimitExceeded(_)) => Err(WireError::TooLarge),
            Err(_) => Err(WireError::Malformed),
        }
    }

    /// Writes CONNACK.
    pub(crate) fn connack(self, welcome: Welcome, out: &mut BytesMut) {
        let Protocol::V4 = self;
        let code = match welcome {
            Welcome::Accepted => v4::ConnectReturnCode::Success,
            Welcome::ServerUnavailable => v4::ConnectReturnCode::ServiceUnavailable,
            Welcome::NotAuthorized => v4::ConnectReturnCode::NotAuthorized,
        };
        // bytes of the fixed header and of the variable header (MQTT 3.1.1, section 3.2)
        out.put_slice(&[0x20, 2, 0, code as u8]);
    }

    /// Writes PUBACK or PUBREC.
    pub(crate) fn ack(self, ack: Ack, out: &mut BytesMut) {
        let Protocol::V4 = self;
        match ack {
            Ack::Puback(packet_id) => put_with_id(0x40, packet_id, out),
            Ack::Pubrec(packet_id) => put_with_id(0x50, packet_id, out),
        }
    }

    /// Writes PUBCOMP.
    pub(crate) fn pubcomp(self, packet_id: u16, out: &mut BytesMut) {
        let Protocol::V4 = self;
        put_with_id(0x70, packet_id, out);
    }

    /// Writes a SUBACK that refuses each of `filters` (0x80).
    pub(crate) fn suback_refusing(self, packet_id: u16, filters: usize, out: &mut BytesMut) {
        let Protocol::V4 = self;
        let refusals = vec![v4::SubscribeReasonCode::Failure; filters];
        v4::SubAck::new(packet_id, refusals)
            .write(out)
            .expect("invariant: a SUBACK is never longer than its SUBSCRIBE");
    }

    /// Writes UNSUBACK.
    pub(crate) fn unsuback(self, packet_id: u16, out: &mut BytesMut) {
        let Protocol::V4 = self;
        put_with_id(0xb0, packet_id, out);
    }

    /// Writes PINGRESP.
    pub(crate) fn pingresp(self, out: &mut BytesMut) {
        let Protocol::V4 = self;
        out.put_slice(&[0xd0, 0]);
    }
}

/// A packet of four bytes: type, length 2, packet identifier (MQTT 3.1.1, sections 3.4 to 3.7).
fn put_with_id(first_byte: u8, packet_id: u16, out: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    out.put_slice(&[first_byte, 2, high, low]);
}

fn inbound(packet: Packet) -> Result<Inbound, WireError> {
    Ok(match packet {
        Packet::Connect(connect) if connect.protocol != Level::V4 => {
            return Err(WireError::Malformed);
        }
        Packet::Connect(connect) => Inbound::Connect(Hello {
            client_id: connect.client_id,
            keep_alive: Duration::from_secs(connect.keep_alive.into()),
        }),
        Packet::Publish(publish) => Inbound::Publish(Publication {
            topic: publish.topic,
            payload: publish.payload,
            packet_id: publish.pkid,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
        }),
        Packet::PubRel(pubrel) => Inbound::Pubrel(pubrel.pkid),
        Packet::Subscribe(subscribe) => Inbound::Subscribe(subscribe.pkid, subscribe.filters.len()),
        Packet::Unsubscribe(unsubscribe) => Inbound::Unsubscribe(unsubscribe.pkid),
        Packet::PingReq => Inbound::Ping,
        Packet::Disconnect => Inbound::Disconnect,
        Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp => Inbound::ServersOwn,
    })
}
