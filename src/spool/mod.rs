//! placeholder for the append-only log

use crate::clock::Timestamp;

/// A message's number in the spool, in order of arrival.
pub type Seq = u64;

/// How a message was published, and what the spool keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The local topic name it was published to, at most 65,535 bytes.
    pub topic: &'a str,
    /// The payload as it came.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether the publisher set the retain flag.
    pub retain: bool,
    /// When it arrived.
    pub received: Timestamp,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The spool is at its limit; nothing was taken. Withhold the acknowledgement, try again later.
    #[error("the spool is full")]
    Full,
    /// The message is larger than a record can be; it will never fit.
    #[error("a message of {size_bytes} bytes is larger than a record can be")]
    TooLarge {
        /// Topic plus payload.
        size_bytes: usize,
    },
    /// The disk failed, so nothing more can be promised. The relay is about to stop.
    #[error("the spool has failed and takes nothing more")]
    Failed,
}
