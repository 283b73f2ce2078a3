//! What is wrong with a line of a file. Pure.

/// Names the line, and never shows what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {what}")]
pub(super) struct LineError {
    line: usize,
    what: &'static str,
}

impl LineError {
    /// `index` counts from 0, the line that is named from 1.
    pub(super) fn new(index: usize, what: &'static str) -> Self {
        LineError {
            line: index + 1,
            what,
        }
    }
}
