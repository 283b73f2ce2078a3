//! What is measured, and under which load.
//!
//! Messages are [`PAYLOAD_BYTES`] long and published at `QoS` 1. Publishers and cloud run in this process,
//! on the same processors as the system: rates are of the whole, ratios of systems are what counts.

use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::fan_out::{self, fan_out};
use crate::page::{self, page};
use crate::report::{Figure, as_f64, mib};
use crate::stage::{Published, Stage, Usage};
use crate::system::{System, TOPIC};

/// Size of every payload, bytes.
const PAYLOAD_BYTES: usize = 256;
/// A record as the relay defines it: 32 bytes of header, the topic, the payload.
const RECORD_BYTES: usize = 32 + TOPIC.len() + PAYLOAD_BYTES;
/// Messages in `steady`.
const STEADY_MESSAGES: u64 = 60_000;
/// Messages a second in `online`.
const ONLINE_RATE: u32 = 100;
/// How long `online` takes, seconds.
const ONLINE_SECONDS: u32 = 30;
/// Unacknowledged messages that an open-loop publisher may have: more than ever wait, so it never stalls.
const ONLINE_WINDOW: u16 = 1_000;
/// Messages in `outage`.
const OUTAGE_MESSAGES: u64 = 50_000;
/// How long an outage takes at the least: long enough for every system to be between two tries.
const OUTAGE: Duration = Duration::from_secs(10);
/// Publishers in `outage` and `backlog`.
const PUBLISHERS: u32 = 8;
/// The small backlog, messages.
const BACKLOG_SMALL: u64 = 50;
/// The large backlog, messages.
const BACKLOG_LARGE: u64 = 1_000_000;
/// How long `idle` takes.
const IDLE: Duration = Duration::from_secs(30);
/// How long it is left alone before that: until threads that were only needed for the load have ended.
pub(crate) const SETTLING: Duration = Duration::from_secs(12);
/// How long the first message after an event may take.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scenario {
    /// As fast as it goes, the cloud being there.
    Steady { publishers: u32, messages: u64 },
    /// A steady trickle, the cloud being there and taking this long to acknowledge.
    Online { cloud_delay_ms: u32 },
    /// The cloud goes, messages pile up, the cloud comes back and takes this long to acknowledge.
    Outage { cloud_delay_ms: u32 },
    /// A million messages pile up, and the system is started with them.
    Backlog,
    /// Nothing happens.
    Idle,
    /// Somebody looks at its page.
    Page,
    /// Many local clients get what goes to the cloud.
    FanOut,
}

/// All of them, in the order in which they are run.
pub(crate) const ALL: [Scenario; 10] = [
    Scenario::Steady {
        publishers: 1,
        messages: STEADY_MESSAGES,
    },
    Scenario::Steady {
        publishers: 8,
        messages: STEADY_MESSAGES,
    },
    Scenario::Online { cloud_delay_ms: 0 },
    Scenario::Online { cloud_delay_ms: 80 },
    Scenario::Outage { cloud_delay_ms: 0 },
    Scenario::Outage { cloud_delay_ms: 80 },
    Scenario::Backlog,
    Scenario::Idle,
    Scenario::Page,
    Scenario::FanOut,
];

impl Scenario {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Steady { .. } => "steady",
            Scenario::Online { .. } => "online",
            Scenario::Outage { .. } => "outage",
            Scenario::Backlog => "backlog",
            Scenario::Idle => "idle",
            Scenario::Page => "page",
            Scenario::FanOut => "fanout",
        }
    }

    /// The title of its table.
    pub(crate) fn title(self) -> String {
        match self {
            Scenario::Steady {
                publishers,
                messages,
            } => {
                format!("steady: {publishers} publisher(s), window 20, {messages} messages")
            }
            Scenario::Online { cloud_delay_ms } => format!(
                "online: {ONLINE_RATE} messages/s for {ONLINE_SECONDS} s, the cloud acknowledges after {cloud_delay_ms} ms"
            ),
            Scenario::Outage { cloud_delay_ms } => format!(
                "outage: {OUTAGE_MESSAGES} messages of {PUBLISHERS} publishers, window 20, the cloud acknowledges \
                 after {cloud_delay_ms} ms"
            ),
            Scenario::Backlog => format!("backlog: {BACKLOG_LARGE} messages"),
            Scenario::Idle => format!("idle: {} s", IDLE.as_secs()),
            Scenario::Page => format!(
                "page: closed and open, idle and at {} messages/s, {} s each",
                page::RATE,
                page::SECONDS
            ),
            Scenario::FanOut => format!(
                "fanout: 1 publisher, window 20, {} messages to {} local subscribers",
                fan_out::MESSAGES,
                fan_out::SUBSCRIBERS
            ),
        }
    }

    /// The same with this many messages, if it is one of those that may be longer.
    pub(crate) fn with_messages(self, messages: u64) -> Self {
        match self {
            Scenario::Steady { publishers, .. } => Scenario::Steady {
                publishers,
                messages,
            },
            other => other,
        }
    }

    /// Whether it says anything about `system`.
    pub(crate) fn suits(self, system: &dyn System) -> bool {
        match self {
            Scenario::Online { .. } => true,
            Scenario::Steady { .. }
            | Scenario::Outage { .. }
            | Scenario::Idle
            | Scenario::FanOut => !system.is_variant(),
            Scenario::Page => !system.is_variant() && system.has_page(),
            Scenario::Backlog => !system.is_variant() && system.messages_max() >= BACKLOG_LARGE,
        }
    }

    /// Measures `system` once.
    pub(crate) async fn run(self, system: &dyn System) -> Outcome<Vec<Figure>> {
        match self {
            Scenario::Steady {
                publishers,
                messages,
            } => steady(system, publishers, messages).await,
            Scenario::Online { cloud_delay_ms } => online(system, cloud_delay_ms).await,
            Scenario::Outage { cloud_delay_ms } => outage(system, cloud_delay_ms).await,
            Scenario::Backlog => backlog(system).await,
            Scenario::Idle => idle(system).await,
            Scenario::Page => page(system).await,
            Scenario::FanOut => fan_out(system).await,
        }
    }
}

