//! Who may connect: names, passwords, and how many guesses; and which topics are whose.
//!
//! Invariants: no password is kept in plain text, logged or shown. Hashing never runs on the relay's own thread,
//! and only one at a time, so that guessing takes no more than one blocking thread.
//!
//! A user's name counts only if its password was checked: without users, every client is one without a name.
//!
//! What it does not do: refuse anything. It says what may be; `handshake` and `inbound` act on it.

mod denials;
mod lines;
mod passwords;
mod rules;

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::denials::Denials;
use self::lines::LineError;
use self::passwords::Passwords;
pub(super) use self::rules::Rights;
use self::rules::Rules;
use super::handshake::GENERATED;
use super::packet::{Login, Reason};
use crate::guesses::Guesses;
use crate::secret::Secret;

/// The largest file, in bytes: 1,000 users or rules, and their comments.
const FILE_BYTES_MAX: u64 = 512 * 1024;

const PASSWORD_FILE: &str = "LOCAL_MQTT_PASSWORD_FILE";
const ACL_FILE: &str = "LOCAL_MQTT_ACL_FILE";

/// A user of the local broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLogin {
    /// `LOCAL_MQTT_USERNAME`.
    pub user: String,
    /// `LOCAL_MQTT_PASSWORD`.
    pub password: Secret,
}

/// Why it cannot be said who may connect.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not of the kind it should be.
    #[error("{variable}: {} {what}", path.display())]
    Faulty {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Which line, and what is wrong with it.
        what: String,
    },
    /// The system has no randomness for a salt.
    #[error(
        "LOCAL_MQTT_PASSWORD: the system gives no random numbers to hash it with; restart the service"
    )]
    NoRandomness,
}

/// Who may do what. [`Default`] lets everyone in and lets them do everything.
#[derive(Clone, Debug, Default)]
pub struct Access {
    guarded: Option<Arc<Guarded>>,
    rules: Option<Arc<Rules>>,
    denials: Arc<Mutex<Denials>>,
}

#[derive(Debug)]
struct Guarded {
    passwords: Arc<Passwords>,
    /// Held while a password is checked.
    turn: Arc<Semaphore>,
    guesses: Mutex<Guesses>,
}

impl Access {
    /// The user of the environment and those of the password file; everyone if neither is set. Reads the file.
    pub fn new(login: Option<&LocalLogin>, file: Option<&Path>) -> Result<Self, AccessError> {
        let mut passwords = match file {
            Some(path) => read_passwords(path)?,
            None => Passwords::default(),
        };
        if let Some(login) = login {
            let mut salt = [0; 16];
            let filled = SystemRandom::new().fill(&mut salt);
            filled.map_err(|_| AccessError::NoRandomness)?;
            passwords.add(&login.user, &login.password, salt);
        }
        if login.is_none() && file.is_none() {
            return Ok(Access::default());
        }
        Ok(Access {
            guarded: Some(Arc::new(Guarded {
                passwords: Arc::new(passwords),
                turn: Arc::new(Semaphore::new(1)),
                guesses: Mutex::default(),
            })),
            ..Access::default()
        })
    }

    /// The same with the rules of this file, if any. Reads it.
    pub fn with_rules(mut self, file: Option<&Path>) -> Result<Self, AccessError> {
        let Some(path) = file else {
            return Ok(self);
        };
        let rules = Rules::parse(&read(ACL_FILE, path)?);
        let rules = rules.map_err(|error| faulty(ACL_FILE, path, error.to_string()))?;
        if rules.name_users() && self.guarded.is_none() {
            let what = "has rules for users, and nobody can log in; set LOCAL_MQTT_USERNAME and LOCAL_MQTT_PASSWORD, or \
                        LOCAL_MQTT_PASSWORD_FILE";
            return Err(faulty(ACL_FILE, path, what));
        }
        self.rules = Some(Arc::new(rules));
        Ok(self)
    }

    /// What a client may do whose user, if any, [`Access::check`] has named.
    pub(super) fn rights(&self, user: Option<&str>, client_id: &str) -> Rights {
        let rules = self.rules.as_ref();
        rules.map_or_else(Rights::default, |rules| rules.of(user, client_id))
    }

