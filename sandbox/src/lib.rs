//! The sandbox: stand-ins for everything around the relay, on one machine and with no account.
//!
//! Used by the relay's integration tests and by the `sandbox` program. It drives the relay as a
//! process and knows none of its code, so it cannot share the relay's mistakes.
//!
//! # Layout
//!
//! * [`ca`]: a certificate authority for servers and devices.
//! * [`cloud`]: an AWS-IoT-like MQTT server over mutual TLS that keeps the books.
//! * [`ledger`]: what should have arrived against what did.
//! * [`provision_endpoint`]: the cloud function that provisions devices, over HTTP.
//! * [`provision_function`]: the real one, with moto as AWS.
//! * [`balena`]: device variables, the Supervisor's API, and the restart of a process on a change.
//! * [`process`]: one child process: its environment, log lines, signals and figures from `/proc`.
//! * [`relay`]: the relay as such a process, with its own data directory and port.
//! * [`port`]: a port that stays one's own while nobody listens on it.
//! * [`site`]: one relay with its credentials and its cloud, where most tests begin.
//! * [`publisher`]: an MQTT publisher that knows exactly which payloads were acknowledged.
//!
//! Nothing here belongs on a device.

pub mod balena;
pub mod ca;
pub mod cloud;
mod http;
pub mod ledger;
pub mod port;
pub mod process;
pub mod provision_endpoint;
pub mod provision_function;
pub mod publisher;
pub mod relay;
pub mod site;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one TLS provider of the tree, passed explicitly so that no process-wide default is needed.
fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
