//! One client that is connected: publishes in and acknowledgements out.
//!
//! Everything that one read brings is put into the books in one go before its acknowledgements are
//! written in one go: that is what makes the server fast, and an acknowledged message findable.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::acks::{Ack, AckQueue};
use super::books::Received;
use super::breach::{Breach, reason};
use super::connection::Line;
use super::faults::{Connections, Faults};
use super::rate::{ByteRate, PublishRate, Traffic};
use super::rules::{OverInFlight, Rules};
use super::wire::{
    Hello, Inbound, MqttVersion, Publication, Sent, Subscription, WireError, put_pingresp,
    put_pubcomp,
};

/// How long a closing connection may take to say so.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest packet that is read when no rule limits it, bytes (MQTT 3.1.1, section 2.2.3).
const ANY_PACKET_BYTES_MAX: usize = 268_435_460;
/// Room for header, topic and packet identifier beside the largest payload, bytes.
const PUBLISH_OVERHEAD_BYTES: usize = 5 + 2 + 65_535 + 2;
/// Topic filters in one SUBSCRIBE at most: AWS's quota.
const FILTERS_PER_SUBSCRIBE_MAX: usize = 8;
/// SUBACK: the filter is subscribed to at `QoS` 1.
const GRANTED_QOS_1: u8 = 1;
/// The far future, for timers that are off.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// Serves a client from its CONNACK to its end.
pub(super) async fn run(
    hub: &Hub,
    line: Line,
    faults: watch::Receiver<Faults>,
    hello: Hello,
    bell: Arc<Notify>,
) {
    let keep_alive = hub.rules.borrow().keep_alive(&hello);
    let client_id: Arc<str> = hello.client_id.as_str().into();
    let one_session = hub.rules.borrow().one_session_per_client_id;
    let place = hub.sessions.enter(Arc::clone(&client_id), one_session);
    hub.books.connect(line.version);
    let mut session = Session {
        bell,
        will: hello.will,
        hub,
        line,
        faults,
        client_id,
        topic: Arc::from(""),
        aliases: HashMap::new(),
        acks: AckQueue::default(),
        batch: Vec::new(),
        qos2_open: HashSet::new(),
        rate: PublishRate::default(),
        byte_rate: ByteRate::default(),
    };
    let end = session.run(keep_alive, &place.ended).await;
    // a taken-over session has already been told to the books by the one that came
    let taken_over = place.taken_over.is_cancelled();
    drop(place);
    if !matches!(end, End::Disconnected) {
        session.publish_will();
    }
    match end {
        End::Breach(breach) => session.close(breach).await,
        End::Told if taken_over => session.close(Breach::TakenOver).await,
        End::Kicked(Some(code)) => session.goodbye(code, "told to disconnect").await,
        End::Kicked(None) | End::Told | End::Client | End::Disconnected => {}
    }
}

/// How a session ended.
enum End {
    /// By a broken rule.
    Breach(Breach),
    /// By a stop or a take-over.
    Told,
    /// By a fault, with what DISCONNECT says.
    Kicked(Option<u8>),
    /// By the client or the network.
    Client,
    /// By the client's DISCONNECT.
    Disconnected,
}

/// What becomes of a publish.
enum Verdict {
    /// It is taken, with a reason below 0x80.
    Take(u8),
    /// It is not taken, and the acknowledgement says why.
    Refuse(u8),
    /// It is not taken, and nothing is said.
    Drop,
    /// The connection is closed.
    Close(Breach),
}

struct Session<'a> {
    hub: &'a Hub,
    /// Rings when there are messages for the client.
    bell: Arc<Notify>,
    will: Option<Publication>,
    line: Line,
    faults: watch::Receiver<Faults>,
    client_id: Arc<str>,
    /// The topic of the last publish, shared with the books: most clients use few.
    topic: Arc<str>,
    /// Topics by their aliases (MQTT 5); bounded by the highest alias.
    aliases: HashMap<u16, String>,
    acks: AckQueue,
    batch: Vec<Received>,
    /// Packet identifiers between PUBREC and PUBREL: a publish with one of these is a repetition.
    qos2_open: HashSet<u16>,
    rate: PublishRate,
    byte_rate: ByteRate,
}

