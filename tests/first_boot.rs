//! A device's first boot: no credentials, then the cloud function, balenaCloud and the Supervisor,
//! then a new process that has them. What was published meanwhile arrives.

mod common;

use std::sync::Arc;
use std::time::Duration;

use cloud_relay_sandbox::balena::{Balena, BalenaOptions, Push};
use cloud_relay_sandbox::ca::KeyFormat;
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::provision_endpoint::{Answer, EndpointOptions, ProvisionEndpoint};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::RELAY;

/// How long the cloud function takes when something is to happen meanwhile.
const WORK_DELAY: Duration = Duration::from_secs(2);
/// A shutdown that takes longer would be cut short by the relay itself.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A site with everything that provisions a device.
struct Fleet {
    site: Site,
    endpoint: ProvisionEndpoint,
    balena: Arc<Balena>,
}

impl Fleet {
    async fn new(push: Push) -> Self {
        let site = Site::new(RELAY).await.expect("a site");
        let options = BalenaOptions {
            variables: site.settings(),
            push,
            // these tests end and start the relay themselves; a second hand would race them
            restart_ended: false,
            ..BalenaOptions::new(DEVICE_UUID)
        };
        let balena = Arc::new(Balena::start(options).await.expect("balenaCloud"));
        let endpoint = ProvisionEndpoint::start(EndpointOptions {
            authority: Arc::clone(site.authority()),
            balena: Arc::clone(&balena),
            key_format: KeyFormat::Pkcs8,
            pause_between_variables: Duration::ZERO,
        })
        .await
        .expect("a provisioning endpoint");
        balena.set_variable("PROVISION_URL", &endpoint.url());
        Fleet {
            site,
            endpoint,
            balena,
        }
    }

    /// The Supervisor starts the relay.
    async fn boot(&self) {
        let relay = Arc::clone(self.site.relay());
        self.balena
            .supervise(relay)
            .await
            .expect("the relay starts");
        let listening = self.site.relay().wait_until_listening(PATIENCE).await;
        listening.expect("the relay listens");
    }

    /// Publishes 50 messages; the ids of those that were acknowledged, at least one.
    async fn publish(&self, publisher: u32) -> Vec<MessageId> {
        let report = self
            .site
            .publish(&Load::new(publisher, "sensors", 50))
            .await;
        let acked = report.expect("the publisher connects").acked;
        assert!(!acked.is_empty(), "nothing was acknowledged");
        acked
    }

    /// Waits for a line in the relay's log.
    async fn says(&self, part: &str) {
        let line = self.site.relay().wait_for_log(part, PATIENCE).await;
        line.expect("the relay says so");
    }

    /// Of each update that the Supervisor was asked for, whether it was to be forced.
    fn forced(&self) -> Vec<bool> {
        let updates = self.balena.updates();
        updates.iter().map(|call| call.force).collect()
    }

    fn set_credentials(&self) {
        let identity = self.site.identity();
        self.balena
            .set_variable("AWS_CERT", &identity.certificate_base64());
        self.balena
            .set_variable("AWS_PRIVATE_KEY", &identity.private_key_base64());
    }
}

#[tokio::test]
async fn messages_from_before_and_during_provisioning_arrive_after_the_restart() {
    let fleet = Fleet::new(Push::EachWrite).await;
    fleet.endpoint.script(Answer::respond(500, "{}"));
    fleet.endpoint.script(Answer::Work { delay: WORK_DELAY });
    fleet.boot().await;
    let mut acked = fleet.publish(1).await;
    fleet.endpoint.wait_for_requests(2, PATIENCE).await.unwrap();
    acked.extend(fleet.publish(2).await);

    // AWS_CERT comes first: one more start with only one of the two
    fleet
        .balena
        .wait_for_recreations(2, PATIENCE)
        .await
        .unwrap();
    fleet.site.arrived(&acked).await.unwrap();
    let found = fleet.site.cloud().audit(&acked);
    assert!(found.is_complete_and_ordered(), "{found}");
    assert_eq!(fleet.endpoint.requests().len(), 2, "one failed, one worked");
    assert_eq!(fleet.site.cloud().client_ids(), [DEVICE_UUID]);
}

