//! Can bytes from a client do more than close its own connection?

use super::wire::{self, Connect, packet, publish, publish_with};
use super::*;
use crate::local::packet::{Frame, Version, frame, parse};

#[tokio::test(start_paused = true)]
async fn what_the_standard_forbids_closes_the_connection() {
    let bench = Bench::new();
    let mut witness = bench.subscriber("w", "#", 0).await;
    let forbidden: &[(&str, Vec<u8>)] = &[
        ("second CONNECT", Connect::clean("c").bytes()),
        ("CONNACK", vec![0x20, 2, 0, 0]),
        ("SUBACK", vec![0x90, 3, 0, 1, 0]),
        ("PINGRESP", wire::PINGRESP.to_vec()),
        ("type 0", vec![0, 0]),
        ("type 15", vec![0xF0, 0]),
        ("PUBREL with wrong flags", vec![0x60, 2, 0, 1]),
        (
            "SUBSCRIBE with wrong flags",
            vec![0x80, 6, 0, 1, 0, 1, b'a', 0],
        ),
        (
            "UNSUBSCRIBE with wrong flags",
            vec![0xA0, 5, 0, 1, 0, 1, b'a'],
        ),
        (
            "UNSUBSCRIBE of no UTF-8",
            packet(0xA2, b"\x00\x01\x00\x01\xFF"),
        ),
        (
            "SUBSCRIBE of no UTF-8",
            packet(0x82, b"\x00\x01\x00\x01\xFF\x00"),
        ),
        ("UNSUBSCRIBE from NUL", wire::unsubscribe(1, &["a\0"])),
        (
            "UNSUBSCRIBE with packet identifier 0",
            wire::unsubscribe(0, &["a"]),
        ),
        ("SUBSCRIBE to NUL", wire::subscribe(1, &[("a\0", 0)])),
        ("PUBACK with flags", vec![0x42, 2, 0, 1]),
        ("PUBREC with flags", vec![0x51, 2, 0, 1]),
        ("PUBCOMP with flags", vec![0x78, 2, 0, 1]),
        ("DISCONNECT with flags", vec![0xE1, 0]),
        ("PINGREQ with flags", vec![0xC1, 0]),
        ("PINGREQ with a body", vec![0xC0, 1, 0]),
        ("DISCONNECT with a body", vec![0xE0, 1, 0]),
        ("PUBACK of one byte", vec![0x40, 1, 0]),
        ("PUBACK with packet identifier 0", vec![0x40, 2, 0, 0]),
        ("PUBLISH of QoS 3", publish_with(0x06, "a", "xx", 0, 0)),
        (
            "PUBLISH of QoS 0 with DUP",
            publish_with(wire::DUP, "a", "x", 0, 0),
        ),
        ("PUBLISH with packet identifier 0", publish("a", "x", 1, 0)),
        (
            "PUBLISH without packet identifier",
            packet(0x32, b"\x00\x01a"),
        ),
        ("PUBLISH to nothing", publish("", "x", 0, 0)),
        ("PUBLISH to +", publish("a/+", "x", 0, 0)),
        ("PUBLISH to #", publish("#", "x", 1, 1)),
        ("PUBLISH to NUL", publish("a\0", "x", 0, 0)),
        (
            "PUBLISH to a long topic",
            publish(&"a".repeat(5_000), "x", 0, 0),
        ),
        ("PUBLISH to no UTF-8", packet(0x30, b"\x00\x02\xC3\x28x")),
        (
            "PUBLISH to half of a surrogate pair",
            packet(0x30, b"\x00\x03\xED\xA0\x80x"),
        ),
        (
            "PUBLISH with a topic beyond the end",
            packet(0x30, b"\x00\x09a"),
        ),
        ("SUBSCRIBE to nothing", packet(0x82, b"\x00\x01")),
        (
            "SUBSCRIBE with packet identifier 0",
            wire::subscribe(0, &[("a", 0)]),
        ),
        ("SUBSCRIBE of QoS 3", wire::subscribe(1, &[("a", 3)])),
        (
            "SUBSCRIBE with options of MQTT 5",
            wire::subscribe(1, &[("a", 4)]),
        ),
        ("SUBSCRIBE without QoS", packet(0x82, b"\x00\x01\x00\x01a")),
        ("UNSUBSCRIBE from nothing", packet(0xA2, b"\x00\x01")),
        ("UNSUBSCRIBE of one byte", packet(0xA2, b"\x00")),
        (
            "a length of five bytes",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
        ),
        ("a packet of 256 MiB", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
    ];
    let sent_before = bench.counters.packets_sent.get();
    for (what, bytes) in forbidden {
        let mut client = bench.client("c").await;
        client.send(bytes).await;
        let closed = timeout(Duration::from_mins(1), read_packet(&mut client.stream)).await;
        assert_eq!(closed.expect(what), None, "{what}");
        client.ended().await.unwrap();
    }
    let sent = bench.counters.packets_sent.get() - sent_before;
    assert_eq!(sent, forbidden.len() as u64, "a CONNACK for each");
    witness.ping().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_proper_connect_is_closed_without_an_answer() {
    let bench = Bench::new();
    let mut impossible_flags = Connect::clean("c").bytes();
    impossible_flags[9] |= 1;
    let mut password_alone = Connect::clean("c").bytes();
    password_alone[9] |= 0x40;
    let mut will_qos_without_will = Connect::clean("c").bytes();
    will_qos_without_will[9] |= 0x08;
    let will_to_a_wildcard = Connect {
        will: Some(("a/#", "x", 0, false)),
        ..Connect::clean("c")
    };
    let with_will = Connect {
        will: Some(("will", "x", 0, false)),
        ..Connect::clean("c")
    };
    let mut no_utf8_in_will = with_will.bytes();
    no_utf8_in_will[17] = 0xFF;
    let mut no_utf8_in_id = Connect::clean("c").bytes();
    no_utf8_in_id[14] = 0xFF;
    let mut will_without_flag = with_will.bytes();
    will_without_flag[9] &= !0x04;
    let nul_in_will = Connect {
        will: Some(("a\0", "x", 0, false)),
        ..Connect::clean("c")
    };
    let mut with_flags = Connect::clean("c").bytes();
    with_flags[0] |= 1;
    // Connect flags that are set besides, and what follows the client identifier.
    let with = |flags: u8, more: &[u8]| {
        let mut connect = Connect::clean("c").bytes();
        connect[9] |= flags;
        connect[1] += u8::try_from(more.len()).unwrap();
        connect.extend(more);
        connect
    };
    for bytes in [
        no_utf8_in_will,
        no_utf8_in_id,
        will_without_flag,
        nul_in_will.bytes(),
        with_flags,
        with(0x04, b""),                      // will: topic and payload missing
        with(0x04, b"\0\x01w"),               // will: payload missing
        with(0x20, b""),                      // retained will without will
        with(0x80, b""),                      // user name missing
        with(0x80, b"\0\x01\xFF"),            // user name of no UTF-8
        with(0x80, b"\0\x01\0"),              // NUL in the user name
        with(0x00, b"\0\x01u"),               // user name without flag
        with(0xC0, b"\0\x01u"),               // password missing
        with(0x80, b"\0\x01u\0\x01p"),        // password without flag
        with(0xC0, b"\0\x01u\0\x01p\0\x01x"), // more than the flags say
        wire::PINGREQ.to_vec(),
        publish(ROUTED, "x", 1, 1),
        Connect::clean("c").bytes_as("HTTP", 4),
        Connect::clean("a\0b").bytes(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        impossible_flags,
        password_alone,
        will_qos_without_will,
        will_to_a_wildcard.bytes(),
    ] {
        let mut client = bench.open();
        client.send(&bytes).await;
        client.expect_closed().await;
        client.ended().await.unwrap();
    }
    assert!(bench.spool.stored().is_empty());
    assert_eq!(bench.counters.packets_sent.get(), 0);
}

/// One packet of each kind that a client of MQTT 3.1.1 may send.
fn every_kind_of_4() -> Vec<Vec<u8>> {
    let connect = Connect {
        will: Some(("will", "payload", 2, true)),
        ..Connect::persistent("client")
    };
    vec![
        connect.bytes(),
        connect.bytes_as("MQIsdp", 3),
        publish("a/b", "payload", 0, 0),
        publish("a/b", "payload", 2, 513),
        wire::puback(513),
        wire::pubrec(513),
        wire::pubrel(513),
        wire::pubcomp(513),
        wire::subscribe(513, &[("a/+", 1), ("b/#", 2)]),
        wire::unsubscribe(513, &["a/+", "b/#"]),
        wire::PINGREQ.to_vec(),
        wire::DISCONNECT.to_vec(),
    ]
}

/// One packet of each kind that a client of MQTT 5 may send.
fn every_kind_of_5() -> Vec<Vec<u8>> {
    let in_message = [
        wire5::payload_format(1),
        wire5::message_expiry(9),
        wire5::content_type("text"),
        wire5::response_topic("answers"),
        wire5::correlation_data("7"),
        wire5::user_property("name", "value"),
    ]
    .concat();
    let in_will = [&wire5::will_delay(9)[..], &in_message].concat();
    let will = wire5::Will {
        topic: "will",
        payload: "payload",
        properties: &in_will,
    };
    let in_connect = [
        wire5::session_expiry(9),
        wire5::receive_maximum(9),
        wire5::maximum_packet_size(900),
        wire5::user_property("name", "value"),
    ]
    .concat();
    let in_publish = [&wire5::topic_alias(3)[..], &in_message].concat();
    let in_subscribe = [wire5::subscription_id(9), wire5::user_property("", "")].concat();
    vec![
        wire5::connect("client", true, &in_connect, Some(will)),
        wire5::publish((0, 0), "a/b", &in_publish, "payload"),
        wire5::publish((2, 513), "", &in_publish, "payload"),
        wire::puback(513),
        wire5::because(0x50, 513, 0x80),
        wire::packet(0x62, &[2, 1, 0x92, 5, 0x1F, 0, 2, b'n', b'o']),
        wire::pubcomp(513),
        wire5::subscribe(513, &in_subscribe, &[("a/+", 0x2D), ("$share/g/b", 2)]),
        wire5::unsubscribe(513, &["a/+", "$share/g/b"]),
        wire::PINGREQ.to_vec(),
        wire5::disconnect(4, &wire5::session_expiry(9)),
    ]
}

/// All of them, with the version.
fn every_kind() -> Vec<(Version, Vec<u8>)> {
    let four = every_kind_of_4().into_iter();
    let five = every_kind_of_5().into_iter();
    four.map(|packet| (Version::V4, packet))
        .chain(five.map(|packet| (Version::V5, packet)))
        .collect()
}

#[test]
fn a_packet_cut_anywhere_is_incomplete_and_a_shortened_one_is_malformed_or_sound() {
    for (version, packet) in every_kind() {
        assert_eq!(frame(&packet, 1_000), Ok(Frame::Complete(packet.len())));
        assert!(parse(version, &packet).is_ok(), "{packet:?}");
        for cut in 0..packet.len() {
            let missing = frame(&packet[..cut], 1_000);
            assert!(
                matches!(missing, Ok(Frame::Missing(1..))),
                "{cut} of {packet:?}"
            );
        }
        // The same cuts with a length that says so: whatever they are, they do not panic.
        for cut in 2..packet.len() {
            let mut shortened = packet[..cut].to_vec();
            shortened[1] = u8::try_from(cut - 2).unwrap();
            assert_eq!(frame(&shortened, 1_000), Ok(Frame::Complete(cut)));
            drop(parse(version, &shortened));
        }
    }
}

#[test]
fn random_changes_of_packets_never_panic() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let (version, mut packet) = random.choice(every_kind()).unwrap();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..packet.len());
            packet[at] = random.u8(..);
        }
        if let Ok(Frame::Complete(size)) = frame(&packet, 1_000) {
            drop(parse(version, &packet[..size]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn random_packets_after_connect_harm_nobody_else() {
    let bench = Bench::new();
    let mut witness = bench.client("witness").await;
    let mut random = fastrand::Rng::with_seed(2);
    for round in 0..600 {
        let (mut bytes, kinds) = if round % 2 == 0 {
            (Connect::clean("c").bytes(), every_kind_of_4())
        } else {
            (wire5::connect("c", true, &[], None), every_kind_of_5())
        };
        for _ in 0..random.usize(1..20) {
            let mut packet = random.choice(&kinds).unwrap().clone();
            if random.u8(..4) == 0 {
                let at = random.usize(..packet.len());
                packet[at] = random.u8(..);
            }
            bytes.extend(packet);
        }
        let mut client = bench.open();
        client.send(&bytes).await;
        client.ended().await.unwrap();
        witness.ping().await;
    }
}