impl Session<'_> {
    async fn run(&mut self, keep_alive: Duration, ended: &CancellationToken) -> End {
        let began = Instant::now();
        let mut heard = began;
        loop {
            let faults = self.faults.borrow_and_update().clone();
            let frozen = faults.connections == Connections::Freeze;
            let now = Instant::now();
            if !frozen {
                self.release_acks(now, &faults);
                if !self.line.write().await {
                    return End::Client;
                }
            }
            let never = now + NEVER;
            let paused_until = self.byte_rate.paused_until(now);
            let ack_due = self.acks.due(&faults).filter(|_| !frozen);
            let kick = faults.kick_every.map_or(never, |after| began + after);
            let silence = if keep_alive.is_zero() || frozen || paused_until.is_some() {
                never
            } else {
                heard + keep_alive * 3 / 2
            };
            tokio::select! {
                () = ended.cancelled() => return End::Told,
                () = sleep_until(kick) => return End::Kicked(faults.kick_reason),
                () = sleep_until(silence) => return End::Breach(Breach::KeepAlive),
                () = sleep_until(ack_due.unwrap_or(never)) => {}
                () = sleep_until(paused_until.unwrap_or(never)) => {
                    // what waited in the socket was sent in time
                    heard = Instant::now();
                }
                () = self.bell.notified(), if !frozen => self.send_letters(),
                changed = self.faults.changed() => if changed.is_err() { return End::Told },
                read = self.line.read(), if !frozen && paused_until.is_none() => {
                    heard = Instant::now();
                    let Some(bytes) = read else { return End::Client };
                    if let Some(end) = self.take_in(bytes, heard, &faults).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Hands the client's messages to the line, unwritten.
    fn send_letters(&mut self) {
        while let Some((packet_id, letter)) = self.hub.mailboxes.next(&self.client_id) {
            let sent = Sent {
                topic: &letter.topic,
                payload: &letter.payload,
                packet_id,
                dup: letter.dup,
            };
            self.line.version.publish(&sent, &mut self.line.out);
        }
    }

    fn publish_will(&mut self) {
        if let Some(will) = self.will.take() {
            self.write_down(will, Instant::now());
            self.hub.books.record(&mut self.batch);
        }
    }

    /// Closes the connection for a broken rule.
    async fn close(&mut self, breach: Breach) {
        self.hub.books.breach(breach);
        self.goodbye(breach.reason(), breach.text()).await;
    }

    /// Says why, where the protocol can, and closes.
    async fn goodbye(&mut self, code: u8, text: &str) {
        let Line { out, version, .. } = &mut self.line;
        version.disconnect(code, text, out);
        let closing = async {
            if self.line.write().await {
                // the client may be gone already
                self.line.stream.shutdown().await.ok();
            }
        };
        // nor need it take the trouble to read
        timeout(GOODBYE_TIMEOUT, closing).await.ok();
    }

    /// Hands the acknowledgements that are due to the line, unwritten.
    fn release_acks(&mut self, now: Instant, faults: &Faults) {
        let Line { out, version, .. } = &mut self.line;
        self.acks.release(now, faults, |ack| version.ack(ack, out));
    }

    /// Works through everything that was read.
    async fn take_in(&mut self, bytes: usize, now: Instant, faults: &Faults) -> Option<End> {
        let rules = Arc::clone(&self.hub.rules.borrow());
        self.byte_rate.read(bytes, rules.byte_rate_max, now);
        let (packet_bytes_max, too_large) = packet_limit(&rules, self.line.version);
        let mut traffic = Traffic::default();
        let end = loop {
            let before = self.line.inbox.len();
            let read = self
                .line
                .version
                .read(&mut self.line.inbox, packet_bytes_max);
            let end = match read {
                Ok(Some(packet)) => {
                    if matches!(packet, Inbound::Publish(_)) {
                        let bytes = before - self.line.inbox.len();
                        traffic.publishes += 1;
                        traffic.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
                    }
                    self.packet(packet, now, &rules, faults)
                }
                Ok(None) => break None,
                Err(WireError::TooLarge) => Some(End::Breach(too_large)),
                Err(WireError::Malformed) => Some(End::Breach(Breach::Malformed)),
            };
            if end.is_some() {
                break end;
            }
        };
        self.hub.books.traffic(now, traffic);
        self.hub.books.record(&mut self.batch);
        if end.is_some() {
            self.release_acks(now, faults);
            // the connection ends either way
            self.line.write().await;
        }
        end
    }

    fn packet(
        &mut self,
        packet: Inbound,
        now: Instant,
        rules: &Rules,
        faults: &Faults,
    ) -> Option<End> {
        let Line { out, version, .. } = &mut self.line;
        match packet {
            Inbound::Publish(publication) => return self.publish(publication, now, rules, faults),
            Inbound::Pubrel(packet_id) => {
                self.qos2_open.remove(&packet_id);
                put_pubcomp(packet_id, out);
            }
            Inbound::Ping if faults.no_pingresp => {}
            Inbound::Ping => put_pingresp(out),
            Inbound::Subscribe(subscription) => {
                return self.subscribe(subscription, rules).map(End::Breach);
            }
            Inbound::Unsubscribe(packet_id, filters) => version.unsuback(packet_id, filters, out),
            Inbound::Puback(packet_id) => {
                if !self.hub.mailboxes.acknowledge(&self.client_id, packet_id) {
                    return Some(End::Breach(Breach::Protocol));
                }
            }
            Inbound::Disconnect => return Some(End::Disconnected),
            Inbound::Connect(_) | Inbound::ServersOwn => {
                return Some(End::Breach(Breach::Protocol));
            }
        }
        None
    }

    fn subscribe(&mut self, subscription: Subscription, rules: &Rules) -> Option<Breach> {
        let Line { out, version, .. } = &mut self.line;
        if subscription.identified {
            return Some(Breach::SubscriptionIdentifier);
        }
        let filters = subscription.filters;
        if filters.len() > FILTERS_PER_SUBSCRIBE_MAX {
            return Some(Breach::Protocol);
        }
        let code = match (rules.refuse_subscribe, *version) {
            (true, MqttVersion::V3_1_1) => return Some(Breach::Subscribe),
            (true, MqttVersion::V5) => Breach::Subscribe.reason(),
            (false, _) => GRANTED_QOS_1,
        };
        version.suback(subscription.packet_id, filters.len(), code, out);
        if !rules.refuse_subscribe {
            self.hub.mailboxes.subscribe(&self.client_id, filters);
        }
        None
    }

    fn publish(
        &mut self,
        mut publication: Publication,
        now: Instant,
        rules: &Rules,
        faults: &Faults,
    ) -> Option<End> {
        if let Some(breach) = self.resolve_alias(&mut publication, rules) {
            return Some(End::Breach(breach));
        }
        let nth = self.hub.publishes.fetch_add(1, Ordering::Relaxed) + 1;
        let verdict = if hits(faults.lose_every_nth_publish, nth) {
            Verdict::Drop
        } else {
            self.verdict(&publication, now, rules, faults)
        };
        let (taken, code) = match verdict {
            Verdict::Close(breach) => return Some(End::Breach(breach)),
            Verdict::Refuse(code) if publication.qos > 0 => {
                self.hub.books.refuse_publish(code);
                (false, code)
            }
            // at QoS 0 there is nothing to say it with
            Verdict::Drop | Verdict::Refuse(_) => {
                self.hub.books.lost_publish();
                return None;
            }
            Verdict::Take(code) => (true, code),
        };
        let packet_id = publication.packet_id;
        let ack = match publication.qos {
            0 => None,
            1 => Some(Ack::Puback(packet_id, code)),
            _ => Some(Ack::Pubrec(packet_id, code)),
        };
        let repeated = taken && publication.qos == 2 && !self.qos2_open.insert(packet_id);
        if taken && !repeated {
            self.write_down(publication, now);
        }
        match ack {
            Some(_) if hits(faults.lose_every_nth_puback, nth) => self.hub.books.lost_puback(),
            Some(ack) => self.acks.push(now, ack),
            None => {}
        }
        None
    }

    /// Applies rules and faults to a publish whose topic is known.
    fn verdict(
        &mut self,
        publication: &Publication,
        now: Instant,
        rules: &Rules,
        faults: &Faults,
    ) -> Verdict {
        let version = self.line.version;
        let in_flight = self.acks.len();
        let full = rules.in_flight_max.is_some_and(|most| in_flight >= most);
        if publication.qos > 0 && full {
            return match rules.over_in_flight {
                OverInFlight::Disconnect => Verdict::Close(Breach::InFlightExceeded),
                OverInFlight::Ignore => Verdict::Drop,
            };
        }
        if let Some(breach) = rules.breach(publication) {
            return rules
                .puback_for(breach, version, publication.qos)
                .map_or(Verdict::Close(breach), Verdict::Refuse);
        }
        if self.rate.exceeded(rules.publish_rate_max, now) {
            return match version {
                MqttVersion::V3_1_1 => Verdict::Drop,
                MqttVersion::V5 => Verdict::Refuse(reason::QUOTA),
            };
        }
        if version == MqttVersion::V3_1_1 || publication.qos == 0 {
            return Verdict::Take(reason::SUCCESS);
        }
        let told = faults.puback_reason.as_ref();
        match told.and_then(super::faults::PubackReason::take) {
            Some(code) => Verdict::with_reason(code),
            None => Verdict::with_reason(rules.puback_reason(&publication.topic)),
        }
    }

    /// Puts the topic that an alias stands for in its place (MQTT 5, section 3.3.2.3.4).
    fn resolve_alias(&mut self, publication: &mut Publication, rules: &Rules) -> Option<Breach> {
        let properties = publication.properties.as_ref();
        let Some(alias) = properties.and_then(|properties| properties.topic_alias) else {
            let nameless = publication.topic.is_empty() && self.line.version == MqttVersion::V5;
            return nameless.then_some(Breach::Protocol);
        };
        if alias == 0 || alias > rules.topic_alias_max {
            return Some(Breach::TopicAlias);
        }
        if !publication.topic.is_empty() {
            self.aliases.insert(alias, publication.topic.clone());
            return None;
        }
        match self.aliases.get(&alias) {
            Some(topic) => {
                publication.topic.clone_from(topic);
                None
            }
            None => Some(Breach::Protocol),
        }
    }

    fn write_down(&mut self, publication: Publication, now: Instant) {
        if *self.topic != *publication.topic {
            self.topic = publication.topic.into();
        }
        self.batch.push(Received {
            order: 0,
            client_id: Arc::clone(&self.client_id),
            topic: Arc::clone(&self.topic),
            payload: publication.payload,
            qos: publication.qos,
            dup: publication.dup,
            retain: publication.retain,
            version: self.line.version,
            properties: publication.properties,
            at: now,
        });
    }
}

impl Verdict {
    fn with_reason(code: u8) -> Self {
        if code < reason::FAILURES {
            Verdict::Take(code)
        } else {
            Verdict::Refuse(code)
        }
    }
}

/// The largest packet that is read, bytes, and the rule that a larger one breaks.
fn packet_limit(rules: &Rules, version: MqttVersion) -> (usize, Breach) {
    match version {
        MqttVersion::V3_1_1 => {
            let with_topic = |payload| payload + PUBLISH_OVERHEAD_BYTES;
            let most = rules.payload_bytes_max.map(with_topic);
            let most = most.unwrap_or(ANY_PACKET_BYTES_MAX);
            (most, Breach::PayloadTooLarge)
        }
        MqttVersion::V5 => {
            let most = rules.packet_bytes_max.map(usize::try_from);
            let most = most.and_then(Result::ok).unwrap_or(ANY_PACKET_BYTES_MAX);
            (most, Breach::PacketTooLarge)
        }
    }
}

fn hits(every: Option<NonZeroU32>, nth: u64) -> bool {
    every.is_some_and(|every| nth.is_multiple_of(u64::from(every.get())))
}
