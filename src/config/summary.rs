//! The effective configuration in one line. Shows no secret.

use std::fmt;

use super::Config;

impl Config {
    /// The effective configuration in one line for the start-up log; secrets only as set or unset.
    pub fn summary(&self) -> String {
        fn or_unset(value: Option<&dyn fmt::Display>) -> String {
            value.map_or_else(|| "unset".to_owned(), ToString::to_string)
        }
        let mut parts = vec![
            format!("DATA_DIR={}", self.data_dir.display()),
            format!("LOG_LEVEL={}", self.log_level),
            format!("LOG_FORMAT={}", self.log_format),
        ];
        parts.extend(self.local.summary());
        parts.extend([
            format!(
                "STATUS_LISTEN={}",
                (self.status.listen)
                    .map_or_else(|| "off".to_owned(), |address| address.to_string())
            ),
            format!(
                "STATUS_PASSWORD={}",
                if self.status.password.is_some() {
                    "set"
                } else {
                    "unset"
                }
            ),
            format!("SPOOL_MAX_BYTES={}", self.spool.bytes_max),
            format!("SPOOL_MIN_FREE_BYTES={}", self.spool.free_bytes_min),
            format!("SPOOL_FULL={}", self.spool.full),
            format!("SPOOL_LINGER_MS={}", self.spool.linger.as_millis()),
            format!("DEAD_LETTERS_MAX_BYTES={}", self.dead_letters_bytes_max),
            format!(
                "device={}",
                or_unset(self.device.uuid.as_ref().map(|uuid| uuid as _))
            ),
            format!(
                "service={}",
                or_unset(self.device.service.as_ref().map(|name| name as _))
            ),
            format!("provider={}", self.provider.name()),
            format!(
                "cloud={}",
                or_unset(self.cloud.as_ref().map(|cloud| cloud as _))
            ),
            format!("route={}", self.routes),
            format!(
                "CLOUD_SUBSCRIBE={}",
                or_unset(self.subscriptions.as_ref().map(|routes| routes as _))
            ),
            format!(
                "CLOUD_STATUS_TOPIC={}",
                or_unset(self.status_topic.as_ref().map(|topic| topic as _))
            ),
            format!("CLOUD_MQTT_VERSION={}", self.mqtt_version),
            self.quota.to_string(),
            format!("CLOUD_DENIED_HOLD_S={}", self.denied_hold.as_secs()),
            format!("PACK_MAX_BYTES={}", self.packing.bytes_max),
            format!("PACK_MAX_MS={}", self.packing.wait_max.as_millis()),
        ]);
        for name in self.credentials.expected {
            let missing = self.credentials.missing.contains(name);
            parts.push(format!("{name}={}", if missing { "unset" } else { "set" }));
        }
        let supervisor = self.supervisor.as_ref();
        let force_update = supervisor.is_some_and(|api| api.force_update);
        parts.extend([
            format!(
                "PROVISION_URL={}",
                or_unset(self.provisioning.as_ref().map(|url| url as _))
            ),
            format!("PROVISION_KEY={}", self.key_maker.name()),
            format!(
                "supervisor={}",
                or_unset(supervisor.map(|api| &api.address as _))
            ),
            format!("SUPERVISOR_FORCE_UPDATE={force_update}"),
        ]);
        parts.join(" ")
    }
}