/// `count` messages, shared out among publishers with the keys from `first_key` on.
fn loads(first_key: u32, publishers: u32, count: u64) -> Vec<Load> {
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

fn per_second(count: usize, took: Duration) -> f64 {
    as_f64(count) / took.as_secs_f64()
}

fn since(began: Instant, ended: Option<&Instant>) -> Option<Duration> {
    ended.map(|ended| ended.saturating_duration_since(began))
}

/// Disk writes and processor time since `before`, for each message of `published`.
fn costs(stage: &Stage, before: Usage, published: &Published) -> Outcome<[Figure; 2]> {
    let used = stage.usage()?;
    let count = as_f64(published.acked.len());
    let cpu_seconds = used.cpu_seconds - before.cpu_seconds;
    Ok([
        Figure::less("CPU s per 100k", cpu_seconds / count * 100_000.0),
        Figure::less(
            "disk bytes per message",
            as_f64(used.write_bytes - before.write_bytes) / count,
        ),
    ])
}

async fn steady(system: &dyn System, publishers: u32, messages: u64) -> Outcome<Vec<Figure>> {
    let count = messages.min(system.messages_max());
    let stage = Stage::warmed_up(system).await?;
    let before = stage.usage()?;
    let earlier = stage.setting().cloud().received_count();
    let published = stage.publish(loads(1, publishers, count)).await?;
    let acked = published.acked.len();
    stage.wait_for_arrivals(earlier + acked).await;
    let mut figures = vec![Figure::more(
        "ingest/s (acknowledged)",
        per_second(acked, published.took),
    )];
    if let Some(took) = since(published.began, stage.arrivals(earlier).last()) {
        figures.push(Figure::more(
            "relay/s (in the cloud)",
            per_second(acked, took),
        ));
    }
    figures.push(Figure::less("lost acked", as_f64(stage.lost(&published))));
    figures.extend(costs(&stage, before, &published)?);
    figures.push(peak(&stage)?);
    Ok(figures)
}

fn peak(stage: &Stage) -> Outcome<Figure> {
    Ok(Figure::less(
        "peak memory MiB",
        mib(stage.process().memory_peak_bytes()?),
    ))
}

async fn online(system: &dyn System, cloud_delay_ms: u32) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let ack_delay = Duration::from_millis(u64::from(cloud_delay_ms));
    let cloud = stage.setting().cloud();
    cloud.set_faults(|faults| faults.ack_delay = ack_delay);
    let before = stage.usage()?;
    let earlier = cloud.received_count();
    let load = Load {
        window: ONLINE_WINDOW,
        payload_bytes: PAYLOAD_BYTES,
        rate_per_second: Some(f64::from(ONLINE_RATE)),
        record_latency: true,
        ..Load::new(1, TOPIC, u64::from(ONLINE_RATE * ONLINE_SECONDS))
    };
    let published = stage.publish(vec![load]).await?;
    stage
        .wait_for_arrivals(earlier + published.acked.len())
        .await;
    let mut figures: Vec<Figure> = costs(&stage, before, &published)?.into();
    for (name, percent) in [
        ("PUBACK p50 ms", 50),
        ("PUBACK p99 ms", 99),
        ("PUBACK max ms", 100),
    ] {
        if let Some(latency) = published.latency_ms(percent) {
            figures.push(Figure::less(name, latency));
        }
    }
    figures.push(Figure::less("lost acked", as_f64(stage.lost(&published))));
    Ok(figures)
}

