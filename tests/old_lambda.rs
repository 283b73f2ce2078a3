//! The cloud function that fleets use today, unchanged from npm, provisions the relay.
//!
//! moto stands in for AWS and a stub for balenaCloud's API (see `tests/peers/old_lambda/`). moto's
//! certificates are signed by themselves, so no cloud takes them: what the relay makes of them is
//! looked at up to the handshake.

mod common;

use std::sync::Arc;

use cloud_relay_sandbox::balena::{Balena, BalenaOptions, Push, SUPERVISOR_API_KEY};
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site, environment};

use common::{RELAY, publish, require_tools, run, run_prepared};

/// The old Lambda behind HTTP.
struct OldLambda {
    process: Process,
    url: String,
}

impl OldLambda {
    async fn start(event_format: &str) -> Self {
        require_tools();
        let script = "tests/peers/old_lambda/main.mjs";
        let options = ["--uuid", DEVICE_UUID, "--event-format", event_format];
        let arguments = [&[script], &options[..]].concat();
        let process = run_prepared(Process::new("node", arguments).with_open_stdin()).await;
        let line = process.wait_for_log("listening ", PATIENCE).await;
        let line = line.expect("the old Lambda starts");
        let address = line.split_whitespace().last().expect("an address");
        OldLambda {
            url: format!("http://{address}/"),
            process,
        }
    }

    /// The variables that it wrote for the relay's service.
    async fn variables(&self) -> Environment {
        let recorded = format!("{}recorded", self.url);
        let answer = run("curl", &["--silent", "--show-error", &recorded])
            .await
            .concat();
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let written = answer.pointer("/variables/service cloud-relay").cloned();
        serde_json::from_value(written.unwrap_or_default()).expect("it wrote variables")
    }
}

/// The relay's environment before it has credentials.
fn first_boot(site: &Site, lambda: &OldLambda, balena: &Balena) -> Environment {
    let mut all = site.settings();
    all.extend(environment([
        ("PROVISION_URL", &lambda.url),
        ("BALENA_DEVICE_UUID", DEVICE_UUID),
        ("BALENA_SERVICE_NAME", "cloud-relay"),
        ("BALENA_SUPERVISOR_ADDRESS", &balena.supervisor_address()),
        ("BALENA_SUPERVISOR_API_KEY", SUPERVISOR_API_KEY),
    ]));
    all
}

async fn provisions(event_format: &str, provision_key: &str) {
    let site = Site::new(RELAY).await.expect("a site");
    let lambda = OldLambda::start(event_format).await;
    let options = BalenaOptions {
        push: Push::OnUpdate,
        ..BalenaOptions::new(DEVICE_UUID)
    };
    let balena = Arc::new(Balena::start(options).await.expect("a Supervisor"));
    let mut first = first_boot(&site, &lambda, &balena);
    first.insert("PROVISION_KEY".to_owned(), provision_key.to_owned());
    let relay = site.relay();
    let says = async |part: &str, from: usize| {
        let line = relay.log().wait_for(part, from, PATIENCE).await;
        line.expect("the relay says so");
    };

    site.start_with(&first).await.expect("the relay starts");
    says(
        "this device is registered; its credentials are on their way",
        0,
    )
    .await;
    let variables = lambda.variables().await;
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    assert_eq!(names, ["AWS_CERT", "AWS_PRIVATE_KEY"]);
    let acked = publish(&site, &Load::new(1, "sensors", 20)).await;

    // the Supervisor's part: a new container with the variables
    relay.terminate().await.expect("the relay stops");
    let with_credentials: Environment = first.clone().into_iter().chain(variables).collect();
    let from = relay.log().lines().len();
    site.start_with(&with_credentials)
        .await
        .expect("the relay starts");
    says("it does not accept this device's certificate", from).await;
    let later = relay.log().lines().split_off(from).join("\n");
    assert!(!later.contains("misconfigured"), "{later}");

    // the device was wiped: it asks again, and the Thing exists
    relay.terminate().await.expect("the relay stops");
    let from = relay.log().lines().len();
    site.start_with(&first).await.expect("the relay starts");
    says("this device was registered before", from).await;
    says(
        "asked the Supervisor to look for an update force=false",
        from,
    )
    .await;
    assert_eq!(balena.updates().len(), 1);

    // nothing was lost on the way
    site.start().await.expect("the relay starts");
    site.arrived(&acked).await.expect("all is there");
    lambda.process.terminate(PATIENCE).await.expect("it ends");
}

#[tokio::test]
async fn the_old_lambda_provisions_the_relay_and_later_says_that_the_thing_exists() {
    provisions("2.0", "cloud").await;
}

#[tokio::test]
async fn the_old_lambda_behind_a_rest_api_does_the_same() {
    provisions("1.0", "cloud").await;
}

#[tokio::test]
async fn the_old_lambda_passes_over_a_signing_request_and_the_relay_takes_its_key() {
    provisions("2.0", "device").await;
}

#[tokio::test]
async fn a_device_key_that_is_lost_is_told_of_where_the_old_lambda_knows_the_thing_and_nothing_else_is()
 {
    let site = Site::new(RELAY).await.expect("a site");
    let lambda = OldLambda::start("2.0").await;
    let balena = Balena::start(BalenaOptions::new(DEVICE_UUID)).await;
    let balena = balena.expect("a Supervisor");
    let mut environment = first_boot(&site, &lambda, &balena);
    environment.insert("PROVISION_KEY".to_owned(), "device".to_owned());
    let relay = site.relay();
    let says = async |part: &str, from: usize| {
        let line = relay.log().wait_for(part, from, PATIENCE).await;
        line.expect("the relay says so");
    };
    site.start_with(&environment)
        .await
        .expect("the relay starts");
    says("this device is registered", 0).await;
    relay.terminate().await.expect("the relay stops");

    // what a volume that was replaced leaves: the certificate alone
    let cert = lambda.variables().await.remove("AWS_CERT");
    environment.insert("AWS_CERT".to_owned(), cert.expect("it wrote one"));
    std::fs::remove_file(relay.data_dir().join("device-key.pem")).expect("there was a key");
    let from = relay.log().lines().len();
    site.start_with(&environment)
        .await
        .expect("the relay starts");
    says("was the volume replaced?", from).await;
    says("this device was registered before", from).await;
    let acked = publish(&site, &Load::new(1, "sensors", 20)).await;

    relay.terminate().await.expect("the relay stops");
    site.start().await.expect("the relay starts");
    site.arrived(&acked).await.expect("all is there");
    lambda.process.terminate(PATIENCE).await.expect("it ends");
}
