//! The only reader of the environment.
//!
//! [`Config::from_env`] reads every variable once, trims it, takes an empty one as unset, and checks
//! all of them before it fails, so that one look at the log shows every fault.
//!
//! Missing cloud settings are no fault: the relay then accepts and spools, and [`Config::readiness`]
//! says in words what to set. balenaCloud pushes the credentials one by one, so one without the other
//! is no fault either.
//!
//! Invariant: no error, `Debug` or summary line shows a secret. What this module does not do: open
//! files, resolve names or decode credentials.

mod cloud;
mod downlink;
mod fault;
mod http_url;
mod local;
mod raw;
mod routes;
mod summary;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

pub use cloud::{AwsConfig, CloudConfig, CredentialVariables, KeyMaker, Provider};
pub use fault::{ConfigErrors, Fault};
pub use http_url::HttpUrl;
pub use local::{LocalConfig, LocalWebSocket};

use crate::cloud::MqttVersion;
use crate::cloud::pacing::Quota;
use crate::cloud::packing::Packing;
use crate::logging::Format;
use crate::routes::{Names, Routes, Rulebook};
use crate::secret::Secret;
use crate::spool;
use fault::Reading;
use raw::Raw;

/// `DATA_DIR`: where the spool lives unless told otherwise; the mount point of the named volume.
pub const DEFAULT_DATA_DIR: &str = "/data";
/// `PRODUCER_TOPIC` and, but for ClearBlade, `CLOUD_CONSUMER_TOPIC`.
pub const DEFAULT_TOPIC: &str = "sensors";
/// `CLOUD_CONSUMER_TOPIC` for Google and ClearBlade.
pub const DEFAULT_TOPIC_GCP: &str = "events";
/// A device UUID becomes the AWS Thing name and the client id: at most 128 bytes (AWS quota).
pub const DEVICE_UUID_BYTES_MAX: usize = 128;
/// What `SPOOL_MAX_BYTES` can be: from four segments, so that dropping the oldest leaves most, to 1 TiB.
const SPOOL_BYTES_RANGE: RangeInclusive<u64> = 4 * spool::segment::SEGMENT_BYTES..=1 << 40;
/// Most that `SPOOL_LINGER_MS` can be: an app should not wait longer for its acknowledgement.
const SPOOL_LINGER_MS_MAX: u64 = 10_000;
/// Most that `CLOUD_PUBLISH_RATE` and `CLOUD_BYTE_RATE` can be: far above any cloud's quota.
const CLOUD_RATE_MAX: u64 = 1 << 30;
/// `DEAD_LETTERS_MAX_BYTES`: about 16,000 small ones.
const DEAD_LETTERS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What it can be: from a few of the largest, to 1 TiB.
const DEAD_LETTERS_BYTES_RANGE: RangeInclusive<u64> = 4 * 1024 * 1024..=1 << 40;
/// `CLOUD_DENIED_HOLD_S`: a policy takes minutes to spread.
const DENIED_HOLD: Duration = Duration::from_mins(10);
/// Most that it can be: a week.
const DENIED_HOLD_S_MAX: u64 = 7 * 24 * 60 * 60;

/// What `PACK_MAX_BYTES` can be: up to the largest payload of AWS.
const PACK_BYTES_RANGE: RangeInclusive<u64> = 256..=131_072;
/// Most that `PACK_MAX_MS` can be: what waits for so long is no stream of messages any more.
const PACK_MS_MAX: u64 = 60_000;

