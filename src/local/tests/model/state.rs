//! The model: flat lists, and topics matched level by level as the standard words it (4.7).
//!
//! Where the standard leaves a choice, whose turn it is in a group, the model is told how to choose.

use std::collections::BTreeMap;

use super::{QoS, RetainHandling, SESSION_FOR_EVER, SessionKey, Subscription};

pub(super) const CLIENTS: [&str; 3] = ["one", "two", "three"];
/// Bytes of one session: a dozen messages.
pub(super) const SESSION_BYTES_MAX: usize = 1_200;
pub(super) const SESSIONS_MAX: usize = 2;
pub(super) const INFLIGHT_MAX: usize = 6;
pub(super) const RETAINED_MAX: usize = 4;

/// A message as a client is to get it, or as it is retained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) topic: &'static str,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: Vec<u32>,
    pub(super) expires_s: Option<u64>,
}

impl Sent {
    pub(super) fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + 96 + self.ids.len() * 4
    }

    /// The same for a subscription.
    fn with(&self, qos: QoS, retain: bool, mut ids: Vec<u32>) -> Self {
        ids.retain(|id| *id > 0);
        ids.sort_unstable();
        Sent {
            qos: qos.min(self.qos),
            retain,
            ids,
            ..self.clone()
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Will {
    pub(super) message: Sent,
    pub(super) delay_s: u32,
}

/// A message that was read; `None` when only its PUBCOMP is missing.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) id: u16,
    pub(super) sent: Option<Sent>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    pub(super) connected: bool,
    pub(super) expiry_s: u32,
    pub(super) receive_max: usize,
    ends_s: Option<u64>,
    /// While the client is away: when it is published.
    will: Option<(u64, Will)>,
    pub(super) subscriptions: Vec<(&'static str, Subscription)>,
    pub(super) queue: Vec<Sent>,
    pub(super) flights: Vec<Flight>,
    /// How many of `flights` this connection has seen.
    pub(super) seen: usize,
}

/// What a read brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// What was in flight before this connection: the one at this place.
    Again(usize),
    New,
    Expired,
    Nothing,
}

impl Session {
    pub(super) fn new(key: SessionKey) -> Self {
        Session {
            key,
            ..Session::default()
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let flights = self
            .flights
            .iter()
            .filter_map(|flight| flight.sent.as_ref());
        let kept = self.queue.iter().chain(flights);
        kept.map(Sent::cost_bytes).sum()
    }

    /// What the client reads next.
    pub(super) fn next(&self, now_s: u64) -> Next {
        let max = self.receive_max.min(INFLIGHT_MAX);
        if let Some(flight) = self.flights.get(self.seen) {
            let must_wait = flight.sent.is_some() && self.seen >= max;
            return if must_wait {
                Next::Nothing
            } else {
                Next::Again(self.seen)
            };
        }
        match self.queue.first() {
            None => Next::Nothing,
            Some(sent) if sent.qos > QoS::AtMostOnce && self.flights.len() >= max => Next::Nothing,
            Some(sent) if sent.expires_s.is_some_and(|at_s| at_s <= now_s) => Next::Expired,
            Some(_) => Next::New,
        }
    }
}

/// What is dropped is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) slow: u64,
    pub(super) full: u64,
    pub(super) retained: u64,
    pub(super) sessions: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) now_s: u64,
    pub(super) sessions: [Option<Session>; CLIENTS.len()],
    /// Clients that are away, the one that left first at the front.
    pub(super) absent: Vec<usize>,
    /// The groups that share a subscription, with their keys.
    pub(super) groups: BTreeMap<&'static str, SessionKey>,
    pub(super) retained: BTreeMap<&'static str, Sent>,
    pub(super) dropped: Dropped,
    /// Wills to be published.
    pub(super) due: Vec<Will>,
}

/// Where a message goes: to a session, or to one of a group.
enum Target {
    Session(usize, Sent),
    Group(&'static str),
}

impl Model {
    /// Whether the client's session goes on. What there was of another one ends.
    pub(super) fn connect(&mut self, client: usize, clean: bool) -> bool {
        let kept = self.sessions[client].as_ref();
        let goes_on = kept.is_some_and(|kept| !clean && kept.expiry_s > 0);
        self.absent.retain(|absent| *absent != client);
        match &mut self.sessions[client] {
            Some(session) if goes_on => {
                (session.will, session.ends_s, session.seen) = (None, None, 0);
            }
            _ => self.discard(client),
        }
        goes_on
    }

