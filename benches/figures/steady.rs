//! As fast as it goes, the cloud being there: near, or far.

use std::time::Duration;

use cloud_relay_sandbox::cloud::IN_FLIGHT_MAX;

use crate::Outcome;
use crate::measure::{Before, loads, peak_memory, rates};
use crate::report::Figure;
use crate::stage::Stage;
use crate::system::System;

/// Publishers in [`far`]: their windows are more than the cloud may have in flight.
pub(crate) const FAR_PUBLISHERS: u32 = 8;
/// Messages in [`far`].
pub(crate) const FAR_MESSAGES: u64 = 20_000;
/// How long the far cloud takes to acknowledge.
pub(crate) const FAR: Duration = Duration::from_millis(80);

/// Measures `system` once.
pub(crate) async fn steady(
    system: &dyn System,
    publishers: u32,
    messages: u64,
) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    at_full_speed(&stage, publishers, messages.min(system.messages_max())).await
}

/// The same with a cloud that takes [`FAR`] to acknowledge, and closes the connection above AWS's 100 in flight: that
/// makes it 1,250 a second at the most.
pub(crate) async fn far(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let cloud = stage.setting().cloud();
    cloud.set_faults(|faults| faults.ack_delay = FAR);
    cloud.set_rules(|rules| rules.in_flight_max = Some(IN_FLIGHT_MAX));
    let count = FAR_MESSAGES.min(system.messages_max());
    at_full_speed(&stage, FAR_PUBLISHERS, count).await
}

async fn at_full_speed(stage: &Stage, publishers: u32, count: u64) -> Outcome<Vec<Figure>> {
    let before = Before::now(stage)?;
    let published = stage.publish(loads(1, publishers, count)).await?;
    let acked = published.acked.len();
    stage.wait_for_arrivals(before.arrived + acked).await;
    let own = before.own_costs(acked)?;
    let mut figures = rates(stage, &before, &published);
    figures.extend(before.costs(stage, acked)?);
    figures.push(peak_memory(stage, "peak memory MiB")?);
    figures.extend(before.books(stage, &published.acked));
    figures.push(own);
    Ok(figures)
}