/// Everything the relay was told, checked. `Debug` masks secrets.
#[derive(Clone, Debug)]
pub struct Config {
    /// `DATA_DIR`. Not opened here.
    pub data_dir: PathBuf,
    /// `LOG_LEVEL`.
    pub log_level: Level,
    /// `LOG_FORMAT`.
    pub log_format: Format,
    /// `STATUS_LISTEN`, `STATUS_PASSWORD`.
    pub status: StatusConfig,
    /// `LOCAL_MQTT_LISTEN` and all that begins with `LOCAL_MQTT`.
    pub local: LocalConfig,
    /// `SPOOL_MAX_BYTES`, `SPOOL_MIN_FREE_BYTES`, `SPOOL_FULL`, `SPOOL_LINGER_MS`.
    pub spool: spool::Options,
    /// `DEAD_LETTERS_MAX_BYTES`: most that the dead letters may take on disk.
    pub dead_letters_bytes_max: u64,
    /// Who this device and service are.
    pub device: Device,
    /// `PRODUCER_TOPIC` to `CLOUD_CONSUMER_TOPIC`.
    pub routes: Routes,
    /// `CLOUD_SUBSCRIBE`: from the cloud's topics to local ones; `None` if nothing is subscribed to.
    pub subscriptions: Option<Routes>,
    /// `CLOUD_STATUS_TOPIC`, its placeholders filled in.
    pub status_topic: Option<String>,
    /// `CLOUD_PROVIDER`, or what the other variables imply; AWS if they imply nothing.
    pub provider: Provider,
    /// Where to send to; `None` while its host name is unknown.
    pub cloud: Option<CloudConfig>,
    /// `CLOUD_MQTT_VERSION`.
    pub mqtt_version: MqttVersion,
    /// `CLOUD_PUBLISH_RATE`, `CLOUD_BYTE_RATE`.
    pub quota: Quota,
    /// `CLOUD_DENIED_HOLD_S`: how long a topic may be denied before its messages become dead letters.
    pub denied_hold: Duration,
    /// `PACK_MAX_BYTES`, `PACK_MAX_MS`.
    pub packing: Packing,
    /// Which credentials the provider needs, and which of them are not there.
    pub credentials: CredentialVariables,
    /// `PROVISION_URL`.
    pub provisioning: Option<HttpUrl>,
    /// `PROVISION_KEY`.
    pub key_maker: KeyMaker,
    /// The Supervisor's API, if the service's labels grant it.
    pub supervisor: Option<Supervisor>,
}

/// Where the relay shows what it is doing, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusConfig {
    /// `STATUS_LISTEN`; `None` means `off`.
    pub listen: Option<SocketAddr>,
    /// `STATUS_PASSWORD`: asked for if it is set.
    pub password: Option<Secret>,
}

/// Who this device and service are, as balena tells every container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `BALENA_DEVICE_UUID`, else `RESIN_DEVICE_UUID`: Thing name and MQTT client id.
    pub uuid: Option<String>,
    /// `BALENA_SERVICE_NAME`, else `RESIN_SERVICE_NAME`.
    pub service: Option<String>,
    /// `BALENA_APP_NAME`, else `RESIN_APP_NAME`: the fleet.
    pub app: Option<String>,
}

/// How to reach the balena Supervisor on this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervisor {
    /// `BALENA_SUPERVISOR_ADDRESS`, else `RESIN_SUPERVISOR_ADDRESS`.
    pub address: HttpUrl,
    /// `BALENA_SUPERVISOR_API_KEY`, else `RESIN_SUPERVISOR_API_KEY`.
    pub key: Secret,
    /// `SUPERVISOR_FORCE_UPDATE`: whether an update may override other services' update locks.
    pub force_update: bool,
}

/// What the relay can do with what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Connect to the cloud.
    Ready,
    /// Provision, or wait for credentials that are on their way.
    NeedsCredentials,
    /// Accept and spool only, until the owner sets something.
    Unconfigured {
        /// What to set, in words.
        missing: String,
    },
}

