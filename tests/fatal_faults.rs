//! Faults that the relay cannot run with: it ends with an exit code and one clear line, shows no
//! secret, and has not acknowledged what it does not have.

mod common;

use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::publisher::{Load, publish_load};
use cloud_relay_sandbox::relay::{RelayProcess, program};
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};

use common::RELAY;
use common::secrets::{TOKEN, assert_no_secret};

/// `EX_USAGE` of sysexits.h.
const EXIT_CONFIG: i32 = 64;
/// Any other fault that the relay cannot run with.
const EXIT_FAILURE: i32 = 1;

/// Starts the relay with `changes`: it must end with `code` and say each of `messages`.
async fn ends(relay: &RelayProcess, changes: &Environment, code: i32, messages: &[&str]) {
    relay.start(changes).await.expect("the program is there");
    let status = relay
        .process()
        .wait_for_exit(PATIENCE)
        .await
        .expect("it ends");
    let lines = relay.log().lines();
    let log = lines.join("\n");
    assert_eq!(status.code(), Some(code), "{log}");
    for message in messages {
        assert!(log.contains(message), "{message:?} is not in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert_no_secret(relay, changes);
}

#[tokio::test]
async fn five_bad_variables_are_all_named_at_once_and_the_exit_code_is_64() {
    let relay = RelayProcess::new(RELAY).unwrap();
    let bad = environment([
        ("AWS_PORT", "eight"),
        ("LOCAL_MQTT_LISTEN", "1883"),
        ("LOG_LEVEL", "loud"),
        ("PRODUCER_TOPIC", "sensors/a+"),
        ("PROVISION_URL", &format!("ftp://example.com/?key={TOKEN}")),
    ]);
    let names: Vec<&str> = bad.keys().map(String::as_str).collect();
    ends(&relay, &bad, EXIT_CONFIG, &names).await;
    let lines = relay.log().lines();
    assert_eq!(lines.len(), names.len(), "one line for each: {lines:?}");
    assert!(
        lines.iter().all(|line| line.contains("expected")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_relay_with_its_address() {
    let site = Site::started(RELAY).await.unwrap();
    let second = RelayProcess::listening_on(RELAY, site.relay().listen_addr()).unwrap();
    let address = site.relay().listen_addr().to_string();
    let messages = ["ERROR", "LOCAL_MQTT_LISTEN", &address, "mosquitto"];
    ends(&second, &site.environment(), EXIT_FAILURE, &messages).await;
}

#[tokio::test]
async fn a_data_dir_that_cannot_be_used_ends_the_relay_with_its_path() {
    let site = Site::new(RELAY).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let below_a_file = file.path().join("data").display().to_string();
    // where nobody can make a directory, not even root
    for path in [
        below_a_file.as_str(),
        "/sys/cloud-relay",
        "/proc/cloud-relay",
    ] {
        let relay = RelayProcess::new(RELAY).unwrap();
        let unusable = site.environment_with([("DATA_DIR", path)]);
        let messages = [
            "ERROR",
            "DATA_DIR: cannot create",
            path,
            "mount a volume there",
        ];
        ends(&relay, &unusable, EXIT_FAILURE, &messages).await;
    }
}

#[tokio::test]
async fn a_data_dir_that_another_relay_uses_ends_the_second_one() {
    let site = Site::started(RELAY).await.unwrap();
    let second = RelayProcess::new(RELAY).unwrap();
    let data_dir = site.relay().data_dir().display().to_string();
    let shared = site.environment_with([("DATA_DIR", &data_dir)]);
    let messages = ["ERROR", "DATA_DIR", &data_dir, "another running relay"];
    ends(&second, &shared, EXIT_FAILURE, &messages).await;
    // the first one is none the worse
    let report = site.publish(&Load::new(1, "sensors", 50)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_relay_and_what_was_acknowledged_is_kept() {
    // to the relay, a limit of the file size is a disk that suddenly takes nothing more
    const SCRIPT: &str = "trap '' XFSZ; [ -z \"$LIMIT\" ] || ulimit -f \"$LIMIT\"; exec \"$0\"";
    let site = Site::new(RELAY).await.unwrap();
    let port = ReservedPort::new().unwrap();
    let process = Process::new(
        "/bin/sh",
        ["-c".into(), SCRIPT.into(), program(RELAY).into_os_string()],
    );
    let relay = RelayProcess::in_place_of_relay(process, port.addr()).unwrap();
    site.cloud().stop().await.unwrap();
    // 500 blocks of 512 bytes: room for some of the messages
    relay
        .start(&site.environment_with([("LIMIT", "500")]))
        .await
        .unwrap();
    relay.wait_until_listening(PATIENCE).await.unwrap();
    let load = Load::new(1, "sensors", 10_000);
    let report = publish_load(port.addr(), &load).await.unwrap();
    let status = relay.process().wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(EXIT_FAILURE), "{}", relay.log().tail());
    let last = relay.log().lines().pop().unwrap();
    assert!(
        last.starts_with("ERROR") && last.contains("nothing more is acknowledged"),
        "{last}"
    );
    assert!(
        report.broken.is_some() && !report.acked.is_empty(),
        "{report:?}"
    );

    site.cloud().resume().await.unwrap();
    relay.start(&site.environment()).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "is in the log")]
async fn a_secret_in_the_log_would_be_found() {
    let relay = RelayProcess::new(RELAY).unwrap();
    let open = environment([("LOG_LEVEL", TOKEN)]);
    ends(&relay, &open, EXIT_CONFIG, &[]).await;
}
