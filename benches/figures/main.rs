//! Black-box figures of the relay beside its nearest peers, measured in the same run.
//!
//! ```text
//! cargo bench --bench figures -- [SCENARIO…] [--system NAME]… [--runs N] [--messages N] [--json FILE]
//! ```
//!
//! Scenarios: `steady`, `online`, `outage`, `backlog`, `idle`, `page`, `fanout`; all without any. `--system` picks systems by
//! name. Of `--runs` (1 without) the medians are shown; the systems take turns, so that all of them meet the
//! same state of the machine. `--messages` makes `steady` longer, for a profiler. `--json` adds a line for each single run to FILE.
//!
//! Nothing here judges a figure: what a machine manages is no reason for a build to fail. A message that
//! was acknowledged and lost is a figure too.

mod fan_out;
mod mosquitto;
mod page;
mod relay;
mod report;
mod scenario;
mod setting;
mod stage;
mod system;

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use self::report::{Table, json_line};
use self::scenario::Scenario;
use self::system::System;

/// What can fail here is shown to a person, not told apart.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// File systems that live in memory, where nothing is written to a disk.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// What is asked for on the command line.
struct Request {
    scenarios: Vec<Scenario>,
    systems: Vec<Box<dyn System>>,
    runs: usize,
    json: Option<File>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<bool> {
    let request = Request::from_arguments(std::env::args().skip(1))?;
    let file_system = setting::file_system_of(Path::new(setting::PARENT))?;
    if IN_MEMORY.contains(&file_system.as_str()) {
        let place = setting::PARENT;
        return Err(format!(
            "{place} is on a {file_system}, in memory: set CARGO_TARGET_DIR to a directory on a disk"
        )
        .into());
    }
    println!(
        "{} processors, data on {file_system}, medians of {} run(s).\n",
        std::thread::available_parallelism()?,
        request.runs
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(request.carry_out())
}

impl Request {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let (mut scenarios, mut names, mut runs, mut json) = (Vec::new(), Vec::new(), 1, None);
        let mut messages = None;
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let missing = || format!("{argument} needs a value");
                arguments.next().ok_or_else(missing)
            };
            match argument.as_str() {
                // cargo says so to every benchmark
                "--bench" => {}
                "--runs" => runs = value()?.parse()?,
                "--messages" => messages = Some(value()?.parse()?),
                "--system" => names.push(value()?),
                "--json" => json = Some(File::options().append(true).create(true).open(value()?)?),
                name => {
                    let found = scenario::ALL.iter().filter(|known| known.name() == name);
                    let before = scenarios.len();
                    scenarios.extend(found.copied());
                    if scenarios.len() == before {
                        return Err(format!("no scenario is called {name:?}").into());
                    }
                }
            }
        }
        let mut systems = system::all();
        if let Some(unknown) = names
            .iter()
            .find(|name| !systems.iter().any(|system| system.name() == *name))
        {
            return Err(format!("no system here is called {unknown:?}").into());
        }
        if !names.is_empty() {
            systems.retain(|system| names.iter().any(|name| name == system.name()));
        }
        if scenarios.is_empty() {
            scenarios.extend(scenario::ALL);
        }
        if let Some(messages) = messages {
            for scenario in &mut scenarios {
                *scenario = scenario.with_messages(messages);
            }
        }
        Ok(Request {
            scenarios,
            systems,
            runs,
            json,
        })
    }

    /// Runs everything; `false` if a system failed in a scenario, which the others do not suffer for.
    async fn carry_out(mut self) -> Outcome<bool> {
        let mut all_ran = true;
        for scenario in &self.scenarios {
            let (title, mut table) = (scenario.title(), Table::default());
            for run in 1..=self.runs {
                for system in &self.systems {
                    if !scenario.suits(system.as_ref()) {
                        continue;
                    }
                    eprintln!("{title}: {}, run {run} of {}", system.name(), self.runs);
                    match scenario.run(system.as_ref()).await {
                        Ok(figures) => {
                            table.add(system.name(), &figures);
                            if let Some(json) = &mut self.json {
                                writeln!(
                                    json,
                                    "{}",
                                    json_line(&title, system.name(), run, &figures)
                                )?;
                            }
                        }
                        Err(error) => {
                            all_ran = false;
                            eprintln!("    {} failed: {error}", system.name());
                        }
                    }
                }
            }
            println!("{}", table.markdown(&title));
        }
        Ok(all_ran)
    }
}
