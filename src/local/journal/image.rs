//! The state that a journal describes. Pure.
//!
//! Invariant: whatever the bytes, there is an image. What is damaged is skipped and counted; changes that have lost
//! what they refer to change nothing. A message of `QoS` 2 that was not taken to the end, or of which a part may be missing, was
//! not taken at all: its client sends it again if it has no answer.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::change::{Change, Clocks, VERSION};
use crate::local::publication::{Delivery, Publication, QoS, Subscription};
use crate::local::subscriptions::SessionKey;
use crate::spool::record::{self, Decoded};

/// A session as it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::local) struct KeptSession {
    pub(in crate::local) client_id: String,
    pub(in crate::local) expiry_s: u32,
    pub(in crate::local) client: Whereabouts,
    pub(in crate::local) filters: Vec<(String, Subscription)>,
    /// In the order in which they were queued.
    pub(in crate::local) messages: Vec<KeptMessage>,
    pub(in crate::local) taken: BTreeSet<u16>,
}

/// Where the client of a session was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::local) enum Whereabouts {
    Connected,
    /// It had left; when the session ends, if ever.
    Left(Option<Instant>),
}

/// A message for the client that it has not acknowledged to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::local) struct KeptMessage {
    pub(in crate::local) id: u16,
    /// `None` when PUBREC has come: PUBREL is to be sent.
    pub(in crate::local) delivery: Option<Delivery>,
    pub(in crate::local) sent: bool,
}

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::local) struct Image {
    pub(in crate::local) sessions: BTreeMap<SessionKey, KeptSession>,
    /// The retained messages, by topic.
    pub(in crate::local) retained: BTreeMap<String, (Publication, QoS)>,
    /// What the message leads to that is being taken, if one is.
    pub(super) taking: Option<Vec<Change>>,
    /// Something is missing of what was taken last: power that goes during a write may spare what comes later in it.
    in_doubt: bool,
    /// Places where something is missing, other than at the end.
    pub(in crate::local) damaged: u64,
    /// Bytes at the end that are no record.
    pub(in crate::local) torn_bytes: usize,
    /// The version, if it is none that this program knows; then there is nothing else.
    pub(in crate::local) unknown_version: Option<u8>,
}

impl Image {
    /// Reads a journal.
    pub(in crate::local) fn replay(bytes: &[u8], clocks: &Clocks) -> Self {
        let mut image = Image::default();
        let (mut at, mut salt) = (0, None);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Decoded::Record { record, len } = record::decode(rest) {
                match Change::decode(&record, clocks) {
                    Some(Change::Version(version)) if version != VERSION => {
                        return Image {
                            unknown_version: Some(version),
                            ..Image::default()
                        };
                    }
                    Some(change) => image.apply(change),
                    None => image.note_damage(),
                }
                salt = salt.or(record.salt);
                at += len;
            } else if let Some(next) = record::find_next(bytes, at + 1, salt) {
                image.note_damage();
                at = next;
            } else {
                image.torn_bytes = rest.len();
                // A journal takes its place when it is whole: it has a first record.
                image.damaged += u64::from(at == 0);
                break;
            }
        }
        image.taking = None;
        image.in_doubt = false;
        image
    }

    fn note_damage(&mut self) {
        self.damaged += 1;
        self.in_doubt = true;
    }

    /// One change further.
    pub(in crate::local) fn apply(&mut self, change: Change) {
        match (&mut self.taking, change) {
            (
                Some(taking),
                change @ (Change::Queued(..) | Change::Retained(..) | Change::Cleared(_)),
            ) => taking.push(change),
            (_, Change::Taking(_)) => {
                self.in_doubt = false;
                self.apply_taking();
                self.taking = Some(Vec::new());
            }
            (_, Change::Taken(..)) if self.in_doubt => self.apply_taking(),
            (_, change) => {
                self.apply_taking();
                self.apply_one(change);
            }
        }
    }

    /// The message that is being taken is, as far as one can see.
    fn apply_taking(&mut self) {
        for change in self.taking.take().into_iter().flatten() {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: Change) {
        let (key, change) = match change {
            Change::Version(_) | Change::Taking(_) => return,
            Change::Opened(key, client_id, expiry_s) => {
                self.sessions
                    .retain(|_, other| other.client_id != client_id);
                let session = KeptSession {
                    client_id,
                    expiry_s,
                    client: Whereabouts::Connected,
                    filters: Vec::new(),
                    messages: Vec::new(),
                    taken: BTreeSet::new(),
                };
                self.sessions.insert(key, session);
                return;
            }
            Change::Ended(key) => {
                self.sessions.remove(&key);
                return;
            }
            Change::Retained(publication, qos) => {
                let topic = publication.topic().to_owned();
                self.retained.insert(topic, (publication, qos));
                return;
            }
            Change::Cleared(topic) => {
                self.retained.remove(&topic);
                return;
            }
            Change::Returned(key, _)
            | Change::Left(key, ..)
            | Change::Subscribed(key, ..)
            | Change::Unsubscribed(key, _)
            | Change::Queued(key, ..)
            | Change::Sent(key, _)
            | Change::Released(key, _)
            | Change::Settled(key, _)
            | Change::Taken(key, _)
            | Change::Finished(key, _) => (key, change),
        };
        if let Some(session) = self.sessions.get_mut(&key) {
            session.apply(change);
        }
    }
}

impl KeptSession {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Returned(_, expiry_s) => {
                self.expiry_s = expiry_s;
                self.client = Whereabouts::Connected;
            }
            Change::Left(_, expiry_s, ends) => {
                self.expiry_s = expiry_s;
                self.client = Whereabouts::Left(ends);
            }
            Change::Subscribed(_, path, subscription) => {
                match self.filters.iter_mut().find(|(own, _)| *own == path) {
                    Some(found) => found.1 = subscription,
                    None => self.filters.push((path, subscription)),
                }
            }
            Change::Unsubscribed(_, path) => self.filters.retain(|(own, _)| *own != path),
            Change::Queued(_, id, delivery) => {
                self.messages.retain(|message| message.id != id);
                self.messages.push(KeptMessage {
                    id,
                    delivery: Some(delivery),
                    sent: false,
                });
            }
            Change::Sent(_, id) => {
                if let Some(message) = self.message(id) {
                    message.sent = true;
                }
            }
            Change::Released(_, id) => {
                if let Some(message) = self.message(id) {
                    message.delivery = None;
                } else {
                    // A snapshot tells no more of it than this.
                    self.messages.push(KeptMessage {
                        id,
                        delivery: None,
                        sent: true,
                    });
                }
            }
            Change::Settled(_, id) => self.messages.retain(|message| message.id != id),
            Change::Taken(_, id) => {
                self.taken.insert(id);
            }
            Change::Finished(_, id) => {
                self.taken.remove(&id);
            }
            _ => {}
        }
    }

    fn message(&mut self, id: u16) -> Option<&mut KeptMessage> {
        self.messages.iter_mut().find(|message| message.id == id)
    }
}
