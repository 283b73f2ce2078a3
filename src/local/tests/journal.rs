use std::collections::BTreeMap;

use super::*;
use crate::clock::EARLIEST_PLAUSIBLE_UNIX_S;

type State = BTreeMap<String, Kept>;

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: Timestamp {
            unix_ms: EARLIEST_PLAUSIBLE_UNIX_S * 1_000,
            clock_set: true,
        },
    }
}

fn kept(topic: &str, payload: &[u8], expires: Option<Instant>) -> Kept {
    let properties = [0x01, 0x01];
    let publication = Publication::restored(topic, &properties, payload, expires);
    (publication, QoS::AtLeastOnce)
}

fn read(bytes: &[u8], now: Now) -> (State, Findings) {
    let mut state = State::new();
    let findings = replay(bytes, now, |change| match change {
        Change::Set(topic, kept) => {
            state.insert(topic.to_owned(), kept);
        }
        Change::Clear(topic) => {
            state.remove(topic);
        }
    });
    (state, findings)
}

/// A journal of changes that a fixed sequence of pseudo-random numbers chooses, and after each: its length, and what it
/// says.
fn journal(now: Now) -> (Vec<u8>, Vec<(usize, State)>) {
    let (mut bytes, mut state) = (HEADER.to_vec(), State::new());
    let mut states = vec![(bytes.len(), state.clone())];
    let mut random = 12_345_u32;
    for _ in 0..60 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let topic = format!("room/{}", (random >> 8) % 5);
        if (random >> 16).is_multiple_of(4) {
            encode(&mut bytes, &topic, None, now);
            state.remove(&topic);
        } else {
            let payload = random.to_le_bytes().repeat((random >> 24) as usize % 6 + 1);
            let message = kept(&topic, &payload, None);
            encode(&mut bytes, &topic, Some(&message), now);
            state.insert(topic, message);
        }
        states.push((bytes.len(), state.clone()));
    }
    (bytes, states)
}

#[test]
fn what_was_written_reads_back() {
    let now = now();
    let (bytes, states) = journal(now);
    let (state, findings) = read(&bytes, now);
    assert_eq!(Some(&state), states.last().map(|(_, state)| state));
    assert_eq!(findings, Findings::default());
}

#[test]
fn a_journal_cut_anywhere_says_what_was_true_after_its_last_whole_frame() {
    let now = now();
    let (bytes, states) = journal(now);
    for cut in 0..bytes.len() {
        let (state, findings) = read(&bytes[..cut], now);
        let whole = states.iter().rev().find(|(len, _)| *len <= cut);
        let expected = whole.map(|(_, state)| state.clone()).unwrap_or_default();
        assert_eq!(state, expected, "cut at {cut}");
        assert!(!findings.foreign && findings.damaged == 0, "cut at {cut}");
        assert_eq!(findings.torn_bytes, cut - whole.map_or(0, |(len, _)| *len));
    }
}

#[test]
fn a_flipped_bit_costs_one_frame_and_is_noticed() {
    let now = now();
    let (mut bytes, _) = journal(now);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let mut changes = 0;
            let findings = replay(&bytes, now, |_| changes += 1);
            if at < HEADER.len() {
                assert!(findings.foreign, "bit {bit} of byte {at}");
            } else {
                assert_eq!(changes, 59, "bit {bit} of byte {at}");
                assert!(findings.damaged + findings.torn_bytes > 0);
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_payload_of_what_looks_like_frames_does_not_make_damage_slow() {
    let now = now();
    let mut lure = MAGIC.to_vec();
    lure.extend_from_slice(&[SET, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    let mut bytes = HEADER.to_vec();
    for _ in 0..8 {
        let message = kept("a", &lure.repeat(20_000), None);
        encode(&mut bytes, "a", Some(&message), now);
    }
    bytes[HEADER.len() + PREFIX_BYTES] ^= 1;
    let (state, findings) = read(&bytes, now);
    assert!(state.is_empty(), "given up after {TRIES_MAX} tries");
    assert_eq!(findings.torn_bytes, bytes.len() - HEADER.len());
}

#[test]
fn time_goes_on_over_a_restart_only_by_clocks_that_can_be_believed() {
    let at = |s: u64, clock_set| Timestamp {
        unix_ms: s * 1_000,
        clock_set,
    };
    let day = EARLIEST_PLAUSIBLE_UNIX_S;
    let left = |written, read| left_after(60_000, written, read).as_secs();
    assert_eq!(left(at(day, true), at(day + 10, true)), 50);
    assert_eq!(left(at(day, true), at(day + 100, true)), 0);
    assert_eq!(left(at(day, true), at(day - 10, true)), 60, "it went back");
    assert_eq!(left(at(5, false), at(day, true)), 60, "unset when written");
    assert_eq!(left(at(day, true), at(5, false)), 60, "unset when read");
}

#[test]
fn an_expiry_reads_back() {
    let now = now();
    let expires = now.instant + Duration::from_mins(1);
    let mut bytes = HEADER.to_vec();
    encode(&mut bytes, "a", Some(&kept("a", b"x", Some(expires))), now);
    let later = Timestamp {
        unix_ms: now.wall.unix_ms + 20_000,
        ..now.wall
    };
    let (state, _) = read(&bytes, Now { wall: later, ..now });
    let expected = Some(now.instant + Duration::from_secs(40));
    assert_eq!(state["a"].0.expires(), expected);
}
