//! The cloud's quotas hold in the cloud, where they count: by its own books.

mod common;

use std::time::{Duration, Instant};

use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{RELAY, publish};

/// Quota of the test, messages a second.
const RATE: usize = 50;
/// More than ten seconds' worth, so that the relay tells of it.
const SPOOLED: u64 = 600;
/// The cloud's way of acknowledging late, as over a mobile network.
const ACK_DELAY: Duration = Duration::from_millis(80);

#[tokio::test]
async fn a_backlog_drains_at_the_quota_and_never_above_it_in_any_second() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud()
        .set_faults(|faults| faults.ack_delay = ACK_DELAY);
    site.cloud().stop().await.unwrap();
    let rate = RATE.to_string();
    let environment = site.environment_with([("CLOUD_PUBLISH_RATE", &rate)]);
    site.start_with(&environment).await.unwrap();
    let acked = publish(&site, &Load::new(1, "sensors", SPOOLED)).await;
    site.cloud().resume().await.unwrap();
    site.arrived(&acked).await.unwrap();

    let times: Vec<_> = (site.cloud().received().iter())
        .map(|message| message.at)
        .collect();
    for from in &times {
        let second = *from..=*from + Duration::from_secs(1);
        let count = times.iter().filter(|at| second.contains(at)).count();
        assert!(count <= RATE, "{count} messages within a second");
    }
    let took = *times.last().unwrap() - *times.first().unwrap();
    assert!(
        took < Duration::from_secs(20),
        "{took:?} for {SPOOLED} messages"
    );
    for line in [
        "CLOUD_BYTE_RATE=0 they take about",
        "the backlog is drained",
    ] {
        site.relay().wait_for_log(line, PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn however_soon_connections_end_there_is_a_second_between_two_of_them() {
    let site = Site::new(RELAY).await.unwrap();
    let soon = Some(Duration::from_millis(1));
    site.cloud().set_faults(|faults| faults.kick_every = soon);
    site.start().await.unwrap();
    site.cloud().wait_for_connects(1, PATIENCE).await.unwrap();
    let first = Instant::now();
    site.cloud().wait_for_connects(3, PATIENCE).await.unwrap();
    // A little less: the first one was some time before this process noticed it.
    assert!(
        first.elapsed() > Duration::from_millis(1_500),
        "{:?}",
        first.elapsed()
    );
}
