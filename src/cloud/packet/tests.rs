//! Packets as bytes, in both versions.

use proptest::prelude::*;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::Packet;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::Packet as Packet5;

use super::*;
use crate::attributes::Attribute;

fn read4(bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
    read(MqttVersion::V311, &mut BytesMut::from(bytes))
}

/// The one answer in `bytes`, all of which it takes.
fn read5(bytes: &[u8]) -> Answer {
    let mut buffer = BytesMut::from(bytes);
    for len in 0..bytes.len() {
        let mut cut = BytesMut::from(&bytes[..len]);
        assert_eq!(read(MqttVersion::V5, &mut cut).unwrap(), None);
        assert_eq!(cut.len(), len, "what is cut waits for the rest");
    }
    let answer = read(MqttVersion::V5, &mut buffer).unwrap().unwrap();
    assert!(buffer.is_empty());
    answer
}

#[test]
fn what_we_write_reads_back_as_the_same_publish() {
    for len in [0, 1, 100, 127, 128, 16_383, 16_384, 131_072] {
        for dup in [false, true] {
            let payload = vec![b'x'; len];
            let publish = Publish {
                topic: "sensors/ä",
                payload: &payload,
                attributes: Attributes::default(),
                expiry_s: None,
                packet_id: 77,
                dup,
            };
            let mut buffer = BytesMut::new();
            publish.write(MqttVersion::V311, &mut buffer);
            let Ok(Packet::Publish(read)) = Packet::read(&mut buffer, 1 << 20) else {
                panic!("not a PUBLISH");
            };
            assert_eq!(
                (read.topic.as_str(), &read.payload[..]),
                ("sensors/ä", &payload[..])
            );
            assert_eq!((read.pkid, read.dup), (77, dup));
            assert_eq!((read.qos, read.retain), (QoS::AtLeastOnce, false));
            assert!(buffer.is_empty());

            publish.write(MqttVersion::V5, &mut buffer);
            assert!(buffer.len() <= "sensors/ä".len() + len + PUBLISH_OVERHEAD_BYTES);
            let Ok(Packet5::Publish(read)) = Packet5::read(&mut buffer, None) else {
                panic!("not a PUBLISH");
            };
            assert_eq!(
                (&read.topic[..], &read.payload[..]),
                ("sensors/ä".as_bytes(), &payload[..])
            );
            assert_eq!((read.pkid, read.dup, read.properties), (77, dup, None));
            assert_eq!((read.qos, read.retain), (QoS5::AtLeastOnce, false));
            assert!(buffer.is_empty());
        }
    }
}

/// Of several lengths, in one order that the codec keeps.
fn attributes(value_len: usize) -> Vec<u8> {
    let value = "v".repeat(value_len);
    let mut bytes = Vec::new();
    for attribute in [
        Attribute::PayloadFormat(1),
        Attribute::ExpiryS(100),
        Attribute::ContentType("text/plain"),
        Attribute::ResponseTopic("answers"),
        Attribute::CorrelationData(&[0, 255]),
        Attribute::UserProperty("b", "1"),
        Attribute::UserProperty("a", &value),
        Attribute::UserProperty("b", "1"),
    ] {
        attribute.append_to(&mut bytes);
    }
    bytes
}

#[test]
fn attributes_are_written_with_the_time_that_is_left_and_over_3_1_1_not_at_all() {
    for value_len in [0, 20, 40, 60, 127, 128, 16_300, 16_384, 65_000] {
        let attributes = attributes(value_len);
        let publish = Publish {
            topic: "t",
            payload: b"x",
            attributes: Attributes::new(&attributes),
            expiry_s: Some(42),
            packet_id: 7,
            dup: false,
        };
        let mut buffer = BytesMut::new();
        publish.write(MqttVersion::V5, &mut buffer);
        let own = 1 + attributes.len() + 1 + PUBLISH_OVERHEAD_BYTES;
        assert!(buffer.len() < own + length_bytes(attributes.len()));
        let Ok(Packet5::Publish(read)) = Packet5::read(&mut buffer, None) else {
            panic!("not a PUBLISH");
        };
        assert_eq!(&read.payload[..], b"x");
        let properties = read.properties.unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("b", "1"),
            pair("a", &"v".repeat(value_len)),
            pair("b", "1"),
        ];
        assert_eq!(properties.user_properties, expected);
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.response_topic.as_deref(), Some("answers"));
        assert_eq!(properties.correlation_data.as_deref(), Some(&[0, 255][..]));
        assert_eq!(properties.payload_format_indicator, Some(1));
        assert_eq!(properties.message_expiry_interval, Some(42));
        assert_eq!(properties.topic_alias, None);

        publish.write(MqttVersion::V311, &mut buffer);
        assert_eq!(buffer[..], *b"\x32\x06\x00\x01t\x00\x07x");
    }
}

