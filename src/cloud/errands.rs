//! What a connection does besides relaying, each an option of the owner: it says that the device is there, and it
//! subscribes. Pure, but for its words in the log.
//!
//! Relaying must never suffer from an errand that the policy does not allow. Over MQTT 3.1.1 AWS IoT Core answers such a
//! packet by closing the connection, without a reason. So errands are run one at a time, and only while no message is in
//! flight: a close then has one possible cause. After [`ENDED_MAX`] of them in a row it is left alone for a while.
//! Each has a packet identifier of its own, so that an answer that comes late is not taken for another's.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::window::FIRST_ERRAND_PACKET_ID;

/// Topic filters in one SUBSCRIBE: AWS IoT Core's quota.
const FILTERS_PER_SUBSCRIBE_MAX: usize = 8;
/// Topic filters in all: AWS IoT Core's quota per connection.
pub const FILTERS_MAX: usize = 50;
/// What is not answered within this time is given up for now, so that relaying goes on.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What was refused is tried again after this time. A policy takes minutes to spread.
const RETRY_AFTER: Duration = Duration::from_mins(10);
/// This many connections in a row, ended instead of an answer, make us go on without.
const ENDED_MAX: u32 = 2;
/// For how long.
const PAUSE: Duration = Duration::from_hours(1);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Publish the retained message of `CLOUD_STATUS_TOPIC`.
    SayOnline,
    /// Subscribe to these filters of `CLOUD_SUBSCRIBE`.
    Subscribe(Vec<String>),
}

impl Errand {
    /// What the owner can do if the cloud does not take it.
    fn remedy(&self) -> &'static str {
        match self {
            Errand::SayOnline => {
                "does the policy allow iot:Publish and iot:RetainPublish to CLOUD_STATUS_TOPIC?"
            }
            Errand::Subscribe(_) => {
                "does the policy allow iot:Subscribe to its topic filters and iot:Receive on their topics?"
            }
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Errand::SayOnline => f.write_str("the message to CLOUD_STATUS_TOPIC"),
            Errand::Subscribe(filters) => write!(f, "the subscription to {}", filters.join(", ")),
        }
    }
}

/// The packet identifier of the errand number `index`, from zero on. [`FILTERS_MAX`] keeps it above
/// [`FIRST_ERRAND_PACKET_ID`].
fn packet_id(index: usize) -> u16 {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    (u16::MAX.saturating_sub(index)).max(FIRST_ERRAND_PACKET_ID)
}

#[derive(Debug)]
struct Entry {
    errand: Errand,
    /// When it is to be run on this connection, `None` if it is done.
    due: Option<Instant>,
    /// How many connections in a row have ended instead of an answer.
    ended: u32,
    paused_until: Option<Instant>,
    /// It was told that the cloud does not take it.
    refused: bool,
}

/// The errands of all connections. See the module.
#[derive(Debug, Default)]
pub(super) struct Errands {
    entries: Vec<Entry>,
    /// Which is on its way, and since when.
    asked: Option<(usize, Instant)>,
    /// How many CONNECTs in a row were refused that carried the will.
    will_refused: u32,
    /// The cloud has taken the will before, so that a single refusal has another reason.
    will_proven: bool,
    /// This connection has the will.
    with_will: bool,
}

impl Errands {
    /// Says online if `says_online`, and subscribes to `filters`.
    pub(super) fn new(says_online: bool, filters: &[String]) -> Self {
        let subscriptions = filters
            .chunks(FILTERS_PER_SUBSCRIBE_MAX)
            .map(|chunk| Errand::Subscribe(chunk.to_vec()));
        let first = says_online.then_some(Errand::SayOnline);
        let entries = first.into_iter().chain(subscriptions).map(|errand| Entry {
            errand,
            due: None,
            ended: 0,
            paused_until: None,
            refused: false,
        });
        Errands {
            entries: entries.collect(),
            ..Errands::default()
        }
    }

