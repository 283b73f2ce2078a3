//! Spools made by the real [`Spool`], looked at as they are, damaged and after a crash.

use std::fs;
use std::sync::Arc;

use super::super::ledger::Outcome;
use super::super::record::{self, RECORD_BYTES_MAX, encoded_len};
use super::super::segment::OPENING_BYTES;
use super::super::storage::Directory;
use super::super::tests::message;
use super::super::{Options, Read, Spool};
use super::*;

fn open_spool(path: &Path) -> Spool {
    let storage = Arc::new(Directory::open(path).unwrap());
    Spool::open(storage, Options::default(), |_| {}).unwrap().0
}

fn append(spool: &Spool, payload: &[u8]) -> Seq {
    loop {
        match spool.append(&message(payload)) {
            Ok(seq) => return seq,
            Err(super::super::AppendError::Full) => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
}

/// A stopped relay's spool of these payloads.
fn spool_of(path: &Path, payloads: &[&[u8]]) {
    let spool = open_spool(path);
    for payload in payloads {
        append(&spool, payload);
    }
    spool.close().unwrap();
}

/// The numbers of all messages that the relay would send.
fn read_all(spool: &Spool) -> Vec<Seq> {
    let mut seqs = Vec::new();
    loop {
        match spool.read(100, 1 << 20) {
            Read::Deliveries(deliveries) => seqs.extend(deliveries.iter().map(|d| d.seq)),
            Read::OnDisk(ticket) => {
                seqs.extend(spool.read_disk(ticket).unwrap().iter().map(|d| d.seq));
            }
            Read::Empty => return seqs,
        }
    }
}

fn segment_path(path: &Path, index: usize) -> PathBuf {
    path.join(Offline::open(path).unwrap().segments()[index].name())
}

/// Everything in a spool.
#[derive(Default)]
struct Seen {
    /// Number, payload's length, whether it is settled.
    records: Vec<(Seq, usize, bool)>,
    damage: Vec<Damage>,
    lost: u64,
}

impl Seen {
    fn kinds(&self) -> Vec<DamageKind> {
        self.damage.iter().map(|damage| damage.kind).collect()
    }

    fn seqs(&self) -> Vec<Seq> {
        self.records.iter().map(|(seq, ..)| *seq).collect()
    }
}

fn see(path: &Path) -> Seen {
    let spool = Offline::open(path).unwrap();
    let mut seen = Seen {
        damage: spool.cursor_damage().to_vec(),
        ..Seen::default()
    };
    for segment in spool.segments() {
        seen.lost += spool
            .walk(segment, |found| -> Result<(), OfflineError> {
                match found {
                    Found::Record {
                        record, settled, ..
                    } => seen
                        .records
                        .push((record.seq, record.message.payload.len(), settled)),
                    Found::Damage(damage) => seen.damage.push(damage),
                }
                Ok(())
            })
            .unwrap();
    }
    seen
}

#[test]
fn a_sound_spool_is_read_whole_and_in_order_over_several_segments() {
    let dir = tempfile::tempdir().unwrap();
    let payload = [7; 500];
    spool_of(dir.path(), &vec![payload.as_slice(); 5_000]);
    let seen = see(dir.path());
    assert_eq!(seen.damage, []);
    assert_eq!(seen.seqs(), (1..=5_000).collect::<Vec<_>>());
    let spool = Offline::open(dir.path()).unwrap();
    assert!(spool.segments().len() > 2);
    assert_eq!(spool.frontier(), Some(1));
}

#[test]
fn settled_messages_are_known_before_and_behind_the_frontier() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"a".as_slice(); 10]);
    let spool = open_spool(dir.path());
    assert_eq!(read_all(&spool).len(), 10);
    spool.settle(&[1, 2, 3, 6, 9], Outcome::Delivered);
    let ledger = spool.close().unwrap();
    drop(spool);

    let seen = see(dir.path());
    let waiting = seen.records.iter().filter(|(_, _, settled)| !settled);
    let waiting: Vec<Seq> = waiting.map(|(seq, ..)| *seq).collect();
    assert_eq!(waiting, [4, 5, 7, 8, 10]);
    let spool = Offline::open(dir.path()).unwrap();
    assert_eq!((spool.frontier(), spool.settled_ahead()), (Some(4), 2));
    assert_eq!(spool.ledger(5), ledger);
}

