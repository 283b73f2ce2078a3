//! mosquitto as a bridge to the cloud, with what its manual offers against loss: persistence, a queue
//! without limit, a session that outlives the connection.

use std::path::{Path, PathBuf};

use cloud_relay_sandbox::process::Environment;

use crate::Outcome;
use crate::setting::Setting;
use crate::system::{CLIENT_ID, Program, System, TOPIC};

/// Where Debian puts it, and where a build from source does.
const PLACES: [&str; 3] = [
    "/usr/sbin/mosquitto",
    "/usr/local/sbin/mosquitto",
    "/usr/bin/mosquitto",
];
/// Most messages it is given when it saves on every change: it manages a few hundred a second.
const MESSAGES_MAX_SAVING: u64 = 2_000;

/// When mosquitto saves its database, which it writes as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Save {
    /// Every 60 s, and when it is stopped: what came since is lost when it is killed.
    EveryMinute,
    /// After each change: the nearest it comes to the relay's promise.
    EveryChange,
}

/// mosquitto.
pub(crate) struct Mosquitto {
    path: PathBuf,
    save: Save,
}

impl Mosquitto {
    /// The installed program, if there is one.
    pub(crate) fn installed() -> Option<PathBuf> {
        PLACES.iter().map(PathBuf::from).find(|path| path.is_file())
    }

    pub(crate) fn new(path: &Path, save: Save) -> Self {
        Mosquitto {
            path: path.to_owned(),
            save,
        }
    }

    fn configuration(&self, setting: &Setting) -> Outcome<String> {
        let certificate = setting.write("device.pem", &setting.identity().certificate_pem)?;
        let private_key = setting.write("device.key", &setting.identity().private_key_pem)?;
        let autosave = match self.save {
            Save::EveryMinute => "autosave_interval 60",
            Save::EveryChange => "autosave_on_changes true\nautosave_interval 1",
        };
        // `user root` has a meaning for root only: it keeps the right to write to the data directory
        Ok(format!(
            "user root
listener {local_port} 127.0.0.1
allow_anonymous true
log_dest stderr
log_type error
log_type warning
log_type notice
persistence true
persistence_location {data_dir}/
{autosave}
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 100
set_tcp_nodelay true

connection cloud
address localhost:{cloud_port}
remote_clientid {CLIENT_ID}
bridge_cafile {root}
bridge_certfile {certificate}
bridge_keyfile {private_key}
bridge_protocol_version mqttv311
bridge_attempt_unsubscribe false
cleansession false
notifications false
try_private false
restart_timeout 1
topic {TOPIC} out 1
",
            local_port = setting.listen().port(),
            data_dir = setting.data_dir().display(),
            cloud_port = setting.cloud().port(),
            root = setting.root_file().display(),
            certificate = certificate.display(),
            private_key = private_key.display(),
        ))
    }
}

impl System for Mosquitto {
    fn name(&self) -> &'static str {
        match self.save {
            Save::EveryMinute => "mosquitto",
            Save::EveryChange => "mosquitto-sync",
        }
    }

    fn program(&self, setting: &Setting) -> Outcome<Program> {
        let file = setting.write("mosquitto.conf", &self.configuration(setting)?)?;
        Ok(Program {
            path: self.path.clone(),
            arguments: vec!["-c".into(), file.into()],
            environment: Environment::new(),
        })
    }

    fn messages_max(&self) -> u64 {
        match self.save {
            Save::EveryMinute => u64::MAX,
            Save::EveryChange => MESSAGES_MAX_SAVING,
        }
    }
}
