//! What is there after a restart, a crash or damage.

use super::super::{AppendError, record};
use super::*;

on_both_storages! {
    what_flowed_past_messages_that_wait_is_neither_sent_nor_counted_again;
    damage_to_what_was_settled_already_is_no_loss;
    what_was_safe_is_there_after_a_restart_and_what_was_settled_is_not;
    attributes_are_there_after_a_restart_and_too_many_bytes_of_them_are_refused;
    numbers_go_on_after_a_restart;
    a_torn_tail_is_cut_off_and_the_rest_is_there;
    a_damaged_record_costs_only_itself_and_is_counted;
    a_lost_cursor_costs_duplicates_and_no_message;
    a_damaged_header_costs_no_message;
    a_segment_without_a_sound_record_is_set_aside_and_counted;
    a_bounded_number_of_segments_is_set_aside;
    a_segment_of_a_later_version_is_refused_with_its_name_and_left_alone;
}

fn what_was_safe_is_there_after_a_restart_and_what_was_settled_is_not(bed: &Bed) {
    let opened = open(bed);
    append(&opened.spool, 0..100);
    let read = read_all(&opened.spool);
    settle(&opened.spool, &read[..40]);
    settle(&opened.spool, &read[50..51]);
    let before = opened.spool.close().unwrap();
    drop(opened);

    let Opened { spool, recovery } = open(bed);
    assert_eq!(recovery.spooled, 59);
    let expected: Vec<u32> = (40..100).filter(|n| *n != 50).collect();
    assert_eq!(payloads(&read_all(&spool)), expected);
    assert_eq!(spool.ledger(), before);
}

fn attributes_are_there_after_a_restart_and_too_many_bytes_of_them_are_refused(bed: &Bed) {
    let bytes = vec![7; record::ATTRIBUTES_BYTES_MAX + 1];
    let with = |attributes| Message {
        attributes,
        ..message(b"1")
    };
    let Opened { spool, .. } = open(bed);
    let refused = spool.append(&with(&bytes)).unwrap_err();
    let AppendError::AttributesTooLarge {
        size_bytes,
        max_bytes,
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!((size_bytes, max_bytes), (65_526, 65_525));
    let payload = vec![0; record::MESSAGE_BYTES_MAX];
    let message = Message {
        payload: &payload,
        ..with(b"a")
    };
    let refused = spool.append(&message).unwrap_err();
    assert!(
        matches!(refused, AppendError::TooLarge { size_bytes, .. } if size_bytes > payload.len()),
        "{refused}"
    );
    spool.append(&with(&bytes[1..])).unwrap();
    drop(spool);

    let Opened { spool, .. } = open(bed);
    let Read::OnDisk(ticket) = spool.read(1, 1) else {
        panic!("nothing is on the disk");
    };
    let deliveries = spool.read_disk(ticket).unwrap();
    let message = deliveries[0].message().unwrap();
    assert_eq!(message, with(&bytes[1..]));
}

fn numbers_go_on_after_a_restart(bed: &Bed) {
    let first = append(&open(bed).spool, 0..5);
    let second = append(&open(bed).spool, 5..6);
    assert!(second > first);
}

fn a_torn_tail_is_cut_off_and_the_rest_is_there(bed: &Bed) {
    append(&open(bed).spool, 0..100);
    let segment = bed.segments().remove(0);
    let bytes = bed.content(&segment);
    bed.put(&segment, &bytes[..bytes.len() - 3]);

    let Opened { spool, recovery } = open(bed);
    assert_eq!(payloads(&read_all(&spool)), (0..99).collect::<Vec<_>>());
    assert!(recovery.torn_bytes > 0);
}

fn a_damaged_record_costs_only_itself_and_is_counted(bed: &Bed) {
    append(&open(bed).spool, 0..100);
    let segment = bed.segments().remove(0);
    let mut bytes = bed.content(&segment);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    bed.put(&segment, &bytes);

    let Opened { spool, .. } = open(bed);
    append(&spool, 100..110);
    let read = read_all(&spool);
    assert_eq!(read.len(), 109);
    settle(&spool, &read);
    let ledger = spool.ledger();
    assert_eq!((ledger.dropped_damaged, ledger.spooled), (1, 0));
}

fn a_lost_cursor_costs_duplicates_and_no_message(bed: &Bed) {
    let opened = open(bed);
    let last = append(&opened.spool, 0..100);
    wait_until_safe(&opened.spool, last);
    let read = read_all(&opened.spool);
    settle(&opened.spool, &read[..40]);
    drop(opened);
    bed.remove("cursor");

    let Opened { spool, recovery } = open(bed);
    assert!(recovery.cursor_lost);
    assert_eq!(payloads(&read_all(&spool)), (0..100).collect::<Vec<_>>());
}

fn a_damaged_header_costs_no_message(bed: &Bed) {
    append(&open(bed).spool, 0..10);
    append(&open(bed).spool, 10..20);
    let segment = bed.segments().remove(0);
    let good = bed.content(&segment);
    let mut bytes = good.clone();
    bytes[20] ^= 0xFF;
    bed.put(&segment, &bytes);

    let Opened { spool, recovery } = open(bed);
    assert_eq!((recovery.headers_mended, recovery.spooled), (1, 20));
    assert_eq!(payloads(&read_all(&spool)), (0..20).collect::<Vec<_>>());
    assert_eq!(bed.content(&segment), good);
}

fn a_segment_without_a_sound_record_is_set_aside_and_counted(bed: &Bed) {
    append(&open(bed).spool, 0..10);
    append(&open(bed).spool, 10..20);
    let segment = bed.segments().remove(0);
    bed.put(&segment, &[0xAB; 400]);

    let Opened { spool, recovery } = open(bed);
    assert_eq!(recovery.segments_set_aside, 1);
    let read = read_all(&spool);
    assert_eq!(payloads(&read), (10..20).collect::<Vec<_>>());
    settle(&spool, &read);
    let ledger = spool.ledger();
    assert_eq!((ledger.spooled, ledger.delivered), (0, 10));
    assert!(ledger.dropped_damaged >= 1);
}

fn a_segment_of_a_later_version_is_refused_with_its_name_and_left_alone(bed: &Bed) {
    append(&open(bed).spool, 0..10);
    let segment = bed.segments().remove(0);
    let mut bytes = bed.content(&segment);
    bytes[8] = 2;
    let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..32]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bed.put(&segment, &bytes);

    let storage = bed.storage();
    let error = Spool::open(storage, Options::default(), |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("version 2") && text.contains(".seg"),
        "{text}"
    );
    assert_eq!(bed.content(&segment), bytes);
}

