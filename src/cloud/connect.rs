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
use super::packet::{self, Answer, Greeting, Malformed, MqttVersion, Refusal, Terms};

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
    /// The cloud has our will.
    pub(super) with_will: bool,
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
    #[error("{host} refused the connection: {words}; {ADVICE_BUSY}")]
    Busy { host: String, words: String },
    #[error("{host} does not speak MQTT {version}")]
    Version { host: String, version: MqttVersion },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl ConnectError {
    /// Whether it can be the will in the CONNECT that the cloud does not take.
    pub(super) fn accuses_will(&self) -> bool {
        matches!(
            self,
            ConnectError::ClosedOnConnect { .. } | ConnectError::Refused { .. }
        )
    }
}

const ADVICE_CLOSED: &str = "is the certificate active, does its policy allow iot:Connect \
     for this client id, and is AWS_DATA_ENDPOINT of the right account and region?";

const ADVICE_NOT_AUTHORIZED: &str = "not authorized; is the certificate active, and does its \
     policy allow iot:Connect for this client id?";

const ADVICE_BUSY: &str = "it is busy, or a quota of AWS IoT Core is used up (connections, or attempts \
     a second); it is tried again with growing pauses";

const ADVICE_NAME: &str = "is AWS_DATA_ENDPOINT right, and can this network resolve names?";

const ADVICE_UNREACHABLE: &str =
    "does this network lead to the Internet, and does its firewall let that port through?";

/// Connects once, speaking `version` and beginning with `greeting`.
pub(super) async fn connect(
    endpoint: &Endpoint,
    version: MqttVersion,
    greeting: Greeting<'_>,
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
    let with_will = greeting.will.is_some();
    packet::write_connect(version, &mut buffer, greeting)?;
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
        with_will,
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
            unreachable(format!(
                "its name was not resolved within {after} s; {ADVICE_NAME}"
            ))
        })?
        .map_err(|error| unreachable(format!("its name is not found ({error}); {ADVICE_NAME}")))?;
    let tcp = first_to_answer(addresses.take(ADDRESSES_MAX), TCP_TIMEOUT)
        .await
        .map_err(|detail| unreachable(format!("{detail}; {ADVICE_UNREACHABLE}")))?;
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
        match packet::read(version, &mut received)? {
            None => {}
            Some(Answer::Connected(Ok(terms))) => return Ok((terms, received)),
            Some(Answer::Connected(Err(refusal))) => return Err(refused(host, version, refusal)),
            Some(_) => {
                let reason = "its first packet was not CONNACK; is this an MQTT endpoint?";
                let reason = reason.to_owned();
                return Err(ConnectError::Refused { host, reason });
            }
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

/// What a CONNACK says that refuses.
fn refused(host: String, version: MqttVersion, refusal: Refusal) -> ConnectError {
    let reason = match refusal {
        Refusal::Version => return ConnectError::Version { host, version },
        Refusal::NotAuthorized => ADVICE_NOT_AUTHORIZED.to_owned(),
        Refusal::Busy(words) => return ConnectError::Busy { host, words },
        Refusal::Other(words) => words,
    };
    ConnectError::Refused { host, reason }
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
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "its certificate is for another name; is AWS_DATA_ENDPOINT right, and does nothing else \
                     answer in its place on this network? ({certificate})"
                )
            }
            other => format!("its certificate cannot be accepted: {other}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied => format!(
                "it does not accept this device's certificate ({alert:?}); is it registered and \
                 active in this account and region?"
            ),
            AlertDescription::UnrecognisedName => {
                "it does not know this name; is AWS_DATA_ENDPOINT the data \
                 endpoint of the right account and region?"
                    .to_owned()
            }
            AlertDescription::NoApplicationProtocol => {
                "it does not speak MQTT on this port; is AWS_PORT right?".to_owned()
            }
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
mod tests;
