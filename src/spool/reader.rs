//! The reading side of the disk: records are streamed in pieces, so memory does not grow with the
//! backlog.
//!
//! Damage is stepped over to the next sound record, with the whole rest of the segment at once; how many records it cost
//! is known when the end of the segment is reached, because the number written to it is known. An I/O error is returned
//! and is not taken for damage.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Seq;
use super::record::{self, Decoded, Salt};
use super::segment::{self, Order};
use super::storage::{Storage, StorageFile};
use super::tail::Frame;

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where the reader is to look, as the index of segments has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's name.
    pub(super) first_seq: Seq,
    /// Its durable length, in bytes.
    pub(super) len: u64,
    /// The segment behind it; `None` if this is the last one.
    pub(super) next: Option<Seq>,
    /// Every number in it is smaller.
    pub(super) end_seq: Seq,
    /// How many records were written to it.
    pub(super) records: u64,
}

/// What one read found.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Sound records, in order.
    pub(super) frames: Vec<Frame>,
    /// Whether this was the last piece of the segment, as far as it is durable.
    pub(super) end: bool,
    /// At the end: records written to the whole segment that could not be read back.
    pub(super) lost: u64,
}

#[derive(Debug)]
struct Open {
    first_seq: Seq,
    file: Arc<dyn StorageFile>,
    offset: u64,
    order: Order,
    /// That of the first record.
    salt: Option<Salt>,
    records_seen: u64,
}

/// Reads records in order.
#[derive(Debug)]
pub(super) struct Reader {
    storage: Arc<dyn Storage>,
    open: Option<Open>,
}

impl Reader {
    /// A reader over `storage`.
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Reader {
            storage,
            open: None,
        }
    }

    /// Reads the next piece of the segment at `place`: records numbered `from` or higher.
    pub(super) fn read(&mut self, place: Place, from: Seq) -> io::Result<Chunk> {
        let mut open = match self.open.take() {
            // Where it stands now, unless the consumer went back behind that.
            Some(open)
                if open.first_seq == place.first_seq
                    && open.order.from <= from.max(place.first_seq) =>
            {
                open
            }
            _ => open_segment(self.storage.as_ref(), place.first_seq)?,
        };
        open.order.end = Some(place.end_seq);
        let mut chunk = Chunk::default();
        if open.offset < place.len {
            read_frames(&mut open, place.len, from, &mut chunk.frames)?;
        }
        chunk.end = open.offset >= place.len;
        if chunk.end {
            chunk.lost = place.records.saturating_sub(open.records_seen);
        }
        self.open = Some(open);
        Ok(chunk)
    }
}

fn open_segment(storage: &dyn Storage, first_seq: Seq) -> io::Result<Open> {
    Ok(Open {
        first_seq,
        file: storage.open(&segment::name(first_seq))?,
        offset: segment::HEADER_BYTES as u64,
        order: Order {
            from: first_seq,
            end: None,
        },
        salt: None,
        records_seen: 0,
    })
}

/// Reads one piece at `open.offset` and takes the records out of it. Where it meets damage it goes on
/// with the whole rest of the segment in memory, and takes every sound record out of that: what the damage cost is known
/// only at the end, and who has caught up does not come back for it.
fn read_frames(open: &mut Open, len: u64, from: Seq, frames: &mut Vec<Frame>) -> io::Result<()> {
    let piece = read_piece(open, len, CHUNK_BYTES)?;
    let piece = match record::decode(&piece) {
        Decoded::Incomplete { needed } => read_piece(open, len, needed)?,
        _ => piece,
    };
    if take_records(open, &piece, from, frames) == Piece::Sound {
        return Ok(());
    }
    let begin = open.offset;
    let rest = read_piece(open, len, usize::MAX)?;
    let mut damaged = 0;
    while damaged < rest.len() {
        let sound = record::find_next(&rest, damaged + 1, open.salt).unwrap_or(rest.len());
        open.offset = begin + sound as u64;
        take_records(open, &rest.slice(sound..), from, frames);
        damaged = usize::try_from(open.offset - begin).unwrap_or(rest.len());
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Piece {
    Sound,
    /// What stands at `open.offset` now is no record.
    Damaged,
}

/// Takes whole records from the start of `piece`, which stands at `open.offset`, and moves that on.
fn take_records(open: &mut Open, piece: &Bytes, from: Seq, frames: &mut Vec<Frame>) -> Piece {
    let mut rest = piece.clone();
    while !rest.is_empty() {
        match record::decode(&rest) {
            Decoded::Record { record, len } => {
                let seq = record.seq;
                open.salt = open.salt.or(record.salt);
                open.offset += len as u64;
                let frame = rest.split_to(len);
                if !open.order.admits(seq) {
                    continue;
                }
                open.records_seen += 1;
                if seq >= from {
                    frames.push((seq, frame));
                }
            }
            // The next piece will begin with it, unless nothing whole came before it.
            Decoded::Incomplete { .. } if rest.len() < piece.len() => break,
            Decoded::Incomplete { .. } | Decoded::Corrupt => return Piece::Damaged,
        }
    }
    Piece::Sound
}

fn read_piece(open: &Open, len: u64, bytes_max: usize) -> io::Result<Bytes> {
    let left = usize::try_from(len - open.offset).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(bytes_max)];
    let read = open.file.read_at(&mut bytes, open.offset)?;
    if read < bytes.len() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the segment is shorter than what was written to it",
        ));
    }
    Ok(Bytes::from(bytes))
}
