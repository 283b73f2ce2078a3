//! The `sandbox` program: shows the relay at work on this machine, with no account anywhere.

mod demo;

use std::path::PathBuf;
use std::process::ExitCode;

use cloud_relay_sandbox::provision_function::FunctionPrograms;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Shows Cloud Relay at work on this machine, with no account anywhere.

Usage: sandbox demo --relay PATH [--provision PATH --python PATH] [--outage] [--once]

  --relay PATH      the cloud-relay program to run
  --provision PATH  the cloud function to run; a stand-in otherwise
  --python PATH     a Python that has moto, which is AWS to the cloud function
  --outage          also take the cloud away for a while
  --once            end after the story: exit code 0 if all of it came true, 1 if not

The demo starts a certificate authority, a cloud that speaks MQTT over mutual TLS like AWS IoT Core,
the cloud function, and a stand-in for balenaCloud and the Supervisor; then the relay, without
credentials, and a sensor that publishes once a second. It tells what happens and then stays up for
your own messages until Ctrl-C. It writes only to temporary directories and removes them.
";

/// Exit code for a wrong command line (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("{why}\n\n{HELP}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match demo::run(&options, asked_to_stop()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `None` asks for help.
fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<demo::DemoOptions>, String> {
    let mut arguments = arguments.into_iter();
    match arguments.next().as_deref() {
        Some("demo") => {}
        None | Some("--help" | "-h" | "help") => return Ok(None),
        Some(other) => return Err(format!("unknown command {other:?}; the only one is demo")),
    }
    let (mut relay, mut provision, mut python) = (None, None, None);
    let (mut outage, mut once) = (false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--relay" | "--provision" | "--python" => {
                let path = arguments.next().map(PathBuf::from);
                let path = path.ok_or_else(|| format!("{argument} needs a path"))?;
                match argument.as_str() {
                    "--relay" => relay = Some(path),
                    "--provision" => provision = Some(path),
                    _ => python = Some(path),
                }
            }
            "--outage" => outage = true,
            "--once" => once = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    let relay = relay.ok_or("--relay is missing: the path of the cloud-relay program")?;
    let function = match (provision, python) {
        (Some(provision), Some(python)) => Some(FunctionPrograms { provision, python }),
        (None, None) => None,
        _ => return Err("--provision and --python go together".to_owned()),
    };
    Ok(Some(demo::DemoOptions {
        relay,
        function,
        outage,
        once,
    }))
}

/// Resolves at Ctrl-C or SIGTERM.
async fn asked_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<demo::DemoOptions>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_demo_needs_a_relay_and_takes_its_options_in_any_order() {
        let options = parsed("demo --once --relay /r --outage").unwrap().unwrap();
        assert_eq!(options.relay, PathBuf::from("/r"));
        assert!(options.once && options.outage);
        assert!(options.function.is_none());
        let both = "demo --relay /r --provision /p --python /y";
        assert!(parsed(both).unwrap().unwrap().function.is_some());
        let one = parsed("demo --relay /r --provision /p").unwrap_err();
        assert!(one.contains("--python"));
        assert!(parsed("demo --once").unwrap_err().contains("--relay"));
        assert!(parsed("demo --relay").unwrap_err().contains("path"));
    }

    #[test]
    fn help_is_given_when_asked_for_and_nonsense_is_named() {
        assert!(parsed("").unwrap().is_none());
        assert!(parsed("demo --help").unwrap().is_none());
        assert!(parsed("dance").unwrap_err().contains("dance"));
        assert!(parsed("demo --dance").unwrap_err().contains("--dance"));
    }
}
