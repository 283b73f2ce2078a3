//! Which message keeps ending the connection. Pure.
//!
//! A network that drops must not convict anybody: a message has to be in flight *alone*, several times in a row, when
//! the connection is closed. And a cloud that closes on everything, as one does whose policy is missing, must not
//! either: a message is convicted only while others are accepted. Until then it is set aside, and the next one tried;
//! once anything is accepted, each that was set aside gets one more chance.

use std::collections::BTreeSet;

use super::window::IN_FLIGHT_MAX;
use crate::spool::Seq;

/// This many ends of a connection in a row, with one message alone in flight, prove it.
pub const PROOFS: u32 = 3;
/// So many messages are set aside at most. If nothing was accepted by then it starts over with the oldest.
pub const ASIDE_MAX: usize = 100;

/// What is thought of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be sent.
    Free,
    /// Others first.
    Aside,
    /// It ends connections, while others are accepted.
    Convicted,
}

/// Finds the message that ends connections. It outlives them.
///
/// A connection that ends without an explanation and without an acknowledgement makes all in flight suspects. From
/// then on one message is in flight at a time, until each suspect is accepted, set aside or convicted.
#[derive(Debug, Default)]
pub struct Suspicion {
    suspects: BTreeSet<Seq>,
    /// The message that was alone in flight when the last connection ended, and how often in a row.
    alone: Option<(Seq, u32)>,
    /// Proven, but while nothing was accepted.
    aside: BTreeSet<Seq>,
    /// Was set aside, and has its last chance.
    proven: BTreeSet<Seq>,
    convicted: BTreeSet<Seq>,
}

impl Suspicion {
    /// How many messages may be in flight.
    pub fn in_flight_max(&self) -> usize {
        if self.suspects.is_empty() {
            IN_FLIGHT_MAX
        } else {
            1
        }
    }

    /// What is thought of the message `seq`.
    pub fn standing(&self, seq: Seq) -> Standing {
        if self.convicted.contains(&seq) {
            Standing::Convicted
        } else if self.aside.contains(&seq) {
            Standing::Aside
        } else {
            Standing::Free
        }
    }

    /// Notes that the cloud has answered for `seq`, whatever the answer, or that it has left the spool.
    pub fn answered(&mut self, seq: Seq) {
        self.suspects.remove(&seq);
        self.proven.remove(&seq);
        self.convicted.remove(&seq);
        if self.alone.is_some_and(|(alone, _)| alone == seq) {
            self.alone = None;
        }
    }

    /// Notes that every message before `seq` has left the spool, in whatever way.
    pub fn forget_before(&mut self, seq: Seq) {
        self.suspects = self.suspects.split_off(&seq);
        self.proven = self.proven.split_off(&seq);
    }

    /// Gives each message that was set aside one more chance: something was accepted, or there is nothing else to try.
    /// Says whether there is any.
    pub fn try_again(&mut self) -> bool {
        let any = !self.aside.is_empty();
        self.suspects.extend(&self.aside);
        self.proven.append(&mut self.aside);
        any
    }