    /// The connection has ended, with this will if it was not in order.
    pub(super) fn leave(&mut self, client: usize, will: Option<Will>) {
        let now_s = self.now_s;
        let session = self.sessions[client].as_mut().expect("it is connected");
        session.connected = false;
        if session.expiry_s == 0 {
            self.discard(client);
            self.due.extend(will);
            return;
        }
        session.queue.retain(|sent| sent.qos > QoS::AtMostOnce);
        let expiry_s = session.expiry_s;
        let ends = expiry_s < SESSION_FOR_EVER;
        session.ends_s = ends.then(|| now_s + u64::from(expiry_s));
        match will {
            Some(will) if will.delay_s > 0 => {
                let delay_s = will.delay_s.min(expiry_s);
                session.will = Some((now_s + u64::from(delay_s), will));
            }
            will => self.due.extend(will),
        }
        self.absent.push(client);
        if self.absent.len() > SESSIONS_MAX {
            self.discard(self.absent[0]);
            self.dropped.sessions += 1;
        }
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now_s += seconds;
        let now_s = self.now_s;
        for client in 0..CLIENTS.len() {
            let Some(session) = &mut self.sessions[client] else {
                continue;
            };
            if session.ends_s.is_some_and(|ends_s| ends_s <= now_s) {
                self.discard(client);
            } else if let Some((_, will)) = session.will.take_if(|(due_s, _)| *due_s <= now_s) {
                self.due.push(will);
            }
        }
    }

    /// The session ends, and what belongs to it. Its will is due.
    fn discard(&mut self, client: usize) {
        if let Some(session) = self.sessions[client].take() {
            self.due.extend(session.will.map(|(_, will)| will));
        }
        self.absent.retain(|absent| *absent != client);
        self.forget_groups();
    }

    fn forget_groups(&mut self) {
        let sessions = self.sessions.iter().flatten();
        let all: Vec<&str> = sessions
            .flat_map(|session| session.subscriptions.iter().map(|(path, _)| *path))
            .collect();
        self.groups.retain(|path, _| all.contains(path));
    }

    /// `fresh` is the key of a new group.
    pub(super) fn subscribe(
        &mut self,
        client: usize,
        (path, subscription): (&'static str, Subscription),
        retained: RetainHandling,
        fresh: SessionKey,
    ) {
        let session = self.sessions[client].as_mut().expect("it is connected");
        let before = session.subscriptions.len();
        session.subscriptions.retain(|(own, _)| *own != path);
        let is_new = session.subscriptions.len() == before;
        session.subscriptions.push((path, subscription));
        if is_shared(path) {
            self.groups.entry(path).or_insert(fresh);
            return;
        }
        let wants = match retained {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::Withhold => false,
        };
        for (topic, message) in self.retained.clone() {
            let has_expired = message.expires_s.is_some_and(|at_s| at_s <= self.now_s);
            if wants && is_match(path, topic) && !has_expired {
                let ids = vec![subscription.id];
                let offer = self.offer(client, message.with(subscription.qos, true, ids));
                self.count(offer);
            }
        }
    }

    /// Whether there was such a subscription.
    pub(super) fn unsubscribe(&mut self, client: usize, path: &'static str) -> bool {
        let session = self.sessions[client].as_mut().expect("it is connected");
        let before = session.subscriptions.len();
        session.subscriptions.retain(|(own, _)| *own != path);
        let was_there = session.subscriptions.len() < before;
        self.forget_groups();
        was_there
    }

    pub(super) fn retain(&mut self, message: &Sent) {
        if message.payload.is_empty() {
            self.retained.remove(message.topic);
            return;
        }
        self.retained.remove(message.topic);
        if self.retained.len() >= RETAINED_MAX {
            let now_s = self.now_s;
            (self.retained).retain(|_, kept| kept.expires_s.is_none_or(|at_s| at_s > now_s));
        }
        if self.retained.len() >= RETAINED_MAX {
            self.dropped.retained += 1;
        } else {
            self.retained.insert(message.topic, message.clone());
        }
    }

    /// Hands a message out. `turns` says for each group which of its members comes first. Returns whether anybody
    /// wants it.
    pub(super) fn publish(&mut self, message: &Sent, from: Option<usize>, turns: &[usize]) -> bool {
        let mut targets = Vec::new();
        for (client, session) in self.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            let own = session.subscriptions.iter().filter(|(filter, one)| {
                let is_own = one.no_local && from == Some(client);
                !is_shared(filter) && is_match(filter, message.topic) && !is_own
            });
            let own: Vec<Subscription> = own.map(|(_, one)| *one).collect();
            if let Some(qos) = own.iter().map(|one| one.qos).max() {
                let retain = message.retain && own.iter().any(|one| one.retain_as_published);
                let ids = own.iter().map(|one| one.id).collect();
                let sent = message.with(qos, retain, ids);
                targets.push((session.key, Target::Session(client, sent)));
            }
        }
        for (path, key) in &self.groups {
            if is_match(path, message.topic) {
                targets.push((*key, Target::Group(path)));
            }
        }
        targets.sort_by_key(|(key, _)| *key);
        let mut turns = turns.iter();
        let anyone = !targets.is_empty();
        for (_, target) in targets {
            match target {
                Target::Session(client, sent) => {
                    let offer = self.offer(client, sent);
                    self.count(offer);
                }
                Target::Group(path) => {
                    self.offer_to_group(path, message, *turns.next().expect("one a group"));
                }
            }
        }
        anyone
    }

