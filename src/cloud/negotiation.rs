//! Which version of MQTT to speak: 5 if it is wanted and the cloud speaks it, else 3.1.1. Pure.
//!
//! A server without MQTT 5 either says so or closes the connection; but a connection is also closed for other
//! reasons. So after [`CLOSED_MAX`] closed ones the versions are tried in turn, until one is accepted. If it is not the
//! wanted one, and nobody has said that this is not spoken, the next connection tries it again, once.

use super::packet::MqttVersion;

/// This many connections in a row, each closed instead of being accepted, make us try the other version.
const CLOSED_MAX: u32 = 2;

/// Why another version than the wanted one was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The cloud has said that it does not speak the wanted one.
    Refused,
    /// It closed connections without a word.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Negotiation {
    wanted: MqttVersion,
    current: MqttVersion,
    /// In a row, with the current version.
    closed: u32,
    /// The cloud has said that it does not speak the wanted version.
    refused: bool,
    /// The wanted version was accepted before, so that a close has another reason.
    proven: bool,
    told: bool,
}

impl Negotiation {
    /// Begins with `wanted`; 3.1.1 has no alternative.
    pub(super) fn new(wanted: MqttVersion) -> Self {
        Negotiation {
            wanted,
            current: wanted,
            closed: 0,
            refused: false,
            proven: false,
            told: false,
        }
    }

    /// The version for the next CONNECT.
    pub(super) fn version(&self) -> MqttVersion {
        self.current
    }

    /// Notes that the cloud does not speak the current version.
    pub(super) fn refused(&mut self) {
        self.refused |= self.current == self.wanted;
        self.switch();
    }

    /// Notes that the cloud closed the connection instead of accepting it.
    pub(super) fn closed(&mut self) {
        self.closed += 1;
        if self.closed >= CLOSED_MAX && !self.proven {
            self.switch();
        }
    }

    /// Notes that the cloud accepted the connection. Returns whether it is to be told, for the first time, that it
    /// took another version than was wanted, and why that was tried.
    pub(super) fn accepted(&mut self) -> Option<Fallback> {
        self.closed = 0;
        if self.current == self.wanted {
            self.proven = true;
            return None;
        }
        if self.refused {
            return (!std::mem::replace(&mut self.told, true)).then_some(Fallback::Refused);
        }
        self.current = self.wanted;
        self.closed = CLOSED_MAX - 1;
        (!std::mem::replace(&mut self.told, true)).then_some(Fallback::Closed)
    }

    fn switch(&mut self) {
        self.closed = 0;
        self.current = self.other();
    }

    fn other(&self) -> MqttVersion {
        match (self.wanted, self.current) {
            (MqttVersion::V5, MqttVersion::V311) => MqttVersion::V5,
            _ => MqttVersion::V311,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MqttVersion::{V5, V311};

    #[test]
    fn a_refusal_falls_back_at_once_and_is_told_once() {
        let mut negotiation = Negotiation::new(V5);
        negotiation.refused();
        assert_eq!(negotiation.version(), V311);
        assert_eq!(negotiation.accepted(), Some(Fallback::Refused));
        assert_eq!(negotiation.accepted(), None);
        assert_eq!(negotiation.version(), V311);
    }

    #[test]
    fn connections_that_are_closed_make_it_try_both_versions_in_turn() {
        let mut negotiation = Negotiation::new(V5);
        let tried: Vec<MqttVersion> = (0..6)
            .map(|_| {
                let version = negotiation.version();
                negotiation.closed();
                version
            })
            .collect();
        assert_eq!(tried, [V5, V5, V311, V311, V5, V5]);
    }

    #[test]
    fn after_a_fallback_for_closed_connections_the_next_one_tries_the_wanted_version_once() {
        let mut negotiation = Negotiation::new(V5);
        for told in [Some(Fallback::Closed), None] {
            while negotiation.version() == V5 {
                negotiation.closed();
            }
            assert_eq!(negotiation.accepted(), told);
            assert_eq!(negotiation.version(), V5);
            negotiation.closed();
            assert_eq!(negotiation.version(), V311, "once was enough");
        }
        negotiation.accepted();
        assert_eq!(negotiation.accepted(), None, "5 is accepted after all");
        for _ in 0..10 {
            negotiation.closed();
            assert_eq!(negotiation.version(), V5);
        }
    }

    #[test]
    fn after_a_good_connection_closed_ones_change_nothing() {
        let mut negotiation = Negotiation::new(V5);
        negotiation.closed();
        assert_eq!(negotiation.accepted(), None);
        for _ in 0..10 {
            negotiation.closed();
            assert_eq!(negotiation.version(), V5);
        }
    }

    #[test]
    fn who_wants_3_1_1_gets_nothing_else() {
        let mut negotiation = Negotiation::new(V311);
        for _ in 0..5 {
            negotiation.refused();
            negotiation.closed();
            assert_eq!(negotiation.version(), V311);
        }
        assert_eq!(negotiation.accepted(), None);
    }
}
