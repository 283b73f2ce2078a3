//! One connection's life: publishes go out as the window allows, acknowledgements settle them.
//!
//! One task reads and writes. It waits for whichever comes first: an answer, room in the socket, a message to
//! send, the alarm or the end. A connection ends when the cloud closes it, says nonsense, or stops
//! acknowledging; then everything unsettled is taken from the spool again by the next one.

mod aside;
mod farewell;
mod lost;
mod packs;
mod post;
mod refused;
mod sending;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub(super) use self::aside::Aside;
pub(super) use self::lost::LostReason;
use self::post::Post;
use self::refused::AHEAD_OF_HELD_MAX;
use self::sending::Outgoing;
use super::Source;
use super::connect::{Connection, KEEP_ALIVE_S};
use super::denials::Denials;
use super::drain::{Drain, News};
use super::held::{Held, Troubles};
use super::pacing::{Pacing, Quota};
use super::packet::{self, Answer, MqttVersion, Rejection};
use super::packing::{Packer, Packing, Savings};
use super::suspicion::Suspicion;
use super::window::{Acknowledged, FIRST_ERRAND_PACKET_ID, IN_FLIGHT_MAX, Window};
use crate::routes::Routes;
use crate::spool::ledger::Outcome;
use crate::spool::{Delivery, Seq};
use crate::store::Store;

/// While PINGRESP is due, the cloud must be heard from within this time, and the time that what is in flight
/// before the PINGREQ needs on a slow link.
const PINGRESP_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is taken from the spool at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Room made for each read of answers, in bytes: a thousand acknowledgements.
const ANSWERS_BYTES: usize = 4 * 1024;
/// Buffers that grew beyond this are given back when they are empty, in bytes.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// No more is encoded while this much waits for the socket, in bytes.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Nothing is read while this much waits for the socket, in bytes: a cloud that does not read our acknowledgements gets no
/// more of them.
const UNREAD_BYTES_MAX: usize = 4 * UNSENT_BYTES_MAX;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// We were told to stop.
    Shutdown,
    /// It was lost.
    Lost(Lost),
}

/// The end of a connection that was lost.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) reason: LostReason,
    /// Whether the cloud had accepted at least one message.
    pub(super) progress: bool,
    /// Whether this end has proven of a message that it ends connections: it will not do so again.
    pub(super) convicted: bool,
}

type NextMessages = Pin<Box<dyn Future<Output = io::Result<Vec<Delivery>>> + Send>>;

/// What outlives a connection.
#[derive(Debug)]
pub(super) struct Session {
    store: Store,
    routes: Arc<Routes>,
    quota: Quota,
    pacing: Pacing,
    drain: Drain,
    /// The last refusal that was told, and of which message. Further ones of the same kind are not, until it is
    /// accepted.
    refusal_told: Option<(Rejection, Seq)>,
    /// Whether it was told that nothing is accepted, since something was.
    outage_told: bool,
    denials: Denials,
    /// [`AHEAD_OF_HELD_MAX`], but in tests.
    ahead_of_held_max: Seq,
    suspicion: Suspicion,
    troubles: Troubles,
    post: Post,
    packing: Packing,
    savings: Savings,
    /// Messages up to this number are not packed: a pack of theirs was refused.
    alone_through: Seq,
    /// The highest number ever sent: it and everything before it is repeated with DUP set.
    sent_through: Seq,
    pub(super) aside: Aside,
}

impl Session {
    /// `denied_hold` is how long a topic may be denied.
    pub(super) fn new(source: Source, quota: Quota, denied_hold: Duration, aside: Aside) -> Self {
        Session {
            store: source.store,
            routes: source.routes,
            quota,
            pacing: Pacing::new(quota),
            drain: Drain::default(),
            refusal_told: None,
            outage_told: false,
            denials: Denials::new(denied_hold),
            ahead_of_held_max: AHEAD_OF_HELD_MAX,
            suspicion: Suspicion::default(),
            troubles: Troubles::default(),
            post: Post::new(source.dead_letters),
            packing: Packing::default(),
            savings: Savings::default(),
            alone_through: 0,
            sent_through: 0,
            aside,
        }
    }

