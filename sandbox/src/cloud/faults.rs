//! What the cloud can be told to do wrong, while it runs.

use std::num::NonZeroU32;
use std::time::Duration;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// They are served.
    #[default]
    Accept,
    /// A new one is closed before the TLS handshake.
    Close,
    /// A new one gets a CONNACK with return code 3, "server unavailable", and is closed.
    RefuseConnack,
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
}

/// How long a reversed group waits for its other members before it goes out as it is.
pub const GROUP_PATIENCE: Duration = Duration::from_millis(20);
