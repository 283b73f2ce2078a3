//! A real power cut under the real program.
//!
//! The relay runs under load with its data on ext4 in an image file, a loop device. At some moment the image
//! is copied, the copy is mounted as after a power cut, and a relay is started on it: every message that was
//! acknowledged *before* the copy began must come out of it.
//!
//! **Why the copy is what a power cut leaves.** The image file lies on a second, outer ext4. That outer one is
//! frozen (`fsfreeze`) while the image is copied, so no write of the loop device can change it meanwhile: the
//! copy is of one moment. The *inner* file system, the relay's, is neither frozen nor synced and knows
//! nothing of it; it goes on until it needs the device. What is only in its page cache, everything
//! the relay wrote without a completed `fdatasync`, is not in the image and so not in the copy. The copy is
//! mounted with its journal unfinished and replays it. (Without the outer file system a copy would
//! mix blocks of different moments, which no power cut does.) The loop device keeps what it was given, like a
//! drive whose own cache survives; drives that lose it, and torn writes, are the model's part: see the
//! spool's own tests.
//!
//! Needs root, `mount`, `mkfs.ext4` and `fsfreeze`; says SKIPPED where it cannot.

mod common;
#[expect(dead_code, reason = "the other test of a disk uses all of it")]
mod disk;

use std::path::Path;

use common::totals::Totals;
use disk::{Mount, PATIENCE, Publishers, Uplink, relay, skip, system};

/// Sizes of the relay's file system and of the one around it, as `truncate` has them.
const IMAGE_SIZE: &str = "48M";
const OUTER_SIZE: &str = "80M";
/// The cut comes when so many messages are acknowledged.
const CUTS_AT: [usize; 4] = [1, 200, 700, 1_500];
/// Messages of each of the publishers: more than are acknowledged by the last cut.
const MESSAGES: u64 = 1_000_000;

/// The file systems, innermost first, so that they are unmounted in this order.
struct Disks {
    inner: Mount,
    outer: Mount,
}

fn make_image(image: &Path, size: &str) -> Result<(), String> {
    let image = image.display().to_string();
    system("truncate", &["-s", size, &image])?;
    system("mkfs.ext4", &["-q", &image])
}

fn mount_image(image: &Path, at: &Path) -> Result<Mount, String> {
    let image = image.display().to_string();
    Mount::new(&["-o", "loop,noatime", &image], at)
}

fn disks(directory: &Path) -> Result<Disks, String> {
    let outer_image = directory.join("outer.img");
    make_image(&outer_image, OUTER_SIZE)?;
    let outer = mount_image(&outer_image, &directory.join("outer"))?;
    let image = outer.path().join("inner.img");
    make_image(&image, IMAGE_SIZE)?;
    let inner = mount_image(&image, &directory.join("inner"))?;
    let disks = Disks { inner, outer };
    // Whether it works at all.
    copy_at_one_moment(&disks, &directory.join("trial.img"))?;
    Ok(disks)
}

fn copy_at_one_moment(disks: &Disks, to: &Path) -> Result<(), String> {
    let outer = disks.outer.path().display().to_string();
    system("fsfreeze", &["--freeze", &outer])?;
    let copied = std::fs::copy(disks.outer.path().join("inner.img"), to);
    system("fsfreeze", &["--unfreeze", &outer])?;
    copied.map(drop).map_err(|e| e.to_string())
}

#[tokio::test]
async fn after_a_power_cut_under_load_every_acknowledged_message_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let disks = match disks(directory.path()) {
        Ok(disks) => disks,
        Err(why) => return skip("power_cut", &why),
    };

    let uplink = Uplink::new(directory.path()).await;
    let environment = uplink.environment(&disks.inner.path().join("data"));
    let running = relay().await;
    running.start(&environment).await.unwrap();
    running.wait_until_listening(PATIENCE).await.unwrap();
    let mut publishers = Publishers::start(&running, 4, MESSAGES, 700);
    let mut cuts = Vec::new();
    for at in CUTS_AT {
        publishers.wait_for(at).await;
        let acknowledged = publishers.acknowledged();
        let image = directory.path().join(format!("cut-{at}.img"));
        copy_at_one_moment(&disks, &image).unwrap();
        cuts.push((acknowledged, image));
    }
    assert!(running.process().is_running(), "{}", running.log().tail());
    running.kill_9().await.unwrap();
    drop(publishers);

    for (acknowledged, image) in cuts {
        let mount = mount_image(&image, &image.with_extension("mount")).unwrap();
        let uplink = Uplink::new(directory.path()).await;
        let environment = uplink.environment(&mount.path().join("data"));
        uplink.cloud.resume().await.unwrap();
        let after = relay().await;
        after.start(&environment).await.unwrap();
        let found = uplink.audit(&acknowledged).await;
        assert!(
            found.is_complete_and_ordered(),
            "{found}\n{}",
            after.log().tail()
        );
        assert_eq!((found.duplicates.len(), found.foreign), (0, 0), "{found}");
        eprintln!("cut at {}: {found}", acknowledged.len());

        // The ledger is exact: what had reached the disk is counted once.
        uplink.last(&after).await;
        after.terminate().await.unwrap();
        let delivered = uplink.cloud.audit(&acknowledged).arrived as u64;
        let totals = Totals::on_disk(&mount.path().join("data"));
        assert_eq!((totals.accepted, totals.delivered), (delivered, delivered));
    }
}
