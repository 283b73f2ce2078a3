//! A device whose clock is not set yet, and a certificate that ends: the real relay, its own machine's clock, and
//! certificates whose validity lies around it.

mod common;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::{RELAY, publish};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A relay whose certificate is valid for this time, started.
async fn site(valid: Range<SystemTime>) -> Site {
    let site = Site::new(RELAY).await.expect("a site");
    let identity = site.authority().issue_device_valid(DEVICE_UUID, valid);
    let identity = identity.expect("a certificate");
    let environment = site.environment_with([
        ("AWS_CERT", &identity.certificate_base64()),
        ("AWS_PRIVATE_KEY", &identity.private_key_base64()),
    ]);
    site.start_with(&environment).await.expect("it starts");
    site
}

#[tokio::test]
async fn a_clock_before_the_certificates_start_is_waited_for_while_messages_are_accepted() {
    // Certificates know whole seconds only.
    let now_s = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let from = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s + 5);
    let site = site(from..from + HOUR).await;
    let waits = "state: clock-unset: this device's clock says ";
    site.relay().wait_for_log(waits, PATIENCE).await.unwrap();
    let acked = publish(&site, &Load::new(1, "sensors", 20)).await;

    site.arrived(&acked).await.unwrap();
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
    let from = SystemTime::now() + DAY;
    let site = site(from..from + DAY).await;
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
    let now = SystemTime::now();
    let until = now + 10 * DAY + HOUR;
    let site = site(now - HOUR..until).await;
    let warning =
        "WARN cloud::expiry: this device's certificate (AWS_CERT) expires in 10 days, on 20";
    site.relay().wait_for_log(warning, PATIENCE).await.unwrap();
    site.cloud().wait_for_connects(1, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_called_so() {
    let now = SystemTime::now();
    let site = site(now - DAY..now - HOUR).await;
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
