//! The relay, as cargo has built it for this benchmark.

use cloud_relay_sandbox::process::Environment;

use crate::Outcome;
use crate::setting::Setting;
use crate::system::{CLIENT_ID, Program, System, TOPIC};

/// `SPOOL_MAX_BYTES`: room for a backlog of a million messages.
const SPOOL_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// The relay with its defaults, but for [`SPOOL_MAX_BYTES`] and AWS's quotas, which no peer keeps to.
pub(crate) struct Relay {
    name: String,
    /// `SPOOL_LINGER_MS`; `None` leaves the default.
    linger_ms: Option<u32>,
}

impl Relay {
    pub(crate) fn as_shipped() -> Self {
        Relay {
            name: "relay".to_owned(),
            linger_ms: None,
        }
    }

    pub(crate) fn lingering(linger_ms: u32) -> Self {
        Relay {
            name: format!("relay-linger-{linger_ms}"),
            linger_ms: Some(linger_ms),
        }
    }
}

impl System for Relay {
    fn name(&self) -> &str {
        &self.name
    }

    fn program(&self, setting: &Setting) -> Outcome<Program> {
        let mut environment = Environment::from(
            [
                ("DATA_DIR", setting.data_dir().display().to_string()),
                ("STATUS_LISTEN", setting.status().to_string()),
                ("SPOOL_MAX_BYTES", SPOOL_MAX_BYTES.to_string()),
                ("CLOUD_PUBLISH_RATE", "0".to_owned()),
                ("CLOUD_BYTE_RATE", "0".to_owned()),
                ("PRODUCER_TOPIC", TOPIC.to_owned()),
                ("CLOUD_CONSUMER_TOPIC", TOPIC.to_owned()),
                ("AWS_DATA_ENDPOINT", "localhost".to_owned()),
                ("AWS_PORT", setting.cloud().port().to_string()),
                ("AWS_CERT", setting.identity().certificate_base64()),
                ("AWS_PRIVATE_KEY", setting.identity().private_key_base64()),
                (
                    "AWS_ROOT_CA_PATH",
                    setting.root_file().display().to_string(),
                ),
                ("BALENA_DEVICE_UUID", CLIENT_ID.to_owned()),
                ("BALENA_SERVICE_NAME", "cloud-relay".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if let Some(linger_ms) = self.linger_ms {
            environment.insert("SPOOL_LINGER_MS".to_owned(), linger_ms.to_string());
        }
        Ok(Program {
            path: env!("CARGO_BIN_EXE_cloud-relay").into(),
            arguments: Vec::new(),
            environment,
        })
    }

    fn has_page(&self) -> bool {
        true
    }

    fn is_variant(&self) -> bool {
        self.linger_ms.is_some()
    }
}
