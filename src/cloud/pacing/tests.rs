//! No second in which more than the quota arrives, and no quota left unused.

use proptest::prelude::*;

use super::*;

fn quota(publishes: u64, bytes: u64) -> Quota {
    Quota {
        publishes_per_s: NonZeroU64::new(publishes),
        bytes_per_s: NonZeroU64::new(bytes),
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_second_after_its_acknowledgement_a_message_makes_room_for_the_next() {
    let mut pacing = Pacing::new(quota(2, 0));
    let start = Instant::now();
    for _ in 0..2 {
        assert_eq!(pacing.verdict(1, start), Verdict::Go);
        pacing.sent(1);
    }
    assert_eq!(pacing.verdict(1, start), Verdict::AfterAcknowledgement);
    pacing.acknowledged(1, start + ms(80));
    let free = start + ms(80) + REMEMBERED_TOGETHER + QUOTA_PERIOD;
    assert_eq!(
        pacing.verdict(1, start + ms(80)),
        Verdict::NotBefore(free),
        "the other one is still on its way"
    );
    assert_eq!(pacing.verdict(1, free), Verdict::Go);
}

#[test]
fn a_message_larger_than_the_quota_goes_alone() {
    let mut pacing = Pacing::new(quota(0, 1_000));
    let start = Instant::now();
    assert_eq!(pacing.verdict(5_000, start), Verdict::Go);
    pacing.sent(5_000);
    assert_eq!(pacing.verdict(1, start), Verdict::AfterAcknowledgement);
    pacing.acknowledged(5_000, start);
    let Verdict::NotBefore(free) = pacing.verdict(1, start) else {
        panic!("no moment")
    };
    assert_eq!(pacing.verdict(5_000, free), Verdict::Go);
}

#[test]
fn zero_is_no_limit() {
    let mut pacing = Pacing::new(quota(0, 0));
    for _ in 0..10_000 {
        assert_eq!(pacing.verdict(1 << 20, Instant::now()), Verdict::Go);
        pacing.sent(1 << 20);
    }
}

#[test]
fn a_lost_connection_keeps_its_messages_counted_for_one_more_second() {
    let mut pacing = Pacing::new(quota(1, 0));
    let start = Instant::now();
    pacing.sent(1);
    pacing.connection_ended(start);
    let free = start + REMEMBERED_TOGETHER + QUOTA_PERIOD;
    assert_eq!(pacing.verdict(1, start), Verdict::NotBefore(free));
    assert_eq!(pacing.verdict(1, free), Verdict::Go);
}

#[test]
fn the_time_to_go_is_that_of_the_tighter_quota() {
    let quota = quota(100, 1_000);
    assert_eq!(quota.time_for(1_000, 1_000), Duration::from_secs(10));
    assert_eq!(quota.time_for(1_000, 100_000), Duration::from_secs(100));
    assert_eq!(super::Quota::default().time_for(0, 0), Duration::ZERO);
}

/// One message: its bytes, and its way to the cloud and back, in milliseconds.
#[derive(Clone, Debug)]
struct Trip {
    bytes: usize,
    there_ms: u64,
    back_ms: u64,
}

fn trip() -> impl Strategy<Value = Trip> {
    (1_usize..400, 0_u64..1_500, 0_u64..300).prop_map(|(bytes, there_ms, back_ms)| Trip {
        bytes,
        there_ms,
        back_ms,
    })
}

/// Sends all of `trips` as early as it may. Returns when each arrived, and when the last was sent.
fn arrivals(pacing: &mut Pacing, trips: &[Trip]) -> (Vec<(Instant, usize)>, Duration) {
    let start = Instant::now();
    let mut now = start;
    let mut arrived = Vec::new();
    let mut on_their_way: Vec<(Instant, usize)> = Vec::new();
    for trip in trips {
        loop {
            on_their_way.sort();
            while let Some((at, bytes)) = on_their_way.first().copied()
                && at <= now
            {
                pacing.acknowledged(bytes, at);
                on_their_way.remove(0);
            }
            let next_acknowledgement = on_their_way.first().map(|(at, _)| *at);
            now = match (pacing.verdict(trip.bytes, now), next_acknowledgement) {
                (Verdict::Go, _) => break,
                (Verdict::NotBefore(at), Some(next)) => at.min(next),
                (Verdict::NotBefore(at), None) => at,
                (Verdict::AfterAcknowledgement, next) => next.expect("something is in flight"),
            };
        }
        pacing.sent(trip.bytes);
        let at = now + ms(trip.there_ms);
        arrived.push((at, trip.bytes));
        on_their_way.push((at + ms(trip.back_ms), trip.bytes));
    }
    arrived.sort();
    (arrived, now - start)
}

proptest! {
    #[test]
    fn within_any_second_no_more_than_the_quota_arrives(
        trips in prop::collection::vec(trip(), 1..200),
        publishes in 1_u64..40,
        bytes in 400_u64..4_000,
    ) {
        let mut pacing = Pacing::new(quota(publishes, bytes));
        let (arrived, _) = arrivals(&mut pacing, &trips);
        for (from, _) in &arrived {
            let second: Vec<usize> = arrived
                .iter()
                .filter(|(at, _)| *at >= *from && *at <= *from + QUOTA_PERIOD)
                .map(|(_, bytes)| *bytes)
                .collect();
            prop_assert!(second.len() as u64 <= publishes, "{} messages", second.len());
            prop_assert!(second.iter().sum::<usize>() as u64 <= bytes, "{second:?}");
        }
    }

    #[test]
    fn with_a_short_way_nearly_all_of_the_quota_is_used(
        publishes in 1_u64..40,
        round_trip_ms in 0_u64..100,
    ) {
        let trip = Trip { bytes: 1, there_ms: round_trip_ms, back_ms: 0 };
        let seconds = 10;
        let trips = vec![trip; usize::try_from(publishes * seconds).unwrap()];
        let mut pacing = Pacing::new(quota(publishes, 0));
        let (_, took) = arrivals(&mut pacing, &trips);
        prop_assert!(took <= ms(seconds * (1_010 + round_trip_ms)), "{took:?}");
    }
}
