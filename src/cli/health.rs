//! `cloud-relay health`: whether the relay beside this process lets clients in, and what they publish is safe.
//!
//! It asks the status server for `/healthz`, and does what an app does first, CONNECT with the login of the environment,
//! if there is one, and waits for CONNACK. A relay without a cloud is healthy: it accepts and spools, and starting it anew would not help. A status server that is off
//! or that another program keeps from its port costs the first half of the question, never the health: that is said.
//! The relay's log stays silent about being asked unless `LOG_LEVEL` is `debug`.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::{AskError, ask};
use super::hurried::Hurried;
use super::mqtt::Level;
use crate::config::{Config, ConfigErrors, LocalConfig, StatusConfig};
use crate::printable::escaped;
use crate::status::Health;

/// How long connecting to the broker and its answer may take together: an idle Pi Zero needs some milliseconds, one
/// that syncs to a worn card a second or two.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the status server, which has a thread of its own. The image's HEALTHCHECK allows more than both.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// CONNACK: connection accepted, no session present (section 3.2).
const CONNACK: [u8; 4] = *b"\x20\x02\0\0";
/// CONNACK: not authorized.
const CONNACK_NEEDS_LOGIN: [u8; 4] = *b"\x20\x02\0\x05";
/// DISCONNECT (section 3.14).
const DISCONNECT: &[u8] = b"\xE0\0";

/// Why the relay is not healthy.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error("{0}")]
    Environment(#[from] ConfigErrors),
    #[error("{reason}. {remedy}")]
    Unsafe { reason: String, remedy: String },
    #[error(
        "nothing takes connections at {address} (LOCAL_MQTT_LISTEN): {source}; the relay's log says why it does not run"
    )]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "{address} (LOCAL_MQTT_LISTEN) takes connections, but does not answer CONNECT: {source}"
    )]
    Silent {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "{address} (LOCAL_MQTT_LISTEN) answers CONNECT with {answer:02x?}, which lets no client in"
    )]
    Refused {
        address: SocketAddr,
        answer: [u8; CONNACK.len()],
    },
}

