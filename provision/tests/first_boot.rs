//! The whole way: a relay without credentials, this function, AWS's control plane, balenaCloud, the
//! Supervisor, and the relay again, whose messages arrive in a cloud that asks for the certificate.
//!
//! moto issues the certificates in the name of the sandbox's authority, which its cloud trusts. So
//! what is used in the handshake is, byte by byte, what the function stored.

mod common;

use std::path::Path;
use std::sync::Arc;

use cloud_relay_sandbox::balena::{Balena, BalenaOptions};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::{PROVISION, Stage, only_certificate};

/// The relay, which `cargo test --workspace` builds beside the function.
fn relay() -> String {
    let relay = Path::new(PROVISION).with_file_name("cloud-relay");
    assert!(
        relay.exists(),
        "{}: run `cargo build -p cloud-relay`",
        relay.display()
    );
    relay.display().to_string()
}

/// Goes the whole way with `PROVISION_KEY=key`; the stage, on which the device is provisioned.
async fn goes_the_whole_way(key: &str) -> (Site, Stage) {
    let site = Site::new(&relay()).await.expect("a site");
    let options = BalenaOptions {
        variables: site.settings(),
        ..BalenaOptions::new(DEVICE_UUID)
    };
    let balena = Arc::new(Balena::start(options).await.expect("balenaCloud"));
    let token = "0123456789abcdef";
    let stage = Stage::around(
        Arc::clone(&balena),
        Some(Arc::clone(site.authority())),
        [("PROVISION_TOKEN", token), ("FLEETS", "acme/weather")],
    )
    .await;

    balena
        .supervise(Arc::clone(site.relay()))
        .await
        .expect("up");
    let listening = site.relay().wait_until_listening(PATIENCE).await;
    listening.expect("the relay listens");
    let load = Load::new(1, "sensors", 50);
    let report = site.publish(&load).await.expect("the relay accepts");
    assert!(report.is_complete(&load));

    balena.set_variable("PROVISION_KEY", key);
    // the owner sets the address: from here on nobody does anything
    balena.set_variable("PROVISION_URL", &format!("{}?token={token}", stage.url));
    site.arrived(&report.acked).await.expect("all is there");
    let found = site.cloud().audit(&report.acked);
    assert!(found.is_complete_and_ordered(), "{found}");
    assert_eq!(site.cloud().client_ids(), [DEVICE_UUID]);

    let pem = only_certificate(&stage.look().await, DEVICE_UUID);
    let stored = stage.api.service_variable("AWS_CERT").expect("stored");
    assert_eq!(cloud_relay_provision::pair::decode(&stored), Some(pem));
    // once for PROVISION_URL, and at least once for the credentials
    assert!(balena.recreations() >= 2);
    for log in [site.relay().log(), stage.process.log()] {
        let lines = log.lines().join("\n");
        assert!(
            !lines.contains(token) && !lines.contains("PRIVATE KEY"),
            "{lines}"
        );
    }
    (site, stage)
}

#[tokio::test]
async fn a_relay_without_credentials_is_provisioned_and_what_it_took_meanwhile_arrives() {
    let (_site, stage) = goes_the_whole_way("cloud").await;
    assert!(stage.api.service_variable("AWS_PRIVATE_KEY").is_some());
}

#[tokio::test]
async fn a_relay_that_keeps_its_key_is_provisioned_with_a_certificate_alone() {
    let (site, stage) = goes_the_whole_way("device").await;
    assert_eq!(stage.api.service_variable("AWS_PRIVATE_KEY"), None);
    assert!(site.relay().data_dir().join("device-key.pem").exists());
}
