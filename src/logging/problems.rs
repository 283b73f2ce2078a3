//! The last warnings and errors, for whoever looks at the relay instead of its log. Pure.

use tokio::time::Instant;

use super::line::Line;

/// Different problems that are kept. Beyond it the one that came last longest ago is forgotten.
const KEPT_MAX: usize = 12;
/// Characters of one that are kept: client ids and topics in it may be long.
const CHARS_MAX: usize = 600;

/// A warning or an error, however often it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What happened, in the words of the log.
    pub(crate) text: String,
    /// Whether it is an error.
    pub(crate) is_error: bool,
    /// How often it came.
    pub(crate) count: u64,
    /// When it came last.
    pub(crate) last: Instant,
}

/// The one that came last is the last.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(String, Problem)>);

impl Problems {
    pub(super) fn note(&mut self, line: &Line, now: Instant) {
        let key = line.key();
        let known = self.0.iter().position(|(known, _)| *known == key);
        let count = known.map_or(0, |place| self.0.remove(place).1.count);
        if self.0.len() >= KEPT_MAX {
            self.0.remove(0);
        }
        let problem = Problem {
            text: line.text().chars().take(CHARS_MAX).collect(),
            is_error: line.level == tracing::Level::ERROR,
            count: count + 1,
            last: now,
        };
        self.0.push((key, problem));
    }

    /// The latest first.
    pub(super) fn list(&self) -> Vec<Problem> {
        let problems = self.0.iter().rev();
        problems.map(|(_, problem)| problem.clone()).collect()
    }
}
