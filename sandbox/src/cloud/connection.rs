//! One connection: TLS handshake, CONNECT and its answer; the rest is a [`session`](super::session).

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Hub;
use super::breach::{Breach, reason};
use super::faults::{Connections, Faults};
use super::rules::{RefuseV5, Rules, session_expiry};
use super::session;
use super::wire::{Hello, MqttVersion, Welcome, read_connect};

/// Room made for each read, bytes.
const READ_BYTES: usize = 64 * 1024;
/// Room below which a new read buffer is made, bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
/// How long a client may take for the handshake, and again for its CONNECT.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest CONNECT that is read, bytes: room for a client id and a will.
const CONNECT_BYTES_MAX: usize = 64 * 1024;
/// MQTT 3.1.1's return code for a protocol level that the server does not know (section 3.2.2.3).
const UNACCEPTABLE_LEVEL: u8 = 1;

/// Serves one TCP connection to its end.
pub(super) async fn serve(hub: Arc<Hub>, tcp: TcpStream, acceptor: TlsAcceptor) {
    hub.books.tcp_connection();
    // without it only latency suffers
    tcp.set_nodelay(true).ok();
    let mut faults = hub.faults.subscribe();
    let connections = faults.borrow_and_update().connections;
    match connections {
        Connections::Close => return hub.books.refuse("told to close connections".to_owned()),
        Connections::Freeze => {
            let thawed = |faults: &Faults| faults.connections != Connections::Freeze;
            if faults.wait_for(thawed).await.is_err() {
                return;
            }
        }
        Connections::Accept | Connections::RefuseConnack | Connections::RefuseWith(_) => {}
    }
    let stream = match timeout(GREETING_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return hub.books.refuse(format!("TLS handshake failed: {error}")),
        Err(_) => {
            return hub
                .books
                .refuse("the TLS handshake took too long".to_owned());
        }
    };
    let mut line = Line {
        stream,
        inbox: BytesMut::with_capacity(READ_BYTES),
        out: BytesMut::new(),
        version: MqttVersion::V3_1_1,
    };
    match timeout(GREETING_TIMEOUT, greet(&hub, &mut line)).await {
        Ok(Ok((hello, bell))) => session::run(&hub, line, faults, hello, bell).await,
        Ok(Err(why)) => hub.books.refuse(why),
        Err(_) => hub.books.refuse("no CONNECT came in time".to_owned()),
    }
}

/// The bytes of a connection, both ways.
pub(super) struct Line {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) inbox: BytesMut,
    pub(super) out: BytesMut,
    /// Known from CONNECT on.
    pub(super) version: MqttVersion,
}

impl Line {
    /// Reads more and says how much, in bytes; `None` at the end of the connection.
    pub(super) async fn read(&mut self) -> Option<usize> {
        if self.inbox.capacity() - self.inbox.len() < READ_BYTES_MIN {
            self.inbox.reserve(READ_BYTES);
        }
        let read = self.stream.read_buf(&mut self.inbox).await;
        read.ok().filter(|bytes| *bytes > 0)
    }

    /// Writes what is in `out`; `false` at the end of the connection.
    pub(super) async fn write(&mut self) -> bool {
        if self.out.is_empty() {
            return true;
        }
        let written =
            self.stream.write_all(&self.out).await.is_ok() && self.stream.flush().await.is_ok();
        self.out.clear();
        written
    }
}

/// Waits for CONNECT and answers it; the error says why it was refused.
async fn greet(hub: &Hub, line: &mut Line) -> Result<(Hello, Arc<Notify>), String> {
    let hello = loop {
        match read_connect(&mut line.inbox, CONNECT_BYTES_MAX) {
            Ok(Some((version, hello))) => {
                line.version = version;
                break hello;
            }
            Err(_) => {
                return Err("the first packet is no CONNECT of MQTT 3.1.1 or 5".to_owned());
            }
            Ok(None) if line.read().await.is_some() => {}
            Ok(None) => return Err("closed before CONNECT".to_owned()),
        }
    };
    hub.books.connect_request(&hello.client_id, Instant::now());
    let rules = Arc::clone(&hub.rules.borrow());
    if let Some((welcome, why)) = refusal(hub, line, &rules, &hello) {
        if let Some((version, welcome)) = welcome {
            version.connack(welcome, &mut line.out);
            // it is refused either way
            line.write().await;
        }
        return Err(why);
    }
    if hub.faults.borrow().lose_sessions {
        hub.sessions.forget();
    }
    let expiry = session_expiry(&hello);
    let sessions = &hub.sessions;
    let session_present = sessions.resume(&hello.client_id, hello.clean_start, expiry);
    let bell = hub.mailboxes.open(&hello.client_id, session_present);
    let welcome = Welcome::Accepted {
        session_present,
        offer: rules.offer(&hello),
    };
    line.version.connack(welcome, &mut line.out);
    if line.write().await {
        Ok((hello, bell))
    } else {
        Err("closed before CONNACK".to_owned())
    }
}

/// A CONNACK and the version it is written in; `None` closes without one.
type Refusal = Option<(MqttVersion, Welcome)>;

/// How and why this CONNECT is refused, if it is.
fn refusal(hub: &Hub, line: &Line, rules: &Rules, hello: &Hello) -> Option<(Refusal, String)> {
    let version = line.version;
    let told = || "told to refuse connections".to_owned();
    match hub.faults.borrow().connections {
        Connections::RefuseConnack => {
            return Some((Some((version, Welcome::ServerUnavailable)), told()));
        }
        Connections::RefuseWith(code) => {
            return Some((Some((version, Welcome::Code(code))), told()));
        }
        Connections::Accept | Connections::Close | Connections::Freeze => {}
    }
    if let Some(how) = rules.refuse_v5.filter(|_| version == MqttVersion::V5) {
        let refusal = match how {
            RefuseV5::Connack => Some((version, Welcome::Code(reason::UNSUPPORTED_VERSION))),
            RefuseV5::OldConnack => Some((MqttVersion::V3_1_1, Welcome::Code(UNACCEPTABLE_LEVEL))),
            RefuseV5::Close => None,
        };
        return Some((refusal, "MQTT 5 is refused".to_owned()));
    }
    if rules.client_id_is_common_name && common_name(hub, line).as_ref() != Some(&hello.client_id) {
        hub.books.breach(Breach::ClientId);
        let refusal = Some((version, Welcome::NotAuthorized));
        return Some((refusal, Breach::ClientId.to_string()));
    }
    None
}

fn common_name(hub: &Hub, line: &Line) -> Option<String> {
    let (_, tls) = line.stream.get_ref();
    hub.authority
        .common_name_of(tls.peer_certificates()?.first()?)
}
