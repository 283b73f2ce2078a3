//! The wall clock, and whether it can be believed. A Raspberry Pi has no battery-backed clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2026-01-01T00:00:00Z in Unix seconds: this code is younger, so an earlier clock is not set. A constant that is
/// raised with releases, and not the time of the build: the same sources make the same program.
pub(crate) const EARLIEST_PLAUSIBLE_UNIX_S: u64 = 1_767_225_600;

/// A wall-clock reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Whether the clock had plausibly been set when it was read.
    pub clock_set: bool,
}

/// Reads the system clock.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Timestamp {
        unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        clock_set: since_epoch.as_secs() >= EARLIEST_PLAUSIBLE_UNIX_S,
    }
}
