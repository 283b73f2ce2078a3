//! From a host name to an accepted MQTT connection: DNS, TCP, TLS, CONNECT, CONNACK.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Endpoint;
use super::packet::{self, Answer, Malformed};

/// DNS and TCP together must be done within this time.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS must be done within this time; RSA on a Pi Zero takes a part of a second.
const TLS_TIMEOUT: Duration = Duration::from_secs(15);
/// CONNACK must come within this time.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(10);
/// The keep alive we announce, in seconds. AWS IoT Core takes 30 to 1,200, VPC endpoints at most 230.
pub(super) const KEEP_ALIVE_S: u16 = 60;

/// A connection that the cloud has accepted.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    /// What came after CONNACK.
    pub(super) received: BytesMut,
}

/// Why there is no connection, in words for the device's owner.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The network does not lead to the cloud.
    #[error("cannot reach {host} on port {port}: {detail}")]
    Unreachable {
        host: String,
        port: u16,
        detail: String,
    },
    #[error("{0} is not a host name: set AWS_DATA_ENDPOINT to the bare name of the data endpoint")]
    HostName(String, #[source] InvalidDnsNameError),
    #[error("TLS with {host} failed: {detail}")]
    Tls { host: String, detail: String },
    #[error("{host} closed the connection {when}: {ADVICE_CLOSED}")]
    Closed { host: String, when: &'static str },
    #[error("{host} gave no answer {when} within {} s", after.as_secs())]
    Silent {
        host: String,
        when: &'static str,
        after: Duration,
    },
    #[error("{host} refused the connection: {reason}")]
    Refused { host: String, reason: &'static str },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

const ADVICE_CLOSED: &str = "is the certificate active, does its policy allow iot:Connect \
     for this client id, and is AWS_DATA_ENDPOINT of the right account and region?";

/// Connects once.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Connection, ConnectError> {
    let host = || endpoint.host.clone();
    let tcp = reach(endpoint).await?;
    let name = ServerName::try_from(host()).map_err(|e| ConnectError::HostName(host(), e))?;
    let connector = TlsConnector::from(endpoint.tls.clone());
    let mut stream = within(TLS_TIMEOUT, host(), "to the TLS handshake", async {
        connector
            .connect(name, tcp)
            .await
            .map_err(|error| tls_error(host(), &error))
    })
    .await?;

    let mut buffer = BytesMut::new();
    packet::write_connect(&mut buffer, &endpoint.client_id, KEEP_ALIVE_S)?;
    within(CONNACK_TIMEOUT, host(), "to CONNECT", async {
        stream
            .write_all(&buffer)
            .await
            .map_err(|error| tls_error(host(), &error))?;
        stream
            .flush()
            .await
            .map_err(|error| tls_error(host(), &error))?;
        await_connack(&mut stream, host()).await
    })
    .await
    .map(|received| Connection { stream, received })
}

async fn reach(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let unreachable = |detail: String| ConnectError::Unreachable {
        host: endpoint.host.clone(),
        port: endpoint.port,
        detail,
    };
    let address = (endpoint.host.as_str(), endpoint.port);
    let tcp = timeout(TCP_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", TCP_TIMEOUT.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    tcp.set_nodelay(true)
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(tcp)
}

/// Reads until CONNACK is complete; returns what came behind it.
async fn await_connack(
    stream: &mut TlsStream<TcpStream>,
    host: String,
) -> Result<BytesMut, ConnectError> {
    let mut received = BytesMut::with_capacity(1024);
    loop {
        match packet::read(&mut received)? {
            Some(Answer::Connected(Ok(()))) => return Ok(received),
            Some(Answer::Connected(Err(reason))) => {
                return Err(ConnectError::Refused { host, reason });
            }
            Some(_) => {
                return Err(ConnectError::Refused {
                    host,
                    reason: "its first packet was not CONNACK; is this an MQTT endpoint?",
                });
            }
            None => {}
        }
        let read = stream
            .read_buf(&mut received)
            .await
            .map_err(|error| tls_error(host.clone(), &error))?;
        if read == 0 {
            return Err(ConnectError::Closed {
                host,
                when: "instead of accepting it",
            });
        }
    }
}

async fn within<T>(
    after: Duration,
    host: String,
    when: &'static str,
    step: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(after, step)
        .await
        .unwrap_or(Err(ConnectError::Silent { host, when, after }))
}

/// Turns what rustls and the system say into words.
fn tls_error(host: String, error: &io::Error) -> ConnectError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let detail = match tls {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer => "its certificate is signed by none of the trusted \
                 roots; is AWS_DATA_ENDPOINT right, and AWS_ROOT_CA_PATH if set?"
                .to_owned(),
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. } => format!(
                "its certificate is not valid at this device's time; is the clock right? ({certificate})"
            ),
            other => format!("its certificate cannot be accepted: {other}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied => format!(
                "it does not accept this device's certificate ({alert:?}); is it registered and \
                 active in this account and region?"
            ),
            other => format!("it answered with the alert {other:?}"),
        },
        Some(other) => other.to_string(),
        None if is_closed(error) => {
            return ConnectError::Closed {
                host,
                when: "during the handshake",
            };
        }
        None => error.to_string(),
    };
    ConnectError::Tls { host, detail }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}
