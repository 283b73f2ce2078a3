//! An open loop: a message is due every so often, whatever became of the ones before. Latencies count from when a
//! message was due, so a system that falls behind cannot hide it.

use std::collections::HashSet;
use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::measure::{Before, PAYLOAD_BYTES, in_ms, quantile};
use crate::report::Figure;
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Unacknowledged messages that the publisher may have: more than ever wait, so it never stalls.
const WINDOW: u16 = 2_000;
/// What is shown of the latencies, in thousandths.
const SHOWN: [usize; 4] = [500, 990, 999, 1_000];

/// One publisher's pace, and the cloud's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Messages a second.
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    /// How long the cloud takes to acknowledge.
    pub(crate) cloud_delay_ms: u32,
}

/// Measures `system` once.
pub(crate) async fn paced(system: &dyn System, pace: Pace) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let ack_delay = Duration::from_millis(u64::from(pace.cloud_delay_ms));
    let cloud = stage.setting().cloud();
    cloud.set_faults(|faults| faults.ack_delay = ack_delay);
    let before = Before::now(&stage)?;
    let load = Load {
        window: WINDOW,
        payload_bytes: PAYLOAD_BYTES,
        rate_per_second: Some(f64::from(pace.rate)),
        record_latency: true,
        ..Load::new(
            1,
            TOPIC,
            u64::from(pace.rate * pace.seconds).min(system.messages_max()),
        )
    };
    let published = stage.publish(vec![load]).await?;
    let acked = published.acked.len();
    stage.wait_for_arrivals(before.arrived + acked).await;

    let acknowledged = percentiles(
        [
            "PUBACK p50 ms",
            "PUBACK p99 ms",
            "PUBACK p99.9 ms",
            "PUBACK max ms",
        ],
        published.latencies.clone(),
    );
    let arrived = percentiles(
        [
            "in the cloud p50 ms",
            "in the cloud p99 ms",
            "in the cloud p99.9 ms",
            "in the cloud max ms",
        ],
        ways(&stage, &before, published.began, pace.rate),
    );
    let mut figures: Vec<Figure> = acknowledged.chain(arrived).collect();
    figures.extend(before.costs(&stage, acked)?);
    figures.extend(before.books(&stage, &published.acked));
    Ok(figures)
}

/// How long each message took from when it was due until it was in the cloud for the first time.
fn ways(stage: &Stage, before: &Before, began: Instant, rate: u32) -> Vec<Duration> {
    let arrivals = stage.setting().cloud().arrivals();
    let mut seen = HashSet::new();
    let messages = arrivals.iter().skip(before.arrived).filter_map(|arrival| {
        let nth = u32::try_from(arrival.id.seq).ok()?;
        let due = began + Duration::from_secs(1) * nth / rate;
        seen.insert(nth)
            .then(|| arrival.at.saturating_duration_since(due))
    });
    messages.collect()
}

fn percentiles(
    names: [&'static str; SHOWN.len()],
    mut latencies: Vec<Duration>,
) -> impl Iterator<Item = Figure> {
    latencies.sort_unstable();
    names
        .into_iter()
        .zip(SHOWN)
        .filter_map(move |(name, permille)| {
            let latency = quantile(&latencies, permille)?;
            Some(Figure::less(name, in_ms(latency)))
        })
}
