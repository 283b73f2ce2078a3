//! Retained messages that come back.

use super::*;
use crate::local::publisher::STATE_TOPIC;

/// What a new subscriber to everything gets.
fn sent(kept: &Kept) -> Vec<(String, String)> {
    let link = Arc::<Link>::default();
    let (session, _) = kept.connect(&link);
    let mut broker = kept.broker.lock().unwrap();
    let all = Filter::plain("#", QoS::AtMostOnce);
    broker.subscribe(session, &link, &[all], Instant::now());
    let session = broker.session(session, &link).unwrap();
    let next = || session.next(&Limits::default(), Instant::now());
    let publications = std::iter::from_fn(next).map(|outgoing| match outgoing {
        Outgoing::Publish { delivery, .. } => delivery.publication,
        other => panic!("{other:?}"),
    });
    let texts = publications.map(|publication| {
        let payload = String::from_utf8(publication.parts().1.to_vec());
        (publication.topic().to_owned(), payload.unwrap())
    });
    texts.collect()
}

#[test]
fn the_last_of_each_topic_is_there_after_an_orderly_stop() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage);
    assert_eq!(sent(&kept), []);
    for (topic, payload) in [("a", "old"), ("b", "gone"), ("a", "new"), ("b", "")] {
        kept.retain(topic, payload, QoS::AtLeastOnce);
    }
    kept.retain("c", "promised to nobody", QoS::AtMostOnce);
    let own = Publish::plain(STATE_TOPIC, b"the relay's own", QoS::AtLeastOnce, true);
    (kept.broker.lock().unwrap()).publish_own(&own, None, Instant::now());
    drop(kept);
    let expected = [("a", "new"), ("c", "promised to nobody")];
    for _ in 0..2 {
        assert_eq!(retained(&read(&model)), expected);
        let kept = open(&storage);
        assert_eq!(
            sent(&kept),
            expected.map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
        );
    }
}

#[test]
fn those_of_a_larger_limit_are_left_out_and_counted() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage);
    for topic in ["a", "b", "c"] {
        kept.retain(topic, "x", QoS::AtLeastOnce);
    }
    drop(kept);
    let limits = Limits {
        retained_messages_max: 2,
        ..Limits::default()
    };
    let counters = Arc::<Counters>::default();
    let broker = Arc::new(Mutex::new(Broker::new(limits, Arc::clone(&counters))));
    drop(keep_at(place(&storage), Recorder::on, &broker, &counters).unwrap());
    assert_eq!(counters.dropped_retained.get(), 1);
    assert_eq!(retained(&read(&model)), [("a", "x"), ("b", "x")]);
}

#[test]
fn only_one_of_qos_0_may_wait_to_be_synced() {
    let publication = Publication::restored("a", b"", b"x", None);
    let patience = |qos| Change::Retained(publication.clone(), qos).patience();
    assert_eq!(patience(QoS::AtMostOnce), Duration::from_secs(5));
    assert_eq!(patience(QoS::AtLeastOnce), Duration::ZERO);
    // And no longer than until another one is synced.
    let recorder = Recorder::on(false);
    recorder.record(Change::Retained(publication.clone(), QoS::AtMostOnce));
    recorder.record(Change::Retained(publication, QoS::AtLeastOnce));
    let Work::Append(changes, 2) = recorder.work() else {
        panic!("both are to be appended");
    };
    assert_eq!(changes.len(), 2);
}
