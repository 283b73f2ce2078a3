//! How long the policy has denied a topic, and when that is proof enough. Pure.
//!
//! A policy takes minutes to spread, and one that is wholly missing is an outage: nothing is convicted then, however
//! long it lasts. So the messages of a topic are convicted only when it has been denied for as long as the owner
//! says *and* the cloud accepts others meanwhile; from then on each of its messages is, as soon as it is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Topics whose denial is remembered, at most. The messages of one more are judged each by its own time.
const TOPICS_MAX: usize = 1_000;
/// "Accepts others" means that it has accepted something within this, or within the owner's time if that is longer.
const RECENT_MIN: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
struct Denied {
    since: Instant,
    /// Its time is cut short.
    condemned: bool,
}

/// What is denied. It outlives a connection.
#[derive(Debug)]
pub struct Denials {
    hold: Duration,
    topics: BTreeMap<String, Denied>,
    last_accepted: Option<Instant>,
}

impl Denials {
    /// Nothing is denied; `hold` is how long something may be (`CLOUD_DENIED_HOLD_S`).
    pub fn new(hold: Duration) -> Self {
        Denials {
            hold,
            topics: BTreeMap::new(),
            last_accepted: None,
        }
    }

    /// Notes that a message to `topic` was denied.
    pub fn denied(&mut self, topic: &str, now: Instant) {
        if !self.topics.contains_key(topic) && self.topics.len() < TOPICS_MAX {
            let denied = Denied {
                since: now,
                condemned: false,
            };
            self.topics.insert(topic.to_owned(), denied);
        }
    }

    /// Notes that a message was accepted, and on which topic. Says whether that had been denied.
    pub fn accepted<T: AsRef<str>>(&mut self, topic: impl FnOnce() -> T, now: Instant) -> bool {
        self.last_accepted = Some(now);
        !self.topics.is_empty() && self.topics.remove(topic().as_ref()).is_some()
    }

    /// Whether `topic` was denied when it was last heard of.
    pub fn is_denied(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// For how long `topic` has been denied.
    pub fn denied_for(&self, topic: &str, now: Instant) -> Duration {
        let denied = self.topics.get(topic);
        denied.map_or(Duration::ZERO, |denied| now.duration_since(denied.since))
    }

    /// Whether the cloud accepts messages at all.
    pub fn others_accepted(&self, now: Instant) -> bool {
        let recent = self.hold.max(RECENT_MIN);
        (self.last_accepted).is_some_and(|at| now.duration_since(at) <= recent)
    }

    /// Whether a message to `topic` that is denied, and was refused for `refused_for` itself, is convicted.
    pub fn convicts(&self, topic: &str, refused_for: Duration, now: Instant) -> bool {
        let denied_for = self.denied_for(topic, now).max(refused_for);
        (self.is_condemned(topic) || denied_for >= self.hold) && self.others_accepted(now)
    }

    /// Cuts the time of `topic` short: each of its messages that is refused is convicted, until one is accepted. If too
    /// many are remembered, another is forgotten.
    pub fn condemn(&mut self, topic: &str, now: Instant) {
        if !self.topics.contains_key(topic) && self.topics.len() >= TOPICS_MAX {
            self.topics.pop_first();
        }
        self.denied(topic, now);
        if let Some(denied) = self.topics.get_mut(topic) {
            denied.condemned = true;
        }
    }

    /// Whether its time was cut short.
    pub fn is_condemned(&self, topic: &str) -> bool {
        self.topics
            .get(topic)
            .is_some_and(|denied| denied.condemned)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: Duration = Duration::from_mins(10);

    fn convicts(denials: &Denials, topic: &str, now: Instant) -> bool {
        denials.convicts(topic, Duration::ZERO, now)
    }

    #[test]
    fn a_topic_has_its_time_and_then_each_of_its_messages_is_convicted() {
        let start = Instant::now();
        let mut denials = Denials::new(HOLD);
        denials.denied("a", start);
        denials.denied("a", start + HOLD / 2);
        denials.accepted(|| "b", start + HOLD / 2);
        assert!(!convicts(&denials, "a", start + HOLD / 2));
        assert!(convicts(&denials, "a", start + HOLD));
        assert!(!convicts(&denials, "c", start + HOLD));
        assert!(denials.convicts("c", HOLD, start + HOLD));
    }

    #[test]
    fn while_nothing_is_accepted_nothing_is_convicted() {
        let start = Instant::now();
        let mut denials = Denials::new(HOLD);
        denials.denied("a", start);
        denials.condemn("a", start);
        assert!(!convicts(&denials, "a", start + 100 * HOLD));
        denials.accepted(|| "b", start + 100 * HOLD);
        assert!(convicts(&denials, "a", start + 100 * HOLD));
        assert!(!convicts(&denials, "a", start + 102 * HOLD));
    }

    #[test]
    fn an_acceptance_ends_the_denial_of_its_topic() {
        let start = Instant::now();
        let mut denials = Denials::new(HOLD);
        denials.denied("a", start);
        denials.condemn("a", start);
        assert!(denials.is_denied("a"));
        assert!(denials.accepted(|| "a", start + HOLD));
        assert!(!denials.is_denied("a") && !convicts(&denials, "a", start + HOLD));
        assert!(!denials.accepted(|| "a", start + HOLD));
    }

    proptest! {
        /// Against a model that knows all that happened.
        #[test]
        fn only_what_was_denied_for_the_whole_time_while_others_were_accepted_is_convicted(
            events in prop::collection::vec((0_u64..120, 0..4_usize, any::<bool>()), 1..200),
        ) {
            let names = ["a", "b", "c", "d"];
            let start = Instant::now();
            let mut now = start;
            let mut denials = Denials::new(HOLD);
            let mut history: Vec<(Instant, usize, bool)> = Vec::new();
            for (seconds, topic, denied) in events {
                now += Duration::from_secs(seconds);
                history.push((now, topic, denied));
                if !denied {
                    denials.accepted(|| names[topic], now);
                    continue;
                }
                denials.denied(names[topic], now);
                let of_topic = history.iter().rev().filter(|(_, of, _)| *of == topic);
                let first = of_topic.take_while(|(_, _, denied)| *denied).last().unwrap().0;
                let accepted = history.iter().any(|(at, _, denied)| !denied && now - *at <= HOLD);
                let expected = now - first >= HOLD && accepted;
                prop_assert_eq!(convicts(&denials, names[topic], now), expected);
            }
        }

        #[test]
        fn however_many_topics_are_denied_a_bounded_number_is_remembered(count in 0_usize..3_000) {
            let mut denials = Denials::new(HOLD);
            for topic in 0..count {
                denials.denied(&topic.to_string(), Instant::now());
                denials.condemn(&format!("condemned {topic}"), Instant::now());
            }
            prop_assert!(denials.topics.len() <= TOPICS_MAX);
        }
    }
}
