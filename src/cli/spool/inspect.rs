//! `inspect`: segments, cursor, ledger, and what waits for the cloud.

use std::fmt;
use std::io::Write;

use crate::clock::Timestamp;
use crate::rfc3339;
use crate::spool::Seq;
use crate::spool::ledger::DropReason;
use crate::spool::offline::{Found, Offline, Segment};
use crate::spool::record::Record;

use super::{ToolError, Verdict};

/// When a number of messages arrived, as far as the clock was set.
#[derive(Clone, Copy, Default)]
struct Arrivals {
    /// Oldest and newest, in milliseconds since the Unix epoch.
    span: Option<(u64, u64)>,
    clock_unset: u64,
}

impl Arrivals {
    fn note(&mut self, received: Timestamp) {
        let at = received.unix_ms;
        if received.clock_set {
            let (oldest, newest) = self.span.unwrap_or((at, at));
            self.span = Some((oldest.min(at), newest.max(at)));
        } else {
            self.clock_unset += 1;
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((oldest, newest)) = self.span {
            write!(f, "{} to {}", utc(oldest), utc(newest))?;
        }
        match (self.span, self.clock_unset) {
            (None, 0) => f.write_str("-"),
            (Some(_), 0) => Ok(()),
            (None, _) => f.write_str("clock not set"),
            (Some(_), n) => write!(f, ", clock not set for {n}"),
        }
    }
}

fn utc(unix_ms: u64) -> String {
    rfc3339::utc(unix_ms).unwrap_or_else(|| format!("{unix_ms} ms after 1970"))
}

/// What one segment holds.
#[derive(Default)]
struct Contents {
    /// First and last number.
    seqs: Option<(Seq, Seq)>,
    records: u64,
    arrivals: Arrivals,
}

/// What is to be said of the whole spool.
#[derive(Default)]
struct Totals {
    waiting: u64,
    waiting_bytes: u64,
    oldest: Option<(Seq, Timestamp)>,
    /// Records that cannot be read, in segments the relay still reads.
    unreadable: u64,
    damages: u64,
    torn: u64,
}

impl Totals {
    fn wait(&mut self, record: &Record<'_>, len: u64) {
        self.waiting += 1;
        self.waiting_bytes += len;
        self.oldest
            .get_or_insert((record.seq, record.message.received));
    }
}

/// Prints what is in the spool.
pub(super) fn inspect(spool: &Offline, out: &mut impl Write) -> Result<Verdict, ToolError> {
    let mut totals = Totals::default();
    totals.damages += spool.cursor_damage().len() as u64;
    writeln!(out, "{}", spool.path().display())?;
    writeln!(
        out,
        "{:<28} {:>12} {:>12} {:>8} {:>9}  arrived",
        "segment", "first", "last", "records", "bytes"
    )?;
    for segment in spool.segments() {
        let contents = read(spool, segment, &mut totals)?;
        let seq = |seq: Option<Seq>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        writeln!(
            out,
            "{:<28} {:>12} {:>12} {:>8} {:>9}  {}",
            segment.name(),
            seq(contents.seqs.map(|(first, _)| first)),
            seq(contents.seqs.map(|(_, last)| last)),
            contents.records,
            segment.len_bytes(),
            contents.arrivals
        )?;
    }
    summary(spool, &totals, out)?;
    Ok(Verdict::Sound)
}

fn read(spool: &Offline, segment: &Segment, totals: &mut Totals) -> Result<Contents, ToolError> {
    let mut contents = Contents::default();
    let lost = spool.walk(segment, |found| -> Result<(), ToolError> {
        match found {
            Found::Record {
                record,
                len,
                settled,
            } => {
                let (first, _) = contents.seqs.unwrap_or((record.seq, record.seq));
                contents.seqs = Some((first, record.seq));
                contents.records += 1;
                contents.arrivals.note(record.message.received);
                if !settled && !segment.is_set_aside() {
                    totals.wait(&record, len);
                }
            }
            Found::Damage(damage) if damage.kind.is_torn() => totals.torn += 1,
            Found::Damage(_) => totals.damages += 1,
        }
        Ok(())
    })?;
    if !segment.is_set_aside() {
        totals.unreadable += lost;
    }
    Ok(contents)
}

fn summary(spool: &Offline, totals: &Totals, out: &mut impl Write) -> Result<(), ToolError> {
    match spool.frontier() {
        Some(frontier) => writeln!(
            out,
            "\ncursor    every message below {frontier} is settled, and {} above it",
            spool.settled_ahead()
        )?,
        None => writeln!(out, "\ncursor    none: everything on disk is sent again")?,
    }
    let ledger = spool.ledger(totals.waiting);
    let reasons: Vec<String> = (DropReason::ALL.iter())
        .map(|reason| format!("{} {}", reason.name(), ledger.dropped_for(*reason)))
        .collect();
    writeln!(
        out,
        "ledger    accepted {} = delivered {} + spooled {} + dead-lettered {} + dropped {} ({})",
        ledger.accepted(),
        ledger.delivered,
        ledger.spooled,
        ledger.dead_lettered,
        ledger.dropped(),
        reasons.join(", ")
    )?;
    write!(
        out,
        "waiting   {} messages, {} bytes",
        totals.waiting, totals.waiting_bytes
    )?;
    if let Some((seq, received)) = totals.oldest {
        let mut arrived = "when the clock was not set".to_owned();
        if received.clock_set {
            arrived = utc(received.unix_ms);
        }
        write!(out, "; the oldest is {seq}, arrived {arrived}")?;
    }
    writeln!(out)?;
    if totals.damages > 0 {
        writeln!(
            out,
            "damage    {} places, {} records cannot be read; `cloud-relay spool verify` names them",
            totals.damages, totals.unreadable
        )?;
    }
    if totals.torn > 0 {
        writeln!(
            out,
            "torn      the last segment ends in an unfinished write; the relay will cut it off"
        )?;
    }
    Ok(())
}