#[test]
fn attributes_of_a_message_from_the_cloud_are_read_in_their_order() {
    let attributes = attributes(3);
    let publish = Publish {
        topic: "a/b",
        payload: b"on",
        attributes: Attributes::new(&attributes),
        expiry_s: None,
        packet_id: 7,
        dup: false,
    };
    let mut buffer = BytesMut::new();
    publish.write(MqttVersion::V5, &mut buffer);
    let Answer::Message(read) = read5(&buffer) else {
        panic!("not a message");
    };
    assert_eq!(read.attributes, attributes);
}

#[test]
fn answers_are_read_one_by_one_and_a_cut_one_waits_for_the_rest() {
    let mut buffer = BytesMut::from(&[0x20, 2, 0, 0, 0x40, 2, 1, 2, 0xD0, 0, 0x40, 2, 0][..]);
    let mut next = |more: &[u8]| {
        buffer.extend_from_slice(more);
        read(MqttVersion::V311, &mut buffer).unwrap()
    };
    assert_eq!(next(&[]), Some(Answer::Connected(Ok(Terms::default()))));
    assert_eq!(next(&[]), Some(Answer::Acknowledged(258)));
    assert_eq!(next(&[]), Some(Answer::Pong));
    assert_eq!(next(&[]), None);
    assert_eq!(next(&[9]), Some(Answer::Acknowledged(9)));
}

#[test]
fn nonsense_is_an_error_and_a_refusal_has_words() {
    assert!(read4(&[0xFF; 8]).is_err());
    assert!(read(MqttVersion::V5, &mut BytesMut::from(&[0xFF; 8][..])).is_err());
    let refused = |refusal| Some(Answer::Connected(Err(refusal)));
    assert_eq!(
        read4(&[0x20, 2, 0, 5]).unwrap(),
        refused(Refusal::NotAuthorized)
    );
    assert_eq!(read4(&[0x20, 2, 0, 1]).unwrap(), refused(Refusal::Version));
    let unavailable = Refusal::Busy("server unavailable".to_owned());
    assert_eq!(
        read4(&[0x20, 2, 0, 3]).unwrap(),
        refused(unavailable.clone())
    );
    assert_eq!(
        read5(&[0x20, 3, 0, 0x88, 0]),
        Answer::Connected(Err(unavailable))
    );
}

#[test]
fn a_refusal_of_version_5_is_understood_in_the_old_form_and_the_new() {
    for bytes in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0]] {
        assert_eq!(read5(bytes), Answer::Connected(Err(Refusal::Version)));
    }
}

#[test]
fn the_terms_of_a_connection_are_read_and_qos_0_is_not_enough() {
    let properties = [0x21, 0, 10, 0x13, 0, 30, 0x27, 0, 2, 72, 0];
    let mut connack = vec![0x20, 14, 0, 0, 11];
    connack.extend(properties);
    let terms = Terms {
        receive_max: 10,
        keep_alive_s: Some(30),
        packet_bytes_max: Some(149_504),
    };
    assert_eq!(read5(&connack), Answer::Connected(Ok(terms)));
    assert_eq!(
        read5(&[0x20, 3, 0, 0, 0]),
        Answer::Connected(Ok(Terms::default()))
    );
    let answer = read5(&[0x20, 5, 0, 0, 2, 0x24, 0]);
    assert!(
        matches!(answer, Answer::Connected(Err(Refusal::Other(_)))),
        "{answer:?}"
    );
}

#[test]
fn terms_of_zero_that_nothing_could_fulfil_are_taken_for_none() {
    let properties = [0x21, 0, 0, 0x13, 0, 0, 0x27, 0, 0, 0, 0];
    let mut connack = vec![0x20, 14, 0, 0, 11];
    connack.extend(properties);
    let none = Answer::Connected(Ok(Terms::default()));
    assert_eq!(read5(&connack), none);
}