impl Config {
    /// Reads this process's environment.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_vars(vars())
    }

    /// Reads `DATA_DIR` only, for tools that need nothing else: other variables' faults are not theirs.
    pub fn data_dir_from_env() -> Result<PathBuf, ConfigErrors> {
        let raw = Raw::from_vars(vars());
        let mut reading = Reading::default();
        let data_dir = read_data_dir(&raw, &mut reading);
        reading.finish(data_dir)
    }

    /// Reads `STATUS_LISTEN` and `STATUS_PASSWORD` only, for tools that ask a running relay.
    pub fn status_from_env() -> Result<StatusConfig, ConfigErrors> {
        let raw = Raw::from_vars(vars());
        let mut reading = Reading::default();
        let status = StatusConfig::read(&raw, &mut reading);
        reading.finish(status)
    }

    /// Reads what concerns the local broker only, as [`Config::data_dir_from_env`] does `DATA_DIR`.
    pub fn local_from_env() -> Result<LocalConfig, ConfigErrors> {
        let raw = Raw::from_vars(vars());
        let mut reading = Reading::default();
        let local = LocalConfig::read(&raw, &mut reading);
        reading.finish(local)
    }

    /// Reads what decides the routes only, and nothing else.
    pub fn routes_from_env() -> Result<(Routes, Rulebook), ConfigErrors> {
        let raw = Raw::from_vars(vars());
        let mut reading = Reading::default();
        let provider = Provider::read(&raw, &mut reading);
        let device = Device::read(&raw, &mut reading);
        let routes = routes::read(&raw, provider, &device, &mut reading);
        reading.finish((routes, provider.rulebook()))
    }

    /// Reads an environment given as pairs. A value with U+FFFD in it counts as not being UTF-8.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let raw = Raw::from_vars(vars);
        let mut reading = Reading::default();
        let config = Self::read(&raw, &mut reading);
        reading.finish(config)
    }

    /// Checks every variable. What is faulty is noted in `reading` and replaced by its default, so
    /// that the rest can be checked; such a configuration is never handed out.
    fn read(raw: &Raw, reading: &mut Reading) -> Self {
        let provisioning = reading.parse_hidden(
            "PROVISION_URL",
            raw.provision_url.as_deref(),
            HttpUrl::parse,
        );
        let provider = Provider::read(raw, reading);
        let key_maker = KeyMaker::read(raw, provider, reading);
        let device = Device::read(raw, reading);
        Config {
            data_dir: read_data_dir(raw, reading),
            log_level: reading
                .parse("LOG_LEVEL", raw.log_level.as_deref(), value::log_level)
                .unwrap_or(Level::INFO),
            log_format: reading
                .parse("LOG_FORMAT", raw.log_format.as_deref(), value::log_format)
                .unwrap_or_default(),
            status: StatusConfig::read(raw, reading),
            local: LocalConfig::read(raw, reading),
            spool: read_spool(raw, reading),
            dead_letters_bytes_max: reading
                .parse(
                    "DEAD_LETTERS_MAX_BYTES",
                    raw.dead_letters_max_bytes.as_deref(),
                    value::number(DEAD_LETTERS_BYTES_RANGE, "bytes"),
                )
                .unwrap_or(DEAD_LETTERS_BYTES_MAX),
            routes: routes::read(raw, provider, &device, reading),
            subscriptions: downlink::subscriptions(raw, provider, &device, reading),
            status_topic: downlink::status_topic(raw, provider, &device, reading),
            device,
            provider,
            cloud: CloudConfig::read(raw, provider, reading),
            mqtt_version: reading
                .parse(
                    "CLOUD_MQTT_VERSION",
                    raw.cloud_mqtt_version.as_deref(),
                    value::mqtt_version,
                )
                .unwrap_or(MqttVersion::V5),
            quota: read_quota(raw, reading),
            packing: read_packing(raw, reading),
            denied_hold: reading
                .parse(
                    "CLOUD_DENIED_HOLD_S",
                    raw.cloud_denied_hold_s.as_deref(),
                    value::number(0..=DENIED_HOLD_S_MAX, "seconds"),
                )
                .map_or(DENIED_HOLD, Duration::from_secs),
            credentials: CredentialVariables::read(raw, provider, key_maker),
            provisioning,
            key_maker,
            supervisor: Supervisor::read(raw, reading),
        }
    }

    /// What the relay can do with this configuration. A device that keeps its key is ready with the
    /// certificate alone; whether the two belong together is seen when they are loaded.
    pub fn readiness(&self) -> Readiness {
        let credentials = &self.credentials;
        if !credentials.missing.is_empty() {
            return if self.provisioning.is_some() || credentials.some_present() {
                Readiness::NeedsCredentials
            } else {
                Readiness::Unconfigured {
                    missing: self.what_to_set(),
                }
            };
        }
        if self.cloud.is_none() {
            return Readiness::Unconfigured {
                missing: self.what_to_set(),
            };
        }
        if self.device.uuid.is_none() {
            let missing = "BALENA_DEVICE_UUID is not set; balena sets it in every container, and \
                           elsewhere it must be set to the device's name in the cloud";
            return Readiness::Unconfigured {
                missing: missing.to_owned(),
            };
        }
        Readiness::Ready
    }

    /// The sentence for [`Readiness::Unconfigured`].
    fn what_to_set(&self) -> String {
        let mut steps = Vec::new();
        if self.cloud.is_none() {
            steps.push(self.provider.how_to_set_host().to_owned());
        }
        if !self.credentials.missing.is_empty() && self.provisioning.is_none() {
            steps.push(format!(
                "set PROVISION_URL to the address of the cloud function, or {}",
                self.credentials.missing.join(" and ")
            ));
        }
        steps.join("; ")
    }
}

impl StatusConfig {
    fn read(raw: &Raw, reading: &mut Reading) -> Self {
        let listen = reading.parse(
            "STATUS_LISTEN",
            raw.status_listen.as_deref(),
            value::status_listen,
        );
        let password = raw.status_password.as_deref();
        StatusConfig {
            listen: listen.unwrap_or_else(|| Some(SocketAddr::from(([127, 0, 0, 1], 9180)))),
            password: reading.parse_hidden("STATUS_PASSWORD", password, value::secret),
        }
    }
}

