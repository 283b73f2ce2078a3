//! `kill -9` while messages come in: who acknowledged what they did not have?
//!
//! The kernel lives on, so whatever was written is there afterwards, synced or not. A power cut, which tells
//! that apart, is for tests of the spool.

use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::time::Instant;

use crate::Outcome;
use crate::measure::{Before, PAYLOAD_BYTES, since};
use crate::report::{Figure, as_f64};
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Publishers.
pub(crate) const PUBLISHERS: u32 = 4;
/// Messages a second of all of them together, in an open loop as far as the windows allow.
pub(crate) const RATE: u32 = 2_000;
/// How long they publish before each kill.
pub(crate) const FLOW: Duration = Duration::from_secs(2);
/// How often the system is killed and started again.
pub(crate) const KILLS: u32 = 3;

/// Measures `system` once.
pub(crate) async fn kill(system: &dyn System, in_outage: bool) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let cloud = stage.setting().cloud();
    if in_outage {
        cloud.stop().await?;
    }
    let before = Before::now(&stage)?;
    let mut acked = Vec::new();
    for nth in 0..KILLS {
        let loads = (1..=PUBLISHERS).map(|key| endless(nth * PUBLISHERS + key));
        let killed = async {
            // not to wait for something: the kill comes in the midst of the flow
            tokio::time::sleep(FLOW).await;
            stage.kill_9().await
        };
        let (published, killed) = tokio::join!(stage.publish_to_the_end(loads.collect()), killed);
        killed?;
        acked.extend(published?.acked);
        stage.start().await?;
    }
    let back = Instant::now();
    cloud.resume().await?;
    stage.wait_for_messages(&acked).await;
    let mut figures = vec![Figure::more("acknowledged", as_f64(acked.len()))];
    figures.extend(before.books(&stage, &acked));
    let last = stage.arrivals(before.arrived).pop().filter(|_| in_outage);
    if let Some(took) = since(back, last.as_ref()) {
        figures.push(Figure::less(
            "all in the cloud after, s",
            took.as_secs_f64(),
        ));
    }
    Ok(figures)
}

/// More messages than come before the kill.
fn endless(publisher: u32) -> Load {
    Load {
        payload_bytes: PAYLOAD_BYTES,
        rate_per_second: Some(f64::from(RATE) / f64::from(PUBLISHERS)),
        ..Load::new(publisher, TOPIC, u64::MAX)
    }
}
