//! `verify`: every byte is read; every checksum, the order and the running counts are checked.

use std::io::Write;

use crate::spool::offline::{Damage, Found, Offline, Segment};

use super::{ToolError, Verdict};

/// What has been read so far.
#[derive(Default)]
struct Tally {
    records: u64,
    damages: u64,
    torn: u64,
}

impl Tally {
    fn damage(&mut self, damage: &Damage, out: &mut impl Write) -> Result<(), ToolError> {
        if damage.kind.is_torn() {
            self.torn += 1;
        } else {
            self.damages += 1;
        }
        writeln!(out, "{damage}")?;
        Ok(())
    }
}

/// Prints a line for each damage and one at the end.
pub(super) fn verify(spool: &Offline, out: &mut impl Write) -> Result<Verdict, ToolError> {
    let mut tally = Tally::default();
    for damage in spool.cursor_damage() {
        tally.damage(damage, out)?;
    }
    for segment in spool.segments() {
        spool.walk(segment, |found| match found {
            Found::Record { .. } => {
                tally.records += 1;
                Ok(())
            }
            Found::Damage(damage) => tally.damage(&damage, out),
        })?;
    }
    let verdict = if tally.damages == 0 {
        Verdict::Sound
    } else {
        Verdict::Damaged
    };
    let bytes: u64 = spool.segments().iter().map(Segment::len_bytes).sum();
    writeln!(
        out,
        "{}: {}; {} segments, {} records, {bytes} bytes, {} damages, {} unfinished writes",
        spool.path().display(),
        match verdict {
            Verdict::Sound => "sound",
            Verdict::Damaged => "damaged",
        },
        spool.segments().len(),
        tally.records,
        tally.damages,
        tally.torn
    )?;
    Ok(verdict)
}