    /// Drains the spool through `connection` until it is lost or `shutdown`.
    pub(super) async fn run<S: AsyncRead + AsyncWrite>(
        &mut self,
        connection: Connection<S>,
        shutdown: &CancellationToken,
    ) -> Ended {
        self.store.rewind();
        (self.aside.errands).begin(connection.with_will, Instant::now());
        self.aside.forget_owed();
        let terms = connection.terms;
        let (reader, writer) = tokio::io::split(connection.stream);
        let packing = self.packing;
        let mut link = Link {
            session: self,
            reader,
            writer,
            received: connection.received,
            unsent: BytesMut::new(),
            flushed: true,
            version: connection.version,
            packet_bytes_max: terms.packet_bytes_max,
            ping_after: ping_after(terms.keep_alive_s.unwrap_or(KEEP_ALIVE_S)),
            window: Window::new(usize::from(terms.receive_max)),
            held: Held::default(),
            passed: None,
            taken_through: 0,
            return_at: None,
            returning: false,
            returned: None,
            pending: VecDeque::new(),
            packer: packs::packer(packing, terms.packet_bytes_max),
            paced_until: None,
            acknowledged: Vec::new(),
            progress: false,
            connected: Instant::now(),
            last_sent: Instant::now(),
            last_heard: Instant::now(),
            ping_sent: None,
        };
        link.session.store.set_linked(true);
        let ended = link.run(shutdown).await;
        let ended = ended.map_err(|reason| link.explain(reason));
        link.session.store.set_linked(false);
        link.session.pacing.connection_ended(Instant::now());
        let convicted = ended.as_ref().is_err_and(|reason| link.suspect(reason));
        link.forget_held();
        link.finish_posting().await;
        match ended {
            Ok(()) => Ended::Shutdown,
            Err(reason) => Ended::Lost(Lost {
                reason,
                progress: link.progress,
                convicted,
            }),
        }
    }
}

impl Session {
    /// Says once that the quotas make a backlog wait, and once that it is drained.
    fn tell_of_backlog(&mut self) {
        let spooled = self.store.ledger().spooled;
        let in_flight_max = u64::try_from(IN_FLIGHT_MAX).unwrap_or(u64::MAX);
        match self.drain.look(spooled, in_flight_max, self.quota) {
            Some(News::Draining { messages, time }) => tracing::info!(
                "{messages} messages wait; at {} they take about {} s",
                self.quota,
                time.as_secs()
            ),
            Some(News::Drained) => tracing::info!("the backlog is drained"),
            None => {}
        }
    }
}

