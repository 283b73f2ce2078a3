//! Convicted messages on their way to the dead letters.
//!
//! They are written where blocking is allowed, as many at a time as wait. The spool settles a message when its letter
//! is durable, and not before. While the disk refuses, what waits is tried again; the others flow on, as far as
//! [`AHEAD_OF_HELD_MAX`] lets them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::refused::AHEAD_OF_HELD_MAX;
use crate::backoff::Backoff;
use crate::cloud::digest::{Digest, News};
use crate::dead_letters::{DeadLetters, Letter, PutError};
use crate::spool::Seq;

/// Letters that may wait...
const LETTERS_MAX: usize = 1_000;
/// ...and their bytes.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// After a failure the next try comes within this, further ones at most this far apart.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// How a write ended.
pub(super) type Written = Result<Result<(), PutError>, JoinError>;

/// The way to the dead letters. It outlives a connection, but what waits in it does not: the spool has it.
#[derive(Debug)]
pub(super) struct Post {
    dead_letters: DeadLetters,
    waiting: Vec<Letter>,
    waiting_bytes: usize,
    writing: Option<JoinHandle<Result<(), PutError>>>,
    /// What is being written, and waits again if that fails.
    in_hand: Arc<Vec<Letter>>,
    /// After a failure: when to try again.
    retry: Option<Instant>,
    backoff: Backoff,
    digest: Digest,
    given_up_told: u64,
    /// It was told that others wait, since the last write.
    wait_told: bool,
}

impl Post {
    pub(super) fn new(dead_letters: DeadLetters) -> Self {
        Post {
            dead_letters,
            waiting: Vec::new(),
            waiting_bytes: 0,
            writing: None,
            in_hand: Arc::default(),
            retry: None,
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
            digest: Digest::default(),
            given_up_told: 0,
            wait_told: false,
        }
    }

