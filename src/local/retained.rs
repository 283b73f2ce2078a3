//! The retained message of each topic (MQTT 3.3.1.3). Each change is recorded in the journal, but of [`STATE_TOPIC`]:
//! the relay tells its own state anew at each start.

use std::collections::BTreeMap;
use std::ops::Bound;

use tokio::time::Instant;

use super::journal::{Change, Recorder};
use super::limits::Limits;
use super::publication::{Publication, QoS};
use super::publisher::STATE_TOPIC;
use super::topic;
use crate::spool::Seq;

/// One retained message.
struct Entry {
    publication: Publication,
    qos: QoS,
    /// The change in the journal that set it, if it had to be waited for.
    change: Option<Seq>,
}

/// All retained messages, by topic name.
#[derive(Default)]
pub(super) struct Retained {
    messages: BTreeMap<Box<str>, Entry>,
    /// Before that, none of them expires.
    first_expires: Option<Instant>,
    bytes: usize,
    recorder: Recorder,
    /// The last change in the journal that cleared a topic.
    cleared: Option<Seq>,
}

/// A retained message was not kept because of `Limits::retained_messages_max` or `_bytes_max`. The
/// topic's previous one is gone as well: an outdated value would be worse than none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Retained {
    /// From now on changes are recorded here.
    pub(super) fn record(&mut self, recorder: Recorder) {
        self.recorder = recorder;
    }

    /// Forgets the retained message of `name`.
    pub(super) fn clear(&mut self, name: &str) {
        let old = self.messages.remove(name);
        self.bytes -= old.as_ref().map_or(0, |old| old.publication.cost_bytes());
        self.note_cleared(name, old.is_some());
    }

    /// Keeps a message as the retained one of its topic. One that is there already is not recorded again, unless
    /// whoever sends it would have to wait for the first one.
    pub(super) fn set(
        &mut self,
        publication: Publication,
        qos: QoS,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Full> {
        let name: Box<str> = publication.topic().into();
        let is_there = self.messages.get(&name).is_some_and(|old| {
            old.publication == publication
                && old.qos == qos
                && old
                    .change
                    .is_none_or(|change| self.recorder.is_kept(change))
        });
        if is_there {
            return Ok(());
        }
        let cost = publication.cost_bytes();
        let old = self.messages.remove(&name);
        self.bytes -= old.as_ref().map_or(0, |old| old.publication.cost_bytes());
        if !self.has_room(cost, limits) {
            self.forget_expired(now);
        }
        if !self.has_room(cost, limits) {
            self.note_cleared(&name, old.is_some());
            return Err(Full);
        }
        let change = self.note(&name, || Change::Retained(publication.clone(), qos));
        self.bytes += cost;
        let expiries = [self.first_expires, publication.expires()];
        self.first_expires = expiries.into_iter().flatten().min();
        let entry = Entry {
            publication,
            qos,
            change,
        };
        self.messages.insert(name, entry);
        Ok(())
    }

    fn has_room(&self, bytes: usize, limits: &Limits) -> bool {
        self.messages.len() < limits.retained_messages_max
            && self.bytes + bytes <= limits.retained_bytes_max
    }

    /// Records that a topic has none any more; again, if whoever repeats it would have to wait for the first time.
    fn note_cleared(&mut self, name: &str, had_one: bool) {
        let last = self.cleared;
        if had_one || last.is_some_and(|change| !self.recorder.is_kept(change)) {
            let change = self.note(name, || Change::Cleared(name.to_owned()));
            // One that is not recorded leaves the last one to be waited for.
            self.cleared = change.or(last);
        }
    }

    fn note(&self, name: &str, change: impl FnOnce() -> Change) -> Option<Seq> {
        if name == STATE_TOPIC {
            return None;
        }
        self.recorder.record(change())
    }

    /// All that are kept, as changes that lead to them.
    pub(super) fn snapshot(&self, changes: &mut Vec<Change>) {
        let kept = self
            .messages
            .iter()
            .filter(|(name, _)| &***name != STATE_TOPIC);
        changes
            .extend(kept.map(|(_, entry)| Change::Retained(entry.publication.clone(), entry.qos)));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes kept, counted afresh. Panics if the books are wrong; for tests and fuzzing.
    pub(super) fn audit(&self) -> usize {
        let messages = self.messages.values();
        let bytes = messages.map(|entry| entry.publication.cost_bytes());
        assert_eq!(
            self.bytes,
            bytes.sum::<usize>(),
            "the bytes of retained messages"
        );
        self.bytes
    }

    /// The retained messages that match `filter` and have not expired, by topic name.
    pub(super) fn matching<'a>(
        &'a self,
        filter: &'a str,
        now: Instant,
    ) -> impl Iterator<Item = (&'a Publication, QoS)> {
        self.candidates(filter)
            .filter(move |(name, _)| topic::matches(filter, name))
            .map(|(_, entry)| (&entry.publication, entry.qos))
            .filter(move |(publication, _)| !publication.has_expired(now))
    }

    /// Those that begin as `filter` does before its first wildcard, or the one that it spells: a client may ask for
    /// many filters, and not for many looks at all there are.
    fn candidates<'a>(
        &'a self,
        filter: &'a str,
    ) -> impl Iterator<Item = (&'a Box<str>, &'a Entry)> {
        let literal = filter.split(['+', '#']).next().unwrap_or_default();
        let (begin, end) = if literal.len() == filter.len() {
            (filter, Bound::Included(filter))
        } else {
            // `a/#` matches `a` too.
            (
                literal.strip_suffix('/').unwrap_or(literal),
                Bound::Unbounded,
            )
        };
        self.messages
            .range::<str, _>((Bound::Included(begin), end))
            .take_while(move |(name, _)| name.starts_with(begin))
    }

    /// Looks through all of them only if one may have expired: many clients may try to retain more than there is room for.
    fn forget_expired(&mut self, now: Instant) {
        if self.first_expires.is_none_or(|first| first > now) {
            return;
        }
        let mut names = Vec::new();
        for (name, entry) in &self.messages {
            if entry.publication.has_expired(now) {
                names.push(name.clone());
            }
        }
        for name in names {
            self.clear(&name);
        }
        let left = self.messages.values();
        self.first_expires = left.filter_map(|entry| entry.publication.expires()).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::memory::Memory;
    use crate::local::packet::Publish;
    use crate::topic::tests::CASES;

    fn payloads(retained: &Retained, filter: &str) -> Vec<Vec<u8>> {
        let matching = retained.matching(filter, Instant::now());
        matching
            .map(|(message, _)| message.parts().1.to_vec())
            .collect()
    }

    fn set(retained: &mut Retained, name: &str, payload: &[u8], limits: &Limits) -> bool {
        let (qos, now) = (QoS::AtMostOnce, Instant::now());
        let publish = Publish::plain(name, payload, qos, true);
        let message = Publication::new(&publish, now, &Memory::default());
        retained.set(message, qos, limits, now).is_ok()
    }

    #[test]
    fn the_latest_message_of_each_topic_is_kept_until_cleared() {
        let (mut retained, limits) = (Retained::default(), Limits::default());
        assert!(set(&mut retained, "a/1", b"old", &limits));
        assert!(set(&mut retained, "a/2", b"two", &limits));
        assert!(set(&mut retained, "a/1", b"new", &limits));
        assert_eq!(payloads(&retained, "a/+"), [b"new", b"two"]);
        retained.clear("a/1");
        retained.clear("never/there");
        assert_eq!(payloads(&retained, "#"), [b"two"]);
        retained.clear("a/2");
        assert_eq!(retained.bytes, 0);
    }

    #[test]
    fn beyond_either_limit_a_topic_has_no_retained_message() {
        let limits = Limits {
            retained_messages_max: 2,
            retained_bytes_max: 300,
            ..Limits::default()
        };
        let mut retained = Retained::default();
        assert!(set(&mut retained, "a", b"1", &limits) && set(&mut retained, "b", b"1", &limits));
        assert!(
            !set(&mut retained, "c", b"1", &limits),
            "two topics are the limit"
        );
        assert!(
            set(&mut retained, "a", b"2", &limits),
            "replacing needs no room"
        );
        assert!(
            !set(&mut retained, "a", &[0; 300], &limits),
            "too many bytes"
        );
        assert_eq!(payloads(&retained, "#"), [b"1"]);
    }

    #[test]
    fn what_matches_is_found_without_a_look_at_all_the_others() {
        let (mut retained, limits) = (Retained::default(), Limits::default());
        for &(_, name, _) in CASES {
            set(&mut retained, name, name.as_bytes(), &limits);
        }
        let names: Vec<String> = retained.messages.keys().map(ToString::to_string).collect();
        for &(filter, ..) in CASES {
            let expected = names.iter().filter(|name| topic::matches(filter, name));
            let expected: Vec<&[u8]> = expected.map(String::as_bytes).collect();
            assert_eq!(payloads(&retained, filter), expected, "{filter}");
        }
        for n in 0..100 {
            set(&mut retained, &format!("many/{n}"), b"x", &limits);
        }
        let looks = |filter| retained.candidates(filter).count();
        assert_eq!((looks("many/7"), looks("many"), looks("one/+")), (1, 0, 0));
        assert_eq!((looks("sport/tennis/#"), looks("many/#")), (4, 100));
    }

    #[test]
    fn only_what_changes_is_recorded() {
        let limits = Limits {
            retained_messages_max: 2,
            ..Limits::default()
        };
        let (mut retained, recorder) = (Retained::default(), Recorder::on(false));
        retained.record(recorder.clone());
        let mut set = |name, payload: &[u8]| {
            let before = recorder.next();
            set(&mut retained, name, payload, &limits);
            recorder.next() - before
        };
        assert_eq!(set("a", b"1"), 1);
        assert_eq!(set("a", b"1"), 1, "the first one is not kept yet");
        recorder.keep(recorder.next());
        assert_eq!(set("a", b"1"), 0);
        assert_eq!(set("a", b"2"), 1);
        assert_eq!(set(STATE_TOPIC, b"1"), 0);
        assert_eq!(set("one too many", b"1"), 0);
        assert_eq!(set("a", &vec![0; limits.retained_bytes_max]), 1, "cleared");
        let mut clear = || {
            let before = recorder.next();
            retained.clear("a");
            recorder.next() - before
        };
        assert_eq!(clear(), 1, "the first time is not kept yet");
        recorder.keep(recorder.next());
        assert_eq!(clear(), 0);
    }
}
