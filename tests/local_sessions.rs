//! Local persistent sessions, and retained messages beside them, over a restart of the real program, with mosquitto's clients.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{RELAY, ended_well, mosquitto_pub, mosquitto_sub, publish, run};

/// A topic that does not go to the cloud.
const LOCAL: &str = "jobs";

fn journal(site: &Site) -> PathBuf {
    site.relay().data_dir().join("broker/journal")
}

fn journal_bytes(site: &Site) -> u64 {
    fs::metadata(journal(site)).map_or(0, |file| file.len())
}

/// A client subscribes to [`LOCAL`] with a session that outlives it, and leaves.
async fn subscribe_and_leave(site: &Site) {
    let port = site.relay().listen_addr().port();
    let first = mosquitto_sub(port, &SESSION).await;
    first.terminate(PATIENCE).await.expect("it leaves");
}

const SESSION: [&str; 9] = ["-V", "311", "-i", "keeper", "-c", "-t", LOCAL, "-q", "1"];

/// What the absent client finds when it comes back, up to a count.
async fn found(site: &Site, until: &[&str]) -> Vec<String> {
    let port = site.relay().listen_addr().port().to_string();
    run(
        "mosquitto_sub",
        &[&["-p", &port], until, &SESSION[..]].concat(),
    )
    .await
}

#[tokio::test]
async fn sessions_and_retained_messages_survive_an_orderly_stop_and_a_kill() {
    let site = Site::started(RELAY).await.unwrap();
    let mut port = site.relay().listen_addr().port();
    subscribe_and_leave(&site).await;
    mosquitto_pub(port, &["-q", "1", "-r", "-t", "state", "-m", "kept"]).await;
    mosquitto_pub(port, &["-q", "1", "-r", "-t", "gone", "-m", "old"]).await;
    mosquitto_pub(port, &["-q", "1", "-r", "-t", "gone", "-n"]).await;
    for (payload, qos) in [("one", "1"), ("two", "2")] {
        mosquitto_pub(port, &["-q", qos, "-t", LOCAL, "-m", payload]).await;
        mosquitto_pub(port, &["-q", qos, "-r", "-t", "state", "-m", payload]).await;
        if payload == "one" {
            site.relay().terminate().await.unwrap();
        } else {
            site.relay().kill_9().await.unwrap();
        }
        site.start().await.unwrap();
        port = site.relay().listen_addr().port();
    }
    assert_eq!(found(&site, &["-C", "2"]).await, ["one", "two"]);
    let retained = [
        "-q",
        "1",
        "-C",
        "1",
        "--retained-only",
        "-F",
        "%t %p",
        "-t",
        "state",
        "-t",
        "gone",
    ];
    let late = mosquitto_sub(port, &retained).await;
    let printed = ended_well(&late).await;
    assert!(
        printed.iter().any(|line| line == "state two"),
        "{printed:?}"
    );
    assert!(
        !printed.iter().any(|line| line.starts_with("gone")),
        "{printed:?}"
    );
    assert_eq!(site.cloud().received_count(), 0);
}

#[tokio::test]
async fn kill_9_during_a_stream_to_an_absent_session_loses_nothing_acknowledged() {
    /// Fewer than the session has room for.
    const MESSAGES: u64 = 2_000;
    let site = Site::started(RELAY).await.unwrap();
    subscribe_and_leave(&site).await;
    let mut acked: Vec<MessageId> = Vec::new();
    for round in 0..3 {
        let load = Load {
            payload_bytes: 64,
            ..Load::new(round, LOCAL, MESSAGES)
        };
        let enough = journal_bytes(&site) + 40_000;
        let kill = async {
            while journal_bytes(&site) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            site.relay().kill_9().await.unwrap();
        };
        let (report, ()) = tokio::join!(site.publish(&load), kill);
        acked.extend(report.unwrap().acked);
        site.start().await.unwrap();
    }
    assert!(acked.len() >= 100, "{}", acked.len());
    let port = site.relay().listen_addr().port();
    mosquitto_pub(port, &["-q", "1", "-t", LOCAL, "-m", "that was all"]).await;
    let keeper = mosquitto_sub(port, &SESSION).await;
    (keeper.wait_for_log("that was all", PATIENCE).await).expect("the session has room for it");
    let printed = keeper.log().lines();
    let arrived: Vec<_> = (printed.iter())
        .filter_map(|line| MessageId::of(line.as_bytes()))
        .collect();
    let missing = acked.iter().filter(|id| !arrived.contains(id)).count();
    assert_eq!(
        missing,
        0,
        "of {} acknowledged, {} arrived",
        acked.len(),
        arrived.len()
    );
}

#[tokio::test]
async fn nothing_is_written_when_no_session_is_kept_and_nothing_is_retained() {
    let site = Site::started(RELAY).await.unwrap();
    publish(&site, &Load::new(1, "sensors", 100)).await;
    site.relay().terminate().await.unwrap();
    let files = fs::read_dir(site.relay().data_dir().join("broker")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["lock"]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_used_never_stops_the_relay() {
    let site = Site::new(RELAY).await.unwrap();
    // Where the journal's directory would be there is a file.
    fs::create_dir_all(site.relay().data_dir()).unwrap();
    fs::write(site.relay().data_dir().join("broker"), b"").unwrap();
    site.start().await.unwrap();
    subscribe_and_leave(&site).await;
    let port = site.relay().listen_addr().port();
    mosquitto_pub(port, &["-q", "1", "-t", LOCAL, "-m", "in memory"]).await;
    let acked = publish(&site, &Load::new(1, "sensors", 100)).await;
    site.arrived(&acked).await.unwrap();
    assert_eq!(found(&site, &["-C", "1"]).await, ["in memory"]);
    let words = "local sessions and retained messages are in memory only";
    site.relay().wait_for_log(words, PATIENCE).await.unwrap();
    // And it is written as soon as it can be, at the stop at the latest.
    fs::remove_file(site.relay().data_dir().join("broker")).unwrap();
    mosquitto_pub(port, &["-q", "1", "-r", "-t", LOCAL, "-m", "kept"]).await;
    site.relay().terminate().await.unwrap();
    assert!(journal_bytes(&site) > 0);
}
