//! One change of the broker's state, and its bytes on disk. Pure.
//!
//! Each is the payload of a record of the spool's format, whose time of arrival says when it was written: expiries are
//! kept as what was left of them then. If the clock was not set at either end, the time between does not count.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::local::publication::{Delivery, Publication, QoS, Subscription};
use crate::local::subscriptions::SessionKey;
use crate::spool::record::{self, Record, Salt};
use crate::spool::{Message, Seq};

/// The version of what follows; the first record of a journal says it.
pub(in crate::local) const VERSION: u8 = 1;

/// How long a change may wait to be synced whose loss would cost a repetition only.
pub(super) const REPETITION_PATIENCE: Duration = Duration::from_secs(1);
/// The same of a retained message of `QoS` 0: nobody was promised anything, and a value that changes each second costs a
/// sync in this time, not one each second. Flash is spared.
const UNPROMISED_PATIENCE: Duration = Duration::from_secs(5);

/// A packet identifier.
type Id = u16;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::local) enum Change {
    /// The first of a journal.
    Version(u8),
    /// A session begins.
    Opened(SessionKey, String, u32),
    /// Its client is back.
    Returned(SessionKey, u32),
    /// Its client has left; when the session ends, if ever.
    Left(SessionKey, u32, Option<Instant>),
    Ended(SessionKey),
    Subscribed(SessionKey, String, Subscription),
    Unsubscribed(SessionKey, String),
    /// A message for the client, under the identifier it will be sent with.
    Queued(SessionKey, Id, Delivery),
    /// It was sent: the next time it is a duplicate.
    Sent(SessionKey, Id),
    /// PUBREC came.
    Released(SessionKey, Id),
    /// The message has come to its end.
    Settled(SessionKey, Id),
    /// A message of `QoS` 2 from the client is being taken: what is queued and retained from here on counts only if
    /// [`Change::Taken`] follows.
    Taking(SessionKey),
    /// A message of `QoS` 2 from the client that is not released.
    Taken(SessionKey, Id),
    /// It is released.
    Finished(SessionKey, Id),
    /// A topic has this retained message, of this `QoS`.
    Retained(Publication, QoS),
    /// A topic has none any more.
    Cleared(String),
}

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::local) struct Clocks {
    pub(in crate::local) now: Instant,
    pub(in crate::local) wall: Timestamp,
}

impl Clocks {
    pub(in crate::local) fn read() -> Self {
        Clocks {
            now: Instant::now(),
            wall: crate::clock::now(),
        }
    }

    /// How long ago `then` was, as far as one can know.
    fn since(&self, then: Timestamp) -> Duration {
        if self.wall.clock_set && then.clock_set {
            Duration::from_millis(self.wall.unix_ms.saturating_sub(then.unix_ms))
        } else {
            Duration::ZERO
        }
    }
}

impl Change {
    /// How long it may wait to be synced.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Change::Sent(..) | Change::Settled(..) => REPETITION_PATIENCE,
            Change::Retained(_, QoS::AtMostOnce) => UNPROMISED_PATIENCE,
            _ => Duration::ZERO,
        }
    }

    /// What it costs to keep in memory until it is written, in bytes.
    pub(super) fn cost_bytes(&self) -> usize {
        let own = match self {
            Change::Queued(_, _, delivery) => delivery.cost_bytes(),
            Change::Retained(publication, _) => publication.cost_bytes(),
            Change::Opened(_, text, _)
            | Change::Subscribed(_, text, _)
            | Change::Unsubscribed(_, text)
            | Change::Cleared(text) => text.len(),
            _ => 0,
        };
        own + size_of::<Change>()
    }

    /// The record of this change, with the journal's `salt`; `None` if it is larger than a record can be.
    pub(super) fn encode(&self, number: Seq, clocks: &Clocks, salt: Salt) -> Option<Vec<u8>> {
        let payload = self.body(clocks.now);
        record::encode(
            number,
            &Message {
                topic: "",
                attributes: &[],
                payload: &payload,
                qos: 0,
                retain: false,
                received: clocks.wall,
            },
            Some(salt),
        )
    }

    /// Reads the change in a record; `None` if there is none that this version knows.
    pub(super) fn decode(record: &Record<'_>, clocks: &Clocks) -> Option<Self> {
        let mut reader = Reader {
            bytes: record.message.payload,
            elapsed: clocks.since(record.message.received),
            now: clocks.now,
        };
        reader.change()
    }

    fn body(&self, now: Instant) -> Vec<u8> {
        let mut w = Writer {
            bytes: Vec::new(),
            now,
        };
        match self {
            Change::Version(version) => w.put(&[0, *version]),
            Change::Opened(session, client_id, expiry_s) => {
                w.start(1, *session).put(&expiry_s.to_le_bytes());
                w.put(client_id.as_bytes());
            }
            Change::Returned(session, expiry_s) => {
                w.start(2, *session).put(&expiry_s.to_le_bytes());
            }
            Change::Left(session, expiry_s, ends) => {
                w.start(3, *session).put(&expiry_s.to_le_bytes());
                w.deadline(*ends);
            }
            Change::Ended(session) => {
                w.start(4, *session);
            }
            Change::Subscribed(session, path, subscription) => {
                w.start(5, *session).put(&[
                    subscription.qos as u8,
                    subscription.no_local.into(),
                    subscription.retain_as_published.into(),
                ]);
                w.put(&subscription.id.to_le_bytes());
                w.put(path.as_bytes());
            }
            Change::Unsubscribed(session, path) => w.start(6, *session).put(path.as_bytes()),
            Change::Queued(session, id, delivery) => {
                w.start(7, *session).put(&id.to_le_bytes());
                w.put(&[delivery.qos as u8, delivery.retain.into()]);
                w.length(delivery.subscription_ids.len());
                for id in &delivery.subscription_ids {
                    w.put(&id.to_le_bytes());
                }
                w.publication(&delivery.publication);
            }
            Change::Sent(session, id) => w.start(8, *session).put(&id.to_le_bytes()),
            Change::Released(session, id) => w.start(9, *session).put(&id.to_le_bytes()),
            Change::Settled(session, id) => w.start(10, *session).put(&id.to_le_bytes()),
            Change::Taken(session, id) => w.start(11, *session).put(&id.to_le_bytes()),
            Change::Finished(session, id) => w.start(12, *session).put(&id.to_le_bytes()),
            Change::Taking(session) => {
                w.start(13, *session);
            }
            Change::Retained(publication, qos) => {
                w.put(&[14, *qos as u8]);
                w.publication(publication);
            }
            Change::Cleared(topic) => {
                w.put(&[15]);
                w.put(topic.as_bytes());
            }
        }
        w.bytes
    }
}

