//! The reason codes of MQTT 5 that this broker gives (MQTT 5, 2.4). Pure.

/// Why something was done or not. MQTT 3.1.1 has words for very few of them; see `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::local) enum Reason {
    Success = 0x00,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    Malformed = 0x81,
    ProtocolError = 0x82,
    UnsupportedVersion = 0x84,
    ClientIdInvalid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    FilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    QuotaExceeded = 0x97,
}

impl Reason {
    /// The code on the wire.
    pub(in crate::local) fn code(self) -> u8 {
        self as u8
    }

    /// Whether something was refused.
    pub(in crate::local) fn is_refusal(self) -> bool {
        self.code() >= REFUSALS
    }
}

/// Codes from here on mean failure (MQTT 5, 2.4).
pub(in crate::local) const REFUSALS: u8 = 0x80;
