//! Which version of MQTT is spoken to the cloud, as a foreign broker sees it: Debian's mosquitto over mutual TLS.

mod common;

use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, environment};

use common::mosquitto::{Key, MosquittoCloud};
use common::started;

/// Relays a message with `CLOUD_MQTT_VERSION` as given; mosquitto must have seen `protocol`, its number for a version.
async fn relays_with(version: &str, protocol: &str) {
    let cloud = MosquittoCloud::start().await;
    let mut variables = cloud.relay_environment(Key::RsaPkcs8).await;
    variables.extend(environment([("CLOUD_MQTT_VERSION", version)]));
    let subscriber = cloud
        .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
        .await;
    let relay = started(&variables).await;
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

/// The test's own subscriber may read everything, the device may write under `other` only.
const DENIED: &str = "user watcher\ntopic read #\nuser device\ntopic write other\n";
/// The device may write to the topic that it relays to, too.
const ALLOWED: &str = "user watcher\ntopic read #\nuser device\ntopic write sensors\n";

#[tokio::test]
async fn a_message_that_is_not_authorised_is_kept_and_arrives_once_the_policy_allows_it() {
    let cloud = MosquittoCloud::start_allowing(Some(DENIED)).await;
    let variables = cloud.relay_environment(Key::RsaPkcs8).await;
    let subscriber = cloud
        .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
        .await;
    let relay = started(&variables).await;
    let port = relay.listen_addr().port();
    common::mosquitto_pub(port, &["-q", "1", "-t", "sensors", "-m", "kept"]).await;
    let refused = "does not accept a message to \"sensors\": not authorized (0x87)";
    relay.wait_for_log(refused, PATIENCE).await.unwrap();

    cloud.change_rules(ALLOWED).await;
    let printed = common::ended_well(&subscriber).await;
    assert!(printed.iter().any(|line| line == "kept"), "{printed:?}");
    let accepted = "the cloud accepts what it had refused";
    relay.wait_for_log(accepted, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn mqtt_5_is_spoken_unless_told_otherwise() {
    relays_with("", "p5").await;
}

#[tokio::test]
async fn mqtt_3_1_1_is_spoken_where_it_is_asked_for() {
    relays_with("3.1.1", "p2").await;
}
