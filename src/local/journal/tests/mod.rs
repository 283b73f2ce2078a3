//! A broker that comes back from its journal.

mod bytes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::clock::Timestamp;
use crate::local::broker::{Broker, SessionRequest};
use crate::local::counters::Counters;
use crate::local::limits::Limits;
use crate::local::link::Link;
use crate::local::packet::{Filter, Publish};
use crate::local::publication::{Delivery, Publication, QoS, Subscription};
use crate::local::session::Outgoing;
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

fn delivery(payload: &str) -> Delivery {
    Delivery {
        publication: Publication::restored("a/b", b"", payload.as_bytes(), None),
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: [7, 9].into(),
    }
}

/// A broker with a journal.
struct Kept {
    broker: Arc<Mutex<Broker>>,
    recorder: Recorder,
    counters: Arc<Counters>,
    keeper: Keeper,
}

fn open(storage: &Arc<dyn Storage>) -> Kept {
    open_retrying(storage, Duration::from_hours(1))
}

fn open_retrying(storage: &Arc<dyn Storage>, retry_pause: Duration) -> Kept {
    let clocks = Clocks::read();
    let image = read(&**storage, &clocks).unwrap();
    let recorder = Recorder::retrying(image.is_some(), retry_pause);
    let counters = Arc::<Counters>::default();
    let mut broker = Broker::new(Limits::default(), Arc::clone(&counters));
    broker.restore_sessions(image.unwrap_or_default(), recorder.clone(), clocks.now);
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
    /// A session that is subscribed to everything and away.
    fn away(self) -> Self {
        let link = Arc::<Link>::default();
        let (session, _) = self.connect(&link);
        let filters = [Filter::plain("#", QoS::AtLeastOnce)];
        let mut broker = self.broker.lock().unwrap();
        broker.subscribe(session, &link, &filters, Instant::now());
        broker.disconnect(session, &link, None, Instant::now());
        drop(broker);
        self
    }

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
fn however_a_journal_is_cut_a_qos_2_message_and_its_identifier_are_there_together() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::open(directory.path()).unwrap());
    let kept = open(&storage);
    let link = Arc::<Link>::default();
    let (subscriber, _) = kept.connect(&link);
    let publisher = SessionRequest {
        client_id: "publisher",
        clean_start: false,
        expiry_s: 1_000,
        receive_max: u16::MAX,
    };
    let publisher = {
        let mut broker = kept.broker.lock().unwrap();
        let filters = [Filter::plain("#", QoS::ExactlyOnce)];
        broker.subscribe(subscriber, &link, &filters, Instant::now());
        broker.connect(publisher, &link, Instant::now()).session
    };
    kept.settle();
    let journal = directory.path().join("journal");
    let before = std::fs::read(&journal).unwrap().len();
    {
        let mut broker = kept.broker.lock().unwrap();
        for id in 1..=3 {
            let mut publish = Publish::plain("a", b"x", QoS::ExactlyOnce, false);
            publish.id = id;
            let own = (publisher, &link);
            let (wanted, awaits) = (broker.publish_once(&publish, own, None, Instant::now()))
                .expect("it has its session");
            assert!(wanted && awaits.journal.is_some());
        }
    }
    kept.settle();
    let bytes = std::fs::read(journal).unwrap();
    let mut seen = 0;
    for cut in before..=bytes.len() {
        let image = Image::replay(&bytes[..cut], &clocks(1));
        seen = image.sessions[&subscriber].messages.len();
        assert_eq!(image.sessions[&publisher].taken.len(), seen, "{cut}");
    }
    assert_eq!(seen, 3);
}