    /// Notes that a client may not do something; says so once for each client.
    pub(super) fn denied(&self, client_id: &str, what: &'static str, topic: &str) {
        // Clients without an identifier of their own get a new one each time, so they count as one.
        let has_name = !client_id.starts_with(GENERATED);
        let known_as = if has_name { client_id } else { GENERATED };
        let denials = self.denials.lock();
        if (denials.unwrap_or_else(PoisonError::into_inner)).is_news(known_as) {
            tracing::warn!(
                client_id,
                topic,
                "LOCAL_MQTT_ACL_FILE does not allow a client to {what}; told once for each client"
            );
        } else {
            tracing::debug!(client_id, topic, "not allowed to {what}");
        }
    }

    /// Whether a client that names itself so, or does not, may connect. Returns its user, if there are users.
    pub(super) async fn check(&self, login: Option<Login>) -> Result<Option<String>, Reason> {
        let Some(guarded) = &self.guarded else {
            return Ok(None);
        };
        let Some(login) = login else {
            return Err(Reason::NotAuthorized);
        };
        let turn = Arc::clone(&guarded.turn).acquire_owned().await;
        let passwords = Arc::clone(&guarded.passwords);
        let check = move || {
            // Here, so that the turn lasts as long as the work, even if the client has gone meanwhile.
            let _turn = turn;
            passwords.admit(&login).then_some(login.user)
        };
        match tokio::task::spawn_blocking(check).await {
            Ok(Some(user)) => Ok(Some(user)),
            Ok(None) => Err(Reason::BadUserNameOrPassword),
            Err(error) => {
                tracing::error!(%error, "a password could not be checked, so its client is refused");
                Err(Reason::NotAuthorized)
            }
        }
    }

    /// Notes a client that was refused. Returns for how long the answer is to be held back.
    pub(super) fn refused(&self, peer: SocketAddr, reason: Reason) -> Duration {
        tracing::warn!(%peer, "a client was refused: no user name, or a wrong user name or password");
        let is_guess = reason == Reason::BadUserNameOrPassword;
        let guarded = self.guarded.as_ref().filter(|_| is_guess);
        guarded.map_or(Duration::ZERO, |guarded| {
            let guesses = guarded.guesses.lock();
            let mut guesses = guesses.unwrap_or_else(PoisonError::into_inner);
            guesses.wrong(peer.ip(), Instant::now())
        })
    }
}

fn faulty(variable: &'static str, path: &Path, what: impl Into<String>) -> AccessError {
    AccessError::Faulty {
        variable,
        path: path.to_owned(),
        what: what.into(),
    }
}

fn read(variable: &'static str, path: &Path) -> Result<String, AccessError> {
    let unreadable = |source| AccessError::Unreadable {
        variable,
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(faulty(variable, path, "is larger than 512 KiB"));
    }
    Ok(text)
}

fn read_passwords(path: &Path) -> Result<Passwords, AccessError> {
    let passwords = Passwords::parse(&read(PASSWORD_FILE, path)?);
    let passwords =
        passwords.map_err(|error: LineError| faulty(PASSWORD_FILE, path, error.to_string()))?;
    if passwords.is_empty() {
        let what = "names no user; `mosquitto_passwd FILE USER` adds one";
        return Err(faulty(PASSWORD_FILE, path, what));
    }
    Ok(passwords)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_that_cannot_be_used_is_named_with_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let said = || Access::new(None, Some(&path)).unwrap_err().to_string();
        assert!(said().contains("users: No such file"), "{}", said());
        for (content, part) in [
            ("# nobody\n", "names no user"),
            ("app:geheim\n", "users line 1 has a password in plain text"),
            (&"#\n".repeat(300 * 1024), "512 KiB"),
        ] {
            std::fs::write(&path, content).unwrap();
            let said = said();
            assert!(said.starts_with("LOCAL_MQTT_PASSWORD_FILE: "), "{said}");
            assert!(said.contains(part) && !said.contains("geheim"), "{said}");
        }
    }

    #[test]
    fn a_file_of_rules_that_cannot_be_used_is_named_with_its_variable_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        let said = || {
            let access = Access::default().with_rules(Some(&path));
            access.unwrap_err().to_string()
        };
        assert!(said().contains("rules: No such file"), "{}", said());
        for (content, part) in [
            ("topic reed a\n", "rules line 1 allows something"),
            ("user app\ntopic a\n", "nobody can log in"),
        ] {
            std::fs::write(&path, content).unwrap();
            let said = said();
            assert!(said.starts_with("LOCAL_MQTT_ACL_FILE: "), "{said}");
            assert!(said.contains(part), "{said}");
        }
    }
}
