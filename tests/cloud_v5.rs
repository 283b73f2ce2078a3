//! The sandbox's cloud in MQTT 5, with AWS's rules and faults.

mod common;

use std::time::Duration;

use cloud_relay_sandbox::cloud::{Connections, Faults, PubackReason, RefuseV5};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::RELAY;

/// Publishes `count`; all must arrive.
async fn relays(site: &Site, count: u64) {
    let load = Load::new(1, "sensors", count);
    let report = site.publish(&load).await.expect("the publisher connects");
    assert!(report.is_complete(&load), "{:?}", report.broken);
    if let Err(error) = site.arrived(&report.acked).await {
        panic!("{error}\n{}", site.relay().log().tail());
    }
}

#[tokio::test]
async fn refused_publishes_are_sent_again_whatever_the_reason() {
    for reason in [0x80, 0x83, 0x87, 0x91, 0x97] {
        let site = Site::new(RELAY).await.unwrap();
        site.cloud()
            .set_faults(|faults| faults.puback_reason = Some(PubackReason::for_next(20, reason)));
        site.start().await.unwrap();
        relays(&site, 500).await;
        assert_eq!(site.cloud().counts().connects, 1, "{reason:#x}");
    }
}

#[tokio::test]
async fn a_cloud_without_mqtt_5_is_spoken_to_in_3_1_1() {
    for how in [RefuseV5::Connack, RefuseV5::OldConnack, RefuseV5::Close] {
        let site = Site::new(RELAY).await.unwrap();
        site.cloud().set_rules(|rules| rules.refuse_v5 = Some(how));
        site.start().await.unwrap();
        relays(&site, 100).await;
        let told = "MQTT 3.1.1 is used";
        site.relay().wait_for_log(told, PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn kicks_with_a_take_over_lose_nothing_and_are_named() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().set_faults(|faults| {
        faults.kick_every = Some(Duration::from_millis(100));
        faults.kick_reason = Some(0x8E);
    });
    site.start().await.unwrap();
    site.relay()
        .wait_for_log("another client has connected", PATIENCE)
        .await
        .unwrap();
    relays(&site, 500).await;
}

#[tokio::test]
async fn with_awss_rate_and_the_default_pace_no_quota_is_tripped() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().set_rules(|rules| {
        rules.publish_rate_max = Some(100);
        rules.byte_rate_max = Some(524_288);
    });
    site.cloud().set_faults(|faults| {
        *faults = Faults {
            connections: Connections::Accept,
            ack_delay: Duration::from_millis(30),
            ..Faults::default()
        }
    });
    site.start_with(&site.environment_with([("CLOUD_PUBLISH_RATE", ""), ("CLOUD_BYTE_RATE", "")]))
        .await
        .unwrap();
    relays(&site, 1_200).await;
    let found = site.cloud().counts();
    assert_eq!(
        (found.duplicates, found.lost_publishes),
        (0, 0),
        "{found:?}"
    );
    assert!(
        site.cloud().breaches().is_empty(),
        "{:?}",
        site.cloud().breaches()
    );
    let log = site.relay().log().lines().join("\n");
    assert!(!log.contains("WARN"), "{log}");
}
