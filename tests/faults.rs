//! Whatever is wrong around the relay, it says so in plain words, accepts and spools all the same,
//! shows no secret, and delivers once the fault is gone.

mod common;

use cloud_relay_sandbox::balena::SUPERVISOR_API_KEY;
use cloud_relay_sandbox::ca::{CertificateAuthority, KeyFormat};
use cloud_relay_sandbox::cloud::Connections;
use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::secrets::{TOKEN, assert_no_secret};
use common::{RELAY, publish};

/// Starts the relay with `changes` and every detail in its log: it must say `message`, accept and
/// spool, show no secret, stop in peace, and deliver once the fault is gone.
async fn says_accepts_and_delivers_later(site: &Site, changes: &[(&str, &str)], message: &str) {
    let mut faulty = site.environment_with([
        ("LOG_LEVEL", "trace"),
        ("PROVISION_URL", &format!("http://127.0.0.1:9/?key={TOKEN}")),
        ("BALENA_SUPERVISOR_ADDRESS", "http://127.0.0.1:9"),
        ("BALENA_SUPERVISOR_API_KEY", SUPERVISOR_API_KEY),
    ]);
    let changes = changes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    faulty.extend(changes);
    let relay = site.relay();
    let from = relay.log().lines().len();
    site.start_with(&faulty).await.expect("the relay runs");
    let said = relay.log().wait_for(message, from, PATIENCE).await;
    said.expect("the relay says what is wrong");
    let acked = publish(site, &Load::new(1, "sensors", 50)).await;
    let stopped = relay.terminate().await.expect("the relay stops");
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_no_secret(relay, &faulty);

    site.cloud()
        .set_faults(|faults| faults.connections = Connections::Accept);
    site.start().await.expect("the relay runs");
    site.arrived(&acked)
        .await
        .expect("what was accepted arrives");
}

#[tokio::test]
async fn a_certificate_that_is_garbage_is_named() {
    let site = Site::new(RELAY).await.unwrap();
    let cases = [
        (
            "%%% no base64 %%%",
            "misconfigured: AWS_CERT does not decode as base64",
        ),
        (
            "Z2FyYmFnZQ==",
            "misconfigured: AWS_CERT holds something that is not PEM text",
        ),
    ];
    for (value, message) in cases {
        says_accepts_and_delivers_later(&site, &[("AWS_CERT", value)], message).await;
    }
    let key = site.identity().private_key_base64();
    let message = "misconfigured: AWS_CERT holds a private key; expected a certificate";
    says_accepts_and_delivers_later(&site, &[("AWS_CERT", &key)], message).await;
}

#[tokio::test]
async fn a_key_that_was_cut_off_is_named() {
    let site = Site::new(RELAY).await.unwrap();
    let mut key = site.identity().private_key_base64();
    key.truncate(key.len() / 2 / 4 * 4);
    let message = "misconfigured: AWS_PRIVATE_KEY holds damaged PEM text";
    says_accepts_and_delivers_later(&site, &[("AWS_PRIVATE_KEY", &key)], message).await;
}

#[tokio::test]
async fn a_key_of_another_pair_is_named() {
    let site = Site::new(RELAY).await.unwrap();
    let other = site
        .authority()
        .issue_device("other", KeyFormat::Pkcs8)
        .unwrap();
    let key = other.private_key_base64();
    let message = "misconfigured: AWS_PRIVATE_KEY does not belong to AWS_CERT";
    says_accepts_and_delivers_later(&site, &[("AWS_PRIVATE_KEY", &key)], message).await;
}

