//! `cloud-relay health`: whether the relay beside this process is alive and lets clients in.
//!
//! It does what an app does first, CONNECT, and waits for CONNACK, all within [`TIMEOUT`], with the login of the
//! environment if there is one. The relay's log stays silent about it unless `LOG_LEVEL` is `debug`. It says nothing about the
//! cloud: a relay without one accepts and spools, and starting it anew would not help.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigErrors, LocalConfig};

/// How long connecting and the answer may take together: an idle Pi Zero needs some milliseconds, one that syncs
/// to a worn card a second or two. The image's HEALTHCHECK allows more than this.
const TIMEOUT: Duration = Duration::from_secs(5);

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
    #[error("nothing takes connections at {address} (LOCAL_MQTT_LISTEN): {source}")]
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
    match Config::local_from_env()
        .map_err(HealthError::from)
        .and_then(|local| check(super::reachable(local.listen), &local, TIMEOUT))
    {
        Ok(address) => super::print(&format!("healthy: {address} lets MQTT clients in\n")),
        Err(error) => {
            eprintln!("unhealthy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// CONNECT, CONNACK, DISCONNECT within `timeout`.
fn check(
    address: SocketAddr,
    local: &LocalConfig,
    timeout: Duration,
) -> Result<SocketAddr, HealthError> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|source| HealthError::Connect { address, source })?;
    let answer = super::mqtt::connect("", local.login.as_ref())
        .and_then(|connect| ask(&mut stream, &connect, began, timeout))
        .map_err(|source| HealthError::Silent { address, source })?;
    // Beside a password file there may be no login to use: then the broker that asks for one is alive.
    let needs_login = local.login.is_none() && local.password_file.is_some();
    if answer != CONNACK && !(needs_login && answer == CONNACK_NEEDS_LOGIN) {
        return Err(HealthError::Refused { address, answer });
    }
    Ok(address)
}

/// The answer to CONNECT. What the other side makes of DISCONNECT is its own affair.
fn ask(
    stream: &mut TcpStream,
    connect: &[u8],
    began: Instant,
    timeout: Duration,
) -> io::Result<[u8; CONNACK.len()]> {
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(connect)?;
    let mut answer = [0; CONNACK.len()];
    // byte by byte, so that one that trickles cannot take longer either
    for byte in answer.chunks_mut(1) {
        let left = timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        stream.read_exact(byte)?;
    }
    stream.write_all(DISCONNECT).ok();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::config::LocalLogin;
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
