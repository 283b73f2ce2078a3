//! One GET to the running relay, with an end in sight.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::StatusConfig;

/// A relay on the same device that takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes; a relay's has some ten thousand.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

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
        TIMEOUT.as_secs()
    )]
    Silent { address: SocketAddr },
    #[error("the relay asks for STATUS_PASSWORD: set it here to the value that it has there")]
    Password,
    #[error("what answers is no relay, or another version: {0}")]
    Strange(String),
}

/// The body of the answer to a GET of `path`.
pub(super) fn ask(config: &StatusConfig, path: &str) -> Result<String, AskError> {
    let address = crate::cli::reachable(config.listen.ok_or(AskError::Off)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AskError::Unreachable(address, error))?;
    runtime.block_on(async {
        let asked = tokio::time::timeout(TIMEOUT, get(address, config, path)).await;
        asked.unwrap_or(Err(AskError::Silent { address }))
    })
}

async fn get(address: SocketAddr, config: &StatusConfig, path: &str) -> Result<String, AskError> {
    fn strange(error: impl std::fmt::Display) -> AskError {
        AskError::Strange(error.to_string())
    }
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| AskError::Unreachable(address, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(strange)?;
    let mut request = Request::get(path).header(HOST, address.to_string());
    if let Some(password) = &config.password {
        let login = STANDARD.encode(format!("relay:{}", password.expose()));
        request = request.header(AUTHORIZATION, format!("Basic {login}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(strange)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(strange)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(AskError::Password),
            status => return Err(strange(status)),
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        body.collect().await.map_err(strange)
    };
    // The connection moves only while it is polled; its end is no news once the body is there.
    let mut exchange = std::pin::pin!(exchange);
    let body = tokio::select! {
        biased;
        body = &mut exchange => body?,
        _ended = connection => exchange.await?,
    };
    String::from_utf8(body.to_bytes().into()).map_err(strange)
}
