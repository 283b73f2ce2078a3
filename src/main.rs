//! The `cloud-relay` program: configuration, logging, the relay, an exit code.

use std::process::ExitCode;

use cloud_relay::app::{self, App};
use cloud_relay::config::Config;
use cloud_relay::logging;

/// `EX_USAGE` of sysexits.h: the configuration is faulty and a restart will not help.
const EXIT_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    logging::init(config.log_level)?;
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
        App::build(config).await?.run(stop).await?;
        Ok(())
    });
    // A name lookup that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}