#[tokio::test]
async fn a_certificate_that_the_cloud_does_not_know_is_reported() {
    let site = Site::new(RELAY).await.unwrap();
    let foreign = CertificateAuthority::new("somebody else").unwrap();
    let device = foreign.issue_device(DEVICE_UUID, KeyFormat::Sec1).unwrap();
    let [cert, key] = [device.certificate_base64(), device.private_key_base64()];
    let changes = [("AWS_CERT", cert.as_str()), ("AWS_PRIVATE_KEY", &key)];
    let message = "TLS with localhost failed: it does not accept this device's certificate";
    says_accepts_and_delivers_later(&site, &changes, message).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_or_found_is_reported() {
    let site = Site::new(RELAY).await.unwrap();
    let nobody = ReservedPort::new().unwrap();
    let port = nobody.addr().port().to_string();
    let message = format!("disconnected: cannot reach localhost on port {port}: ");
    says_accepts_and_delivers_later(&site, &[("AWS_PORT", &port)], &message).await;
    let log = site.relay().log().lines().join("\n");
    assert!(
        log.contains("does its firewall let that port through"),
        "{log}"
    );
    // a name that the resolver must not find (RFC 6761, section 6.4)
    let changes = [("AWS_DATA_ENDPOINT", "data.invalid")];
    let port = site.cloud().port();
    let message =
        format!("disconnected: cannot reach data.invalid on port {port}: its name is not found");
    says_accepts_and_delivers_later(&site, &changes, &message).await;
}

#[tokio::test]
async fn an_endpoint_that_another_root_vouches_for_is_not_trusted() {
    let site = Site::new(RELAY).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let foreign = CertificateAuthority::new("somebody else").unwrap();
    foreign.write_root(file.path()).unwrap();
    let path = file.path().display().to_string();
    let message = "its certificate is signed by none of the trusted roots";
    says_accepts_and_delivers_later(&site, &[("AWS_ROOT_CA_PATH", &path)], message).await;
    // empty is unset: the built-in roots do not know the sandbox either
    says_accepts_and_delivers_later(&site, &[("AWS_ROOT_CA_PATH", " ")], message).await;
}

#[tokio::test]
async fn a_file_of_roots_that_is_missing_or_empty_is_named() {
    let site = Site::new(RELAY).await.unwrap();
    let changes = [("AWS_ROOT_CA_PATH", "/nowhere/root.pem")];
    let message = "misconfigured: AWS_ROOT_CA_PATH: cannot read /nowhere/root.pem";
    says_accepts_and_delivers_later(&site, &changes, message).await;
    let changes = [("AWS_ROOT_CA_PATH", "/dev/null")];
    let message = "misconfigured: AWS_ROOT_CA_PATH: /dev/null holds no certificate";
    says_accepts_and_delivers_later(&site, &changes, message).await;
}

#[tokio::test]
async fn a_cloud_that_refuses_or_closes_is_reported() {
    let site = Site::new(RELAY).await.unwrap();
    let cases = [
        (
            Connections::RefuseConnack,
            "disconnected: localhost refused the connection: ",
        ),
        (
            Connections::Close,
            "disconnected: localhost closed the connection during the handshake",
        ),
    ];
    for (connections, message) in cases {
        site.cloud()
            .set_faults(|faults| faults.connections = connections);
        says_accepts_and_delivers_later(&site, &[], message).await;
    }
}

#[tokio::test]
async fn without_any_setting_the_relay_says_what_to_set_and_spools() {
    let site = Site::new(RELAY).await.unwrap();
    let nothing = [
        "AWS_DATA_ENDPOINT",
        "AWS_CERT",
        "AWS_PRIVATE_KEY",
        "PROVISION_URL",
    ];
    let changes = nothing.map(|name| (name, ""));
    let message = "unconfigured: set AWS_DATA_ENDPOINT";
    says_accepts_and_delivers_later(&site, &changes, message).await;
    let log = site.relay().log().lines().join("\n");
    assert!(
        log.contains("set PROVISION_URL to the address of the cloud function"),
        "{log}"
    );
}

#[tokio::test]
async fn a_provisioning_endpoint_that_cannot_be_reached_is_reported_without_its_token() {
    let site = Site::new(RELAY).await.unwrap();
    let changes = [("AWS_CERT", ""), ("AWS_PRIVATE_KEY", "")];
    let message = "WARN state: disconnected: PROVISION_URL http://127.0.0.1:9/?*** cannot register this device yet";
    says_accepts_and_delivers_later(&site, &changes, message).await;
}