    /// Whether the next CONNECT, at `now`, is to carry the will.
    pub(super) fn wants_will(&self, now: Instant) -> bool {
        let online = self
            .entries
            .iter()
            .find(|entry| entry.errand == Errand::SayOnline);
        !self.is_will_suspect() && online.is_some_and(|entry| entry.paused_until <= Some(now))
    }

    /// Notes that a CONNECT, with the will or without, was refused: perhaps because of the will.
    pub(super) fn refused_on_connect(&mut self, with_will: bool) {
        self.will_refused = if with_will { self.will_refused + 1 } else { 0 };
    }

    /// Whether the next CONNECT goes without the will, to see whether that is what is refused.
    fn is_will_suspect(&self) -> bool {
        self.will_refused >= if self.will_proven { ENDED_MAX } else { 1 }
    }

    /// Notes that a connection was accepted at `now`, with the will or without.
    pub(super) fn begin(&mut self, with_will: bool, now: Instant) {
        self.asked = None;
        self.with_will = with_will;
        let is_will_suspect = self.is_will_suspect();
        for entry in &mut self.entries {
            if entry.errand == Errand::SayOnline && is_will_suspect {
                entry.pause(now);
            }
            // Without the will its time is that of another connection: see [`Errands::need_will`].
            let can_run = entry.errand != Errand::SayOnline || with_will;
            entry.due = (entry.paused_until.map(|until| until.max(now))).or(can_run.then_some(now));
        }
        self.will_proven |= with_will;
        self.will_refused = 0;
    }

    /// Whether it is time to say online again, and this connection has no will that would take it back: then another
    /// one is needed.
    pub(super) fn need_will(&self, now: Instant) -> bool {
        let says_online = |entry: &Entry| entry.errand == Errand::SayOnline && entry.is_due(now);
        !self.with_will && self.entries.iter().any(says_online)
    }

    /// If this connection has the will, so that its orderly end has to be told instead: the packet identifier of that.
    /// Then its answer is waited for.
    pub(super) fn stop(&mut self, now: Instant) -> Option<u16> {
        let index = self.entries.len();
        self.asked = self.with_will.then_some((index, now));
        self.asked.map(|_| packet_id(index))
    }

    /// Whether an answer is due.
    pub(super) fn waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether messages have to wait: for an answer, or for their turn to end.
    pub(super) fn have_right_of_way(&self, now: Instant) -> bool {
        self.asked.is_some() || self.entries.iter().any(|entry| entry.is_due(now))
    }

    /// The errand to run now that nothing is in flight, and the packet identifier of its answer, which is to be noted.
    pub(super) fn next(&mut self, now: Instant) -> Option<(&Errand, u16)> {
        if self.asked.is_some() {
            return None;
        }
        let index = self.entries.iter().position(|entry| entry.is_due(now))?;
        self.asked = Some((index, now));
        let entry = self.entries.get(index)?;
        Some((&entry.errand, packet_id(index)))
    }

