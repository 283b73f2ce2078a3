//! Where the local broker listens, and whom it lets in. Files are named here, and not opened.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::fault::Reading;
use super::raw::Raw;
use super::value;
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
}

/// A user of the local broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLogin {
    /// `LOCAL_MQTT_USERNAME`.
    pub user: String,
    /// `LOCAL_MQTT_PASSWORD`.
    pub password: Secret,
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
        }
    }

    /// Whether clients have to say who they are.
    pub fn asks_for_login(&self) -> bool {
        self.login.is_some() || self.password_file.is_some()
    }

    /// For the start-up log; secrets only as set or unset.
    pub(super) fn summary(&self) -> Vec<String> {
        let user = self.login.as_ref().map_or("unset", |login| &login.user);
        let set = if self.login.is_some() { "set" } else { "unset" };
        vec![
            format!("LOCAL_MQTT_LISTEN={}", self.listen),
            format!("LOCAL_MQTT_USERNAME={user}"),
            format!("LOCAL_MQTT_PASSWORD={set}"),
            format!(
                "LOCAL_MQTT_PASSWORD_FILE={}",
                path_or_unset(self.password_file.as_ref())
            ),
        ]
    }
}

fn path_or_unset(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "unset".to_owned(), |path| path.display().to_string())
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
    let fits = text.len() <= usize::from(u16::MAX);
    fits.then_some(text)
        .ok_or_else(|| "at most 65535 bytes".to_owned())
}
