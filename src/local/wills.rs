//! Publishing wills: at once when a connection has broken, or later when their delay is over; and ending the sessions
//! whose time is over. What is due and when is the broker's knowledge; this module waits and carries out.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::ending::End;
use super::packet::Will;
use super::publishing::Spooled;
use super::server::{LocalError, Shared};
use crate::clock;
use crate::spool::AppendError;
use crate::store::Ingress;

/// Keeps sessions and delayed wills to their time, until the relay stops. An error means that the spool has failed.
pub(super) async fn keep_time<I: Ingress>(shared: Arc<Shared<I>>) -> Result<(), LocalError> {
    let bell = shared.broker().bell();
    let mut publishing = JoinSet::new();
    loop {
        let (wills, due) = {
            let mut broker = shared.broker();
            broker.expire(Instant::now());
            (broker.take_wills(), broker.next_due())
        };
        for (client_id, will) in wills {
            if publishing.len() >= shared.limits.wills_waiting_max {
                drop_will(
                    &shared,
                    &client_id,
                    &will,
                    "too many wills wait for the spool",
                );
                continue;
            }
            let shared = Arc::clone(&shared);
            publishing.spawn(async move { publish(&shared, &client_id, &will).await });
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return Ok(()),
            () = until(due) => {}
            () = bell.notified() => {}
            Some(ended) = publishing.join_next() => match ended {
                Ok(published) => published?,
                Err(error) => tracing::error!(%error, "a will was lost by a fault of the broker; please report it"),
            },
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A will goes the way of any message. When the spool is full it waits like one, but not for ever: nobody
/// was promised anything, and as long as it waits it takes the place of a client.
pub(super) async fn publish<I: Ingress>(
    shared: &Shared<I>,
    client_id: &str,
    will: &Will,
) -> Result<(), LocalError> {
    let publish = will.as_publish();
    let mut patience = std::pin::pin!(sleep(shared.limits.will_patience));
    loop {
        let reason = match shared.spool(&publish, clock::now()) {
            Ok(Spooled::As(_) | Spooled::Not) => break,
            Ok(Spooled::Full) => tokio::select! {
                () = shared.shutdown.cancelled() => End::Stopped.to_string(),
                () = &mut patience => AppendError::Full.to_string(),
                () = shared.ingress.space() => continue,
            },
            Err(End::SpoolFailed) => return Err(LocalError::SpoolFailed),
            Err(end) => end.to_string(),
        };
        drop_will(shared, client_id, will, &reason);
        break;
    }
    shared.broker().publish(&publish, None, Instant::now());
    Ok(())
}

fn drop_will<I>(shared: &Shared<I>, client_id: &str, will: &Will, reason: &str) {
    shared.counters.dropped_will.add(1);
    tracing::warn!(
        client_id,
        topic = will.topic,
        "will message not relayed: {reason}"
    );
}