#[test]
fn a_second_relay_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _held = Directory::open(dir.path()).unwrap();
    let error = Directory::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}

fn a_bounded_number_of_segments_is_set_aside(bed: &Bed) {
    for start in 0..3 {
        for first_seq in 1..=4 {
            bed.put(&segment::name(10 * start + first_seq), &[0xFF; 100]);
        }
        assert_eq!(open(bed).recovery.segments_set_aside, 4);
        let files = bed.storage().list().unwrap();
        let kept = files.iter().filter(|(name, _)| name.ends_with(".damaged"));
        assert_eq!((kept.count(), bed.segments().len()), (4, 0));
    }
}

#[test]
fn a_segment_whose_length_was_blown_up_costs_neither_memory_nor_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = |first_seq| dir.path().join(segment::name(first_seq));
    let open = || {
        let storage = Arc::new(Directory::open(dir.path()).unwrap());
        Spool::open(storage, Options::default(), |_| {}).unwrap()
    };
    let last = append(&open().0, 0..10);
    append(&open().0, 10..20);
    for first_seq in [1, last + 1] {
        let file = fs::OpenOptions::new().write(true).open(path(first_seq));
        file.unwrap().set_len(1 << 40).unwrap();
    }
    let (spool, recovery) = open();
    assert_eq!(recovery.spooled, 20);
    assert_eq!(drain(&spool), 20);
    let ledger = spool.close().unwrap();
    assert_eq!(
        (ledger.delivered, ledger.dropped(), ledger.spooled),
        (20, 0, 0)
    );
    assert!(fs::metadata(path(last + 1)).unwrap().len() < 1_000);
}

const SMALL_SEGMENTS: Options = Options {
    bytes_max: 256 * 1024 * 1024,
    free_bytes_min: 0,
    segment_bytes: 64 * 1024,
    full: FullPolicy::Block,
    linger: Duration::ZERO,
};

/// Has 20,000 messages delivered but for those in `waiting`, and restarts.
fn settled_past(bed: &Bed, waiting: [u32; 2]) {
    let Opened { spool, .. } = open_with(bed, SMALL_SEGMENTS);
    let last = append(&spool, 0..20_000);
    wait_until_safe(&spool, last);
    let mut read = read_all(&spool);
    read.retain(|(_, payload)| !waiting.contains(payload));
    settle(&spool, &read);
    spool.close().unwrap();
    assert!(bed.segments().len() > 10);
}

/// Opens it again, and has the ones that wait delivered too.
fn deliver_what_waits(bed: &Bed, waiting: [u32; 2]) {
    let Opened { spool, recovery } = open_with(bed, SMALL_SEGMENTS);
    assert_eq!(recovery.spooled, 2);
    let read = read_all(&spool);
    assert_eq!(payloads(&read), waiting);
    settle(&spool, &read);
    let expected = super::super::ledger::Ledger {
        delivered: 20_000,
        ..Default::default()
    };
    assert_eq!(spool.close().unwrap(), expected);
    assert_eq!(bed.segments().len(), 1);
}

fn what_flowed_past_messages_that_wait_is_neither_sent_nor_counted_again(bed: &Bed) {
    settled_past(bed, [0, 7_000]);
    deliver_what_waits(bed, [0, 7_000]);
}

fn damage_to_what_was_settled_already_is_no_loss(bed: &Bed) {
    settled_past(bed, [0, 19_999]);
    let segment = &bed.segments()[3];
    let mut content = bed.content(segment);
    content[20_000] ^= 1;
    bed.put(segment, &content);
    deliver_what_waits(bed, [0, 19_999]);
}
