//! What is refused, and how each version says so.

use rumqttc::v5::mqttbytes::v5::PublishProperties as Properties;

use super::device::{Answer, Device, Greeting, own_config, unsubscribe};
use super::*;

const V4: MqttVersion = MqttVersion::V3_1_1;
const V5: MqttVersion = MqttVersion::V5;

fn aliased(alias: u16) -> Properties {
    Properties {
        topic_alias: Some(alias),
        ..Properties::default()
    }
}

#[tokio::test]
async fn what_no_version_can_take_closes_the_connection_and_what_came_before_is_kept() {
    for version in BOTH {
        let cloud = cloud().await;
        let payload = |bytes| vec![b'x'; bytes];
        let cases = [
            (
                1,
                payload(PAYLOAD_BYTES_MAX + 1),
                Breach::PayloadTooLarge,
                0x97,
            ),
            (2, payload(1), Breach::Qos2, 0x9b),
        ];
        for (number, (qos, payload, breach, reason)) in cases.into_iter().enumerate() {
            let mut device = Device::connected(&cloud, version, "device").await;
            let before = device.publish("good", 1, "before").await;
            device.publish("t", qos, payload).await;
            device.is_acknowledged(before).await;
            device.is_closed_with(reason).await;
            assert_eq!(cloud.breaches().last(), Some(&breach));
            assert_eq!(cloud.received_count(), number + 1, "{breach}");
        }
    }
}

#[tokio::test]
async fn the_largest_payload_and_the_longest_topic_are_taken_in_both_versions() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device").await;
        let largest = vec![b'x'; PAYLOAD_BYTES_MAX];
        let id = device
            .publish(&"t".repeat(TOPIC_BYTES_MAX), 1, largest)
            .await;
        device.is_acknowledged(id).await;
        let id = device.publish("1/2/3/4/5/6/7/8", 1, "").await;
        device.is_acknowledged(id).await;
        assert_eq!(cloud.breaches(), []);
    }
}

#[tokio::test]
async fn a_packet_above_the_size_in_connack_closes_the_connection_in_v5() {
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.payload_bytes_max = None);
    let mut device = Device::connected(&cloud, V5, "device").await;
    let payload = vec![b'x'; usize::try_from(PACKET_BYTES_MAX).unwrap()];
    device.publish("t", 1, payload).await;
    device.is_closed_with(0x95).await;
    assert_eq!(cloud.breaches(), [Breach::PacketTooLarge]);
}

#[tokio::test]
async fn a_bad_or_denied_topic_closes_the_connection_in_v4_and_gets_a_reason_in_v5() {
    let long = "t".repeat(TOPIC_BYTES_MAX + 1);
    let cases = [
        (&*long, Breach::TopicTooLong, 0x90),
        ("1/2/3/4/5/6/7/8/9", Breach::TooManySlashes, 0x90),
        ("$aws/things/t", Breach::ReservedTopic, 0x90),
        ("denied/t", Breach::DeniedTopic, 0x87),
    ];
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.denied_topic_prefixes = vec!["denied/".to_owned()]);
    for (topic, breach, reason) in cases {
        let mut device = Device::connected(&cloud, V4, "device").await;
        device.publish(topic, 1, "bad").await;
        device.is_closed_with(0).await;
        assert_eq!(cloud.breaches().last(), Some(&breach));

        let breaches = cloud.breaches().len();
        let mut device = Device::connected(&cloud, V5, "device").await;
        let id = device.publish(topic, 1, "bad").await;
        assert_eq!(device.answer().await, Answer::Puback(id, reason));
        let id = device.publish("good", 1, "good").await;
        device.is_acknowledged(id).await;
        assert_eq!(cloud.breaches().len(), breaches, "the connection goes on");
        // without PUBACK there is nothing to say it with
        device.publish(topic, 0, "bad").await;
        device.is_closed_with(reason).await;
    }
    assert_eq!(payloads(&cloud), ["good"; 4]);
    assert_eq!(cloud.publish_refusals(), [(0x87, 1), (0x90, 3)].into());
    assert_eq!(cloud.counts().refused_publishes, 4);

    cloud.set_rules(|rules| rules.refuse_by_puback = false);
    let mut device = Device::connected(&cloud, V5, "device").await;
    device.publish("denied/t", 1, "bad").await;
    device.is_closed_with(0x87).await;
}

#[tokio::test]
async fn without_rules_all_of_it_is_taken_in_both_versions() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_rules(|rules| *rules = Rules::none());
        let mut device = Device::connected(&cloud, version, "device").await;
        let topic = "$a/2/3/4/5/6/7/8/9/".repeat(20);
        let id = device.publish(&topic, 1, vec![b'x'; 200_000]).await;
        device.is_acknowledged(id).await;
        let id = device.publish("t", 2, "twice").await;
        assert_eq!(device.answer().await, Answer::Pubrec(id, 0));
        let [high, low] = id.to_be_bytes();
        device.send(&[0x62, 2, high, low]).await;
        assert_eq!(device.answer().await, Answer::Pubcomp(id));
        assert_eq!((cloud.received_count(), cloud.breaches()), (2, vec![]));
    }
}

