//! One connection: TLS handshake, CONNECT, then publishes in and acknowledgements out.
//!
//! Everything that one read brings is put into the books in one go before its acknowledgements are
//! written in one go: that is what makes the server fast, and an acknowledged message findable.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::acks::{Ack, AckQueue};
use super::books::Received;
use super::faults::{Connections, Faults};
use super::rules::{Breach, OverInFlight, Rules};
use super::wire::{Hello, Inbound, Protocol, Publication, Welcome, WireError};

/// Room made for each read, bytes.
const READ_BYTES: usize = 64 * 1024;
/// Room below which a new read buffer is made, bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
/// How long a client may take for the handshake, and again for its CONNECT.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closing connection may take to say so.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest packet that is read when no rule limits the payload, bytes (MQTT 3.1.1, section 2.2.3).
const PACKET_BYTES_MAX: usize = 268_435_455;
/// Room for topic and packet identifier beside the largest payload, bytes.
const PUBLISH_OVERHEAD_BYTES: usize = 2 + 65_535 + 2;
/// The far future, for timers that are off.
const NEVER: Duration = Duration::from_hours(24 * 365);

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
        Connections::Accept | Connections::RefuseConnack => {}
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
        protocol: Protocol::V4,
    };
    match timeout(GREETING_TIMEOUT, greet(&hub, &mut line)).await {
        Ok(Ok(hello)) => run_session(&hub, line, faults, hello).await,
        Ok(Err(why)) => hub.books.refuse(why),
        Err(_) => hub.books.refuse("no CONNECT came in time".to_owned()),
    }
}

/// The bytes of a connection, both ways.
struct Line {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    out: BytesMut,
    protocol: Protocol,
}

impl Line {
    /// Reads more; `false` at the end of the connection.
    async fn read(&mut self) -> bool {
        if self.inbox.capacity() - self.inbox.len() < READ_BYTES_MIN {
            self.inbox.reserve(READ_BYTES);
        }
        matches!(self.stream.read_buf(&mut self.inbox).await, Ok(bytes) if bytes > 0)
    }

