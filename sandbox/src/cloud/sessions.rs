//! Who is connected, and how a session is told to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Who is connected.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<Vec<Place>>,
    next: AtomicU64,
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
        self.sessions
            .open()
            .retain(|place| place.number != self.number);
    }
}

impl Sessions {
    fn open(&self) -> MutexGuard<'_, Vec<Place>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
