//! Room for packets that are larger than the buffers every connection has. There is room for a few at a time, so that
//! many clients with large packets cannot take the memory that all share; others wait for their turn.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// What one connection has of it.
pub(super) struct LargePacket {
    rooms: Arc<Semaphore>,
    room: Option<OwnedSemaphorePermit>,
    turn: Option<Turn>,
}

impl LargePacket {
    pub(super) fn new(rooms: &Arc<Semaphore>) -> Self {
        LargePacket {
            rooms: Arc::clone(rooms),
            room: None,
            turn: None,
        }
    }

    /// Whether there is room; if not, it is waited for from now on.
    pub(super) fn has_room(&mut self) -> bool {
        if self.room.is_some() {
            return true;
        }
        if self.turn.is_none() {
            self.room = Arc::clone(&self.rooms).try_acquire_owned().ok();
            if self.room.is_none() {
                let rooms = Arc::clone(&self.rooms);
                self.turn = Some(Box::pin(async { rooms.acquire_owned().await.ok() }));
            }
        }
        self.room.is_some()
    }

    /// Resolves when there is room that was waited for. May be dropped at any time.
    pub(super) async fn turn(&mut self) {
        match &mut self.turn {
            Some(turn) => {
                self.room = turn.await;
                self.turn = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Nothing large is on its way any more.
    pub(super) fn leave(&mut self) {
        (self.room, self.turn) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_too_late_waits_until_somebody_leaves() {
        let rooms = Arc::new(Semaphore::new(1));
        let (mut one, mut other) = (LargePacket::new(&rooms), LargePacket::new(&rooms));
        assert!(one.has_room() && one.has_room());
        assert!(!other.has_room());
        one.leave();
        other.turn().await;
        assert!(other.has_room() && !one.has_room());
        drop(other);
        one.turn().await;
        assert!(one.has_room());
    }
}
