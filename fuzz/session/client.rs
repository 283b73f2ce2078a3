//! One connection as its client sees it: what it has sent, and whether what comes back is what MQTT lets a server send.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cloud_relay::local::LocalError;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

use super::memory::{Memory, Published, Received, Stage, is_match, settle};
use super::spool::Spool;
use super::wire::{self, Ack, Packet, Publish};

/// Whether a client reads what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Always,
    No,
    /// Not all the time.
    Again,
}

/// See the module.
pub(super) struct Connection {
    /// Names it; later ones have higher numbers.
    pub(super) number: u64,
    /// Whose session it is, if it has a client identifier.
    pub(super) client: Option<usize>,
    pub(super) is_v5: bool,
    /// `None` once it was closed, by either.
    stream: Option<DuplexStream>,
    /// The broker's end; `None` once it has ended.
    task: Option<JoinHandle<Result<(), LocalError>>>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes that were read and written.
    pub(super) moved_bytes: usize,
    pub(super) reading: Reading,
    pub(super) is_wild: bool,
    /// Whether CONNACK has come, and a session with it.
    pub(super) accepted: Option<bool>,
    pub(super) receive_max: usize,
    pub(super) packet_bytes_max: usize,
    next_id: u16,
    /// Identifiers of `QoS` 2 that were used before CONNACK: they are not used again.
    pub(super) early: Vec<u16>,
    filters: Vec<&'static [u8]>,
    /// Messages of this connection that are not acknowledged to the end.
    unacknowledged: BTreeMap<u16, Received>,
    /// The first acknowledgements that are owed, in order, with the message.
    owed: VecDeque<(Ack, u16, Published)>,
    /// PUBREL and PUBCOMP that are owed, and SUBACK and UNSUBACK with the number of codes.
    owed_releases: Vec<(Ack, u16, Published)>,
    owed_codes: Vec<(bool, u16, usize)>,
    owed_pongs: usize,
    /// The payloads that were acknowledged and are for all, and those of the messages that came for the first time.
    pub(super) acknowledged: Vec<Vec<u8>>,
    pub(super) read: Vec<Vec<u8>>,
}

