//! From the cloud to the device, and what cloud and local clients learn of the connection: the real relay, with the
//! sandbox's cloud for what goes wrong and Debian's mosquitto over mutual TLS for what other brokers do.

mod common;

use cloud_relay_sandbox::process::Process;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site, environment};

use common::mosquitto::{Key, MosquittoCloud};
use common::{RELAY, ended_well, mosquitto_sub, publish, started};

const VERSIONS: [&str; 2] = ["5", "3.1.1"];
/// Shows two commands with their topics.
const WATCH: [&str; 9] = ["-q", "1", "-v", "-t", "commands/#", "-t", "all", "-C", "2"];
/// What the cloud keeps of the connection.
const STATUS: &str = "devices/{uuid}/status";
/// Commands for this device only, under a short local name.
const SUBSCRIBE: &str = "cmd/{uuid}/#=>commands/{topic:3..}, all/+=>all";

async fn site(version: &str, allowed: bool) -> Site {
    let site = Site::new(RELAY).await.expect("a site");
    site.cloud()
        .set_rules(|rules| rules.refuse_subscribe = !allowed);
    let all = site.environment_with([
        ("CLOUD_MQTT_VERSION", version),
        ("CLOUD_SUBSCRIBE", SUBSCRIBE),
        ("CLOUD_STATUS_TOPIC", STATUS),
    ]);
    site.start_with(&all).await.expect("the relay starts");
    site
}

async fn says(relay: &RelayProcess, text: &str) {
    let said = relay.wait_for_log(text, PATIENCE).await;
    said.expect("the relay says it");
}

/// What Debian's subscriber prints to its end; it may get it before its subscription is acknowledged.
async fn received_by(port: u16, arguments: &[&str]) -> Vec<String> {
    let port = port.to_string();
    let all = [&["-p", port.as_str()], arguments].concat();
    common::run("mosquitto_sub", &all).await
}

fn topic(name: &str) -> String {
    format!("cmd/{DEVICE_UUID}/{name}")
}

/// Waits until the relay is subscribed: its first message of the spool goes behind that.
async fn subscribed(site: &Site) {
    let acked = publish(site, &Load::new(1, "sensors", 1)).await;
    site.arrived(&acked).await.expect("it arrives");
}

/// What the sandbox's cloud was told of the device's status.
fn statuses(site: &Site) -> Vec<(bool, String)> {
    let received = site.cloud().received();
    let of_status = received.iter().filter(|one| one.topic.ends_with("/status"));
    of_status
        .map(|one| {
            (
                one.retain,
                String::from_utf8_lossy(&one.payload).into_owned(),
            )
        })
        .collect()
}

#[tokio::test]
async fn commands_reach_local_subscribers_under_local_names_and_are_acknowledged() {
    for version in VERSIONS {
        let site = site(version, true).await;
        let port = site.relay().listen_addr().port();
        let subscriber = mosquitto_sub(port, &WATCH).await;
        subscribed(&site).await;
        let cloud = site.cloud();
        let filters = [format!("cmd/{DEVICE_UUID}/#"), "all/+".to_owned()];
        assert_eq!(cloud.subscriptions(DEVICE_UUID), filters);
        assert_eq!(cloud.deliver(&topic("valve/1"), b"open"), 1);
        assert_eq!(cloud.deliver("all/stop", b"now"), 1);
        let printed = ended_well(&subscriber).await;
        for expected in ["commands/valve/1 open", "all now"] {
            assert!(
                printed.iter().any(|line| line == expected),
                "{expected}: {printed:?}"
            );
        }
        // Another message behind them: the acknowledgements were sent before it.
        subscribed(&site).await;
        assert_eq!(cloud.delivered(DEVICE_UUID), 2);
        assert!(
            cloud
                .received()
                .iter()
                .all(|one| !one.topic.starts_with("commands"))
        );
        assert_eq!(cloud.breaches(), []);
    }
}

#[tokio::test]
async fn a_command_of_an_outage_comes_to_a_local_session_that_was_away() {
    for version in VERSIONS {
        let site = site(version, true).await;
        let port = site.relay().listen_addr().port();
        let away = ["-q", "1", "-c", "-i", "app", "-t", "commands/#", "-C", "1"];
        let first = mosquitto_sub(port, &away).await;
        first.terminate(PATIENCE).await.unwrap();
        subscribed(&site).await;
        let connects = site.cloud().counts().connects;
        site.cloud().stop().await.unwrap();
        assert_eq!(site.cloud().deliver(&topic("1"), b"kept by both"), 1);
        site.cloud().resume().await.unwrap();
        site.cloud()
            .wait_for_connects(connects + 1, PATIENCE)
            .await
            .unwrap();
        subscribed(&site).await;

        let printed = received_by(port, &away).await;
        assert!(
            printed.iter().any(|line| line == "kept by both"),
            "{printed:?}"
        );
    }
}