#[test]
fn every_flipped_byte_of_a_segment_and_of_the_cursor_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two", b"three"]);
    let segment = segment_path(dir.path(), 0);
    let good = fs::read(&segment).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&segment, &bad).unwrap();
        let seen = see(dir.path());
        assert!(!seen.damage.is_empty(), "byte {at} went unnoticed");
        assert!(seen.records.len() >= 2, "byte {at} cost more than it hit");
    }
    fs::write(&segment, &good).unwrap();
    let cursor = dir.path().join(cursor::FILE);
    let good = fs::read(&cursor).unwrap();
    // A flip in a slot that was never written counts as well.
    for at in (0..good.len()).step_by(31) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&cursor, &bad).unwrap();
        let seen = see(dir.path());
        let kinds = seen.kinds();
        assert!(
            kinds.contains(&DamageKind::CursorSlot),
            "byte {at}: {kinds:?}"
        );
    }
}

#[test]
fn every_cut_of_the_last_segment_is_torn_or_ends_with_a_record() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two", b"six"]);
    let segment = segment_path(dir.path(), 0);
    let good = fs::read(&segment).unwrap();
    let record_len = encoded_len(&message(b"one"));
    for cut in 0..good.len() {
        fs::write(&segment, &good[..cut]).unwrap();
        let seen = see(dir.path());
        let whole = cut.saturating_sub(OPENING_BYTES) / record_len;
        assert_eq!(seen.records.len(), whole, "cut at {cut}");
        let behind = cut.checked_sub(OPENING_BYTES);
        let clean = cut == HEADER_BYTES || behind.is_some_and(|len| len.is_multiple_of(record_len));
        let expected: &[DamageKind] = if clean { &[] } else { &[DamageKind::Torn] };
        assert_eq!(seen.kinds(), expected, "cut at {cut}");
        assert_eq!(seen.lost, 0);
        if let [torn] = seen.damage.as_slice() {
            assert_eq!(
                torn.offset + torn.len,
                cut as u64,
                "the stretch ends at the cut"
            );
        }
    }
}

#[test]
fn a_damaged_record_is_told_with_its_place_and_the_count_says_what_it_cost() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two", b"six"]);
    spool_of(dir.path(), &[b"ten"]);
    let segment = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&segment).unwrap();
    let record_len = encoded_len(&message(b"one"));
    let second = OPENING_BYTES + record_len;
    bytes[second + record_len - 1] ^= 1;
    fs::write(&segment, &bytes).unwrap();

    let seen = see(dir.path());
    assert_eq!(seen.seqs(), [1, 3, 4]);
    assert_eq!(seen.lost, 1);
    let [record, count] = seen.damage.as_slice() else {
        panic!("{:?}", seen.damage);
    };
    assert_eq!(record.kind, DamageKind::Record);
    assert_eq!(
        (record.offset, record.len),
        (second as u64, record_len as u64)
    );
    assert_eq!(
        count.kind,
        DamageKind::Count {
            written: 3,
            readable: 2
        }
    );
    let text = record.to_string();
    assert!(text.starts_with("0000000000000001.seg offset "), "{text}");
}

#[test]
fn a_segment_cut_between_two_records_is_noticed_by_the_running_count() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two"]);
    spool_of(dir.path(), &[b"ten"]);
    let segment = segment_path(dir.path(), 0);
    let bytes = fs::read(&segment).unwrap();
    fs::write(
        &segment,
        &bytes[..OPENING_BYTES + encoded_len(&message(b"one"))],
    )
    .unwrap();
    let seen = see(dir.path());
    assert_eq!(seen.lost, 1);
    assert!(matches!(seen.kinds()[..], [DamageKind::Count { .. }]));
}

#[test]
fn records_out_of_order_and_a_renamed_segment_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two", b"six"]);
    let segment = segment_path(dir.path(), 0);
    let good = fs::read(&segment).unwrap();
    let (header, records) = good.split_at(OPENING_BYTES);
    let (one, rest) = records.split_at(encoded_len(&message(b"one")));
    fs::write(&segment, [header, rest, one].concat()).unwrap();
    let seen = see(dir.path());
    let expected = DamageKind::Order {
        seq: 1,
        from: 4,
        to: None,
    };
    assert_eq!(seen.kinds(), [expected]);

    fs::write(&segment, &good).unwrap();
    fs::rename(&segment, dir.path().join(segment::name(0))).unwrap();
    let expected = DamageKind::Misnamed { first_seq: 1 };
    assert_eq!(see(dir.path()).kinds(), [expected]);
}

