//! Single lines on stdout, plain or JSON, where balenaOS picks them up.
//!
//! One event is one line: what would break it, or drive a terminal, is written as escapes. No
//! colours; plain lines have no time stamp, for balena's log adds its own. A warning that repeats is summed up,
//! and the last ones are kept for the status page. Other crates' records show from `warn`
//! up, from `info` up when ours are at `debug` or `trace`: what they print below that is not known to
//! be free of secrets.

#[cfg(test)]
pub(crate) mod capture;
mod line;
mod problems;
mod repeats;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use self::line::Line;
use self::problems::Problems;
use self::repeats::Repeats;
use crate::clock;

pub(crate) use self::problems::Problem;

/// What the targets of this crate's own events start with.
const OUR_TARGET: &str = "cloud_relay";

/// How a line looks: `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `LEVEL module: message name=value`.
    #[default]
    Plain,
    /// A JSON object with `level`, `module`, `message`, `time_unix_ms` and the fields.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Plain => "plain",
            Format::Json => "json",
        })
    }
}

/// What the log remembers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    repeats: Repeats,
    problems: Problems,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last warnings and errors, the latest first.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.lock().problems.list()
    }
}

/// Sends this process's log to stdout from now on. Fails if that was done before.
pub fn init(level: Level, format: Format) -> Result<Memory, SetGlobalDefaultError> {
    let (subscriber, memory) = subscriber(level, format, std::io::stdout);
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(memory)
}

/// A subscriber that writes to `writer`, and what it remembers.
fn subscriber<W>(level: Level, format: Format, writer: W) -> (impl Subscriber + Send + Sync, Memory)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let others = if level > Level::INFO {
        Level::INFO
    } else {
        level.min(Level::WARN)
    };
    let filter = Targets::new()
        .with_target(OUR_TARGET, level)
        .with_default(LevelFilter::from_level(others));
    let memory = Memory::default();
    let lines = Lines {
        format,
        writer,
        memory: memory.clone(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    (subscriber, memory)
}

/// Writes each event as a line.
struct Lines<W> {
    format: Format,
    writer: W,
    memory: Memory,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let line = Line::of(event);
        let now = Instant::now();
        let mut remembered = self.memory.lock();
        if line.level <= Level::WARN {
            remembered.problems.note(&line, now);
        }
        let mut text = String::new();
        let mut lines = remembered.repeats.due(now);
        lines.extend(remembered.repeats.look(line, now));
        for line in lines {
            text.push_str(&line.render(self.format, clock::now()));
        }
        drop(remembered);
        // A log that nobody can read any more is no reason to end, and there is nowhere to say so.
        let _unread = self.writer.make_writer().write_all(text.as_bytes());
    }
}
