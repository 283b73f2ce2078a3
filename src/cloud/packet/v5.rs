//! What MQTT 5 says in its own way.
//!
//! Frames are cut here and not by the codec: it takes the short forms of CONNACK and DISCONNECT for incomplete
//! packets, and would swallow them without a word.

use bytes::{BufMut, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PubAckReason,
    check,
};

use super::{Answer, Closing, Malformed, PACKET_BYTES_MAX, Refusal, Rejection, Terms, v4};

/// First byte of a CONNACK and of a DISCONNECT (MQTT 5, 2.1.2).
const CONNACK: u8 = 0x20;
const DISCONNECT: u8 = 0xE0;

/// Takes the next whole packet out of `buffer`.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
    let packet_bytes_max = u32::try_from(PACKET_BYTES_MAX).ok();
    let header = match check(buffer.iter(), packet_bytes_max) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(malformed(&error)),
    };
    let mut frame = buffer.split_to(header.frame_length());
    match *frame {
        // A server of MQTT 3.1.1 refuses in its own form (MQTT 5, 3.1.2.2).
        [CONNACK, 2, ..] => return v4::read(&mut frame),
        // A reason without properties, or not even a reason (MQTT 5, 3.14.2).
        [DISCONNECT, 1, reason] => frame = BytesMut::from(&[DISCONNECT, 2, reason, 0][..]),
        [DISCONNECT, 0] => frame = BytesMut::from(&[DISCONNECT, 2, 0, 0][..]),
        _ => {}
    }
    let packet = Packet::read(&mut frame, packet_bytes_max).map_err(|error| malformed(&error))?;
    Ok(Some(match packet {
        Packet::ConnAck(connack) => Answer::Connected(welcome(connack)),
        Packet::PubAck(puback) => match rejection(puback.reason) {
            None => Answer::Acknowledged(puback.pkid),
            Some(rejection) => Answer::Rejected(puback.pkid, rejection),
        },
        Packet::PingResp(_) => Answer::Pong,
        Packet::Disconnect(disconnect) => Answer::Closing(closing(disconnect)),
        Packet::Publish(_) => Answer::Unexpected("PUBLISH"),
        Packet::SubAck(_) => Answer::Unexpected("SUBACK"),
        _ => Answer::Unexpected("a packet only clients send"),
    }))
}

fn malformed(error: &Error) -> Malformed {
    Malformed(error.to_string())
}

fn welcome(connack: ConnAck) -> Result<Terms, Refusal> {
    match connack.code {
        ConnectReturnCode::Success => {}
        ConnectReturnCode::UnsupportedProtocolVersion => return Err(Refusal::Version),
        ConnectReturnCode::NotAuthorized => return Err(Refusal::NotAuthorized),
        other => {
            let said = connack.properties.and_then(|all| all.reason_string);
            return Err(Refusal::Other(words(&other, said)));
        }
    }
    let Some(properties) = connack.properties else {
        return Ok(Terms::default());
    };
    if properties.max_qos == Some(0) {
        let reason = "it takes messages at QoS 0 only, and so acknowledges none";
        return Err(Refusal::Other(reason.to_owned()));
    }
    let default = Terms::default();
    Ok(Terms {
        receive_max: properties.receive_max.unwrap_or(default.receive_max),
        keep_alive_s: properties.server_keep_alive.filter(|s| *s > 0),
        packet_bytes_max: properties.max_packet_size,
    })
}

/// Why a message was not accepted; `None` if it was. Nobody being subscribed is no reason to send it again.
fn rejection(reason: PubAckReason) -> Option<Rejection> {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        PubAckReason::UnspecifiedError => Some(Rejection::Unspecified),
        PubAckReason::ImplementationSpecificError => Some(Rejection::ImplementationSpecific),
        PubAckReason::NotAuthorized => Some(Rejection::NotAuthorized),
        PubAckReason::TopicNameInvalid => Some(Rejection::TopicNameInvalid),
        PubAckReason::PacketIdentifierInUse => Some(Rejection::PacketIdentifierInUse),
        PubAckReason::QuotaExceeded => Some(Rejection::QuotaExceeded),
        PubAckReason::PayloadFormatInvalid => Some(Rejection::PayloadFormatInvalid),
    }
}

fn closing(disconnect: Disconnect) -> Closing {
    let said = disconnect.properties.and_then(|all| all.reason_string);
    match disconnect.reason_code {
        DisconnectReasonCode::SessionTakenOver => Closing::TakenOver,
        DisconnectReasonCode::NotAuthorized => Closing::NotAuthorized,
        fault @ (DisconnectReasonCode::MalformedPacket
        | DisconnectReasonCode::ProtocolError
        | DisconnectReasonCode::TopicNameInvalid
        | DisconnectReasonCode::PacketTooLarge
        | DisconnectReasonCode::PayloadFormatInvalid
        | DisconnectReasonCode::QoSNotSupported) => Closing::Faulted(words(&fault, said)),
        other => Closing::Because(words(&other, said)),
    }
}

/// The specification's name of a reason, from the codec's, and what the server `said`.
fn words(reason: &impl std::fmt::Debug, said: Option<String>) -> String {
    let mut words = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    if let Some(said) = said {
        words.push_str(": ");
        words.push_str(&said);
    }
    words
}

/// Writes a CONNECT with a clean start; the session ends with the connection.
pub(super) fn write_connect(
    buffer: &mut BytesMut,
    client_id: &str,
    keep_alive_s: u16,
) -> Result<(), Malformed> {
    let connect = Connect {
        keep_alive: keep_alive_s,
        client_id: client_id.to_owned(),
        clean_start: true,
        properties: None,
    };
    let written = connect.write(&None, &None, buffer);
    written.map(drop).map_err(|error| malformed(&error))
}

/// Writes the properties of a PUBLISH: none.
pub(super) fn put_no_properties(buffer: &mut BytesMut) {
    buffer.put_u8(0);
}
