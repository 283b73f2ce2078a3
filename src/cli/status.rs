//! `cloud-relay status`: asks the running relay what it is doing, and says it in a terminal.

mod text;

use std::process::ExitCode;
use std::time::Duration;

use super::ask::ask;
use super::{EXIT_USAGE, print};
use crate::config::Config;
use crate::status::Snapshot;

/// `EX_UNAVAILABLE`: no relay answers.
const EXIT_UNAVAILABLE: u8 = 69;

/// A relay on the same device that takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `cloud-relay status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCommand {
    /// Print the relay's own JSON.
    pub json: bool,
}

impl StatusCommand {
    /// Asks, prints, and tells by the exit code whether data is accepted and safe.
    pub fn run(self) -> ExitCode {
        let config = match Config::status_from_env() {
            Ok(config) => config,
            Err(errors) => {
                eprintln!("{errors}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
        let asked = ask(&config, "/api/status", TIMEOUT).and_then(|answer| {
            let snapshot: Snapshot = answer.read()?;
            Ok((answer.body, snapshot))
        });
        match asked {
            Ok((body, snapshot)) => {
                let printed = print(&if self.json {
                    format!("{body}\n")
                } else {
                    text::render(&snapshot)
                });
                if snapshot.health.ok {
                    printed
                } else {
                    ExitCode::FAILURE
                }
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(EXIT_UNAVAILABLE)
            }
        }
    }
}
