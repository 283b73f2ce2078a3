//! `cloud-relay health` beside the real relay, as the image's HEALTHCHECK runs it.

mod common;

use std::net::SocketAddr;
use std::process::{Command, Output};

use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::relay::{RelayProcess, program};
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};

use common::RELAY;

/// Asks the relay at `listen`; there is nothing else in the environment.
fn health(listen: &str) -> Output {
    Command::new(program(RELAY))
        .arg("health")
        .env_clear()
        .env("LOCAL_MQTT_LISTEN", listen)
        .output()
        .expect("the program starts")
}

/// What it said, all of it: one line.
fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end().to_owned()
}

#[tokio::test]
async fn a_relay_without_cloud_or_settings_is_healthy_and_logs_nothing_of_being_asked() {
    let relay = RelayProcess::start_new(RELAY, &environment([]))
        .await
        .unwrap();
    relay.wait_until_listening(PATIENCE).await.unwrap();
    let unconfigured = relay.wait_for_log("unconfigured", PATIENCE).await;
    unconfigured.unwrap();
    let before = relay.log().lines();
    for _ in 0..20 {
        let asked = health(&relay.listen_addr().to_string());
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
        assert_eq!(
            line(&asked.stdout),
            format!("healthy: {} lets MQTT clients in", relay.listen_addr())
        );
        assert!(asked.stderr.is_empty(), "{asked:?}");
    }
    relay.terminate().await.unwrap();
    let after: Vec<String> = relay.log().lines().split_off(before.len());
    assert!(
        !after.iter().any(|line| line.contains("connection")),
        "{after:?}"
    );
}

#[tokio::test]
async fn a_relay_that_listens_everywhere_is_found_and_goes_on_relaying() {
    let site = Site::new(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port)).to_string();
    site.start_with(&site.environment_with([("LOCAL_MQTT_LISTEN", &everywhere)]))
        .await
        .unwrap();
    let asked = health(&everywhere);
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let report = site.publish(&Load::new(1, "sensors", 50)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

#[tokio::test]
async fn where_no_relay_runs_or_the_address_is_none_the_code_is_1() {
    let relay = RelayProcess::new(RELAY).unwrap();
    let address = relay.listen_addr().to_string();
    for (listen, part) in [
        (address.as_str(), "nothing takes connections"),
        ("eighteen", "an IP address and a port"),
    ] {
        let asked = health(listen);
        assert_eq!(asked.status.code(), Some(1), "{asked:?}");
        let said = line(&asked.stderr);
        assert!(
            said.starts_with("unhealthy: ") && said.contains(part),
            "{said}"
        );
        assert!(said.contains("LOCAL_MQTT_LISTEN"), "{said}");
    }
}
