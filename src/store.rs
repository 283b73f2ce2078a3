//! The asynchronous face of the spool: what the local broker and the egress share.
//!
//! The spool itself is synchronous and knows no tokio. This module turns its progress into things
//! that can be awaited. Appending never blocks on the disk; reading may, and then runs where
//! blocking is allowed.

use std::future::Future;

use tokio::sync::watch;

use crate::spool::{AppendError, Message, Seq};

/// Where the local broker puts messages that go to the cloud. [`Store`] is the real one; tests of
/// the broker bring their own.
pub trait Ingress: Clone + Send + Sync + 'static {
    /// Takes a message and returns its sequence number; numbers rise by one. It may be
    /// acknowledged to its sender once [`Ingress::safe`] has passed that number. Never blocks.
    fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError>;

    /// Follows the watermark: every message with a *smaller* sequence number is synced to disk or
    /// accepted by the cloud. The channel closes when the spool has failed.
    fn safe(&self) -> watch::Receiver<Seq>;

    /// Resolves when, after [`AppendError::Full`], it is worth trying again.
    fn space(&self) -> impl Future<Output = ()> + Send;
}
