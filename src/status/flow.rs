//! Rates of the last seconds and the history of the last hour, from a look at the ledger each second. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::snapshot::{Flow, History};
use crate::spool::ledger::Ledger;

/// Rates are means over this time: long enough to be calm, short enough to be called live.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// One step of the history.
const STEP: Duration = Duration::from_secs(10);
/// Steps that are kept: an hour, in 4 KiB.
const STEPS_MAX: usize = 360;

/// The ledger at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    accepted: u64,
    delivered: u64,
    spooled: u64,
}

/// Messages in one step, and what waited at its end.
#[derive(Clone, Copy, Debug)]
struct Step {
    accepted: u32,
    delivered: u32,
    spooled: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Of the last [`RATE_WINDOW`], oldest first; never empty.
    recent: VecDeque<Look>,
    latest: Look,
    step_began: Look,
    steps: VecDeque<Step>,
}

impl Watcher {
    /// Begins to watch; what the ledger has already is not counted.
    pub(super) fn new(ledger: &Ledger, now: Instant) -> Self {
        let look = Look::at(ledger, now);
        Watcher {
            recent: VecDeque::from([look]),
            latest: look,
            step_began: look,
            steps: VecDeque::new(),
        }
    }

    /// Looks at the ledger. To be called about once a second.
    pub(super) fn look(&mut self, ledger: &Ledger, now: Instant) {
        let look = Look::at(ledger, now);
        self.recent.push_back(look);
        // The one before the window is kept: the window lies between it and now.
        while (self.recent.get(1)).is_some_and(|next| now.duration_since(next.at) >= RATE_WINDOW) {
            self.recent.pop_front();
        }
        self.latest = look;
        if now.duration_since(self.step_began.at) >= STEP {
            if self.steps.len() >= STEPS_MAX {
                self.steps.pop_front();
            }
            self.steps.push_back(Step {
                accepted: small(look.accepted - self.step_began.accepted),
                delivered: small(look.delivered - self.step_began.delivered),
                spooled: small(look.spooled),
            });
            self.step_began = look;
        }
    }

    /// What moves now.
    pub(super) fn flow(&self) -> Flow {
        let Some(first) = self.recent.front() else {
            return Flow::default();
        };
        let seconds = self.latest.at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Flow::default();
        }
        let rate = |from: u64, to: u64| float(to - from) / seconds;
        let accepted_per_s = rate(first.accepted, self.latest.accepted);
        let delivered_per_s = rate(first.delivered, self.latest.delivered);
        Flow {
            accepted_per_s,
            delivered_per_s,
            drained_after_s: drained_after_s(self.latest.spooled, accepted_per_s, delivered_per_s),
        }
    }

    /// The last hour.
    pub(super) fn history(&self) -> History {
        let column = |value: fn(&Step) -> u32| self.steps.iter().map(value).collect();
        History {
            step_s: STEP.as_secs(),
            accepted: column(|step| step.accepted),
            delivered: column(|step| step.delivered),
            spooled: column(|step| step.spooled),
        }
    }
}

impl Look {
    fn at(ledger: &Ledger, at: Instant) -> Self {
        Look {
            at,
            accepted: ledger.accepted(),
            delivered: ledger.delivered,
            spooled: ledger.spooled,
        }
    }
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Counts of messages are far below the 2^53 that are exact.
#[expect(clippy::cast_precision_loss, reason = "for display")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive, and the cast saturates"
)]
fn drained_after_s(spooled: u64, accepted_per_s: f64, delivered_per_s: f64) -> Option<u64> {
    let shrinks_by = delivered_per_s - accepted_per_s;
    (spooled > 0 && shrinks_by > 0.0).then(|| (float(spooled) / shrinks_by).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(delivered: u64, spooled: u64) -> Ledger {
        Ledger {
            delivered,
            spooled,
            ..Ledger::default()
        }
    }

    /// A watcher that looked each second at what `ledger_at` says.
    fn watched(seconds: u64, ledger_at: impl Fn(u64) -> Ledger) -> Watcher {
        let start = Instant::now();
        let mut watcher = Watcher::new(&ledger_at(0), start);
        for second in 1..=seconds {
            watcher.look(&ledger_at(second), start + Duration::from_secs(second));
        }
        watcher
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_a_shrinking_backlog_has_an_end() {
        // 1,000 waited; 30 come and 80 go each second, after ten seconds of nothing.
        let watcher = watched(20, |second| {
            let busy = second.saturating_sub(10);
            ledger(80 * busy, 1_000 - 50 * busy)
        });
        let flow = watcher.flow();
        assert!((flow.accepted_per_s - 30.0).abs() < 1e-9, "{flow:?}");
        assert!((flow.delivered_per_s - 80.0).abs() < 1e-9, "{flow:?}");
        assert_eq!(flow.drained_after_s, Some(10));
    }

    #[test]
    fn a_backlog_that_does_not_shrink_has_no_end_and_an_empty_spool_needs_none() {
        assert_eq!(drained_after_s(5, 2.0, 2.0), None);
        assert_eq!(drained_after_s(5, 2.0, 1.0), None);
        assert_eq!(drained_after_s(0, 0.0, 1.0), None);
        assert_eq!(watched(0, |_| ledger(5, 5)).flow(), Flow::default());
    }

    #[test]
    fn the_history_is_an_hour_of_ten_second_steps_that_add_up() {
        let watcher = watched(4_000, |second| ledger(second, 7));
        let history = watcher.history();
        assert_eq!(history.step_s, 10);
        assert_eq!(history.delivered.len(), 360);
        assert!(history.delivered.iter().all(|count| *count == 10));
        assert!(history.accepted.iter().all(|count| *count == 10));
        assert!(history.spooled.iter().all(|count| *count == 7));
    }

    #[test]
    fn a_late_look_makes_a_longer_step_and_loses_nothing() {
        let start = Instant::now();
        let mut watcher = Watcher::new(&ledger(0, 0), start);
        watcher.look(&ledger(5_000_000_000, 0), start + Duration::from_secs(90));
        assert_eq!(watcher.history().delivered, [u32::MAX]);
    }
}
