//! The asynchronous face of the spool: what the local broker and the egress share.
//!
//! The spool itself is synchronous and knows no tokio. This module turns its progress into things
//! that can be awaited. Appending never blocks on the disk; reading may, and then runs where
//! blocking is allowed.

use crate::spool::{AppendError, Message, Seq};

/// A handle to the spool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Takes a message into the spool and returns its sequence number. It may be acknowledged to
    /// its sender once [`Store::safe`] has passed that number.
    pub fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError> {
        todo!("{message:?}")
    }

    /// Follows the watermark: every message with a *smaller* sequence number is synced to disk or
    /// accepted by the cloud.
    pub fn safe(&self) -> tokio::sync::watch::Receiver<Seq> {
        todo!()
    }

    /// Resolves when, after [`AppendError::Full`], it is worth trying again.
    pub async fn space(&self) {
        todo!()
    }
}
