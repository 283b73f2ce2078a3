//! The real cloud function as a local server, between its two parties: moto as AWS, and balenaCloud's API.
//!
//! For where moto is installed, as `make setup` does; [`provision_endpoint`](crate::provision_endpoint) needs nothing.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::balena::api::{BALENA_API_KEY, BalenaApi};
use crate::balena::{Balena, BalenaError};
use crate::ca::{CaError, CertificateAuthority};
use crate::process::{Environment, Process, ProcessError};
use crate::site::{PATIENCE, environment};

/// The policy that moto's launcher makes.
pub const POLICY: &str = "cloud-relay";
/// Starts moto, from the repository's root.
const AWS_LAUNCHER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/peers/old_lambda/aws.py"
);

/// What can go wrong with the function.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// No directory.
    #[error("cannot make a directory for the issuer of device certificates: {0}")]
    Directory(std::io::Error),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// moto or the function.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// balenaCloud's API.
    #[error(transparent)]
    Balena(#[from] BalenaError),
    /// It says something else than its address.
    #[error("{program} does not say where it listens, but: {line}")]
    Address {
        /// Who.
        program: &'static str,
        /// What it says.
        line: String,
    },
}

/// The programs that it takes.
#[derive(Clone, Debug)]
pub struct FunctionPrograms {
    /// `provision`.
    pub provision: PathBuf,
    /// A Python that has moto.
    pub python: PathBuf,
}

/// See the module. Dropping it ends its programs.
pub struct ProvisionFunction {
    /// The function.
    pub process: Process,
    /// Where it listens, with a slash at the end.
    pub url: String,
    /// What it was started with.
    pub environment: Environment,
    /// balenaCloud's API.
    pub api: BalenaApi,
    /// Where moto listens.
    pub aws_url: String,
    _aws: Process,
    _directory: TempDir,
}

impl ProvisionFunction {
    /// Starts everything around the device of `balena`. With an `authority`, AWS issues certificates in its name, so
    /// that a cloud takes them. `settings` are added to the function's environment.
    pub async fn start(
        programs: &FunctionPrograms,
        balena: Arc<Balena>,
        authority: Option<Arc<CertificateAuthority>>,
        settings: Environment,
    ) -> Result<Self, FunctionError> {
        let directory = tempfile::tempdir().map_err(FunctionError::Directory)?;
        let mut arguments = vec![AWS_LAUNCHER.to_owned()];
        if let Some(authority) = &authority {
            authority.write_issuer(directory.path())?;
            arguments.push("--authority".to_owned());
            arguments.push(directory.path().display().to_string());
        }
        let aws = Process::new(&programs.python, arguments).with_open_stdin();
        aws.start(&foreign_environment()).await?;
        let aws_url = aws.wait_for_log("http://", PATIENCE).await?;
        let api = BalenaApi::start(balena, authority).await?;
        let mut all = environment([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &aws_url),
            ("AWS_ACCESS_KEY_ID", "loopback"),
            ("AWS_SECRET_ACCESS_KEY", "loopback"),
            ("AWS_IOT_POLICY", POLICY),
            ("BALENA_API_URL", &api.url()),
            ("BALENA_API_KEY", BALENA_API_KEY),
        ]);
        all.extend(settings);
        let process = Process::new(&programs.provision, ["serve", "--listen", "127.0.0.1:0"]);
        process.start(&all).await?;
        let line = process.wait_for_log("listening ", PATIENCE).await?;
        let Some(address) = line.split_whitespace().last() else {
            let program = "provision serve";
            return Err(FunctionError::Address { program, line });
        };
        Ok(ProvisionFunction {
            url: format!("http://{address}/"),
            process,
            environment: all,
            api,
            aws_url,
            _aws: aws,
            _directory: directory,
        })
    }
}

/// The environment of a foreign program: where programs are.
pub fn foreign_environment() -> Environment {
    let path = std::env::var("PATH").unwrap_or_default();
    environment([("PATH", &format!("{path}:/usr/bin:/bin"))])
}