    /// When time changes something after `now`.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if let Some((_, since)) = self.asked {
            return Some(since + ANSWER_TIMEOUT);
        }
        let due = self.entries.iter().filter_map(|entry| entry.due);
        due.filter(|due| *due > now).min()
    }

    /// Notes an answer, perhaps a late one: for each part why it was refused, `None` if it was not.
    pub(super) fn answered(&mut self, packet_id: u16, refusals: &[Option<String>], now: Instant) {
        let index = usize::from(u16::MAX - packet_id);
        self.asked = self.asked.filter(|(asked, _)| *asked != index);
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        entry.ended = 0;
        let refused: Vec<String> = match &entry.errand {
            Errand::SayOnline => refusals.iter().flatten().cloned().collect(),
            Errand::Subscribe(filters) => (filters.iter().zip(refusals))
                .filter_map(|(filter, why)| Some(format!("{filter:?}: {}", why.as_ref()?)))
                .collect(),
        };
        let what = match &entry.errand {
            Errand::SayOnline => "CLOUD_STATUS_TOPIC",
            Errand::Subscribe(_) => "CLOUD_SUBSCRIBE",
        };
        if refused.is_empty() {
            entry.due = None;
            if std::mem::take(&mut entry.refused) {
                tracing::info!("{what}: the cloud takes what it had refused");
            }
            return;
        }
        entry.due = Some(now + RETRY_AFTER);
        if !std::mem::replace(&mut entry.refused, true) {
            let (refused, remedy) = (refused.join("; "), entry.errand.remedy());
            tracing::warn!("{what}: the cloud refuses {refused}; {remedy} It is tried again");
        }
    }

    /// Looks whether an answer has not come in time.
    pub(super) fn tick(&mut self, now: Instant) {
        if self
            .asked
            .is_some_and(|(_, since)| since + ANSWER_TIMEOUT <= now)
            && let Some(entry) = self.take_asked()
        {
            entry.due = Some(now + RETRY_AFTER);
            let errand = &entry.errand;
            tracing::warn!(
                "the cloud does not answer {errand}; messages are relayed without it, and it is tried again in {} min",
                RETRY_AFTER.as_secs() / 60
            );
        }
    }

    /// Notes that the cloud ended the connection. Returns what it had to answer, if anything, and what to do.
    pub(super) fn ended(&mut self, now: Instant) -> Option<String> {
        let entry = self.take_asked()?;
        entry.ended += 1;
        if entry.ended >= ENDED_MAX {
            entry.pause(now);
        }
        Some(format!("{}; {}", entry.errand, entry.errand.remedy()))
    }

    fn take_asked(&mut self) -> Option<&mut Entry> {
        let (index, _) = self.asked.take()?;
        self.entries.get_mut(index)
    }
}

