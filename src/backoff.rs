//! Exponential back-off with full jitter. Pure: the caller brings the randomness and does the waiting.

use std::time::Duration;

/// The state of one retry loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// A back-off whose first delay is at most `base`, doubling with each failure up to `ceiling`.
    pub fn new(base: Duration, ceiling: Duration) -> Self {
        Backoff {
            base,
            ceiling,
            failures: 0,
        }
    }

    /// Counts a failure and returns how long to wait before the next try: between a tenth and all
    /// of the current bound, chosen by `random` in `0.0..1.0`.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let bound = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.failures.min(31)))
            .min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(0.1 + 0.9 * random.clamp(0.0, 1.0))
    }

    /// How many failures in a row were counted.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over, after something has worked for long enough to believe in it.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_ceiling() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let bounds: Vec<u64> = (0..5).map(|_| backoff.next_delay(1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn jitter_never_reaches_zero() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(backoff.next_delay(0.0), Duration::from_millis(100));
    }

    #[test]
    fn a_reset_starts_over_and_many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for _ in 0..1_000 {
            backoff.next_delay(0.5);
        }
        assert_eq!(backoff.failures(), 1_000);
        backoff.reset();
        assert_eq!(backoff.next_delay(1.0), Duration::from_secs(1));
    }
}
