//! Segments with damage, kept under another name for whoever wants to look at them.

use std::io;

use super::Seq;
use super::log::is_full;
use super::segment;
use super::storage::Storage;

/// Appended to the name of a segment that is set aside.
pub(super) const SUFFIX: &str = ".damaged";
/// How many are kept; further ones are removed.
const KEPT_MAX: usize = 4;

/// Takes a segment out of the spool: keeps it under another name if there are not too many already, and room for the
/// name. Not durable before the directory is synced.
pub(super) fn set_aside(storage: &dyn Storage, first_seq: Seq) -> io::Result<()> {
    let name = segment::name(first_seq);
    let files = storage.list()?;
    let kept = files.iter().filter(|(name, _)| name.ends_with(SUFFIX));
    if kept.count() < KEPT_MAX {
        match storage.rename(&name, &format!("{name}{SUFFIX}")) {
            Err(error) if is_full(&error) => {}
            renamed => return renamed,
        }
    }
    storage.remove(&name)
}
