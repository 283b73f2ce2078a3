//! Waits until the system clock can be believed. A Raspberry Pi starts without a battery-backed clock, and with a
//! wrong one every certificate looks invalid.
//!
//! It sets no clock and asks no time server: balenaOS does. The clock is an argument, so that tests have their own.

use std::time::Duration;

use crate::clock::{EARLIEST_PLAUSIBLE_UNIX_S, Timestamp};
use crate::rfc3339;
use crate::state::{State, StateBoard};

/// How often the clock is looked at while it is not set: nothing tells when it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the owner can do.
const REMEDY: &str =
    "waiting for network time; if it does not come, let NTP (UDP port 123) out of the network";

/// The earliest time at which certificates can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockGate {
    not_before_unix_s: u64,
}

impl ClockGate {
    /// A gate that opens once the clock is not older than this program, nor than `certificate_from_unix_s`, the
    /// start of the device certificate's validity, if it is known.
    pub fn new(certificate_from_unix_s: Option<u64>) -> Self {
        ClockGate {
            not_before_unix_s: certificate_from_unix_s.unwrap_or(0),
        }
    }

    /// Why the clock cannot be right at `now`; `None` if it can.
    pub fn closed(self, now: Timestamp) -> Option<String> {
        let earliest_unix_s = self.not_before_unix_s.max(EARLIEST_PLAUSIBLE_UNIX_S);
        if now.unix_ms / 1_000 >= earliest_unix_s {
            return None;
        }
        let what = if self.not_before_unix_s > EARLIEST_PLAUSIBLE_UNIX_S {
            "the device's certificate is valid from"
        } else {
            "this program is from after"
        };
        Some(format!(
            "this device's clock says {}, but {what} {}; {REMEDY}",
            time_of(now.unix_ms),
            time_of(earliest_unix_s.saturating_mul(1_000)),
        ))
    }

    /// Waits until the clock that `now` reads can be right; shows on `state` if it has to wait.
    pub async fn wait(self, state: &StateBoard, now: impl Fn() -> Timestamp) {
        if let Some(reason) = self.closed(now()) {
            state.set(State::ClockUnset { reason });
            while self.closed(now()).is_some() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            tracing::info!("the clock is set: {}", time_of(now().unix_ms));
        }
    }
}

/// The state when a server's certificate is not valid yet by this device's clock.
pub(crate) fn behind(host: &str) -> State {
    State::ClockUnset {
        reason: format!(
            "this device's clock is behind: the certificate of {host} is valid from later on; {REMEDY}"
        ),
    }
}

fn time_of(unix_ms: u64) -> String {
    rfc3339::utc(unix_ms).unwrap_or_else(|| "a year after 9999".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn at(unix_s: u64) -> Timestamp {
        Timestamp {
            unix_ms: unix_s * 1_000,
            clock_set: unix_s >= EARLIEST_PLAUSIBLE_UNIX_S,
        }
    }

    #[test]
    fn a_clock_older_than_the_program_or_the_certificate_is_not_believed() {
        let gate = ClockGate::new(None);
        let reason = gate.closed(at(0)).unwrap();
        assert!(
            reason.contains("1970-01-01T00:00:00.000Z") && reason.contains("UDP port 123"),
            "{reason}"
        );
        assert_eq!(gate.closed(at(EARLIEST_PLAUSIBLE_UNIX_S)), None);
        let from = EARLIEST_PLAUSIBLE_UNIX_S + 10;
        let gate = ClockGate::new(Some(from));
        let reason = gate.closed(at(from - 1)).unwrap();
        assert!(
            reason.contains("certificate is valid from 2026-01-01T00:00:10.000Z"),
            "{reason}"
        );
        assert_eq!(gate.closed(at(from)), None);
    }

    #[test]
    fn a_certificate_without_a_start_does_not_open_the_gate_early() {
        assert!(ClockGate::new(Some(0)).closed(at(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_clock_and_shows_that_it_does() {
        let state = StateBoard::new(State::Connecting);
        let start = Instant::now();
        let clock = || {
            let set = start.elapsed() >= Duration::from_secs(90);
            at(if set { EARLIEST_PLAUSIBLE_UNIX_S } else { 0 })
        };
        let mut shown = state.subscribe();
        let waited = ClockGate::new(None).wait(&state, clock);
        let watched = async {
            shown.changed().await.unwrap();
            assert_eq!(shown.borrow().name(), "clock-unset");
        };
        tokio::join!(waited, watched);
        assert_eq!(start.elapsed().as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_right_costs_no_time_and_no_word() {
        let state = StateBoard::new(State::Connecting);
        let shown = state.subscribe();
        ClockGate::new(None)
            .wait(&state, || at(EARLIEST_PLAUSIBLE_UNIX_S))
            .await;
        assert!(!shown.has_changed().unwrap());
    }
}
