//! The order and time in which one connection's acknowledgements go out. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::faults::{Faults, GROUP_PATIENCE};

/// One acknowledgement: packet identifier and reason, the latter for MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// PUBACK for a `QoS` 1 publish.
    Puback(u16, u8),
    /// PUBREC for a `QoS` 2 publish.
    Pubrec(u16, u8),
}

/// Acknowledgements that wait for their turn, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    waiting: VecDeque<(Instant, Ack)>,
}

impl AckQueue {
    /// Takes the acknowledgement of a publish that arrived at `now`.
    pub(crate) fn push(&mut self, now: Instant, ack: Ack) {
        self.waiting.push_back((now, ack));
    }

    /// How many publishes are not acknowledged yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Hands everything that may go out at `now` to `send`.
    pub(crate) fn release(&mut self, now: Instant, faults: &Faults, mut send: impl FnMut(Ack)) {
        if faults.hold_acks {
            return;
        }
        if let Some(group) = faults.reverse_acks_in_groups_of {
            let group = usize::try_from(group.get()).unwrap_or(usize::MAX);
            self.release_reversed(now, faults.ack_delay, group, send);
            return;
        }
        while let Some((arrived, ack)) = self.waiting.front().copied() {
            if arrived + faults.ack_delay > now {
                break;
            }
            self.waiting.pop_front();
            send(ack);
        }
    }

    fn release_reversed(
        &mut self,
        now: Instant,
        delay: Duration,
        group: usize,
        mut send: impl FnMut(Ack),
    ) {
        while let Some((first, _)) = self.waiting.front().copied() {
            let full = self.waiting.len() >= group && first + delay <= now;
            let impatient = first + delay + GROUP_PATIENCE <= now;
            if !full && !impatient {
                break;
            }
            let members = group.min(self.waiting.len());
            for (_, ack) in self.waiting.drain(..members).rev() {
                send(ack);
            }
        }
    }

    /// When [`AckQueue::release`] should be called next, if time alone can release anything.
    pub(crate) fn due(&self, faults: &Faults) -> Option<Instant> {
        if faults.hold_acks {
            return None;
        }
        let (arrived, _) = self.waiting.front()?;
        let patience = faults
            .reverse_acks_in_groups_of
            .map_or(Duration::ZERO, |_| GROUP_PATIENCE);
        Some(*arrived + faults.ack_delay + patience)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn released(queue: &mut AckQueue, now: Instant, faults: &Faults) -> Vec<u16> {
        let mut ids = Vec::new();
        queue.release(now, faults, |ack| match ack {
            Ack::Puback(id, _) | Ack::Pubrec(id, _) => ids.push(id),
        });
        ids
    }

    fn filled(now: Instant, ids: std::ops::RangeInclusive<u16>) -> AckQueue {
        let mut queue = AckQueue::default();
        ids.for_each(|id| queue.push(now, Ack::Puback(id, 0)));
        queue
    }

    #[test]
    fn without_faults_acks_go_out_at_once_and_in_order() {
        let now = Instant::now();
        assert_eq!(
            released(&mut filled(now, 1..=3), now, &Faults::default()),
            [1, 2, 3]
        );
    }

    #[test]
    fn held_acks_stay_until_they_are_released() {
        let now = Instant::now();
        let mut queue = filled(now, 1..=2);
        let held = Faults {
            hold_acks: true,
            ..Faults::default()
        };
        assert!(released(&mut queue, now, &held).is_empty());
        assert_eq!(queue.due(&held), None);
        assert_eq!(released(&mut queue, now, &Faults::default()), [1, 2]);
    }

    #[test]
    fn a_delayed_ack_goes_out_when_it_is_due() {
        let now = Instant::now();
        let mut queue = filled(now, 1..=1);
        let delay = Duration::from_millis(50);
        let slow = Faults {
            ack_delay: delay,
            ..Faults::default()
        };
        assert!(released(&mut queue, now + delay / 2, &slow).is_empty());
        assert_eq!(queue.due(&slow), Some(now + delay));
        assert_eq!(released(&mut queue, now + delay, &slow), [1]);
    }

    #[test]
    fn reversed_groups_go_out_when_full_or_when_patience_ends() {
        let now = Instant::now();
        let mut queue = filled(now, 1..=5);
        let reversed = Faults {
            reverse_acks_in_groups_of: NonZeroU32::new(3),
            ..Faults::default()
        };
        assert_eq!(released(&mut queue, now, &reversed), [3, 2, 1]);
        assert_eq!(queue.due(&reversed), Some(now + GROUP_PATIENCE));
        assert_eq!(
            released(&mut queue, now + GROUP_PATIENCE, &reversed),
            [5, 4]
        );
    }
}
