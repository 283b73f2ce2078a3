//! What the ledger says, with the cloud's own books as the truth: exact for every message that reached the
//! disk, whatever happens to the process; bounded for those that the cloud took from memory.

mod common;

use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::RELAY;
use common::totals::Totals;

/// Messages acknowledged between two kills in an outage.
const SPOOLED: u64 = 1_000;
/// Messages that the cloud has taken between two kills while the spool drains.
const DRAINED: usize = 300;
const KILLS: u32 = 4;

/// Publishes `count` messages, all of which are acknowledged.
async fn publish(site: &Site, publisher: u32, count: u64) -> Vec<MessageId> {
    common::publish(site, &Load::new(publisher, "sensors", count)).await
}

/// Messages that are in the cloud, each counted once.
fn arrived(site: &Site, acked: &[MessageId]) -> u64 {
    site.cloud().audit(acked).arrived as u64
}

#[tokio::test]
async fn what_reached_the_disk_is_counted_exactly_once_however_often_the_relay_is_killed() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    let mut acked = Vec::new();
    for round in 0..KILLS {
        // this one is cut off by the kill, with some of its messages written and not acknowledged
        let endless = Load::new(100 + round, "sensors", 10_000_000);
        let kill = async {
            let acked = publish(&site, round, SPOOLED).await;
            site.relay().kill_9().await.unwrap();
            acked
        };
        let (report, complete) = tokio::join!(site.publish(&endless), kill);
        acked.extend(report.unwrap().acked);
        acked.extend(complete);
        site.start().await.unwrap();
    }
    site.cloud()
        .set_faults(|faults| faults.ack_delay = Duration::from_millis(20));
    site.cloud().resume().await.unwrap();
    for _ in 0..KILLS {
        let wanted = site.cloud().received_count() + DRAINED;
        site.cloud().wait_for(wanted, PATIENCE).await.unwrap();
        site.relay().kill_9().await.unwrap();
        let totals = Totals::on_disk(site.relay().data_dir());
        assert!(totals.balances() && totals.spooled > 0, "{totals:?}");
        assert!(totals.delivered <= arrived(&site, &acked), "{totals:?}");
        site.start().await.unwrap();
    }
    site.arrived(&acked).await.unwrap();
    // order is kept: behind this one nothing is left
    let last = publish(&site, 99, 1).await;
    site.arrived(&last).await.unwrap();
    site.relay().terminate().await.unwrap();

    let totals = Totals::on_disk(site.relay().data_dir());
    let arrived = arrived(&site, &acked);
    let expected = Totals {
        accepted: arrived,
        delivered: arrived,
        spooled: 0,
        dead_lettered: 0,
        dropped: 0,
    };
    assert_eq!(totals, expected, "{} acknowledged", acked.len());
    assert!(
        arrived > acked.len() as u64,
        "all kills left nothing unacknowledged"
    );
}

#[tokio::test]
async fn kill_9_costs_no_more_than_the_count_of_what_was_delivered_from_memory_since_the_last_save()
{
    let site = Site::started(RELAY).await.unwrap();
    let first = publish(&site, 1, 500).await;
    site.arrived(&first).await.unwrap();
    site.relay().terminate().await.unwrap();
    let saved = Totals::on_disk(site.relay().data_dir());
    assert_eq!((saved.accepted, saved.delivered), (500, 500));

    site.start().await.unwrap();
    let second = publish(&site, 2, 300).await;
    site.arrived(&second).await.unwrap();
    site.relay().kill_9().await.unwrap();
    let killed = Totals::on_disk(site.relay().data_dir());
    assert!(killed.balances(), "{killed:?}");
    assert!((500..=800).contains(&killed.accepted), "{killed:?}");
    assert!((500..=800).contains(&killed.delivered), "{killed:?}");

    site.start().await.unwrap();
    let third = publish(&site, 3, 100).await;
    site.arrived(&third).await.unwrap();
    site.relay().terminate().await.unwrap();
    let lines = site.relay().log().lines();
    let run = Totals::of_last_run(&lines);
    assert_eq!((run.accepted, run.spooled, run.dropped), (100, 0, 0));
    assert_eq!(
        run.delivered,
        killed.spooled + 100,
        "what was found and what came"
    );
    let all = Totals::of_all_runs(&lines);
    assert_eq!(all.accepted, killed.accepted + 100);
    assert_eq!(all, Totals::on_disk(site.relay().data_dir()));
}
