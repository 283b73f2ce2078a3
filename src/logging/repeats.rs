//! Sums up warnings that repeat, so that a fault that lasts does not fill the log. Pure.
//!
//! A warning is told when it is new. The same one again is only counted, and told every [`WINDOW`] with that
//! count; what it counts itself is summed up. Good news from the same module makes its warnings new again: a state
//! that comes back is told. Errors are never held back.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;

use super::line::Line;

/// The same warning is told once in this time.
const WINDOW: Duration = Duration::from_mins(10);
/// Different warnings that are remembered. Beyond it the one told longest ago is forgotten: at worst it is
/// told once more.
const KINDS_MAX: usize = 64;

/// A warning that was told.
#[derive(Debug)]
struct Kind {
    key: String,
    told: Instant,
    /// Times it came since.
    held: u64,
    /// As it came last, with what all counted since it was told.
    line: Line,
}

impl Kind {
    fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.told) >= WINDOW
    }

    fn note(&self, now: Instant) -> String {
        let time = now.duration_since(self.told).as_secs().div_ceil(60).max(1);
        format!(" ({} more in {time} min)", self.held)
    }
}

/// What was told, oldest first.
#[derive(Debug, Default)]
pub(super) struct Repeats(Vec<Kind>);

impl Repeats {
    /// The lines to print now that `line` has come: none, itself, or before it what was only counted. Asked after
    /// [`Repeats::due`], so that nothing here is old.
    pub(super) fn look(&mut self, line: Line, now: Instant) -> Vec<Line> {
        if line.level > Level::WARN {
            let mut lines = Vec::new();
            if line.level == Level::INFO {
                lines = self.forget(|kind| kind.line.module == line.module, now);
            }
            lines.push(line);
            return lines;
        }
        if line.level != Level::WARN {
            return vec![line];
        }
        let key = line.key();
        let known = |kind: &Kind| kind.key == key && kind.line.module == line.module;
        let Some(place) = self.0.iter().position(known) else {
            self.remember(key, &line, now);
            return vec![line];
        };
        let mut kind = self.0.remove(place);
        kind.line = if kind.held == 0 {
            line
        } else {
            line.counting(&kind.line)
        };
        kind.held += 1;
        self.0.insert(place, kind);
        Vec::new()
    }

    /// The lines that sum up what was only counted and comes no more.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Line> {
        self.forget(|kind| kind.is_old(now), now)
    }

    fn forget(&mut self, chosen: impl Fn(&Kind) -> bool, now: Instant) -> Vec<Line> {
        let gone = self.0.extract_if(.., |kind| chosen(kind));
        gone.filter(|kind| kind.held > 0)
            .map(|kind| {
                let note = kind.note(now);
                kind.line.with_note(&note)
            })
            .collect()
    }

    fn remember(&mut self, key: String, line: &Line, now: Instant) {
        if self.0.len() >= KINDS_MAX {
            self.0.remove(0);
        }
        self.0.push(Kind {
            key,
            told: now,
            held: 0,
            line: line.clone(),
        });
    }
}
