//! The broker's journal: what persistent sessions and retained messages must survive a restart.
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
//! * [`place`]: the directory and its files.
//! * [`start`]: the broker takes over what the journal says.
//! * [`keeper`]: the thread that writes, and writes the journal afresh when it has become too long.
//!
//! Invariants:
//! * A change with a number below the watermark is synced, unless the disk has failed: then nothing waits for it.
//! * What the disk does or does not do never stops the broker.
//! * What was written before the disk or the directory failed is replaced as a whole, as soon as either can be used.
//! * Nothing is recorded for sessions that end with their connection, nor for retained messages that stay as they are.
//! * A message of `QoS` 2, what it is queued for and its identifier are kept together or not at all.

mod change;
mod image;
mod keeper;
mod place;
mod recorder;
mod start;

#[cfg(test)]
mod tests;

pub(super) use change::Change;
#[cfg(test)]
pub(super) use image::KeptMessage;
pub(super) use image::{Image, KeptSession, Whereabouts};
pub(super) use keeper::Keeper;
pub(super) use recorder::Recorder;
pub(super) use start::keep;
