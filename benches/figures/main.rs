//! Black-box figures of the relay beside its nearest peers, measured in the same run. `benches/README.md` says how to
//! run it, what it measures, and how to add a system.
//!
//! ```text
//! cargo bench --bench figures -- [SCENARIO…] [--system NAME]… [--runs N] [--messages N] [--json FILE]
//! cargo bench --bench figures -- --plot FILE PLOT
//! ```
//!
//! Nothing here judges a figure: what a machine manages is no reason for a build to fail. A message that
//! was acknowledged and lost is a figure too.

mod direct;
mod fan_out;
mod hostile;
mod kill;
mod measure;
mod mosquitto;
mod outage;
mod paced;
mod packets;
mod page;
mod plot;
mod relay;
mod report;
mod request;
mod rest;
mod scenario;
mod setting;
mod stage;
mod steady;
mod system;
mod usage;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use self::report::{Figure, Runs, Table};
use self::request::Request;
use self::scenario::Scenario;

/// What can fail here is shown to a person, not told apart.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// File systems that live in memory, where nothing is written to a disk.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

fn main() -> ExitCode {
    // cargo says --bench to every benchmark
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == direct::ARGUMENT => direct::run(rest).map(|()| true),
        Some((first, rest)) if first == plot::ARGUMENT => plot::run(rest).map(|()| true),
        _ => measure(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Outcome<bool> {
    let request = Request::from_arguments(arguments)?;
    let file_system = setting::file_system_of(Path::new(setting::PARENT))?;
    if IN_MEMORY.contains(&file_system.as_str()) {
        let place = setting::PARENT;
        return Err(format!(
            "{place} is on a {file_system}, in memory: set CARGO_TARGET_DIR to a directory on a disk"
        )
        .into());
    }
    println!(
        "{} processors, load {} before, data on {file_system}. Medians, and in brackets the least and the most.\n",
        std::thread::available_parallelism()?,
        load()?
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(carry_out(request))
}

/// Runs everything; `false` if a system failed in a scenario, which the others do not suffer for.
async fn carry_out(mut request: Request) -> Outcome<bool> {
    let mut all_ran = true;
    let names = request
        .systems
        .iter()
        .map(|system| system.name().to_owned());
    let table = Table::new(names.collect());
    println!("{}", table.head());
    for &(scenario, times) in &request.scenarios {
        let mut runs = Runs::default();
        // the systems take turns, so that all of them meet the same state of the machine
        for run in 1..=times {
            for system in &request.systems {
                if !scenario.suits(system.as_ref()) {
                    continue;
                }
                let name = system.name();
                eprintln!("{}: {name}, run {run} of {times}", scenario.name());
                let load = load()?;
                match scenario.run(system.as_ref()).await {
                    Ok(figures) => {
                        runs.add(name, &figures);
                        if let Some(json) = &mut request.json {
                            writeln!(json, "{}", line(scenario, name, run, &load, &figures))?;
                        }
                    }
                    Err(error) => {
                        all_ran = false;
                        eprintln!("    {name} failed: {error}");
                    }
                }
            }
        }
        let title = format!("{}: {}", scenario.name(), scenario.title());
        println!("{}", table.rows(&title, &runs));
    }
    Ok(all_ran)
}

/// One run as a line of JSON.
fn line(scenario: Scenario, system: &str, run: usize, load: &str, figures: &[Figure]) -> Value {
    let figures: Map<String, Value> = figures
        .iter()
        .map(|figure| (figure.name.to_owned(), json!(figure.value)))
        .collect();
    json!({
        "scenario": scenario.name(),
        "title": scenario.title(),
        "system": system,
        "run": run,
        "load": load,
        "figures": figures,
    })
}

/// How many processes wanted a processor in the last minute, on average.
fn load() -> Outcome<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}
