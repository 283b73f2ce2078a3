//! `cloud-relay dead-letters list | show | replay | drop`: what the cloud never takes, while the relay runs.
//!
//! One letter is read at a time, so memory does not depend on their number. A letter that the relay removes
//! meanwhile is left out.

mod arguments;
mod replay;
mod show;
#[cfg(test)]
mod tests;

use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, ConfigErrors};
use crate::dead_letters::{self, Entry, Shelf, ShelfError};

use super::EXIT_USAGE;
use replay::ReplayError;

pub(super) use self::arguments::parse;

/// Some letters could not be read, have no route, or were refused.
const EXIT_SOME: u8 = 1;
/// `EX_NOINPUT`: there is no such letter.
const EXIT_UNKNOWN: u8 = 66;
/// `EX_UNAVAILABLE`: no relay takes them.
const EXIT_NO_RELAY: u8 = 69;
/// `EX_NOPERM`: the relay does not let the tool in.
const EXIT_NO_LOGIN: u8 = 77;
/// `EX_IOERR`: the system refused to read or to write.
const EXIT_IO: u8 = 74;

/// What to do, and where the letters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettersCommand {
    /// What to do.
    pub action: Action,
    /// The relay's data directory; `None` means as the environment says.
    pub data_dir: Option<PathBuf>,
}

/// What can be done with dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show what there is.
    List {
        /// As JSON lines.
        json: bool,
    },
    /// Show one.
    Show {
        /// Which.
        id: String,
        /// Its payload only, as it came.
        raw: bool,
    },
    /// Publish them to the running relay.
    Replay {
        /// Which.
        which: Which,
        /// Where its broker is; `None` means as the environment says.
        broker: Option<SocketAddr>,
    },
    /// Remove them.
    Drop {
        /// Which.
        which: Which,
    },
}

/// Which letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that there are.
    All,
    /// Those with these ids.
    These(Vec<String>),
}

/// Whether everything could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    All,
    Some,
}

/// Why it was given up.
#[derive(Debug, thiserror::Error)]
enum LettersError {
    #[error(transparent)]
    Environment(#[from] ConfigErrors),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl LettersError {
    fn exit_code(&self) -> u8 {
        match self {
            LettersError::Environment(_) | LettersError::Shelf(ShelfError::Ambiguous { .. }) => {
                EXIT_USAGE
            }
            LettersError::Shelf(ShelfError::Unknown { .. }) => EXIT_UNKNOWN,
            LettersError::Shelf(ShelfError::Damaged { .. }) => EXIT_SOME,
            LettersError::Replay(ReplayError::LoginRefused { .. }) => EXIT_NO_LOGIN,
            LettersError::Replay(_) => EXIT_NO_RELAY,
            LettersError::Shelf(ShelfError::Io { .. }) | LettersError::Output(_) => EXIT_IO,
        }
    }
}

impl DeadLettersCommand {
    /// Does it; what went wrong is on stderr.
    pub fn run(&self) -> ExitCode {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = self.run_to(&mut out, &mut io::stderr().lock());
        // Hands on what it still holds.
        let written = out.into_inner().map_err(io::IntoInnerError::into_error);
        let result = result.and_then(|verdict| Ok(written.map(|_| verdict)?));
        match result {
            Ok(Verdict::All) => ExitCode::SUCCESS,
            Ok(Verdict::Some) => ExitCode::from(EXIT_SOME),
            // Whoever read the output has seen enough.
            Err(LettersError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(error.exit_code())
            }
        }
    }

    fn run_to(
        &self,
        out: &mut impl Write,
        complaints: &mut impl Write,
    ) -> Result<Verdict, LettersError> {
        let data_dir = match &self.data_dir {
            Some(data_dir) => data_dir.clone(),
            None => Config::data_dir_from_env()?,
        };
        let kept = Shelf::new(&data_dir.join(dead_letters::DIRECTORY));
        match &self.action {
            Action::List { json } => show::list(&kept, *json, out, complaints),
            Action::Show { id, raw } => show::show(&kept, id, *raw, out),
            Action::Replay { which, broker } => {
                let config = Config::from_env()?;
                let broker = broker.unwrap_or_else(|| crate::cli::reachable(config.local.listen));
                let chosen = which.choose(&kept)?;
                replay::replay(
                    &kept,
                    &chosen,
                    (broker, config.local.login.as_ref()),
                    &config.routes,
                    (out, complaints),
                )
            }
            Action::Drop { which } => drop_letters(&kept, &which.choose(&kept)?, out),
        }
    }
}

impl Which {
    fn choose(&self, kept: &Shelf) -> Result<Vec<Entry>, ShelfError> {
        match self {
            Which::All => kept.entries(),
            Which::These(ids) => kept.find(ids),
        }
    }
}

fn drop_letters(
    kept: &Shelf,
    chosen: &[Entry],
    out: &mut impl Write,
) -> Result<Verdict, LettersError> {
    let mut dropped = 0;
    for entry in chosen {
        dropped += u64::from(kept.remove(entry)?);
    }
    if dropped > 0 {
        kept.sync()?;
    }
    writeln!(out, "{dropped} dead letters dropped")?;
    Ok(Verdict::All)
}