#[tokio::test]
async fn a_subscription_that_the_policy_denies_never_stops_the_relay() {
    for (version, words) in [
        ("5", "CLOUD_SUBSCRIBE: the cloud refuses \"cmd/"),
        (
            "3.1.1",
            "messages are relayed without it, and it is tried again in 60 min",
        ),
    ] {
        let site = site(version, false).await;
        let acked = publish(&site, &Load::new(1, "sensors", 50)).await;
        site.arrived(&acked).await.unwrap();
        says(site.relay(), words).await;
        says(site.relay(), "iot:Subscribe").await;
        let audit = site.cloud().audit(&acked);
        assert_eq!(
            (audit.missing.len(), audit.duplicates.len()),
            (0, 0),
            "none was in flight"
        );
    }
}

#[tokio::test]
async fn the_cloud_is_told_of_online_stop_and_loss() {
    for version in VERSIONS {
        let site = site(version, true).await;
        subscribed(&site).await;
        site.relay().kill_9().await.unwrap();
        site.cloud().wait_for(3, PATIENCE).await.unwrap();
        let all = site.environment_with([
            ("CLOUD_MQTT_VERSION", version),
            ("CLOUD_STATUS_TOPIC", STATUS),
        ]);
        site.start_with(&all).await.unwrap();
        site.cloud().wait_for(4, PATIENCE).await.unwrap();
        site.relay().terminate().await.unwrap();
        site.cloud().wait_for(5, PATIENCE).await.unwrap();
        let told = statuses(&site);
        let states = [
            "\"online\"",
            "\"connection lost\"",
            "\"online\"",
            "\"stopped\"",
        ];
        assert_eq!(told.len(), states.len(), "{told:?}");
        for ((retained, payload), state) in told.iter().zip(states) {
            assert!(*retained && payload.contains(state), "{state}: {told:?}");
        }
    }
}

#[tokio::test]
async fn local_clients_are_told_the_state_and_cannot_set_it() {
    let site = site("5", true).await;
    let port = site.relay().listen_addr().port();
    subscribed(&site).await;
    let forged = ["-q", "1", "-r", "-t", "cloud-relay/state", "-m", "forged"];
    common::mosquitto_pub(port, &forged).await;
    let watch = ["-q", "1", "-F", "%r %p", "-t", "cloud-relay/state"];
    let watcher = mosquitto_sub(port, &watch).await;
    shows(&watcher, "\"state\":\"connected\"").await;
    site.cloud().stop().await.unwrap();
    shows(&watcher, "\"reason\":\"").await;
    shows(&watcher, "\"state\":\"disconnected\"").await;
    let log = watcher.log().lines().join("\n");
    assert!(
        log.contains("1 {\"reason\":null") && !log.contains("forged"),
        "{log}"
    );
    let sent = site.cloud().received();
    assert!(sent.iter().all(|one| &*one.topic != "cloud-relay/state"));
}

async fn shows(process: &Process, text: &str) {
    let shown = process.wait_for_log(text, PATIENCE).await;
    shown.expect("it is shown");
}

#[tokio::test]
async fn mosquitto_delivers_commands_and_keeps_birth_will_and_stop() {
    for version in VERSIONS {
        let cloud = MosquittoCloud::start().await;
        let mut variables = cloud.relay_environment(Key::RsaPkcs8).await;
        variables.extend(environment([
            ("CLOUD_MQTT_VERSION", version),
            ("CLOUD_SUBSCRIBE", SUBSCRIBE),
            ("CLOUD_STATUS_TOPIC", STATUS),
        ]));
        let relay = started(&variables).await;
        let status = format!("devices/{DEVICE_UUID}/status");
        let watcher = cloud.subscriber(&["-q", "1", "-t", &status]).await;
        shows(&watcher, "\"online\"").await;
        let port = relay.listen_addr().port();
        let away = ["-q", "1", "-c", "-i", "app", "-t", "commands/#", "-C", "1"];
        let first = mosquitto_sub(port, &away).await;
        first.terminate(PATIENCE).await.unwrap();
        let relayed = cloud
            .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
            .await;
        common::mosquitto_pub(port, &["-q", "1", "-t", "sensors", "-m", "up"]).await;
        ended_well(&relayed).await;

        cloud
            .publish(&["-q", "1", "-t", &topic("x/y"), "-m", "down"])
            .await;
        let printed = received_by(port, &away).await;
        assert!(printed.iter().any(|line| line == "down"), "{printed:?}");

        relay.kill_9().await.unwrap();
        shows(&watcher, "\"connection lost\"").await;
        let so_far = watcher.log().lines().len();
        relay.start(&variables).await.unwrap();
        let online = "\"online\"";
        watcher
            .log()
            .wait_for(online, so_far, PATIENCE)
            .await
            .unwrap();
        relay.terminate().await.unwrap();
        shows(&watcher, "\"stopped\"").await;
        let late = cloud
            .subscriber(&["-q", "1", "-t", &status, "-C", "1", "-F", "%r %p"])
            .await;
        let printed = ended_well(&late).await;
        let retained = |line: &String| line.starts_with("1 {") && line.contains("\"stopped\"");
        assert!(printed.iter().any(retained), "{printed:?}");
    }
}