#[tokio::test]
async fn reasons_by_prefix_and_for_the_next_publishes_are_given_in_v5_only() {
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.puback_reasons = vec![("odd/".to_owned(), 0x10)]);
    cloud.set_faults(|faults| faults.puback_reason = Some(PubackReason::for_next(2, 0x80)));
    let mut device = Device::connected(&cloud, V4, "device-4").await;
    let id = device.publish("odd/t", 1, "4").await;
    device.is_acknowledged(id).await;

    let mut device = Device::connected(&cloud, V5, "device-5").await;
    for (payload, reason) in [("a", 0x80), ("b", 0x80), ("c", 0x10)] {
        let id = device.publish("odd/t", 1, payload).await;
        assert_eq!(device.answer().await, Answer::Puback(id, reason));
    }
    let id = device.publish("even/t", 1, "d").await;
    device.is_acknowledged(id).await;
    assert_eq!(payloads(&cloud), ["4", "c", "d"], "0x10 is no failure");
    assert_eq!(cloud.publish_refusals(), [(0x80, 2)].into());
}

#[tokio::test]
async fn subscribing_is_granted_or_refused_in_the_words_of_the_version() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, V4, "device-4").await;
    device.subscribe("t", None).await;
    device.is_closed_with(0).await;
    assert_eq!(cloud.breaches(), [Breach::Subscribe]);
    let mut device = Device::connected(&cloud, V5, "device-5").await;
    device.subscribe("t", None).await;
    assert_eq!(device.answer().await, Answer::Suback(vec![0x87]));
    device.subscribe("t", Some(1)).await;
    device.is_closed_with(0xa1).await;

    cloud.set_rules(|rules| rules.refuse_subscribe = false);
    for (version, unsubscribed) in [(V4, vec![]), (V5, vec![0x11])] {
        let mut device = Device::connected(&cloud, version, "device").await;
        device.subscribe("t", None).await;
        assert_eq!(device.answer().await, Answer::Suback(vec![1]));
        device.send(&unsubscribe(version)).await;
        assert_eq!(device.answer().await, Answer::Unsuback(unsubscribed));
    }
}

#[tokio::test]
async fn a_second_connection_with_the_same_client_id_ends_the_first() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut first = Device::connected(&cloud, version, "device").await;
        let mut second = Device::connected(&cloud, version, "device").await;
        first.is_closed_with(0x8e).await;
        assert_eq!(cloud.breaches(), [Breach::TakenOver]);
        let id = second.publish("t", 1, "second").await;
        second.is_acknowledged(id).await;
        cloud.set_rules(|rules| rules.one_session_per_client_id = false);
        let _third = Device::connected(&cloud, version, "device").await;
        let id = second.publish("t", 1, "still there").await;
        second.is_acknowledged(id).await;
    }
}

#[tokio::test]
async fn a_client_id_that_is_not_the_common_name_is_refused_when_that_is_the_rule() {
    for (version, code) in [(V4, 5), (V5, 0x87)] {
        let cloud = cloud().await;
        cloud.set_rules(|rules| rules.client_id_is_common_name = true);
        let config = own_config(&cloud, "device");
        let greeting = Greeting::new(version, "other");
        let mut impostor = Device::dial(&cloud, greeting, config).await.unwrap();
        let session_present = false;
        let refused = Answer::Connack {
            session_present,
            code,
        };
        assert_eq!(impostor.answer().await, refused);
        assert_eq!(impostor.answer().await, Answer::Closed);
        assert_eq!(cloud.breaches(), [Breach::ClientId]);
        Device::connected(&cloud, version, "device").await;
    }
}

#[tokio::test]
async fn more_in_flight_than_allowed_closes_the_connection_or_is_ignored() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_faults(|faults| faults.hold_acks = true);
        let mut device = Device::connected(&cloud, version, "device").await;
        for number in 0..IN_FLIGHT_MAX {
            device.publish("t", 1, number.to_string()).await;
        }
        cloud.wait_for(IN_FLIGHT_MAX, PATIENCE).await.unwrap();
        device.publish("t", 1, "too many").await;
        device.is_closed_with(0x93).await;
        assert_eq!(cloud.breaches(), [Breach::InFlightExceeded]);

        cloud.set_rules(|rules| {
            rules.in_flight_max = Some(1);
            rules.over_in_flight = OverInFlight::Ignore;
        });
        let mut device = Device::connected(&cloud, version, "device").await;
        let first = device.publish("t", 1, "first").await;
        device.publish("t", 1, "ignored").await;
        device.send(&[0xc0, 0]).await;
        assert_eq!(device.answer().await, Answer::Pingresp);
        cloud.set_faults(|faults| faults.hold_acks = false);
        device.is_acknowledged(first).await;
        assert_eq!(cloud.counts().lost_publishes, 1);
    }
}

