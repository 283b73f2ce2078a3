//! The promise: an acknowledged message is never lost, whatever happens to the relay or the cloud.
//!
//! Each publisher writes down what was acknowledged; all of it must be in the cloud's books at the
//! end. More may be there (sent, and the acknowledgement lost), and some of it twice.

mod common;

use std::num::NonZeroU32;
use std::time::Duration;

use cloud_relay_sandbox::cloud::{Connections, Faults};
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::{Load, Report};
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::RELAY;

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

/// The whole load was acknowledged.
fn complete(report: &Report, load: &Load) {
    assert!(report.is_complete(load), "{:?}", report.broken);
}

/// Publishes `count` messages while `faults` are on; all of them must arrive.
async fn relay_through(faults: Faults, count: u64) -> Site {
    let site = Site::started(RELAY).await.expect("a site");
    site.cloud().set_faults(|all| *all = faults);
    let load = Load::new(1, "sensors", count);
    let report = site.publish(&load).await.expect("the publisher connects");
    complete(&report, &load);
    let arrived = site.arrived(&report.acked).await;
    arrived.expect("everything arrives");
    site
}

#[tokio::test]
async fn five_thousand_acknowledged_messages_survive_kill_9_while_the_cloud_is_down() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    let load = Load::new(1, "sensors", SPOOLED);
    let report = site.publish(&load).await.unwrap();
    complete(&report, &load);
    site.relay().kill_9().await.unwrap();

    site.start().await.unwrap();
    let opened = format!("spooled={SPOOLED}");
    site.relay().wait_for_log(&opened, PATIENCE).await.unwrap();
    site.cloud().resume().await.unwrap();
    site.arrived(&report.acked).await.unwrap();
    let found = site.cloud().audit(&report.acked);
    assert!(found.is_exact(), "{found}");
}

#[tokio::test]
async fn qos_2_messages_that_were_received_survive_kill_9_too() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    let load = Load {
        qos: 2,
        ..Load::new(1, "sensors", 500)
    };
    let report = site.publish(&load).await.unwrap();
    complete(&report, &load);
    site.relay().kill_9().await.unwrap();
    site.start().await.unwrap();
    site.cloud().resume().await.unwrap();
    site.arrived(&report.acked).await.unwrap();
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
            let report = site.publish(&third).await.unwrap();
            complete(&report, &third);
            acked_third = report.acked;
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
        let report = site.publish(&during).await.unwrap();
        complete(&report, &during);
        site.cloud().resume().await.unwrap();
        site.arrived(&report.acked).await.unwrap();
        load.stop.cancel();
        report.acked
    };
    let (steady, mut acked) = tokio::join!(site.publish(&load), outage);
    acked.extend(steady.unwrap().acked);
    site.arrived(&acked).await.unwrap();
    let found = site.cloud().audit(&acked);
    assert!(found.is_complete_and_ordered(), "{found}");
}

#[tokio::test]
async fn a_cloud_that_loses_acknowledgements_gets_the_messages_again() {
    let faults = Faults {
        lose_every_nth_puback: NonZeroU32::new(400),
        ..Faults::default()
    };
    let site = relay_through(faults, 700).await;
    assert!(site.cloud().counts().lost_pubacks > 0);
    // the one without its PUBACK is sent on another connection
    site.cloud().wait_for_connects(2, PATIENCE).await.unwrap();
    site.cloud().wait_for(701, PATIENCE).await.unwrap();
    let received = site.cloud().received();
    assert!(
        received.iter().any(|message| message.dup),
        "repeated without DUP"
    );
}

#[tokio::test]
async fn a_cloud_that_loses_messages_gets_them_in_the_end() {
    let faults = Faults {
        lose_every_nth_publish: NonZeroU32::new(400),
        ..Faults::default()
    };
    let site = relay_through(faults, 700).await;
    assert!(site.cloud().counts().lost_publishes > 0);
}

#[tokio::test]
async fn a_cloud_that_acknowledges_out_of_order_gets_everything_once() {
    let faults = Faults {
        reverse_acks_in_groups_of: NonZeroU32::new(7),
        ..Faults::default()
    };
    let site = relay_through(faults, 3_000).await;
    assert_eq!(site.cloud().counts().duplicates, 0);
    assert_eq!(site.cloud().counts().connects, 1);
}

#[tokio::test]
async fn a_cloud_that_drops_the_connection_all_the_time_gets_everything() {
    let site = Site::started(RELAY).await.unwrap();
    site.cloud().set_faults(|faults| {
        // long enough for a relay under emulation to deliver something on each connection
        faults.kick_every = Some(Duration::from_millis(400));
        // slow enough that each connection ends amid a flow
        faults.ack_delay = Duration::from_millis(50);
    });
    let load = Load::new(1, "sensors", 3_000);
    let report = site.publish(&load).await.unwrap();
    complete(&report, &load);
    site.arrived(&report.acked).await.unwrap();
    let found = site.cloud().audit(&report.acked);
    assert!(found.is_complete_and_ordered(), "{found}");
    assert!(
        site.cloud().counts().connects > 2,
        "{:?}",
        site.cloud().counts()
    );
}

#[tokio::test]
async fn a_frozen_cloud_is_noticed_and_its_connection_replaced() {
    let site = Site::started(RELAY).await.unwrap();
    let load = endless(1);
    let freeze = async {
        site.cloud().wait_for(100, PATIENCE).await.unwrap();
        site.cloud()
            .set_faults(|faults| faults.connections = Connections::Freeze);
        let noticed = "disconnected: the cloud stopped acknowledging";
        site.relay().wait_for_log(noticed, PATIENCE).await.unwrap();
        site.cloud()
            .set_faults(|faults| faults.connections = Connections::Accept);
        site.cloud().wait_for_connects(2, PATIENCE).await.unwrap();
        load.stop.cancel();
    };
    let (report, ()) = tokio::join!(site.publish(&load), freeze);
    site.arrived(&report.unwrap().acked).await.unwrap();
}
