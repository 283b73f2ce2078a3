use super::super::packet::Publish;
use super::super::publication::Publication;
use std::collections::BTreeSet;

use super::*;
use crate::local::journal::{KeptMessage, KeptSession, Whereabouts};

fn delivery(payload: &str, qos: QoS) -> Delivery {
    Delivery {
        publication: Publication::new(
            &Publish::plain("topic", payload.as_bytes(), qos, false),
            Instant::now(),
            &Memory::default(),
        ),
        qos,
        retain: false,
        subscription_ids: Box::default(),
    }
}

fn session(limits: &Limits) -> (Session, Memory) {
    let memory = Memory::default();
    let mut session = Session::new("client", memory.clone());
    assert!(session.attach(Arc::default(), u16::MAX).is_none());
    assert_eq!(session.next(limits, Instant::now()), None);
    (session, memory)
}

/// Payload, packet identifier and DUP of the next PUBLISH; the identifier of the next PUBREL.
fn next(session: &mut Session, limits: &Limits) -> Option<(String, u16, bool)> {
    Some(match session.next(limits, Instant::now())? {
        Outgoing::PubRel(id) => ("PUBREL".to_owned(), id, false),
        Outgoing::Expired => ("EXPIRED".to_owned(), 0, false),
        Outgoing::Publish {
            delivery,
            id,
            duplicate,
        } => {
            let payload = delivery.publication.parts().1.to_vec();
            (String::from_utf8(payload).unwrap(), id, duplicate)
        }
    })
}

fn expect(session: &mut Session, limits: &Limits, payload: &str, id: u16, duplicate: bool) {
    let expected = Some((payload.to_owned(), id, duplicate));
    assert_eq!(next(session, limits), expected);
}

#[test]
fn acknowledgements_of_the_wrong_kind_or_number_change_nothing() {
    let limits = Limits {
        inflight_max: 2,
        ..Limits::default()
    };
    let (mut session, _) = session(&limits);
    session.offer(delivery("one", QoS::AtLeastOnce), &limits);
    session.offer(delivery("two", QoS::ExactlyOnce), &limits);
    session.offer(delivery("three", QoS::AtLeastOnce), &limits);
    expect(&mut session, &limits, "one", 1, false);
    expect(&mut session, &limits, "two", 2, false);
    for id in [0, 1, 2, 3, 65_535] {
        session.pubcomp(id);
    }
    session.pubrec(1);
    session.puback(2);
    session.puback(77);
    assert_eq!(next(&mut session, &limits), None);
    session.pubrec(2);
    session.puback(2);
    session.pubcomp(2);
    expect(&mut session, &limits, "three", 3, false);
}

#[test]
fn identifiers_wrap_around_and_pass_over_those_in_flight() {
    let limits = Limits::default();
    let (mut session, _) = session(&limits);
    session.offer(delivery("kept", QoS::AtLeastOnce), &limits);
    expect(&mut session, &limits, "kept", 1, false);
    for id in (2..=65_535).chain([2, 3]) {
        session.offer(delivery("x", QoS::AtLeastOnce), &limits);
        expect(&mut session, &limits, "x", id, false);
        session.puback(id);
    }
}

#[test]
fn an_acknowledgement_amid_repetition_skips_nothing() {
    let limits = Limits::default();
    let (mut session, _) = session(&limits);
    for payload in ["1", "2", "3"] {
        session.offer(delivery(payload, QoS::AtLeastOnce), &limits);
        next(&mut session, &limits);
    }
    session.detach();
    session.attach(Arc::default(), u16::MAX);
    expect(&mut session, &limits, "1", 1, true);
    session.puback(1);
    session.puback(2);
    expect(&mut session, &limits, "3", 3, true);
    assert_eq!(next(&mut session, &limits), None);
}

#[test]
fn bytes_are_counted_until_the_client_has_acknowledged_and_given_back_at_the_end() {
    let limits = Limits::default();
    let (mut session, memory) = session(&limits);
    let bytes = || memory.of_sessions_bytes();
    session.offer(delivery("0", QoS::AtMostOnce), &limits);
    session.offer(delivery("1", QoS::AtLeastOnce), &limits);
    session.offer(delivery("2", QoS::ExactlyOnce), &limits);
    let each = bytes() / 3;
    assert!(each > 0);
    for _ in 0..3 {
        next(&mut session, &limits);
    }
    assert_eq!(bytes(), 2 * each);
    session.puback(1);
    assert_eq!(bytes(), each);
    session.pubrec(2);
    session.pubrec(2);
    assert_eq!(bytes(), 0);
    session.pubcomp(2);
    session.offer(delivery("0", QoS::AtMostOnce), &limits);
    session.offer(delivery("3", QoS::AtLeastOnce), &limits);
    session.detach();
    assert_eq!(bytes(), each, "QoS 0 does not wait for an absent client");
    drop(session);
    assert_eq!((bytes(), memory.kept_bytes()), (0, 0));
}

