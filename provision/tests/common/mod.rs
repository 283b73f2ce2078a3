//! The function's real program with moto as AWS and the sandbox's balenaCloud, and curl to talk to it.
#![allow(dead_code, reason = "each test program uses its own part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud_relay_sandbox::balena::api::{BALENA_API_KEY, BalenaApi};
use cloud_relay_sandbox::balena::{Balena, BalenaOptions};
use cloud_relay_sandbox::ca::CertificateAuthority;
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, environment};
use serde_json::Value;
use tempfile::TempDir;

/// The real program.
pub(crate) const PROVISION: &str = env!("CARGO_BIN_EXE_provision");
/// The repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The policy that moto's launcher makes.
const POLICY: &str = "cloud-relay";

/// A program among the tools that `make setup` installs.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tool = Path::new(ROOT).join(".tools").join(path);
    assert!(tool.exists(), "{}: run `make setup`", tool.display());
    tool
}

pub(crate) fn path(relative: &str) -> String {
    Path::new(ROOT).join(relative).display().to_string()
}

/// The function and its two parties.
pub(crate) struct Stage {
    pub(crate) balena: Arc<Balena>,
    pub(crate) api: BalenaApi,
    pub(crate) function: Process,
    /// `PROVISION_URL`.
    pub(crate) url: String,
    aws: Process,
    aws_url: String,
    _directory: TempDir,
}

impl Stage {
    /// Starts everything; `settings` are added to the function's environment.
    pub(crate) async fn start<const N: usize>(settings: [(&str, &str); N]) -> Self {
        let options = BalenaOptions::new(DEVICE_UUID);
        let balena = Balena::start(options).await.expect("balenaCloud");
        Self::around(Arc::new(balena), None, settings).await
    }

    /// The same with a device that is there already. With an `authority`, AWS issues certificates in its
    /// name.
    pub(crate) async fn around<const N: usize>(
        balena: Arc<Balena>,
        authority: Option<Arc<CertificateAuthority>>,
        settings: [(&str, &str); N],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (aws, aws_url) = start_aws(directory.path(), authority.as_deref()).await;
        let api = BalenaApi::start(Arc::clone(&balena), authority).await;
        let api = api.expect("balenaCloud's API");
        let mut all = environment([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &aws_url),
            ("AWS_ACCESS_KEY_ID", "loopback"),
            ("AWS_SECRET_ACCESS_KEY", "loopback"),
            ("AWS_IOT_POLICY", POLICY),
            ("BALENA_API_URL", &api.url()),
            ("BALENA_API_KEY", BALENA_API_KEY),
        ]);
        all.extend(environment(settings));
        let function = Process::new(PROVISION, ["serve", "--listen", "127.0.0.1:0"]);
        function.start(&all).await.expect("the function starts");
        let line = function.wait_for_log("listening ", PATIENCE).await;
        let line = line.expect("the function listens");
        let address = line.split_whitespace().last().expect("an address");
        Stage {
            url: format!("http://{address}/"),
            balena,
            api,
            function,
            aws,
            aws_url,
            _directory: directory,
        }
    }

    /// Sends a request with curl; status and text of the answer.
    pub(crate) async fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let mut all = vec!["--silent", "--show-error", "--max-time", "40"];
        all.extend(["--write-out", "\n%{http_code}"]);
        all.extend(arguments);
        let output = run("curl", &all).await;
        let (status, text) = output.split_last().expect("a status");
        (status.parse().expect("a number"), text.join("\n"))
    }

    /// The request of the old Node block: its headers, its body.
    pub(crate) async fn old_block(&self, method: &str, uuid: &str, service: &str) -> (u16, String) {
        let body = format!(r#"{{"uuid":"{uuid}","balena_service":"{service}"}}"#);
        let mut arguments = vec!["-X", method, "-d", &body, &self.url];
        for header in ["Content-Type: application/json", "Cache-Control: no-cache"] {
            arguments.extend(["-H", header]);
        }
        self.curl(&arguments).await
    }

    /// What AWS holds.
    pub(crate) async fn look(&self) -> Value {
        let python = tool("venv/bin/python").display().to_string();
        let script = path("provision/tests/peers/look.py");
        let output = run(&python, &[&script, &self.aws_url]).await;
        serde_json::from_str(&output.concat()).expect("JSON")
    }

    /// Calls balena's own SDK.
    pub(crate) async fn balena_sdk(&self, service: &str, call: &[&str]) -> Value {
        tool("node/node_modules/balena-sdk-22");
        let script = path("provision/tests/peers/balena_sdk.mjs");
        let url = self.api.url();
        let mut all = vec![script.as_str(), &url, BALENA_API_KEY, DEVICE_UUID, service];
        all.extend(call);
        serde_json::from_str(&run("node", &all).await.concat()).expect("JSON")
    }
}

async fn start_aws(
    directory: &Path,
    authority: Option<&CertificateAuthority>,
) -> (Process, String) {
    let mut arguments = vec![path("tests/peers/old_lambda/aws.py")];
    if let Some(authority) = authority {
        authority.write_issuer(directory).expect("the issuer");
        arguments.push("--authority".to_owned());
        arguments.push(directory.display().to_string());
    }
    let aws = Process::new(tool("venv/bin/python"), arguments).with_open_stdin();
    aws.start(&foreign_environment())
        .await
        .expect("moto starts");
    let url = aws.wait_for_log("http://", PATIENCE).await;
    (aws, url.expect("moto listens"))
}

fn foreign_environment() -> Environment {
    let path = std::env::var("PATH").unwrap_or_default();
    environment([("PATH", &format!("{path}:/usr/bin:/bin"))])
}

/// Runs a foreign program to its successful end; what it printed.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Vec<String> {
    let process = Process::new(program, arguments.iter().copied());
    process
        .start(&foreign_environment())
        .await
        .expect("it starts");
    let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
    assert!(status.success(), "{program}: {}", process.log().tail());
    process.log().lines()
}

/// The one active certificate of the device, which must be complete; its PEM.
pub(crate) fn only_certificate(seen: &Value, thing: &str) -> String {
    assert_eq!(seen["things"], serde_json::json!([thing]));
    let certificates = seen["certificates"].as_object().expect("an object");
    assert_eq!(certificates.len(), 1, "{seen}");
    let certificate = certificates.values().next().expect("one");
    assert_eq!(certificate["status"], "ACTIVE");
    assert_eq!(certificate["things"], serde_json::json!([thing]));
    assert_eq!(certificate["policies"], serde_json::json!([POLICY]));
    certificate["pem"].as_str().expect("a text").to_owned()
}

/// Nothing is left in AWS.
pub(crate) fn is_empty(seen: &Value) -> bool {
    *seen == serde_json::json!({"things": [], "certificates": {}})
}
