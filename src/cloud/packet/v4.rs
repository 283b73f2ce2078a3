//! What MQTT 3.1.1 says in its own way.

use bytes::BytesMut;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet};

use super::{Answer, Malformed, PACKET_BYTES_MAX, Refusal, Terms, written};

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
        Packet::Publish(_) => Answer::Unexpected("PUBLISH"),
        Packet::SubAck(_) => Answer::Unexpected("SUBACK"),
        Packet::Disconnect => Answer::Unexpected("DISCONNECT"),
        _ => Answer::Unexpected("a packet only clients send"),
    }))
}

fn welcome(code: ConnectReturnCode) -> Result<Terms, Refusal> {
    let reason = match code {
        ConnectReturnCode::Success => return Ok(Terms::default()),
        ConnectReturnCode::RefusedProtocolVersion => return Err(Refusal::Version),
        ConnectReturnCode::NotAuthorized => return Err(Refusal::NotAuthorized),
        ConnectReturnCode::BadClientId => "client identifier rejected",
        ConnectReturnCode::ServiceUnavailable => "server unavailable",
        ConnectReturnCode::BadUserNamePassword => "bad user name or password",
    };
    Err(Refusal::Other(reason.to_owned()))
}

/// Writes a CONNECT with a clean session.
pub(super) fn write_connect(
    buffer: &mut BytesMut,
    client_id: &str,
    keep_alive_s: u16,
) -> Result<(), Malformed> {
    let mut connect = Connect::new(client_id);
    connect.keep_alive = keep_alive_s;
    connect.clean_session = true;
    written(connect.write(buffer))
}
