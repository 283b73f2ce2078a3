use super::super::journal::Image;
use super::super::packet::Publish;
use super::*;

fn broker() -> Broker {
    Broker::new(Limits::default(), Arc::default())
}

fn filters(filter: &str) -> Vec<Filter> {
    vec![Filter::plain(filter, QoS::AtLeastOnce)]
}

/// A client of MQTT 3.1.1 connects as `c`.
fn connect(broker: &mut Broker, clean: bool, link: &Arc<Link>) -> Connected {
    let request = SessionRequest {
        client_id: "c",
        clean_start: clean,
        expiry_s: if clean { 0 } else { SESSION_FOR_EVER },
        receive_max: u16::MAX,
    };
    broker.connect(request, link, Instant::now())
}

fn publish(broker: &mut Broker, topic: &str) -> bool {
    let publish = Publish::plain(topic, b"x", QoS::AtLeastOnce, false);
    broker.publish(&publish, None, Instant::now())
}

#[test]
fn a_link_that_was_taken_over_can_change_nothing() {
    let mut broker = broker();
    let (old, new) = (Arc::<Link>::default(), Arc::<Link>::default());
    let session = connect(&mut broker, false, &old).session;
    let again = connect(&mut broker, false, &new);
    assert_eq!((again.session, again.session_present), (session, true));
    assert!(old.is_taken_over() && !new.is_taken_over());
    assert!(broker.session(session, &old).is_none());
    assert_eq!(
        broker.subscribe(session, &old, &filters("a"), Instant::now()),
        [Reason::SessionTakenOver.code()]
    );
    assert_eq!(
        broker.subscribe(session, &new, &filters("a"), Instant::now()),
        [1]
    );
    broker.unsubscribe(session, &old, &["a".to_owned()]);
    broker.disconnect(session, &old, None, Instant::now());
    publish(&mut broker, "a");
    let session = broker.session(session, &new).unwrap();
    assert!(session.next(&Limits::default(), Instant::now()).is_some());
}

#[test]
fn a_clean_take_over_begins_anew_and_so_does_one_of_a_clean_session() {
    for (first, second) in [(false, true), (true, false), (true, true)] {
        let mut broker = broker();
        let (old, new) = (Arc::<Link>::default(), Arc::<Link>::default());
        let session = connect(&mut broker, first, &old).session;
        broker.subscribe(session, &old, &filters("#"), Instant::now());
        let again = connect(&mut broker, second, &new);
        assert!(!again.session_present && again.session != session);
        assert!(old.is_taken_over());
        publish(&mut broker, "a");
        let session = broker.session(again.session, &new).unwrap();
        assert_eq!(session.next(&Limits::default(), Instant::now()), None);
    }
}

#[test]
fn nothing_of_a_clean_session_remains() {
    let mut broker = broker();
    let link = Arc::default();
    let session = connect(&mut broker, true, &link).session;
    broker.subscribe(session, &link, &filters("a/+/#"), Instant::now());
    broker.disconnect(session, &link, None, Instant::now());
    assert!(!broker.knows("c") && broker.sessions.is_empty() && broker.absent.is_empty());
    let mut matched = Vec::new();
    broker.subscriptions.matching("a/b", &mut matched);
    assert!(matched.is_empty());
}

#[test]
fn sessions_that_a_restart_brings_back_beyond_the_limit_make_room_for_new_ones() {
    let limits = Limits {
        sessions_max: 1,
        ..Limits::default()
    };
    let mut image = Image::default();
    for (key, client_id) in (1..).zip(["a", "b", "c"]) {
        image.apply(Change::Opened(key, client_id.to_owned(), SESSION_FOR_EVER));
    }
    let mut broker = Broker::new(limits, Arc::default());
    let now = Instant::now();
    broker.restore(image, Recorder::on(true), now);
    assert_eq!(broker.sessions.len(), 3, "nothing is dropped at the start");
    for (client_id, sessions) in [("a", 3), ("d", 3), ("e", 4)] {
        let request = SessionRequest {
            client_id,
            clean_start: false,
            expiry_s: SESSION_FOR_EVER,
            receive_max: u16::MAX,
        };
        broker.connect(request, &Arc::default(), now);
        assert_eq!(broker.sessions.len(), sessions, "{client_id}");
    }
    assert!(broker.knows("a") && !broker.knows("b") && broker.knows("c"));
    assert_eq!(broker.counters.sessions_discarded.get(), 1);
}
