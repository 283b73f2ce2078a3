//! What the commands print and do, on letters made by the real store.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::clock::Timestamp;
use crate::dead_letters::{DIRECTORY, DeadLetters, Letter, Reason};
use crate::routes::Routes;
use crate::spool::tests::message;

/// A data directory with two letters: 7 is text, 8 is not and came when the clock was not set.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let letters =
        [(7, &b"21.5"[..], true), (8, b"\xFF\x00", false)].map(|(seq, payload, clock_set)| {
            let mut message = message(payload);
            if !clock_set {
                message.received = Timestamp {
                    unix_ms: 42,
                    clock_set,
                };
            }
            let reason = Reason {
                why: "denied",
                words: "not authorized\u{1b}[2J".to_owned(),
            };
            Letter::new(seq, &message, "site/data", reason, message.received)
        });
    let store = DeadLetters::new(dir.path().join(DIRECTORY), 1 << 20);
    store.put(&letters).unwrap();
    dir
}

fn run(dir: &Path, action: Action) -> (Result<Verdict, LettersError>, String, String) {
    let command = DeadLettersCommand {
        action,
        data_dir: Some(dir.to_owned()),
    };
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let result = command.run_to(&mut out, &mut complaints);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (result, text(out), text(complaints))
}

fn show(id: &str, raw: bool) -> Action {
    Action::Show {
        id: id.to_owned(),
        raw,
    }
}

#[test]
fn list_has_a_line_for_each_with_its_reason_and_says_if_there_are_none() {
    let dir = data_dir();
    let (result, text, _) = run(dir.path(), Action::List { json: false });
    assert_eq!(result.unwrap(), Verdict::All);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("-8-") && lines[0].contains("clock not set"));
    let expected = "2026-11-23T08:05:09.000Z  \"sensors\"  4 bytes  not authorized\\u{1b}[2J";
    assert!(
        lines[1].contains("-7-") && lines[1].contains(expected),
        "{text}"
    );
    let empty = tempfile::tempdir().unwrap();
    let (_, text, _) = run(empty.path(), Action::List { json: false });
    assert_eq!(text, "no dead letters\n");
}

#[test]
fn list_as_json_has_null_for_a_time_that_is_not_known() {
    let dir = data_dir();
    let (_, text, _) = run(dir.path(), Action::List { json: true });
    let lines: Vec<serde_json::Value> = (text.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["received"], serde_json::Value::Null);
    assert_eq!(lines[1]["received"], "2026-11-23T08:05:09.000Z");
    assert_eq!(
        (&lines[1]["seq"], &lines[1]["why"]),
        (&7.into(), &"denied".into())
    );
}

#[test]
fn show_prints_text_as_it_is_and_all_else_as_base64_and_raw_is_raw() {
    let dir = data_dir();
    let (_, text, _) = run(dir.path(), show("7", false));
    assert!(
        text.contains("cloud topic    \"site/data\"") && text.ends_with("\n\n21.5\n"),
        "{text}"
    );
    assert!(text.contains("not authorized\\u{1b}[2J\n"), "{text}");
    let (_, text, _) = run(dir.path(), show("8", false));
    assert!(
        text.contains("as base64") && text.ends_with("/wA=\n"),
        "{text}"
    );
    let (_, text, _) = run(dir.path(), show("7", true));
    assert_eq!(text, "21.5");
    let (result, _, _) = run(dir.path(), show("9", true));
    assert_eq!(result.unwrap_err().exit_code(), EXIT_UNKNOWN);
}

#[test]
fn damage_is_named_and_the_rest_is_listed() {
    let dir = data_dir();
    let entry = &Shelf::new(&dir.path().join(DIRECTORY)).entries().unwrap()[0];
    let path = dir
        .path()
        .join(DIRECTORY)
        .join(format!("{}.letter", entry.id));
    fs::write(path, b"nonsense").unwrap();
    let (result, text, complaints) = run(dir.path(), Action::List { json: false });
    assert_eq!(result.unwrap(), Verdict::Some);
    assert_eq!(text.lines().count(), 1);
    assert!(
        complaints.contains(&entry.id) && complaints.contains("damaged"),
        "{complaints}"
    );
    let (result, ..) = run(dir.path(), show("8", false));
    assert_eq!(result.unwrap_err().exit_code(), EXIT_SOME);
}

#[test]
fn drop_removes_those_named_or_all() {
    let dir = data_dir();
    let these = Which::These(vec!["7".to_owned()]);
    let (_, text, _) = run(dir.path(), Action::Drop { which: these });
    assert_eq!(text, "1 dead letters dropped\n");
    let (_, text, _) = run(dir.path(), Action::Drop { which: Which::All });
    assert_eq!(text, "1 dead letters dropped\n");
    let (_, text, _) = run(dir.path(), Action::Drop { which: Which::All });
    assert_eq!(text, "0 dead letters dropped\n");
}

