//! The life of one connection: CONNECT, rounds of reading, handling and writing, and its end.
//!
//! A round handles every complete packet that was read, puts all acknowledgements and deliveries that
//! may leave into one buffer, and then waits for whatever comes first: bytes from the client, room to
//! write, a higher watermark, the session's bell, room in the spool, a deadline, or a stop. Reading goes
//! on while writing waits, so that a client that is busy sending cannot block itself.
//!
//! Invariant: a packet stays in `input` until it was handled. When the spool is full it stays there,
//! and is handled again when there is room.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::acks::Owed;
use super::aliases::Aliases;
use super::deadlines::{Deadlines, Expired};
use super::ending::End;
use super::handshake::{self, Admitted};
use super::inbound::{Client, Handled};
use super::input::Input;
use super::large_packet::LargePacket;
use super::packet::{self, Frame, Incoming, Will};
use super::server::{LocalError, Shared};
use super::wills;
use crate::clock;
use crate::spool::Seq;
use crate::store::Ingress;

/// What is still read from a client whose packet waits for room in the spool. It is not handled; it is
/// how the broker notices that the client has gone.
const READ_AHEAD_BYTES: usize = 4 * 1024;

/// A client that sends a packet slowly is heard each time so much of it has come; of one that drips, only when the packet
/// is there (MQTT-3.1.2-24).
const HEARD_BYTES: usize = 1_000;

/// Serves one client until it leaves, breaks the protocol or the relay stops. Its CONNECT has to be there by
/// `connect_by`. An error means that the spool has failed.
pub(super) async fn run<I, R, W>(
    shared: Arc<Shared<I>>,
    mut reader: R,
    mut writer: W,
    peer: SocketAddr,
    connect_by: Instant,
) -> Result<(), LocalError>
where
    I: Ingress,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let admission = handshake::admit(&shared, (&mut reader, peer), &mut input, &mut out);
    let admission = tokio::select! {
        () = shared.shutdown.cancelled() => Err(End::Stopped),
        admission = timeout_at(connect_by, admission) => {
            admission.unwrap_or(Err(End::ConnectTimeout))
        }
    };
    let admitted = match admission {
        Ok(admitted) => admitted,
        Err(end) => {
            end.count(&shared.counters);
            end.log_before_connect(peer);
            if end.can_flush() {
                close(&mut writer, &mut out, &shared).await;
            }
            return Ok(());
        }
    };
    let awaits = admitted.awaits;
    let (mut connection, will) = Connection::new(admitted, &shared, &input, out, peer);
    drop(input);
    let (client_id, peer) = (connection.client.id.clone(), connection.client.peer);
    tracing::debug!(client_id, %peer, "client connected");
    let end = {
        let _present = shared.counters.clients.add(&client_id, peer);
        let kept = &mut connection.client.kept;
        let is_there = |kept: &Seq| awaits.is_none_or(|number| number < *kept);
        // The broker has the other end, and lives longer.
        if kept.wait_for(is_there).await.is_err() {
            End::Stopped
        } else {
            connection.rounds(&mut reader, &mut writer).await
        }
    };
    end.count(&shared.counters);
    end.log(&client_id, peer);
    let Client {
        version,
        session,
        link,
        mut out,
        ..
    } = connection.client;
    let will = will.filter(|_| end.is_abnormal());
    let will = (shared.broker()).disconnect(session, &link, will, Instant::now());
    if end.can_flush() {
        if let Some(reason) = end.reason()
            && packet::put_disconnect(&mut out, version, reason)
        {
            shared.counters.packets_sent.add(1);
        }
        close(&mut writer, &mut out, &shared).await;
    }
    match (end, will) {
        (End::SpoolFailed, _) => Err(LocalError::SpoolFailed),
        (_, Some(will)) => wills::publish(&shared, &client_id, &will).await,
        _ => Ok(()),
    }
}

/// How far sending is.
#[derive(Default)]
struct Sending {
    /// Bytes written and not counted yet.
    written: usize,
    /// Whether the stream (of TLS, say) may hold back bytes that were written to it.
    unflushed: bool,
}

type Space = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the rounds of one connection work on, besides the two halves of the stream.
struct Connection<I> {
    client: Client<I>,
    input: Input,
    /// Bytes that are missing of the packet at the front of `input`, at least; 0 if all of it is there.
    missing: usize,
    /// How much has come since the client was last heard.
    unheard_bytes: usize,
    deadlines: Deadlines,
    /// While the packet at the front of `input` waits for the spool: its size, and what it waits for.
    waiting: Option<(usize, Space)>,
    sending: Sending,
    /// Whether it is not read from for now.
    paused: bool,
    stopping: bool,
}

