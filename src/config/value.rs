//! How single values are understood. Pure: each function returns the value or says what is expected.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use rustls::pki_types::ServerName;
use tracing::Level;

use super::DEVICE_UUID_BYTES_MAX;
use crate::cloud::MqttVersion;
use crate::logging::Format;
use crate::secret::Secret;
use crate::spool::FullPolicy;

/// `LOG_LEVEL`.
pub(super) fn log_level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err("error, warn, info, debug or trace".to_owned()),
    }
}

/// `LOG_FORMAT`.
pub(super) fn log_format(text: &str) -> Result<Format, String> {
    match text.to_ascii_lowercase().as_str() {
        "plain" => Ok(Format::Plain),
        "json" => Ok(Format::Json),
        _ => Err("plain or json".to_owned()),
    }
}

/// `STATUS_LISTEN`: as [`listen`], or `off`.
pub(super) fn status_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    listen(text).map(Some).map_err(|_| {
        "off, or an IP address and a port: 127.0.0.1:9180 for this device only, 0.0.0.0:9180 to be \
         seen on every network"
            .to_owned()
    })
}

/// `LOCAL_MQTT_LISTEN`. `localhost` is taken as 127.0.0.1; a port alone is refused, because whether
/// the broker is open to the network is for the owner to say.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let localhost = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    localhost.or_else(|| text.parse().ok()).ok_or_else(|| {
        "an IP address and a port: 127.0.0.1:1883 for this device only, 0.0.0.0:1883 to listen on \
         every network"
            .to_owned()
    })
}

/// A host name or IP address as TLS will check it.
pub(super) fn host(text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('/') {
        return Err(
            "a bare host name, without https:// or mqtts:// before it and without a path"
                .to_owned(),
        );
    }
    let port_follows = text.parse::<IpAddr>().is_err() && text.contains(':');
    if port_follows {
        return Err(
            "a bare host name, without a port after it (AWS_PORT sets the one for AWS)".to_owned(),
        );
    }
    ServerName::try_from(text)
        .map(|_| text.to_owned())
        .map_err(|_| "a host name, such as xxxxxxxx-ats.iot.eu-west-1.amazonaws.com".to_owned())
}

/// A TCP port to connect to.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| "a port number from 1 to 65535".to_owned())
}

/// A whole number of `unit` within `range`.
pub(super) fn number(
    range: RangeInclusive<u64>,
    unit: &'static str,
) -> impl FnOnce(&str) -> Result<u64, String> {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!(
                "a whole number of {unit} from {} to {}",
                range.start(),
                range.end()
            )
        })
    }
}

/// `SPOOL_FULL`.
pub(super) fn full_policy(text: &str) -> Result<FullPolicy, String> {
    match text.to_ascii_lowercase().as_str() {
        "block" => Ok(FullPolicy::Block),
        "drop_oldest" => Ok(FullPolicy::DropOldest),
        "drop_newest" => Ok(FullPolicy::DropNewest),
        _ => Err("block, drop_oldest or drop_newest".to_owned()),
    }
}

/// `CLOUD_MQTT_VERSION`.
pub(super) fn mqtt_version(text: &str) -> Result<MqttVersion, String> {
    match text {
        "5" | "5.0" => Ok(MqttVersion::V5),
        "3.1.1" => Ok(MqttVersion::V311),
        _ => Err("5 or 3.1.1".to_owned()),
    }
}

/// An on/off switch.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("1 or true, 0 or false".to_owned()),
    }
}

/// The device UUID: it must do as AWS Thing name and MQTT client id.
pub(super) fn device_uuid(text: &str) -> Result<String, String> {
    let fits = text.len() <= DEVICE_UUID_BYTES_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("at most {DEVICE_UUID_BYTES_MAX} letters, digits, colons, dashes or underscores")
    })
}

/// Text on one line.
pub(super) fn plain_text(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("text without control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// A secret, taken as it is.
#[expect(
    clippy::unnecessary_wraps,
    reason = "has the shape of every other parser here"
)]
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text))
}