async fn outage(system: &dyn System, cloud_delay_ms: u32) -> Outcome<Vec<Figure>> {
    let count = OUTAGE_MESSAGES.min(system.messages_max());
    let stage = Stage::warmed_up(system).await?;
    let cloud = stage.setting().cloud();
    cloud.stop().await?;
    let began = Instant::now();
    let before = stage.usage()?;
    let earlier = cloud.received_count();
    let published = stage.publish(loads(1, PUBLISHERS, count)).await?;
    let acked = published.acked.len();
    let [cpu, written] = costs(&stage, before, &published)?;
    let records = written.value / as_f64(RECORD_BYTES);
    let mut figures = vec![
        Figure::more("ingest/s (acknowledged)", per_second(acked, published.took)),
        cpu,
        written,
        Figure::less("disk bytes ÷ record size", records),
        Figure::less(
            "memory with the backlog MiB",
            mib(stage.process().memory_rss_bytes()?),
        ),
    ];
    // not to wait for something: this is how long the outage lasts
    tokio::time::sleep_until(began + OUTAGE).await;

    let ack_delay = Duration::from_millis(u64::from(cloud_delay_ms));
    cloud.set_faults(|faults| faults.ack_delay = ack_delay);
    let back = Instant::now();
    cloud.resume().await?;
    stage.wait_for_arrivals(earlier + acked).await;
    let arrivals = stage.arrivals(earlier);
    let names = ["first message after, s", "all drained after, s"];
    for (name, arrival) in names.into_iter().zip([arrivals.first(), arrivals.last()]) {
        if let Some(took) = since(back, arrival) {
            figures.push(Figure::less(name, took.as_secs_f64()));
        }
    }
    figures.extend(drained(&arrivals));
    figures.push(peak(&stage)?);
    figures.push(Figure::less("lost acked", as_f64(stage.lost(&published))));
    Ok(figures)
}

/// How fast `arrivals` came.
fn drained(arrivals: &[Instant]) -> Option<Figure> {
    let took = since(*arrivals.first()?, arrivals.last())?;
    Some(Figure::more("drained/s", per_second(arrivals.len(), took)))
}

/// Starts the system and waits for the first message in the cloud after `earlier` ones. It is published
/// here if the system has none itself.
async fn start_to_first(stage: &Stage, earlier: usize, publish: Option<Load>) -> Outcome<Figure> {
    let began = Instant::now();
    stage.start().await?;
    let name = if let Some(load) = publish {
        stage.publish(vec![load]).await?;
        "start to first relayed, empty, ms"
    } else {
        "start to first relayed, large backlog, ms"
    };
    let cloud = stage.setting().cloud();
    cloud.wait_for(earlier + 1, FIRST_TIMEOUT).await?;
    let took = since(began, stage.arrivals(earlier).first()).ok_or("no message arrived")?;
    Ok(Figure::less(name, took.as_secs_f64() * 1_000.0))
}

async fn backlog(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::new(system).await?;
    let cloud = stage.setting().cloud();
    let memory = |name| -> Outcome<Figure> {
        Ok(Figure::less(name, mib(stage.process().memory_rss_bytes()?)))
    };
    let hello = Load::new(0, TOPIC, 1);
    let mut figures = vec![start_to_first(&stage, 0, Some(hello)).await?];

    cloud.stop().await?;
    let few = stage.publish(loads(1, 1, BACKLOG_SMALL)).await?;
    figures.push(memory("memory with 50 MiB")?);
    let rest = BACKLOG_LARGE - BACKLOG_SMALL;
    let mut published = stage.publish(loads(2, PUBLISHERS, rest)).await?;
    figures.push(Figure::more(
        "ingest/s (acknowledged)",
        per_second(published.acked.len(), published.took),
    ));
    figures.push(memory("memory with 1,000,000 MiB")?);
    figures.push(peak(&stage)?);
    published.acked.extend(few.acked);
    stage.stop().await?;

    cloud.resume().await?;
    let earlier = cloud.received_count();
    figures.push(start_to_first(&stage, earlier, None).await?);
    let acked = published.acked.len();
    stage.wait_for_arrivals(earlier + acked).await;
    figures.extend(drained(&stage.arrivals(earlier)));
    figures.push(Figure::less(
        "peak memory while draining MiB",
        mib(stage.process().memory_peak_bytes()?),
    ));
    figures.push(Figure::less("lost acked", as_f64(stage.lost(&published))));
    Ok(figures)
}

async fn idle(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    tokio::time::sleep(SETTLING).await;
    let (before, began) = (stage.usage()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let used = stage.usage()?.cpu_seconds - before.cpu_seconds;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    Ok(vec![
        Figure::less("memory MiB", mib(stage.process().memory_rss_bytes()?)),
        Figure::less("CPU s per min", used / minutes),
    ])
}
