//! What tells the records that the relay wrote from those that somebody has published inside a payload.

use std::hash::{BuildHasher as _, RandomState};

/// A number that nobody can guess, the same in all records of one run of the relay. Behind damage only a record with the
/// salt of those before it is one: who publishes a payload full of records does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub(super) [u8; Self::BYTES]);

impl Salt {
    pub(super) const BYTES: usize = 4;

    /// Another one each time. The keys of [`RandomState`] come from the system's random numbers.
    pub fn random() -> Self {
        let [salt @ .., _, _, _, _] = RandomState::new().hash_one(()).to_le_bytes();
        Salt(salt)
    }
}