/// Replays all to a broker that behaves as `serve` does.
fn replay_to(
    dir: &Path,
    routes: &Routes,
    serve: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> (Result<Verdict, LettersError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    let shelf = Shelf::new(&dir.join(DIRECTORY));
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let chosen = shelf.entries().unwrap();
    let result = replay::replay(
        &shelf,
        &chosen,
        (broker, None),
        routes,
        (&mut out, &mut complaints),
    );
    server.join().unwrap();
    (result, String::from_utf8(complaints).unwrap())
}

fn take(stream: &mut std::net::TcpStream, len: usize) {
    let mut bytes = vec![0; len];
    io::Read::read_exact(stream, &mut bytes).unwrap();
}

/// Reads CONNECT and accepts it.
fn accept(stream: &mut std::net::TcpStream) {
    let mut header = [0; 2];
    io::Read::read_exact(stream, &mut header).unwrap();
    take(stream, header[1].into());
    stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
}

fn left(dir: &Path) -> usize {
    Shelf::new(&dir.join(DIRECTORY)).entries().unwrap().len()
}

#[test]
fn a_letter_is_removed_when_it_is_acknowledged_and_not_before() {
    let dir = data_dir();
    let routes = Routes::new("sensors", "site/data");
    let (result, _) = replay_to(dir.path(), &routes, |mut stream| {
        accept(&mut stream);
        // Letter 8 with a payload of two bytes is published first; only that is acknowledged.
        take(&mut stream, 2 + 2 + 7 + 2 + 1 + 2);
        stream.write_all(&[0x40, 2, 0, 1]).unwrap();
        take(&mut stream, 2 + 2 + 7 + 2 + 1 + 4);
    });
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), EXIT_NO_RELAY);
    assert!(
        error.to_string().contains("1 dead letters were replayed"),
        "{error}"
    );
    assert_eq!(left(dir.path()), 1);
}

#[test]
fn a_letter_that_is_refused_is_kept_and_the_others_go_on() {
    let dir = data_dir();
    let routes = Routes::new("sensors", "site/data");
    let (result, complaints) = replay_to(dir.path(), &routes, |mut stream| {
        accept(&mut stream);
        stream
            .write_all(&[0x40, 3, 0, 1, 0x87, 0x40, 2, 0, 2])
            .unwrap();
        take(&mut stream, 2 * (2 + 2 + 7 + 2 + 1) + 2 + 4 + 2);
    });
    assert_eq!(result.unwrap(), Verdict::Some);
    assert!(
        complaints.contains("LOCAL_MQTT_ACL_FILE") && complaints.contains("is kept"),
        "{complaints}"
    );
    assert_eq!(left(dir.path()), 1);
}

#[test]
fn a_refused_login_is_told_as_that_and_leaves_everything() {
    for (reason, exit_code, words) in [
        (0x86, EXIT_NO_LOGIN, "refuses the login"),
        (0x87, EXIT_NO_LOGIN, "LOCAL_MQTT_PASSWORD"),
        (0x97, EXIT_NO_RELAY, "reason 0x97"),
    ] {
        let dir = data_dir();
        let routes = Routes::new("sensors", "site/data");
        let (result, _) = replay_to(dir.path(), &routes, move |mut stream| {
            stream.write_all(&[0x20, 3, 0, reason, 0]).unwrap();
            // Closed with the CONNECT unread, it would be a reset.
            io::Read::read(&mut stream, &mut [0; 100]).unwrap();
        });
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), exit_code);
        let said = error.to_string();
        assert!(said.contains(words) && !said.contains("no relay"), "{said}");
        assert_eq!(left(dir.path()), 2);
    }
}

#[test]
fn a_letter_without_a_route_is_kept() {
    let dir = data_dir();
    let routes = Routes::new("other", "site/data");
    let (result, complaints) = replay_to(dir.path(), &routes, |mut stream| accept(&mut stream));
    assert_eq!(result.unwrap(), Verdict::Some);
    assert!(
        complaints.contains("no route leads from \"sensors\""),
        "{complaints}"
    );
    assert_eq!(left(dir.path()), 2);
}

#[test]
fn without_a_relay_it_says_what_to_do() {
    let dir = data_dir();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let which = Which::All;
    let broker = Some(listener.local_addr().unwrap());
    drop(listener);
    let (result, ..) = run(dir.path(), Action::Replay { which, broker });
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), EXIT_NO_RELAY);
    assert!(error.to_string().contains("--broker"), "{error}");
    assert_eq!(left(dir.path()), 2);
}

#[test]
fn a_broker_on_every_network_is_reached_on_this_device() {
    for (listen, reachable) in [
        ("0.0.0.0:1883", "127.0.0.1:1883"),
        ("[::]:1883", "[::1]:1883"),
        ("10.0.0.1:1", "10.0.0.1:1"),
    ] {
        let found = crate::cli::reachable(listen.parse().unwrap());
        assert_eq!(found.to_string(), reachable);
    }
}
