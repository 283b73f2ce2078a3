//! What is fuzzed. Shared by libFuzzer's programs and by the short run in `cargo test`.

use std::sync::Arc;

use cloud_relay::clock::Timestamp;
use cloud_relay::local::fuzzing::{REMAINING_BYTES_MAX, first_packet};
use cloud_relay::spool::ledger::Outcome;
use cloud_relay::spool::record::{self, Decoded};
use cloud_relay::spool::{Message, OpenError, Options, Read, Seq, Spool};

use super::model::Model;

/// Bytes of a segment's header and of a cursor's slot.
const HEADER_BYTES: u16 = 32;
const SLOT_BYTES: usize = 4096;
/// Reads of one life, at most: more than the files of an input have pieces.
const READS_MAX: u32 = 10_000;
/// Files made from one input, at most.
const FILES_MAX: usize = 4;

/// Decodes `input` as a record; one that is sound must encode to the same bytes.
pub(super) fn record(input: &[u8]) {
    match record::decode(input) {
        Decoded::Record { record, len } => {
            let (frame, _) = input.split_at(len);
            let again =
                record::encode(record.seq, &record.message, record.salt).expect("it was a record");
            let Decoded::Record { record: second, .. } = record::decode(&again) else {
                panic!("what was encoded does not decode");
            };
            assert_eq!(record, second);
            assert!(
                again.len() <= frame.len(),
                "extra fields that are not known are all that is lost"
            );
        }
        Decoded::Incomplete { needed } => assert!(needed > input.len()),
        Decoded::Corrupt => {}
    }
    if let Some(at) = record::find_next(input, 0, None) {
        let (_, rest) = input.split_at(at);
        assert!(matches!(record::decode(rest), Decoded::Record { .. }));
    }
}

/// Reads `input` as what a client sends: the first byte says in which version, packets follow.
pub(super) fn packet(input: &[u8]) {
    let Some((version, mut rest)) = input.split_first() else {
        return;
    };
    let is_v5 = version % 2 == 1;
    while let Ok(Some(found)) = first_packet(is_v5, rest) {
        assert!((2..=5 + REMAINING_BYTES_MAX).contains(&found.frame_bytes));
        let (whole, after) = rest.split_at(found.frame_bytes);
        // What follows a packet does not change it, and a part of it is never taken for all of it.
        let (_, short) = whole.split_last().expect("it has two bytes at least");
        assert_eq!(first_packet(is_v5, short), Ok(None));
        let publish_bytes = found.publish_bytes.unwrap_or(0);
        assert!(publish_bytes < found.frame_bytes, "{found:?}");
        assert!(found.id_fits_qos, "{found:?}");
        assert_eq!(first_packet(is_v5, whole), Ok(Some(found)));
        rest = after;
    }
}

/// Opens a spool whose files are made of `input`, reads and settles everything, and opens it again.
pub(super) fn recovery(input: &[u8]) {
    let model = files(input);
    let Some(first) = life(&model) else {
        return;
    };
    assert!(first.is_sorted_by(|a, b| a < b), "{first:?}");
    let second = life(&model).expect("what was opened once opens again");
    // All that was settled is gone, and what was passed over is passed over for good.
    assert_eq!(second.len(), 1, "{first:?}, then {second:?}");
    assert!(first.last() < second.first(), "{first:?}, then {second:?}");
}

