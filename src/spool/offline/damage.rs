//! What can be wrong with a spool's files, in words. Pure.

use std::fmt;

use crate::spool::Seq;

/// A stretch of a file that is not as the relay wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file's name.
    pub file: String,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes; zero where something is missing.
    pub len: u64,
    /// What is wrong there.
    pub kind: DamageKind,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The last segment ends within a record or a header.
    Torn,
    /// A segment's header cannot be read.
    Header,
    /// A segment's header is sound, but belongs to a segment of another name.
    Misnamed {
        /// The first number, as the header has it.
        first_seq: Seq,
    },
    /// No record can be read here.
    Record,
    /// A record's number is not one that can stand here.
    Order {
        /// Its number.
        seq: Seq,
        /// The least number that could.
        from: Seq,
        /// One more than the greatest, unless this is the last segment.
        to: Option<Seq>,
    },
    /// The running counts in the headers of this segment and the next one do not fit what is in it.
    Count {
        /// How many records were written to it.
        written: u64,
        /// How many can be read.
        readable: u64,
    },
    /// The relay could not read the segment, or not all of it, and put it aside when nothing in it waited any more.
    SetAside,
    /// One of the cursor's two slots cannot be read.
    CursorSlot,
    /// No cursor can be read, though there are segments.
    CursorLost,
}

impl DamageKind {
    /// Whether it looks like what a crash or a power cut leaves behind, in which nothing was acknowledged.
    pub fn is_torn(self) -> bool {
        self == DamageKind::Torn
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} offset {} length {}: {}",
            self.file, self.offset, self.len, self.kind
        )
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DamageKind::Torn => f.write_str(
                "looks like a write that a crash or a power cut left unfinished, and so was never \
                 acknowledged; the relay cuts it off when it starts",
            ),
            DamageKind::Header => f.write_str("the segment's header is damaged"),
            DamageKind::Misnamed { first_seq } => write!(
                f,
                "the header is that of a segment that begins with message {first_seq}: \
                 was the file renamed?"
            ),
            DamageKind::Record => f.write_str("no record can be read here"),
            DamageKind::Order { seq, from, to } => {
                write!(f, "message {seq} stands where a number from {from} ")?;
                if let Some(to) = to {
                    write!(f, "to below {to} ")?;
                }
                f.write_str("belongs")
            }
            DamageKind::Count { written, readable } => write!(
                f,
                "{written} records were written to this segment, {readable} can be read"
            ),
            DamageKind::SetAside => f.write_str(
                "the relay could not read this segment, or not all of it, and put it aside; \
                 `export --all` shows what can be read in it",
            ),
            DamageKind::CursorSlot => f.write_str(
                "this copy of the cursor is damaged; if the other one is older, some messages are \
                 sent again",
            ),
            DamageKind::CursorLost => f.write_str(
                "there is no readable cursor: every message on disk is sent again, and the ledger \
                 begins anew",
            ),
        }
    }
}
