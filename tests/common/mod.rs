//! What several of these test programs share: the relay's path, and foreign programs as processes.
#![allow(dead_code, reason = "each test program uses its own part of it")]

pub(crate) mod mosquitto;
pub(crate) mod secrets;
pub(crate) mod totals;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};

/// The real program.
pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_cloud-relay");
/// The Python that has paho-mqtt.
pub(crate) const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/venv/bin/python");

/// Publishes `load`, all of which must be acknowledged.
pub(crate) async fn publish(site: &Site, load: &Load) -> Vec<MessageId> {
    let report = site.publish(load).await.expect("the publisher connects");
    assert!(report.is_complete(load), "{:?}", report.broken);
    report.acked
}

/// A relay of its own in this environment, which takes connections.
pub(crate) async fn started(environment: &Environment) -> RelayProcess {
    let relay = RelayProcess::start_new(RELAY, environment).await;
    let relay = relay.expect("the relay starts");
    let listening = relay.wait_until_listening(PATIENCE).await;
    listening.expect("the relay listens");
    relay
}

/// Where foreign programs find each other; Debian's mosquitto is in `/usr/sbin`.
pub(crate) fn foreign_environment() -> Environment {
    let path = std::env::var("PATH").unwrap_or_default();
    environment([("PATH", &format!("{path}:/usr/sbin:/usr/bin:/bin"))])
}

/// Starts a foreign program; it is killed when the value is dropped.
pub(crate) async fn start<A: AsRef<str>>(program: &str, arguments: &[A]) -> Process {
    run_prepared(Process::new(
        program,
        arguments
            .iter()
            .map(|argument| argument.as_ref().to_owned()),
    ))
    .await
}

/// Starts a process in the environment of foreign programs.
pub(crate) async fn run_prepared(process: Process) -> Process {
    if let Err(error) = process.start(&foreign_environment()).await {
        panic!("{error}: `make test` installs what the tests need");
    }
    process
}

/// Runs a foreign program to its end, which must be a success; returns what it printed.
pub(crate) async fn run<A: AsRef<str>>(program: &str, arguments: &[A]) -> Vec<String> {
    let process = start(program, arguments).await;
    ended_well(&process).await
}

/// Waits for the successful end of a process; returns what it printed.
pub(crate) async fn ended_well(process: &Process) -> Vec<String> {
    match process.wait_for_exit(PATIENCE).await {
        Ok(status) => assert!(status.success(), "{status}:\n{}", process.log().tail()),
        Err(error) => panic!("{error}"),
    }
    process.log().lines()
}

/// DER as PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Fails, and says what to do, unless `tests/setup/install` has run.
pub(crate) fn require_tools() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    for part in ["venv/.installed", "node/.installed"] {
        assert!(
            tools.join(part).exists(),
            "{} is missing: run `make test`, which installs what the tests need, \
             or tests/setup/install alone",
            tools.join(part).display()
        );
    }
}

/// A subscriber of Debian's, subscribed already. Its output has debug lines besides the payloads.
pub(crate) async fn mosquitto_sub<A: AsRef<str>>(port: u16, arguments: &[A]) -> Process {
    let port = port.to_string();
    // by lines, although it writes to a pipe
    let mut all = vec!["-oL", "mosquitto_sub", "-d", "-p", &port];
    all.extend(arguments.iter().map(AsRef::as_ref));
    let subscriber = start("stdbuf", &all).await;
    if let Err(error) = subscriber.wait_for_log("Subscribed", PATIENCE).await {
        panic!("{error}");
    }
    subscriber
}

/// Publishes with Debian's client and waits for its successful end.
pub(crate) async fn mosquitto_pub<A: AsRef<str>>(port: u16, arguments: &[A]) {
    let port = port.to_string();
    let mut all = vec!["-p", &port];
    all.extend(arguments.iter().map(AsRef::as_ref));
    run("mosquitto_pub", &all).await;
}
