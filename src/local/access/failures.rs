//! Failed logins, summed up: an app with a wrong password comes back every second, for ever. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How often at most failed logins are told. Those that come later wait to be told with the next one.
const PAUSE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Failures {
    untold: u64,
    told: Option<Instant>,
}

impl Failures {
    /// One more. Returns how many there were since they were last told, if it is time to tell.
    pub(super) fn add(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now < told + PAUSE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let mut after = |seconds| failures.add(start + Duration::from_secs(seconds));
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1), None);
        assert_eq!(after(59), None);
        assert_eq!(after(60), Some(3));
        assert_eq!(after(119), None);
    }
}
