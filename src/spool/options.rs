//! The spool's limits, and what is done at them.

use std::time::Duration;

use super::segment;

/// What to do with a message when the spool or the disk is full: `SPOOL_FULL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullPolicy {
    /// `block`: take nothing and acknowledge nothing until there is room. Nothing is lost.
    Block,
    /// `drop_oldest`: give up the oldest messages, a segment at a time.
    DropOldest,
    /// `drop_newest`: acknowledge what comes and give it up.
    DropNewest,
}

impl std::fmt::Display for FullPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FullPolicy::Block => "block",
            FullPolicy::DropOldest => "drop_oldest",
            FullPolicy::DropNewest => "drop_newest",
        })
    }
}

/// The spool's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most bytes on disk and waiting to be written. At the limit nothing is taken.
    pub bytes_max: u64,
    /// Bytes of the file system that are left to others.
    pub free_bytes_min: u64,
    /// A segment that has reached this size is closed and the next one begun, in bytes.
    pub segment_bytes: u64,
    /// What to do at either limit.
    pub full: FullPolicy,
    /// How long a message may wait in memory for the cloud's acknowledgement before it is written, while
    /// the cloud keeps up. Zero writes at once.
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            bytes_max: 256 * 1024 * 1024,
            free_bytes_min: 16 * 1024 * 1024,
            segment_bytes: segment::SEGMENT_BYTES,
            full: FullPolicy::Block,
            linger: Duration::from_millis(500),
        }
    }
}