    /// Whether no more should be added.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= LETTERS_MAX || self.waiting_bytes >= BYTES_MAX
    }

    /// Whether the disk refuses.
    pub(super) fn is_failing(&self) -> bool {
        self.retry.is_some()
    }

    /// Whether a write is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether nothing waits that could be written now.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_writing() && (self.waiting.is_empty() || self.is_failing())
    }

    /// The oldest message of those that wait for a disk that refuses.
    pub(super) fn oldest(&self) -> Option<Seq> {
        if !self.is_failing() {
            return None;
        }
        let letters = self.waiting.iter().chain(self.in_hand.iter());
        letters.map(|letter| letter.seq).min()
    }

    pub(super) fn add(&mut self, letter: Letter) {
        self.waiting_bytes += letter.len_bytes();
        self.waiting.push(letter);
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// Begins to write what waits, if it is time.
    pub(super) fn start(&mut self, now: Instant) {
        let must_wait = self.retry.is_some_and(|at| at > now);
        if self.waiting.is_empty() || self.is_writing() || must_wait {
            return;
        }
        let letters = Arc::new(std::mem::take(&mut self.waiting));
        self.waiting_bytes = 0;
        self.in_hand = Arc::clone(&letters);
        let dead_letters = self.dead_letters.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            dead_letters.put(&letters)
        }));
    }

    /// Waits for the end of the write that is under way. May be dropped and called again.
    pub(super) async fn written(&mut self) -> Written {
        let Some(writing) = &mut self.writing else {
            return std::future::pending().await;
        };
        let written = writing.await;
        self.writing = None;
        written
    }

    /// Takes note of the end of a write. Returns the letters that are durable.
    pub(super) fn note(&mut self, written: Written, now: Instant, random: f64) -> Vec<Letter> {
        let letters = Arc::unwrap_or_clone(std::mem::take(&mut self.in_hand));
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(defect) => Some(format!(
                "DATA_DIR: writing dead letters ended unexpectedly ({defect})"
            )),
        };
        if let Some(failure) = failed {
            if self.retry.is_none() {
                tracing::warn!(
                    "{failure}; messages that the cloud never takes stay in the spool, and the next {AHEAD_OF_HELD_MAX} \
                     others flow on"
                );
            }
            self.retry = Some(now + self.backoff.next_delay(random));
            let newer = std::mem::replace(&mut self.waiting, letters);
            self.waiting.extend(newer);
            self.waiting_bytes = self.waiting.iter().map(Letter::len_bytes).sum();
            return Vec::new();
        }
        if self.retry.take().is_some() {
            tracing::info!("dead letters can be written again");
            self.backoff.reset();
            self.wait_told = false;
        }
        self.tell(&letters, now);
        letters
    }

    /// When there is something to do or to tell.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let can_start = !self.waiting.is_empty() && !self.is_writing();
        let retry = self.retry.filter(|_| can_start);
        [retry, self.digest.due()].into_iter().flatten().min()
    }

    /// Tells what has been counted for long enough.
    pub(super) fn tell_due(&mut self, now: Instant) {
        for News { kind, count, words } in self.digest.take_due(now) {
            tracing::warn!(kind, count, last = %words, "dead letters: more of the same");
        }
    }

    /// Tells once that the others cannot flow on any more before the disk takes the oldest letter.
    pub(super) fn tell_that_others_wait(&mut self) {
        if !std::mem::replace(&mut self.wait_told, true) {
            tracing::warn!(
                "no new messages are sent until dead letters can be written: too many messages have gone ahead of one that the \
                 cloud never takes; all are kept. Is the disk of DATA_DIR full or failing?"
            );
        }
    }

    fn tell(&mut self, letters: &[Letter], now: Instant) {
        for Letter { seq, reason, .. } in letters {
            let words = format!("message {seq}, {}", reason.words);
            if self.digest.note(reason.why, 1, words, now) {
                tracing::warn!(
                    seq,
                    "a dead letter, kept for `cloud-relay dead-letters`: {}",
                    reason.words
                );
            }
        }
        let given_up = self.dead_letters.given_up();
        let count = given_up - std::mem::replace(&mut self.given_up_told, given_up);
        let words = "DEAD_LETTERS_MAX_BYTES is reached, the oldest are removed";
        if count > 0 && self.digest.note("removed", count, words.to_owned(), now) {
            tracing::warn!(count, "dead letters: {words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::clock;
    use crate::dead_letters::Reason;
    use crate::logging::capture::Captured;
    use crate::spool::tests::message;

    fn letter(seq: Seq) -> Letter {
        let reason = Reason {
            why: "refused",
            words: String::new(),
        };
        Letter::new(seq, &message(b"x"), "site/data", reason, clock::now())
    }

    #[tokio::test]
    async fn letters_of_a_write_that_failed_or_broke_off_are_written_before_newer_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letters");
        std::fs::write(&path, b"in the way").unwrap();
        let mut post = Post::new(DeadLetters::new(path.clone(), 1 << 30));
        let now = Instant::now();
        post.add(letter(2));
        post.start(now);
        post.add(letter(1));
        let refused = post.written().await;
        assert!(post.note(refused, now, 1.0).is_empty());
        assert_eq!(post.oldest(), Some(1));

        post.start(now + RETRY_MAX);
        post.add(letter(3));
        if let Some(writing) = post.writing.take() {
            writing.await.unwrap().unwrap_err();
        }
        let broken_off = tokio::spawn(async { panic!("a defect") });
        post.writing = Some(broken_off);
        let broken_off = post.written().await;
        assert!(post.note(broken_off, now, 1.0).is_empty());
        assert!(post.is_failing() && !post.is_full());

        std::fs::remove_file(&path).unwrap();
        post.start(now + 2 * RETRY_MAX);
        let written = post.written().await;
        let durable = post.note(written, now, 1.0);
        let seqs: Vec<Seq> = durable.iter().map(|letter| letter.seq).collect();
        assert_eq!(seqs, [2, 1, 3]);
    }

    #[tokio::test]
    async fn letters_that_are_removed_for_others_are_summed_up_in_letters_not_in_writes() {
        let (log, _guard) = Captured::start(Level::WARN);
        let directory = tempfile::tempdir().unwrap();
        // Room for four of 4 KiB each.
        let mut post = Post::new(DeadLetters::new(directory.path().to_owned(), 4 * 4_096));
        let now = Instant::now();
        for write in 0..4 {
            for seq in 4 * write..4 * write + 4 {
                post.add(letter(seq));
            }
            post.start(now);
            let written = post.written().await;
            post.note(written, now, 1.0);
        }
        post.tell_due(now + Duration::from_mins(1));
        let text = log.text();
        assert!(text.contains("the oldest are removed count=4\n"), "{text}");
        assert!(text.contains("kind=\"removed\" count=8"), "{text}");
        assert!(text.contains("kind=\"refused\" count=15"), "{text}");
    }
}
