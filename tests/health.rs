//! `cloud-relay health` beside the real relay, as the image's HEALTHCHECK runs it.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;

use cloud_relay_sandbox::publisher::{Load, publish_load};
use cloud_relay_sandbox::relay::{RelayProcess, program};
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};

use common::{RELAY, started};

/// Asks the relay at `listen`, and its status server if it has one; there is nothing else in the environment.
fn health(listen: &str, status: &str) -> Output {
    Command::new(program(RELAY))
        .arg("health")
        .env_clear()
        .env("LOCAL_MQTT_LISTEN", listen)
        .env("STATUS_LISTEN", status)
        .output()
        .expect("the program starts")
}

/// As the image's HEALTHCHECK asks `relay`.
fn health_of(relay: &RelayProcess) -> Output {
    let status = relay.status_addr().expect("the relay has a status server");
    health(&relay.listen_addr().to_string(), &status.to_string())
}

/// What it said, all of it: one line.
fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end().to_owned()
}

#[tokio::test]
async fn a_relay_without_cloud_or_settings_is_healthy_and_logs_nothing_of_being_asked() {
    let relay = started(&environment([])).await;
    let unconfigured = relay.wait_for_log("unconfigured", PATIENCE).await;
    unconfigured.unwrap();
    let before = relay.log().lines();
    for _ in 0..20 {
        let asked = health_of(&relay);
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
        let said = line(&asked.stdout);
        let address = relay.listen_addr();
        let lets_in = format!("healthy: {address} lets MQTT clients in; unconfigured: ");
        assert!(said.starts_with(&lets_in), "{said}");
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
    let everywhere = |address: SocketAddr| format!("0.0.0.0:{}", address.port());
    let listen = everywhere(site.relay().listen_addr());
    let status = everywhere(site.relay().status_addr().unwrap());
    let changes = [
        ("LOCAL_MQTT_LISTEN", listen.as_str()),
        ("STATUS_LISTEN", status.as_str()),
    ];
    site.start_with(&site.environment_with(changes))
        .await
        .unwrap();
    let connected = site.relay().wait_for_log("connected", PATIENCE).await;
    connected.unwrap();
    let asked = health(&listen, &status);
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let said = line(&asked.stdout);
    assert!(said.contains("connected: "), "{said}");
    let report = site.publish(&Load::new(1, "sensors", 50)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

#[tokio::test]
async fn a_relay_whose_spool_is_full_lets_clients_in_and_is_unhealthy_and_says_what_to_do() {
    let small = [
        ("SPOOL_MAX_BYTES", "4194304"),
        ("SPOOL_FULL", "drop_newest"),
    ];
    let relay = started(&environment(small)).await;
    assert_eq!(health_of(&relay).status.code(), Some(0));
    let too_much = Load {
        payload_bytes: 40_000,
        ..Load::new(1, "sensors", 150)
    };
    let report = publish_load(relay.listen_addr(), &too_much).await.unwrap();
    assert!(report.is_complete(&too_much), "{:?}", report.broken);
    let asked = health_of(&relay);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let said = line(&asked.stderr);
    assert!(
        said.starts_with("unhealthy: the spool has reached SPOOL_MAX_BYTES")
            && said.contains("raise SPOOL_MAX_BYTES"),
        "{said}"
    );
}

#[tokio::test]
async fn a_relay_without_a_status_server_of_its_own_is_judged_by_its_broker() {
    // What has the port in its place: somebody who says that he is ill, and somebody who says nothing.
    let ill = b"HTTP/1.0 503 Service Unavailable\r\n\r\n<h1>Try later</h1>";
    for answer in [&ill[..], b""] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().to_string();
        let relay = started(&environment([("STATUS_LISTEN", &taken)])).await;
        let other = thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let asked = health(&relay.listen_addr().to_string(), &taken);
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
        let said = line(&asked.stdout);
        assert!(said.contains("/healthz was not to be had: "), "{said}");
        other.join().unwrap();
    }

    let relay = started(&environment([("STATUS_LISTEN", "off")])).await;
    let asked = health(&relay.listen_addr().to_string(), "off");
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let said = line(&asked.stdout);
    assert!(said.contains("STATUS_LISTEN is off"), "{said}");
}

#[tokio::test]
async fn where_no_relay_runs_or_an_address_is_none_the_code_is_1() {
    let relay = RelayProcess::new(RELAY).unwrap();
    let address = relay.listen_addr().to_string();
    for (listen, status, part, variable) in [
        (
            address.as_str(),
            "off",
            "nothing takes connections",
            "LOCAL_MQTT_LISTEN",
        ),
        (
            "eighteen",
            "off",
            "an IP address and a port",
            "LOCAL_MQTT_LISTEN",
        ),
        (
            address.as_str(),
            "eighteen",
            "an IP address and a port",
            "STATUS_LISTEN",
        ),
    ] {
        let asked = health(listen, status);
        assert_eq!(asked.status.code(), Some(1), "{asked:?}");
        let said = line(&asked.stderr);
        assert!(
            said.starts_with("unhealthy: ") && said.contains(part),
            "{said}"
        );
        assert!(said.contains(variable), "{said}");
    }
}
