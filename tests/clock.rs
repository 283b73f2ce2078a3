//! A device whose clock is not set yet, and a certificate that ends: the real relay, its own machine's clock, and
//! certificates whose validity lies around it.

mod common;

use std::time::{Duration, SystemTime};

use cloud_relay_sandbox::ca::DeviceIdentity;
use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::RELAY;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn environment(site: &Site, identity: &DeviceIdentity) -> Environment {
    site.environment_with([
        ("AWS_CERT", &identity.certificate_base64()),
        ("AWS_PRIVATE_KEY", &identity.private_key_base64()),
    ])
}

#[tokio::test]
async fn a_clock_before_the_certificates_start_is_waited_for_while_messages_are_accepted() {
    let site = Site::new(RELAY).await.unwrap();
    let from = SystemTime::now() + Duration::from_secs(4);
    let identity = site
        .authority()
        .issue_device_valid(DEVICE_UUID, from..from + HOUR);
    let all = environment(&site, &identity.unwrap());
    site.start_with(&all).await.unwrap();
    let waits = "state: clock-unset: this device's clock says ";
    site.relay().wait_for_log(waits, PATIENCE).await.unwrap();
    let load = Load::new(1, "sensors", 20);
    let report = site.publish(&load).await.unwrap();
    assert!(report.is_complete(&load), "{:?}", report.broken);

    site.arrived(&report.acked).await.unwrap();
    assert!(
        SystemTime::now() >= from,
        "nothing was sent before the certificate was valid"
    );
    let log = site.relay().log().lines().join("\n");
    assert!(log.contains("let NTP (UDP port 123) out"), "{log}");
    assert_eq!(site.cloud().counts().connects, 1);
    for unwanted in ["disconnected", "misconfigured", "invalid"] {
        assert!(!log.contains(unwanted), "{unwanted} in\n{log}");
    }
}

#[tokio::test]
async fn a_relay_that_waits_for_the_clock_stops_at_once_when_it_is_told_to() {
    let site = Site::new(RELAY).await.unwrap();
    let from = SystemTime::now() + DAY;
    let identity = site
        .authority()
        .issue_device_valid(DEVICE_UUID, from..from + DAY);
    site.start_with(&environment(&site, &identity.unwrap()))
        .await
        .unwrap();
    site.relay()
        .wait_for_log("state: clock-unset", PATIENCE)
        .await
        .unwrap();
    let stopped = site.relay().terminate().await.unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_eq!(site.cloud().counts().connects, 0);
}

#[tokio::test]
async fn a_certificate_that_ends_within_a_month_is_warned_of_and_works() {
    let site = Site::new(RELAY).await.unwrap();
    let now = SystemTime::now();
    let until = now + 10 * DAY + HOUR;
    let identity = site
        .authority()
        .issue_device_valid(DEVICE_UUID, now - HOUR..until);
    site.start_with(&environment(&site, &identity.unwrap()))
        .await
        .unwrap();
    let warning =
        "WARN cloud::expiry: this device's certificate (AWS_CERT) expires in 10 days, on 20";
    site.relay().wait_for_log(warning, PATIENCE).await.unwrap();
    site.cloud().wait_for_connects(1, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_called_so() {
    let site = Site::new(RELAY).await.unwrap();
    let now = SystemTime::now();
    let identity = site
        .authority()
        .issue_device_valid(DEVICE_UUID, now - DAY..now - HOUR);
    site.start_with(&environment(&site, &identity.unwrap()))
        .await
        .unwrap();
    let refused =
        "disconnected: TLS with localhost failed: it does not accept this device's certificate";
    let refused = site
        .relay()
        .log()
        .wait_for(refused, 0, PATIENCE)
        .await
        .unwrap();
    assert!(
        format!("{refused:?}").contains("certificate (AWS_CERT) expired on 20"),
        "{refused:?}"
    );
}
