//! From looks at a stage before and after a load to figures.

use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::report::{Figure, as_f64, mib};
use crate::stage::{Published, Stage};
use crate::system::TOPIC;
use crate::usage::Usage;

/// Size of every payload, bytes.
pub(crate) const PAYLOAD_BYTES: usize = 256;

/// `count` messages, shared out among publishers with the keys from `first_key` on.
pub(crate) fn loads(first_key: u32, publishers: u32, count: u64) -> Vec<Load> {
    (0..publishers)
        .map(|nth| {
            let share = count / u64::from(publishers);
            let rest = u64::from(u64::from(nth) < count % u64::from(publishers));
            Load {
                payload_bytes: PAYLOAD_BYTES,
                ..Load::new(first_key + nth, TOPIC, share + rest)
            }
        })
        .collect()
}

pub(crate) fn per_second(count: usize, took: Duration) -> f64 {
    as_f64(count) / took.as_secs_f64()
}

pub(crate) fn since(began: Instant, ended: Option<&Instant>) -> Option<Duration> {
    ended.map(|ended| ended.saturating_duration_since(began))
}

pub(crate) fn in_ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// The value that `permille` of a thousand do not exceed; `None` of nothing. `sorted` is sorted.
pub(crate) fn quantile<T: Copy>(sorted: &[T], permille: usize) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * permille).div_ceil(1_000)).copied()
}

/// How things stood before a load.
pub(crate) struct Before {
    pub(crate) usage: Usage,
    own_cpu_seconds: f64,
    /// Messages in the cloud, duplicates counted.
    pub(crate) arrived: usize,
    duplicates: u64,
}

impl Before {
    pub(crate) fn now(stage: &Stage) -> Outcome<Self> {
        let cloud = stage.setting().cloud();
        Ok(Before {
            usage: stage.usage()?,
            own_cpu_seconds: Usage::own_cpu_seconds()?,
            arrived: cloud.received_count(),
            duplicates: cloud.counts().duplicates,
        })
    }

    /// What the system has used since, for each of `count` messages.
    pub(crate) fn costs(&self, stage: &Stage, count: usize) -> Outcome<[Figure; 3]> {
        let used = stage.usage()? - self.usage;
        let each = |all: f64| all / as_f64(count);
        Ok([
            Figure::less("CPU s per 100k", each(used.cpu_seconds) * 100_000.0),
            Figure::less("disk bytes per message", each(as_f64(used.write_bytes))),
            Figure::less(
                "context switches per message",
                each(as_f64(used.context_switches)),
            ),
        ])
    }

    /// What publishers and cloud have used since, for each of `count` messages.
    pub(crate) fn own_costs(&self, count: usize) -> Outcome<Figure> {
        let used = Usage::own_cpu_seconds()? - self.own_cpu_seconds;
        Ok(Figure::less(
            "(publishers and cloud: CPU s per 100k)",
            used / as_f64(count) * 100_000.0,
        ))
    }

    /// What became of `acked`.
    pub(crate) fn books(&self, stage: &Stage, acked: &[MessageId]) -> [Figure; 2] {
        let cloud = stage.setting().cloud();
        let duplicates = cloud.counts().duplicates - self.duplicates;
        [
            Figure::less("lost acked", as_f64(cloud.audit(acked).missing.len())),
            Figure::less("duplicates", as_f64(duplicates)),
        ]
    }
}

/// How fast `published` was acknowledged and, with what came after `before`, relayed.
pub(crate) fn rates(stage: &Stage, before: &Before, published: &Published) -> Vec<Figure> {
    let acked = published.acked.len();
    let mut figures = vec![Figure::more(
        "ingest/s (acknowledged)",
        per_second(acked, published.took),
    )];
    if let Some(took) = since(published.began, stage.arrivals(before.arrived).last()) {
        figures.push(Figure::more(
            "relay/s (in the cloud)",
            per_second(acked, took),
        ));
    }
    figures
}

/// How fast `arrivals` came.
pub(crate) fn drained(arrivals: &[Instant]) -> Option<Figure> {
    let took = since(*arrivals.first()?, arrivals.last())?;
    Some(Figure::more("drained/s", per_second(arrivals.len(), took)))
}

pub(crate) fn memory(stage: &Stage, name: &'static str) -> Outcome<Figure> {
    Ok(Figure::less(name, mib(stage.process().memory_rss_bytes()?)))
}

pub(crate) fn peak_memory(stage: &Stage, name: &'static str) -> Outcome<Figure> {
    Ok(Figure::less(
        name,
        mib(stage.process().memory_peak_bytes()?),
    ))
}