impl<I: Ingress> Connection<I> {
    fn new(
        admitted: Admitted,
        shared: &Arc<Shared<I>>,
        input: &[u8],
        out: BytesMut,
        peer: SocketAddr,
    ) -> (Self, Option<Will>) {
        let deadlines = Deadlines::new(admitted.keep_alive_s, &shared.limits, Instant::now());
        let client = Client {
            shared: Arc::clone(shared),
            version: admitted.version,
            packet_bytes_max: admitted.packet_bytes_max,
            ends_with_connection: admitted.ends_with_connection,
            id: admitted.client_id,
            rights: admitted.rights,
            peer,
            session: admitted.session,
            link: admitted.link,
            safe: shared.ingress.safe(),
            kept: shared.broker().kept(),
            is_held_up: false,
            owed: Owed::default(),
            receiving: 0,
            aliases: Aliases::default(),
            out,
            large_packet: LargePacket::new(&shared.large_packets),
            large_waits: false,
            fed_others: false,
        };
        let connection = Connection {
            client,
            input: Input::new(input, shared.limits.buffer_bytes_max),
            missing: 0,
            unheard_bytes: 0,
            deadlines,
            waiting: None,
            sending: Sending::default(),
            paused: false,
            stopping: false,
        };
        (connection, admitted.will)
    }

    async fn rounds<R, W>(&mut self, reader: &mut R, writer: &mut W) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let shutdown = self.client.shared.shutdown.clone();
        let mut shutdown = std::pin::pin!(shutdown.cancelled());
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            if let Err(end) = self.handle_and_fill().await {
                return end;
            }
            if self.stopping && self.client.owed.is_empty() && self.client.out.is_empty() {
                return End::Stopped;
            }
            if std::mem::take(&mut self.client.fed_others) {
                // Or a fast publisher would fill the queues of subscribers that had no chance to run.
                tokio::task::yield_now().await;
            }
            let reading = self.prepare_to_wait();
            let due = self.deadlines.next();
            if let Some((at, _)) = due {
                arm(timer.as_mut(), at);
            }
            let waiting = self.waiting.as_mut();
            let client = &mut self.client;
            tokio::select! {
                biased;
                () = &mut shutdown, if !self.stopping => self.stop(),
                sent = send(writer, &mut client.out, &mut self.sending),
                    if !client.out.is_empty() || self.sending.unflushed => {
                    if let Err(error) = sent { return End::Io(error) }
                    self.wrote();
                }
                changed = client.safe.changed(), if !client.owed.is_empty() => {
                    if changed.is_err() { return End::SpoolFailed }
                }
                changed = client.kept.changed(), if !client.owed.is_empty() || client.is_held_up => {
                    // The broker has the other end, and lives longer.
                    if changed.is_err() { return End::Stopped }
                }
                () = room(waiting) => self.waiting = None,
                () = client.large_packet.turn() => {}
                read = reader.read_buf(self.input.buffer()), if reading => match read {
                    Ok(0) => return End::Closed,
                    Ok(count) => self.was_read(count),
                    Err(error) => return End::Io(error),
                },
                () = client.link.rung() => {}
                () = &mut timer, if due.is_some() => {
                    if let Some(end) = self.expired() { return end }
                }
            }
        }
    }

    /// Handles what was read, and puts what may leave into the client's `out`.
    async fn handle_and_fill(&mut self) -> Result<(), End> {
        if self.client.link.is_taken_over() {
            return Err(End::TakenOver);
        }
        let handled = if self.stopping {
            Ok(())
        } else {
            self.handle_input().await
        };
        // Also when a packet ended the connection: those before it are answered.
        self.client.acknowledge();
        handled?;
        if self.stopping {
            return Ok(());
        }
        self.client.deliver()
    }

    /// Handles every complete packet, unless something holds the client up.
    async fn handle_input(&mut self) -> Result<(), End> {
        if self.input.bytes().is_empty() {
            return Ok(());
        }
        let packet_bytes_max = self.client.shared.limits.packet_bytes_max;
        let received = clock::now();
        let mut handled_some = false;
        while self.waiting.is_none() && !self.client.is_congested() {
            self.missing = 0;
            let size = match packet::frame(self.input.bytes(), packet_bytes_max)? {
                Frame::Complete(size) => size,
                Frame::Missing(_) if self.input.bytes().is_empty() => {
                    self.deadlines.complete();
                    break;
                }
                Frame::Missing(missing) => {
                    self.missing = missing;
                    self.deadlines.incomplete(handled_some, Instant::now());
                    break;
                }
            };
            let bytes = self.input.bytes().get(..size).unwrap_or_default();
            let packet = packet::parse(self.client.version, bytes)?;
            let subscribes = matches!(packet, Incoming::Subscribe { .. });
            let handled = self.client.handle(packet, received);
            if !matches!(handled, Ok(Handled::SpoolFull)) {
                self.client.shared.counters.packets_received.add(1);
            }
            match handled? {
                Handled::Done => {
                    self.input.handled(size);
                    handled_some = true;
                    if subscribes {
                        // It may have looked at every retained message, and many may come at once.
                        tokio::task::yield_now().await;
                        if self.client.link.is_taken_over() {
                            return Err(End::TakenOver);
                        }
                    }
                }
                Handled::SpoolFull => {
                    let ingress = self.client.shared.ingress.clone();
                    let space = Box::pin(async move { ingress.space().await });
                    self.waiting = Some((size, space));
                }
            }
        }
        if handled_some {
            self.heard();
        }
        Ok(())
    }

    /// Decides whether to read, and makes room for it.
    fn prepare_to_wait(&mut self) -> bool {
        let now = Instant::now();
        if !self.client.out.is_empty() || self.sending.unflushed {
            self.deadlines.must_write(now);
        }
        let held_up = self.waiting.is_some() || self.client.is_congested();
        let missing = match &self.waiting {
            _ if self.stopping => None,
            Some((size, _)) => {
                let read_ahead = self.input.bytes().len() - size;
                (READ_AHEAD_BYTES.checked_sub(read_ahead)).filter(|missing| *missing > 0)
            }
            None => (!held_up).then_some(self.missing),
        };
        let reading = missing.is_some_and(|missing| self.make_room(missing));
        let paused = held_up || !reading;
        self.deadlines.listening(!paused, now);
        if !std::mem::replace(&mut self.paused, paused) && paused && !self.stopping {
            self.client.shared.counters.reads_paused.add(1);
        }
        let has_large = self.input.is_large()
            || self.input.is_large_with(self.missing)
            || self.client.is_out_large();
        if !has_large && !self.client.large_waits {
            self.client.large_packet.leave();
        }
        reading
    }

    /// Makes room for `missing` bytes, if that is no more than this connection may have now.
    fn make_room(&mut self, missing: usize) -> bool {
        self.input.shrink();
        if self.input.is_large_with(missing) {
            let has_room = match self.waiting {
                Some(_) => self.input.is_large(),
                None => self.client.large_packet.has_room(),
            };
            if !has_room {
                return false;
            }
        }
        self.input.grow(missing);
        true
    }

    fn was_read(&mut self, count: usize) {
        self.client.shared.counters.bytes_received.add(count as u64);
        self.unheard_bytes += count;
        if self.unheard_bytes >= HEARD_BYTES {
            self.heard();
        }
        self.input.was_read(count);
    }

    /// The client has sent something that counts.
    fn heard(&mut self) {
        self.unheard_bytes = 0;
        if self.waiting.is_none() {
            self.deadlines.heard(Instant::now());
        }
    }

    fn wrote(&mut self) {
        let count = std::mem::take(&mut self.sending.written);
        self.client.shared.counters.bytes_sent.add(count as u64);
        let out = &mut self.client.out;
        self.deadlines.wrote(!out.is_empty(), Instant::now());
        if out.is_empty() && self.client.is_out_large() {
            self.client.out = BytesMut::new();
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.waiting = None;
        let grace = self.client.shared.limits.shutdown_grace;
        self.deadlines.stop_at(Instant::now() + grace);
    }

    fn expired(&self) -> Option<End> {
        let (at, expired) = self.deadlines.next()?;
        if at > Instant::now() {
            return None;
        }
        Some(match expired {
            Expired::KeepAlive => End::KeepAlive,
            Expired::Packet => End::PacketTimeout,
            Expired::Write => End::WriteTimeout,
            Expired::Stop => End::Stopped,
        })
    }
}