#[tokio::test]
async fn publishes_above_the_rate_are_dropped_in_v4_and_get_a_reason_in_v5() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_rules(|rules| rules.publish_rate_max = Some(2));
        let mut device = Device::connected(&cloud, version, "device").await;
        let ids = [
            device.publish("t", 1, "1").await,
            device.publish("t", 1, "2").await,
            device.publish("t", 1, "3").await,
        ];
        device.is_acknowledged(ids[0]).await;
        device.is_acknowledged(ids[1]).await;
        let counts = if version == V5 {
            assert_eq!(device.answer().await, Answer::Puback(ids[2], 0x97));
            (0, 1)
        } else {
            device.send(&[0xc0, 0]).await;
            assert_eq!(device.answer().await, Answer::Pingresp);
            (1, 0)
        };
        let found = cloud.counts();
        assert_eq!((found.lost_publishes, found.refused_publishes), counts);
        assert_eq!(payloads(&cloud), ["1", "2"]);
        assert_eq!(
            cloud.peaks().publishes,
            3,
            "what is refused came all the same"
        );
    }
}

#[tokio::test]
async fn bytes_above_the_rate_are_read_later_and_none_is_lost() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_rules(|rules| rules.byte_rate_max = Some(200_000));
        let mut device = Device::connected(&cloud, version, "device").await;
        let began = std::time::Instant::now();
        let first = device.publish("t", 1, vec![b'1'; 40_000]).await;
        device.is_acknowledged(first).await;
        let second = device.publish("t", 1, "after 40,000 bytes").await;
        device.is_acknowledged(second).await;
        let pause = Duration::from_millis(200);
        assert!(began.elapsed() >= pause, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn topic_aliases_stand_for_topics_and_bad_ones_close_the_connection() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, V5, "device").await;
    for (topic, alias) in [("a", 1), ("b", 8), ("", 1), ("", 8), ("c", 1), ("", 1)] {
        let id = device
            .publish_with(topic, 1, "x", Some(aliased(alias)))
            .await;
        device.is_acknowledged(id).await;
    }
    let topics: Vec<Arc<str>> = cloud.received().into_iter().map(|m| m.topic).collect();
    assert_eq!(
        topics.iter().map(|t| &**t).collect::<Vec<_>>(),
        ["a", "b", "a", "b", "c", "c"]
    );
    device.publish_with("t", 1, "x", Some(aliased(9))).await;
    device.is_closed_with(0x94).await;
    for (alias, reason) in [(Some(0), 0x94), (Some(2), 0x82), (None, 0x82)] {
        let mut device = Device::connected(&cloud, V5, "device").await;
        device.publish_with("", 1, "x", alias.map(aliased)).await;
        device.is_closed_with(reason).await;
    }
    assert_eq!(cloud.received_count(), 6);
}

#[tokio::test]
async fn v5_is_refused_in_each_way_while_v4_is_served() {
    let cloud = cloud().await;
    let ways = [
        (RefuseV5::Connack, Some(0x84)),
        (RefuseV5::OldConnack, Some(1)),
        (RefuseV5::Close, None),
    ];
    for (way, code) in ways {
        cloud.set_rules(|rules| rules.refuse_v5 = Some(way));
        let (mut device, answer) = Device::greeted(&cloud, Greeting::new(V5, "device")).await;
        let session_present = false;
        let expected = code.map_or(Answer::Closed, |code| Answer::Connack {
            session_present,
            code,
        });
        assert_eq!(answer, expected);
        assert_eq!(device.answer().await, Answer::Closed);
        Device::connected(&cloud, V4, "device").await;
    }
    assert_eq!(cloud.refusals(), ["MQTT 5 is refused"; 3]);
    let counts = cloud.counts();
    assert_eq!((counts.connects, counts.connects_v5), (3, 0));
}

#[tokio::test]
async fn a_silent_client_is_told_that_its_keep_alive_ran_out() {
    for version in BOTH {
        let cloud = cloud().await;
        let greeting = Greeting {
            keep_alive_s: 1,
            ..Greeting::new(version, "device")
        };
        let (mut device, _) = Device::greeted(&cloud, greeting).await;
        device.is_closed_with(0x8d).await;
        assert_eq!(cloud.breaches(), [Breach::KeepAlive]);
    }
}

#[tokio::test]
async fn packets_that_may_not_come_and_bytes_that_are_none_close_the_connection() {
    let cases = [
        (&[0xd0, 0][..], Breach::Protocol, 0x82),
        (&[0x00, 0], Breach::Malformed, 0x81),
        (&[0x30, 3, 0, 9, b't'], Breach::Malformed, 0x81),
    ];
    for version in BOTH {
        let cloud = cloud().await;
        for (bytes, breach, reason) in cases {
            let mut device = Device::connected(&cloud, version, "device").await;
            device.send(bytes).await;
            device.is_closed_with(reason).await;
            assert_eq!(cloud.breaches().last(), Some(&breach));
        }
    }
}
