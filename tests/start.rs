//! How soon a started relay has a message in the cloud, and how much memory it has then. The figures are written past
//! the harness, so that `tests/cross/check` and `tests/image/check` show them: README's table of images is made of them.

mod common;

use std::io::Write as _;
use std::time::{Duration, Instant};

use cloud_relay_sandbox::publisher::Publisher;
use cloud_relay_sandbox::relay::program;
use cloud_relay_sandbox::site::{PATIENCE, Site};
use serde_json::Value;
use tokio::process::Command;

use common::RELAY;

const STARTS: usize = 5;
/// Pause between two attempts to be let in: a part of the figure, so that it is short.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(2);
/// Far above what it takes, also unoptimized and with an emulator around it; far below what a device has.
const MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Connects as soon as the relay takes clients.
async fn let_in(site: &Site) -> Publisher {
    let attempts = async {
        loop {
            match Publisher::connect(site.relay().listen_addr(), "early").await {
                Ok(publisher) => break publisher,
                Err(_) => tokio::time::sleep(CONNECT_RETRY_DELAY).await,
            }
        }
    };
    let publisher = tokio::time::timeout(PATIENCE, attempts).await;
    publisher.expect("the relay lets clients in")
}

/// Runs the program with these arguments beside the relay; what it says, and how long it took from start to end.
async fn tool(site: &Site, arguments: &[&str]) -> (String, Duration) {
    let status = site.relay().status_addr().expect("it has a status page");
    let began = Instant::now();
    let output = Command::new(program(RELAY))
        .args(arguments)
        .env_clear()
        .env("STATUS_LISTEN", status.to_string())
        .output()
        .await
        .expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("text");
    (said, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_relay_soon_has_a_message_in_the_cloud_and_little_memory() {
    let site = Site::new(RELAY).await.unwrap();
    let mut starts = Vec::new();
    for messages in 1..=STARTS {
        // a start that does nothing: what the engine or the emulator takes
        let (_, nothing) = tool(&site, &["--version"]).await;
        let began = Instant::now();
        site.relay().start(&site.environment()).await.unwrap();
        let mut publisher = let_in(&site).await;
        publisher.publish("sensors", b"first", 1).await.unwrap();
        let relayed = site.cloud().wait_for(messages, PATIENCE).await;
        relayed.expect("it is in the cloud");
        let (nothing, whole) = (nothing.as_secs_f64(), began.elapsed().as_secs_f64());
        starts.push(format!("{whole:.2} s ({nothing:.2} s to do nothing)"));
        if messages < STARTS {
            site.relay().terminate().await.unwrap();
        }
    }
    let (status, _) = tool(&site, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let memory = status.pointer("/process/memory_bytes");
    let memory = memory.and_then(Value::as_u64).expect("a figure");
    assert!(memory < MEMORY_BYTES_MAX, "{memory} bytes");
    writeln!(
        std::io::stderr(),
        "figures: start to first message in the cloud: {}; memory then: {memory} bytes",
        starts.join(", ")
    )
    .unwrap();
}
