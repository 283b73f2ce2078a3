//! One GET to the running relay's status server, with an end in sight.
//!
//! It speaks HTTP/1.0: the answer is whole when the connection ends, in one piece. `health` runs once a minute on the
//! smallest of devices, and a few lines over a blocking socket cost it less than a runtime and a client.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::hurried::Hurried;
use crate::config::StatusConfig;

/// The longest answer that is read, in bytes; a relay's has some ten thousand.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("STATUS_LISTEN is off, so there is nobody to ask; the log tells the state")]
    Off,
    #[error(
        "no relay answers at {0}: is it running, and is STATUS_LISTEN the same here and there? ({1})"
    )]
    Unreachable(SocketAddr, io::Error),
    #[error(
        "the relay at {address} did not answer within {} s: it is stuck; see its log and restart it",
        timeout.as_secs()
    )]
    Silent {
        address: SocketAddr,
        timeout: Duration,
    },
    #[error("the relay asks for STATUS_PASSWORD: set it here to the value that it has there")]
    Password,
    #[error("what answers at {address} is no relay, or another version: {what}")]
    Strange { address: SocketAddr, what: String },
}

/// What the relay answers.
#[derive(Debug)]
pub(super) struct Answer {
    address: SocketAddr,
    pub(super) body: String,
}

impl Answer {
    /// The body as what it is to be. Whoever answers, a relay of this version or somebody else, shows here.
    pub(super) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, AskError> {
        serde_json::from_str(&self.body).map_err(|error| AskError::Strange {
            address: self.address,
            what: error.to_string(),
        })
    }
}

/// The answer to a GET of `path`, within `timeout`.
pub(super) fn ask(
    config: &StatusConfig,
    path: &str,
    timeout: Duration,
) -> Result<Answer, AskError> {
    let address = super::reachable(config.listen.ok_or(AskError::Off)?);
    let stream = Hurried::connect(address, timeout)
        .map_err(|error| AskError::Unreachable(address, error))?;
    let strange = |what: String| AskError::Strange { address, what };
    let text = exchange(stream, &request(config, address, path)).map_err(|error| {
        if error.kind() == io::ErrorKind::TimedOut {
            AskError::Silent { address, timeout }
        } else {
            strange(error.to_string())
        }
    })?;
    match understood(&text) {
        Some((200 | 503, body)) => Ok(Answer {
            address,
            body: body.to_owned(),
        }),
        Some((401, _)) => Err(AskError::Password),
        Some((code, _)) => Err(strange(format!("code {code}"))),
        None => Err(strange("it does not speak HTTP".to_owned())),
    }
}

fn request(config: &StatusConfig, address: SocketAddr, path: &str) -> String {
    let login = config.password.as_ref().map(|password| {
        let login = STANDARD.encode(format!("relay:{}", password.expose()));
        format!("Authorization: Basic {login}\r\n")
    });
    let login = login.unwrap_or_default();
    format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{login}\r\n")
}

/// Asks, and reads until the other side closes.
fn exchange(mut stream: Hurried, request: &str) -> io::Result<String> {
    stream.send(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The code and the body of an answer in HTTP/1.
fn understood(text: &str) -> Option<(u16, &str)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (version, rest) = head.split_once(' ')?;
    let code = rest.get(..3)?.parse().ok()?;
    version.starts_with("HTTP/1.").then_some((code, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_code_and_a_body_and_nothing_else_is() {
        let answer = understood("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\n{}\r\n\r\n");
        assert_eq!(answer, Some((503, "{}\r\n\r\n")));
        for strange in [
            "",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.0 20\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "220 mail ready\r\n\r\n",
            "HTTP/1.1 \u{e9}\u{e9}\r\n\r\n",
        ] {
            assert!(understood(strange).is_none(), "{strange:?}");
        }
    }
}
