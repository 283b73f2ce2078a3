//! The body of an answer: bytes that are there, or a page's live feed for as long as somebody reads it.
//!
//! The feed is pulled: a reader that is slow gets fewer looks, and nothing queues up for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Interval;

use super::server::Site;

/// Every so many looks one has the history.
const LOOKS_PER_HISTORY: u32 = 10;
/// How soon a page that has lost the relay looks for it again, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// See the module.
pub(super) enum Content {
    Whole(Bytes),
    Live(Live),
}

/// A live feed of server-sent events.
pub(super) struct Live {
    pub(super) site: Site,
    pub(super) interval: Interval,
    /// Looks given so far.
    pub(super) looks: u32,
    /// Its place among the feeds there may be at a time.
    pub(super) _place: OwnedSemaphorePermit,
}

impl Live {
    fn next(&mut self) -> Bytes {
        let with_history = self.looks.is_multiple_of(LOOKS_PER_HISTORY);
        self.looks = self.looks.wrapping_add(1);
        // JSON has no line breaks of its own, so it is one line of `data`.
        let json = self.site.json(with_history);
        format!("retry: {RETRY_MS}\ndata: {json}\n\n").into()
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Live(live) => {
                ready!(live.interval.poll_tick(context));
                Poll::Ready(Some(Ok(Frame::data(live.next()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Live(_) => SizeHint::default(),
        }
    }
}