    /// Notes that a connection ended without an explanation while `in_flight` were unacknowledged; `progress` says
    /// whether it had brought an acknowledgement, `others_accepted` whether the cloud accepts messages at all.
    /// Returns the message that is convicted by it.
    pub fn connection_ended(
        &mut self,
        in_flight: impl IntoIterator<Item = Seq>,
        progress: bool,
        others_accepted: bool,
    ) -> Option<Seq> {
        let in_flight: BTreeSet<Seq> = in_flight.into_iter().collect();
        let seq = *in_flight.first()?;
        if self.suspects.is_empty() {
            if !progress {
                self.suspects = in_flight;
            }
            return None;
        }
        if in_flight.len() > 1 {
            return None;
        }
        let proofs = match self.alone {
            Some((alone, proofs)) if alone == seq => proofs + 1,
            _ => 1,
        };
        self.alone = Some((seq, proofs));
        if proofs < PROOFS && !self.proven.contains(&seq) {
            return None;
        }
        self.answered(seq);
        if others_accepted {
            self.convicted.insert(seq);
            return Some(seq);
        }
        if self.aside.len() >= ASIDE_MAX {
            self.aside.clear();
        }
        self.aside.insert(seq);
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_connection_that_brought_something_accuses_nobody() {
        let mut suspicion = Suspicion::default();
        for _ in 0..10 {
            assert_eq!(suspicion.connection_ended(1..50, true, true), None);
            assert_eq!(suspicion.in_flight_max(), IN_FLIGHT_MAX);
        }
        assert_eq!(suspicion.connection_ended([], false, true), None);
        assert_eq!(suspicion.in_flight_max(), IN_FLIGHT_MAX);
    }

    #[test]
    fn ends_with_different_messages_alone_in_flight_convict_none() {
        let mut suspicion = Suspicion::default();
        suspicion.connection_ended(1..=9, false, true);
        for seq in [1, 1, 2, 2, 3, 3] {
            let convicted = suspicion.connection_ended([seq], false, true);
            assert_eq!(convicted, None, "{seq}");
        }
        suspicion.answered(3);
        assert_eq!(suspicion.connection_ended([3], false, true), None);
    }

    /// What became of the messages `0..count`.
    #[derive(Default)]
    struct Drained {
        accepted: BTreeSet<Seq>,
        convicted: BTreeSet<Seq>,
        connections: u32,
    }

    /// Sends `0..count` over connections that end whenever one is sent for which `closes` holds, as the cloud of
    /// MQTT 3.1.1 does; gives up after `connections_max`.
    fn drain(
        suspicion: &mut Suspicion,
        count: Seq,
        connections_max: u32,
        closes: impl Fn(Seq) -> bool,
    ) -> Drained {
        let mut drained = Drained::default();
        let mut left: Vec<Seq> = (0..count).collect();
        while !left.is_empty() && drained.connections < connections_max {
            drained.connections += 1;
            let mut progress = false;
            loop {
                left.retain(|seq| match suspicion.standing(*seq) {
                    Standing::Convicted => {
                        suspicion.answered(*seq);
                        drained.convicted.insert(*seq);
                        false
                    }
                    _ => true,
                });
                let free =
                    (left.iter().copied()).filter(|seq| suspicion.standing(*seq) == Standing::Free);
                let in_flight: Vec<Seq> = free.take(suspicion.in_flight_max()).collect();
                let Some(first) = in_flight.first().copied() else {
                    break;
                };
                if closes(first) {
                    let others = !drained.accepted.is_empty();
                    suspicion.connection_ended(in_flight, progress, others);
                    break;
                }
                suspicion.answered(first);
                suspicion.try_again();
                progress = true;
                drained.accepted.insert(first);
                left.retain(|seq| *seq != first);
            }
        }
        drained
    }

    #[test]
    fn a_cloud_that_closes_on_everything_convicts_nothing_and_all_arrives_when_it_stops() {
        let mut suspicion = Suspicion::default();
        let drained = drain(&mut suspicion, 1_000, 2_000, |_| true);
        assert_eq!(drained.convicted.len() + drained.accepted.len(), 0);
        assert!(suspicion.aside.len() <= ASIDE_MAX);
        suspicion.try_again();
        let drained = drain(&mut suspicion, 1_000, 2_000, |_| false);
        assert_eq!(drained.accepted.len(), 1_000);
    }

    proptest! {
        #[test]
        fn the_guilty_are_convicted_and_everybody_else_is_accepted(
            count in 1_u64..400,
            poisons in prop::collection::btree_set(0_u64..400, 0..6),
        ) {
            let guilty: BTreeSet<Seq> = poisons.into_iter().filter(|seq| *seq < count).collect();
            prop_assume!(guilty.len() < usize::try_from(count).unwrap());
            let mut suspicion = Suspicion::default();
            let drained = drain(&mut suspicion, count, 1_000, |seq| guilty.contains(&seq));
            let innocent: BTreeSet<Seq> = (0..count).filter(|seq| !guilty.contains(seq)).collect();
            prop_assert_eq!(drained.accepted, innocent);
            // Its last chance costs one more.
            let each = PROOFS + 3;
            prop_assert!(drained.connections <= 2 + each * u32::try_from(guilty.len()).unwrap());
            prop_assert_eq!(drained.convicted, guilty);
        }
    }
}
