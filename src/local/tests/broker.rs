use super::*;

fn broker() -> Broker {
    Broker::new(Limits::default(), Arc::default())
}

fn filters(filter: &str) -> Vec<(String, QoS)> {
    vec![(filter.to_owned(), QoS::AtLeastOnce)]
}

#[test]
fn a_link_that_was_taken_over_can_change_nothing() {
    let mut broker = broker();
    let (old, new) = (Arc::<Link>::default(), Arc::<Link>::default());
    let session = broker.connect("c", false, &old).session;
    let again = broker.connect("c", false, &new);
    assert_eq!((again.session, again.session_present), (session, true));
    assert!(old.is_taken_over() && !new.is_taken_over());
    assert!(broker.session(session, &old).is_none());
    assert_eq!(
        broker.subscribe(session, &old, &filters("a")),
        [SUBSCRIPTION_REFUSED]
    );
    assert_eq!(broker.subscribe(session, &new, &filters("a")), [1]);
    broker.unsubscribe(session, &old, &["a".to_owned()]);
    broker.disconnect(session, &old);
    broker.publish("a", b"x", QoS::AtLeastOnce, false);
    let session = broker.session(session, &new).unwrap();
    assert!(session.next(&Limits::default()).is_some());
}

#[test]
fn a_clean_take_over_begins_anew_and_so_does_one_of_a_clean_session() {
    for (first, second) in [(false, true), (true, false), (true, true)] {
        let mut broker = broker();
        let (old, new) = (Arc::<Link>::default(), Arc::<Link>::default());
        let session = broker.connect("c", first, &old).session;
        broker.subscribe(session, &old, &filters("#"));
        let again = broker.connect("c", second, &new);
        assert!(!again.session_present && again.session != session);
        assert!(old.is_taken_over());
        broker.publish("a", b"x", QoS::AtLeastOnce, false);
        let session = broker.session(again.session, &new).unwrap();
        assert_eq!(session.next(&Limits::default()), None);
    }
}

#[test]
fn nothing_of_a_clean_session_remains() {
    let mut broker = broker();
    let link = Arc::default();
    let session = broker.connect("c", true, &link).session;
    broker.subscribe(session, &link, &filters("a/+/#"));
    broker.disconnect(session, &link);
    assert!(!broker.knows("c") && broker.sessions.is_empty() && broker.absent.is_empty());
    let mut matched = Vec::new();
    broker.subscriptions.matching("a/b", &mut matched);
    assert!(matched.is_empty());
}
