//! Sessions that come back.

use super::*;
use crate::spool::storage::Directory;

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