impl Entry {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Leaves it alone for a while, and says so.
    fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
        tracing::warn!(
            "the cloud ends the connection instead of taking {}; messages are relayed without it, and it is tried \
             again in {} min; {}",
            self.errand,
            PAUSE.as_secs() / 60,
            self.errand.remedy()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribing(count: usize) -> Errands {
        let filters: Vec<String> = (0..count).map(|n| format!("f/{n}")).collect();
        Errands::new(false, &filters)
    }

    #[test]
    fn filters_go_eight_at_a_time_and_the_next_ones_after_an_answer() {
        let now = Instant::now();
        let mut errands = subscribing(10);
        errands.begin(false, now);
        let count = |errand: Option<(&Errand, u16)>| match errand {
            Some((Errand::Subscribe(filters), _)) => filters.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(count(errands.next(now)), 8);
        assert_eq!(errands.next(now), None);
        assert!(errands.have_right_of_way(now));
        errands.answered(packet_id(0), &vec![None; 8], now);
        assert_eq!(count(errands.next(now)), 2);
        errands.answered(packet_id(1), &[None, None], now);
        assert!(!errands.have_right_of_way(now));
        assert_eq!(errands.deadline(now), None);
        errands.begin(false, now);
        assert_eq!(
            count(errands.next(now)),
            8,
            "a new connection subscribes again"
        );
    }

    #[test]
    fn a_refused_filter_is_tried_again_later_and_messages_go_on() {
        let now = Instant::now();
        let mut errands = subscribing(1);
        errands.begin(false, now);
        assert!(errands.next(now).is_some());
        errands.answered(packet_id(0), &[Some("no".to_owned())], now);
        assert!(!errands.have_right_of_way(now));
        assert_eq!(errands.deadline(now), Some(now + RETRY_AFTER));
        assert!(errands.next(now + RETRY_AFTER).is_some());
    }

    #[test]
    fn an_answer_that_does_not_come_holds_messages_up_for_seconds_only() {
        let now = Instant::now();
        let mut errands = subscribing(1);
        errands.begin(false, now);
        assert!(errands.next(now).is_some());
        let late = now + ANSWER_TIMEOUT;
        assert_eq!(errands.deadline(now), Some(late));
        errands.tick(late);
        assert!(!errands.have_right_of_way(late));
    }

    #[test]
    fn an_answer_that_comes_late_is_not_taken_for_that_of_the_next_one() {
        let start = Instant::now();
        let mut errands = subscribing(10);
        errands.begin(false, start);
        let late = errands.next(start).unwrap().1;
        let now = start + ANSWER_TIMEOUT;
        errands.tick(now);
        let next = errands.next(now).unwrap().1;
        errands.answered(late, &vec![None; 8], now);
        assert!(errands.waiting());
        errands.answered(next, &[Some("no".to_owned()), None], now);
        assert!(!errands.waiting());
        assert_eq!(errands.deadline(now), Some(now + RETRY_AFTER));
        let refused = errands.next(now + RETRY_AFTER).unwrap().1;
        assert_eq!(refused, next, "the other one is done");
    }

    #[test]
    fn the_largest_number_of_errands_has_a_packet_identifier_for_each_and_for_the_end() {
        let filters: Vec<String> = (0..FILTERS_MAX).map(|n| format!("f/{n}")).collect();
        let mut errands = Errands::new(true, &filters);
        errands.begin(true, Instant::now());
        let last = errands.stop(Instant::now()).unwrap();
        assert_eq!(usize::from(u16::MAX - last), errands.entries.len());
    }

    #[test]
    fn connections_that_end_instead_of_an_answer_make_it_pause_and_then_try_once_more() {
        let mut now = Instant::now();
        let mut errands = subscribing(1);
        for _ in 0..ENDED_MAX {
            errands.begin(false, now);
            assert!(errands.next(now).is_some());
            assert!(errands.ended(now).unwrap().contains("iot:Subscribe"));
        }
        errands.begin(false, now);
        assert!(!errands.have_right_of_way(now));
        assert_eq!(errands.ended(now), None, "a later end has another cause");
        now += PAUSE;
        errands.begin(false, now);
        assert!(errands.next(now).is_some());
        errands.ended(now);
        errands.begin(false, now);
        assert_eq!(errands.next(now), None, "once was enough this time");
    }

    #[test]
    fn a_will_that_is_in_the_way_of_a_connection_is_left_out() {
        let now = Instant::now();
        let mut errands = Errands::new(true, &[]);
        assert!(errands.wants_will(now));
        errands.refused_on_connect(true);
        assert!(!errands.wants_will(now));
        errands.refused_on_connect(false);
        assert!(errands.wants_will(now), "it was not the will");
        errands.refused_on_connect(true);
        errands.begin(false, now);
        assert!(!errands.wants_will(now) && !errands.have_right_of_way(now));
        assert!(errands.wants_will(now + PAUSE));
        errands.begin(true, now + PAUSE);
        let next = errands.next(now + PAUSE);
        assert_eq!(next, Some((&Errand::SayOnline, u16::MAX)));
    }

    #[test]
    fn a_connection_without_the_will_that_lasts_is_given_up_for_one_with_it_after_the_pause() {
        let now = Instant::now();
        let mut errands = Errands::new(true, &[]);
        errands.refused_on_connect(true);
        errands.begin(false, now);
        assert!(!errands.need_will(now));
        assert_eq!(errands.deadline(now), Some(now + PAUSE));
        assert!(errands.need_will(now + PAUSE) && errands.wants_will(now + PAUSE));
        errands.begin(true, now + PAUSE);
        assert!(!errands.need_will(now + PAUSE));
    }

    #[test]
    fn a_will_that_was_taken_before_is_not_left_out_for_one_refusal() {
        let now = Instant::now();
        let mut errands = Errands::new(true, &[]);
        errands.begin(true, now);
        errands.refused_on_connect(true);
        assert!(errands.wants_will(now));
        errands.begin(true, now);
        errands.refused_on_connect(true);
        assert!(errands.wants_will(now), "they were not in a row");
        errands.refused_on_connect(true);
        assert!(!errands.wants_will(now));
    }

    #[test]
    fn without_options_nothing_is_done() {
        let now = Instant::now();
        let mut errands = Errands::new(false, &[]);
        errands.begin(false, now);
        assert!(!errands.wants_will(now) && !errands.have_right_of_way(now));
    }
}
