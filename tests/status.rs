//! What the relay shows of itself while it works: over HTTP, to `cloud-relay status`, and in the log.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};
use serde_json::Value;

use common::{PYTHON, RELAY};

/// Pause between two looks at a figure that is to become another: HTTP has no event for it.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A connection on which there was a GET.
fn asked(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the status page listens");
    let limited = stream.set_read_timeout(Some(PATIENCE));
    limited.expect("a time-out that is not zero");
    let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    asked.expect("the request is taken");
    stream
}

/// What comes up to and with `end`.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).expect("more, in time");
        got.extend(byte);
    }
    String::from_utf8(got).expect("UTF-8")
}

/// The status code and the body of the answer to a GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = asked(address, path);
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    read.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status code"), body.to_owned())
}

fn json(address: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&get(address, path).1).expect("JSON")
}

/// Waits until the status has `value` at `pointer`.
fn until(address: SocketAddr, pointer: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    let began = Instant::now();
    loop {
        let status = json(address, "/api/status");
        if status.pointer(pointer) == Some(&value) {
            return status;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{pointer} is not {value}: {status}"
        );
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

fn status_of(site: &Site) -> SocketAddr {
    site.relay()
        .status_addr()
        .expect("the relay has a status page")
}

/// Runs `cloud-relay status` with nothing else in its environment.
async fn cloud_relay_status(arguments: &[&str], environment: Environment) -> Output {
    tokio::process::Command::new(RELAY)
        .arg("status")
        .args(arguments)
        .env_clear()
        .envs(environment)
        .output()
        .await
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_follows_the_relay_through_an_outage_and_balances() {
    let site = Site::started(RELAY).await.unwrap();
    let address = status_of(&site);
    until(address, "/health/state", "connected");
    let before = site.publish(&Load::new(1, "sensors", 50)).await.unwrap();
    site.arrived(&before.acked).await.unwrap();
    until(address, "/ledger/delivered", 50);

    site.cloud().stop().await.unwrap();
    until(address, "/health/state", "disconnected");
    let during = site.publish(&Load::new(2, "sensors", 30)).await.unwrap();
    let status = until(address, "/ledger/spooled", 30);
    assert_eq!(status["ledger"]["accepted"], 80);
    assert_eq!(status["health"]["ok"], true, "what is kept is safe");
    assert!(
        status["health"]["remedy"]
            .as_str()
            .unwrap()
            .contains("kept")
    );
    assert_eq!(get(address, "/healthz").0, 200);
    assert!(
        status["problems"][0]["text"]
            .as_str()
            .unwrap()
            .contains("disconnected"),
        "{status}"
    );

    site.cloud().resume().await.unwrap();
    site.arrived(&during.acked).await.unwrap();
    let status = until(address, "/ledger/delivered", 80);
    assert_eq!(status["cloud"]["connections"], 2);
    assert_eq!(status["cloud"]["connections_lost"], 1);
    assert_eq!(status["local"]["messages_received"], 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_parser_takes_the_metrics_and_would_notice_if_they_were_cut_short() {
    common::require_tools();
    let site = Site::started(RELAY).await.unwrap();
    let address = status_of(&site);
    let report = site.publish(&Load::new(1, "sensors", 5)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
    until(address, "/ledger/delivered", 5);
    let program = "
import sys, urllib.request
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
answer = urllib.request.urlopen(sys.argv[1])
assert answer.headers['Content-Type'].startswith('application/openmetrics-text; version=1.0.0'), answer.headers
text = answer.read().decode()
for family in parse(text):
    assert family.documentation and family.type in ('counter', 'gauge'), family
    for sample in family.samples:
        print(sample.name, sample.labels.get('state', ''), sample.value)
try:
    list(parse(text.removesuffix('# EOF\\n')))
except ValueError as error:
    print(error)
";
    let printed = common::run(
        PYTHON,
        &["-c", program, &format!("http://{address}/metrics")],
    )
    .await;
    for line in [
        "cloud_relay_messages_delivered_total  5",
        "cloud_relay_local_messages_received_total  5",
        "cloud_relay_state connected 1",
        "cloud_relay_spool_messages  0",
    ] {
        assert!(
            printed.iter().any(|found| found == line),
            "{line} not in {printed:#?}"
        );
    }
    let refused = printed.last().expect("the reason");
    assert!(refused.contains("EOF"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_tells_people_and_programs_and_says_when_nobody_answers() {
    let site = Site::new(RELAY).await.unwrap();
    let address = status_of(&site).to_string();
    let asking = || environment([("STATUS_LISTEN", &address)]);

    let nobody = cloud_relay_status(&[], asking()).await;
    assert_eq!(nobody.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains(&address));

    site.start().await.unwrap();
    until(status_of(&site), "/health/state", "connected");
    let people = cloud_relay_status(&[], asking()).await;
    let text = String::from_utf8_lossy(&people.stdout);
    assert_eq!(people.status.code(), Some(0));
    assert!(
        text.contains("connected") && text.contains("0 accepted ="),
        "{text}"
    );
    let programs = cloud_relay_status(&["--json"], asking()).await;
    let status: Value = serde_json::from_slice(&programs.stdout).unwrap();
    assert_eq!(status["health"]["state"], "connected");

    let off = cloud_relay_status(&[], environment([("STATUS_LISTEN", "off")])).await;
    assert_eq!(off.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&off.stderr).contains("off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_never_shown() {
    let site = Site::new(RELAY).await.unwrap();
    let password = "correct horse battery staple";
    site.start_with(&site.environment_with([("STATUS_PASSWORD", password)]))
        .await
        .unwrap();
    let address = status_of(&site);
    assert_eq!(get(address, "/healthz").0, 401);

    let listen = address.to_string();
    let without = cloud_relay_status(&[], environment([("STATUS_LISTEN", &listen)])).await;
    assert!(String::from_utf8_lossy(&without.stderr).contains("STATUS_PASSWORD"));
    let with = environment([
        ("STATUS_LISTEN", listen.as_str()),
        ("STATUS_PASSWORD", password),
    ]);
    let status = cloud_relay_status(&["--json"], with).await;
    assert_eq!(status.status.code(), Some(0));
    let shown = String::from_utf8_lossy(&status.stdout);
    let log = site.relay().log().lines().join("\n");
    assert!(
        !shown.contains("horse") && !log.contains("horse"),
        "{shown}\n{log}"
    );
    assert!(log.contains("STATUS_PASSWORD=set"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_in_any_answer() {
    let site = Site::started(RELAY).await.unwrap();
    let address = status_of(&site);
    until(address, "/health/state", "connected");
    let identity = site.identity();
    for path in ["/", "/healthz", "/metrics", "/api/status"] {
        let (_, body) = get(address, path);
        for secret in [identity.private_key_base64(), identity.certificate_base64()] {
            let beginning: String = secret.chars().skip(60).take(40).collect();
            assert!(!body.contains(&beginning), "{path}");
        }
        assert!(!body.contains("PRIVATE KEY"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_costs_the_page_and_not_the_relay() {
    let site = Site::new(RELAY).await.unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    site.start_with(&site.environment_with([("STATUS_LISTEN", &listen)]))
        .await
        .unwrap();
    let line = site
        .relay()
        .wait_for_log("no status page", PATIENCE)
        .await
        .unwrap();
    assert!(line.contains("WARN") && line.contains(&listen), "{line}");
    let report = site.publish(&Load::new(1, "sensors", 5)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_json_log_is_an_object_and_a_healthy_run_warns_of_nothing() {
    let site = Site::new(RELAY).await.unwrap();
    site.start_with(&site.environment_with([("LOG_FORMAT", "json")]))
        .await
        .unwrap();
    let report = site.publish(&Load::new(1, "sensors", 100)).await.unwrap();
    site.arrived(&report.acked).await.unwrap();
    assert!(site.relay().terminate().await.unwrap().status.success());
    let lines = site.relay().log().lines();
    assert!(lines.len() > 3, "{lines:?}");
    for line in &lines {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            object["message"].is_string() && object["module"].is_string(),
            "{line}"
        );
        assert!(
            matches!(object["level"].as_str(), Some("INFO" | "DEBUG")),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pages_are_live_at_a_time_and_nobody_who_idles_keeps_health_from_being_asked_for() {
    /// The limits of the server: live pages, and connections of all kinds.
    const LIVE_MAX: usize = 8;
    const CONNECTIONS_MAX: usize = 16;
    let site = Site::started(RELAY).await.unwrap();
    let address = status_of(&site);
    let mut pages: Vec<TcpStream> = (0..LIVE_MAX)
        .map(|_| asked(address, "/api/events"))
        .collect();
    for page in &mut pages {
        assert!(read_until(page, "\n\n").starts_with("HTTP/1.1 200"));
    }
    let mut refused = asked(address, "/api/events");
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.to_lowercase().contains("retry-after: 10"),
        "{answer}"
    );

    let idle: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let began = Instant::now();
    assert_eq!(get(address, "/healthz").0, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "it had to wait");
    for page in &mut pages {
        read_until(page, "data: ");
    }
    drop(idle);

    drop(pages.pop());
    let began = Instant::now();
    while !read_until(&mut asked(address, "/api/events"), "\r\n").contains("200") {
        assert!(began.elapsed() < PATIENCE, "no place became free");
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}