    /// Writes what is in `out`; `false` at the end of the connection.
    async fn write(&mut self) -> bool {
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
async fn greet(hub: &Hub, line: &mut Line) -> Result<Hello, String> {
    let hello = loop {
        match line.protocol.read(&mut line.inbox, PUBLISH_OVERHEAD_BYTES) {
            Ok(Some(Inbound::Connect(hello))) => break hello,
            Ok(Some(_)) | Err(_) => {
                return Err("the first packet is no CONNECT of MQTT 3.1.1".to_owned());
            }
            Ok(None) if line.read().await => {}
            Ok(None) => return Err("closed before CONNECT".to_owned()),
        }
    };
    let refusal = if hub.faults.borrow().connections == Connections::RefuseConnack {
        Some((
            Welcome::ServerUnavailable,
            "told to refuse connections".to_owned(),
        ))
    } else if hub.rules.borrow().client_id_is_common_name
        && common_name(hub, line).as_ref() != Some(&hello.client_id)
    {
        hub.books.breach(Breach::ClientId);
        Some((Welcome::NotAuthorized, Breach::ClientId.to_string()))
    } else {
        None
    };
    let welcome = refusal
        .as_ref()
        .map_or(Welcome::Accepted, |(welcome, _)| *welcome);
    line.protocol.connack(welcome, &mut line.out);
    let written = line.write().await;
    match refusal {
        Some((_, why)) => Err(why),
        None if written => Ok(hello),
        None => Err("closed before CONNACK".to_owned()),
    }
}

fn common_name(hub: &Hub, line: &Line) -> Option<String> {
    let (_, tls) = line.stream.get_ref();
    hub.authority
        .common_name_of(tls.peer_certificates()?.first()?)
}

async fn run_session(hub: &Hub, line: Line, faults: watch::Receiver<Faults>, hello: Hello) {
    let client_id: Arc<str> = hello.client_id.into();
    let one_session = hub.rules.borrow().one_session_per_client_id;
    let place = hub.sessions.enter(Arc::clone(&client_id), one_session);
    hub.books.connect();
    let mut session = Session {
        hub,
        line,
        faults,
        client_id,
        topic: Arc::from(""),
        acks: AckQueue::default(),
        batch: Vec::new(),
        qos2_open: HashSet::new(),
        rate: RateWindow::default(),
    };
    let end = session.run(hello.keep_alive, &place.ended).await;
    // a taken-over session has already been told to the books by the one that came
    let taken_over = place.taken_over.is_cancelled();
    drop(place);
    match end {
        End::Breach(breach) => {
            hub.books.breach(breach);
            // the client may be gone already
            timeout(GOODBYE_TIMEOUT, session.line.stream.shutdown())
                .await
                .ok();
        }
        End::Told if taken_over => hub.books.breach(Breach::TakenOver),
        End::Told | End::Client => {}
    }
}

/// How a session ended.
enum End {
    /// By a broken rule.
    Breach(Breach),
    /// By a fault, a stop or a take-over.
    Told,
    /// By the client or the network.
    Client,
}

struct Session<'a> {
    hub: &'a Hub,
    line: Line,
    faults: watch::Receiver<Faults>,
    client_id: Arc<str>,
    /// The topic of the last publish, shared with the books: most clients use few.
    topic: Arc<str>,
    acks: AckQueue,
    batch: Vec<Received>,
    /// Packet identifiers between PUBREC and PUBREL: a publish with one of these is a repetition.
    qos2_open: HashSet<u16>,
    rate: RateWindow,
}

impl Session<'_> {
    async fn run(&mut self, keep_alive: Duration, ended: &CancellationToken) -> End {
        let began = Instant::now();
        let mut heard = began;
        loop {
            let faults = self.faults.borrow_and_update().clone();
            let frozen = faults.connections == Connections::Freeze;
            let now = Instant::now();
            if !frozen {
                let Line { out, protocol, .. } = &mut self.line;
                self.acks
                    .release(now, &faults, |ack| protocol.ack(ack, out));
                if !self.line.write().await {
                    return End::Client;
                }
            }
            let ack_due = self
                .acks
                .due(&faults)
                .filter(|_| !frozen)
                .unwrap_or(now + NEVER);
            let kick = faults.kick_every.map_or(now + NEVER, |after| began + after);
            let silence = if keep_alive.is_zero() || frozen {
                now + NEVER
            } else {
                heard + keep_alive * 3 / 2
            };
            tokio::select! {
                () = ended.cancelled() => return End::Told,
                () = sleep_until(kick) => return End::Told,
                () = sleep_until(silence) => return End::Breach(Breach::KeepAlive),
                () = sleep_until(ack_due) => {}
                changed = self.faults.changed() => if changed.is_err() { return End::Told },
                alive = self.line.read(), if !frozen => {
                    heard = Instant::now();
                    if !alive {
                        return End::Client;
                    }
                    if let Some(end) = self.take_in(heard, &faults).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Works through everything that was read.
    async fn take_in(&mut self, now: Instant, faults: &Faults) -> Option<End> {
        let rules = Arc::clone(&self.hub.rules.borrow());
        let packet_bytes_max = rules
            .payload_bytes_max
            .map_or(PACKET_BYTES_MAX, |payload| payload + PUBLISH_OVERHEAD_BYTES);
        let end = loop {
            let end = match self
                .line
                .protocol
                .read(&mut self.line.inbox, packet_bytes_max)
            {
                Ok(Some(packet)) => self.packet(packet, now, &rules, faults),
                Ok(None) => break None,
                Err(WireError::TooLarge) => Some(End::Breach(Breach::PayloadTooLarge)),
                Err(WireError::Malformed) => Some(End::Breach(Breach::Malformed)),
            };
            if end.is_some() {
                break end;
            }
        };
        self.hub.books.record(&mut self.batch);
        if end.is_some() {
            let Line { out, protocol, .. } = &mut self.line;
            self.acks.release(now, faults, |ack| protocol.ack(ack, out));
            // the connection ends either way
            self.line.write().await;
        }
        end
    }

    fn packet(
        &mut self,
        packet: Inbound,
        now: Instant,
        rules: &Rules,
        faults: &Faults,
    ) -> Option<End> {
        let Line { out, protocol, .. } = &mut self.line;
        match packet {
            Inbound::Publish(publication) => return self.publish(publication, now, rules, faults),
            Inbound::Pubrel(packet_id) => {
                self.qos2_open.remove(&packet_id);
                protocol.pubcomp(packet_id, out);
            }
            Inbound::Ping if faults.no_pingresp => {}
            Inbound::Ping => protocol.pingresp(out),
            Inbound::Subscribe(..) if rules.refuse_subscribe => {
                return Some(End::Breach(Breach::Subscribe));
            }
            Inbound::Subscribe(packet_id, filters) => {
                protocol.suback_refusing(packet_id, filters, out);
            }
            Inbound::Unsubscribe(packet_id) => protocol.unsuback(packet_id, out),
            Inbound::Disconnect => return Some(End::Client),
            Inbound::Connect(_) | Inbound::ServersOwn => {
                return Some(End::Breach(Breach::Malformed));
            }
        }
        None
    }

    fn publish(
        &mut self,
        publication: Publication,
        now: Instant,
        rules: &Rules,
        faults: &Faults,
    ) -> Option<End> {
        if let Some(breach) = rules.breach(&publication) {
            return Some(End::Breach(breach));
        }
        let nth = self.hub.publishes.fetch_add(1, Ordering::Relaxed) + 1;
        if hits(faults.lose_every_nth_publish, nth)
            || self.rate.exceeded(rules.publish_rate_max, now)
        {
            self.hub.books.lost_publish();
            return None;
        }
        if publication.qos > 0
            && rules
                .in_flight_max
                .is_some_and(|most| self.acks.len() >= most)
        {
            if rules.over_in_flight == OverInFlight::Disconnect {
                return Some(End::Breach(Breach::InFlightExceeded));
            }
            self.hub.books.lost_publish();
            return None;
        }
        let packet_id = publication.packet_id;
        let repeated = publication.qos == 2 && !self.qos2_open.insert(packet_id);
        let ack = match publication.qos {
            0 => None,
            1 => Some(Ack::Puback(packet_id)),
            _ => Some(Ack::Pubrec(packet_id)),
        };
        if !repeated {
            self.write_down(publication, now);
        }
        match ack {
            Some(_) if hits(faults.lose_every_nth_puback, nth) => self.hub.books.lost_puback(),
            Some(ack) => self.acks.push(now, ack),
            None => {}
        }
        None
    }

    fn write_down(&mut self, publication: Publication, now: Instant) {
        if *self.topic != *publication.topic {
            self.topic = publication.topic.into();
        }
        self.batch.push(Received {
            order: 0,
            client_id: Arc::clone(&self.client_id),
            topic: Arc::clone(&self.topic),
            payload: publication.payload,
            qos: publication.qos,
            dup: publication.dup,
            retain: publication.retain,
            at: now,
        });
    }
}

fn hits(every: Option<NonZeroU32>, nth: u64) -> bool {
    every.is_some_and(|every| nth.is_multiple_of(u64::from(every.get())))
}

/// Counts publishes in windows of one second.
#[derive(Default)]
struct RateWindow {
    began: Option<Instant>,
    publishes: u32,
}

impl RateWindow {
    fn exceeded(&mut self, rate_max: Option<u32>, now: Instant) -> bool {
        let Some(rate_max) = rate_max else {
            return false;
        };
        if self
            .began
            .is_none_or(|began| now - began >= Duration::from_secs(1))
        {
            self.began = Some(now);
            self.publishes = 0;
        }
        self.publishes = self.publishes.saturating_add(1);
        self.publishes > rate_max
    }
}
