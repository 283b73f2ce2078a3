//! The cloud is gone and messages pile up; then it is back.

use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::measure::{
    Before, PAYLOAD_BYTES, drained, in_ms, loads, memory, peak_memory, per_second, since,
};
use crate::report::{Figure, as_f64};
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Publishers.
pub(crate) const PUBLISHERS: u32 = 8;
/// Messages in [`outage`].
pub(crate) const MESSAGES: u64 = 50_000;
/// How long an outage takes at the least: long enough for every system to be between two tries.
const OUTAGE: Duration = Duration::from_secs(10);
/// A record as the relay defines it: 32 bytes of header, the topic, 7 bytes of salt, the payload.
const RECORD_BYTES: usize = 32 + TOPIC.len() + 7 + PAYLOAD_BYTES;
/// How long the first message after an event may take.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// The system runs all the time. Measures it once.
pub(crate) async fn outage(system: &dyn System) -> Outcome<Vec<Figure>> {
    let count = MESSAGES.min(system.messages_max());
    let stage = Stage::warmed_up(system).await?;
    let cloud = stage.setting().cloud();
    cloud.stop().await?;
    let began = Instant::now();
    let before = Before::now(&stage)?;
    let published = stage.publish(loads(1, PUBLISHERS, count)).await?;
    let acked = published.acked.len();
    let [cpu, written, switches] = before.costs(&stage, acked)?;
    let records = written.value / as_f64(RECORD_BYTES);
    let mut figures = vec![
        Figure::more("ingest/s (acknowledged)", per_second(acked, published.took)),
        cpu,
        written,
        Figure::less("disk bytes ÷ record size", records),
        switches,
        memory(&stage, "memory with the backlog MiB")?,
    ];
    // not to wait for something: this is how long the outage lasts
    tokio::time::sleep_until(began + OUTAGE).await;

    let back = Instant::now();
    cloud.resume().await?;
    stage.wait_for_arrivals(before.arrived + acked).await;
    let arrivals = stage.arrivals(before.arrived);
    let names = ["first message after, s", "all drained after, s"];
    for (name, arrival) in names.into_iter().zip([arrivals.first(), arrivals.last()]) {
        if let Some(took) = since(back, arrival) {
            figures.push(Figure::less(name, took.as_secs_f64()));
        }
    }
    figures.extend(drained(&arrivals));
    figures.push(peak_memory(&stage, "peak memory MiB")?);
    figures.extend(before.books(&stage, &published.acked));
    Ok(figures)
}

/// The system is stopped with a backlog of `messages` and started with it. Measures it once.
pub(crate) async fn backlog(system: &dyn System, messages: u64) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let cloud = stage.setting().cloud();
    cloud.stop().await?;
    let before = Before::now(&stage)?;
    let published = stage.publish(loads(1, PUBLISHERS, messages)).await?;
    let acked = published.acked.len();
    let mut figures = vec![
        Figure::more("ingest/s (acknowledged)", per_second(acked, published.took)),
        memory(&stage, "memory with the backlog MiB")?,
        peak_memory(&stage, "peak memory MiB")?,
    ];
    stage.stop().await?;

    cloud.resume().await?;
    let began = Instant::now();
    stage.start().await?;
    // a load without messages does nothing but connect
    stage.publish(vec![Load::new(0, TOPIC, 0)]).await?;
    figures.push(Figure::less(
        "start to a client's connection, ms",
        in_ms(began.elapsed()),
    ));
    cloud.wait_for(before.arrived + 1, FIRST_TIMEOUT).await?;
    stage.wait_for_arrivals(before.arrived + acked).await;
    let arrivals = stage.arrivals(before.arrived);
    if let Some(took) = since(began, arrivals.first()) {
        figures.push(Figure::less("start to first relayed, ms", in_ms(took)));
    }
    figures.extend(drained(&arrivals));
    figures.push(peak_memory(&stage, "peak memory while draining MiB")?);
    figures.extend(before.books(&stage, &published.acked));
    Ok(figures)
}
