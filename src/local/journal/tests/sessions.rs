//! Sessions that come back.

use super::*;
use crate::spool::storage::Directory;

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
            let payload = [b'0' + u8::try_from(id).unwrap()];
            let mut publish = Publish::plain("a", &payload, QoS::ExactlyOnce, true);
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
        let retained = retained(&image).first().map_or("0", |(_, payload)| payload);
        assert_eq!(retained, seen.to_string(), "{cut}");
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
        kept.settle();
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
    let connect = |broker: &mut Broker| broker.connect(request, &link, Instant::now()).session;
    let key = connect(&mut kept.broker.lock().unwrap());
    kept.settle();
    let mut broker = kept.broker.lock().unwrap();
    let session = broker.session(key, &link).unwrap();
    let mut count = 0;
    while let Some(Outgoing::Publish { id, .. }) = session.next(&Limits::default(), Instant::now())
    {
        session.puback(id);
        count += 1;
    }
    assert_eq!(count, MESSAGES_EACH);
}
