//! What the journal keeps of the broker's sessions and retained messages, and what of them a journal brings back. Pure.
//!
//! A delayed will is not kept: as a stop publishes no wills, a restart does not.

use std::time::Duration;

use tokio::time::Instant;

use super::Broker;
use crate::local::journal::{Change, Image, KeptSession, Recorder, Whereabouts};
use crate::local::packet::SESSION_FOR_EVER;
use crate::local::publication::Subscription;
use crate::local::session::Session;
use crate::local::shared::Path;
use crate::local::subscriptions::SessionKey;

impl Broker {
    /// Takes over what a journal has kept, into a broker that nobody has used, and records from now on. Nothing of the
    /// sessions is dropped for a limit's sake. Returns how many retained messages there was no room for.
    pub(in crate::local) fn restore(
        &mut self,
        image: Image,
        recorder: Recorder,
        now: Instant,
    ) -> u64 {
        self.retained.record(recorder.clone());
        self.recorder = recorder;
        for kept in image.sessions.into_values() {
            self.restore_session(kept, now);
        }
        let mut left_out = 0;
        for (publication, qos) in image.retained.into_values() {
            if !publication.has_expired(now) {
                let publication = publication.counted(&self.memory);
                let kept = self.retained.set(publication, qos, &self.limits, now);
                left_out += u64::from(kept.is_err());
            }
        }
        left_out
    }

    fn restore_session(&mut self, kept: KeptSession, now: Instant) {
        let key = self.new_key();
        let filters = kept.filters.clone();
        let after = |seconds: u32| now + Duration::from_secs(seconds.into());
        let ends = match kept.client {
            Whereabouts::Left(ends) => ends,
            Whereabouts::Connected => {
                (kept.expiry_s < SESSION_FOR_EVER).then(|| after(kept.expiry_s))
            }
        };
        let mut session = Session::restored(kept, self.memory.clone(), &self.limits);
        session.ends = ends;
        session.keep(key, &self.recorder);
        self.by_client_id.insert(session.client_id.clone(), key);
        self.sessions.insert(key, session);
        self.absent.push(key);
        for (path, subscription) in filters {
            self.restore_filter(key, &path, subscription, now);
        }
    }

    fn restore_filter(
        &mut self,
        key: SessionKey,
        path: &str,
        subscription: Subscription,
        now: Instant,
    ) {
        self.filter_bytes += path.len();
        let Some(Path { filter, is_shared }) = Path::new(path) else {
            return;
        };
        self.want_sys(filter, now);
        let subscriber = if is_shared {
            let fresh = self.new_key();
            self.groups.join(path, (key, subscription), fresh)
        } else {
            key
        };
        self.subscriptions.insert(filter, subscriber, subscription);
    }

    /// Everything that is to be kept, as changes that lead to it.
    pub(in crate::local) fn snapshot(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        // Those who are away longest first, as they are now; then those who are there.
        let there = self
            .sessions
            .keys()
            .filter(|key| !self.absent.contains(key));
        for key in self.absent.iter().chain(there) {
            if let Some(session) = self.sessions.get(key).filter(|one| one.is_kept()) {
                self.snapshot_of(*key, session, &mut changes);
            }
        }
        self.retained.snapshot(&mut changes);
        changes
    }

    fn snapshot_of(&self, key: SessionKey, session: &Session, changes: &mut Vec<Change>) {
        let expiry_s = session.expiry_s;
        changes.push(Change::Opened(key, session.client_id.clone(), expiry_s));
        if !session.is_connected() {
            changes.push(Change::Left(key, expiry_s, session.ends));
        }
        for path in &session.filters {
            if let Some(subscription) = self.subscription(key, path) {
                changes.push(Change::Subscribed(key, path.clone(), subscription));
            }
        }
        session.snapshot(changes);
    }

    pub(super) fn subscription(&self, key: SessionKey, path: &str) -> Option<Subscription> {
        let Path { filter, is_shared } = Path::new(path)?;
        if is_shared {
            self.groups.subscription(path, key)
        } else {
            self.subscriptions.get(filter, key)
        }
    }
}
