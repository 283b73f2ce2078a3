//! The effective configuration in one line. Shows no secret.

use std::fmt::Display;

use super::{CloudConfig, Config, KeyMaker, StatusConfig, Supervisor};

impl Config {
    /// The effective configuration in one line for the start-up log; secrets only as set or unset.
    pub fn summary(&self) -> String {
        let parts = [
            vec![
                format!("DATA_DIR={}", self.data_dir.display()),
                format!("LOG_LEVEL={}", self.log_level),
                format!("LOG_FORMAT={}", self.log_format),
            ],
            self.local.summary(),
            self.status.summary(),
            self.storage_summary(),
            self.cloud_summary(),
            self.credentials_summary(),
        ];
        parts.concat().join(" ")
    }

    fn storage_summary(&self) -> Vec<String> {
        vec![
            format!("SPOOL_MAX_BYTES={}", self.spool.bytes_max),
            format!("SPOOL_MIN_FREE_BYTES={}", self.spool.free_bytes_min),
            format!("SPOOL_FULL={}", self.spool.full),
            format!("SPOOL_LINGER_MS={}", self.spool.linger.as_millis()),
            format!("DEAD_LETTERS_MAX_BYTES={}", self.dead_letters_bytes_max),
        ]
    }

    fn cloud_summary(&self) -> Vec<String> {
        vec![
            format!("device={}", or_unset(self.device.uuid.as_ref())),
            format!("service={}", or_unset(self.device.service.as_ref())),
            format!("app={}", or_unset(self.device.app.as_ref())),
            format!("provider={}", self.provider.name()),
            format!("cloud={}", or_unset(self.cloud.as_ref())),
            format!("route={}", self.routes),
            format!("CLOUD_SUBSCRIBE={}", or_unset(self.subscriptions.as_ref())),
            format!(
                "CLOUD_STATUS_TOPIC={}",
                or_unset(self.status_topic.as_ref())
            ),
            format!("CLOUD_MQTT_VERSION={}", self.mqtt_version),
            self.quota.to_string(),
            format!("CLOUD_DENIED_HOLD_S={}", self.denied_hold.as_secs()),
            format!("PACK_MAX_BYTES={}", self.packing.bytes_max),
            format!("PACK_MAX_MS={}", self.packing.wait_max.as_millis()),
        ]
    }

    fn credentials_summary(&self) -> Vec<String> {
        let missing = &self.credentials.missing;
        let expected = self.credentials.expected.iter();
        let mut parts: Vec<_> = expected
            .map(|name| format!("{name}={}", set_or_unset(!missing.contains(name))))
            .collect();
        if let (KeyMaker::Device, Some(CloudConfig::Aws(aws))) = (self.key_maker, &self.cloud) {
            let key = set_or_unset(aws.private_key.is_some());
            parts.push(format!("AWS_PRIVATE_KEY={key}"));
        }
        parts.extend([
            format!("PROVISION_URL={}", or_unset(self.provisioning.as_ref())),
            format!("PROVISION_KEY={}", self.key_maker.name()),
        ]);
        parts.extend(match &self.supervisor {
            Some(supervisor) => supervisor.summary(),
            None => vec!["supervisor=unset".to_owned()],
        });
        parts
    }
}

impl StatusConfig {
    fn summary(&self) -> Vec<String> {
        let listen = self.listen.map(|address| address.to_string());
        let password = set_or_unset(self.password.is_some());
        vec![
            format!("STATUS_LISTEN={}", listen.as_deref().unwrap_or("off")),
            format!("STATUS_PASSWORD={password}"),
        ]
    }
}

impl Supervisor {
    fn summary(&self) -> Vec<String> {
        vec![
            format!("supervisor={}", self.address),
            format!("SUPERVISOR_FORCE_UPDATE={}", self.force_update),
        ]
    }
}

pub(super) fn or_unset<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "unset".to_owned(), |value| value.to_string())
}

pub(super) fn set_or_unset(is_set: bool) -> &'static str {
    if is_set { "set" } else { "unset" }
}
