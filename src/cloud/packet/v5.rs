//! What MQTT 5 says in its own way.
//!
//! Frames are cut here and not by the codec: it takes the short forms of CONNACK and DISCONNECT for incomplete
//! packets, and would swallow them without a word.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Filter, LastWill, Packet, PubAckReason, Publish, PublishProperties, SubAck, Subscribe,
    SubscribeReasonCode, check,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use crate::attributes::Attribute;

use super::{
    Answer, Closing, Greeting, Incoming, Malformed, PACKET_BYTES_MAX, Refusal, Rejection, Terms, v4,
};

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
        Packet::Publish(publish) => incoming(publish)?,
        Packet::SubAck(suback) => subscribed(suback),
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
            let words = words(&other, said);
            return Err(match other {
                ConnectReturnCode::QuotaExceeded
                | ConnectReturnCode::ConnectionRateExceeded
                | ConnectReturnCode::ServerBusy
                | ConnectReturnCode::ServerUnavailable => Refusal::Busy(words),
                _ => Refusal::Other(words),
            });
        }
    }
    let Some(properties) = connack.properties else {
        return Ok(Terms::default());
    };
    if properties.max_qos == Some(0) {
        let reason = "it takes messages at QoS 0 only, and so acknowledges none";
        return Err(Refusal::Other(reason.to_owned()));
    }
    // Zero is forbidden (MQTT 5, 3.2.2.3), but for the keep alive, where it is no limit either. No message would fit, and
    // each would become a dead letter.
    let default = Terms::default();
    let receive_max = properties.receive_max.filter(|max| *max > 0);
    Ok(Terms {
        receive_max: receive_max.unwrap_or(default.receive_max),
        keep_alive_s: properties.server_keep_alive.filter(|s| *s > 0),
        packet_bytes_max: properties.max_packet_size.filter(|max| *max > 0),
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

fn incoming(publish: Publish) -> Result<Answer, Malformed> {
    let packet_id = match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(publish.pkid),
        QoS::ExactlyOnce => return Ok(Answer::Unexpected("a PUBLISH at QoS 2")),
    };
    let topic = String::from_utf8(publish.topic.into());
    let topic = topic.map_err(|_| Malformed("a topic that is not UTF-8".to_owned()))?;
    Ok(Answer::Message(Incoming {
        topic,
        attributes: publish
            .properties
            .as_ref()
            .map_or_else(Vec::new, attributes),
        payload: publish.payload,
        packet_id,
    }))
}

/// What is for the readers of a message; the codec keeps the order of user properties.
fn attributes(properties: &PublishProperties) -> Vec<u8> {
    let text = Option::as_deref;
    let user_properties = properties.user_properties.iter();
    let all = [
        properties
            .payload_format_indicator
            .map(Attribute::PayloadFormat),
        properties.message_expiry_interval.map(Attribute::ExpiryS),
        text(&properties.content_type).map(Attribute::ContentType),
        text(&properties.response_topic).map(Attribute::ResponseTopic),
        (properties.correlation_data.as_deref()).map(Attribute::CorrelationData),
    ];
    let user_properties = user_properties.map(|(name, value)| Attribute::UserProperty(name, value));
    let mut bytes = Vec::new();
    for attribute in all.into_iter().flatten().chain(user_properties) {
        attribute.append_to(&mut bytes);
    }
    bytes
}

fn subscribed(suback: SubAck) -> Answer {
    let refused = suback.return_codes.into_iter().map(|code| match code {
        SubscribeReasonCode::Success(_) => None,
        SubscribeReasonCode::NotAuthorized => Some("not authorized (0x87)".to_owned()),
        other => Some(words(&other, None)),
    });
    Answer::Subscribed(suback.pkid, refused.collect())
}

/// Writes a CONNECT.
pub(super) fn write_connect(
    buffer: &mut BytesMut,
    greeting: Greeting<'_>,
) -> Result<(), Malformed> {
    let keeps_session = greeting.session_expiry_s > 0;
    let properties = keeps_session.then(|| ConnectProperties {
        session_expiry_interval: Some(greeting.session_expiry_s),
        max_packet_size: u32::try_from(PACKET_BYTES_MAX).ok(),
        ..ConnectProperties::new()
    });
    let connect = Connect {
        keep_alive: greeting.keep_alive_s,
        client_id: greeting.client_id.to_owned(),
        clean_start: !keeps_session,
        properties,
    };
    let will = greeting
        .will
        .map(|will| LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true, None));
    let written = connect.write(&will, &None, buffer);
    written.map(drop).map_err(|error| malformed(&error))
}

/// Writes a SUBSCRIBE.
pub(super) fn write_subscribe(
    buffer: &mut BytesMut,
    packet_id: u16,
    filters: &[String],
) -> Result<(), Malformed> {
    let filters = filters
        .iter()
        .map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
    let mut subscribe = Subscribe::new_many(filters, None);
    subscribe.pkid = packet_id;
    let written = subscribe.write(buffer);
    written.map(drop).map_err(|error| malformed(&error))
}