/// Checks the relay that this process's environment describes. Code 0 and a line on stdout: healthy; 1 and a line on
/// stderr: not. Docker knows no other codes.
pub fn run() -> ExitCode {
    match checked() {
        Ok(line) => super::print(&format!("healthy: {line}\n")),
        Err(error) => {
            eprintln!("unhealthy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn checked() -> Result<String, HealthError> {
    let local = Config::local_from_env()?;
    let status = Config::status_from_env()?;
    // First, for it knows reasons and remedies: of a stuck relay the broker only shows that it is silent.
    let told = told(&status)?;
    let address = check(super::reachable(local.listen), &local, BROKER_TIMEOUT)?;
    Ok(format!("{address} lets MQTT clients in; {told}"))
}

/// What the status server says, or why that is not known.
fn told(config: &StatusConfig) -> Result<String, HealthError> {
    let asked = ask(config, "/healthz", STATUS_TIMEOUT).and_then(|answer| answer.read::<Health>());
    match asked {
        Ok(health) if health.ok => Ok(escaped(&format!("{}: {}", health.state, health.reason))),
        Ok(Health { reason, remedy, .. }) => Err(HealthError::Unsafe {
            reason: escaped(&reason),
            remedy: escaped(&remedy.unwrap_or_default()),
        }),
        Err(AskError::Off) => Ok("STATUS_LISTEN is off, so that is all".to_owned()),
        Err(error) => Ok(format!("/healthz was not to be had: {error}")),
    }
}

/// CONNECT, CONNACK, DISCONNECT within `timeout`.
fn check(
    address: SocketAddr,
    local: &LocalConfig,
    timeout: Duration,
) -> Result<SocketAddr, HealthError> {
    let stream = Hurried::connect(address, timeout)
        .map_err(|source| HealthError::Connect { address, source })?;
    let answer = super::mqtt::connect(Level::V311, "", local.login.as_ref())
        .and_then(|connect| greet(stream, &connect))
        .map_err(|source| HealthError::Silent { address, source })?;
    // Beside a password file there may be no login to use: then the broker that asks for one is alive.
    let needs_login = local.login.is_none() && local.password_file.is_some();
    if answer != CONNACK && !(needs_login && answer == CONNACK_NEEDS_LOGIN) {
        return Err(HealthError::Refused { address, answer });
    }
    Ok(address)
}

/// The answer to CONNECT. What the other side makes of DISCONNECT is its own affair.
fn greet(mut stream: Hurried, connect: &[u8]) -> io::Result<[u8; CONNACK.len()]> {
    stream.send(connect)?;
    let mut answer = [0; CONNACK.len()];
    stream.read_exact(&mut answer)?;
    stream.send(DISCONNECT).ok();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::local::LocalLogin;
    use crate::secret::Secret;

    /// CONNECT without login (MQTT 3.1.1, section 3.1).
    const CONNECT: &[u8] = b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0";

    /// Long enough to be met by a busy machine where an answer comes.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// Where none comes.
    const IMPATIENCE: Duration = Duration::from_millis(50);

    /// A listener that gives `answer` to the first connection, then waits until that is closed; returns what it
    /// got.
    fn answering(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).ok();
            got
        });
        (address, peer)
    }

    /// What is listened on does not matter here.
    fn local() -> LocalConfig {
        LocalConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            login: None,
            password_file: None,
            acl_file: None,
            tls: None,
            websocket: None,
        }
    }

    #[test]
    fn a_broker_that_asks_for_a_login_is_healthy_where_a_file_has_the_logins() {
        let with_file = LocalConfig {
            password_file: Some("/data/users".into()),
            ..local()
        };
        let (address, _peer) = answering(&CONNACK_NEEDS_LOGIN);
        assert_eq!(check(address, &with_file, PATIENCE).unwrap(), address);
        let (address, _peer) = answering(&CONNACK_NEEDS_LOGIN);
        assert!(check(address, &local(), PATIENCE).is_err());
    }

    #[test]
    fn the_login_of_the_environment_is_used() {
        let with_login = LocalConfig {
            login: Some(LocalLogin {
                user: "app".to_owned(),
                password: Secret::new("geheim"),
            }),
            ..local()
        };
        let (address, peer) = answering(&CONNACK);
        check(address, &with_login, PATIENCE).unwrap();
        let connect = b"\x10\x19\0\x04MQTT\x04\xC2\0\0\0\0\0\x03app\0\x06geheim";
        assert_eq!(peer.join().unwrap(), [&connect[..], DISCONNECT].concat());
    }

    #[test]
    fn a_broker_that_lets_clients_in_is_healthy_and_gets_a_goodbye() {
        let (address, peer) = answering(&CONNACK);
        assert_eq!(check(address, &local(), PATIENCE).unwrap(), address);
        assert_eq!(peer.join().unwrap(), [CONNECT, DISCONNECT].concat());
    }

    #[test]
    fn a_broker_that_refuses_is_not() {
        // 3: server unavailable
        let (address, _peer) = answering(b"\x20\x02\0\x03");
        let error = check(address, &local(), PATIENCE).unwrap_err().to_string();
        assert!(error.contains("[20, 02, 00, 03]"), "{error}");
    }

    #[test]
    fn what_closes_or_says_too_little_or_nothing_is_not() {
        for answer in ["", "\x20\x02\0"] {
            let (address, _peer) = answering(answer.as_bytes());
            let error = check(address, &local(), IMPATIENCE)
                .unwrap_err()
                .to_string();
            assert!(error.contains("does not answer CONNECT"), "{error}");
        }
    }

    #[test]
    fn a_port_where_nobody_listens_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = check(address, &local(), PATIENCE).unwrap_err().to_string();
        assert!(
            error.contains("nothing takes connections") && error.contains(&address.to_string()),
            "{error}"
        );
    }

    #[test]
    fn what_listens_everywhere_is_asked_at_home() {
        for (listen, home) in [
            ("0.0.0.0:1883", "127.0.0.1:1883"),
            ("[::]:1884", "[::1]:1884"),
            ("10.1.2.3:1883", "10.1.2.3:1883"),
        ] {
            assert_eq!(
                crate::cli::reachable(listen.parse().unwrap()).to_string(),
                home
            );
        }
    }
}
