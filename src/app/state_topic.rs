//! The relay's state for local clients: a retained message on [`crate::local::STATE_TOPIC`], anew at each change. It
//! never goes to the cloud.

use std::convert::Infallible;

use serde_json::json;
use tokio::sync::watch;

use crate::clock::{self, Timestamp};
use crate::local::Publisher;
use crate::rfc3339;
use crate::state::State;

/// Tells the present state, and then each change of it, for ever.
pub(super) async fn keep_telling(
    mut states: watch::Receiver<State>,
    publisher: Publisher,
) -> Infallible {
    loop {
        let message = message(&states.borrow_and_update(), clock::now());
        publisher.tell_state(message.as_bytes());
        if states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What is told of `state`, in which the relay is since `now`. `since` is null while the clock is not set.
fn message(state: &State, now: Timestamp) -> String {
    let since = rfc3339::utc(now.unix_ms).filter(|_| now.clock_set);
    json!({
        "state": state.name(),
        "reason": state.reason(),
        "since": since,
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_reason_and_since_when_are_told() {
        let now = Timestamp {
            unix_ms: 1_800_000_000_000,
            clock_set: true,
        };
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"{{"reason":null,"since":"2027-01-15T08:00:00.000Z","state":"connected","version":"{version}"}}"#
        );
        assert_eq!(message(&State::Connected, now), expected);
        let lost = State::Disconnected {
            reason: "no route".to_owned(),
        };
        let unset = Timestamp {
            clock_set: false,
            ..now
        };
        let told = message(&lost, unset);
        assert!(
            told.starts_with(r#"{"reason":"no route","since":null,"state":"disconnected""#),
            "{told}"
        );
    }
}
