//! SIGTERM and SIGINT: exit code 0 within five seconds whatever the relay is doing, the totals in the
//! last line, and every acknowledgement that went out kept.

mod common;

use std::time::Duration;

use cloud_relay_sandbox::cloud::{Connections, Faults};
use cloud_relay_sandbox::process::Stopped;
use cloud_relay_sandbox::publisher::{Load, Publisher};
use cloud_relay_sandbox::relay::STOP_GRACE;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use common::RELAY;
use common::totals::Totals;

/// How long a shutdown may take.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Messages of a second publisher that show that a load is flowing.
const CONTROLS: u64 = 200;

/// What the relay's last line says.
fn totals(site: &Site) -> Totals {
    Totals::of_all_runs(&site.relay().log().lines())
}

fn assert_prompt(stopped: Stopped) {
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert!(stopped.took < STOP_MAX && !stopped.killed, "{stopped:?}");
}

/// The log lines of a relay with which something is wrong.
fn complaints(site: &Site) -> Vec<String> {
    let mut lines = site.relay().log().lines();
    lines.retain(|line| !line.starts_with("INFO "));
    lines
}

#[tokio::test]
async fn a_healthy_run_ends_with_its_totals_and_without_a_warning() {
    let site = Site::started(RELAY).await.unwrap();
    let load = Load::new(1, "sensors", 500);
    let report = site.publish(&load).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
    assert_prompt(site.relay().terminate().await.unwrap());
    let expected = Totals {
        accepted: 500,
        delivered: 500,
        spooled: 0,
        dead_lettered: 0,
        dropped: 0,
    };
    assert_eq!(totals(&site), expected);
    assert_eq!(complaints(&site), [""; 0]);
    assert_eq!(site.cloud().counts().duplicates, 0);
}

#[tokio::test]
async fn sigint_ends_an_idle_relay_as_sigterm_does() {
    let site = Site::started(RELAY).await.unwrap();
    site.cloud().wait_for_connects(1, PATIENCE).await.unwrap();
    // a client that stays connected must not hold it up
    let _client = Publisher::connect(site.relay().listen_addr(), "idle")
        .await
        .unwrap();
    assert_prompt(site.relay().process().interrupt(STOP_GRACE).await.unwrap());
    assert_eq!(totals(&site).accepted, 0);
    assert_eq!(complaints(&site), [""; 0]);
}

/// Stops the relay amid a load, starts it again, and expects everything that was acknowledged.
async fn stop_under_load(site: &Site, qos: u8) {
    let load = Load {
        qos,
        ..Load::new(1, "sensors", 10_000_000)
    };
    let mut publisher = Box::pin(site.publish(&load));
    let flowing = async {
        // the relay's own log has no line for a message; the cloud or the disk shows the flow
        let mut control = Publisher::connect(site.relay().listen_addr(), "control")
            .await
            .expect("the relay listens");
        for _ in 0..CONTROLS {
            let acked = control.publish("sensors", b"control", 1).await;
            acked.expect("the relay acknowledges");
        }
    };
    tokio::select! {
        ended = &mut publisher => panic!("the load ended early: {ended:?}"),
        () = flowing => {}
    }
    let (stopped, report) = tokio::join!(site.relay().terminate(), publisher);
    assert_prompt(stopped.expect("the relay stops"));
    let totals = totals(site);
    assert!(totals.balances() && totals.dropped == 0, "{totals:?}");
    let report = report.expect("the publisher connects");
    assert!(
        report.broken.is_some() && report.acked.len() > 1,
        "{report:?}"
    );
    let kept = u64::try_from(report.acked.len()).expect("a number") + CONTROLS;
    assert!(
        totals.accepted >= kept,
        "{totals:?} for {kept} acknowledged"
    );

    site.cloud()
        .set_faults(|faults| *faults = Faults::default());
    site.cloud().resume().await.expect("the cloud is back");
    site.start().await.expect("the relay starts");
    let arrived = site.arrived(&report.acked).await;
    arrived.expect("what was acknowledged arrives");
    let found = site.cloud().audit(&report.acked);
    assert!(found.is_complete_and_ordered(), "{found}");
}

#[tokio::test]
async fn under_load_what_was_acknowledged_is_kept() {
    let site = Site::started(RELAY).await.unwrap();
    stop_under_load(&site, 1).await;
    assert_eq!(complaints(&site), [""; 0]);
}

#[tokio::test]
async fn under_load_at_qos_2_what_was_received_is_kept() {
    let site = Site::started(RELAY).await.unwrap();
    stop_under_load(&site, 2).await;
}

#[tokio::test]
async fn during_an_outage_what_was_acknowledged_is_kept() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    stop_under_load(&site, 1).await;
}

#[tokio::test]
async fn a_cloud_that_hangs_does_not_hold_the_relay_up() {
    let site = Site::started(RELAY).await.unwrap();
    site.cloud().wait_for_connects(1, PATIENCE).await.unwrap();
    site.cloud()
        .set_faults(|faults| faults.connections = Connections::Freeze);
    stop_under_load(&site, 1).await;
}

#[tokio::test]
async fn a_cloud_that_hangs_in_the_handshake_does_not_hold_the_relay_up() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud()
        .set_faults(|faults| faults.connections = Connections::Freeze);
    site.start().await.unwrap();
    stop_under_load(&site, 1).await;
}

#[tokio::test]
async fn a_subscriber_that_reads_nothing_does_not_hold_the_relay_up() {
    // CONNECT as "deaf" with a clean session, SUBSCRIBE to # at QoS 1 (MQTT 3.1.1, sections 3.1, 3.8)
    const HELLO: &[u8] = b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04deaf\x82\x06\0\x01\0\x01#\x01";
    let site = Site::started(RELAY).await.unwrap();
    let mut deaf = TcpStream::connect(site.relay().listen_addr())
        .await
        .unwrap();
    deaf.write_all(HELLO).await.unwrap();
    deaf.readable().await.unwrap();
    // more than both sockets and the session can hold
    let load = Load {
        payload_bytes: 64 * 1024,
        ..Load::new(1, "sensors", 200)
    };
    let report = site.publish(&load).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
    assert_prompt(site.relay().terminate().await.unwrap());
    assert_eq!(totals(&site).delivered, 200);
}
