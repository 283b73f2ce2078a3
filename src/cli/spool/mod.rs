//! `cloud-relay spool inspect | verify | export`: the spool of a stopped relay, shown and checked.
//!
//! Everything is streamed, segment by segment: what has been read is printed before the next is read. A
//! reader that goes away (`| head`) ends the tool quietly. Nothing is changed.

mod export;
mod inspect;
#[cfg(test)]
mod tests;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, ConfigErrors};
use crate::spool;
use crate::spool::offline::{Offline, OfflineError};
use crate::spool::storage::ReadOnlyError;

use super::EXIT_USAGE;

/// What was looked into is damaged.
const EXIT_DAMAGED: u8 = 1;
/// `EX_DATAERR`: the format is one this program does not know.
const EXIT_FORMAT: u8 = 65;
/// `EX_NOINPUT`: there is no spool.
const EXIT_NO_SPOOL: u8 = 66;
/// `EX_IOERR`: the system refused to read or to write.
const EXIT_IO: u8 = 74;
/// `EX_TEMPFAIL`: a relay is running; it will work when that has stopped.
const EXIT_IN_USE: u8 = 75;

/// How much is gathered before it is written to stdout, in bytes.
const OUTPUT_BYTES: usize = 64 * 1024;

/// A tool and the directory to use it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolCommand {
    /// Which tool.
    pub tool: SpoolTool,
    /// The relay's data directory; `None` means as the environment says.
    pub data_dir: Option<PathBuf>,
}

/// What can be done with a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolTool {
    /// Show what is in it.
    Inspect,
    /// Read and check every byte.
    Verify,
    /// Write its messages as JSON lines.
    Export {
        /// Settled messages too.
        all: bool,
    },
}

/// Whether the spool is as the relay wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
}

/// Why a tool gave up.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error(transparent)]
    Environment(#[from] ConfigErrors),
    #[error(transparent)]
    Spool(#[from] OfflineError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ToolError {
    /// Whether whoever read the output has seen enough.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, ToolError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    fn exit_code(&self) -> u8 {
        match self {
            ToolError::Environment(_) => EXIT_USAGE,
            ToolError::Spool(OfflineError::Directory(ReadOnlyError::InUse { .. })) => EXIT_IN_USE,
            ToolError::Spool(
                OfflineError::Directory(ReadOnlyError::Missing { .. }) | OfflineError::Empty { .. },
            ) => EXIT_NO_SPOOL,
            ToolError::Spool(OfflineError::Version { .. }) => EXIT_FORMAT,
            ToolError::Spool(OfflineError::Directory(_) | OfflineError::Io { .. })
            | ToolError::Output(_) => EXIT_IO,
        }
    }
}

impl SpoolCommand {
    /// Does it; what went wrong is on stderr.
    pub fn run(&self) -> ExitCode {
        let mut out = BufWriter::with_capacity(OUTPUT_BYTES, io::stdout().lock());
        let verdict = match self.run_to(&mut out) {
            // What `verify` prints before it is through is damage.
            Err(e) if e.is_closed_pipe() && self.tool == SpoolTool::Verify => Ok(Verdict::Damaged),
            Err(e) if e.is_closed_pipe() => Ok(Verdict::Sound),
            result => result,
        };
        // Hands on what it still holds.
        let written = match out.into_inner().map_err(io::IntoInnerError::into_error) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(ToolError::Output(e)),
            _ => Ok(()),
        };
        match verdict.and_then(|verdict| written.map(|()| verdict)) {
            Ok(Verdict::Damaged) => ExitCode::from(EXIT_DAMAGED),
            Ok(Verdict::Sound) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(error.exit_code())
            }
        }
    }

    fn run_to(&self, out: &mut impl Write) -> Result<Verdict, ToolError> {
        let data_dir = match &self.data_dir {
            Some(data_dir) => data_dir.clone(),
            None => Config::data_dir_from_env()?,
        };
        let spool = Offline::open(&data_dir.join(spool::DIRECTORY))?;
        match self.tool {
            SpoolTool::Inspect => inspect::inspect(&spool, out),
            SpoolTool::Verify => verify::verify(&spool, out),
            SpoolTool::Export { all } => export::export(&spool, all, out, &mut io::stderr().lock()),
        }
    }
}
