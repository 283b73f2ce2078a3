//! How long a message may wait in memory before it is written. Pure.
//!
//! A message is written at once, unless the cloud is likely to accept it within [`Options::linger`]: the
//! consumer is linked, few messages wait to be given out, and the last one that was settled took no longer
//! than that. Then the message waits in memory, and if it is settled in time it is never written. The first
//! message that has waited in vain ends the lingering for all, until the cloud is fast again.
//!
//! [`Options::linger`]: super::Options::linger

use std::time::Duration;

/// With more messages than this waiting to be given out, the consumer is behind.
const BEHIND_MESSAGES: u64 = 256;
/// How long a QoS 0 message, which nobody waits for, may stay in memory only.
const QOS0_LINGER: Duration = Duration::from_secs(10);

/// Whether messages may linger.
#[derive(Debug)]
pub(super) struct Linger {
    limit: Duration,
    /// The consumer has a connection to the cloud.
    linked: bool,
    /// The last message that was settled took no longer than the limit.
    cloud_fast: bool,
}

impl Linger {
    pub(super) fn new(limit: Duration) -> Self {
        Linger {
            limit,
            linked: false,
            cloud_fast: true,
        }
    }

    /// How long a message may wait, with `waiting` messages before it to be given out.
    pub(super) fn allowance(&self, qos: u8, waiting: u64) -> Duration {
        if qos == 0 {
            QOS0_LINGER
        } else if self.linked && self.cloud_fast && waiting <= BEHIND_MESSAGES {
            self.limit
        } else {
            Duration::ZERO
        }
    }

    /// Notes the state of the link; `true` if it was lost, so that nothing need wait any longer.
    pub(super) fn set_linked(&mut self, linked: bool) -> bool {
        std::mem::replace(&mut self.linked, linked) && !linked
    }

    /// Notes how long the cloud took to accept a message.
    pub(super) fn settled_after(&mut self, latency: Duration) {
        self.cloud_fast = latency <= self.limit;
    }

    /// Notes that a message has waited for as long as it may.
    pub(super) fn waited_in_vain(&mut self) {
        self.cloud_fast = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    #[test]
    fn messages_linger_only_while_linked_and_not_behind() {
        let mut linger = Linger::new(LIMIT);
        assert_eq!(linger.allowance(1, 0), Duration::ZERO);
        assert!(!linger.set_linked(true));
        assert_eq!(linger.allowance(1, BEHIND_MESSAGES), LIMIT);
        assert_eq!(linger.allowance(2, BEHIND_MESSAGES + 1), Duration::ZERO);
        assert!(linger.set_linked(false));
        assert_eq!(linger.allowance(1, 0), Duration::ZERO);
    }

    #[test]
    fn waiting_in_vain_ends_the_lingering_until_the_cloud_is_fast_again() {
        let mut linger = Linger::new(LIMIT);
        linger.set_linked(true);
        linger.waited_in_vain();
        assert_eq!(linger.allowance(1, 0), Duration::ZERO);
        linger.settled_after(LIMIT * 2);
        assert_eq!(linger.allowance(1, 0), Duration::ZERO);
        linger.settled_after(LIMIT);
        assert_eq!(linger.allowance(1, 0), LIMIT);
    }

    #[test]
    fn nobody_waits_for_a_qos_0_message() {
        assert_eq!(Linger::new(LIMIT).allowance(0, 1_000_000), QOS0_LINGER);
    }
}
