//! The `provision` program: an AWS Lambda function, or with `serve` a server of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use cloud_relay_provision::balena::Api;
use cloud_relay_provision::config::Config;
use cloud_relay_provision::handler::Function;
use cloud_relay_provision::iot::Aws;
use cloud_relay_provision::provisioning::Parties;
use cloud_relay_provision::serve::serve;
use lambda_http::{Request, service_fn};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Wrong arguments or settings, as in sysexits.h.
const EXIT_USAGE: u8 = 64;
const USAGE: &str = "usage: provision serve --listen ADDRESS:PORT
       without arguments: the loop of an AWS Lambda function";

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    // What is not UTF-8 has U+FFFD in it: no argument has that, for a setting it is a fault, and other variables
    // do not matter.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let listen = match arguments(std::env::args_os().skip(1).map(text)) {
        Ok(listen) => listen,
        Err(usage) => return faulty(usage),
    };
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let config = match Config::read(&variables.collect()) {
        Ok(config) => config,
        Err(errors) => return faulty(&errors),
    };
    match run(config, listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn faulty(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_USAGE)
}

/// Where to listen; `None`: as a Lambda function.
fn arguments(given: impl Iterator<Item = String>) -> Result<Option<SocketAddr>, &'static str> {
    let given: Vec<String> = given.collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    match given.as_slice() {
        [] if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() => Ok(None),
        ["serve", "--listen", address] => address.parse().map(Some).map_err(|_| USAGE),
        _ => Err(USAGE),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(config: Config, listen: Option<SocketAddr>) -> Result<(), AnyError> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let function = Arc::new(Function {
        parties: Parties {
            iot: Aws::from_environment().await,
            balena: Api::new(config.balena)?,
            policy: config.policy,
        },
        access: config.access,
    });
    if let Some(address) = listen {
        return serve_until_told(address, function).await;
    }
    let answer = |request: Request| {
        let function = Arc::clone(&function);
        async move {
            let request = request.map(|body| body.to_vec());
            Ok::<_, AnyError>(function.answer(request).await)
        }
    };
    lambda_http::run(service_fn(answer)).await
}

async fn serve_until_told(
    address: SocketAddr,
    function: Arc<Function<Aws, Api>>,
) -> Result<(), AnyError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening {}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        never = serve(listener, function) => match never {},
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
