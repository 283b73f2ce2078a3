//! Warns of the device certificate's end, from [`WARN_BEFORE`] on, at the start and once a day. What it warns of is
//! pure; renewing is not its business.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::credentials::Validity;
use crate::rfc3339;

/// How long ahead its end is told.
const WARN_BEFORE: Duration = Duration::from_hours(30 * 24);
/// How often it is told.
const TELL_INTERVAL: Duration = Duration::from_hours(24);
/// What the owner can do.
const REMEDY: &str = "register the device anew, or replace AWS_CERT and, unless the device made its own key \
     (PROVISION_KEY=device), AWS_PRIVATE_KEY";
/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// What is to be said of the certificate at `now`, if anything.
fn warning(validity: Validity, now: Timestamp) -> Option<String> {
    if let Some(expired) = expired(validity, now) {
        return Some(expired);
    }
    let left_s = validity.until_unix_s.saturating_sub(now.unix_ms / 1_000);
    if !now.clock_set || left_s > WARN_BEFORE.as_secs() {
        return None;
    }
    let (days, until) = (left_s / DAY_S, date(validity));
    Some(format!(
        "this device's certificate (AWS_CERT) expires in {days} days, on {until}: before then {REMEDY}"
    ))
}

/// What is to be said if the certificate has expired at `now`.
pub(super) fn expired(validity: Validity, now: Timestamp) -> Option<String> {
    let expired = now.clock_set && now.unix_ms / 1_000 >= validity.until_unix_s;
    expired.then(|| {
        format!(
            "this device's certificate (AWS_CERT) expired on {}: {REMEDY}",
            date(validity)
        )
    })
}

fn date(validity: Validity) -> String {
    rfc3339::utc(validity.until_unix_s.saturating_mul(1_000))
        .unwrap_or_else(|| "a day after the year 9999".to_owned())
}

/// Tells it whenever it is due, for ever.
pub(super) async fn keep_warning(validity: Option<Validity>, now: impl Fn() -> Timestamp) {
    loop {
        if let Some(warning) = validity.and_then(|validity| warning(validity, now())) {
            tracing::warn!("{warning}");
        }
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::logging::capture::Captured;

    const UNTIL: u64 = 1_800_000_000;
    const VALIDITY: Validity = Validity {
        from_unix_s: 0,
        until_unix_s: UNTIL,
    };

    fn at(unix_s: u64) -> Timestamp {
        Timestamp {
            unix_ms: unix_s * 1_000,
            clock_set: true,
        }
    }

    #[test]
    fn the_end_is_told_from_thirty_days_ahead_and_afterwards_in_other_words() {
        let says = |before_s: u64| warning(VALIDITY, at(UNTIL - before_s));
        assert_eq!(says(30 * DAY_S + 1), None);
        assert!(
            says(30 * DAY_S)
                .unwrap()
                .contains("expires in 30 days, on 2027-01-15T08:00:00.000Z")
        );
        assert!(says(1).unwrap().contains("expires in 0 days"));
        assert!(says(1).unwrap().contains("PROVISION_KEY=device"));
        assert!(
            warning(VALIDITY, at(UNTIL))
                .unwrap()
                .contains("expired on 2027")
        );
        assert!(
            warning(VALIDITY, at(UNTIL + 1))
                .unwrap()
                .contains("expired on 2027")
        );
    }

    #[test]
    fn a_clock_that_is_not_set_tells_nothing() {
        let now = Timestamp {
            clock_set: false,
            ..at(UNTIL)
        };
        assert_eq!(warning(VALIDITY, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_at_once_and_then_once_a_day() {
        let (log, _guard) = Captured::start(Level::WARN);
        let telling = keep_warning(Some(VALIDITY), || at(UNTIL - DAY_S));
        let days = TELL_INTERVAL * 2 + Duration::from_secs(1);
        assert!(tokio::time::timeout(days, telling).await.is_err());
        assert_eq!(log.text().lines().count(), 3, "{}", log.text());
    }
}
