use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::local::memory::Memory;
use crate::local::packet::Publish;
use crate::local::publication::{Publication, QoS};
use crate::local::retained::Retained;
use crate::spool::storage::StorageFile;

/// A directory on a disk that may be full.
#[derive(Debug)]
struct Full {
    directory: Directory,
    is_full: AtomicBool,
}

impl Full {
    fn check(&self) -> io::Result<()> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        let error = || io::Error::from(io::ErrorKind::StorageFull);
        if is_full { Err(error()) } else { Ok(()) }
    }
}

impl Storage for Full {
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.check()?;
        self.directory.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.directory.open(name)
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.directory.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.directory.free_bytes()
    }
}

fn open_disk(path: &Path) -> Disk {
    let storage = Directory::open(path).expect("a directory");
    Disk::open(Arc::new(storage)).expect("a journal")
}

fn message(topic: &str, payload: &[u8]) -> Kept {
    let qos = QoS::AtLeastOnce;
    let publish = Publish::plain(topic, payload, qos, true);
    let (now, memory) = (tokio::time::Instant::now(), Memory::default());
    (Publication::new(&publish, now, &memory), qos)
}

fn set(topic: &str, payload: &[u8]) -> Pending {
    let mut pending = Pending::default();
    let kept = message(topic, payload);
    pending.change(topic, Some(&kept), &Messages::new(), 9);
    pending
}

fn said(messages: &Messages) -> Vec<(&str, &[u8])> {
    let all = messages.iter();
    all.map(|(topic, kept)| (&**topic, kept.0.parts().1))
        .collect()
}

fn retain(retained: &mut Retained, topic: &str, payload: &[u8]) {
    let (publication, qos) = message(topic, payload);
    let now = tokio::time::Instant::now();
    let kept = retained.set(topic, publication, qos, &Limits::default(), now);
    kept.expect("room");
}

#[tokio::test]
async fn retained_messages_are_there_again_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (limits, now) = (Limits::default(), tokio::time::Instant::now());
    let opened = open(directory.path(), &limits).expect("opened");
    assert!(opened.messages.is_empty());
    let mut retained = Retained::default();
    retained.restore(opened.messages, opened.desk, &limits, now);
    retain(&mut retained, "a", b"old");
    retain(&mut retained, "b", b"gone");
    retain(&mut retained, "a", b"new");
    retain(&mut retained, STATE_TOPIC, b"the relay's own");
    retained.clear("b");
    opened.keeper.close().await;
    let opened = open(directory.path(), &limits).expect("opened again");
    assert_eq!(said(&opened.messages), [("a", &b"new"[..])]);
    opened.keeper.close().await;
}

#[test]
fn what_is_told_waits_once_a_topic_and_never_more_than_everything() {
    let desk = Desk {
        shared: Arc::default(),
        topics_max: 3,
    };
    let (limits, now) = (Limits::default(), tokio::time::Instant::now());
    let mut retained = Retained::default();
    retained.restore(Messages::new(), desk.clone(), &limits, now);
    let waiting = || std::mem::take(&mut desk.shared.state().pending);
    retain(&mut retained, "a", b"1");
    retain(&mut retained, "a", b"2");
    assert!(matches!(waiting(), Pending::Changes(changes) if changes.len() == 1));
    retain(&mut retained, "a", b"2");
    retained.clear("never/there");
    assert!(waiting().is_empty(), "nothing has changed");
    for topic in ["b", "c", "d", "e"] {
        retain(&mut retained, topic, b"1");
        retained.clear(topic);
    }
    retain(&mut retained, "f", b"1");
    let Pending::Whole(messages) = waiting() else {
        panic!("more topics than may wait");
    };
    assert_eq!(said(&messages), [("a", &b"2"[..]), ("f", b"1")]);
}

#[test]
fn a_journal_of_one_topic_that_changes_for_ever_stays_small() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut disk = open_disk(directory.path());
    let mut longest = 0;
    for n in 0..5_000_u32 {
        disk.carry_out(
            set("a", &n.to_le_bytes().repeat(256)),
            false,
            Instant::now(),
        );
        let file = std::fs::metadata(directory.path().join("retained"));
        longest = longest.max(file.expect("a journal").len());
    }
    assert!(longest < 1024 * 1024 + 4 * 1_100, "{longest} bytes");
    drop(disk);
    let last = 4_999_u32.to_le_bytes().repeat(256);
    assert_eq!(
        said(open_disk(directory.path()).messages()),
        [("a", &*last)]
    );
}

#[test]
fn a_full_disk_costs_nothing_that_is_not_written_when_it_has_room_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let storage = Arc::new(Full {
        directory: Directory::open(directory.path()).expect("a directory"),
        is_full: AtomicBool::new(true),
    });
    let start = Instant::now();
    let mut disk = Disk::open(Arc::clone(&storage) as Arc<dyn Storage>).expect("a journal");
    disk.carry_out(set("a", b"1"), false, start);
    storage.is_full.store(false, Ordering::Relaxed);
    disk.carry_out(set("b", b"2"), false, start);
    assert!(!directory.path().join("retained").exists(), "left alone");
    assert_eq!(disk.alarm(), Some(start + RETRY_AFTER));
    disk.carry_out(Pending::default(), false, start + RETRY_AFTER);
    assert_eq!(disk.alarm(), None);
    drop((disk, storage));
    let disk = open_disk(directory.path());
    assert_eq!(said(disk.messages()), [("a", &b"1"[..]), ("b", b"2")]);
}

#[test]
fn damage_is_set_aside_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut disk = open_disk(directory.path());
    for topic in ["a", "b", "c"] {
        disk.carry_out(set(topic, b"a payload"), false, Instant::now());
    }
    drop(disk);
    let path = directory.path().join("retained");
    let mut bytes = std::fs::read(&path).expect("a journal");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let left = [("a", &b"a payload"[..]), ("c", b"a payload")];
    assert_eq!(said(open_disk(directory.path()).messages()), left);
    let aside = std::fs::read(directory.path().join("retained.damaged"));
    assert_eq!(aside.expect("set aside"), bytes);
    assert_eq!(
        said(open_disk(directory.path()).messages()),
        left,
        "and is whole now"
    );
}

#[test]
fn what_is_written_is_synced_once_within_the_time_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut disk = open_disk(directory.path());
    let start = Instant::now();
    disk.carry_out(set("a", b"0"), false, start);
    assert_eq!(disk.alarm(), None, "a new journal is synced as it is made");
    disk.carry_out(set("a", b"1"), false, start);
    disk.carry_out(set("a", b"2"), false, start + SYNC_AFTER / 2);
    assert_eq!(disk.alarm(), Some(start + SYNC_AFTER));
    disk.carry_out(Pending::default(), false, start + SYNC_AFTER);
    assert_eq!(disk.alarm(), None);
}
