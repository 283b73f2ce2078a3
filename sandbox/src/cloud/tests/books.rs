//! What is written down of what arrived.

use rumqttc::v5::mqttbytes::v5::PublishProperties as Properties;

use super::device::{Device, Greeting};
use super::*;
use crate::ledger::MessageId;

#[tokio::test]
async fn a_message_is_in_the_books_with_its_version_when_it_is_acknowledged() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut live = cloud.follow();
        let mut device = Device::connected(&cloud, version, "device-1").await;
        let id = device.publish("a/b", 1, "hello").await;
        device.is_acknowledged(id).await;
        let received = cloud.received();
        assert_eq!(received.len(), 1);
        let message = &received[0];
        assert_eq!((&*message.topic, &*message.client_id), ("a/b", "device-1"));
        assert_eq!((&message.payload[..], message.qos), (&b"hello"[..], 1));
        assert_eq!((message.version, &message.properties), (version, &None));
        assert_eq!(live.recv().await.unwrap().payload, "hello");
        assert_eq!(cloud.client_ids(), ["device-1"]);
        let in_v5 = u64::from(version == MqttVersion::V5);
        let counts = cloud.counts();
        assert_eq!((counts.connects, counts.connects_v5), (1, in_v5));
    }
}

#[tokio::test]
async fn the_properties_of_a_v5_message_are_in_the_books() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, MqttVersion::V5, "device").await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let user_properties = vec![pair("site", "7"), pair("site", "8")];
    let sent = Properties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(60),
        content_type: Some("application/json".to_owned()),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some("q1".into()),
        user_properties: user_properties.clone(),
        topic_alias: Some(3),
        ..Properties::default()
    };
    let id = device.publish_with("t", 1, "{}", Some(sent)).await;
    device.is_acknowledged(id).await;
    let expected = PublishProperties {
        user_properties,
        content_type: Some("application/json".to_owned()),
        message_expiry_s: Some(60),
        payload_format: Some(1),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some("q1".into()),
        topic_alias: Some(3),
    };
    let received = cloud.received();
    assert_eq!(received[0].properties.as_deref(), Some(&expected));
}

#[tokio::test]
async fn waiting_for_messages_ends_when_all_have_arrived_and_names_what_has_not() {
    for bookkeeping in [Bookkeeping::Messages, Bookkeeping::Ids] {
        let cloud = cloud_that_keeps(bookkeeping).await;
        let mut device = Device::connected(&cloud, MqttVersion::V5, "device").await;
        let ids = [1, 2].map(|seq| MessageId { publisher: 7, seq });
        let [first, second] = ids;
        let id = device.publish("t", 1, r#"{"publisher":7,"seq":2}"#).await;
        device.is_acknowledged(id).await;
        cloud.wait_for_messages(&[second], PATIENCE).await.unwrap();
        let missing = cloud
            .wait_for_messages(&ids, Duration::from_millis(1))
            .await
            .unwrap_err();
        assert_eq!((missing.missing, missing.expected), (vec![first], 2));
        assert_eq!(cloud.audit(&ids).missing, [first]);
    }
}

#[tokio::test]
async fn the_books_find_a_lost_a_repeated_and_a_disordered_message_even_if_they_keep_only_ids() {
    for bookkeeping in [Bookkeeping::Messages, Bookkeeping::Ids] {
        let cloud = cloud_that_keeps(bookkeeping).await;
        let ids = [1, 2, 3, 4].map(|seq| MessageId { publisher: 1, seq });
        let mut device = Device::connected(&cloud, MqttVersion::V5, "device").await;
        for at in [0, 2, 1, 0] {
            let mut payload = Vec::new();
            ids[at].write_to(&mut payload);
            device.publish("t", 1, payload).await;
        }
        let last = device.publish("t", 1, "a stranger").await;
        cloud.wait_for(5, PATIENCE).await.unwrap();
        assert_eq!(last, 5);
        let found = cloud.audit(&ids);
        assert_eq!(found.missing, [ids[3]]);
        assert_eq!(found.duplicates, [(ids[0], 2)]);
        assert_eq!(found.out_of_order, [ids[1]]);
        assert_eq!((found.foreign, cloud.counts().duplicates), (1, 1));
        let arrivals = cloud.arrivals();
        let order: Vec<MessageId> = arrivals.iter().map(|arrival| arrival.id).collect();
        assert_eq!(order, [ids[0], ids[2], ids[1], ids[0]]);
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        let too_few = cloud
            .wait_for(6, Duration::from_millis(10))
            .await
            .unwrap_err();
        assert_eq!((too_few.expected, too_few.arrived), (6, 5));
        let kept = match bookkeeping {
            Bookkeeping::Messages => 5,
            Bookkeeping::Ids => 0,
        };
        assert_eq!((cloud.received().len(), cloud.received_count()), (kept, 5));
    }
}

#[tokio::test]
async fn the_peaks_count_whole_publish_packets_and_start_anew_when_told() {
    for (version, packet_bytes) in [(MqttVersion::V3_1_1, 17), (MqttVersion::V5, 18)] {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device").await;
        device.send(&[0xc0, 0]).await;
        device.publish("t", 1, vec![b'x'; 10]).await;
        cloud.wait_for(1, PATIENCE).await.unwrap();
        let (publishes, bytes) = (1, packet_bytes);
        assert_eq!(cloud.peaks(), Peaks { publishes, bytes });
        cloud.reset_peaks();
        assert_eq!(cloud.peaks(), Peaks::default());
    }
}

#[tokio::test]
async fn the_shortest_time_between_two_connects_of_one_client_is_known_even_if_they_are_refused() {
    for version in BOTH {
        let cloud = cloud().await;
        let _other = Device::connected(&cloud, version, "other").await;
        let _device = Device::connected(&cloud, version, "device").await;
        assert_eq!(cloud.connect_gap_min(), None);
        cloud.set_faults(|faults| faults.connections = Connections::RefuseConnack);
        let (_refused, _) = Device::greeted(&cloud, Greeting::new(version, "device")).await;
        let gap = cloud.connect_gap_min().unwrap();
        assert!(gap > Duration::ZERO && gap < PATIENCE, "{gap:?}");
    }
}
