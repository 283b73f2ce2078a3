//! The broker's journal: what persistent sessions must survive a restart.
//!
//! ```text
//! broker ── record ──► recorder (memory) ──► keeper thread ──► `journal` on disk
//!    ▲                     │                     one write and one fdatasync for all that wait
//!    └── image ◄── replay  └── watermark `kept` ──► acknowledgements
//! ```
//!
//! * [`change`]: one change of the state as bytes, framed as the spool's records are. Pure.
//! * [`image`]: the state that a journal describes. Pure.
//! * [`recorder`]: what was changed and is not on disk yet.
//! * [`keeper`]: the thread that writes, and writes the journal afresh when it has become too long.
//!
//! Invariants:
//! * A change with a number below the watermark is synced, unless the disk has failed: then nothing waits for it.
//! * What the disk does or does not do never stops the broker.
//! * Nothing is recorded for sessions that end with their connection.
//! * A message of `QoS` 2, what it is queued for and its identifier are kept together or not at all.

mod change;
mod image;
mod keeper;
mod recorder;

#[cfg(test)]
mod tests;

pub(super) use change::{Change, Clocks};
#[cfg(test)]
pub(super) use image::KeptMessage;
pub(super) use image::{Image, KeptSession, Whereabouts};
pub(super) use keeper::{Keeper, read};
pub(super) use recorder::Recorder;