#[test]
fn what_belongs_together_is_not_written_before_it_is_complete() {
    let recorder = Recorder::on(false);
    let held = recorder.hold();
    recorder.record(Change::Taking(1));
    recorder.close();
    let (sender, work) = std::sync::mpsc::channel();
    let at_work = recorder.clone();
    let worker = std::thread::spawn(move || sender.send(at_work.work()).unwrap());
    let early = work.recv_timeout(Duration::from_millis(50));
    assert!(early.is_err(), "{early:?}");
    recorder.record(Change::Taken(1, 1));
    drop(held);
    let all = vec![(0, Change::Taking(1)), (1, Change::Taken(1, 1))];
    let soon = Duration::from_secs(30);
    assert_eq!(work.recv_timeout(soon), Ok(recorder::Work::Append(all, 2)));
    worker.join().unwrap();
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
            assert!(session.pubrec(1).is_some() && session.pubrec(3).is_some());
            session.pubcomp(3);
        }
        kept.broker
            .lock()
            .unwrap()
            .disconnect(session, &link, None, Instant::now());
        kept.publish("a/b", "waits", QoS::ExactlyOnce, false);
        kept.publish("s", "shared", QoS::AtLeastOnce, false);
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
    }
}

#[test]
fn a_message_of_qos_2_is_sent_only_when_its_identifier_is_kept() {
    let recorder = Recorder::on(false);
    let mut broker = Broker::new(Limits::default(), Arc::default());
    broker.restore_sessions(Image::default(), recorder.clone(), Instant::now());
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
    let next = |broker: &mut Broker| {
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
    let kept = open(&storage).away();
    kept.settle();
    assert_eq!(kept.counters.journal_failures.get(), 1);
    let before = kept.recorder.next();
    kept.publish("a", "x", QoS::AtLeastOnce, false);
    let after = kept.recorder.next();
    assert_eq!(after, before, "nothing waits while the disk fails");
    drop(kept.keeper);
}

#[test]
fn when_the_disk_has_room_again_everything_is_written() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    model.set_capacity(Some(0));
    let kept = open_retrying(&storage, Duration::from_millis(1)).away();
    kept.publish("a", "while it was full", QoS::AtLeastOnce, false);
    wait_until(|| kept.counters.journal_failures.get() > 0);
    model.set_capacity(None);
    wait_until(|| model.content("journal").is_some());
    kept.publish("a", "later", QoS::AtLeastOnce, false);
    drop(kept);
    assert_eq!(payloads(&model), ["while it was full", "later"]);
}

/// The messages of the only session in a journal.
fn payloads(model: &Model) -> Vec<String> {
    let image = read(model, &Clocks::read()).unwrap().unwrap_or_default();
    assert_eq!(image.damaged, 0);
    let messages = image.sessions.into_values().flat_map(|one| one.messages);
    let payload = |message: image::KeptMessage| {
        let delivery = message.delivery.unwrap();
        String::from_utf8(delivery.publication.parts().1.to_vec()).unwrap()
    };
    messages.map(payload).collect()
}

#[test]
fn a_journal_that_has_grown_is_written_afresh() {
    const TIMES: u32 = 1_000;
    let payload = "x".repeat(4_096);
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage).away();
    let link = Arc::<Link>::default();
    let (session, _) = kept.connect(&link);
    let mut longest = 0;
    for _ in 0..TIMES {
        kept.publish("a", &payload, QoS::AtLeastOnce, false);
        kept.settle();
        let (id, ..) = kept.next(session, &link).unwrap();
        let mut broker = kept.broker.lock().unwrap();
        broker.session(session, &link).unwrap().puback(id);
        longest = longest.max(model.content("journal").map_or(0, |bytes| bytes.len()));
    }
    kept.publish("a", "the last", QoS::AtLeastOnce, false);
    drop(kept);
    assert!(longest < 1_100_000, "{longest} bytes");
    assert!(longest > 500_000, "not each time: {longest} bytes");
    assert_eq!(payloads(&model), ["the last"]);
}

