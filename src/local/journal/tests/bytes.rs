//! Every cut and every damaged byte, other versions, and time.

use proptest::prelude::*;

use super::super::change::VERSION;
use super::*;
use crate::local::publication::Subscription;
use crate::spool::record::Salt;

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (0..16, 1_u64..4, 1_u16..6, "[a-c]{0,3}").prop_map(|(kind, key, id, text)| {
        let subscription = Subscription {
            qos: QoS::AtLeastOnce,
            no_local: id > 2,
            retain_as_published: id > 3,
            id: id.into(),
        };
        match kind {
            0 | 1 => Change::Opened(key, format!("client-{key}"), id.into()),
            2 => Change::Returned(key, 5),
            3 => Change::Left(key, 5, None),
            4 => Change::Ended(key),
            5 => Change::Subscribed(key, text, subscription),
            6 => Change::Unsubscribed(key, text),
            7 => Change::Queued(key, id, delivery(&text)),
            8 => Change::Sent(key, id),
            9 => Change::Released(key, id),
            10 => Change::Settled(key, id),
            11 => Change::Taken(key, id),
            12 => Change::Finished(key, id),
            13 => Change::Cleared(format!("room/{key}")),
            14 => Change::Taking(key),
            _ => retained_message(&format!("room/{key}"), &text),
        }
    });
    prop::collection::vec(one, 0..40)
}

fn retained_message(topic: &str, payload: &str) -> Change {
    // With a property: the payload is UTF-8.
    let publication = Publication::restored(topic, &[1, 1], payload.as_bytes(), None);
    Change::Retained(publication, QoS::AtLeastOnce)
}

/// The bytes of a journal, and where each record ends.
fn journal(changes: &[Change]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends, salt) = (Vec::new(), Vec::new(), Salt::random());
    for (number, change) in changes.iter().enumerate() {
        bytes.extend(change.encode(number as u64, &clocks(1), salt).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn image_of(changes: &[Change]) -> Image {
    let mut image = Image::default();
    for change in changes {
        image.apply(change.clone());
    }
    image.taking = None;
    image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_journal_cut_anywhere_is_the_state_of_a_moment(changes in changes(), cut in 0.0..1.0) {
        let (bytes, ends) = journal(&changes);
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a place in a short file")]
        let cut = (bytes.len() as f64 * cut) as usize;
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let mut image = Image::replay(&bytes[..cut], &clocks(1));
        prop_assert_eq!(image.damaged, u64::from(whole == 0 && cut > 0), "there is no first record");
        prop_assert_eq!(image.torn_bytes, cut - whole.checked_sub(1).map_or(0, |last| ends[last]));
        (image.damaged, image.torn_bytes) = (0, 0);
        prop_assert_eq!(image, image_of(&changes[..whole]));
    }
}

#[test]
fn a_byte_that_changed_costs_one_change_and_is_counted() {
    let changes = [
        Change::Version(VERSION),
        Change::Opened(1, "c".to_owned(), 5),
        Change::Queued(1, 1, delivery("one")),
        Change::Queued(1, 2, delivery("two")),
        retained_message("room/1", "old"),
        retained_message("room/1", "new"),
        Change::Settled(1, 1),
    ];
    let (bytes, ends) = journal(&changes);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let mut image = Image::replay(&damaged, &clocks(1));
        let hit = ends.iter().filter(|end| **end <= at).count();
        if hit == changes.len() - 1 {
            assert!(image.torn_bytes > 0, "byte {at}");
        } else {
            assert_eq!(image.damaged, 1, "byte {at}");
        }
        (image.damaged, image.torn_bytes) = (0, 0);
        let mut rest = changes.to_vec();
        rest.remove(hit);
        assert_eq!(image, image_of(&rest), "byte {at}");
    }
}

#[test]
fn a_message_of_qos_2_of_which_a_part_is_missing_was_not_taken() {
    let part = [
        Change::Taking(1),
        Change::Queued(2, 1, delivery("one")),
        Change::Taken(1, 7),
    ];
    let opened = |key| Change::Opened(key, format!("c{key}"), 5);
    let before = [Change::Version(VERSION), opened(1), opened(2)];
    let later = [Change::Taking(1), Change::Taken(1, 8)];
    let (bytes, ends) = journal(&[&before[..], &part, &later].concat());
    for hit in 2..=5 {
        let mut damaged = bytes.clone();
        damaged[ends[hit] - 1] ^= 1;
        let image = Image::replay(&damaged, &clocks(1));
        let taken: Vec<u16> = image.sessions[&1].taken.iter().copied().collect();
        let expected: &[u16] = if hit == 2 { &[7, 8] } else { &[8] };
        assert_eq!((image.damaged, taken.as_slice()), (1, expected), "{hit}");
    }
}

#[test]
fn changes_that_somebody_has_published_in_a_payload_are_none_when_that_is_cut_short() {
    let ended = |_| {
        Change::Ended(1)
            .encode(9, &clocks(1), Salt::random())
            .unwrap()
    };
    let payload: Vec<u8> = (0..9).flat_map(ended).collect();
    let publication = Publication::restored("room/1", &[], &payload, None);
    let changes = [
        Change::Version(VERSION),
        Change::Opened(1, "c".to_owned(), 5),
        Change::Retained(publication, QoS::AtLeastOnce),
    ];
    let (bytes, _) = journal(&changes);
    let image = Image::replay(&bytes[..bytes.len() - 3], &clocks(1));
    assert!(image.sessions.contains_key(&1) && image.torn_bytes > 0);
}

#[test]
fn an_unknown_version_is_said_and_nothing_is_taken_from_it() {
    let (bytes, _) = journal(&[
        Change::Version(VERSION + 1),
        Change::Opened(1, "c".to_owned(), 5),
    ]);
    let image = Image::replay(&bytes, &clocks(1));
    assert_eq!(image.unknown_version, Some(VERSION + 1));
    assert!(image.sessions.is_empty());
}

#[test]
fn time_goes_on_over_a_restart_as_far_as_the_clock_can_tell() {
    for (at, read_ms, left_s) in [
        (1_000_000, 1_030_000, 70), // the clock went on
        (1_000_000, 900_000, 100),  // it was set back
        (1_000_000, 9_000_000, 0),  // it jumped ahead: over
        (1_000_000, 0, 100),        // it is not set now
        (0, 1_030_000, 100),        // or was not then
    ] {
        let (written, read) = (clocks(at), clocks(read_ms));
        let then = Some(written.now + Duration::from_secs(100));
        let publication = Publication::restored("a", b"", b"x", then);
        let changes = [
            Change::Opened(1, "c".to_owned(), 5),
            Change::Left(1, 200, then),
            Change::Retained(publication, QoS::AtLeastOnce),
        ];
        let bytes = changes.map(|change| change.encode(0, &written, Salt::random()).unwrap());
        let image = Image::replay(&bytes.concat(), &read);
        let now = Some(read.now + Duration::from_secs(left_s));
        let ends = Whereabouts::Left(now);
        assert_eq!(image.sessions[&1].client, ends, "{at} {read_ms}");
        assert_eq!(image.retained["a"].0.expires(), now, "{at} {read_ms}");
    }
}
