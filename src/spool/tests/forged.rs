//! What no relay has written: numbers and names that cannot be, counts that contradict each other, and records that
//! somebody has published.

use std::sync::Arc;

use super::super::record::{self, SEQ_MAX, Salt};
use super::super::segment::{Header, OPENING_BYTES};
use super::super::{AppendError, FullPolicy, Options, Seq, segment};
use super::damage::{open_damaged, options};
use super::message;
use super::model::Model;
use super::stepped::Stepped;

#[test]
fn records_whose_numbers_do_not_belong_there_are_passed_over() {
    let record =
        |seq: Seq| record::encode(seq, &message((seq - 1).to_string().as_bytes()), None).unwrap();
    let header = Header {
        first_seq: 3,
        records_before: 0,
    };
    let junk = b"no record".to_vec();
    let model = Model::default();
    let content = [
        header.encode(),
        record(1),
        junk.clone(),
        record(2),
        junk,
        record(3),
        record(9),
        record(4),
        record(9),
        record(10),
    ];
    model.put(&segment::name(3), content.concat());
    let found = open_damaged(&model, "strange numbers");
    assert_eq!(found.seqs, [3, 9, 10]);
}

#[test]
fn running_counts_that_contradict_each_other_add_up_to_no_number_that_cannot_be() {
    let model = Model::default();
    for n in 0..40 {
        let seq = 10 * n + 1;
        let header = Header {
            first_seq: seq,
            records_before: if n % 2 == 0 { 0 } else { SEQ_MAX },
        };
        let record = record::encode(seq, &message((seq - 1).to_string().as_bytes()), None).unwrap();
        let content = [header.encode(), record].concat();
        model.put(&segment::name(seq), content);
    }
    let found = open_damaged(&model, "contradicting counts");
    assert_eq!(found.seqs.len(), 40);
    let again = open_damaged(&model, "the next life");
    assert!(!again.cursor_lost);
    assert!(again.seqs.is_empty(), "{:?}", again.seqs);
}

/// A spool with one segment, in which the record `seq` stands, if any, and which is named after `first_seq`.
fn forged(first_seq: Seq, seq: Option<Seq>) -> Model {
    let header = Header {
        first_seq,
        records_before: 0,
    };
    let record = seq.map(|seq| record::encode(seq, &message(b"forged"), None).unwrap());
    let model = Model::default();
    let content = [header.encode(), record.unwrap_or_default()];
    model.put(&segment::name(first_seq), content.concat());
    model
}

#[test]
fn records_that_somebody_has_published_in_a_payload_are_none_however_that_is_damaged() {
    let forged = |salt| record::encode(SEQ_MAX - 2, &message(b"forged"), salt).unwrap();
    let payload = [forged(None), forged(Some(Salt::random()))].concat();
    let payload = payload.repeat(20);
    for before in 0..2 {
        let model = Model::default();
        let (mut stepped, _) = Stepped::open(Arc::new(model.clone()), options()).unwrap();
        for n in 0..before {
            let text = n.to_string();
            stepped.spool.append(&message(text.as_bytes())).unwrap();
        }
        stepped.spool.append(&message(&payload)).unwrap();
        stepped.run();
        drop(stepped);
        let name = segment::name(1);
        let sound = model.content(&name).unwrap();
        let torn = sound[..sound.len() - 10].to_vec();
        let mut rotten = sound.clone();
        rotten[OPENING_BYTES + 50 * before] ^= 1;
        let mut without_end = rotten.clone();
        without_end.truncate(torn.len());
        for bad in [torn, rotten, without_end] {
            let model = model.copy();
            model.put(&name, bad);
            let found = open_damaged(&model, "a payload of records");
            assert!(found.seqs.iter().eq(&[1][..before]), "{:?}", found.seqs);
            let (stepped, _) = Stepped::open(Arc::new(model), options()).unwrap();
            let next = stepped.spool.append(&message(b"next")).unwrap();
            assert!(next < 10, "{next}");
        }
    }
}

#[test]
fn behind_the_last_number_nothing_is_taken_that_could_not_be_read_back() {
    for full in [FullPolicy::Block, FullPolicy::DropNewest] {
        let options = Options { full, ..options() };
        let model = forged(1, Some(SEQ_MAX - 2));
        let open = || Stepped::open(Arc::new(model.clone()), options).unwrap().0;
        let stepped = open();
        let last = stepped.spool.append(&message(b"last")).unwrap();
        assert_eq!(last, SEQ_MAX - 1);
        let refused = stepped.spool.append(&message(b"too much"));
        assert!(matches!(refused, Err(AppendError::Failed)), "{refused:?}");
        assert_eq!(stepped.spool.progress().safe, last, "not safe by a failure");
        drop(stepped);

        let mut stepped = open();
        stepped.spool.append(&message(b"last")).unwrap();
        stepped.run();
        assert_eq!(stepped.spool.progress().safe, SEQ_MAX);
        stepped.close().unwrap();

        let mut stepped = open();
        let seqs: Vec<Seq> = (stepped.read_all().unwrap().iter().map(|d| d.seq)).collect();
        assert_eq!(seqs, [SEQ_MAX - 2, SEQ_MAX - 1]);
        let refused = stepped.spool.append(&message(b"too much"));
        assert!(matches!(refused, Err(AppendError::Failed)), "{refused:?}");
        let failure = stepped.spool.failure().unwrap();
        assert!(failure.contains("number"), "{failure}");
        stepped.run();
    }
}

#[test]
fn a_segment_named_after_a_number_that_none_can_follow_does_not_cost_the_cursor() {
    let model = forged(SEQ_MAX, None);
    for _ in 0..2 {
        let opened = Stepped::open(Arc::new(model.clone()), options()).unwrap();
        let (mut stepped, recovery) = opened;
        assert!(!recovery.cursor_lost);
        stepped.spool.append(&message(b"x")).unwrap();
        stepped.close().unwrap();
    }
}