struct Writer {
    bytes: Vec<u8>,
    now: Instant,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn start(&mut self, kind: u8, session: SessionKey) -> &mut Self {
        self.put(&[kind]);
        self.put(&session.to_le_bytes());
        self
    }

    fn length(&mut self, length: usize) {
        // Lengths are bounded by the packet they came in; a longer one would not fit into the record either.
        self.put(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// What is left until `deadline`, in milliseconds; the highest number if there is none.
    fn deadline(&mut self, deadline: Option<Instant>) {
        let left = deadline.map_or(u64::MAX, |at| {
            let left = at.saturating_duration_since(self.now).as_millis();
            u64::try_from(left).unwrap_or(u64::MAX - 1)
        });
        self.put(&left.to_le_bytes());
    }

    fn publication(&mut self, publication: &Publication) {
        self.deadline(publication.expires());
        let (topic, payload) = publication.parts();
        self.length(topic.len());
        self.length(publication.properties().len());
        self.put(topic);
        self.put(publication.properties());
        self.put(payload);
    }
}

/// When something ends, if ever.
struct Deadline(Option<Instant>);

struct Reader<'a> {
    bytes: &'a [u8],
    elapsed: Duration,
    now: Instant,
}

impl<'a> Reader<'a> {
    fn change(&mut self) -> Option<Change> {
        match self.byte()? {
            0 => Some(Change::Version(self.byte()?)),
            14 => {
                let qos = self.qos()?;
                Some(Change::Retained(self.publication()?, qos))
            }
            15 => Some(Change::Cleared(self.text()?)),
            kind => {
                let session = SessionKey::from_le_bytes(self.array()?);
                self.of_session(kind, session)
            }
        }
    }

    fn of_session(&mut self, kind: u8, session: SessionKey) -> Option<Change> {
        Some(match kind {
            1 => {
                let expiry_s = self.number()?;
                Change::Opened(session, self.text()?, expiry_s)
            }
            2 => Change::Returned(session, self.number()?),
            3 => Change::Left(session, self.number()?, self.deadline()?.0),
            4 => Change::Ended(session),
            5 => {
                let subscription = Subscription {
                    qos: self.qos()?,
                    no_local: self.byte()? != 0,
                    retain_as_published: self.byte()? != 0,
                    id: self.number()?,
                };
                Change::Subscribed(session, self.text()?, subscription)
            }
            6 => Change::Unsubscribed(session, self.text()?),
            7 => {
                let id = self.id()?;
                let (qos, retain) = (self.qos()?, self.byte()? != 0);
                let mut ids = Vec::new();
                for _ in 0..self.number()? {
                    ids.push(self.number()?);
                }
                let delivery = Delivery {
                    publication: self.publication()?,
                    qos,
                    retain,
                    subscription_ids: ids.into(),
                };
                Change::Queued(session, id, delivery)
            }
            8 => Change::Sent(session, self.id()?),
            9 => Change::Released(session, self.id()?),
            10 => Change::Settled(session, self.id()?),
            11 => Change::Taken(session, self.id()?),
            12 => Change::Finished(session, self.id()?),
            13 => Change::Taking(session),
            _ => return None,
        })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    /// 0 is no packet identifier.
    fn id(&mut self) -> Option<Id> {
        self.array().map(Id::from_le_bytes).filter(|id| *id > 0)
    }

    fn qos(&mut self) -> Option<QoS> {
        QoS::from_bits(self.byte()?)
    }

    /// Everything that is left.
    fn text(&mut self) -> Option<String> {
        let bytes = self.take(self.bytes.len())?;
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn deadline(&mut self) -> Option<Deadline> {
        let left = u64::from_le_bytes(self.array()?);
        if left == u64::MAX {
            return Some(Deadline(None));
        }
        let left = Duration::from_millis(left).saturating_sub(self.elapsed);
        let at = self.now.checked_add(left)?;
        Some(Deadline(Some(at)))
    }

    fn publication(&mut self) -> Option<Publication> {
        let Deadline(expires) = self.deadline()?;
        let (topic_len, properties_len) = (self.length()?, self.length()?);
        let bytes = self.take(self.bytes.len())?;
        let (topic, rest) = bytes.split_at_checked(topic_len)?;
        let (properties, payload) = rest.split_at_checked(properties_len)?;
        let topic = std::str::from_utf8(topic).ok()?;
        Some(Publication::restored(topic, properties, payload, expires))
    }
}
