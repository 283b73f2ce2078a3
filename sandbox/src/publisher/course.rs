//! How far a load has come, and the bytes of its messages. Pure: time is an argument.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;

use super::{Load, PublishError, WRITE_BYTES};
use crate::ledger::MessageId;

/// What precedes the payload of a PUBLISH.
pub(super) struct Head<'a> {
    pub(super) topic: &'a str,
    pub(super) qos: u8,
    pub(super) packet_id: u16,
}

/// Writes PUBLISH (MQTT 3.1.1, section 3.3), its payload given in parts.
pub(super) fn put_publish(
    out: &mut BytesMut,
    head: &Head<'_>,
    payload: &[&[u8]],
) -> Result<(), PublishError> {
    let payload_bytes: usize = payload.iter().map(|part| part.len()).sum();
    let too_large = || PublishError::TooLarge {
        bytes: head.topic.len() + payload_bytes,
    };
    let topic_bytes = u16::try_from(head.topic.len()).map_err(|_| too_large())?;
    let id_bytes = if head.qos == 0 { 0 } else { 2 };
    let remaining = 2 + head.topic.len() + id_bytes + payload_bytes;
    // the largest remaining length (section 2.2.3)
    if remaining > 268_435_455 {
        return Err(too_large());
    }
    out.put_u8(0x30 | head.qos << 1);
    let mut rest = remaining;
    loop {
        let low = u8::try_from(rest % 128).expect("invariant: a remainder of 128 fits a byte");
        rest /= 128;
        if rest == 0 {
            out.put_u8(low);
            break;
        }
        out.put_u8(low | 0x80);
    }
    out.put_u16(topic_bytes);
    out.put_slice(head.topic.as_bytes());
    if head.qos > 0 {
        out.put_u16(head.packet_id);
    }
    for part in payload {
        out.put_slice(part);
    }
    Ok(())
}

/// A message on its way.
#[derive(Clone, Copy)]
struct Flight {
    seq: u64,
    due: Instant,
}

/// How far a load has come. Pure.
pub(super) struct Course<'a> {
    load: &'a Load,
    began: Option<Instant>,
    pub(super) sent: u64,
    /// By packet identifier less one.
    flights: Vec<Option<Flight>>,
    free: Vec<u16>,
    /// Packet identifiers between PUBREC and PUBCOMP.
    completing: usize,
    pub(super) acked: Vec<MessageId>,
    pub(super) latencies: Vec<Duration>,
    id: Vec<u8>,
    fill: Vec<u8>,
}

impl<'a> Course<'a> {
    pub(super) fn new(load: &'a Load) -> Self {
        let window = load.window.max(1);
        Course {
            load,
            began: None,
            sent: 0,
            flights: vec![None; usize::from(window)],
            free: (1..=window).rev().collect(),
            completing: 0,
            acked: Vec::new(),
            latencies: Vec::new(),
            id: Vec::new(),
            fill: vec![b'x'; load.payload_bytes],
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.sent == self.load.count
            && u64::try_from(self.acked.len()).is_ok_and(|acked| acked == self.sent)
            && self.completing == 0
    }

    /// Writes the messages that may go at `now`; returns when the next is due if only time is in
    /// its way.
    pub(super) fn fill(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
    ) -> Result<Option<Instant>, PublishError> {
        let began = *self.began.get_or_insert(now);
        while self.sent < self.load.count && out.len() < WRITE_BYTES {
            let due = match self.load.rate_per_second {
                #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 messages")]
                Some(rate) => began + Duration::from_secs_f64(self.sent as f64 / rate),
                None => now,
            };
            if due > now {
                return Ok(Some(due));
            }
            let seq = self.load.first_seq + self.sent;
            let packet_id = match (self.load.qos, self.free.pop()) {
                (0, _) => 0,
                (_, Some(packet_id)) => packet_id,
                (_, None) => return Ok(None),
            };
            self.put(seq, packet_id, out)?;
            self.sent += 1;
            match self.flight(packet_id) {
                Some(flight) => *flight = Some(Flight { seq, due }),
                None => self.settle(Flight { seq, due }, now),
            }
        }
        Ok(None)
    }

    fn put(&mut self, seq: u64, packet_id: u16, out: &mut BytesMut) -> Result<(), PublishError> {
        const FILL: &[u8] = b",\"fill\":\"";
        const END: &[u8] = b"\"}";
        let (publisher, qos, topic) =
            (self.load.publisher, self.load.qos, self.load.topic.as_str());
        self.id.clear();
        MessageId { publisher, seq }.write_to(&mut self.id);
        let room = self
            .load
            .payload_bytes
            .saturating_sub(self.id.len() + FILL.len() + END.len());
        let fill = self.fill.get(..room).unwrap_or(&[]);
        put_publish(
            out,
            &Head {
                topic,
                qos,
                packet_id,
            },
            &[&self.id, FILL, fill, END],
        )
    }

    /// The slot of a packet identifier; `None` for 0 and for one that was never used.
    fn flight(&mut self, packet_id: u16) -> Option<&mut Option<Flight>> {
        self.flights.get_mut(usize::from(packet_id).checked_sub(1)?)
    }

    fn settle(&mut self, flight: Flight, now: Instant) {
        self.acked.push(MessageId {
            publisher: self.load.publisher,
            seq: flight.seq,
        });
        if self.load.record_latency {
            self.latencies.push(now - flight.due);
        }
    }

    /// Takes PUBACK or PUBREC. One that answers nothing is ignored: it acknowledges nothing.
    pub(super) fn acknowledged(&mut self, packet_id: u16, now: Instant) {
        let Some(flight) = self.flight(packet_id).and_then(Option::take) else {
            return;
        };
        self.settle(flight, now);
        if self.load.qos == 2 {
            self.completing += 1;
        } else {
            self.free.push(packet_id);
        }
    }

    pub(super) fn completed(&mut self, packet_id: u16) {
        if self.completing > 0 {
            self.completing -= 1;
            self.free.push(packet_id);
        }
    }
}
