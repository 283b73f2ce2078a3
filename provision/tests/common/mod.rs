//! The function's real program with moto as AWS and the sandbox's balenaCloud, and curl to talk to it.
#![allow(dead_code, reason = "each test program uses its own part of it")]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud_relay_sandbox::balena::api::BALENA_API_KEY;
use cloud_relay_sandbox::balena::{Balena, BalenaOptions};
use cloud_relay_sandbox::ca::CertificateAuthority;
use cloud_relay_sandbox::process::Process;
pub(crate) use cloud_relay_sandbox::provision_function::foreign_environment;
use cloud_relay_sandbox::provision_function::{FunctionPrograms, POLICY, ProvisionFunction};
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, environment};
use serde_json::Value;

/// The real program.
pub(crate) const PROVISION: &str = env!("CARGO_BIN_EXE_provision");
/// The repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
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
    function: ProvisionFunction,
}

impl Deref for Stage {
    type Target = ProvisionFunction;

    fn deref(&self) -> &ProvisionFunction {
        &self.function
    }
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
        let programs = FunctionPrograms {
            provision: PROVISION.into(),
            python: tool("venv/bin/python"),
        };
        let settings = environment(settings);
        let function =
            ProvisionFunction::start(&programs, Arc::clone(&balena), authority, settings).await;
        let function = function.expect("the function and its parties start");
        Stage { balena, function }
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
