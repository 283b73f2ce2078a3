//! The relay's ledger, as its log and `cloud-relay spool inspect` show it.

use std::path::Path;
use std::process::Command;

use super::RELAY;

/// The figures of one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) spooled: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) dropped: u64,
}

impl Totals {
    /// What a relay that was stopped in order counted over all its runs: its last line.
    pub(crate) fn of_all_runs(lines: &[String]) -> Self {
        let last = lines.last().expect("a last line");
        assert!(last.contains("stopped"), "{last}");
        Totals::read(last, "=")
    }

    /// What it counted in its last run: the line before. `accepted` is without what the run found.
    pub(crate) fn of_last_run(lines: &[String]) -> Self {
        let mut lines = lines.iter().rev();
        let line = lines.nth(1).expect("a line before the last");
        assert!(line.contains("this run"), "{line}");
        Totals::read(line, "=")
    }

    /// What the spool of a relay that does not run has on disk.
    pub(crate) fn on_disk(data_dir: &Path) -> Self {
        let tool = Command::new(RELAY)
            .args(["spool", "inspect", "--data-dir"])
            .arg(data_dir)
            .env_clear()
            .output()
            .expect("the relay's program starts");
        let said = String::from_utf8_lossy(&tool.stdout);
        let line = said.lines().find(|line| line.starts_with("ledger "));
        let line = line.unwrap_or_else(|| panic!("no ledger in: {tool:?}"));
        Totals::read(&line.replace("dead-lettered", "dead_lettered"), " ")
    }

    fn read(line: &str, sign: &str) -> Self {
        let figure = |name: &str| {
            let (_, rest) = line
                .split_once(&format!(" {name}{sign}"))
                .unwrap_or_else(|| panic!("no {name} in: {line}"));
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            digits.expect("a figure").parse().expect("a number")
        };
        Totals {
            accepted: figure("accepted"),
            delivered: figure("delivered"),
            spooled: figure("spooled"),
            dead_lettered: figure("dead_lettered"),
            dropped: figure("dropped"),
        }
    }

    pub(crate) fn balances(&self) -> bool {
        self.accepted == self.delivered + self.spooled + self.dead_lettered + self.dropped
    }
}
