//! How much comes in one second: what is allowed, and what the most was. Pure: time is an argument.
//!
//! A window is any one second, not one of the clock's: it ends at each arrival.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);

/// The most that came in any one second, over all connections, whatever became of it. Publishes
/// that are read together arrive together: a server that is held up sees peaks that were not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// PUBLISH packets a second.
    pub publishes: u64,
    /// Bytes of PUBLISH packets a second: headers, topics and payloads.
    pub bytes: u64,
}

/// Publishes and their bytes that arrived together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) publishes: u64,
    pub(crate) bytes: u64,
}

/// Measures [`Peaks`].
#[derive(Debug, Default)]
pub(crate) struct PeakMeter {
    recent: VecDeque<(Instant, Traffic)>,
    /// The sum of `recent`.
    sum: Traffic,
    peaks: Peaks,
}

impl PeakMeter {
    /// Takes what arrived at `now`. An instant before the last one counts as the last.
    pub(crate) fn add(&mut self, now: Instant, traffic: Traffic) {
        let now = self.recent.back().map_or(now, |(last, _)| now.max(*last));
        while let Some((_, old)) = self.recent.pop_front_if(|(at, _)| now - *at >= WINDOW) {
            self.sum.publishes -= old.publishes;
            self.sum.bytes -= old.bytes;
        }
        self.recent.push_back((now, traffic));
        self.sum.publishes += traffic.publishes;
        self.sum.bytes += traffic.bytes;
        self.peaks.publishes = self.peaks.publishes.max(self.sum.publishes);
        self.peaks.bytes = self.peaks.bytes.max(self.sum.bytes);
    }

    /// The most so far.
    pub(crate) fn peaks(&self) -> Peaks {
        self.peaks
    }
}

/// Allows so many publishes in any one second.
#[derive(Debug, Default)]
pub(crate) struct PublishRate {
    allowed: VecDeque<Instant>,
}

impl PublishRate {
    /// Whether one more at `now` is too many. What is too many does not count.
    pub(crate) fn exceeded(&mut self, rate_max: Option<u32>, now: Instant) -> bool {
        let Some(rate_max) = rate_max else {
            return false;
        };
        while self
            .allowed
            .pop_front_if(|at| now - *at >= WINDOW)
            .is_some()
        {}
        if self.allowed.len() >= usize::try_from(rate_max).unwrap_or(usize::MAX) {
            return true;
        }
        self.allowed.push_back(now);
        false
    }
}

/// Says until when nothing may be read, so that no more than so many bytes a second are.
#[derive(Debug, Default)]
pub(crate) struct ByteRate {
    until: Option<Instant>,
}

impl ByteRate {
    /// Takes what was read at `now`.
    pub(crate) fn read(&mut self, bytes: usize, rate_max: Option<u32>, now: Instant) {
        let Some(rate_max) = rate_max.filter(|rate| *rate > 0) else {
            self.until = None;
            return;
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(1).mul_f64(f64::from(bytes) / f64::from(rate_max));
        self.until = Some(self.until.map_or(now, |until| until.max(now)) + pause);
    }

    /// When reading may go on, if not at `now`.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_across_two_seconds_of_the_clock_is_found() {
        let start = Instant::now();
        let mut meter = PeakMeter::default();
        let mut add = |after_ms: u32, publishes: u64, bytes: u64| {
            meter.add(start + MS * after_ms, Traffic { publishes, bytes });
            meter.peaks()
        };
        add(0, 10, 100);
        add(900, 60, 600);
        add(1_000, 5, 7_000);
        // the ten of the beginning are a full second old
        let peaks = add(1_899, 30, 300);
        assert_eq!((peaks.publishes, peaks.bytes), (95, 7_900));
        let later = add(1_900, 50, 1);
        assert_eq!(later, peaks, "the sixty have left: 85");
    }

    #[test]
    fn the_rate_holds_in_any_one_second_and_what_is_refused_does_not_count() {
        let start = Instant::now();
        let mut rate = PublishRate::default();
        let mut refused = |after_ms: u32| rate.exceeded(Some(2), start + MS * after_ms);
        assert!(!refused(0));
        assert!(!refused(900));
        assert!(refused(950));
        assert!(!refused(1_000));
        assert!(refused(1_899));
        assert!(!refused(1_900));
        assert!(!PublishRate::default().exceeded(None, start));
    }

    #[test]
    fn bytes_above_the_rate_are_read_later() {
        let start = Instant::now();
        let mut rate = ByteRate::default();
        rate.read(500, Some(1_000), start);
        assert_eq!(rate.paused_until(start), Some(start + MS * 500));
        rate.read(500, Some(1_000), start + MS * 100);
        assert_eq!(rate.paused_until(start), Some(start + MS * 1_000));
        assert_eq!(rate.paused_until(start + MS * 1_000), None);
        rate.read(500, None, start);
        assert_eq!(rate.paused_until(start), None);
    }
}
