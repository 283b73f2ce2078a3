//! MQTT 3.1.1 packets to and from the cloud. The only importer of `rumqttc`, whose codec reads and writes all
//! packets but PUBLISH, which is written straight from the spool's bytes.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Disconnect, Packet, PingReq};

/// The largest packet the cloud may send us, in bytes. It sends acknowledgements only.
const PACKET_BYTES_MAX: usize = 1024;
/// First byte of a PUBLISH at QoS 1, and the bit that marks a repetition (MQTT 3.1.1, 3.3.1).
const PUBLISH_QOS1: u8 = 0b0011_0010;
const PUBLISH_DUP: u8 = 0b0000_1000;

/// What the cloud says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// CONNACK: accepted, or the reason in words.
    Connected(Result<(), &'static str>),
    /// PUBACK of a packet identifier.
    Acknowledged(u16),
    /// PINGRESP.
    Pong,
    /// A packet that has no business here; its name.
    Unexpected(&'static str),
}

/// Why the cloud's bytes make no sense.
#[derive(Debug, thiserror::Error)]
#[error("the cloud sent a malformed packet: {0}")]
pub(super) struct Malformed(String);

/// Takes the next whole packet out of `buffer`.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
    let packet = match Packet::read(buffer, PACKET_BYTES_MAX) {
        Ok(packet) => packet,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed(error.to_string())),
    };
    Ok(Some(match packet {
        Packet::ConnAck(connack) => Answer::Connected(match connack.code {
            ConnectReturnCode::Success => Ok(()),
            ConnectReturnCode::RefusedProtocolVersion => Err("unacceptable protocol version"),
            ConnectReturnCode::BadClientId => Err("client identifier rejected"),
            ConnectReturnCode::ServiceUnavailable => Err("server unavailable"),
            ConnectReturnCode::BadUserNamePassword => Err("bad user name or password"),
            ConnectReturnCode::NotAuthorized => Err("not authorized"),
        }),
        Packet::PubAck(puback) => Answer::Acknowledged(puback.pkid),
        Packet::PingResp => Answer::Pong,
        Packet::Publish(_) => Answer::Unexpected("PUBLISH"),
        Packet::SubAck(_) => Answer::Unexpected("SUBACK"),
        Packet::Disconnect => Answer::Unexpected("DISCONNECT"),
        _ => Answer::Unexpected("a packet only clients send"),
    }))
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

/// Writes a PINGREQ.
pub(super) fn write_ping(buffer: &mut BytesMut) -> Result<(), Malformed> {
    written(PingReq.write(buffer))
}

/// Writes a DISCONNECT.
pub(super) fn write_disconnect(buffer: &mut BytesMut) -> Result<(), Malformed> {
    written(Disconnect.write(buffer))
}

fn written(result: Result<usize, Error>) -> Result<(), Malformed> {
    result
        .map(drop)
        .map_err(|error| Malformed(error.to_string()))
}

/// A PUBLISH at QoS 1. The retain flag is never set: AWS IoT Core's usual policy does not allow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) packet_id: u16,
    pub(super) dup: bool,
}

impl Publish<'_> {
    /// Length of the packet without its fixed header.
    fn remaining_len(&self) -> usize {
        2 + self.topic.len() + 2 + self.payload.len()
    }

    /// Appends the packet.
    pub(super) fn write(&self, buffer: &mut BytesMut) {
        let mut remaining = self.remaining_len();
        buffer.reserve(remaining + 5);
        buffer.put_u8(PUBLISH_QOS1 | if self.dup { PUBLISH_DUP } else { 0 });
        loop {
            let byte = u8::try_from(remaining % 128).unwrap_or(0);
            remaining /= 128;
            buffer.put_u8(if remaining > 0 { byte | 128 } else { byte });
            if remaining == 0 {
                break;
            }
        }
        buffer.put_u16(u16::try_from(self.topic.len()).unwrap_or(u16::MAX));
        buffer.put_slice(self.topic.as_bytes());
        buffer.put_u16(self.packet_id);
        buffer.put_slice(self.payload);
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;

    use super::*;

    #[test]
    fn what_we_write_reads_back_as_the_same_publish() {
        for len in [0, 1, 100, 127, 128, 16_383, 16_384, 131_072] {
            for dup in [false, true] {
                let payload = vec![b'x'; len];
                let mut buffer = BytesMut::new();
                Publish {
                    topic: "sensors/ä",
                    payload: &payload,
                    packet_id: 77,
                    dup,
                }
                .write(&mut buffer);
                let Ok(Packet::Publish(publish)) = Packet::read(&mut buffer, 1 << 20) else {
                    panic!("not a PUBLISH");
                };
                assert_eq!(publish.topic, "sensors/ä");
                assert_eq!(publish.payload, payload);
                assert_eq!((publish.pkid, publish.dup), (77, dup));
                assert_eq!((publish.qos, publish.retain), (QoS::AtLeastOnce, false));
                assert!(buffer.is_empty());
            }
        }
    }

    #[test]
    fn answers_are_read_one_by_one_and_a_cut_one_waits_for_the_rest() {
        let mut buffer = BytesMut::from(&[0x20, 2, 0, 0, 0x40, 2, 1, 2, 0xD0, 0, 0x40, 2, 0][..]);
        assert_eq!(read(&mut buffer).unwrap(), Some(Answer::Connected(Ok(()))));
        assert_eq!(read(&mut buffer).unwrap(), Some(Answer::Acknowledged(258)));
        assert_eq!(read(&mut buffer).unwrap(), Some(Answer::Pong));
        assert_eq!(read(&mut buffer).unwrap(), None);
        buffer.put_u8(9);
        assert_eq!(read(&mut buffer).unwrap(), Some(Answer::Acknowledged(9)));
    }

    #[test]
    fn nonsense_is_an_error_and_a_refusal_has_words() {
        assert!(read(&mut BytesMut::from(&[0xFF; 8][..])).is_err());
        let mut refusal = BytesMut::from(&[0x20, 2, 0, 5][..]);
        assert_eq!(
            read(&mut refusal).unwrap(),
            Some(Answer::Connected(Err("not authorized")))
        );
    }
}