impl Device {
    fn read(raw: &Raw, reading: &mut Reading) -> Self {
        let (name, uuid) = raw.device_uuid();
        let uuid = reading.parse(name, uuid, value::device_uuid);
        let (name, service) = raw.service_name();
        let service = reading.parse(name, service, value::plain_text);
        let (name, app) = raw.app_name();
        let app = reading.parse(name, app, value::plain_text);
        Device { uuid, service, app }
    }

    /// What it is called in templates.
    fn names(&self) -> Names<'_> {
        Names {
            uuid: self.uuid.as_deref(),
            service: self.service.as_deref(),
            app: self.app.as_deref(),
        }
    }
}

impl Supervisor {
    fn read(raw: &Raw, reading: &mut Reading) -> Option<Self> {
        let force_update = reading
            .parse(
                "SUPERVISOR_FORCE_UPDATE",
                raw.supervisor_force_update.as_deref(),
                value::flag,
            )
            .unwrap_or(false);
        let (name, address) = raw.supervisor_address();
        let address = reading.parse_hidden(name, address, HttpUrl::parse);
        let (name, key) = raw.supervisor_api_key();
        let key = reading.parse_hidden(name, key, value::secret);
        Some(Supervisor {
            address: address?,
            key: key?,
            force_update,
        })
    }
}

/// The spool's limits.
fn read_spool(raw: &Raw, reading: &mut Reading) -> spool::Options {
    let default = spool::Options::default();
    let bytes_max = reading.parse(
        "SPOOL_MAX_BYTES",
        raw.spool_max_bytes.as_deref(),
        value::number(SPOOL_BYTES_RANGE, "bytes"),
    );
    let free_bytes_min = reading.parse(
        "SPOOL_MIN_FREE_BYTES",
        raw.spool_min_free_bytes.as_deref(),
        value::number(0..=*SPOOL_BYTES_RANGE.end(), "bytes"),
    );
    let full = reading.parse("SPOOL_FULL", raw.spool_full.as_deref(), value::full_policy);
    let linger = reading.parse(
        "SPOOL_LINGER_MS",
        raw.spool_linger_ms.as_deref(),
        value::number(0..=SPOOL_LINGER_MS_MAX, "milliseconds"),
    );
    spool::Options {
        bytes_max: bytes_max.unwrap_or(default.bytes_max),
        free_bytes_min: free_bytes_min.unwrap_or(default.free_bytes_min),
        full: full.unwrap_or(default.full),
        linger: linger.map_or(default.linger, Duration::from_millis),
        ..default
    }
}

/// How messages travel together.
fn read_packing(raw: &Raw, reading: &mut Reading) -> Packing {
    let default = Packing::default();
    let bytes_max = reading.parse(
        "PACK_MAX_BYTES",
        raw.pack_max_bytes.as_deref(),
        value::number(PACK_BYTES_RANGE, "bytes"),
    );
    let wait_max = reading.parse(
        "PACK_MAX_MS",
        raw.pack_max_ms.as_deref(),
        value::number(0..=PACK_MS_MAX, "milliseconds"),
    );
    Packing {
        bytes_max: bytes_max.map_or(default.bytes_max, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        }),
        wait_max: wait_max.map_or(default.wait_max, Duration::from_millis),
    }
}

/// What may be sent a second; zero means no limit.
fn read_quota(raw: &Raw, reading: &mut Reading) -> Quota {
    let default = Quota::default();
    let mut rate = |name, value: &Option<String>, unit, default| {
        let range = 0..=CLOUD_RATE_MAX;
        let parsed = reading.parse(name, value.as_deref(), value::number(range, unit));
        parsed.map_or(default, NonZeroU64::new)
    };
    Quota {
        publishes_per_s: rate(
            "CLOUD_PUBLISH_RATE",
            &raw.cloud_publish_rate,
            "messages a second (0 = no limit)",
            default.publishes_per_s,
        ),
        bytes_per_s: rate(
            "CLOUD_BYTE_RATE",
            &raw.cloud_byte_rate,
            "bytes a second (0 = no limit)",
            default.bytes_per_s,
        ),
    }
}

/// This process's variables; what is not UTF-8 has U+FFFD in it.
fn vars() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

fn read_data_dir(raw: &Raw, reading: &mut Reading) -> PathBuf {
    reading
        .parse("DATA_DIR", raw.data_dir.as_deref(), |dir| {
            Ok(PathBuf::from(dir))
        })
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
}
