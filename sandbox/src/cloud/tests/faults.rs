//! What the cloud does wrong when it is told to.

use std::num::NonZeroU32;

use super::device::{Answer, Device, Greeting, own_config};
use super::*;

#[tokio::test]
async fn held_acks_come_after_their_release_in_order() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_faults(|faults| faults.hold_acks = true);
        let mut device = Device::connected(&cloud, version, "device").await;
        for number in 0..IN_FLIGHT_MAX {
            device.publish("t", 1, number.to_string()).await;
        }
        cloud.wait_for(IN_FLIGHT_MAX, PATIENCE).await.unwrap();
        cloud.set_faults(|faults| faults.hold_acks = false);
        for id in 1..=u16::try_from(IN_FLIGHT_MAX).unwrap() {
            device.is_acknowledged(id).await;
        }
    }
}

#[tokio::test]
async fn a_delayed_ack_comes_no_sooner_than_told() {
    for version in BOTH {
        let cloud = cloud().await;
        let delay = Duration::from_millis(100);
        cloud.set_faults(|faults| faults.ack_delay = delay);
        let mut device = Device::connected(&cloud, version, "device").await;
        let began = std::time::Instant::now();
        let id = device.publish("t", 1, "slow").await;
        device.is_acknowledged(id).await;
        assert!(began.elapsed() >= delay);
    }
}

#[tokio::test]
async fn acks_come_in_reversed_groups() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_faults(|faults| {
            faults.reverse_acks_in_groups_of = NonZeroU32::new(3);
            faults.hold_acks = true;
        });
        let mut device = Device::connected(&cloud, version, "device").await;
        for number in 0..3 {
            device.publish("t", 1, number.to_string()).await;
        }
        cloud.wait_for(3, PATIENCE).await.unwrap();
        cloud.set_faults(|faults| faults.hold_acks = false);
        for id in [3, 2, 1] {
            device.is_acknowledged(id).await;
        }
    }
}

#[tokio::test]
async fn every_nth_publish_and_every_nth_puback_are_lost() {
    for version in BOTH {
        let cloud = cloud().await;
        cloud.set_faults(|faults| {
            faults.lose_every_nth_publish = NonZeroU32::new(2);
            faults.lose_every_nth_puback = NonZeroU32::new(3);
        });
        let mut device = Device::connected(&cloud, version, "device").await;
        for number in 1..=5 {
            device.publish("t", 1, number.to_string()).await;
        }
        device.is_acknowledged(1).await;
        device.is_acknowledged(5).await;
        assert_eq!(payloads(&cloud), ["1", "3", "5"]);
        let counts = cloud.counts();
        assert_eq!((counts.lost_publishes, counts.lost_pubacks), (2, 1));
    }
}

#[tokio::test]
async fn refused_and_closed_connections_are_counted_and_work_again_afterwards() {
    let connack = |code| Answer::Connack {
        session_present: false,
        code,
    };
    for (version, unavailable) in [(MqttVersion::V3_1_1, 3), (MqttVersion::V5, 0x88)] {
        let cloud = cloud().await;
        cloud.set_faults(|faults| faults.connections = Connections::RefuseConnack);
        let greeting = Greeting::new(version, "device");
        let (_, answer) = Device::greeted(&cloud, greeting).await;
        assert_eq!(answer, connack(unavailable));

        cloud.set_faults(|faults| faults.connections = Connections::RefuseWith(0x9f));
        let (mut device, answer) = Device::greeted(&cloud, greeting).await;
        assert_eq!(answer, connack(0x9f));
        assert_eq!(device.answer().await, Answer::Closed);

        cloud.set_faults(|faults| faults.connections = Connections::Close);
        let config = own_config(&cloud, "device");
        assert!(Device::dial(&cloud, greeting, config).await.is_err());

        assert_eq!((cloud.counts().connects, cloud.counts().refused), (0, 3));
        cloud.set_faults(|faults| *faults = Faults::default());
        Device::connected(&cloud, version, "device").await;
    }
}

