//! A run of the same steps on the broker and on the model, and whether they agree.

use std::collections::HashSet;

use super::state::{
    CLIENTS, Dropped, Flight, INFLIGHT_MAX, Model, Next, RETAINED_MAX, SESSION_BYTES_MAX,
    SESSIONS_MAX, Sent, Session, Will,
};
use super::*;

type RealWill = crate::local::packet::Will;

pub(super) struct Run {
    broker: Broker,
    links: [Option<Arc<Link>>; CLIENTS.len()],
    /// What the connections would publish at their ends.
    wills: [Option<Will>; CLIENTS.len()],
    began: Instant,
    model: Model,
    published: u32,
    keys: HashSet<SessionKey>,
    /// Wills that connections were given back to publish.
    given_back: Vec<RealWill>,
}

impl Run {
    pub(super) fn new() -> Self {
        let limits = Limits {
            inflight_max: INFLIGHT_MAX,
            session_bytes_max: SESSION_BYTES_MAX,
            sessions_max: SESSIONS_MAX,
            retained_messages_max: RETAINED_MAX,
            ..Limits::default()
        };
        Run {
            broker: Broker::new(limits, Arc::default()),
            links: [None, None, None],
            wills: [None, None, None],
            began: Instant::now(),
            model: Model::default(),
            published: 0,
            keys: HashSet::new(),
            given_back: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_secs(self.model.now_s)
    }

    /// The session of a client that is connected, and its link.
    fn connected(&self, client: usize) -> Option<(SessionKey, Arc<Link>)> {
        let session = self.model.sessions[client].as_ref()?;
        let link = self.links[client].clone()?;
        session.connected.then_some((session.key, link))
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Connect {
                client,
                clean,
                expiry,
                receive_max,
                will,
            } => {
                let will = will.map(|(message, delay)| Will {
                    message: self.message(message, None),
                    delay_s: DELAYS_S[delay],
                });
                let receive_max = RECEIVE_MAXIMA[receive_max];
                self.connect(client, clean, EXPIRIES_S[expiry], receive_max, will);
            }
            Step::Leave { client, in_order } => self.leave(client, in_order),
            Step::Subscribe {
                client,
                filter,
                subscription,
                retained,
            } => self.subscribe(client, FILTERS[filter], subscription, retained),
            Step::Unsubscribe { client, filter } => self.unsubscribe(client, FILTERS[filter]),
            Step::Publish {
                client,
                message,
                expiry,
            } => {
                let message = self.message(message, MESSAGE_EXPIRIES_S[expiry]);
                if self.connected(client).is_some() {
                    self.publish(Some(client), &message, MESSAGE_EXPIRIES_S[expiry]);
                }
            }
            Step::Read(client) => self.read(client),
            Step::Acknowledge { client, half } => self.acknowledge(client, half),
            Step::Wait(seconds) => {
                self.model.wait(seconds);
                let now = self.now();
                self.broker.expire(now);
            }
        }
        self.publish_wills();
        self.check();
    }

    fn message(&mut self, message: Message, expiry_s: Option<u32>) -> Sent {
        self.published += 1;
        let payload = if message.empty {
            Vec::new()
        } else {
            self.published.to_string().into_bytes()
        };
        Sent {
            topic: TOPICS[message.topic],
            payload,
            qos: message.qos,
            retain: message.retain,
            ids: Vec::new(),
            expires_s: expiry_s.map(|expiry_s| self.model.now_s + u64::from(expiry_s)),
        }
    }

    pub(super) fn connect(
        &mut self,
        client: usize,
        clean: bool,
        expiry_s: u32,
        receive_max: u16,
        will: Option<Will>,
    ) {
        let link = Arc::<Link>::default();
        let request = SessionRequest {
            client_id: CLIENTS[client],
            clean_start: clean,
            expiry_s,
            receive_max,
        };
        let now = self.now();
        let before = self.connected(client);
        let got = self.broker.connect(request, &link, now);
        let goes_on = self.model.connect(client, clean);
        assert_eq!(got.session_present, goes_on);
        self.links[client] = Some(link);
        let will_before = std::mem::replace(&mut self.wills[client], will);
        if let Some((key, link)) = before {
            assert!(link.is_taken_over());
            // Its connection sees that, and ends.
            let will = will_before.as_ref().map(real);
            let given_back = self.broker.disconnect(key, &link, will, now);
            self.given_back.extend(given_back);
            let is_due = |will: &Will| will.delay_s == 0 || !goes_on;
            self.model.due.extend(will_before.filter(is_due));
        }
        let session = self.model.sessions[client].get_or_insert_with(|| {
            assert!(self.keys.insert(got.session), "a key was used again");
            Session::new(got.session)
        });
        assert_eq!(got.session, session.key);
        (session.connected, session.expiry_s) = (true, expiry_s);
        session.receive_max = receive_max.into();
    }

