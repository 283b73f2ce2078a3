//! What a session has in the journal, and what a restart brings back of it.

use super::{Flight, Session, Stage, Taken, Waiting};
use crate::local::acks::Awaits;
use crate::local::journal::{Change, KeptSession, Recorder, Whereabouts};
use crate::local::limits::Limits;
use crate::local::memory::Memory;
use crate::local::subscriptions::SessionKey;
use crate::spool::Seq;

impl Session {
    /// A session that a restart has brought back, with its queue. To a client that was connected, anything may have been
    /// sent before, for the journal hears of that later (MQTT-3.3.1-1); the first messages count as sent.
    pub(in crate::local) fn restored(kept: KeptSession, memory: Memory, limits: &Limits) -> Self {
        let mut session = Session::new(&kept.client_id, memory);
        session.expiry_s = kept.expiry_s;
        session.filters = kept.filters.into_iter().map(|(path, _)| path).collect();
        for id in kept.taken {
            let taken = Taken {
                awaits: Awaits::default(),
                is_kept: true,
            };
            session.remember(id, taken);
        }
        let was_connected = kept.client == Whereabouts::Connected;
        for (position, message) in kept.messages.into_iter().enumerate() {
            let id = message.id;
            session.last_id = id;
            let Some(mut delivery) = message.delivery else {
                let stage = Stage::Released(None);
                session.inflight.push_back(Flight { id, stage });
                continue;
            };
            delivery.publication = delivery.publication.counted(&session.memory);
            session.charge(&delivery);
            if message.sent || (was_connected && position < limits.inflight_max) {
                let stage = Stage::Sent(delivery);
                session.inflight.push_back(Flight { id, stage });
            } else {
                session.queue.push_back(Waiting {
                    id,
                    delivery,
                    awaits: None,
                    duplicate: was_connected,
                });
            }
        }
        session
    }

    /// From now on what must survive a restart is recorded under this key.
    pub(in crate::local) fn keep(&mut self, key: SessionKey, recorder: &Recorder) {
        self.journal = recorder.is_on().then(|| (key, recorder.clone()));
    }

    /// From now on the session ends with the connection.
    pub(in crate::local) fn keep_no_more(&mut self) {
        self.note(Change::Ended);
        self.journal = None;
    }

    /// Records a change of this session, if it is kept. Returns its number, if it has one to wait for.
    pub(in crate::local) fn note(&self, change: impl FnOnce(SessionKey) -> Change) -> Option<Seq> {
        let (key, recorder) = self.journal.as_ref()?;
        recorder.record(change(*key))
    }

    /// The messages of the session as changes that lead to them; none if it is not kept.
    pub(in crate::local) fn snapshot(&self, changes: &mut Vec<Change>) {
        let Some((key, _)) = self.journal else { return };
        for flight in &self.inflight {
            match &flight.stage {
                Stage::Sent(delivery) => {
                    changes.push(Change::Queued(key, flight.id, delivery.clone()));
                    changes.push(Change::Sent(key, flight.id));
                }
                Stage::Released(_) => changes.push(Change::Released(key, flight.id)),
            }
        }
        let waiting = self.queue.iter().filter(|waiting| waiting.id > 0);
        for one in waiting {
            changes.push(Change::Queued(key, one.id, one.delivery.clone()));
            if one.duplicate {
                changes.push(Change::Sent(key, one.id));
            }
        }
        let taken = self.taken.iter().filter(|(_, taken)| taken.is_kept);
        changes.extend(taken.map(|(id, _)| Change::Taken(key, *id)));
    }

    /// Whether the session is in the journal.
    pub(in crate::local) fn is_kept(&self) -> bool {
        self.journal.is_some()
    }
}
