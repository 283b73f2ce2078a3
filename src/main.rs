//! The `cloud-relay` program: arguments, configuration, logging, the relay, an exit code.

use std::process::ExitCode;

use cloud_relay::app::{self, App};
use cloud_relay::cli::{self, Command};
use cloud_relay::config::Config;
use cloud_relay::logging;

fn main() -> ExitCode {
    match Command::parse(std::env::args_os().skip(1)) {
        Ok(Command::Relay) => relay(),
        Ok(Command::Health) => cli::health::run(),
        Ok(Command::Routes(command)) => command.run(),
        Ok(Command::Spool(command)) => command.run(),
        Ok(Command::DeadLetters(command)) => command.run(),
        Ok(Command::Status(command)) => command.run(),
        Ok(Command::Print(text)) => cli::print(&text),
        Err(error) => faulty(&error),
    }
}

fn relay() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(errors) => return faulty(&errors),
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn faulty(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(cli::EXIT_USAGE)
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let memory = logging::init(config.log_level, config.log_format)?;
    tracing::info!(
        "Cloud Relay {}: {}",
        env!("CARGO_PKG_VERSION"),
        config.summary()
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let stop = app::stop_signal()?;
        App::build(config, memory).await?.run(stop).await?;
        Ok(())
    });
    // A name lookup that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}
