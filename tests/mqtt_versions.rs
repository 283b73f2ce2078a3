//! Which version of MQTT is spoken to the cloud, as a foreign broker sees it: Debian's mosquitto over mutual TLS.

mod common;

use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, environment};

use common::RELAY;
use common::mosquitto::{Key, MosquittoCloud};

/// Relays a message with `CLOUD_MQTT_VERSION` as given; mosquitto must have seen `protocol`, its number for a version.
async fn relays_with(version: &str, protocol: &str) {
    let cloud = MosquittoCloud::start().await;
    let mut variables = cloud.relay_environment(Key::RsaPkcs8).await;
    variables.extend(environment([("CLOUD_MQTT_VERSION", version)]));
    let subscriber = cloud
        .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
        .await;
    let relay = RelayProcess::start_new(RELAY, &variables).await.unwrap();
    relay.wait_until_listening(PATIENCE).await.unwrap();
    let port = relay.listen_addr().port();
    common::mosquitto_pub(port, &["-q", "1", "-t", "sensors", "-m", "as it was sent"]).await;

    let printed = common::ended_well(&subscriber).await;
    assert!(
        printed.iter().any(|line| line == "as it was sent"),
        "{printed:?}"
    );
    let seen = cloud.process().log().lines().join("\n");
    let expected = format!("as {DEVICE_UUID} ({protocol},");
    assert!(seen.contains(&expected), "{expected} is not in\n{seen}");
}

#[tokio::test]
async fn mqtt_5_is_spoken_unless_told_otherwise() {
    relays_with("", "p5").await;
}

#[tokio::test]
async fn mqtt_3_1_1_is_spoken_where_it_is_asked_for() {
    relays_with("3.1.1", "p2").await;
}
