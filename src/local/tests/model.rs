//! Does the broker do the same as a model that is too simple to be wrong, whatever clients do?
//!
//! The model has flat lists, and matches topics level by level as the standard words it (4.7). Random scripts are run
//! on both; after each step the sessions, the kept bytes and the tree must agree, and whatever a client reads must be
//! the very messages, in the very order, that the model has for it. Seeds are fixed, so that a run can be repeated.
//! Wills, shared subscriptions and full queues are not in it: they have tests of their own.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::packet::Publish;
use super::super::session::Outgoing;
use super::*;

const CLIENTS: [&str; 3] = ["one", "two", "three"];
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b/b", "/", "$own/b"];
const FILTERS: [&str; 10] = [
    "#", "a", "a/#", "a/+", "+/b", "+/+", "a/b/c", "+", "/", "$own/#",
];
const EXPIRIES_S: [u32; 3] = [0, 10, SESSION_FOR_EVER];

#[derive(Clone, Debug)]
enum Step {
    Connect {
        client: usize,
        clean: bool,
        expiry: usize,
    },
    Leave(usize),
    Subscribe {
        client: usize,
        filter: usize,
        subscription: Subscription,
        retained: RetainHandling,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        client: usize,
        topic: usize,
        qos: QoS,
        retain: bool,
        empty: bool,
    },
    Read(usize),
    /// Acknowledges all that was read; of `QoS` 2 only the first half, if so asked.
    Acknowledge {
        client: usize,
        half: bool,
    },
    Wait(u64),
}

/// A message as a client is to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    topic: &'static str,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
    ids: Vec<u32>,
}

impl Sent {
    fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + 96 + self.ids.len() * 4
    }
}

/// A message that was read; `None` when only its PUBCOMP is missing.
#[derive(Clone, Debug)]
struct Flight {
    id: u16,
    sent: Option<Sent>,
}

#[derive(Default)]
struct ModelSession {
    key: SessionKey,
    connected: bool,
    expiry_s: u32,
    ends_s: Option<u64>,
    subscriptions: Vec<(&'static str, Subscription)>,
    queue: Vec<Sent>,
    flights: Vec<Flight>,
    /// How many of `flights` this connection has seen.
    seen: usize,
}

struct Run {
    broker: Broker,
    links: [Option<Arc<Link>>; 3],
    began: Instant,
    now_s: u64,
    sessions: [Option<ModelSession>; 3],
    retained: BTreeMap<&'static str, (Vec<u8>, QoS)>,
    published: u32,
    keys: HashSet<SessionKey>,
}

/// MQTT 4.7: level by level.
fn matches(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        ([], []) | (["#"], _) => true,
        (["+", filter @ ..], [_, name @ ..]) => matches(filter, name),
        ([one, filter @ ..], [other, name @ ..]) => one == other && matches(filter, name),
        _ => false,
    }
}

fn is_match(filter: &str, name: &str) -> bool {
    let levels = |of: &'static str| of.split('/').collect::<Vec<_>>();
    let filter = FILTERS.iter().find(|one| **one == filter).unwrap();
    let name = TOPICS.iter().find(|one| **one == name).unwrap();
    // 4.7.2: no wildcard at the beginning matches a topic that begins with $.
    !(name.starts_with('$') && filter.starts_with(['+', '#']))
        && matches(&levels(filter), &levels(name))
}

impl Run {
    fn new() -> Self {
        let limits = Limits {
            inflight_max: 10_000, // reading is never held up
            ..Limits::default()
        };
        Run {
            broker: Broker::new(limits, Arc::default()),
            links: [None, None, None],
            began: Instant::now(),
            now_s: 0,
            sessions: [None, None, None],
            retained: BTreeMap::new(),
            published: 0,
            keys: HashSet::new(),
        }
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_secs(self.now_s)
    }

