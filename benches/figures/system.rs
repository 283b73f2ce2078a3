//! What is measured: a program with a local MQTT port that passes messages on to the cloud.
//!
//! Another system is another implementation of [`System`] in a file of its own, which says how it is started, and a
//! line in [`all`]; `mosquitto.rs` is an example. Everything that is measured is read from outside.

use std::ffi::OsString;
use std::path::PathBuf;

use cloud_relay_sandbox::process::Environment;

use crate::Outcome;
use crate::direct::Direct;
use crate::mosquitto::{Mosquitto, Save};
use crate::relay::Relay;
use crate::setting::Setting;

/// The local topic that is relayed. It is the same in the cloud.
pub(crate) const TOPIC: &str = "sensors";
/// The client identifier towards the cloud.
pub(crate) const CLIENT_ID: &str = "bench-device";

/// How a system is started.
pub(crate) struct Program {
    /// The executable.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(crate) environment: Environment,
}

/// A system under test.
pub(crate) trait System {
    /// Its name in the tables.
    fn name(&self) -> &str;

    /// How it is started in `setting`; what files it needs are written there.
    fn program(&self, setting: &Setting) -> Outcome<Program>;

    /// Most messages it is given in one scenario, for one that takes milliseconds for each.
    fn messages_max(&self) -> u64 {
        u64::MAX
    }

    /// Whether it has a status page, at [`Setting::status`].
    fn has_page(&self) -> bool {
        false
    }

    /// Whether it only passes bytes on: it connects to the cloud when a client comes, and keeps nothing.
    fn is_pipe(&self) -> bool {
        false
    }

    /// Whether it is a variant of another system, which is measured only if it is asked for by name.
    fn is_variant(&self) -> bool {
        false
    }
}

/// Every system that can be measured here, the relay as it is shipped first.
pub(crate) fn all() -> Vec<Box<dyn System>> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Relay::as_shipped())];
    if let Some(path) = Mosquitto::installed() {
        systems.push(Box::new(Mosquitto::new(&path, Save::EveryMinute)));
        systems.push(Box::new(Mosquitto::new(&path, Save::EveryChange)));
    } else {
        eprintln!("mosquitto is NOT INSTALLED: there is nothing to compare the relay with");
    }
    // beside the default, which is 500
    for linger_ms in [0, 100, 1_000] {
        systems.push(Box::new(Relay::lingering(linger_ms)));
    }
    systems.push(Box::new(Direct));
    systems
}