#[test]
fn an_acknowledgement_accepts_or_says_why_not() {
    assert_eq!(read5(&[0x40, 2, 0, 7]), Answer::Acknowledged(7));
    assert_eq!(read5(&[0x40, 3, 0, 7, 0x10]), Answer::Acknowledged(7));
    let rejected = |rejection| Answer::Rejected(7, rejection);
    assert_eq!(
        read5(&[0x40, 3, 0, 7, 0x97]),
        rejected(Rejection::QuotaExceeded)
    );
    assert_eq!(
        read5(&[0x40, 4, 0, 7, 0x87, 0]),
        rejected(Rejection::NotAuthorized)
    );
    assert_eq!(
        read5(&[0x40, 4, 0, 7, 0x90, 0]),
        rejected(Rejection::TopicNameInvalid)
    );
}

#[test]
fn a_disconnect_has_its_reason_in_the_short_form_and_the_long() {
    for bytes in [&[0xE0, 1, 0x8E][..], &[0xE0, 2, 0x8E, 0]] {
        assert_eq!(read5(bytes), Answer::Closing(Closing::TakenOver));
    }
    let because = |words: &str| Answer::Closing(Closing::Because(words.to_owned()));
    assert_eq!(read5(&[0xE0, 1, 0x8B]), because("server shutting down"));
    for fault in [0x81, 0x82, 0x90, 0x95, 0x99, 0x9B] {
        let answer = read5(&[0xE0, 1, fault]);
        let faulted = matches!(answer, Answer::Closing(Closing::Faulted(_)));
        assert!(faulted, "{fault:#x}: {answer:?}");
    }
    let denied = Answer::Closing(Closing::NotAuthorized);
    assert_eq!(read5(&[0xE0, 1, 0x87]), denied);
    assert_eq!(read5(&[0xE0, 0]), because("normal disconnection"));
    let told = [0xE0, 7, 0x97, 5, 0x1F, 0, 2, b'n', b'o'];
    assert_eq!(read5(&told), because("quota exceeded: no"));
}

#[test]
fn a_message_from_the_cloud_is_read_in_both_versions() {
    let expected = |packet_id| Incoming {
        topic: "a/b".to_owned(),
        attributes: Vec::new(),
        payload: Bytes::from_static(b"on"),
        packet_id,
    };
    let at_least_once = [0x32, 9, 0, 3, b'a', b'/', b'b', 0, 7, b'o', b'n'];
    let read = read4(&at_least_once).unwrap();
    assert_eq!(read, Some(Answer::Message(expected(Some(7)))));
    let with_properties = [0x3B, 10, 0, 3, b'a', b'/', b'b', 0, 7, 0, b'o', b'n'];
    assert_eq!(read5(&with_properties), Answer::Message(expected(Some(7))));
    let at_most_once = [0x30, 8, 0, 3, b'a', b'/', b'b', 0, b'o', b'n'];
    assert_eq!(read5(&at_most_once), Answer::Message(expected(None)));
    let mut puback = BytesMut::new();
    write_puback(&mut puback, 7);
    assert_eq!(puback[..], [0x40, 2, 0, 7]);
}

#[test]
fn a_suback_says_of_each_filter_why_it_was_refused() {
    let read = read4(&[0x90, 4, 0xFF, 0xFF, 1, 0x80]).unwrap();
    let refused = Some("failure (0x80)".to_owned());
    assert_eq!(
        read,
        Some(Answer::Subscribed(u16::MAX, vec![None, refused]))
    );
    let refused = Some("not authorized (0x87)".to_owned());
    assert_eq!(
        read5(&[0x90, 5, 0xFF, 0xFF, 0, 0x87, 0]),
        Answer::Subscribed(u16::MAX, vec![refused, None])
    );
}

proptest! {
    #[test]
    fn whatever_the_cloud_sends_is_an_answer_or_an_error(
        first in prop::sample::select(&[0x20_u8, 0x30, 0x32, 0x34, 0x3B, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0, 0x10, 0x82, 0xA2, 0xC0][..]),
        rest in prop::collection::vec(prop_oneof![any::<u8>(), 0..48_u8, Just(0)], 0..40),
        exact in any::<bool>(),
    ) {
        let mut bytes = vec![first];
        if exact {
            bytes.push(u8::try_from(rest.len()).unwrap());
        }
        bytes.extend(&rest);
        for version in [MqttVersion::V311, MqttVersion::V5] {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = read(version, &mut buffer) {}
        }
    }
}
