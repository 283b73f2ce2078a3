//! Cloud Relay: a durable MQTT relay from a balena device to AWS IoT Core.
//!
//! **The promise: an acknowledged message is never lost.** The local broker answers a `QoS` 1
//! PUBLISH with PUBACK (a `QoS` 2 one with PUBREC) only when the message is synced to disk or already
//! accepted by the cloud. A message leaves the spool only when the cloud has accepted it, or when a
//! rule the owner chose dropped it, and then it is counted.
//!
//! # Layout
//!
//! Data flows down the list; dependencies point one way, from `app` to the pure modules.
//!
//! * [`app`]: builds the tasks, joins them, owns the order of shutdown.
//! * [`cli`]: the command line: the health check, and the tools that look into a stopped relay's spool.
//! * [`config`]: the only reader of the environment.
//! * [`local`]: the local MQTT broker: sockets, sessions, acknowledgements.
//! * [`store`]: the asynchronous face of the spool; what `local` and `cloud` share.
//! * [`spool`]: the append-only log on disk. Knows no MQTT client, no tokio, no AWS.
//! * [`dead_letters`]: what the cloud never takes, each with the reason, on disk.
//! * [`routes`]: local topic to cloud topic; pure.
//! * [`topic`]: the rules of topic names and filters, MQTT's and AWS's; pure.
//! * [`cloud`]: the egress: TLS, connection, in-flight window.
//! * [`provisioning`]: the request to `PROVISION_URL` and the Supervisor client.
//! * [`credentials`]: certificate and key as they come from the environment.
//! * [`roots`]: which certificates a TLS peer's is traced back to.
//! * [`state`]: what the relay is doing, told once per change.
//! * `status`: what the relay shows of itself over HTTP.
//! * [`logging`]: single lines on stdout, and the memory of the last warnings.
//! * [`clock_gate`]: waits for a clock that can be believed.
//! * `attributes`: what MQTT 5 lets a publisher say of a message besides its payload; pure.
//! * [`backoff`], [`secret`], [`clock`]: small pure pieces.

pub mod app;
mod attributes;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod clock_gate;
pub mod cloud;
pub mod config;
pub mod credentials;
pub mod dead_letters;
mod guesses;
pub mod local;
pub mod logging;
mod own_name;
mod printable;
pub mod provisioning;
mod rfc3339;
pub mod roots;
pub mod routes;
pub mod secret;
pub mod spool;
pub mod state;
mod status;
pub mod store;
pub mod topic;