#[test]
fn nobody_waits_for_changes_that_the_memory_had_no_room_for() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage).away();
    kept.publish("a", "x", QoS::AtLeastOnce, false);
    {
        // The keeper cannot look at the broker meanwhile.
        let _broker = kept.broker.lock().unwrap();
        for _ in 0..100 {
            let delivery = delivery(&"x".repeat(200_000));
            (kept.recorder.record(Change::Queued(99, 1, delivery))).expect("a number");
        }
    }
    kept.settle();
    drop(kept);
    assert_eq!(payloads(&model), ["x"]);
}

#[test]
fn a_full_set_of_sessions_is_back_in_a_moment() {
    const SESSIONS: usize = 256;
    /// So that all of them together have about 8 MiB.
    const MESSAGES_EACH: usize = 80;
    let directory = tempfile::tempdir().unwrap();
    let storage = || -> Arc<dyn Storage> { Arc::new(Directory::open(directory.path()).unwrap()) };
    {
        let kept = open(&storage());
        let mut broker = kept.broker.lock().unwrap();
        for number in 0..SESSIONS {
            let (link, id) = (Arc::<Link>::default(), format!("client-{number}"));
            let request = SessionRequest {
                client_id: &id,
                clean_start: true,
                expiry_s: 1_000,
                receive_max: u16::MAX,
            };
            let now = Instant::now();
            let key = broker.connect(request, &link, now).session;
            broker.subscribe(key, &link, &[Filter::plain("a", QoS::AtLeastOnce)], now);
            broker.disconnect(key, &link, None, now);
        }
        for _ in 0..MESSAGES_EACH {
            let publish = Publish::plain("a", &[b'x'; 300], QoS::AtLeastOnce, false);
            broker.publish(&publish, None, Instant::now());
        }
        assert_eq!(kept.counters.dropped_session_full.get(), 0);
    }
    let before = std::time::Instant::now();
    let kept = open(&storage());
    let took = before.elapsed();
    println!("{SESSIONS} sessions of {MESSAGES_EACH} messages were back in {took:?}");
    let link = Arc::<Link>::default();
    let request = SessionRequest {
        client_id: "client-7",
        clean_start: false,
        expiry_s: 1_000,
        receive_max: u16::MAX,
    };
    let mut broker = kept.broker.lock().unwrap();
    let key = broker.connect(request, &link, Instant::now()).session;
    let session = broker.session(key, &link).unwrap();
    let mut count = 0;
    while let Some(Outgoing::Publish { id, .. }) = session.next(&Limits::default(), Instant::now())
    {
        session.puback(id);
        count += 1;
    }
    assert_eq!(count, MESSAGES_EACH);
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn whatever_fails_what_was_kept_is_there_in_order() {
    for nth in 1..=3 {
        for operation in [
            Operation::Write,
            Operation::SyncData,
            Operation::Rename,
            Operation::SyncDirectory,
            Operation::Create,
        ] {
            for effect in [Effect::Eio, Effect::Enospc, Effect::PowerCut] {
                keeps_its_word(Trigger::Nth(operation, nth), effect);
            }
        }
    }
}

fn keeps_its_word(trigger: Trigger, effect: Effect) {
    for seed in 0..8 {
        let model = Model::default();
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        model.inject(trigger, effect);
        let kept = open(&storage).away();
        let mut promised = 0;
        for count in 0..5_usize {
            kept.publish("a", &count.to_string(), QoS::AtLeastOnce, false);
            kept.settle();
            if kept.counters.journal_failures.get() == 0 {
                promised = count + 1;
            }
        }
        drop(kept);
        model.clear_faults();
        model.reboot(seed);
        let found = payloads(&model);
        assert!(
            found.len() >= promised,
            "{trigger:?} {effect:?} {seed}: {found:?} of {promised}"
        );
        let in_order = found
            .iter()
            .enumerate()
            .all(|(at, payload)| *payload == at.to_string());
        assert!(in_order, "{trigger:?} {effect:?} {seed}: {found:?}");
    }
}
