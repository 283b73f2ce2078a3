//! Tells once that a backlog takes its time, and once that it is drained. Pure.

use std::time::Duration;

use super::pacing::Quota;

/// A backlog that takes longer than this at the quotas is worth a word.
const WORTH_A_WORD: Duration = Duration::from_secs(10);

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// So many messages wait, and take about so long.
    Draining { messages: u64, time: Duration },
    /// No more wait than are on their way at any moment.
    Drained,
}

/// Whether a backlog was announced. It outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Drain {
    announced: bool,
    sent_publishes: u64,
    sent_messages: u64,
    sent_bytes: u64,
}

impl Drain {
    /// Notes a publish of `bytes` bytes with so many messages in it: from the means the time to go is estimated.
    pub(super) fn sent(&mut self, messages: usize, bytes: usize) {
        let number = |number| u64::try_from(number).unwrap_or(u64::MAX);
        self.sent_publishes += 1;
        self.sent_messages = self.sent_messages.saturating_add(number(messages));
        self.sent_bytes = self.sent_bytes.saturating_add(number(bytes));
    }

    /// What is to be said now that `spooled` messages are in the spool, of which up to `in_flight_max` can be on
    /// their way.
    pub(super) fn look(&mut self, spooled: u64, in_flight_max: u64, quota: Quota) -> Option<News> {
        if self.announced {
            let drained = spooled <= in_flight_max;
            self.announced = !drained;
            return drained.then_some(News::Drained);
        }
        // As many publishes and bytes for each message as so far, one publish if there were none.
        let share = |sent: u64| {
            let sent = u128::from(spooled) * u128::from(sent);
            u64::try_from(sent / u128::from(self.sent_messages.max(1))).unwrap_or(u64::MAX)
        };
        let publishes = share(self.sent_publishes.max(u64::from(self.sent_messages == 0)));
        let time = quota.time_for(publishes, share(self.sent_bytes));
        self.announced = time > WORTH_A_WORD && spooled > in_flight_max;
        self.announced.then_some(News::Draining {
            messages: spooled,
            time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_backlog_is_told_once_and_its_end_once() {
        let mut drain = Drain::default();
        let quota = Quota::default();
        let mut look = |spooled| drain.look(spooled, 100, quota);
        assert_eq!(look(1_000), None);
        let expected = News::Draining {
            messages: 6_000,
            time: Duration::from_mins(1),
        };
        assert_eq!(look(6_000), Some(expected));
        assert_eq!(look(5_999), None);
        assert_eq!(look(100), Some(News::Drained));
        assert_eq!(look(100), None);
    }

    #[test]
    fn large_messages_count_by_their_bytes() {
        let mut drain = Drain::default();
        drain.sent(1, 64 * 1024);
        let told = drain.look(160, 100, Quota::default());
        let expected = News::Draining {
            messages: 160,
            time: Duration::from_secs(20),
        };
        assert_eq!(told, Some(expected));
    }

    #[test]
    fn messages_that_travel_together_count_as_one() {
        let mut drain = Drain::default();
        drain.sent(50, 5_000);
        drain.sent(50, 5_000);
        let mut look = |spooled| drain.look(spooled, 100, Quota::default());
        assert_eq!(look(50_000), None);
        let expected = News::Draining {
            messages: 100_000,
            time: Duration::from_secs(20),
        };
        assert_eq!(look(100_000), Some(expected));
    }
}
