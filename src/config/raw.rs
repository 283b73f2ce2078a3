//! The variables as they stand in the environment: trimmed, empty as unset, nothing checked.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Each variable the relay reads, under its name in lower case. No `Debug`: it holds secrets.
#[derive(Deserialize)]
pub(super) struct Raw {
    pub(super) data_dir: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) status_listen: Option<String>,
    pub(super) status_password: Option<String>,
    pub(super) local_mqtt_listen: Option<String>,
    pub(super) local_mqtt_username: Option<String>,
    pub(super) local_mqtt_password: Option<String>,
    pub(super) local_mqtt_password_file: Option<String>,
    pub(super) local_mqtt_acl_file: Option<String>,
    pub(super) local_mqtt_ws_listen: Option<String>,
    pub(super) local_mqtt_ws_origins: Option<String>,
    pub(super) local_mqtts_listen: Option<String>,
    pub(super) local_mqtts_cert_path: Option<String>,
    pub(super) local_mqtts_key_path: Option<String>,
    pub(super) local_mqtts_client_ca_path: Option<String>,
    pub(super) spool_max_bytes: Option<String>,
    pub(super) spool_min_free_bytes: Option<String>,
    pub(super) spool_full: Option<String>,
    pub(super) spool_linger_ms: Option<String>,
    pub(super) dead_letters_max_bytes: Option<String>,
    pub(super) producer_topic: Option<String>,
    pub(super) cloud_consumer_topic: Option<String>,
    pub(super) cloud_provider: Option<String>,
    pub(super) cloud_subscribe: Option<String>,
    pub(super) cloud_status_topic: Option<String>,
    pub(super) cloud_mqtt_version: Option<String>,
    pub(super) cloud_publish_rate: Option<String>,
    pub(super) cloud_byte_rate: Option<String>,
    pub(super) cloud_denied_hold_s: Option<String>,
    pub(super) pack_max_bytes: Option<String>,
    pub(super) pack_max_ms: Option<String>,
    pub(super) provision_url: Option<String>,
    pub(super) provision_key: Option<String>,

    pub(super) aws_data_endpoint: Option<String>,
    pub(super) aws_port: Option<String>,
    pub(super) aws_root_ca_path: Option<String>,
    pub(super) aws_cert: Option<String>,
    pub(super) aws_private_key: Option<String>,

    pub(super) azure_hub_host: Option<String>,
    pub(super) azure_cert: Option<String>,
    pub(super) azure_private_key: Option<String>,

    pub(super) gcp_client_path: Option<String>,
    pub(super) gcp_data_topic_root: Option<String>,
    pub(super) gcp_private_key: Option<String>,
    pub(super) gcp_project_id: Option<String>,
    pub(super) gcp_token_lifetime: Option<String>,
    pub(super) gcp_renewal_start: Option<String>,
    pub(super) messaging_host: Option<String>,
    pub(super) connect_timeout_sec: Option<String>,

    pub(super) supervisor_force_update: Option<String>,
    balena_device_uuid: Option<String>,
    resin_device_uuid: Option<String>,
    balena_service_name: Option<String>,
    resin_service_name: Option<String>,
    balena_app_name: Option<String>,
    resin_app_name: Option<String>,
    balena_supervisor_address: Option<String>,
    resin_supervisor_address: Option<String>,
    balena_supervisor_api_key: Option<String>,
    resin_supervisor_api_key: Option<String>,
}

/// A variable's name and its value.
type Named<'a> = (&'static str, Option<&'a str>);

impl Raw {
    /// Sorts `vars` into fields. envy compares names in lower case, so only names that are wholly in
    /// upper case are passed on: `http_proxy` next to `HTTP_PROXY` is nothing to fail for. Of a name
    /// that stands there twice the first value counts, as in `getenv`.
    pub(super) fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut known = BTreeMap::new();
        for (name, value) in vars {
            let value = value.trim();
            let upper_case = name.is_ascii() && !name.bytes().any(|byte| byte.is_ascii_lowercase());
            if upper_case && !value.is_empty() {
                known.entry(name).or_insert_with(|| value.to_owned());
            }
        }
        envy::from_iter(known)
            .expect("invariant: optional text under distinct names always deserialises")
    }

    pub(super) fn device_uuid(&self) -> Named<'_> {
        either(
            ("BALENA_DEVICE_UUID", &self.balena_device_uuid),
            ("RESIN_DEVICE_UUID", &self.resin_device_uuid),
        )
    }

    pub(super) fn service_name(&self) -> Named<'_> {
        either(
            ("BALENA_SERVICE_NAME", &self.balena_service_name),
            ("RESIN_SERVICE_NAME", &self.resin_service_name),
        )
    }

    pub(super) fn app_name(&self) -> Named<'_> {
        either(
            ("BALENA_APP_NAME", &self.balena_app_name),
            ("RESIN_APP_NAME", &self.resin_app_name),
        )
    }

    pub(super) fn supervisor_address(&self) -> Named<'_> {
        either(
            ("BALENA_SUPERVISOR_ADDRESS", &self.balena_supervisor_address),
            ("RESIN_SUPERVISOR_ADDRESS", &self.resin_supervisor_address),
        )
    }

    pub(super) fn supervisor_api_key(&self) -> Named<'_> {
        either(
            ("BALENA_SUPERVISOR_API_KEY", &self.balena_supervisor_api_key),
            ("RESIN_SUPERVISOR_API_KEY", &self.resin_supervisor_api_key),
        )
    }
}

/// The first if it is set, else the second. Newer Supervisors set no `RESIN_…` names at all.
fn either<'a>(
    first: (&'static str, &'a Option<String>),
    second: (&'static str, &'a Option<String>),
) -> Named<'a> {
    let (name, value) = if first.1.is_some() { first } else { second };
    (name, value.as_deref())
}
