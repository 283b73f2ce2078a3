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
    sent_messages: u64,
    sent_bytes: u64,
}

impl Drain {
    /// Notes that a message of `bytes` bytes was sent: from the mean the time to go is estimated.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_messages += 1;
        self.sent_bytes = (self.sent_bytes).saturating_add(u64::try_from(bytes).unwrap_or(0));
    }

    /// What is to be said now that `spooled` messages are in the spool, of which up to `in_flight_max` can be on
    /// their way.
    pub(super) fn look(&mut self, spooled: u64, in_flight_max: u64, quota: Quota) -> Option<News> {
        if self.announced {
            let drained = spooled <= in_flight_max;
            self.announced = !drained;
            return drained.then_some(News::Drained);
        }
        let mean_bytes = self.sent_bytes / self.sent_messages.max(1);
        let time = quota.time_for(spooled, mean_bytes);
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
        drain.sent(64 * 1024);
        let told = drain.look(160, 100, Quota::default());
        let expected = News::Draining {
            messages: 160,
            time: Duration::from_secs(20),
        };
        assert_eq!(told, Some(expected));
    }
}
