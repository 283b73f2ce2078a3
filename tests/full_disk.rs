//! The real program on a disk that runs full, a small tmpfs: publishers get no acknowledgement any more, the
//! relay stays up, and when the cloud drains it flow resumes by itself. Nothing acknowledged is lost.
//!
//! Needs root, for the mount; says SKIPPED where it cannot.

mod disk;

use std::time::Duration;

use disk::{Mount, PATIENCE, Publishers, Uplink, relay, skip};

/// Size of the disk: the floor that the relay leaves free by default, 16 MiB, and 4 MiB.
const DISK: &str = "size=20m";
const PUBLISHERS: u32 = 3;
/// Messages of each publisher; together twice what fits, wherever the floor is.
const MESSAGES: u64 = 350;
const PAYLOAD_BYTES: usize = 40_000;
/// No acknowledgement for this long is a stall. The relay tries a full disk again every second.
const STALL: Duration = Duration::from_secs(4);

#[tokio::test]
async fn on_a_full_disk_publishers_wait_and_flow_resumes_when_the_cloud_drains_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("small");
    let disk = match Mount::new(&["-t", "tmpfs", "-o", DISK, "tmpfs"], &at) {
        Ok(disk) => disk,
        Err(why) => return skip("full_disk", &why),
    };
    let uplink = Uplink::new(directory.path()).await;
    let mut environment = uplink.environment(&disk.path().join("data"));
    environment.insert("SPOOL_MIN_FREE_BYTES".to_owned(), "0".to_owned());
    let relay = relay().await;
    relay.start(&environment).await.unwrap();
    relay.wait_until_listening(PATIENCE).await.unwrap();

    let mut publishers = Publishers::start(&relay, PUBLISHERS, MESSAGES, PAYLOAD_BYTES);
    publishers.wait_for(10).await;
    publishers.wait_for_stall(STALL).await;
    let stalled_at = publishers.acknowledged().len();
    let all = usize::try_from(u64::from(PUBLISHERS) * MESSAGES).unwrap();
    assert!((50..all).contains(&stalled_at), "{stalled_at} of {all}");
    assert!(relay.process().is_running(), "{}", relay.log().tail());

    uplink.cloud.resume().await.unwrap();
    let acknowledged = publishers.join().await;
    assert_eq!(acknowledged.len(), all, "{}", relay.log().tail());
    let found = uplink.audit(&acknowledged).await;
    assert!(found.is_complete_and_ordered(), "{found}");
    assert!(relay.process().is_running(), "{}", relay.log().tail());
    assert!(relay.terminate().await.unwrap().status.success());
}
