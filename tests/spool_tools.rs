//! `cloud-relay spool …` on what the real relay left behind.

#![expect(
    clippy::unwrap_used,
    reason = "functions beside the tests may fail as the tests do"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::publisher::Publisher;
use cloud_relay_sandbox::relay::{RelayProcess, program};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cloud-relay");
/// How long the relay may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A relay with nowhere to send to that has acknowledged `payloads`, at `QoS` 1 and 2 in turn.
async fn relay_with(payloads: &[Vec<u8>]) -> RelayProcess {
    let relay = RelayProcess::start_new(PROGRAM, &Environment::new())
        .await
        .unwrap();
    relay.wait_until_listening(START_TIMEOUT).await.unwrap();
    let mut publisher = Publisher::connect(relay.listen_addr(), "publisher")
        .await
        .unwrap();
    for (payload, qos) in payloads.iter().zip([1, 2].into_iter().cycle()) {
        publisher.publish("sensors", payload, qos).await.unwrap();
    }
    relay
}

fn tool(data_dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program(PROGRAM));
    command
        .env_clear()
        .arg("spool")
        .args(words)
        .arg("--data-dir")
        .arg(data_dir);
    command
}

fn run(data_dir: &Path, words: &[&str]) -> Output {
    tool(data_dir, words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Each file and directory under `dir`: when it was changed and what is in it.
fn state_of(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut state = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        state.insert(path, (metadata.modified().unwrap(), content));
    }
    state
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| format!("message {n}").into_bytes())
        .collect()
}

#[tokio::test]
async fn export_gives_what_was_acknowledged_before_a_kill_and_no_tool_changes_a_byte() {
    let mut payloads = numbered(40);
    payloads.push("\"§\"\n\u{0}".as_bytes().to_vec());
    payloads.push(Vec::new());
    let relay = relay_with(&payloads).await;
    relay.kill_9().await.unwrap();
    let before = state_of(relay.data_dir());
    assert!(before.len() >= 5, "data, spool, lock, cursor, a segment");

    let inspect = run(relay.data_dir(), &["inspect"]);
    assert_eq!(inspect.status.code(), Some(0), "{inspect:?}");
    assert!(
        text(&inspect.stdout).contains("waiting   42 messages"),
        "{}",
        text(&inspect.stdout)
    );
    let verify = run(relay.data_dir(), &["verify"]);
    assert_eq!(verify.status.code(), Some(0), "{verify:?}");
    assert!(text(&verify.stdout).contains(": sound; "), "{verify:?}");
    let export = run(relay.data_dir(), &["export"]);
    assert_eq!(export.status.code(), Some(0), "{export:?}");
    assert_eq!(text(&export.stderr), "");
    assert_eq!(
        run(relay.data_dir(), &["export", "--all"])
            .stdout
            .split(|byte| *byte == b'\n')
            .count(),
        43
    );
    assert!(
        before == state_of(relay.data_dir()),
        "something was changed"
    );

    let lines: Vec<Value> = text(&export.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let exported: Vec<_> = (lines.iter())
        .map(|line| line["payload"].as_str().unwrap().as_bytes().to_vec())
        .collect();
    assert_eq!(exported, payloads);
    for (line, qos) in lines.iter().zip([1, 2].into_iter().cycle()) {
        assert_eq!(
            (&line["topic"], &line["qos"]),
            (&"sensors".into(), &qos.into())
        );
    }
}

#[tokio::test]
async fn the_tools_refuse_while_a_relay_runs_and_the_relay_goes_on() {
    let relay = relay_with(&numbered(3)).await;
    for words in [["inspect"], ["verify"], ["export"]] {
        let output = run(relay.data_dir(), &words);
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        assert_eq!(text(&output.stdout), "");
        assert!(
            text(&output.stderr).contains("in use by a running relay"),
            "{output:?}"
        );
    }
    assert!(relay.process().is_running());
    relay.terminate().await.unwrap();
    let output = run(relay.data_dir(), &["verify"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_reader_that_wants_one_line_only_ends_the_export_quietly() {
    // More than a pipe and the output buffer hold, so that the tool must meet the closed pipe.
    let payload = vec![b'x'; 100_000];
    let relay = relay_with(&vec![payload; 10]).await;
    relay.kill_9().await.unwrap();
    let mut export = tool(relay.data_dir(), &["export"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(export.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let first: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(first["seq"], 1);
    let output = export.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

#[tokio::test]
async fn damage_ends_verify_with_code_1_and_its_place() {
    let relay = relay_with(&numbered(3)).await;
    relay.terminate().await.unwrap();
    let segment = relay.data_dir().join("spool/0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[90] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let output = run(relay.data_dir(), &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stdout).starts_with("0000000000000001.seg offset 71 length "),
        "{output:?}"
    );
    let export = run(relay.data_dir(), &["export"]);
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    assert_eq!(text(&export.stdout).lines().count(), 2);
}

#[test]
fn a_directory_without_a_spool_is_named_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let output = run(&missing, &["inspect"]);
    assert_eq!(output.status.code(), Some(66), "{output:?}");
    assert!(text(&output.stderr).contains("nowhere/spool"), "{output:?}");
    assert!(!missing.exists());
    fs::create_dir(dir.path().join("spool")).unwrap();
    let output = run(dir.path(), &["inspect"]);
    assert_eq!(output.status.code(), Some(66), "{output:?}");
    assert!(text(&output.stderr).contains("no spool in"), "{output:?}");
}

#[test]
fn data_dir_comes_from_the_environment_whatever_else_is_wrong_there() {
    let output = Command::new(program(PROGRAM))
        .args(["spool", "inspect"])
        .env_clear()
        .env("DATA_DIR", " /nowhere ")
        .env("AWS_PORT", "none")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(66), "{output:?}");
    assert!(
        text(&output.stderr).contains("/nowhere/spool"),
        "{output:?}"
    );
}

#[test]
fn wrong_words_show_the_usage_and_right_ones_help_and_version() {
    let run = |word: &str| Command::new(program(PROGRAM)).arg(word).output().unwrap();
    let wrong = run("spol");
    assert_eq!(wrong.status.code(), Some(64));
    assert!(text(&wrong.stderr).contains("spol") && text(&wrong.stderr).contains("Usage:"));
    for (word, part) in [
        ("--help", "Usage:"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(word);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(part), "{output:?}");
    }
}
