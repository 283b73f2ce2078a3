//! An orderly end: what is in flight gets a moment, then the cloud is told.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until};

use super::{Link, LostReason, send};
use crate::cloud::packet;

/// At shutdown, how long to wait for acknowledgements of what is in flight. It spares duplicates.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Waits a moment for what is in flight, then says DISCONNECT. A connection lost meanwhile is no
    /// failure any more: the spool has everything.
    pub(super) async fn farewell(&mut self) -> Result<(), LostReason> {
        let deadline = Instant::now() + FAREWELL_TIMEOUT;
        if !self.settle_down(deadline).await {
            return Ok(());
        }
        // Whoever closes before it is acknowledged makes some brokers publish the will after all.
        if self.say_stopped(Instant::now()) && !self.settle_down(deadline).await {
            return Ok(());
        }
        packet::write_disconnect(&mut self.unsent)?;
        let goodbye = async {
            send(&mut self.writer, &mut self.unsent, &mut self.flushed).await?;
            self.writer.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout_at(deadline, goodbye).await {
            tracing::debug!("the cloud was gone before DISCONNECT: {error}");
        }
        Ok(())
    }

    /// Waits for the answers that are due, from either side, until `deadline`. Returns whether the connection is still
    /// there.
    async fn settle_down(&mut self, deadline: Instant) -> bool {
        while !self.window.is_empty()
            || self.session.aside.errands.waiting()
            || self.session.aside.owes()
        {
            tokio::select! {
                () = sleep_until(deadline) => break,
                () = self.session.aside.kept() => self.acknowledge_messages(),
                read = self.reader.read_buf(&mut self.received) => {
                    if self.answered(read).is_err() {
                        return false;
                    }
                }
                sent = send(&mut self.writer, &mut self.unsent, &mut self.flushed),
                    if !self.flushed || !self.unsent.is_empty() => {
                    if sent.is_err() {
                        return false;
                    }
                }
            }
        }
        true
    }
}