    /// One member takes it, if any can; those that are there come before those that are away.
    fn offer_to_group(&mut self, path: &str, message: &Sent, turn: usize) {
        let mut first_refusal = None;
        for connected in [true, false] {
            for step in 0..CLIENTS.len() {
                let client = (turn + step) % CLIENTS.len();
                let session = self.sessions[client].as_ref();
                let Some(session) = session.filter(|one| one.connected == connected) else {
                    continue;
                };
                let mut subscriptions = session.subscriptions.iter();
                let Some((_, one)) = subscriptions.find(|(own, _)| *own == path) else {
                    continue;
                };
                let retain = message.retain && one.retain_as_published;
                let sent = message.with(one.qos, retain, vec![one.id]);
                let offer = self.offer(client, sent);
                if offer == Offer::Taken {
                    return;
                }
                first_refusal.get_or_insert(offer);
            }
        }
        self.count(first_refusal.expect("a group has members"));
    }

    fn offer(&mut self, client: usize, sent: Sent) -> Offer {
        let session = self.sessions[client].as_mut().expect("it is there");
        if !session.connected && sent.qos == QoS::AtMostOnce {
            return Offer::NobodyThere;
        }
        if session.bytes() + sent.cost_bytes() > SESSION_BYTES_MAX {
            return Offer::Full(sent.qos);
        }
        session.queue.push(sent);
        Offer::Taken
    }

    fn count(&mut self, offer: Offer) {
        match offer {
            Offer::Taken | Offer::NobodyThere => {}
            Offer::Full(QoS::AtMostOnce) => self.dropped.slow += 1,
            Offer::Full(_) => self.dropped.full += 1,
        }
    }

    /// The keys under which subscriptions match a topic.
    pub(super) fn matching(&self, topic: &str) -> Vec<SessionKey> {
        let mut keys = Vec::new();
        for session in self.sessions.iter().flatten() {
            let own = session.subscriptions.iter();
            let own = own.filter(|(path, _)| !is_shared(path) && is_match(path, topic));
            keys.extend(own.map(|_| session.key));
        }
        let groups = self.groups.iter().filter(|(path, _)| is_match(path, topic));
        keys.extend(groups.map(|(_, key)| *key));
        keys.sort_unstable();
        keys
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    Taken,
    NobodyThere,
    Full(QoS),
}

fn is_shared(path: &str) -> bool {
    path.starts_with("$share/")
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

fn is_match(path: &str, name: &str) -> bool {
    let mut filter: Vec<&str> = path.split('/').collect();
    if is_shared(path) {
        filter.drain(..2);
    }
    let name: Vec<&str> = name.split('/').collect();
    // 4.7.2: no wildcard at the beginning matches a topic that begins with $.
    let is_reserved = name[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !is_reserved && matches(&filter, &name)
}