    /// The session of a client that is connected, and its link.
    fn connected(&self, client: usize) -> Option<(SessionKey, Arc<Link>)> {
        let session = self.sessions[client].as_ref()?;
        let link = self.links[client].clone()?;
        session.connected.then_some((session.key, link))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Connect {
                client,
                clean,
                expiry,
            } => self.connect(client, clean, EXPIRIES_S[expiry]),
            Step::Leave(client) => self.leave(client),
            Step::Subscribe {
                client,
                filter,
                subscription,
                retained,
            } => self.subscribe(client, FILTERS[filter], subscription, retained),
            Step::Unsubscribe { client, filter } => self.unsubscribe(client, FILTERS[filter]),
            Step::Publish {
                client,
                topic,
                qos,
                retain,
                empty,
            } => {
                self.published += 1;
                let payload = if empty {
                    Vec::new()
                } else {
                    self.published.to_string().into_bytes()
                };
                self.publish(client, TOPICS[topic], &payload, (qos, retain));
            }
            Step::Read(client) => self.read(client),
            Step::Acknowledge { client, half } => self.acknowledge(client, half),
            Step::Wait(seconds) => {
                self.now_s += seconds;
                let now = self.now();
                self.broker.expire(now);
                for session in &mut self.sessions {
                    let ends_s = session.as_ref().and_then(|session| session.ends_s);
                    if ends_s.is_some_and(|ends_s| ends_s <= self.now_s) {
                        *session = None;
                    }
                }
            }
        }
        self.check();
    }

    fn connect(&mut self, client: usize, clean: bool, expiry_s: u32) {
        let link = Arc::<Link>::default();
        let request = SessionRequest {
            client_id: CLIENTS[client],
            clean_start: clean,
            expiry_s,
            receive_max: u16::MAX,
        };
        let now = self.now();
        let got = self.broker.connect(request, &link, now);
        let previous = self.links[client].replace(link);
        let session = &mut self.sessions[client];
        if clean || session.as_ref().is_some_and(|kept| kept.expiry_s == 0) {
            *session = None;
        }
        assert_eq!(got.session_present, session.is_some());
        assert!(previous.is_none_or(|link| link.is_taken_over()));
        let session = session.get_or_insert_with(|| {
            assert!(self.keys.insert(got.session), "a key was used again");
            ModelSession {
                key: got.session,
                ..ModelSession::default()
            }
        });
        assert_eq!(got.session, session.key);
        (session.connected, session.ends_s, session.seen) = (true, None, 0);
        session.expiry_s = expiry_s;
    }

    fn leave(&mut self, client: usize) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let now = self.now();
        assert_eq!(self.broker.disconnect(key, &link, None, now), None);
        self.links[client] = None;
        let now_s = self.now_s;
        let session = &mut self.sessions[client];
        if session.as_ref().is_some_and(|ended| ended.expiry_s == 0) {
            *session = None;
        } else if let Some(session) = session {
            session.connected = false;
            session.queue.retain(|sent| sent.qos > QoS::AtMostOnce);
            let expiry_s = session.expiry_s;
            session.ends_s = (expiry_s < SESSION_FOR_EVER).then(|| now_s + u64::from(expiry_s));
        }
    }

    fn subscribe(
        &mut self,
        client: usize,
        path: &'static str,
        subscription: Subscription,
        retained: RetainHandling,
    ) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let filter = Filter {
            path: path.to_owned(),
            subscription,
            retained,
        };
        let now = self.now();
        let codes = self.broker.subscribe(key, &link, &[filter], now);
        assert_eq!(codes, [subscription.qos as u8]);
        let session = self.sessions[client].as_mut().unwrap();
        let before = session.subscriptions.len();
        session.subscriptions.retain(|(own, _)| *own != path);
        let is_new = session.subscriptions.len() == before;
        session.subscriptions.push((path, subscription));
        let wants = match retained {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::Withhold => false,
        };
        for (topic, (payload, qos)) in &self.retained {
            if wants && is_match(path, topic) {
                session.queue.push(Sent {
                    topic,
                    payload: payload.clone(),
                    qos: subscription.qos.min(*qos),
                    retain: true,
                    ids: Vec::from_iter((subscription.id > 0).then_some(subscription.id)),
                });
            }
        }
    }

    fn unsubscribe(&mut self, client: usize, path: &'static str) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let codes = self.broker.unsubscribe(key, &link, &[path.to_owned()]);
        let session = self.sessions[client].as_mut().unwrap();
        let before = session.subscriptions.len();
        session.subscriptions.retain(|(own, _)| *own != path);
        let expected = if session.subscriptions.len() < before {
            Reason::Success
        } else {
            Reason::NoSubscriptionExisted
        };
        assert_eq!(codes, [expected.code()]);
    }

    fn publish(
        &mut self,
        client: usize,
        topic: &'static str,
        payload: &[u8],
        (qos, retain): (QoS, bool),
    ) {
        let Some((key, _)) = self.connected(client) else {
            return;
        };
        let publish = Publish::plain(topic, payload, qos, retain);
        let now = self.now();
        let wanted = self.broker.publish(&publish, Some(key), now);
        let mut anyone = false;
        if topic.starts_with('$') {
            assert!(!wanted, "such topics belong to the server");
            return;
        }
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic, (payload.to_vec(), qos));
        }
        for (other, session) in self.sessions.iter_mut().enumerate() {
            let Some(session) = session else { continue };
            let matching: Vec<Subscription> = (session.subscriptions.iter())
                .filter(|(filter, one)| {
                    is_match(filter, topic) && !(one.no_local && other == client)
                })
                .map(|(_, one)| *one)
                .collect();
            let Some(highest) = matching.iter().map(|one| one.qos).max() else {
                continue;
            };
            anyone = true;
            let mut ids: Vec<u32> = matching.iter().map(|one| one.id).collect();
            ids.retain(|id| *id > 0);
            ids.sort_unstable();
            let sent = Sent {
                topic,
                payload: payload.to_vec(),
                qos: highest.min(qos),
                retain: retain && matching.iter().any(|one| one.retain_as_published),
                ids,
            };
            if session.connected || sent.qos > QoS::AtMostOnce {
                session.queue.push(sent);
            }
        }
        assert_eq!(wanted, anyone);
    }

    /// The client reads all there is: what was in flight on its last connection first, then what is new.
    fn read(&mut self, client: usize) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let (now, limits) = (self.now(), self.broker.limits.clone());
        let session = self.broker.session(key, &link).expect("it is connected");
        let model = self.sessions[client].as_mut().unwrap();
        while let Some(flight) = model.flights.get(model.seen) {
            model.seen += 1;
            let next = session.next(&limits, now).map(seen);
            assert_eq!(next, Some((flight.id, true, flight.sent.clone())));
        }
        for sent in std::mem::take(&mut model.queue) {
            let (id, duplicate, got) = session.next(&limits, now).map(seen).expect("one more");
            assert_eq!((got.as_ref(), duplicate), (Some(&sent), false));
            assert_eq!(id == 0, sent.qos == QoS::AtMostOnce);
            if id > 0 {
                let is_free = model.flights.iter().all(|flight| flight.id != id);
                assert!(is_free, "identifier {id} is in use");
                let sent = Some(sent);
                model.flights.push(Flight { id, sent });
                model.seen += 1;
            }
        }
        assert_eq!(session.next(&limits, now), None);
    }

    fn acknowledge(&mut self, client: usize, half: bool) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let session = self.broker.session(key, &link).expect("it is connected");
        let model = self.sessions[client].as_mut().unwrap();
        let rest = model.flights.split_off(model.seen);
        for mut flight in std::mem::take(&mut model.flights) {
            let qos = flight.sent.as_ref().map(|sent| sent.qos);
            if qos == Some(QoS::AtLeastOnce) {
                session.puback(flight.id);
                continue;
            }
            assert!(session.pubrec(flight.id));
            flight.sent = None;
            if half {
                model.flights.push(flight);
            } else {
                session.pubcomp(flight.id);
            }
        }
        model.seen = model.flights.len();
        model.flights.extend(rest);
    }

    /// What must be true after each step.
    fn check(&self) {
        let models = || self.sessions.iter().flatten();
        assert_eq!(self.broker.sessions.len(), models().count());
        assert_eq!(self.broker.by_client_id.len(), models().count());
        let absent = models().filter(|session| !session.connected).count();
        assert_eq!(self.broker.absent.len(), absent);
        let waiting = models().flat_map(|session| &session.queue);
        let read = models().flat_map(|session| &session.flights);
        let kept = waiting.chain(read.filter_map(|flight| flight.sent.as_ref()));
        let bytes: usize = kept.map(Sent::cost_bytes).sum();
        assert_eq!(self.broker.memory.of_sessions_bytes(), bytes);
        assert_eq!(self.broker.retained.len(), self.retained.len());
        let mut matched = Vec::new();
        for topic in TOPICS {
            self.broker.subscriptions.matching(topic, &mut matched);
            let expected = models().flat_map(|session| {
                let own = session.subscriptions.iter();
                own.filter(|(filter, _)| is_match(filter, topic))
                    .map(|_| session.key)
            });
            let mut expected: Vec<SessionKey> = expected.collect();
            expected.sort_unstable();
            let found: Vec<SessionKey> = matched.iter().map(|(key, _)| *key).collect();
            assert_eq!(found, expected, "{topic}");
        }
    }
}

