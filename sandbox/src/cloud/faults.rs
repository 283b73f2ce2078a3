//! What the cloud can be told to do wrong, while it runs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// They are served.
    #[default]
    Accept,
    /// A new one is closed before the TLS handshake.
    Close,
    /// A new one gets a CONNACK "server unavailable" (3, in MQTT 5 0x88) and is closed.
    RefuseConnack,
    /// A new one gets a CONNACK with this code, whatever it means in its version, and is closed.
    RefuseWith(u8),
    /// TCP is accepted, then nothing is read or answered any more; the ones already open freeze too.
    Freeze,
}

/// The faults; [`Faults::default`] has none. See [`Cloud::set_faults`](super::Cloud::set_faults).
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// What happens to connections.
    pub connections: Connections,
    /// Acknowledgements are kept back until this is unset.
    pub hold_acks: bool,
    /// How long after its arrival a publish is acknowledged.
    pub ack_delay: Duration,
    /// Acknowledgements go out in reversed groups of this many (see [`GROUP_PATIENCE`]).
    pub reverse_acks_in_groups_of: Option<NonZeroU32>,
    /// Every n-th publish is recorded and never acknowledged.
    pub lose_every_nth_puback: Option<NonZeroU32>,
    /// Every n-th publish is lost on its way: neither recorded nor acknowledged.
    pub lose_every_nth_publish: Option<NonZeroU32>,
    /// PINGREQ is not answered.
    pub no_pingresp: bool,
    /// Each connection is closed this long after its CONNACK.
    pub kick_every: Option<Duration>,
    /// In MQTT 5, what DISCONNECT says before that; `None` closes without a word.
    pub kick_reason: Option<u8>,
    /// In MQTT 5, what PUBACK says to the next publishes.
    pub puback_reason: Option<PubackReason>,
    /// Sessions that were to outlive their connection are forgotten: no CONNACK says that one is
    /// present.
    pub lose_sessions: bool,
}

/// A reason that PUBACK gives to the next so many publishes; clones count together.
#[derive(Clone, Debug)]
pub struct PubackReason {
    reason: u8,
    remaining: Arc<AtomicU64>,
}

impl PubackReason {
    /// `reason` for the next `publishes`; from 0x80 on they are not taken.
    pub fn for_next(publishes: u64, reason: u8) -> Self {
        PubackReason {
            reason,
            remaining: Arc::new(AtomicU64::new(publishes)),
        }
    }

    /// The reason for one publish, if any are left.
    pub(crate) fn take(&self) -> Option<u8> {
        let one_less = |remaining: u64| remaining.checked_sub(1);
        self.remaining
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .ok()
            .map(|_| self.reason)
    }
}

/// How long a reversed group waits for its other members before it goes out as it is.
pub const GROUP_PATIENCE: Duration = Duration::from_millis(20);