impl Connection {
    pub(super) fn new(
        number: u64,
        client: Option<usize>,
        is_v5: bool,
        (stream, task): (DuplexStream, JoinHandle<Result<(), LocalError>>),
    ) -> Self {
        Connection {
            number,
            client,
            is_v5,
            stream: Some(stream),
            task: Some(task),
            input: Vec::new(),
            output: Vec::new(),
            moved_bytes: 0,
            reading: Reading::Always,
            is_wild: false,
            accepted: None,
            receive_max: usize::MAX,
            packet_bytes_max: usize::MAX,
            next_id: 0,
            early: Vec::new(),
            filters: Vec::new(),
            unacknowledged: BTreeMap::new(),
            owed: VecDeque::new(),
            owed_releases: Vec::new(),
            owed_codes: Vec::new(),
            owed_pongs: 0,
            acknowledged: Vec::new(),
            read: Vec::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The client's end is gone, without a word.
    pub(super) fn lose(&mut self) {
        self.stream = None;
    }

    pub(super) fn reads_again(&mut self) {
        if self.reading == Reading::No {
            self.reading = Reading::Again;
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    pub(super) fn expect(&mut self, kind: Ack, id: u16, message: Published) {
        match kind {
            Ack::PubAck | Ack::PubRec => self.owed.push_back((kind, id, message)),
            Ack::PubRel | Ack::PubComp => self.owed_releases.push((kind, id, message)),
        }
    }

    /// The next identifier from `id` on that no SUBSCRIBE or UNSUBSCRIBE has whose answer is to come.
    pub(super) fn free_id(&self, mut id: u16) -> u16 {
        while self.owed_codes.iter().any(|(_, owed, _)| *owed == id) {
            id += 100;
        }
        id
    }

    /// The next identifier of a PUBLISH that no open message of `QoS` 2 has.
    pub(super) fn unused_id(&mut self, memory: Option<&Memory>) -> u16 {
        let is_open = |memory: &Memory, id| {
            memory.unreleased.contains_key(&id) || memory.releasing.contains(&id)
        };
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !memory.is_some_and(|memory| is_open(memory, self.next_id)) {
                return self.next_id;
            }
        }
    }

    /// SUBACK or UNSUBACK is to come.
    pub(super) fn expect_codes(&mut self, subscribed: bool, id: u16, codes: usize) {
        self.owed_codes.push((subscribed, id, codes));
    }

    pub(super) fn expect_pong(&mut self) {
        self.owed_pongs += 1;
    }

    pub(super) fn may_receive(&mut self, filter: &'static [u8], memory: Option<&mut Memory>) {
        self.filters.push(filter);
        if let Some(memory) = memory {
            memory.filters.push(filter);
        }
    }

    /// The acknowledgement that is to be sent next for a message, beginning with the oldest or the latest.
    pub(super) fn next_ack(&self, latest: bool) -> Option<(Ack, u16)> {
        let due = |(id, received): (&u16, &Received)| match received.stage {
            Stage::Publish if received.message.qos == 1 => Some((Ack::PubAck, *id)),
            Stage::Publish => Some((Ack::PubRec, *id)),
            Stage::Taken => None,
            Stage::Released => Some((Ack::PubComp, *id)),
        };
        let mut all = self.unacknowledged.iter().filter_map(due);
        if latest { all.next_back() } else { all.next() }
    }

    /// An acknowledgement for the broker was sent: it does what it does, or nothing if it is a wrong one.
    pub(super) fn has_acknowledged(&mut self, ack: (Ack, u16, bool), memory: Option<&mut Memory>) {
        settle(&mut self.unacknowledged, ack);
        if let Some(memory) = memory {
            settle(&mut memory.received, ack);
        }
        if let (Ack::PubRec, id, false) = ack {
            self.expect(Ack::PubRel, id, Published::default());
        }
    }

    /// Writes and reads what can be without waiting. Returns whether anything moved.
    pub(super) fn pump(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let mut context = Context::from_waker(Waker::noop());
        let (mut moved, mut is_closed) = (false, false);
        while !self.output.is_empty() {
            match Pin::new(&mut *stream).poll_write(&mut context, &self.output) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.output.drain(..count);
                    self.moved_bytes += count;
                    moved = true;
                }
                Poll::Ready(_) => self.output.clear(), // the broker has closed
                Poll::Pending => break,
            }
        }
        while self.reading != Reading::No && !is_closed {
            let mut space = [0; 512];
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut *stream).poll_read(&mut context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.input.extend_from_slice(buffer.filled());
                    self.moved_bytes += buffer.filled().len();
                    moved = true;
                }
                Poll::Ready(_) => is_closed = true,
                Poll::Pending => break,
            }
        }
        if is_closed {
            self.stream = None;
        }
        moved || is_closed
    }

    /// Whether the broker's end has ended. Panics if it did so for another reason than its client.
    pub(super) async fn has_ended(&mut self) -> bool {
        if let Some(task) = self.task.take_if(|task| task.is_finished()) {
            let ended = task.await.expect("no panic");
            ended.expect("the spool is sound");
        }
        self.task.is_none()
    }

    /// The broker is killed.
    pub(super) fn kill(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }

    /// Looks at all packets that have come.
    pub(super) fn check(
        &mut self,
        spool: &Spool,
        inflight_max: usize,
        memory: &mut Option<&mut Memory>,
    ) {
        while let Some(length) = wire::length(&self.input) {
            let rest = self.input.split_off(length);
            let bytes = std::mem::replace(&mut self.input, rest);
            if self.is_wild {
                continue;
            }
            assert!(
                length <= self.packet_bytes_max,
                "larger than the client takes"
            );
            let packet = wire::read(self.is_v5, &bytes);
            let is_first = self.accepted.is_none();
            assert!(
                is_first == matches!(packet, Packet::Accepted { .. } | Packet::Refused),
                "CONNACK comes first, and once: {packet:?}"
            );
            self.check_one(packet, spool, inflight_max, memory);
        }
        let may_be_cut = self.is_open() || self.reading != Reading::Always || self.is_wild;
        assert!(may_be_cut || self.input.is_empty(), "a packet was cut");
    }

    fn check_one(
        &mut self,
        packet: Packet,
        spool: &Spool,
        inflight_max: usize,
        memory: &mut Option<&mut Memory>,
    ) {
        match packet {
            Packet::Accepted { session_present } => self.begin(session_present, memory),
            Packet::Refused => self.is_wild = true, // what was sent after CONNECT goes nowhere
            Packet::Publish(message) => {
                self.check_publish(&message, inflight_max, memory);
            }
            Packet::Ack { kind, id, refused } => match kind {
                Ack::PubAck | Ack::PubRec => {
                    assert!(!refused, "nobody is denied anything");
                    let owed = self.owed.pop_front();
                    let (first, first_id, message) = owed.expect("an acknowledgement is owed");
                    assert_eq!((kind, id), (first, first_id), "in the order of PUBLISH");
                    check_safe(&message, spool, true);
                    if message.is_for_all {
                        self.acknowledged.push(message.payload);
                    }
                }
                Ack::PubRel => self.check_release(id, refused, memory),
                Ack::PubComp => {
                    let message = self.take_owed(kind, id).expect("PUBREL was sent");
                    check_safe(&message, spool, false);
                    if let Some(memory) = memory {
                        memory.releasing.remove(&id);
                    }
                }
            },
            Packet::SubAck { id, codes } => self.check_codes(true, id, Some(codes)),
            Packet::UnsubAck { id, codes } => self.check_codes(false, id, codes),
            Packet::Pong => {
                self.owed_pongs = self.owed_pongs.checked_sub(1).expect("PINGREQ was sent");
            }
            Packet::Goodbye => {}
        }
    }

    fn begin(&mut self, session_present: bool, memory: &mut Option<&mut Memory>) {
        self.accepted = Some(session_present);
        if let Some(memory) = memory {
            if memory.connection > self.number {
                return;
            }
            memory.connection = self.number;
            if !session_present {
                **memory = Memory {
                    connection: self.number,
                    filters: std::mem::take(&mut memory.filters),
                    ..Memory::default()
                };
            }
            memory.releasing.extend(self.early.drain(..));
        }
    }

    fn check_publish(
        &mut self,
        message: &Publish,
        inflight_max: usize,
        memory: &mut Option<&mut Memory>,
    ) {
        if memory.as_ref().is_some_and(|memory| memory.is_wild) {
            return;
        }
        let kept = memory.as_ref().map_or(&[][..], |memory| &memory.filters);
        let mut filters = self.filters.iter().chain(kept);
        let topic = message.topic.as_bytes();
        assert!(
            filters.any(|filter| is_match(filter, topic)),
            "nobody asked for {message:?}"
        );
        if !message.duplicate && !message.retain {
            self.read.push(message.payload.clone());
        }
        if message.qos == 0 {
            return;
        }
        let memory = memory
            .as_mut()
            .filter(|memory| memory.connection == self.number);
        assert!(
            !message.duplicate || self.accepted == Some(true),
            "{message:?} again"
        );
        let received = Received {
            message: message.clone(),
            stage: Stage::Publish,
        };
        let before = self.unacknowledged.insert(message.id, received.clone());
        assert!(
            before.is_none(),
            "{message:?} has the identifier of {before:?}"
        );
        let count = self.unacknowledged.len();
        assert!(
            count <= self.receive_max.min(inflight_max),
            "{count} at a time"
        );
        if let Some(memory) = memory {
            let before = memory.received.insert(message.id, received);
            if let Some(before) = before {
                assert!(before.stage != Stage::Released, "{message:?} after PUBREL");
                let first = (
                    &before.message.topic,
                    &before.message.payload,
                    before.message.qos,
                );
                assert_eq!((&message.topic, &message.payload, message.qos), first);
                assert!(message.duplicate, "{message:?} once more, and without DUP");
            }
        }
    }

    fn check_release(&mut self, id: u16, refused: bool, memory: &mut Option<&mut Memory>) {
        let is_answer = self.take_owed(Ack::PubRel, id).is_some();
        assert!(
            is_answer || self.accepted == Some(true),
            "PUBREL {id} out of the blue"
        );
        if refused {
            return;
        }
        if let Some(received) = self.unacknowledged.get_mut(&id) {
            received.stage = Stage::Released;
        }
        let memory = memory
            .as_mut()
            .filter(|memory| memory.connection == self.number);
        if let Some(received) = memory.and_then(|memory| memory.received.get_mut(&id)) {
            received.stage = Stage::Released;
            self.unacknowledged
                .entry(id)
                .or_insert_with(|| received.clone());
        }
    }

    fn take_owed(&mut self, kind: Ack, id: u16) -> Option<Published> {
        let mut owed = self.owed_releases.iter();
        let at = owed.position(|owed| (owed.0, owed.1) == (kind, id))?;
        Some(self.owed_releases.remove(at).2)
    }

    fn check_codes(&mut self, subscribed: bool, id: u16, codes: Option<usize>) {
        let mut owed = self.owed_codes.iter();
        let at = owed.position(|owed| (owed.0, owed.1) == (subscribed, id));
        let (_, _, expected) = self.owed_codes.remove(at.expect("it was asked for"));
        assert!(
            codes.is_none_or(|codes| codes == expected),
            "a code for each filter"
        );
    }

    /// Nothing holds the broker up: it owes nothing.
    pub(super) fn check_at_rest(&self) {
        if self.is_open() && self.accepted.is_some() && !self.is_wild {
            assert!(self.owed.is_empty(), "owed: {:?}", self.owed);
            assert!(
                self.owed_releases.is_empty(),
                "owed: {:?}",
                self.owed_releases
            );
            assert!(self.owed_codes.is_empty(), "owed: {:?}", self.owed_codes);
            assert_eq!(self.owed_pongs, 0);
        }
    }
}

/// No acknowledgement before safety. The first one must know the message; when it came twice to a broker that was
/// restarted between, the second may not.
fn check_safe(message: &Published, spool: &Spool, is_first: bool) {
    if !message.is_routed {
        return;
    }
    let (count, is_safe) = spool.taken(&message.payload);
    assert!(count > 0 || !is_first, "acknowledged, and not in the spool");
    assert!(count <= 1, "in the spool {count} times");
    assert!(is_safe, "acknowledged before it is safe");
}
