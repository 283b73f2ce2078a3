//! How long a message is still of use, by what its publisher said (MQTT 5, 3.3.2.3.3). Pure.

use std::time::Duration;

/// What of `expiry_s`, the time that a message may wait, is left when it has `waited`: at least a second, or `None` if
/// it has expired. If it is not known how long it has waited, all is left.
pub(super) fn left_s(expiry_s: u32, waited: Option<Duration>) -> Option<u32> {
    let expiry = Duration::from_secs(expiry_s.into());
    let Some(waited) = waited else {
        return Some(expiry_s.max(1));
    };
    if waited >= expiry {
        return None;
    }
    let waited_s = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
    Some(expiry_s.saturating_sub(waited_s).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_whole_seconds_until_nothing_is() {
        let left = |expiry_s, waited_ms| left_s(expiry_s, Some(Duration::from_millis(waited_ms)));
        assert_eq!(left(10, 0), Some(10));
        assert_eq!(left(10, 999), Some(10));
        assert_eq!(left(10, 9_999), Some(1));
        assert_eq!(left(10, 10_000), None);
        assert_eq!(left(0, 0), None);
        assert_eq!(left(u32::MAX, 1_000), Some(u32::MAX - 1));
    }

    #[test]
    fn a_message_does_not_expire_by_a_clock_that_cannot_be_believed() {
        assert_eq!(left_s(10, None), Some(10));
        assert_eq!(left_s(0, None), Some(1));
    }
}
