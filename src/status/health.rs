//! From what is the case to what a person should know: is data accepted and safe, and what to do. Pure.

use std::time::Duration;

use super::snapshot::Health;
use crate::spool::{FullPolicy, Progress};
use crate::state::State;

/// A main task that has not moved for this long is stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_mins(1);

/// What the judgement is made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) state: &'a State,
    pub(super) progress: Progress,
    pub(super) full: FullPolicy,
    /// How long ago the main task last moved.
    pub(super) main_task_age: Duration,
}

/// The judgement, without its age. Being without a cloud is no fault: data is accepted and kept.
pub(super) fn judge(facts: &Facts<'_>) -> Health {
    let Facts { progress, .. } = facts;
    if facts.main_task_age >= STUCK_AFTER {
        let reason = format!(
            "the relay's main task has not moved for {} s",
            facts.main_task_age.as_secs()
        );
        return unsafe_now(
            "stuck",
            reason,
            "Restart the service: nothing acknowledged is lost. Then please report it with the log",
        );
    }
    if progress.failed {
        return unsafe_now(
            "spool-failed",
            "the disk has failed; nothing more is acknowledged, and the relay ends".to_owned(),
            "Look for disk errors on the device (dmesg) and at the log's last line",
        );
    }
    if progress.disk_full {
        return unsafe_now(
            "disk-full",
            format!("the disk has no room: {}", consequence(facts.full)),
            "Free space on the device, or lower SPOOL_MIN_FREE_BYTES if it leaves too much to others",
        );
    }
    if progress.full {
        return unsafe_now(
            "spool-full",
            format!(
                "the spool has reached SPOOL_MAX_BYTES: {}",
                consequence(facts.full)
            ),
            "Get the cloud connected, so that the spool drains, or raise SPOOL_MAX_BYTES",
        );
    }
    Health {
        ok: true,
        state: facts.state.name().to_owned(),
        since_s: 0,
        reason: reason(facts.state),
        remedy: remedy(facts.state).map(str::to_owned),
    }
}

fn unsafe_now(state: &str, reason: String, remedy: &str) -> Health {
    Health {
        ok: false,
        state: state.to_owned(),
        since_s: 0,
        reason,
        remedy: Some(remedy.to_owned()),
    }
}

fn consequence(full: FullPolicy) -> &'static str {
    match full {
        FullPolicy::Block => "messages are not acknowledged until there is room",
        FullPolicy::DropOldest => "the oldest messages are given up",
        FullPolicy::DropNewest => "new messages are given up",
    }
}

fn reason(state: &State) -> String {
    if let Some(reason) = state.reason() {
        return reason.to_owned();
    }
    match state {
        State::Provisioning => "the cloud function is asked to register this device",
        State::AwaitingCredentials => {
            "the device is registered; balenaCloud has yet to push its credentials"
        }
        State::Connecting => "a connection to the cloud is being made",
        _ => "messages go to the cloud",
    }
    .to_owned()
}

/// What the owner can do. A state has many reasons: those that are words of their own name their remedy, too.
fn remedy(state: &State) -> Option<&'static str> {
    Some(match state {
        State::Unconfigured { .. } => {
            "Set the variable in balenaCloud; the relay is then started anew. Messages are kept until then"
        }
        State::Misconfigured { .. } => {
            "Put right what the reason names: a variable in balenaCloud, and the relay is then started anew. Messages \
             are kept until then"
        }
        State::ClockUnset { .. } => {
            "Let NTP (UDP port 123) out of the network; it goes on by itself"
        }
        State::AwaitingCredentials => {
            "If it stays: is the device online in the dashboard, does another service hold an update lock, \
             has the service the label io.balena.features.supervisor-api?"
        }
        State::Disconnected { .. } => {
            "Nothing for now: messages are kept, and it is tried again by itself. If it lasts, see to what the reason names"
        }
        State::Connecting => {
            "If it stays: does the network let AWS_PORT out? 443 passes most firewalls"
        }
        State::Provisioning | State::Connected => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Progress = Progress {
        safe: 0,
        full: false,
        disk_full: false,
        dropped_full: 0,
        dropped_damaged: 0,
        dropped_expired: 0,
        failed: false,
    };

    fn judged(state: &State, progress: Progress, main_task_age: Duration) -> Health {
        judge(&Facts {
            state,
            progress,
            full: FullPolicy::Block,
            main_task_age,
        })
    }

    #[test]
    fn without_a_cloud_data_is_safe_all_the_same_and_the_reason_is_told() {
        let lost = State::Disconnected {
            reason: "no route".to_owned(),
        };
        let health = judged(&lost, CALM, Duration::ZERO);
        assert!(health.ok);
        assert_eq!(
            (health.state.as_str(), health.reason.as_str()),
            ("disconnected", "no route")
        );
        assert!(health.remedy.is_some_and(|remedy| remedy.contains("kept")));
        assert_eq!(judged(&State::Connected, CALM, Duration::ZERO).remedy, None);
    }

    #[test]
    fn a_remedy_names_no_cause_that_the_reason_may_contradict() {
        let reason = "cannot read from the spool: I/O error".to_owned();
        for state in [
            State::Disconnected {
                reason: reason.clone(),
            },
            State::Misconfigured { reason },
            State::Connecting,
        ] {
            let remedy = judged(&state, CALM, Duration::ZERO).remedy.unwrap();
            for cause in ["8883", "policy", "Set the variable", "Try"] {
                assert!(!remedy.contains(cause), "{state}: {remedy}");
            }
        }
    }

    #[test]
    fn what_endangers_data_is_unhealthy_even_when_connected_and_names_its_remedy() {
        let full = Progress { full: true, ..CALM };
        let disk_full = Progress {
            disk_full: true,
            ..CALM
        };
        let failed = Progress {
            failed: true,
            ..full
        };
        for (progress, age, name) in [
            (full, Duration::ZERO, "spool-full"),
            (disk_full, Duration::ZERO, "disk-full"),
            (failed, Duration::ZERO, "spool-failed"),
            (CALM, STUCK_AFTER, "stuck"),
        ] {
            let health = judged(&State::Connected, progress, age);
            assert!(!health.ok && health.remedy.is_some(), "{name}");
            assert_eq!(health.state, name);
        }
        let nearly = STUCK_AFTER.saturating_sub(Duration::from_millis(1));
        assert!(judged(&State::Connected, CALM, nearly).ok);
    }
}
