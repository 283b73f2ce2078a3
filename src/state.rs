//! What the relay is doing, as one value that every part can watch.
//!
//! In every one of these states the local broker accepts and spools.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The relay's state. `Display` is the line a person reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The relay has no cloud to send to; says which variable to set.
    Unconfigured {
        /// What is missing and what to do.
        missing: String,
    },
    /// The system clock cannot be right yet, so certificates cannot be checked.
    ClockUnset {
        /// How that is known, and what to do.
        reason: String,
    },
    /// The provisioning endpoint is being asked to register this device.
    Provisioning,
    /// Registered; waiting for balenaCloud to push the credentials.
    AwaitingCredentials,
    /// A connection to the cloud is being made.
    Connecting,
    /// The cloud accepted the connection.
    Connected,
    /// The connection failed or ended; it is tried again.
    Disconnected {
        /// Why, in words a person can act on.
        reason: String,
    },
    /// Something is wrong that somebody has to put right, a setting or a file. What may come right without a restart is
    /// tried again.
    Misconfigured {
        /// What it is, and what is expected.
        reason: String,
    },
}

impl State {
    /// The state's stable name, as used in health answers and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            State::Unconfigured { .. } => "unconfigured",
            State::ClockUnset { .. } => "clock-unset",
            State::Provisioning => "provisioning",
            State::AwaitingCredentials => "awaiting-credentials",
            State::Connecting => "connecting",
            State::Connected => "connected",
            State::Disconnected { .. } => "disconnected",
            State::Misconfigured { .. } => "misconfigured",
        }
    }

    /// Whether messages cannot flow and the owner may have to act.
    fn is_trouble(&self) -> bool {
        self.reason().is_some()
    }

    /// Why messages cannot flow, and what to do about it, if the owner may have to act.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Unconfigured { missing: reason }
            | State::ClockUnset { reason }
            | State::Disconnected { reason }
            | State::Misconfigured { reason } => Some(reason),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}

/// Where the state is written and watched. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateBoard(watch::Sender<State>, Arc<Links>);

/// How often the cloud was reached and lost.
#[derive(Debug, Default)]
struct Links {
    made: AtomicU64,
    lost: AtomicU64,
}

impl StateBoard {
    /// A board that shows `initial`.
    pub fn new(initial: State) -> Self {
        StateBoard(watch::Sender::new(initial), Arc::default())
    }

    /// Shows `next` and logs it if it differs from what was shown.
    pub fn set(&self, next: State) {
        self.0.send_if_modified(|current| {
            if *current == next {
                return false;
            }
            if next.is_trouble() {
                tracing::warn!("{next}");
            } else {
                tracing::info!("{next}");
            }
            if next == State::Connected {
                self.1.made.fetch_add(1, Ordering::Relaxed);
            } else if *current == State::Connected {
                self.1.lost.fetch_add(1, Ordering::Relaxed);
            }
            *current = next;
            true
        });
    }

    /// What is shown now.
    pub fn current(&self) -> State {
        self.0.borrow().clone()
    }

    /// How many connections to the cloud were accepted by it.
    pub fn connections_made(&self) -> u64 {
        self.1.made.load(Ordering::Relaxed)
    }

    /// How many of them were lost.
    pub fn connections_lost(&self) -> u64 {
        self.1.lost.load(Ordering::Relaxed)
    }

    /// Follows the state from now on.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::logging::capture::Captured;

    #[test]
    fn a_change_is_told_once_and_trouble_with_its_reason_as_a_warning() {
        let (log, _guard) = Captured::start(Level::INFO);
        let board = StateBoard::new(State::Connecting);
        let lost = State::Disconnected {
            reason: "no route".to_owned(),
        };
        for state in [&State::Connected, &State::Connected, &lost, &lost] {
            board.set(state.clone());
        }
        board.set(State::Connected);
        assert_eq!(board.current(), State::Connected);
        assert_eq!((board.connections_made(), board.connections_lost()), (2, 1));
        assert_eq!(
            log.text(),
            "INFO state: connected\nWARN state: disconnected: no route\nINFO state: connected\n"
        );
    }
}