#[tokio::test]
async fn the_request_is_the_one_that_cloud_functions_expect() {
    let fleet = Fleet::new(Push::EachWrite).await;
    fleet.boot().await;
    fleet.endpoint.wait_for_requests(1, PATIENCE).await.unwrap();
    let requests = fleet.endpoint.requests();
    let request = requests.first().unwrap();
    assert_eq!(request.method, "POST");
    assert_eq!(
        request.body,
        format!(r#"{{"uuid":"{DEVICE_UUID}","balena_service":"cloud-relay"}}"#)
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("cache-control"), Some("no-cache"));
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_work_was_done_does_no_harm() {
    let fleet = Fleet::new(Push::EachWrite).await;
    fleet.endpoint.script(Answer::WorkAndClose);
    fleet.boot().await;
    fleet
        .balena
        .wait_for_recreations(2, PATIENCE)
        .await
        .unwrap();
    // only now: an earlier one would race with the re-creations
    fleet
        .site
        .cloud()
        .wait_for_connects(1, PATIENCE)
        .await
        .unwrap();
    let acked = fleet.publish(1).await;
    fleet.site.arrived(&acked).await.unwrap();
    assert_eq!(fleet.endpoint.things(), [DEVICE_UUID]);
}

#[tokio::test]
async fn with_one_credential_of_two_the_relay_waits_and_asks_nobody() {
    let fleet = Fleet::new(Push::EachWrite).await;
    let certificate = fleet.site.identity().certificate_base64();
    fleet.balena.set_variable("AWS_CERT", &certificate);
    fleet.boot().await;
    fleet.says("AWS_PRIVATE_KEY is not here yet").await;
    fleet.says("awaiting-credentials").await;
    let acked = fleet.publish(1).await;
    let key = fleet.site.identity().private_key_base64();
    fleet.balena.set_variable("AWS_PRIVATE_KEY", &key);
    fleet.site.arrived(&acked).await.unwrap();
    assert!(
        fleet.endpoint.requests().is_empty(),
        "{:?}",
        fleet.endpoint.requests()
    );
    assert!(fleet.balena.updates().is_empty());
}

#[tokio::test]
async fn sigterm_during_the_request_ends_the_relay_at_once_and_loses_nothing() {
    let fleet = Fleet::new(Push::OnUpdate).await;
    fleet.endpoint.script(Answer::Hang);
    let site = &fleet.site;
    site.start_with(&fleet.balena.environment()).await.unwrap();
    fleet.endpoint.wait_for_requests(1, PATIENCE).await.unwrap();
    let acked = fleet.publish(1).await;
    let stopped = site.relay().terminate().await.unwrap();
    assert!(
        stopped.status.success() && stopped.took < STOP_MAX,
        "{stopped:?}"
    );
    site.start().await.unwrap();
    site.arrived(&acked).await.unwrap();
}

/// The device is registered, its credentials are in balenaCloud and have not been pushed.
async fn registered_before(force: bool) -> Fleet {
    let fleet = Fleet::new(Push::OnUpdate).await;
    fleet.endpoint.plant_thing(DEVICE_UUID);
    if force {
        fleet.balena.set_variable("SUPERVISOR_FORCE_UPDATE", "1");
    }
    fleet
}

#[tokio::test]
async fn a_thing_that_already_exists_makes_the_relay_ask_the_supervisor_for_an_update() {
    let fleet = registered_before(false).await;
    fleet.endpoint.script(Answer::Respond {
        status: 400,
        body: "thing already exists".to_owned(),
        delay: WORK_DELAY,
        retry_after: None,
    });
    fleet.boot().await;
    // well before the answer, and so before the update is asked for
    fleet.set_credentials();
    let acked = fleet.publish(1).await;
    fleet
        .balena
        .wait_for_recreations(1, PATIENCE)
        .await
        .unwrap();
    fleet.site.arrived(&acked).await.unwrap();
    assert_eq!(fleet.forced(), [false]);
}

#[tokio::test]
async fn an_update_is_forced_only_if_the_owner_says_so() {
    let fleet = registered_before(true).await;
    fleet.boot().await;
    fleet
        .says("asked the Supervisor to look for an update force=true")
        .await;
    assert_eq!(fleet.forced(), [true]);
}

#[tokio::test]
async fn an_update_lock_is_reported_and_the_relay_goes_on_accepting() {
    let fleet = registered_before(false).await;
    fleet.balena.script_update(423);
    fleet.boot().await;
    fleet.says("a service holds an update lock").await;
    let acked = fleet.publish(1).await;
    fleet.site.start().await.unwrap();
    fleet.site.arrived(&acked).await.unwrap();
}

#[tokio::test]
async fn a_device_that_has_its_credentials_needs_no_provision_url_and_no_supervisor() {
    let site = Site::new(RELAY).await.unwrap();
    let environment: Environment = site.environment();
    assert!(
        !environment
            .keys()
            .any(|name| name.contains("PROVISION") || name.contains("SUPERVISOR"))
    );
    site.start_with(&environment).await.unwrap();
    let report = site.publish(&Load::new(1, "sensors", 50)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

/// Where the relay keeps a key of its own.
fn device_key(fleet: &Fleet) -> std::path::PathBuf {
    fleet.site.relay().data_dir().join("device-key.pem")
}

#[tokio::test]
async fn a_device_that_keeps_its_key_gets_a_certificate_and_after_a_lost_volume_another() {
    let fleet = Fleet::new(Push::EachWrite).await;
    fleet.balena.set_variable("PROVISION_KEY", "device");
    fleet.boot().await;
    // only now: an earlier one would race with the re-creation
    let connected = fleet.site.cloud().wait_for_connects(1, PATIENCE);
    connected.await.unwrap();
    let acked = fleet.publish(1).await;
    fleet.site.arrived(&acked).await.unwrap();
    let variables = fleet.balena.variables();
    assert!(variables.contains_key("AWS_CERT") && !variables.contains_key("AWS_PRIVATE_KEY"));
    let first = std::fs::read_to_string(device_key(&fleet)).unwrap();

    // the key is gone with its volume: the certificate that is left is of no use
    fleet.site.relay().terminate().await.unwrap();
    std::fs::remove_file(device_key(&fleet)).unwrap();
    let connects = fleet.site.cloud().counts().connects;
    fleet
        .site
        .start_with(&fleet.balena.environment())
        .await
        .unwrap();
    fleet.says("was the volume replaced?").await;
    let all = fleet.site.cloud().wait_for_connects(connects + 1, PATIENCE);
    all.await.unwrap();
    let acked = fleet.publish(2).await;
    fleet.site.arrived(&acked).await.unwrap();
    assert_ne!(std::fs::read_to_string(device_key(&fleet)).unwrap(), first);
    let log = fleet.site.relay().log().lines().join("\n");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    for key in first.lines().filter(|line| !line.starts_with('-')) {
        assert!(!log.contains(key), "{log}");
    }
}

#[tokio::test]
async fn a_cloud_function_that_makes_the_key_itself_serves_a_device_that_would_keep_one() {
    let fleet = Fleet::new(Push::EachWrite).await;
    fleet.endpoint.ignore_csr();
    fleet.balena.set_variable("PROVISION_KEY", "device");
    fleet.boot().await;
    // only now: an earlier one would race with the re-creation
    let connected = fleet.site.cloud().wait_for_connects(1, PATIENCE);
    connected.await.unwrap();
    let acked = fleet.publish(1).await;
    fleet.site.arrived(&acked).await.unwrap();
    assert!(fleet.balena.variables().contains_key("AWS_PRIVATE_KEY"));
    fleet
        .says("PROVISION_KEY is \"device\", but AWS_PRIVATE_KEY")
        .await;
}