#[test]
fn a_full_session_drops_the_new_and_says_so_once_until_it_had_room() {
    let one = delivery("x", QoS::AtLeastOnce);
    let limits = Limits {
        session_bytes_max: 2 * one.publication.cost_bytes(),
        ..Limits::default()
    };
    let (mut session, _) = session(&limits);
    let dropped = |first| Offer::Dropped {
        qos: QoS::AtLeastOnce,
        first,
    };
    assert_eq!(session.offer(one.clone(), &limits), Offer::Queued);
    assert_eq!(session.offer(one.clone(), &limits), Offer::Queued);
    assert_eq!(session.offer(one.clone(), &limits), dropped(true));
    assert_eq!(session.offer(one.clone(), &limits), dropped(false));
    next(&mut session, &limits);
    next(&mut session, &limits);
    session.puback(1);
    assert_eq!(session.offer(one.clone(), &limits), Offer::Queued);
    assert_eq!(session.offer(one, &limits), dropped(true));
}

#[test]
fn only_absent_clients_are_held_to_the_limit_of_all_sessions() {
    let limits = Limits {
        offline_bytes_max: 10,
        ..Limits::default()
    };
    let (mut session, _) = session(&limits);
    let message = || delivery("x", QoS::AtLeastOnce);
    assert_eq!(session.offer(message(), &limits), Offer::Queued);
    session.detach();
    assert!(matches!(
        session.offer(message(), &limits),
        Offer::Dropped { .. }
    ));
    let zero = delivery("x", QoS::AtMostOnce);
    assert_eq!(session.offer(zero, &limits), Offer::NotConnected);
}

#[test]
fn when_too_much_is_kept_for_others_a_session_gets_what_is_sure_and_no_more() {
    let one = delivery("x", QoS::AtLeastOnce);
    let limits = Limits {
        messages_bytes_max: 10_000,
        session_bytes_sure: 2 * one.cost_bytes() + 1,
        ..Limits::default()
    };
    let (mut session, memory) = session(&limits);
    memory.keep(10_000);
    assert_eq!(session.offer(one.clone(), &limits), Offer::Queued);
    assert_eq!(session.offer(one.clone(), &limits), Offer::Queued);
    let dropped = session.offer(one.clone(), &limits);
    assert!(matches!(dropped, Offer::Dropped { .. }));
    memory.forget(10_000);
    assert_eq!(session.offer(one, &limits), Offer::Queued);
}

#[test]
fn when_too_much_is_kept_for_others_few_qos_2_messages_may_wait_for_their_release() {
    let limits = Limits {
        messages_bytes_max: 10_000,
        session_bytes_sure: 3 * TAKEN_BYTES,
        ..Limits::default()
    };
    let (mut session, memory) = session(&limits);
    for id in 1..=4 {
        session.take(id, false);
    }
    assert!(!session.must_release(&limits));
    memory.keep(10_000);
    assert!(session.must_release(&limits));
    for id in [1, 1, 2] {
        session.pubrel(id);
    }
    assert!(!session.must_release(&limits));
    drop(session);
    assert_eq!(memory.kept_bytes(), 10_000);
}

#[test]
fn after_a_restart_a_client_that_was_connected_gets_everything_as_a_repetition() {
    let limits = Limits {
        inflight_max: 1,
        ..Limits::default()
    };
    for (client, repeated) in [
        (Whereabouts::Connected, true),
        (Whereabouts::Left(None), false),
    ] {
        let message = |id| KeptMessage {
            id,
            delivery: Some(delivery("x", QoS::AtLeastOnce)),
            sent: false,
        };
        let kept = KeptSession {
            client_id: "client".to_owned(),
            expiry_s: 60,
            client,
            filters: Vec::new(),
            messages: [1, 2, 3].map(message).to_vec(),
            taken: BTreeSet::new(),
        };
        let mut session = Session::restored(kept, Memory::default(), &limits);
        session.attach(Arc::default(), u16::MAX);
        for id in 1..=3 {
            expect(&mut session, &limits, "x", id, repeated);
            session.puback(id);
        }
        session.offer(delivery("new", QoS::AtLeastOnce), &limits);
        expect(&mut session, &limits, "new", 4, false);
    }
}
