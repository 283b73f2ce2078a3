//! What `CLOUD_STATUS_TOPIC` says: whether the device is connected. Pure.
//!
//! Retained, so that whoever asks later knows it too. The will says it when the device cannot.

use serde_json::json;

use super::packet::Will;
use crate::clock::Timestamp;
use crate::rfc3339;

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// After it has connected.
    Online,
    /// Before it disconnects.
    Stopped,
}

impl Status {
    /// The message at `now`.
    pub(super) fn payload(self, now: Timestamp) -> Vec<u8> {
        let time = rfc3339::utc(now.unix_ms).filter(|_| now.clock_set);
        match self {
            Status::Online => message("online", None, time.as_deref()),
            Status::Stopped => message("offline", Some("stopped"), time.as_deref()),
        }
    }
}

/// What the cloud says when the connection is lost. It has no time: nobody knows it ahead.
pub(super) fn will(topic: &str) -> Will {
    Will {
        topic: topic.to_owned(),
        payload: message("offline", Some("connection lost"), None),
    }
}

fn message(state: &str, reason: Option<&str>, time: Option<&str>) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    json!({"state": state, "reason": reason, "time": time, "version": version})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_told_only_if_the_clock_is_set() {
        let mut now = Timestamp {
            unix_ms: 1_800_000_000_000,
            clock_set: true,
        };
        let online = |now| String::from_utf8(Status::Online.payload(now)).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"{{"reason":null,"state":"online","time":"2027-01-15T08:00:00.000Z","version":"{version}"}}"#
        );
        assert_eq!(online(now), expected);
        now.clock_set = false;
        assert!(online(now).contains(r#""time":null"#));
        let stopped = String::from_utf8(Status::Stopped.payload(now)).unwrap();
        assert!(
            stopped.contains(r#""reason":"stopped","state":"offline""#),
            "{stopped}"
        );
    }
}
