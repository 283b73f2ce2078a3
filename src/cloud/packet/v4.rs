//! What MQTT 3.1.1 says in its own way.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, LastWill, Packet, Publish, SubAck, Subscribe, SubscribeFilter,
    SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS};

use super::{Answer, Greeting, Incoming, Malformed, PACKET_BYTES_MAX, Refusal, Terms, written};

/// Takes the next whole packet out of `buffer`.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
    let packet = match Packet::read(buffer, PACKET_BYTES_MAX) {
        Ok(packet) => packet,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed(error.to_string())),
    };
    Ok(Some(match packet {
        Packet::ConnAck(connack) => Answer::Connected(welcome(connack.code)),
        Packet::PubAck(puback) => Answer::Acknowledged(puback.pkid),
        Packet::PingResp => Answer::Pong,
        Packet::Publish(publish) => incoming(publish),
        Packet::SubAck(suback) => subscribed(suback),
        Packet::Disconnect => Answer::Unexpected("DISCONNECT"),
        _ => Answer::Unexpected("a packet only clients send"),
    }))
}

fn welcome(code: ConnectReturnCode) -> Result<Terms, Refusal> {
    let reason = match code {
        ConnectReturnCode::Success => return Ok(Terms::default()),
        ConnectReturnCode::RefusedProtocolVersion => return Err(Refusal::Version),
        ConnectReturnCode::NotAuthorized => return Err(Refusal::NotAuthorized),
        ConnectReturnCode::ServiceUnavailable => {
            return Err(Refusal::Busy("server unavailable".to_owned()));
        }
        ConnectReturnCode::BadClientId => "client identifier rejected",
        ConnectReturnCode::BadUserNamePassword => "bad user name or password",
    };
    Err(Refusal::Other(reason.to_owned()))
}

fn incoming(publish: Publish) -> Answer {
    let packet_id = match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(publish.pkid),
        QoS::ExactlyOnce => return Answer::Unexpected("a PUBLISH at QoS 2"),
    };
    Answer::Message(Incoming {
        topic: publish.topic,
        attributes: Vec::new(),
        payload: publish.payload,
        packet_id,
    })
}

fn subscribed(suback: SubAck) -> Answer {
    let refused = suback.return_codes.into_iter().map(|code| match code {
        SubscribeReasonCode::Success(_) => None,
        SubscribeReasonCode::Failure => Some("failure (0x80)".to_owned()),
    });
    Answer::Subscribed(suback.pkid, refused.collect())
}

/// Writes a CONNECT.
pub(super) fn write_connect(
    buffer: &mut BytesMut,
    greeting: Greeting<'_>,
) -> Result<(), Malformed> {
    let mut connect = Connect::new(greeting.client_id);
    connect.keep_alive = greeting.keep_alive_s;
    connect.clean_session = greeting.session_expiry_s == 0;
    connect.last_will = greeting
        .will
        .map(|will| LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true));
    written(connect.write(buffer))
}

/// Writes a SUBSCRIBE.
pub(super) fn write_subscribe(
    buffer: &mut BytesMut,
    packet_id: u16,
    filters: &[String],
) -> Result<(), Malformed> {
    let filters = filters
        .iter()
        .map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
    let mut subscribe = Subscribe::new_many(filters);
    subscribe.pkid = packet_id;
    written(subscribe.write(buffer))
}