#[tokio::test]
async fn a_frozen_cloud_answers_nothing_until_it_thaws() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device-1").await;
        cloud.set_faults(|faults| faults.connections = Connections::Freeze);
        let id = device.publish("t", 1, "cold").await;
        let newcomer = Device::connected(&cloud, version, "device-2");
        tokio::pin!(newcomer);
        tokio::select! {
            () = device.hears_nothing() => {}
            _ = &mut newcomer => panic!("connected to a frozen cloud"),
        }
        assert_eq!((cloud.received_count(), cloud.counts().refused), (0, 0));
        cloud.set_faults(|faults| faults.connections = Connections::Accept);
        device.is_acknowledged(id).await;
        newcomer.await;
        assert_eq!(payloads(&cloud), ["cold"]);
    }
}

#[tokio::test]
async fn a_ping_is_answered_unless_the_answer_is_kept_back() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device").await;
        device.send(&[0xc0, 0]).await;
        assert_eq!(device.answer().await, Answer::Pingresp);
        cloud.set_faults(|faults| faults.no_pingresp = true);
        device.send(&[0xc0, 0]).await;
        let id = device.publish("t", 1, "alive").await;
        device.is_acknowledged(id).await;
    }
}

#[tokio::test]
async fn connections_are_dropped_at_once_and_kicked_in_an_interval_with_a_reason_in_v5() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device").await;
        assert_eq!(cloud.drop_connections(), 1);
        assert_eq!(device.answer().await, Answer::Closed);
        let every = Duration::from_millis(50);
        cloud.set_faults(|faults| faults.kick_every = Some(every));
        let mut device = Device::connected(&cloud, version, "device").await;
        assert_eq!(device.answer().await, Answer::Closed);
        cloud.set_faults(|faults| faults.kick_reason = Some(0x98));
        let mut device = Device::connected(&cloud, version, "device").await;
        device.is_closed_with(0x98).await;
        assert_eq!(cloud.breaches(), []);
    }
}

#[tokio::test]
async fn a_session_is_resumed_unless_it_is_lost() {
    for version in BOTH {
        let cloud = cloud().await;
        let lasting = Greeting {
            clean_start: false,
            session_expiry_s: Some(3_600),
            ..Greeting::new(version, "device")
        };
        let present = |answer| match answer {
            Answer::Connack {
                session_present,
                code: 0,
            } => session_present,
            other => panic!("{other:?}"),
        };
        assert!(!present(Device::greeted(&cloud, lasting).await.1));
        assert!(present(Device::greeted(&cloud, lasting).await.1));
        cloud.set_faults(|faults| faults.lose_sessions = true);
        assert!(!present(Device::greeted(&cloud, lasting).await.1));
        cloud.set_faults(|faults| faults.lose_sessions = false);
        assert!(present(Device::greeted(&cloud, lasting).await.1));
        let clean = Greeting::new(version, "device");
        assert!(!present(Device::greeted(&cloud, clean).await.1));
        assert!(!present(Device::greeted(&cloud, lasting).await.1));
    }
}

#[tokio::test]
async fn an_outage_closes_everything_and_ends_on_the_same_port_with_the_same_books() {
    for version in BOTH {
        let cloud = cloud().await;
        let mut device = Device::connected(&cloud, version, "device").await;
        let id = device.publish("t", 1, "before").await;
        device.is_acknowledged(id).await;
        let port = cloud.port();
        cloud.stop().await.unwrap();
        cloud.stop().await.unwrap();
        assert_eq!(device.answer().await, Answer::Closed);
        assert!(tokio::net::TcpStream::connect(cloud.addr()).await.is_err());
        cloud.resume().await.unwrap();
        cloud.resume().await.unwrap();
        assert_eq!(cloud.port(), port);
        let mut device = Device::connected(&cloud, version, "device").await;
        let id = device.publish("t", 1, "after").await;
        device.is_acknowledged(id).await;
        assert_eq!(payloads(&cloud), ["before", "after"]);
        cloud.wait_for_connects(2, PATIENCE).await.unwrap();
    }
}
