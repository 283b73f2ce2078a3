//! The real program on a disk that runs full, a small tmpfs, with each `SPOOL_FULL`: the relay stays up, and when
//! the cloud drains it flow resumes by itself. What was acknowledged arrives, or was given up by a rule the owner
//! chose and is counted.
//!
//! Needs root, for the mount; says SKIPPED where it cannot.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose setting cannot be made fails"
)]

mod common;
mod disk;

use std::collections::BTreeSet;
use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::relay::RelayProcess;
use tempfile::TempDir;

use common::totals::Totals;
use disk::{Mount, PATIENCE, Publishers, Uplink, relay, skip};

/// Size of the disk: the floor that the relay leaves free by default, 16 MiB, and 4 MiB.
const DISK: &str = "size=20m";
const PUBLISHERS: u32 = 3;
/// Messages of each publisher; together twice what fits, wherever the floor is.
const MESSAGES: u64 = 350;
const MESSAGES_IN_ALL: usize = 1_050;
const PAYLOAD_BYTES: usize = 40_000;
/// No acknowledgement for this long is a stall. The relay tries a full disk again every second.
const STALL: Duration = Duration::from_secs(4);

/// A relay on a small disk, with publishers of twice what fits, and a cloud that is down.
struct Stage {
    // first, so that the process is gone before its disk goes
    relay: RelayProcess,
    publishers: Publishers,
    uplink: Uplink,
    disk: Mount,
    _directory: TempDir,
}

impl Stage {
    /// `None`, said aloud, where there can be no such disk.
    async fn set(full: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("small");
        let disk = match Mount::new(&["-t", "tmpfs", "-o", DISK, "tmpfs"], &at) {
            Ok(disk) => disk,
            Err(why) => {
                skip("full_disk", &why);
                return None;
            }
        };
        let uplink = Uplink::new(directory.path()).await;
        let mut environment = uplink.environment(&disk.path().join("data"));
        for (name, value) in [("SPOOL_MIN_FREE_BYTES", "0"), ("SPOOL_FULL", full)] {
            environment.insert(name.to_owned(), value.to_owned());
        }
        let relay = relay().await;
        relay.start(&environment).await.unwrap();
        relay.wait_until_listening(PATIENCE).await.unwrap();
        Some(Stage {
            publishers: Publishers::start(&relay, PUBLISHERS, MESSAGES, PAYLOAD_BYTES),
            relay,
            uplink,
            disk,
            _directory: directory,
        })
    }

    /// With a policy that drops: the publishers come to their end though the cloud is down, and once it is back
    /// everything arrives that was not given up. Returns when, in the order of acknowledgements, those were
    /// acknowledged that were given up.
    async fn drains_with_drops(self) -> Vec<usize> {
        let mut acknowledged = self.publishers.join().await;
        assert_eq!(
            acknowledged.len(),
            MESSAGES_IN_ALL,
            "{}",
            self.relay.log().tail()
        );
        self.uplink.cloud.resume().await.unwrap();
        acknowledged.extend(self.uplink.last(&self.relay).await);
        let stopped = self.relay.terminate().await.unwrap();
        assert!(stopped.status.success(), "{}", self.relay.log().tail());

        let found = self.uplink.cloud.audit(&acknowledged);
        assert!(found.out_of_order.is_empty(), "{found}");
        let dropped = found.missing.len() as u64;
        let expected = Totals {
            accepted: acknowledged.len() as u64,
            delivered: acknowledged.len() as u64 - dropped,
            spooled: 0,
            dead_lettered: 0,
            dropped,
        };
        let data_dir = self.disk.path().join("data");
        assert_eq!(Totals::on_disk(&data_dir), expected, "{found}");
        let told = self.relay.log().lines();
        assert!(
            told.iter()
                .any(|line| line.contains("given up because the spool is full"))
        );
        let lost: BTreeSet<MessageId> = found.missing.into_iter().collect();
        (acknowledged.iter().enumerate())
            .filter(|(_, id)| lost.contains(id))
            .map(|(at, _)| at)
            .collect()
    }
}

#[tokio::test]
async fn with_block_publishers_wait_and_flow_resumes_when_the_cloud_drains_it() {
    let Some(mut stage) = Stage::set("block").await else {
        return;
    };
    stage.publishers.wait_for(10).await;
    stage.publishers.wait_for_stall(STALL).await;
    let stalled_at = stage.publishers.acknowledged().len();
    assert!((50..MESSAGES_IN_ALL).contains(&stalled_at), "{stalled_at}");
    let relay = &stage.relay;
    assert!(relay.process().is_running(), "{}", relay.log().tail());

    stage.uplink.cloud.resume().await.unwrap();
    let acknowledged = stage.publishers.join().await;
    assert_eq!(
        acknowledged.len(),
        MESSAGES_IN_ALL,
        "{}",
        relay.log().tail()
    );
    let found = stage.uplink.audit(&acknowledged).await;
    assert!(found.is_complete_and_ordered(), "{found}");
    assert!(relay.process().is_running(), "{}", relay.log().tail());
    assert!(relay.terminate().await.unwrap().status.success());
}

#[tokio::test]
async fn with_drop_oldest_the_newest_arrive_and_what_was_given_up_for_them_is_counted() {
    let Some(stage) = Stage::set("drop_oldest").await else {
        return;
    };
    let lost = stage.drains_with_drops().await;
    assert!(lost.len() > MESSAGES_IN_ALL / 3, "{}", lost.len());
    let newest = lost.last();
    assert!(newest < Some(&(MESSAGES_IN_ALL - 100)), "{newest:?}");
}

#[tokio::test]
async fn with_drop_newest_the_oldest_arrive_and_what_was_given_up_is_counted() {
    let Some(stage) = Stage::set("drop_newest").await else {
        return;
    };
    let lost = stage.drains_with_drops().await;
    assert!(lost.len() > MESSAGES_IN_ALL / 3, "{}", lost.len());
    let oldest = lost.first();
    assert!(oldest > Some(&100), "{oldest:?}");
}
