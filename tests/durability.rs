//! The promise: an acknowledged message is never lost, whatever happens to the relay, or while the cloud is away. What
//! a cloud that is there can do wrong is in `cloud_rules.rs`.
//!
//! Each publisher writes down what was acknowledged; all of it must be in the cloud's books at the
//! end. More may be there (sent, and the acknowledgement lost), and some of it twice.

mod common;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{RELAY, publish};

/// Messages spooled while the cloud is down.
const SPOOLED: u64 = 5_000;
/// How often the relay is killed.
const KILLS: u32 = 20;
/// Messages that must have arrived, or been acknowledged, between two kills.
const BETWEEN_KILLS: usize = 300;
/// What a kill may send twice: the in-flight window, and as much again that the cloud had acknowledged and
/// the cursor had not told of.
const DUPLICATES_A_KILL: u64 = 200;

/// A load that goes on until its connection breaks or it is stopped.
fn endless(publisher: u32) -> Load {
    Load::new(publisher, "sensors", 10_000_000)
}

/// Acknowledges `load` while the cloud is down, is killed, and delivers it.
async fn survives_kill_9(load: Load) {
    let site = Site::new(RELAY).await.expect("a site");
    site.cloud().stop().await.expect("it stops");
    site.start().await.expect("the relay starts");
    let acked = publish(&site, &load).await;
    site.relay().kill_9().await.expect("the relay is killed");

    site.start().await.expect("the relay starts");
    let opened = format!("spooled={}", acked.len());
    let told = site.relay().wait_for_log(&opened, PATIENCE).await;
    told.expect("it finds all of them");
    site.cloud().resume().await.expect("it is back");
    let arrived = site.arrived(&acked).await;
    arrived.expect("what was acknowledged arrives");
    let found = site.cloud().audit(&acked);
    assert!(found.is_exact(), "{found}");
}

#[tokio::test]
async fn five_thousand_acknowledged_messages_survive_kill_9_while_the_cloud_is_down() {
    survives_kill_9(Load::new(1, "sensors", SPOOLED)).await;
}

#[tokio::test]
async fn qos_2_messages_that_were_received_survive_kill_9_too() {
    let qos_2 = Load {
        qos: 2,
        ..Load::new(1, "sensors", 500)
    };
    survives_kill_9(qos_2).await;
}

/// Two publishers publish until the relay is killed, once `ready` says so; what was acknowledged.
async fn publish_until_killed(
    site: &Site,
    round: u32,
    ready: impl Future<Output = ()>,
) -> Vec<MessageId> {
    let loads = [endless(2 * round), endless(2 * round + 1)];
    let [first, second] = &loads;
    let kill = async {
        ready.await;
        site.relay().kill_9().await.expect("the relay is killed");
    };
    let (one, two, ()) = tokio::join!(site.publish(first), site.publish(second), kill);
    let mut acked = Vec::new();
    for report in [one, two] {
        let report = report.expect("the publisher connects");
        assert!(report.broken.is_some(), "the kill ends the connection");
        acked.extend(report.acked);
    }
    acked
}

#[tokio::test]
async fn kill_9_in_steady_flow_loses_nothing_acknowledged_however_often() {
    let site = Site::started(RELAY).await.unwrap();
    let mut acked = Vec::new();
    for round in 0..KILLS {
        let wanted = site.cloud().received_count() + BETWEEN_KILLS;
        let ready = async { site.cloud().wait_for(wanted, PATIENCE).await.unwrap() };
        acked.extend(publish_until_killed(&site, round, ready).await);
        site.start().await.unwrap();
    }
    assert!(acked.len() >= 2 * BETWEEN_KILLS, "{}", acked.len());
    site.arrived(&acked).await.unwrap();
    let found = site.cloud().audit(&acked);
    assert!(found.is_complete_and_ordered(), "{found}");
    let duplicates = site.cloud().counts().duplicates;
    let most = u64::from(KILLS) * DUPLICATES_A_KILL;
    assert!(duplicates <= most, "{duplicates} duplicates");
}

#[tokio::test]
async fn kill_9_in_an_outage_loses_nothing_acknowledged_however_often() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    let mut acked = Vec::new();
    for round in 0..KILLS {
        let third = Load::new(1_000 + round, "sensors", BETWEEN_KILLS as u64);
        let mut acked_third = Vec::new();
        let ready = async {
            acked_third = publish(&site, &third).await;
        };
        acked.extend(publish_until_killed(&site, round, ready).await);
        acked.append(&mut acked_third);
        site.start().await.unwrap();
    }
    assert!(
        acked.len() >= BETWEEN_KILLS * KILLS as usize,
        "{}",
        acked.len()
    );
    site.cloud().resume().await.unwrap();
    site.arrived(&acked).await.unwrap();
    let found = site.cloud().audit(&acked);
    assert!(found.is_complete_and_ordered(), "{found}");
}

#[tokio::test]
async fn an_outage_is_bridged_and_order_is_kept() {
    let site = Site::started(RELAY).await.unwrap();
    let load = endless(1);
    let outage = async {
        site.cloud().wait_for(500, PATIENCE).await.unwrap();
        site.cloud().stop().await.unwrap();
        let lost = "disconnected: ";
        site.relay().wait_for_log(lost, PATIENCE).await.unwrap();
        // other publishers come while the cloud is away
        let during = Load::new(2, "sensors", 1_000);
        let acked = publish(&site, &during).await;
        site.cloud().resume().await.unwrap();
        site.arrived(&acked).await.unwrap();
        load.stop.cancel();
        acked
    };
    let (steady, mut acked) = tokio::join!(site.publish(&load), outage);
    acked.extend(steady.unwrap().acked);
    site.arrived(&acked).await.unwrap();
    let found = site.cloud().audit(&acked);
    assert!(found.is_complete_and_ordered(), "{found}");
}
