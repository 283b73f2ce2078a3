//! The command line.

use std::fs::File;

use crate::Outcome;
use crate::scenario::{self, Scenario};
use crate::system::{self, System};

/// Runs of a scenario, if nothing is said.
const RUNS: usize = 1;

/// What is asked for.
pub(crate) struct Request {
    /// Each with its number of runs.
    pub(crate) scenarios: Vec<(Scenario, usize)>,
    pub(crate) systems: Vec<Box<dyn System>>,
    /// Where each run becomes a line of JSON.
    pub(crate) json: Option<File>,
}

impl Request {
    pub(crate) fn from_arguments(arguments: &[String]) -> Outcome<Self> {
        let mut asked: Vec<Scenario> = Vec::new();
        let (mut names, mut runs, mut json) = (Vec::new(), RUNS, None);
        let mut messages = None;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let missing = || format!("{argument} needs a value");
                arguments.next().ok_or_else(missing)
            };
            match argument.as_str() {
                "--runs" => runs = value()?.parse()?,
                "--messages" => messages = Some(value()?.parse()?),
                "--system" => names.push(value()?),
                "--json" => json = Some(File::options().append(true).create(true).open(value()?)?),
                name => {
                    let before = asked.len();
                    asked.extend(
                        scenario::all()
                            .into_iter()
                            .filter(|known| known.is_called(name)),
                    );
                    if asked.len() == before {
                        return Err(format!("no scenario is called {name:?}").into());
                    }
                }
            }
        }
        let all = asked.is_empty();
        if all {
            asked.extend(scenario::all());
        }
        let scenarios = asked.into_iter().map(|scenario| {
            let times = if all && scenario.is_long() {
                runs.min(1)
            } else {
                runs
            };
            let longer = messages.map(|messages| scenario.with_messages(messages));
            (longer.unwrap_or(scenario), times)
        });
        Ok(Request {
            scenarios: scenarios.collect(),
            systems: systems(&names)?,
            json,
        })
    }
}

/// Those that are called `names`; without any, all but the variants.
fn systems(names: &[&String]) -> Outcome<Vec<Box<dyn System>>> {
    let mut systems = system::all();
    let unknown = |name: &&&String| !systems.iter().any(|system| system.name() == **name);
    if let Some(unknown) = names.iter().find(unknown) {
        return Err(format!("no system here is called {unknown:?}").into());
    }
    if names.is_empty() {
        systems.retain(|system| !system.is_variant());
    } else {
        systems.retain(|system| names.iter().any(|name| *name == system.name()));
    }
    Ok(systems)
}
