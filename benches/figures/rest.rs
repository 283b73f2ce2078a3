//! The two ends of a quiet life: it is started, and nothing happens.

use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::measure::{in_ms, memory, quantile, since};
use crate::report::{Figure, as_f64};
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Starts in [`start`].
pub(crate) const STARTS: u32 = 11;
/// How long a message may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long [`idle`] takes.
pub(crate) const IDLE: Duration = Duration::from_secs(30);
/// How long it is left alone before that: until threads that were only needed for the load have ended.
pub(crate) const SETTLING: Duration = Duration::from_secs(12);

/// Starts `system` several times, each time with nothing to send but what a client then publishes.
pub(crate) async fn start(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::new(system).await?;
    let cloud = stage.setting().cloud();
    let (mut listening, mut relayed) = (Vec::new(), Vec::new());
    for nth in 0..STARTS {
        let arrived = cloud.received_count();
        let began = Instant::now();
        stage.start().await?;
        listening.push(began.elapsed());
        stage.publish(vec![Load::new(nth, TOPIC, 1)]).await?;
        cloud.wait_for(arrived + 1, MESSAGE_TIMEOUT).await?;
        let took = since(began, stage.arrivals(arrived).first());
        relayed.push(took.ok_or("no message arrived")?);
        stage.stop().await?;
    }
    let mut figures = Vec::new();
    for (median, most, mut times) in [
        (
            "start to listening, ms",
            "start to listening, max ms",
            listening,
        ),
        (
            "start to first relayed, ms",
            "start to first relayed, max ms",
            relayed,
        ),
    ] {
        times.sort_unstable();
        for (name, permille) in [(median, 500), (most, 1_000)] {
            let time = quantile(&times, permille).ok_or("it was never started")?;
            figures.push(Figure::less(name, in_ms(time)));
        }
    }
    Ok(figures)
}

/// Measures `system` once.
pub(crate) async fn idle(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    tokio::time::sleep(SETTLING).await;
    let (before, began) = (stage.usage()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let used = stage.usage()? - before;
    let per_minute = |used: f64| used / began.elapsed().as_secs_f64() * 60.0;
    Ok(vec![
        memory(&stage, "memory MiB")?,
        Figure::less("CPU s per min", per_minute(used.cpu_seconds)),
        Figure::less(
            "context switches per min",
            per_minute(as_f64(used.context_switches)),
        ),
        Figure::less("disk bytes per min", per_minute(as_f64(used.write_bytes))),
    ])
}
