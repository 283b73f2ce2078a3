//! A spool under the test's control.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use crate::spool::{AppendError, Message, Seq};
use crate::store::Ingress;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    Full,
    TooLarge,
    Failed,
}

/// What was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) topic: String,
    pub(super) attributes: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) retain: bool,
}

#[derive(Clone)]
pub(super) struct FakeSpool {
    state: Arc<Mutex<(Mood, Vec<Stored>)>>,
    space: Arc<Notify>,
    safe: Arc<Mutex<Option<watch::Sender<Seq>>>>,
}

impl FakeSpool {
    pub(super) fn new() -> Self {
        FakeSpool {
            state: Arc::new(Mutex::new((Mood::Takes, Vec::new()))),
            space: Arc::default(),
            safe: Arc::new(Mutex::new(Some(watch::Sender::new(0)))),
        }
    }

    /// Leaving [`Mood::Full`] tells those who wait for space.
    pub(super) fn set(&self, mood: Mood) {
        self.state.lock().unwrap().0 = mood;
        if mood != Mood::Full {
            self.space.notify_waiters();
        }
    }

    pub(super) fn set_safe(&self, watermark: Seq) {
        let safe = self.safe.lock().unwrap();
        safe.as_ref().unwrap().send_replace(watermark);
    }

    /// Closes the watermark, as a failed spool does.
    pub(super) fn close(&self) {
        self.safe.lock().unwrap().take();
    }

    pub(super) fn stored(&self) -> Vec<Stored> {
        self.state.lock().unwrap().1.clone()
    }

    pub(super) fn payloads(&self) -> Vec<String> {
        let stored = self.stored().into_iter();
        stored
            .map(|message| String::from_utf8(message.payload).unwrap())
            .collect()
    }
}

impl Ingress for FakeSpool {
    fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError> {
        let mut state = self.state.lock().unwrap();
        match state.0 {
            Mood::Takes => {}
            Mood::Full => return Err(AppendError::Full),
            Mood::TooLarge => {
                let size_bytes = message.topic.len() + message.payload.len();
                return Err(AppendError::TooLarge {
                    size_bytes,
                    max_bytes: 2,
                });
            }
            Mood::Failed => return Err(AppendError::Failed),
        }
        state.1.push(Stored {
            topic: message.topic.to_owned(),
            attributes: message.attributes.to_vec(),
            payload: message.payload.to_vec(),
            qos: message.qos,
            retain: message.retain,
        });
        Ok(state.1.len() as Seq - 1)
    }

    fn safe(&self) -> watch::Receiver<Seq> {
        match &*self.safe.lock().unwrap() {
            Some(sender) => sender.subscribe(),
            None => watch::channel(0).1,
        }
    }

    async fn space(&self) {
        self.space.notified().await;
    }
}