    fn leave(&mut self, client: usize, in_order: bool) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let now = self.now();
        let will = self.wills[client].take().filter(|_| !in_order);
        let given_back = (self.broker).disconnect(key, &link, will.as_ref().map(real), now);
        self.given_back.extend(given_back);
        self.links[client] = None;
        self.model.leave(client, will);
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
        let (now, fresh) = (self.now(), self.broker.last_key + 1);
        let codes = self.broker.subscribe(key, &link, &[filter], now);
        assert_eq!(codes, [subscription.qos as u8]);
        self.model
            .subscribe(client, (path, subscription), retained, fresh);
    }

    fn unsubscribe(&mut self, client: usize, path: &'static str) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let codes = self.broker.unsubscribe(key, &link, &[path.to_owned()]);
        let expected = if self.model.unsubscribe(client, path) {
            Reason::Success
        } else {
            Reason::NoSubscriptionExisted
        };
        assert_eq!(codes, [expected.code()]);
    }

    /// Publishes for a client, or a will.
    fn publish(&mut self, client: Option<usize>, message: &Sent, expiry_s: Option<u32>) {
        let expiry = expiry_s.map(|expiry_s| [&[0x02], &expiry_s.to_be_bytes()[..]].concat());
        let expiry = expiry.unwrap_or_default();
        let publish = Publish {
            properties: Properties::checked(&expiry),
            ..Publish::plain(message.topic, &message.payload, message.qos, message.retain)
        };
        let key = client.and_then(|client| Some(self.connected(client)?.0));
        let now = self.now();
        let wanted = self.broker.publish(&publish, key, now);
        if message.topic.starts_with('$') {
            assert!(!wanted, "such topics belong to the server");
            return;
        }
        if message.retain {
            self.model.retain(message);
        }
        let outcomes = self.outcomes(client, message);
        let same = outcomes.into_iter().find(|(anyone, model)| {
            *anyone == wanted && self.waiting(model) && self.dropped() == model.dropped
        });
        let (_, model) = same.unwrap_or_else(|| {
            panic!(
                "none of the ways to hand out {message:?} is the broker's: {:?}",
                self.model
            )
        });
        self.model = model;
    }

    /// What can become of a message, as far as whose turn it is in each group leaves a choice.
    fn outcomes(&self, client: Option<usize>, message: &Sent) -> Vec<(bool, Model)> {
        let choices = CLIENTS
            .len()
            .pow(u32::try_from(self.model.groups.len()).unwrap());
        let outcomes = (0..choices).map(|choice| {
            let digits = std::iter::successors(Some(choice), |rest| Some(rest / CLIENTS.len()));
            let turns = digits.map(|digit| digit % CLIENTS.len());
            let turns: Vec<usize> = turns.take(self.model.groups.len()).collect();
            let mut model = self.model.clone();
            (model.publish(message, client, &turns), model)
        });
        outcomes.collect()
    }

    /// Whether the same waits in the broker's sessions.
    fn waiting(&self, model: &Model) -> bool {
        model.sessions.iter().flatten().all(|session| {
            let real = self.broker.sessions.get(&session.key);
            let real = real.expect("the session is there");
            let waiting = real.waiting().map(|delivery| self.sent(delivery));
            waiting.eq(session.queue.iter().cloned())
        })
    }

    fn dropped(&self) -> Dropped {
        let counters = &self.broker.counters;
        Dropped {
            slow: counters.dropped_slow_subscriber.get(),
            full: counters.dropped_session_full.get(),
            retained: counters.dropped_retained.get(),
            sessions: counters.sessions_discarded.get(),
        }
    }

    /// The wills that are due are the same, and are published.
    fn publish_wills(&mut self) {
        let taken = self.broker.take_wills().into_iter().map(|(_, will)| will);
        let given_back = std::mem::take(&mut self.given_back);
        let mut real: Vec<RealWill> = given_back.into_iter().chain(taken).collect();
        real.sort_by(|one, other| one.payload.cmp(&other.payload));
        let mut due = std::mem::take(&mut self.model.due);
        due.sort_by(|one, other| one.message.payload.cmp(&other.message.payload));
        let texts = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
        let real: Vec<String> = real.iter().map(|will| texts(&will.payload)).collect();
        let expected: Vec<String> = due
            .iter()
            .map(|will| texts(&will.message.payload))
            .collect();
        assert_eq!(real, expected, "wills");
        for will in due {
            self.publish(None, &will.message, None);
        }
    }

    /// The client reads all there is: what was in flight on its last connection first, then what is new.
    pub(super) fn read(&mut self, client: usize) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let (now, limits) = (self.now(), self.broker.limits.clone());
        loop {
            let session = self.broker.session(key, &link).expect("it is connected");
            let got = session.next(&limits, now);
            let now_s = self.model.now_s;
            let model = self.model.sessions[client].as_ref().unwrap();
            match (model.next(now_s), got) {
                (Next::Nothing, None) => return,
                (Next::Expired, Some(Outgoing::Expired)) => {
                    self.model_of(client).queue.remove(0);
                }
                (Next::Again(at), Some(got)) => {
                    let flight = &model.flights[at];
                    assert_eq!(self.seen(got), (flight.id, true, flight.sent.clone()));
                    self.model_of(client).seen += 1;
                }
                (Next::New, Some(got)) => {
                    let (id, duplicate, sent) = self.seen(got);
                    assert_eq!((sent.as_ref(), duplicate), (model.queue.first(), false));
                    let is_free = model.flights.iter().all(|flight| flight.id != id);
                    assert!(is_free, "identifier {id} is in use");
                    let model = self.model_of(client);
                    let sent = model.queue.remove(0);
                    assert_eq!(id == 0, sent.qos == QoS::AtMostOnce);
                    if id > 0 {
                        let sent = Some(sent);
                        model.flights.push(Flight { id, sent });
                        model.seen += 1;
                    }
                }
                (next, got) => panic!("{next:?} was to come, and {got:?} came"),
            }
        }
    }

    fn model_of(&mut self, client: usize) -> &mut Session {
        self.model.sessions[client].as_mut().expect("it is there")
    }

    fn acknowledge(&mut self, client: usize, half: bool) {
        let Some((key, link)) = self.connected(client) else {
            return;
        };
        let session = self.broker.session(key, &link).expect("it is connected");
        let model = self.model.sessions[client].as_mut().unwrap();
        let rest = model.flights.split_off(model.seen);
        for mut flight in std::mem::take(&mut model.flights) {
            let qos = flight.sent.as_ref().map(|sent| sent.qos);
            if qos == Some(QoS::AtLeastOnce) {
                session.puback(flight.id);
                continue;
            }
            assert!(session.pubrec(flight.id).is_some());
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
        let held = self.broker.audit();
        let models = || self.model.sessions.iter().flatten();
        assert_eq!(held.sessions, models().count());
        assert_eq!(held.absent, self.model.absent.len());
        assert_eq!(
            held.session_bytes,
            models().map(Session::bytes).sum::<usize>()
        );
        assert_eq!(held.retained, self.model.retained.len());
        assert_eq!(held.groups, self.model.groups.len());
        assert!(self.waiting(&self.model), "{:?}", self.model);
        assert_eq!(self.dropped(), self.model.dropped);
        let mut matched = Vec::new();
        for topic in TOPICS {
            self.broker.subscriptions.matching(topic, &mut matched);
            let found: Vec<SessionKey> = matched.iter().map(|(key, _)| *key).collect();
            assert_eq!(found, self.model.matching(topic), "{topic}");
        }
    }

    /// What a client sees: identifier, DUP or PUBREL, and the message of a PUBLISH.
    fn seen(&self, outgoing: Outgoing) -> (u16, bool, Option<Sent>) {
        match outgoing {
            Outgoing::Publish {
                delivery,
                id,
                duplicate,
            } => (id, duplicate, Some(self.sent(&delivery))),
            Outgoing::PubRel(id) => (id, true, None),
            Outgoing::Expired => panic!("it was not to expire"),
        }
    }

    fn sent(&self, delivery: &Delivery) -> Sent {
        let (topic, payload) = delivery.publication.parts();
        let topic = TOPICS.iter().find(|one| one.as_bytes() == topic).unwrap();
        let mut ids = delivery.subscription_ids.to_vec();
        ids.sort_unstable();
        let expires = delivery.publication.expires();
        Sent {
            topic,
            payload: payload.to_vec(),
            qos: delivery.qos,
            retain: delivery.retain,
            ids,
            expires_s: expires.map(|expires| (expires - self.began).as_secs()),
        }
    }
}

fn real(will: &Will) -> RealWill {
    let message = &will.message;
    RealWill {
        topic: message.topic.to_owned(),
        payload: message.payload.clone().into(),
        qos: message.qos,
        retain: message.retain,
        delay_s: will.delay_s,
        properties: bytes::Bytes::new(),
    }
}
