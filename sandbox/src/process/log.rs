//! The log of a process, line by line, as it is written.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{broadcast, watch};

use super::ProcessError;

/// Log lines shown with an error or a panic.
const LOG_LINES_SHOWN: usize = 30;
/// Log lines that a slow follower may be behind before it misses some.
const FOLLOWER_LAG_MAX: usize = 4_096;

/// The log of a process: both its outputs, by lines, over all its starts. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Sender<usize>,
    live: broadcast::Sender<String>,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            lines: Arc::default(),
            count: watch::Sender::new(0),
            live: broadcast::Sender::new(FOLLOWER_LAG_MAX),
        }
    }
}

impl Log {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The lines from now on.
    pub fn follow(&self) -> broadcast::Receiver<String> {
        self.live.subscribe()
    }

    /// The last lines, indented, for an error message.
    pub fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = lines.len().saturating_sub(LOG_LINES_SHOWN);
        let mut tail = String::new();
        for line in lines.iter().skip(skipped) {
            // writing to a string cannot fail
            writeln!(tail, "    | {line}").ok();
        }
        if tail.is_empty() {
            tail.push_str("    (no output)\n");
        }
        tail
    }

    /// Waits for a line with `part` in it, from line number `from` on; returns the line.
    pub async fn wait_for(
        &self,
        part: &str,
        from: usize,
        timeout: Duration,
    ) -> Result<String, ProcessError> {
        let mut count = self.count.subscribe();
        let search = async {
            let mut next = from;
            loop {
                count.borrow_and_update();
                {
                    let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(found) = lines.iter().skip(next).find(|line| line.contains(part)) {
                        return found.clone();
                    }
                    next = next.max(lines.len());
                }
                if count.changed().await.is_err() {
                    // the sender is part of self, so this does not happen
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(timeout, search)
            .await
            .map_err(|_| ProcessError::Timeout {
                what: format!("a log line with {part:?}"),
                waited: timeout,
                log: self.tail(),
            })
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // fails only if nobody follows
        self.live.send(line.clone()).ok();
        lines.push(line);
        self.count.send_replace(lines.len());
    }

    /// Collects both outputs of a process to their ends.
    pub(super) async fn collect_both(self, out: Option<ChildStdout>, err: Option<ChildStderr>) {
        tokio::join!(self.collect(out), self.collect(err));
    }

    async fn collect(&self, output: Option<impl AsyncRead + Unpin>) {
        let Some(output) = output else { return };
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            self.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }
}