/// What a client sees: identifier, DUP or PUBREL, and the message of a PUBLISH.
fn seen(outgoing: Outgoing) -> (u16, bool, Option<Sent>) {
    match outgoing {
        Outgoing::Publish {
            delivery,
            id,
            duplicate,
        } => {
            let (topic, payload) = delivery.publication.parts();
            let topic = TOPICS.iter().find(|one| one.as_bytes() == topic).unwrap();
            let mut ids = delivery.subscription_ids.to_vec();
            ids.sort_unstable();
            let sent = Sent {
                topic,
                payload: payload.to_vec(),
                qos: delivery.qos,
                retain: delivery.retain,
                ids,
            };
            (id, duplicate, Some(sent))
        }
        Outgoing::PubRel(id) => (id, true, None),
        Outgoing::Expired => panic!("nothing expires here"),
    }
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3_u8).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let subscription = (qos(), any::<bool>(), any::<bool>(), 0..4_u32).prop_map(
        |(qos, no_local, retain_as_published, id)| Subscription {
            qos,
            no_local,
            retain_as_published,
            id,
        },
    );
    let retained = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::Withhold)
    ];
    prop_oneof![
        3 => (client(), prop::bool::weighted(0.2), 0..EXPIRIES_S.len())
            .prop_map(|(client, clean, expiry)| Step::Connect { client, clean, expiry }),
        1 => client().prop_map(Step::Leave),
        4 => (client(), 0..FILTERS.len(), subscription, retained).prop_map(
            |(client, filter, subscription, retained)| Step::Subscribe {
                client, filter, subscription, retained
            }
        ),
        1 => (client(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        8 => (client(), 0..TOPICS.len(), qos(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(client, topic, qos, retain, empty)| Step::Publish { client, topic, qos, retain, empty }
        ),
        3 => client().prop_map(Step::Read),
        2 => (client(), any::<bool>())
            .prop_map(|(client, half)| Step::Acknowledge { client, half }),
        1 => (1..8_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(8),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_broker_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for (client, expiry_s) in EXPIRIES_S.into_iter().enumerate() {
            run.connect(client, true, expiry_s);
        }
        for step in &steps {
            run.step(step);
        }
        for client in 0..CLIENTS.len() {
            run.read(client);
        }
    }
}