/// One connection.
struct Link<'s, S> {
    session: &'s mut Session,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    received: BytesMut,
    unsent: BytesMut,
    /// Whether the TLS layer has passed on all it was given.
    flushed: bool,
    version: MqttVersion,
    /// The largest packet the cloud takes, in bytes.
    packet_bytes_max: Option<u32>,
    /// A PINGREQ is sent after this much silence of ours.
    ping_after: Duration,
    window: Window<Outgoing>,
    /// Not accepted, to be sent again.
    held: Held<Outgoing>,
    /// The oldest message that was left in the spool for later.
    passed: Option<Seq>,
    /// The highest number taken from the spool.
    taken_through: Seq,
    /// When to go back to it.
    return_at: Option<Instant>,
    /// Nothing new is sent, so that it is possible.
    returning: bool,
    /// When it was done last.
    returned: Option<Instant>,
    /// Taken from the spool, not yet sent; in front of them, those whose next try is due, and those that met a quota.
    pending: VecDeque<Outgoing>,
    /// Taken from the spool, waiting for others of their topic.
    packer: Packer<Delivery>,
    /// Before this moment the quotas let nothing more go.
    paced_until: Option<Instant>,
    /// Scratch: accepted by the cloud, to be settled together.
    acknowledged: Vec<Seq>,
    progress: bool,
    connected: Instant,
    last_sent: Instant,
    last_heard: Instant,
    ping_sent: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LostReason> {
        // Kept across turns: a call that is dropped takes messages with it.
        let mut next: Option<NextMessages> = None;
        let mut cancelled = std::pin::pin!(shutdown.cancelled());
        let mut alarm = Box::pin(sleep_until(self.deadline(Instant::now())));
        self.take_answers()?;
        loop {
            let now = Instant::now();
            if self.go_back(now) {
                next = None;
            }
            self.run_errand(now)?;
            if !self.session.aside.errands.have_right_of_way(now) {
                self.send_pending(now);
            }
            self.session.post.start(now);
            if next.is_none() && self.wants_more(now) {
                let store = self.session.store.clone();
                next = Some(Box::pin(async move {
                    store.next(IN_FLIGHT_MAX, READ_BYTES).await
                }));
            }
            let deadline = self.deadline(now);
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            self.received.reserve(ANSWERS_BYTES);
            tokio::select! {
                biased;
                () = &mut cancelled => return self.farewell().await,
                read = self.reader.read_buf(&mut self.received),
                    if self.unsent.len() < UNREAD_BYTES_MAX && !self.session.aside.is_congested() => {
                    self.answered(read)?;
                }
                () = self.session.aside.kept() => self.acknowledge_messages(),
                sent = send(&mut self.writer, &mut self.unsent, &mut self.flushed),
                    if !self.flushed || !self.unsent.is_empty() => sent.map_err(LostReason::from)?,
                messages = ready(&mut next), if next.is_some() => {
                    next = None;
                    let messages = messages.map_err(LostReason::Spool)?;
                    self.taken(messages);
                }
                written = self.session.post.written(), if self.session.post.is_writing() => {
                    self.posted(written);
                }
                () = alarm.as_mut() => {
                    let now = Instant::now();
                    self.on_alarm(now)?;
                    alarm.as_mut().reset(self.deadline(now));
                }
            }
        }
    }

    /// Handles the outcome of a read.
    fn answered(&mut self, read: io::Result<usize>) -> Result<(), LostReason> {
        if read.map_err(LostReason::from)? == 0 {
            return Err(LostReason::Closed);
        }
        self.last_heard = Instant::now();
        self.take_answers()
    }

    /// Handles every whole packet that was received.
    fn take_answers(&mut self) -> Result<(), LostReason> {
        let now = Instant::now();
        let mut result = Ok(());
        while result.is_ok() {
            match packet::read(self.version, &mut self.received) {
                Ok(None) => break,
                Ok(Some(answer)) => result = self.take(answer, now),
                Err(malformed) => result = Err(malformed.into()),
            }
        }
        if !self.acknowledged.is_empty() {
            self.progress = true;
            self.session
                .store
                .settle(&self.acknowledged, Outcome::Delivered);
            self.acknowledged.clear();
            self.session.tell_of_backlog();
        }
        result
    }

    /// Handles one packet.
    fn take(&mut self, answer: Answer, now: Instant) -> Result<(), LostReason> {
        let (packet_id, rejection) = match answer {
            Answer::Acknowledged(packet_id) => (packet_id, None),
            Answer::Rejected(packet_id, rejection) => (packet_id, Some(rejection)),
            Answer::Subscribed(packet_id @ FIRST_ERRAND_PACKET_ID.., refusals) => {
                (self.session.aside.errands).answered(packet_id, &refusals, now);
                return Ok(());
            }
            Answer::Subscribed(..) => return Err(LostReason::Unexpected("SUBACK")),
            Answer::Message(incoming) => {
                let taken = self.take_message(&incoming);
                return taken.ok_or(LostReason::Unexpected("PUBLISH"));
            }
            Answer::Pong => {
                self.ping_sent = None;
                return Ok(());
            }
            Answer::Closing(closing) => return Err(closing.into()),
            Answer::Connected(_) => return Err(LostReason::Unexpected("a second CONNACK")),
            Answer::Unexpected(name) => return Err(LostReason::Unexpected(name)),
        };
        if packet_id >= FIRST_ERRAND_PACKET_ID {
            let refusal = rejection.map(|rejection| rejection.to_string());
            (self.session.aside.errands).answered(packet_id, &[refusal], now);
            return Ok(());
        }
        if let Acknowledged::Message { message, bytes } = self.window.acknowledge(packet_id, now) {
            self.session.pacing.acknowledged(bytes, now);
            match rejection {
                None => self.accepted(&message, now),
                Some(rejection) => self.refused(message, rejection, now),
            }
        }
        Ok(())
    }

    /// AWS IoT Core answers a PUBLISH that the policy forbids by closing, over MQTT 3.1.1 without a reason.
    fn explain(&mut self, reason: LostReason) -> LostReason {
        if reason.is_the_clouds_doing()
            && let Some(errand) = self.session.aside.errands.ended(Instant::now())
        {
            return reason.on_errand(errand);
        }
        match reason {
            LostReason::Closed if !self.progress && !self.window.is_empty() => {
                LostReason::ClosedOnPublish(self.session.routes.destinations())
            }
            reason => reason,
        }
    }

    /// The next moment at which something must have happened, or can be done.
    fn deadline(&self, now: Instant) -> Instant {
        // What is due while nothing is sent waits for an event, not for a time.
        let may_send = !self.returning && !self.session.aside.errands.have_right_of_way(now);
        let deadlines = [
            self.window.deadline(),
            self.paced_until,
            self.held.next_due().filter(|_| may_send),
            self.return_at,
            Some(self.calm_until()).filter(|moment| *moment > now),
            self.packer.next_due().filter(|_| may_send),
            self.session.post.deadline(),
            self.session.aside.errands.deadline(now),
        ];
        (deadlines.into_iter().flatten()).fold(self.ping_deadline(), Instant::min)
    }

    /// When PINGRESP must have come, or PINGREQ must go.
    fn ping_deadline(&self) -> Instant {
        match self.ping_sent {
            Some(sent) => {
                sent.max(self.last_heard) + PINGRESP_TIMEOUT + self.window.slow_link_time()
            }
            None => self.last_sent + self.ping_after,
        }
    }

    fn on_alarm(&mut self, now: Instant) -> Result<(), LostReason> {
        self.paced_until = self.paced_until.filter(|moment| *moment > now);
        self.session.post.tell_due(now);
        self.session.aside.errands.tick(now);
        if self
            .window
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            return Err(LostReason::NoAcknowledgement);
        }
        if self.ping_sent.is_some() {
            if self.ping_deadline() <= now {
                return Err(LostReason::NoPong);
            }
        } else if self.ping_deadline() <= now {
            packet::write_ping(&mut self.unsent)?;
            self.last_sent = now;
            self.ping_sent = Some(now);
        }
        Ok(())
    }
}

/// A PINGREQ is sent after this much silence of ours: well within the keep alive.
const fn ping_after(keep_alive_s: u16) -> Duration {
    Duration::from_millis(keep_alive_s as u64 * 1_000 * 3 / 4)
}

/// Writes all of `unsent` and flushes. May be dropped and called again.
async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    unsent: &mut BytesMut,
    flushed: &mut bool,
) -> io::Result<()> {
    while !unsent.is_empty() {
        *flushed = false;
        if writer.write_buf(unsent).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    writer.flush().await?;
    *flushed = true;
    if unsent.capacity() > BUFFER_KEPT_BYTES {
        *unsent = BytesMut::new();
    }
    Ok(())
}

async fn ready(next: &mut Option<NextMessages>) -> io::Result<Vec<Delivery>> {
    match next {
        Some(next) => next.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
