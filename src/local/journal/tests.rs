//! The journal: every cut and every damaged byte, and a broker that comes back from it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::change::VERSION;
use super::*;
use crate::clock::Timestamp;
use crate::local::broker::{Broker, SessionRequest};
use crate::local::counters::Counters;
use crate::local::limits::Limits;
use crate::local::packet::{Filter, Publish};
use crate::local::publication::{Delivery, Publication, QoS, Subscription};
use crate::local::session::{Link, Outgoing};
use crate::spool::storage::Directory;
use crate::spool::storage::Storage;
use crate::spool::tests::model::{Effect, Model, Operation, Trigger};

fn clocks(unix_ms: u64) -> Clocks {
    Clocks {
        now: Instant::now(),
        wall: Timestamp {
            unix_ms,
            clock_set: unix_ms > 0,
        },
    }
}

fn publication(topic: &str, payload: &str, expires: Option<Instant>) -> Publication {
    let bytes = [topic, payload].concat();
    Publication::restored(bytes.as_bytes(), topic.len(), 0, expires).unwrap()
}

fn delivery(payload: &str) -> Delivery {
    Delivery {
        publication: publication("a/b", payload, None),
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: [7, 9].into(),
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (0..14, 1_u64..4, 1_u16..6, "[a-c]{0,3}").prop_map(|(kind, key, id, text)| {
        let subscription = Subscription {
            qos: QoS::AtLeastOnce,
            no_local: id > 2,
            retain_as_published: id > 3,
            id: id.into(),
        };
        match kind {
            0 | 1 => Change::Opened(key, format!("client-{key}"), id.into()),
            2 => Change::Returned(key, 5),
            3 => Change::Left(key, 5, None),
            4 => Change::Ended(key),
            5 => Change::Subscribed(key, text, subscription),
            6 => Change::Unsubscribed(key, text),
            7 => Change::Queued(key, id, delivery(&text)),
            8 => Change::Sent(key, id),
            9 => Change::Released(key, id),
            10 => Change::Settled(key, id),
            11 => Change::Taken(key, id),
            12 => Change::Retained(publication(&text, "x", None), QoS::AtMostOnce),
            _ => Change::Cleared(text),
        }
    });
    prop::collection::vec(one, 0..40)
}

/// The bytes of a journal, and where each record ends.
fn journal(changes: &[Change]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for (number, change) in changes.iter().enumerate() {
        bytes.extend(change.encode(number as u64, &clocks(1)).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn image_of(changes: &[Change]) -> Image {
    let mut image = Image::default();
    for change in changes {
        image.apply(change.clone());
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_journal_cut_anywhere_is_the_state_of_a_moment(changes in changes(), cut in 0.0..1.0) {
        let (bytes, ends) = journal(&changes);
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a place in a short file")]
        let cut = (bytes.len() as f64 * cut) as usize;
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let mut image = Image::replay(&bytes[..cut], &clocks(1));
        prop_assert_eq!(image.damaged, 0);
        prop_assert_eq!(image.torn_bytes, cut - whole.checked_sub(1).map_or(0, |last| ends[last]));
        image.torn_bytes = 0;
        prop_assert_eq!(image, image_of(&changes[..whole]));
    }
}

#[test]
fn a_byte_that_changed_costs_one_change_and_is_counted() {
    let changes = [
        Change::Version(VERSION),
        Change::Opened(1, "c".to_owned(), 5),
        Change::Queued(1, 1, delivery("one")),
        Change::Queued(1, 2, delivery("two")),
        Change::Settled(1, 1),
    ];
    let (bytes, ends) = journal(&changes);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let mut image = Image::replay(&damaged, &clocks(1));
        let hit = ends.iter().filter(|end| **end <= at).count();
        if hit == changes.len() - 1 {
            assert!(image.torn_bytes > 0, "byte {at}");
        } else {
            assert_eq!(image.damaged, 1, "byte {at}");
        }
        (image.damaged, image.torn_bytes) = (0, 0);
        let mut rest = changes.to_vec();
        rest.remove(hit);
        assert_eq!(image, image_of(&rest), "byte {at}");
    }
}

#[test]
fn an_unknown_version_is_said_and_nothing_is_taken_from_it() {
    let (bytes, _) = journal(&[
        Change::Version(VERSION + 1),
        Change::Opened(1, "c".to_owned(), 5),
    ]);
    let image = Image::replay(&bytes, &clocks(1));
    assert_eq!(image.unknown_version, Some(VERSION + 1));
    assert!(image.sessions.is_empty());
}

#[test]
fn time_goes_on_over_a_restart_as_far_as_the_clock_can_tell() {
    let written = clocks(1_000_000);
    let ends = written.now + Duration::from_secs(100);
    let change = |at: Clocks| Change::Left(1, 200, Some(at.now + Duration::from_secs(100)));
    for (at, read_ms, left_s) in [
        (1_000_000, 1_030_000, 70), // the clock went on
        (1_000_000, 900_000, 100),  // it was set back
        (1_000_000, 9_000_000, 0),  // it jumped ahead: over
        (1_000_000, 0, 100),        // it is not set now
        (0, 1_030_000, 100),        // or was not then
    ] {
        let (written, read) = (clocks(at), clocks(read_ms));
        let bytes = [
            Change::Opened(1, "c".to_owned(), 5)
                .encode(0, &written)
                .unwrap(),
            change(written).encode(1, &written).unwrap(),
        ];
        let image = Image::replay(&bytes.concat(), &read);
        let left = image.sessions[&1].left.unwrap().unwrap();
        assert_eq!(
            left,
            read.now + Duration::from_secs(left_s),
            "{at} {read_ms}"
        );
    }
    assert!(ends > written.now);
}

/// A broker with a journal.
struct Kept {
    broker: Arc<Mutex<Broker>>,
    recorder: Recorder,
    counters: Arc<Counters>,
    keeper: Keeper,
}

fn open(storage: &Arc<dyn Storage>) -> Kept {
    let clocks = Clocks::read();
    let image = read(&**storage, &clocks).unwrap();
    let recorder = Recorder::on(image.is_some());
    let counters = Arc::<Counters>::default();
    let mut broker = Broker::new(Limits::default(), Arc::clone(&counters));
    broker.restore(image.unwrap_or_default(), recorder.clone(), clocks.now);
    let broker = Arc::new(Mutex::new(broker));
    let keeper = Keeper::start(
        Arc::clone(storage),
        recorder.clone(),
        Arc::clone(&broker),
        Arc::clone(&counters),
    );
    Kept {
        broker,
        recorder,
        counters,
        keeper: keeper.unwrap(),
    }
}

impl Kept {
    fn connect(&self, link: &Arc<Link>) -> (u64, bool) {
        let request = SessionRequest {
            client_id: "c",
            clean_start: false,
            expiry_s: 1_000,
            receive_max: u16::MAX,
        };
        let connected = self
            .broker
            .lock()
            .unwrap()
            .connect(request, link, Instant::now());
        (connected.session, connected.session_present)
    }

    fn publish(&self, topic: &str, payload: &str, qos: QoS, retain: bool) {
        let publish = Publish::plain(topic, payload.as_bytes(), qos, retain);
        self.broker
            .lock()
            .unwrap()
            .publish(&publish, None, Instant::now());
    }

    /// Waits until everything that was recorded is kept, or nothing has to wait.
    fn settle(&self) {
        let number = self.recorder.next();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while number > 0 && !self.recorder.is_kept(number - 1) {
            assert!(
                std::time::Instant::now() < deadline,
                "the journal is not written"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn next(&self, session: u64, link: &Arc<Link>) -> Option<(u16, bool, Vec<u8>)> {
        let mut broker = self.broker.lock().unwrap();
        let session = broker.session(session, link).unwrap();
        match session.next(&Limits::default(), Instant::now())? {
            Outgoing::Publish {
                delivery,
                id,
                duplicate,
            } => Some((id, duplicate, delivery.publication.parts().1.to_vec())),
            Outgoing::PubRel(id) => Some((id, true, b"PUBREL".to_vec())),
            Outgoing::Expired => None,
        }
    }
}

#[test]
fn a_session_comes_back_at_the_stage_each_message_had_reached() {
    let directory = tempfile::tempdir().unwrap();
    let storage = || -> Arc<dyn Storage> { Arc::new(Directory::open(directory.path()).unwrap()) };
    let link = Arc::<Link>::default();
    {
        let kept = open(&storage());
        let (session, present) = kept.connect(&link);
        assert!(!present);
        let filters = [
            Filter::plain("a/#", QoS::ExactlyOnce),
            Filter::plain("$share/g/s", QoS::AtLeastOnce),
        ];
        kept.broker
            .lock()
            .unwrap()
            .subscribe(session, &link, &filters, Instant::now());
        for payload in ["released", "sent", "done"] {
            kept.publish("a/b", payload, QoS::ExactlyOnce, false);
        }
        kept.settle();
        for id in 1..=3 {
            assert_eq!(kept.next(session, &link).unwrap().0, id);
        }
        {
            let mut broker = kept.broker.lock().unwrap();
            let session = broker.session(session, &link).unwrap();
            assert!(session.pubrec(1) && session.pubrec(3));
            session.pubcomp(3);
        }
        kept.broker
            .lock()
            .unwrap()
            .disconnect(session, &link, None, Instant::now());
        kept.publish("a/b", "waits", QoS::ExactlyOnce, false);
        kept.publish("s", "shared", QoS::AtLeastOnce, false);
        kept.publish("r", "retained", QoS::AtMostOnce, true);
    } // an orderly stop
    for _ in 0..2 {
        let kept = open(&storage());
        let (session, present) = kept.connect(&link);
        assert!(present);
        let expected: [(u16, bool, &[u8]); 4] = [
            (1, true, b"PUBREL"),
            (2, true, b"sent"),
            (4, false, b"waits"),
            (5, false, b"shared"),
        ];
        for (id, duplicate, payload) in expected {
            let got = kept.next(session, &link).unwrap();
            if id < 4 {
                assert_eq!(got, (id, duplicate, payload.to_vec()));
            } else {
                assert_eq!((got.0, &*got.2), (id, payload));
            }
        }
        assert_eq!(kept.next(session, &link), None);
        let retained = Filter::plain("r", QoS::AtMostOnce);
        kept.broker
            .lock()
            .unwrap()
            .subscribe(session, &link, &[retained], Instant::now());
        assert_eq!(kept.next(session, &link).unwrap().2, b"retained");
    }
}

#[test]
fn a_message_of_qos_2_is_sent_only_when_its_identifier_is_kept() {
    let recorder = Recorder::on(false);
    let mut broker = Broker::new(Limits::default(), Arc::default());
    broker.restore(Image::default(), recorder.clone(), Instant::now());
    let link = Arc::<Link>::default();
    let request = SessionRequest {
        client_id: "c",
        clean_start: false,
        expiry_s: 1_000,
        receive_max: u16::MAX,
    };
    let key = broker.connect(request, &link, Instant::now()).session;
    let filter = Filter::plain("a", QoS::ExactlyOnce);
    broker.subscribe(key, &link, &[filter], Instant::now());
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        broker.publish(&Publish::plain("a", b"x", qos, false), None, Instant::now());
    }
    let mut next = |broker: &mut Broker| {
        let session = broker.session(key, &link).unwrap();
        let next = session.next(&Limits::default(), Instant::now());
        (next.is_some(), session.is_held_up())
    };
    assert_eq!(next(&mut broker), (true, true), "QoS 1 need not wait");
    assert_eq!(next(&mut broker), (false, true), "QoS 2 must");
    recorder.keep(recorder.next());
    assert_eq!(next(&mut broker), (true, false));
}

#[test]
fn a_full_disk_holds_nobody_up_and_is_counted() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    model.set_capacity(Some(0));
    let kept = open(&storage);
    kept.publish("r", "retained", QoS::AtLeastOnce, true);
    kept.settle();
    assert_eq!(kept.counters.journal_failures.get(), 1);
    let before = kept.recorder.next();
    kept.publish("r", "again", QoS::AtLeastOnce, true);
    assert_eq!(
        kept.recorder.next(),
        before,
        "nothing waits while the disk fails"
    );
    drop(kept.keeper);
}

#[test]
fn whatever_fails_the_journal_on_disk_is_of_a_moment() {
    for nth in 1..=3 {
        for operation in [
            Operation::Write,
            Operation::SyncData,
            Operation::Rename,
            Operation::SyncDirectory,
            Operation::Create,
        ] {
            for effect in [Effect::Eio, Effect::Enospc, Effect::PowerCut] {
                let mut model = Model::default();
                let storage: Arc<dyn Storage> = Arc::new(model.clone());
                model.inject(Trigger::Nth(operation, nth), effect);
                let mut kept_count = 0;
                {
                    let kept = open(&storage);
                    for count in 1..=5_u32 {
                        kept.publish("r", &count.to_string(), QoS::AtLeastOnce, true);
                        kept.settle();
                        if kept.counters.journal_failures.get() == 0 {
                            kept_count = count;
                        }
                    }
                }
                model.clear_faults();
                model = model.copy();
                model.reboot(u64::from(nth));
                let image = read(&model, &Clocks::read()).unwrap().unwrap_or_default();
                let found = image.retained.get(&b"r"[..]).map_or(0, |(message, _)| {
                    String::from_utf8_lossy(message.parts().1).parse().unwrap()
                });
                assert!(
                    found >= kept_count,
                    "{operation:?} {nth} {effect:?}: {found} of {kept_count}"
                );
            }
        }
    }
}