/// One life of the spool, in which one message is added: the numbers it gave out, that one last; `None` if a
/// file is of another version.
fn life(model: &Model) -> Option<Vec<Seq>> {
    let opened = Spool::open(Arc::new(model.clone()), Options::default(), |_| {});
    let spool = match opened {
        Ok((spool, _)) => spool,
        Err(OpenError::Version { .. }) => return None,
        Err(e) => panic!("{e}"),
    };
    let added = spool.append(&small_message()).expect("there is room");
    let mut seqs = Vec::new();
    for round in 0.. {
        assert!(round < READS_MAX, "reading finds no end");
        let deliveries = match spool.read(100, 64 * 1024) {
            Read::Deliveries(deliveries) => deliveries,
            Read::OnDisk(ticket) => spool.read_disk(ticket).expect("the disk is sound"),
            Read::Empty => break,
        };
        for delivery in deliveries {
            assert!(delivery.message().is_some());
            spool.settle(&[delivery.seq], Outcome::Delivered);
            seqs.push(delivery.seq);
        }
    }
    spool.close().expect("the disk is sound");
    assert_eq!(seqs.last(), Some(&added), "{seqs:?}");
    Some(seqs)
}

fn small_message() -> Message<'static> {
    Message {
        topic: "t",
        attributes: b"",
        payload: b"added",
        qos: 1,
        retain: false,
        received: Timestamp {
            unix_ms: 0,
            clock_set: false,
        },
    }
}

/// Cuts `input` into files: a byte says what each is, two how long.
fn files(mut input: &[u8]) -> Model {
    let model = Model::default();
    for _ in 0..FILES_MAX {
        let Some(([kind, seq, len_low, len_high], rest)) = input.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes([*len_low, *len_high])).min(rest.len());
        let (content, rest) = rest.split_at(len);
        let name = format!("{:016x}.seg", u64::from(*seq));
        match kind % 6 {
            0 => model.put(&name, content.to_vec()),
            1 => model.put(&name, segment(u64::from(*seq), *kind, content)),
            2 => model.put(&name, records(u64::from(*seq), content)),
            3 => model.put("cursor", content.to_vec()),
            4 => model.put("cursor", cursor(content)),
            _ => model.put(&format!("{name}.damaged"), content.to_vec()),
        }
        input = rest;
    }
    model
}

/// A segment with a sound header in front of `content`.
fn segment(first_seq: u64, records_before: u8, content: &[u8]) -> Vec<u8> {
    let mut start = b"CRELAYSP".to_vec();
    start.extend(1_u16.to_le_bytes());
    start.extend(HEADER_BYTES.to_le_bytes());
    let mut counts = first_seq.to_le_bytes().to_vec();
    counts.extend(u64::from(records_before).to_le_bytes());
    let crc = crc32fast::hash(&[start.as_slice(), &counts].concat());
    [start, crc.to_le_bytes().to_vec(), counts, content.to_vec()].concat()
}

/// A segment of sound records with gaps, repeats, huge numbers and damage between them.
fn records(first_seq: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut seq = first_seq;
    for step in content.chunks(4) {
        let &[kind, step_size, payload, ..] = step else {
            break;
        };
        seq = match kind % 16 {
            0 => seq.saturating_sub(u64::from(step_size)),
            1 => u64::MAX - u64::from(step_size),
            2 => u64::from(step_size) << 52,
            _ => seq + u64::from(step_size % 8),
        };
        let message = Message {
            attributes: &vec![kind; usize::from(kind % 4)],
            payload: &vec![payload; usize::from(step_size)],
            qos: kind % 3,
            ..small_message()
        };
        let mut frame = record::encode(seq, &message, None).expect("it is small");
        if kind >= 224 {
            let at = usize::from(payload) % frame.len();
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= 1 << (kind % 8);
            }
        }
        bytes.extend(frame);
        seq = seq.min(u64::MAX / 2);
    }
    segment(first_seq, 0, &bytes)
}

/// A cursor of two slots with sound checksums over arbitrary numbers.
fn cursor(content: &[u8]) -> Vec<u8> {
    let (first, second) = content.split_at(content.len() / 2);
    let slot = |numbers: &[u8]| {
        let mut body = numbers.to_vec();
        body.resize(SLOT_BYTES - 12, 0);
        let crc = crc32fast::hash(&body).to_le_bytes();
        [b"CRCURSOR".as_slice(), &crc, &body].concat()
    };
    [slot(first), slot(second)].concat()
}
