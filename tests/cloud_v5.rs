//! What only MQTT 5 has: reasons for refusals, a version that can be refused, a take-over that is told. The rules that
//! hold in both versions are in `cloud_rules.rs`.

mod common;

use std::time::Duration;

use cloud_relay_sandbox::cloud::{PubackReason, RefuseV5};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{RELAY, publish};

/// Publishes `count`; all must arrive.
async fn relays(site: &Site, count: u64) {
    let acked = publish(site, &Load::new(1, "sensors", count)).await;
    if let Err(error) = site.arrived(&acked).await {
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