/// Writes what the stream takes, and flushes it when that was all. May be dropped at any time.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    sending: &mut Sending,
) -> io::Result<()> {
    if !out.is_empty() {
        let written = writer.write_buf(out).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        sending.written += written;
        sending.unflushed = true;
    }
    if out.is_empty() {
        writer.flush().await?;
        sending.unflushed = false;
    }
    Ok(())
}

/// Resolves when the spool may have room again, if that is waited for.
async fn room(waiting: Option<&mut (usize, Space)>) {
    match waiting {
        Some((_, space)) => space.await,
        None => std::future::pending().await,
    }
}

/// Moves the timer only if it would ring too late, or has rung: deadlines move with every packet.
fn arm(mut timer: Pin<&mut Sleep>, at: Instant) {
    if timer.is_elapsed() || at < timer.deadline() {
        timer.as_mut().reset(at);
    }
}

/// Sends what is left and closes, as far as the client lets it.
async fn close<I>(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut, shared: &Shared<I>) {
    let bytes = out.len() as u64;
    let closing = async {
        writer.write_all_buf(out).await?;
        writer.shutdown().await
    };
    match timeout(shared.limits.close_timeout, closing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the client closed first"),
        Err(_elapsed) => tracing::debug!("the client did not take the last bytes"),
    }
    let written = bytes.saturating_sub(out.len() as u64);
    shared.counters.bytes_sent.add(written);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_takes_nothing_more_is_at_its_end() {
        let mut room = [0; 3];
        let mut writer = io::Cursor::new(&mut room[..]);
        let mut out = BytesMut::from(&b"PUBACK"[..]);
        let mut sending = Sending::default();
        let first = send(&mut writer, &mut out, &mut sending).await;
        first.expect("it takes three bytes");
        let then = send(&mut writer, &mut out, &mut sending).await;
        assert_eq!(then.unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert_eq!((sending.written, &out[..]), (3, &b"ACK"[..]));
    }
}
