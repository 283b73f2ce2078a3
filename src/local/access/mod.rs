//! Who may connect: names, passwords, and how many guesses.
//!
//! Invariants: no password is kept in plain text, logged or shown. Hashing never runs on the relay's own thread,
//! and only one at a time, so that guessing takes no more than one blocking thread.
//!
//! What it does not do: decide what a client that was let in may do.

mod failures;
mod passwords;

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::failures::Failures;
use self::passwords::{LineError, Passwords};
use super::packet::{Login, Reason};
use crate::config::LocalLogin;

/// The largest password file, in bytes: 1,000 users and their comments.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// Why it cannot be said who may connect.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The password file cannot be read.
    #[error("LOCAL_MQTT_PASSWORD_FILE: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The password file is no password file.
    #[error("LOCAL_MQTT_PASSWORD_FILE: {} {what}", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// Which line, and what is wrong with it.
        what: String,
    },
    /// The system has no randomness for a salt.
    #[error("LOCAL_MQTT_PASSWORD: the system gives no random numbers to hash it with")]
    NoRandomness,
}

/// Who may connect. [`Default`] lets everyone in.
#[derive(Clone, Debug, Default)]
pub struct Access(Option<Arc<Guarded>>);

#[derive(Debug)]
struct Guarded {
    passwords: Arc<Passwords>,
    /// Held while a password is checked.
    turn: Arc<Semaphore>,
    failures: Mutex<Failures>,
}

impl Access {
    /// The user of the environment and those of the password file; everyone if neither is set. Reads the file.
    pub fn new(login: Option<&LocalLogin>, file: Option<&Path>) -> Result<Self, AccessError> {
        let mut passwords = match file {
            Some(path) => read(path)?,
            None => Passwords::default(),
        };
        if let Some(login) = login {
            let mut salt = [0; 16];
            let filled = SystemRandom::new().fill(&mut salt);
            filled.map_err(|_| AccessError::NoRandomness)?;
            passwords.add(&login.user, &login.password, salt);
        }
        if login.is_none() && file.is_none() {
            return Ok(Access(None));
        }
        Ok(Access(Some(Arc::new(Guarded {
            passwords: Arc::new(passwords),
            turn: Arc::new(Semaphore::new(1)),
            failures: Mutex::default(),
        }))))
    }

    /// Whether a client that names itself so, or does not, may connect.
    pub(super) async fn check(&self, login: Option<Login>) -> Result<(), Reason> {
        let Some(guarded) = &self.0 else {
            return Ok(());
        };
        let Some(login) = login else {
            return Err(Reason::NotAuthorized);
        };
        let turn = Arc::clone(&guarded.turn).acquire_owned().await;
        let passwords = Arc::clone(&guarded.passwords);
        let check = move || {
            // Here, so that the turn lasts as long as the work, even if the client has gone meanwhile.
            let _turn = turn;
            passwords.admit(&login)
        };
        match tokio::task::spawn_blocking(check).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Reason::BadUserNameOrPassword),
            Err(error) => {
                tracing::error!(%error, "a password could not be checked, so its client is refused");
                Err(Reason::NotAuthorized)
            }
        }
    }

    /// Notes a client that was refused; says it now and then.
    pub(super) fn refused(&self, peer: SocketAddr) {
        let Some(guarded) = &self.0 else {
            return;
        };
        let failures = guarded.failures.lock();
        let count = (failures.unwrap_or_else(PoisonError::into_inner)).add(Instant::now());
        if let Some(count) = count {
            tracing::warn!(
                count,
                last_peer = %peer,
                "clients were refused: no user name, or a wrong user name or password"
            );
        }
    }
}

fn read(path: &Path) -> Result<Passwords, AccessError> {
    let faulty = |what| AccessError::Faulty {
        path: path.to_owned(),
        what,
    };
    let unreadable = |source| AccessError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(faulty("is larger than 512 KiB".to_owned()));
    }
    let passwords =
        Passwords::parse(&text).map_err(|error: LineError| faulty(error.to_string()))?;
    if passwords.is_empty() {
        let what = "names no user; `mosquitto_passwd FILE USER` adds one";
        return Err(faulty(what.to_owned()));
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
}