#[test]
fn a_record_with_a_number_of_another_segment_is_passed_over_by_the_tools_and_in_every_life() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two"]);
    spool_of(dir.path(), &[b"ten"]);
    for (index, seq) in [(0, 3), (0, 1_000), (1, 2)] {
        let segment = segment_path(dir.path(), index);
        let mut bytes = fs::read(&segment).unwrap();
        bytes.extend(record::encode(seq, &message(b"forged"), None).unwrap());
        fs::write(&segment, &bytes).unwrap();
    }
    let seen = see(dir.path());
    let order = |seq, from, to| DamageKind::Order { seq, from, to };
    let expected = [
        order(3, 3, Some(3)),
        order(1_000, 3, Some(3)),
        order(2, 4, None),
    ];
    assert_eq!((seen.seqs(), seen.lost), (vec![1, 2, 3], 0));
    assert_eq!(seen.kinds(), expected);

    for life in 0..4 {
        let spool = open_spool(dir.path());
        let seqs = read_all(&spool);
        assert_eq!(seqs, [1, 2, 3][life.min(3)..], "life {life}");
        spool.settle(&seqs[..seqs.len().min(1)], Outcome::Delivered);
        let ledger = spool.close().unwrap();
        assert_eq!((ledger.accepted(), ledger.dropped()), (3, 0), "life {life}");
    }
}

#[test]
fn records_behind_a_damaged_header_are_read_also_after_a_start_put_them_aside() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two"]);
    spool_of(dir.path(), &[b"ten"]);
    let segment = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20] ^= 0xFF;
    fs::write(&segment, &bytes).unwrap();
    let seen = see(dir.path());
    assert_eq!(
        (seen.kinds(), seen.seqs()),
        (vec![DamageKind::Header], vec![1, 2, 3])
    );

    let set_aside = format!("{}{}", segment::name(1), aside::SUFFIX);
    fs::rename(&segment, dir.path().join(&set_aside)).unwrap();
    let seen = see(dir.path());
    assert_eq!(
        (seen.kinds(), seen.seqs()),
        (vec![DamageKind::SetAside], vec![1, 2, 3])
    );
    assert!(Offline::open(dir.path()).unwrap().segments()[0].is_set_aside());
}

#[test]
fn a_segment_that_a_running_relay_put_aside_is_not_measured_by_what_came_after_it() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one", b"two", b"six"]);
    spool_of(dir.path(), &[b"ten"]);
    spool_of(dir.path(), &[b"last"]);
    let segment = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[HEADER_BYTES + 2 * encoded_len(&message(b"one")) - 1] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let spool = open_spool(dir.path());
    spool.settle(&read_all(&spool), Outcome::Delivered);
    spool.close().unwrap();
    drop(spool);

    let seen = see(dir.path());
    assert_eq!((seen.seqs(), seen.lost), (vec![1, 3, 5], 1));
    assert_eq!(seen.kinds(), [DamageKind::SetAside, DamageKind::Record]);
    let text = seen.damage[0].to_string();
    assert!(!text.contains("header"), "it is sound: {text}");
}

#[test]
fn damage_among_the_largest_records_costs_one_and_memory_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    // Full of what looks like the start of a record, so that each byte must be looked at.
    let payload = b"CR".repeat((RECORD_BYTES_MAX - encoded_len(&message(b""))) / 2);
    spool_of(dir.path(), &[payload.as_slice(); 3]);
    let segment = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[OPENING_BYTES + 100] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let seen = see(dir.path());
    assert_eq!(seen.records.first().map(|(seq, ..)| *seq), Some(2));
    let expected = encoded_len(&message(&payload)) as u64;
    assert_eq!(seen.damage[0].len, expected);
}

#[test]
fn a_foreign_file_under_a_segments_name_is_one_damage_however_long_it_is() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one"]);
    let len = 3 * RECORD_BYTES_MAX as u64 + 17;
    let foreign = fs::File::create(dir.path().join(segment::name(99))).unwrap();
    foreign.set_len(len).unwrap();
    let seen = see(dir.path());
    assert_eq!(seen.seqs(), [1]);
    assert_eq!(seen.kinds(), [DamageKind::Header, DamageKind::Record]);
    let record = &seen.damage[1];
    assert_eq!(record.offset + record.len, len);
}

#[test]
fn a_lost_cursor_is_told_and_everything_counts_as_unsettled() {
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), &[b"one"]);
    fs::remove_file(dir.path().join(cursor::FILE)).unwrap();
    let seen = see(dir.path());
    assert_eq!(seen.kinds(), [DamageKind::CursorLost]);
    assert_eq!(seen.records, [(1, 3, false)]);
}

#[test]
fn a_later_format_a_missing_and_an_empty_directory_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let error = Offline::open(&missing).unwrap_err();
    assert!(
        error.to_string().contains("there is no directory"),
        "{error}"
    );
    assert!(!missing.exists());
    let error = Offline::open(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("there is no spool in"),
        "{error}"
    );
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());

    spool_of(dir.path(), &[b"one"]);
    let segment = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..32]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();
    let error = Offline::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, OfflineError::Version { version: 9, .. }),
        "{error}"
    );
}
