//! Who is connected, how a session is told to end, and which sessions outlive their connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Who is connected.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<Vec<Place>>,
    next: AtomicU64,
    kept: Mutex<HashMap<String, Kept>>,
}

/// A session that outlives its connection. This server keeps nothing in it but that it was there.
struct Kept {
    expiry: Duration,
    /// When its connection ended; `None` while there is one.
    left: Option<Instant>,
}

/// A session's entry in [`Sessions`].
#[derive(Clone)]
struct Place {
    number: u64,
    client_id: Arc<str>,
    ended: CancellationToken,
    taken_over: CancellationToken,
}

/// A session's place; dropping it leaves.
pub(crate) struct Seat<'a> {
    sessions: &'a Sessions,
    number: u64,
    pub(crate) ended: CancellationToken,
    pub(crate) taken_over: CancellationToken,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        let Some(at) = open.iter().position(|place| place.number == self.number) else {
            return;
        };
        let client_id = open.remove(at).client_id;
        if open.iter().any(|place| place.client_id == client_id) {
            return;
        }
        if let Some(kept) = self.sessions.kept().get_mut(&*client_id) {
            kept.left = Some(Instant::now());
        }
    }
}

impl Sessions {
    fn open(&self) -> MutexGuard<'_, Vec<Place>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session of this client is there to be resumed; from now on it is kept for
    /// `expiry` after its connection. A clean start ends the one that was there.
    pub(crate) fn resume(&self, client_id: &str, clean_start: bool, expiry: Duration) -> bool {
        let mut kept = self.kept();
        let present = !clean_start
            && kept
                .get(client_id)
                .is_some_and(|kept| kept.left.is_none_or(|left| left.elapsed() < kept.expiry));
        if expiry.is_zero() {
            kept.remove(client_id);
        } else {
            kept.insert(client_id.to_owned(), Kept { expiry, left: None });
        }
        present
    }

    /// Forgets every session that was to outlive its connection.
    pub(crate) fn forget(&self) {
        self.kept().clear();
    }

    /// Enters a session; ends the ones with the same client id if there may be only one.
    pub(crate) fn enter(&self, client_id: Arc<str>, only_one: bool) -> Seat<'_> {
        let mut open = self.open();
        if only_one {
            for place in open.iter().filter(|place| place.client_id == client_id) {
                place.taken_over.cancel();
                place.ended.cancel();
            }
        }
        let seat = Seat {
            sessions: self,
            number: self.next.fetch_add(1, Ordering::Relaxed),
            ended: CancellationToken::new(),
            taken_over: CancellationToken::new(),
        };
        open.push(Place {
            number: seat.number,
            client_id,
            ended: seat.ended.clone(),
            taken_over: seat.taken_over.clone(),
        });
        seat
    }

    /// Ends every session; says how many.
    pub(crate) fn end_all(&self) -> usize {
        let open = self.open();
        open.iter().for_each(|place| place.ended.cancel());
        open.len()
    }

    /// The client ids that are connected.
    pub(crate) fn client_ids(&self) -> Vec<String> {
        self.open()
            .iter()
            .map(|place| place.client_id.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_is_present_until_it_expires_after_its_connection() {
        let sessions = Sessions::default();
        let hour = Duration::from_hours(1);
        assert!(!sessions.resume("device", false, hour));
        let seat = sessions.enter(Arc::from("device"), true);
        tokio::time::advance(hour * 2).await;
        drop(seat);
        tokio::time::advance(hour / 2).await;
        assert!(sessions.resume("device", false, hour));
        drop(sessions.enter(Arc::from("device"), true));
        tokio::time::advance(hour).await;
        assert!(!sessions.resume("device", false, hour));
        assert!(!sessions.resume("device", true, Duration::ZERO));
        assert!(!sessions.resume("device", false, hour));
    }
}
