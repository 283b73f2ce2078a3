//! What the tools print, on spools made by the real [`Spool`].

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::spool::ledger::Outcome;
use crate::spool::storage::Directory;
use crate::spool::{Message, Options, Read, Spool};

/// 2026-11-23T08:05:09Z in milliseconds.
const MORNING_MS: u64 = 1_795_421_109_000;

/// A data directory: three messages, of which the first and the last are settled.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Directory::open(&dir.path().join(spool::DIRECTORY)).unwrap());
    let (spool, _) = Spool::open(storage, Options::default(), |_| {}).unwrap();
    for (payload, clock_set) in [
        (b"first".as_slice(), true),
        (b"\xFF\x00".as_slice(), false),
        ("drei \"€\"\n".as_bytes(), true),
    ] {
        let seq = spool
            .append(&Message {
                topic: "sensors/é",
                attributes: b"",
                payload,
                qos: 2,
                retain: !clock_set,
                received: Timestamp {
                    unix_ms: if clock_set { MORNING_MS } else { 42 },
                    clock_set,
                },
            })
            .unwrap();
        while spool.progress().safe <= seq {
            std::thread::yield_now();
        }
    }
    let Read::Deliveries(deliveries) = spool.read(10, 1 << 20) else {
        panic!("nothing in memory");
    };
    assert_eq!(deliveries.len(), 3);
    spool.settle(&[1, 3], Outcome::Delivered);
    spool.close().unwrap();
    dir
}

fn output(dir: &Path, tool: SpoolTool) -> (Result<Verdict, ToolError>, String) {
    let command = SpoolCommand {
        tool,
        data_dir: Some(dir.to_owned()),
    };
    let mut out = Vec::new();
    let result = command.run_to(&mut out);
    (result, String::from_utf8(out).unwrap())
}

fn lines(dir: &Path, all: bool) -> Vec<serde_json::Value> {
    let (result, text) = output(dir, SpoolTool::Export { all });
    result.unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn damage_the_first_record(dir: &Path) {
    let segment = dir.join(spool::DIRECTORY).join("0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::write(&segment, &bytes).unwrap();
}

#[test]
fn export_writes_the_unsettled_and_binary_payloads_as_base64() {
    let dir = data_dir();
    assert_eq!(
        lines(dir.path(), false),
        [serde_json::json!({
            "seq": 2, "topic": "sensors/é", "qos": 2, "retain": true,
            "received": null, "received_unix_ms": 42, "payload_base64": "/wA=",
        })]
    );
}

#[test]
fn export_of_all_says_of_each_message_whether_it_is_settled() {
    let dir = data_dir();
    let lines = lines(dir.path(), true);
    assert_eq!(
        lines.last().unwrap(),
        &serde_json::json!({
            "seq": 3, "topic": "sensors/é", "qos": 2, "retain": false,
            "received": "2026-11-23T08:05:09.000Z", "received_unix_ms": MORNING_MS,
            "payload": "drei \"€\"\n", "settled": true,
        })
    );
    let settled: Vec<_> = lines.iter().map(|line| line["settled"].clone()).collect();
    assert_eq!(settled, [true, false, true]);
}

#[test]
fn inspect_shows_segments_cursor_ledger_and_what_waits() {
    let dir = data_dir();
    let (result, text) = output(dir.path(), SpoolTool::Inspect);
    assert_eq!(result.unwrap(), Verdict::Sound);
    for part in [
        "0000000000000001.seg",
        "2026-11-23T08:05:09.000Z to 2026-11-23T08:05:09.000Z, clock not set for 1",
        "every message below 2 is settled, and 1 above it",
        "accepted 3 = delivered 2 + spooled 1 + dead-lettered 0 + dropped 0 (damaged 0, full 0, expired 0)",
        "waiting   1 messages, 51 bytes; the oldest is 2, arrived when the clock was not set",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("damage "), "{text}");
}

#[test]
fn verify_calls_a_sound_spool_sound_and_a_torn_tail_too() {
    let dir = data_dir();
    let (result, text) = output(dir.path(), SpoolTool::Verify);
    assert_eq!(result.unwrap(), Verdict::Sound);
    assert!(text.contains(": sound; 1 segments, 3 records"), "{text}");

    let segment = dir
        .path()
        .join(spool::DIRECTORY)
        .join("0000000000000001.seg");
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 3]).unwrap();
    let (result, text) = output(dir.path(), SpoolTool::Verify);
    assert_eq!(result.unwrap(), Verdict::Sound);
    assert!(
        text.contains("unfinished, and so was never") && text.contains("1 unfinished writes"),
        "{text}"
    );
}

#[test]
fn verify_names_damage_with_file_offset_and_length() {
    let dir = data_dir();
    damage_the_first_record(dir.path());
    let (result, text) = output(dir.path(), SpoolTool::Verify);
    assert_eq!(result.unwrap(), Verdict::Damaged);
    assert!(
        text.contains("0000000000000001.seg offset 71 length 54: no record"),
        "{text}"
    );
    assert!(text.contains(": damaged; "), "{text}");
}

#[test]
fn inspect_and_export_go_on_behind_damage_and_tell_of_it() {
    let dir = data_dir();
    damage_the_first_record(dir.path());
    let (_, text) = output(dir.path(), SpoolTool::Inspect);
    assert!(
        text.contains("damage    1 places, 1 records cannot be read"),
        "{text}"
    );
    let spool = Offline::open(&dir.path().join(spool::DIRECTORY)).unwrap();
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let verdict = export::export(&spool, true, &mut out, &mut complaints).unwrap();
    assert_eq!(verdict, Verdict::Damaged);
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
    let complaints = String::from_utf8(complaints).unwrap();
    assert!(complaints.contains("offset 71"), "{complaints}");
}

#[test]
fn each_reason_to_give_up_has_its_exit_code() {
    let dir = data_dir();
    let spool_dir = dir.path().join(spool::DIRECTORY);
    let relay = Directory::open(&spool_dir).unwrap();
    let (result, _) = output(dir.path(), SpoolTool::Inspect);
    assert_eq!(result.unwrap_err().exit_code(), EXIT_IN_USE);
    drop(relay);
    let (result, _) = output(&spool_dir, SpoolTool::Inspect);
    assert_eq!(result.unwrap_err().exit_code(), EXIT_NO_SPOOL);
    let closed = ToolError::Output(io::ErrorKind::BrokenPipe.into());
    assert!(closed.is_closed_pipe());
    let full = ToolError::Output(io::ErrorKind::StorageFull.into());
    assert!(!full.is_closed_pipe());
    assert_eq!(full.exit_code(), EXIT_IO);
}
