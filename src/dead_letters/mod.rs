//! The dead letters: messages that were acknowledged and that the cloud never takes, each with the reason.
//!
//! One file each under `DATA_DIR/dead-letters`, written whole and synced before the spool settles the message, and
//! never changed. So a crash in between writes the same file again, and anybody may read, or remove, letters while
//! the relay runs.
//!
//! * [`letter`]: one letter as bytes; pure. [`store`]: what the relay does, writing and keeping to the limit.
//! * [`shelf`]: what `cloud-relay dead-letters` does, reading and removing.
//!
//! Why a message is a dead letter is not decided here. Nothing here is asynchronous: callers write where blocking
//! is allowed.

mod letter;
mod shelf;
mod store;
#[cfg(test)]
mod tests;

pub use self::letter::{Header, Letter, Reason};
pub use self::shelf::{Entry, Opened, Shelf, ShelfError};
pub use self::store::{DeadLetters, PutError, Waiting};

/// The directory of the dead letters under `DATA_DIR`.
pub const DIRECTORY: &str = "dead-letters";
