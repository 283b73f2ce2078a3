//! What is there after a restart, a crash or damage.

use std::fs;

use super::*;

#[test]
fn what_was_safe_is_there_after_a_restart_and_what_was_settled_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    append(&opened.spool, 0..100);
    let read = read_all(&opened.spool);
    settle(&opened.spool, &read[..40]);
    settle(&opened.spool, &read[50..51]);
    let before = opened.spool.close().unwrap();
    drop(opened);

    let Opened { spool, recovery } = open(dir.path());
    assert_eq!(recovery.spooled, 59);
    let expected: Vec<u32> = (40..100).filter(|n| *n != 50).collect();
    assert_eq!(payloads(&read_all(&spool)), expected);
    assert_eq!(spool.ledger(), before);
}

#[test]
fn numbers_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = append(&open(dir.path()).spool, 0..5);
    let second = append(&open(dir.path()).spool, 5..6);
    assert!(second > first);
}

#[test]
fn a_torn_tail_is_cut_off_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()).spool, 0..100);
    let segment = segments(dir.path()).remove(0);
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 3]).unwrap();

    let Opened { spool, recovery } = open(dir.path());
    assert_eq!(payloads(&read_all(&spool)), (0..99).collect::<Vec<_>>());
    assert!(recovery.torn_bytes > 0);
}

#[test]
fn a_damaged_record_costs_only_itself_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()).spool, 0..100);
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    fs::write(&segment, &bytes).unwrap();

    let Opened { spool, .. } = open(dir.path());
    append(&spool, 100..110);
    let read = read_all(&spool);
    assert_eq!(read.len(), 109);
    settle(&spool, &read);
    let ledger = spool.ledger();
    assert_eq!((ledger.dropped_damaged, ledger.spooled), (1, 0));
}

#[test]
fn a_lost_cursor_costs_duplicates_and_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let last = append(&opened.spool, 0..100);
    wait_until_safe(&opened.spool, last);
    let read = read_all(&opened.spool);
    settle(&opened.spool, &read[..40]);
    drop(opened);
    fs::remove_file(dir.path().join("cursor")).unwrap();

    let Opened { spool, recovery } = open(dir.path());
    assert!(recovery.cursor_lost);
    assert_eq!(payloads(&read_all(&spool)), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_damaged_header_costs_no_message() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()).spool, 0..10);
    append(&open(dir.path()).spool, 10..20);
    let segment = segments(dir.path()).remove(0);
    let good = fs::read(&segment).unwrap();
    let mut bytes = good.clone();
    bytes[20] ^= 0xFF;
    fs::write(&segment, &bytes).unwrap();

    let Opened { spool, recovery } = open(dir.path());
    assert_eq!((recovery.headers_mended, recovery.spooled), (1, 20));
    assert_eq!(payloads(&read_all(&spool)), (0..20).collect::<Vec<_>>());
    assert_eq!(fs::read(&segment).unwrap(), good);
}

#[test]
fn a_segment_without_a_sound_record_is_set_aside_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()).spool, 0..10);
    append(&open(dir.path()).spool, 10..20);
    let segment = segments(dir.path()).remove(0);
    fs::write(&segment, [0xAB; 400]).unwrap();

    let Opened { spool, recovery } = open(dir.path());
    assert_eq!(recovery.segments_set_aside, 1);
    let read = read_all(&spool);
    assert_eq!(payloads(&read), (10..20).collect::<Vec<_>>());
    settle(&spool, &read);
    let ledger = spool.ledger();
    assert_eq!((ledger.spooled, ledger.delivered), (0, 10));
    assert!(ledger.dropped_damaged >= 1);
}

#[test]
fn a_segment_of_a_later_version_is_refused_with_its_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()).spool, 0..10);
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 2;
    let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..32]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();

    let storage = Arc::new(Directory::open(dir.path()).unwrap());
    let error = Spool::open(storage, Options::default(), |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("version 2") && text.contains(".seg"),
        "{text}"
    );
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_second_relay_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    let error = Directory::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}
