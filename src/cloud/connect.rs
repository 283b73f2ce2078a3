//! From a host name to an accepted MQTT connection: DNS, TCP, TLS, CONNECT, CONNACK.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Endpoint;
use super::packet::{self, Answer, Malformed, MqttVersion, Refusal, Terms};

/// The name must be resolved within this time.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// One address must answer within this time; then the next one is tried. Packets to an address that a broken
/// network swallows (often IPv6) must not keep the others from being tried.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// At most so many addresses of one name are tried in a row; AWS IoT Core's names have about eight.
const ADDRESSES_MAX: usize = 16;
/// TLS must be done within this time; RSA on a Pi Zero takes a part of a second.
const TLS_TIMEOUT: Duration = Duration::from_secs(15);
/// CONNACK must come within this time.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(10);
/// The keep alive we announce, in seconds. AWS IoT Core takes 30 to 1,200, VPC endpoints at most 230.
pub(super) const KEEP_ALIVE_S: u16 = 60;

/// A connection that the cloud has accepted.
#[derive(Debug)]
pub(super) struct Connection<S = TlsStream<TcpStream>> {
    pub(super) stream: S,
    pub(super) version: MqttVersion,
    pub(super) terms: Terms,
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
    #[error("the certificate of {host} is not valid yet at this device's time")]
    ClockBehind { host: String },
    #[error("TLS with {host} failed: {detail}")]
    Tls { host: String, detail: String },
    #[error("{host} closed the connection {when}: {ADVICE_CLOSED}")]
    Closed { host: String, when: &'static str },
    #[error("{host} closed the connection instead of accepting it: {ADVICE_CLOSED}")]
    ClosedOnConnect { host: String },
    #[error("{host} gave no answer {when} within {} s", after.as_secs())]
    Silent {
        host: String,
        when: &'static str,
        after: Duration,
    },
    #[error("{host} refused the connection: {reason}")]
    Refused { host: String, reason: String },
    #[error("{host} does not speak MQTT {version}")]
    Version { host: String, version: MqttVersion },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

const ADVICE_CLOSED: &str = "is the certificate active, does its policy allow iot:Connect \
     for this client id, and is AWS_DATA_ENDPOINT of the right account and region?";

const ADVICE_NOT_AUTHORIZED: &str = "not authorized; is the certificate active, and does its \
     policy allow iot:Connect for this client id?";

/// Connects once, speaking `version`.
pub(super) async fn connect(
    endpoint: &Endpoint,
    version: MqttVersion,
) -> Result<Connection, ConnectError> {
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
    packet::write_connect(version, &mut buffer, &endpoint.client_id, KEEP_ALIVE_S)?;
    within(CONNACK_TIMEOUT, host(), "to CONNECT", async {
        stream
            .write_all(&buffer)
            .await
            .map_err(|error| tls_error(host(), &error))?;
        stream
            .flush()
            .await
            .map_err(|error| tls_error(host(), &error))?;
        await_connack(&mut stream, version, host()).await
    })
    .await
    .map(|(terms, received)| Connection {
        stream,
        version,
        terms,
        received,
    })
    .map_err(|error| match error {
        ConnectError::Closed { host, .. } => ConnectError::ClosedOnConnect { host },
        other => other,
    })
}

async fn reach(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let unreachable = |detail: String| ConnectError::Unreachable {
        host: endpoint.host.clone(),
        port: endpoint.port,
        detail,
    };
    let lookup = lookup_host((endpoint.host.as_str(), endpoint.port));
    let addresses = timeout(DNS_TIMEOUT, lookup)
        .await
        .map_err(|_| {
            let after = DNS_TIMEOUT.as_secs();
            unreachable(format!("its name was not resolved within {after} s"))
        })?
        .map_err(|error| unreachable(error.to_string()))?;
    let tcp = first_to_answer(addresses.take(ADDRESSES_MAX), TCP_TIMEOUT)
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true)
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(tcp)
}

/// Connects to the first of `addresses` that answers within `patience`. The error says why the last did not.
async fn first_to_answer(
    addresses: impl Iterator<Item = SocketAddr>,
    patience: Duration,
) -> Result<TcpStream, String> {
    let mut failure = "its name has no address".to_owned();
    for address in addresses {
        failure = match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {} s", patience.as_secs()),
        };
    }
    Err(failure)
}

/// Reads until CONNACK is complete; returns its terms and what came behind it.
async fn await_connack(
    stream: &mut TlsStream<TcpStream>,
    version: MqttVersion,
    host: String,
) -> Result<(Terms, BytesMut), ConnectError> {
    let mut received = BytesMut::with_capacity(1024);
    loop {
        let reason = match packet::read(version, &mut received)? {
            None => None,
            Some(Answer::Connected(Ok(terms))) => return Ok((terms, received)),
            Some(Answer::Connected(Err(Refusal::Version))) => {
                return Err(ConnectError::Version { host, version });
            }
            Some(Answer::Connected(Err(Refusal::NotAuthorized))) => {
                Some(ADVICE_NOT_AUTHORIZED.to_owned())
            }
            Some(Answer::Connected(Err(Refusal::Other(reason)))) => Some(reason),
            Some(_) => {
                Some("its first packet was not CONNACK; is this an MQTT endpoint?".to_owned())
            }
        };
        if let Some(reason) = reason {
            return Err(ConnectError::Refused { host, reason });
        }
        let read = stream
            .read_buf(&mut received)
            .await
            .map_err(|error| tls_error(host.clone(), &error))?;
        if read == 0 {
            return Err(ConnectError::ClosedOnConnect { host });
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
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                return ConnectError::ClockBehind { host };
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                "its certificate has expired by this device's time; is the clock right? ({certificate})"
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// Long enough for the loopback interface, short enough for a test.
    const PATIENCE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn an_address_that_swallows_packets_does_not_keep_the_next_from_being_tried() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(any).unwrap();
        let swallowing = socket.listen(1).unwrap();
        let silent = swallowing.local_addr().unwrap();
        // Nobody accepts: once its queue is full, the system drops whoever knocks.
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(PATIENCE, TcpStream::connect(silent)).await {
            queued.push(stream.unwrap());
        }
        let answering = TcpListener::bind(any).await.unwrap();
        let good = answering.local_addr().unwrap();

        let stream = first_to_answer([silent, good].into_iter(), PATIENCE).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), good);
        let failure = first_to_answer([silent].into_iter(), PATIENCE).await;
        assert!(failure.unwrap_err().starts_with("no answer"));
    }
}
