//! Where the local broker listens, and whom it lets in. Files are named here, and not opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::fault::Reading;
use super::raw::Raw;
use super::summary::{or_unset, set_or_unset};
use super::value;
use crate::local::{LocalLogin, LocalTls, Origins};
use crate::secret::Secret;

/// The local broker's doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// `LOCAL_MQTT_LISTEN`.
    pub listen: SocketAddr,
    /// `LOCAL_MQTT_USERNAME`, `LOCAL_MQTT_PASSWORD`: a user, who is also the relay's own tools'.
    pub login: Option<LocalLogin>,
    /// `LOCAL_MQTT_PASSWORD_FILE`: more users.
    pub password_file: Option<PathBuf>,
    /// `LOCAL_MQTT_ACL_FILE`: which topics are whose.
    pub acl_file: Option<PathBuf>,
    /// `LOCAL_MQTTS_LISTEN` and what belongs to it.
    pub tls: Option<LocalTls>,
    /// `LOCAL_MQTT_WS_LISTEN` and what belongs to it.
    pub websocket: Option<LocalWebSocket>,
}

/// Where the local broker listens for browsers, and for whose pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWebSocket {
    /// `LOCAL_MQTT_WS_LISTEN`.
    pub listen: SocketAddr,
    /// `LOCAL_MQTT_WS_ORIGINS`.
    pub origins: Origins,
}

impl LocalConfig {
    pub(super) fn read(raw: &Raw, reading: &mut Reading) -> Self {
        let listen = reading.parse(
            "LOCAL_MQTT_LISTEN",
            raw.local_mqtt_listen.as_deref(),
            value::listen,
        );
        LocalConfig {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1883))),
            login: LocalLogin::read(raw, reading),
            password_file: reading.parse(
                "LOCAL_MQTT_PASSWORD_FILE",
                raw.local_mqtt_password_file.as_deref(),
                |path| Ok(PathBuf::from(path)),
            ),
            acl_file: reading.parse(
                "LOCAL_MQTT_ACL_FILE",
                raw.local_mqtt_acl_file.as_deref(),
                |path| Ok(PathBuf::from(path)),
            ),
            tls: LocalTls::read(raw, reading),
            websocket: LocalWebSocket::read(raw, reading),
        }
    }

    /// Whether clients have to say who they are.
    pub fn asks_for_login(&self) -> bool {
        self.login.is_some() || self.password_file.is_some()
    }

    /// For the start-up log; secrets only as set or unset.
    pub(super) fn summary(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| or_unset(path.as_deref().map(Path::display));
        let user = self.login.as_ref().map_or("unset", |login| &login.user);
        let set = set_or_unset(self.login.is_some());
        let mut parts = vec![
            format!("LOCAL_MQTT_LISTEN={}", self.listen),
            format!("LOCAL_MQTT_USERNAME={user}"),
            format!("LOCAL_MQTT_PASSWORD={set}"),
            format!("LOCAL_MQTT_PASSWORD_FILE={}", path(&self.password_file)),
            format!("LOCAL_MQTT_ACL_FILE={}", path(&self.acl_file)),
        ];
        if let Some(tls) = &self.tls {
            parts.extend([
                format!("LOCAL_MQTTS_LISTEN={}", tls.listen),
                format!("LOCAL_MQTTS_CERT_PATH={}", tls.cert_path.display()),
                format!("LOCAL_MQTTS_KEY_PATH={}", tls.key_path.display()),
                format!("LOCAL_MQTTS_CLIENT_CA_PATH={}", path(&tls.client_ca_path)),
            ]);
        }
        if let Some(websocket) = &self.websocket {
            parts.extend([
                format!("LOCAL_MQTT_WS_LISTEN={}", websocket.listen),
                format!("LOCAL_MQTT_WS_ORIGINS={}", websocket.origins),
            ]);
        }
        parts
    }
}

impl LocalWebSocket {
    fn read(raw: &Raw, reading: &mut Reading) -> Option<Self> {
        let listen = raw.local_mqtt_ws_listen.as_deref();
        let origins = reading.parse(
            "LOCAL_MQTT_WS_ORIGINS",
            raw.local_mqtt_ws_origins.as_deref(),
            |text| match listen {
                Some(_) => Origins::parse(text),
                None => Err("LOCAL_MQTT_WS_LISTEN to be set as well".to_owned()),
            },
        );
        Some(LocalWebSocket {
            listen: reading.parse("LOCAL_MQTT_WS_LISTEN", listen, value::listen)?,
            origins: origins.unwrap_or_default(),
        })
    }
}

impl LocalTls {
    fn read(raw: &Raw, reading: &mut Reading) -> Option<Self> {
        let listen = raw.local_mqtts_listen.as_deref();
        let mut path = |name, value: &Option<String>| {
            reading.parse(name, value.as_deref(), |path| match listen {
                Some(_) => Ok(PathBuf::from(path)),
                None => Err("LOCAL_MQTTS_LISTEN to be set as well".to_owned()),
            })
        };
        let cert_path = path("LOCAL_MQTTS_CERT_PATH", &raw.local_mqtts_cert_path);
        let key_path = path("LOCAL_MQTTS_KEY_PATH", &raw.local_mqtts_key_path);
        let client_ca_path = path(
            "LOCAL_MQTTS_CLIENT_CA_PATH",
            &raw.local_mqtts_client_ca_path,
        );
        let listen = reading.parse("LOCAL_MQTTS_LISTEN", listen, |text| {
            if cert_path.is_none() || key_path.is_none() {
                let missing = "LOCAL_MQTTS_CERT_PATH and LOCAL_MQTTS_KEY_PATH to be set as well";
                return Err(missing.to_owned());
            }
            value::listen(text)
        });
        Some(LocalTls {
            listen: listen?,
            cert_path: cert_path?,
            key_path: key_path?,
            client_ca_path,
        })
    }
}

impl LocalLogin {
    fn read(raw: &Raw, reading: &mut Reading) -> Option<Self> {
        let (user, password) = (
            raw.local_mqtt_username.as_deref(),
            raw.local_mqtt_password.as_deref(),
        );
        let name = reading.parse("LOCAL_MQTT_USERNAME", user, |text| match password {
            Some(_) => value::plain_text(text).and_then(short_enough),
            None => Err("LOCAL_MQTT_PASSWORD to be set as well".to_owned()),
        });
        let password = reading.parse_hidden("LOCAL_MQTT_PASSWORD", password, |text| match user {
            Some(_) => short_enough(text.to_owned()).map(Secret::new),
            None => Err("LOCAL_MQTT_USERNAME to be set as well".to_owned()),
        });
        Some(LocalLogin {
            user: name?,
            password: password?,
        })
    }
}

/// MQTT's user names and passwords have a length in two bytes.
fn short_enough(text: String) -> Result<String, String> {
    let fits = u16::try_from(text.len()).is_ok();
    fits.then_some(text)
        .ok_or_else(|| "at most 65535 bytes".to_owned())
}
