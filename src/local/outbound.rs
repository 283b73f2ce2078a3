//! What leaves to a client: acknowledgements and answers when they may, messages while there is room. All of it is put into
//! the client's `out`; what may not be sent yet is owed.

use tokio::time::Instant;

use super::acks::{Answer, Awaits, Safe};
use super::ending::End;
use super::inbound::Client;
use super::packet::{self, Ack, Reply};
use super::session::Outgoing;
use crate::spool::Seq;
use crate::store::Ingress;

impl<I: Ingress> Client<I> {
    /// Puts an acknowledgement into `out`.
    fn reply(&mut self, reply: Reply) {
        if reply.is_last() {
            self.receiving = self.receiving.saturating_sub(1);
        }
        packet::put_reply(&mut self.out, self.version, reply);
        self.shared.counters.packets_sent.add(1);
    }

    /// Sends SUBACK or UNSUBACK when the journal has what it says.
    pub(super) fn answer(&mut self, packet: &[u8], journal: Option<Seq>) {
        if journal.is_some() {
            let awaits = Awaits {
                spool: None,
                journal,
            };
            (self.owed).owe(Answer::Encoded(packet.into()), awaits, 0);
        } else {
            self.out.extend_from_slice(packet);
            self.shared.counters.packets_sent.add(1);
        }
    }

    /// Sends an acknowledgement, when what it says is safe.
    pub(super) fn reply_when(&mut self, reply: Reply, awaits: Awaits) {
        let safe = Safe {
            spool: *self.safe.borrow(),
            journal: *self.kept.borrow(),
        };
        let overtakes = reply.ack == Ack::PubRel && self.owed.owes_pubrel();
        if awaits.is_over(safe) && !overtakes {
            self.reply(reply);
        } else {
            self.owed.owe(Answer::Reply(reply), awaits, 0);
        }
    }

    /// Puts the acknowledgements into `out` that may leave.
    pub(super) fn acknowledge(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let safe = Safe {
            spool: *self.safe.borrow_and_update(),
            journal: *self.kept.borrow_and_update(),
        };
        let out_bytes_max = self.shared.limits.write_buffer_bytes_max;
        while self.out.len() < out_bytes_max
            && let Some(answer) = self.owed.release(safe)
        {
            match answer {
                Answer::Reply(reply) => self.reply(reply),
                Answer::Encoded(packet) => {
                    self.out.extend_from_slice(&packet);
                    self.shared.counters.packets_sent.add(1);
                }
            }
        }
    }

    /// Puts messages for the client into `out` while there is room.
    pub(super) fn deliver(&mut self) -> Result<(), End> {
        let limits = &self.shared.limits;
        let room_bytes = limits.write_buffer_bytes_max / 2;
        self.large_waits = false;
        if self.out.len() >= room_bytes {
            return Ok(());
        }
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        let session = session.ok_or(End::TakenOver)?;
        let receiver = (self.version, self.packet_bytes_max);
        let (mut sent, mut released, mut expired, mut too_large) = (0, 0, 0, 0);
        let now = Instant::now();
        while self.out.len() < room_bytes {
            if session.next_bytes() > room_bytes && !self.large_packet.has_room() {
                self.large_waits = true;
                break;
            }
            match session.next(limits, now) {
                None => break,
                Some(Outgoing::Expired) => expired += 1,
                Some(Outgoing::PubRel(id)) => {
                    let pubrel = Reply::new(Ack::PubRel, id);
                    packet::put_reply(&mut self.out, self.version, pubrel);
                    released += 1;
                }
                Some(Outgoing::Publish {
                    delivery,
                    id,
                    duplicate,
                }) => {
                    let number = (id, duplicate);
                    if packet::put_publish(&mut self.out, receiver, &delivery, number, now) {
                        sent += 1;
                    } else {
                        session.give_up(id);
                        too_large += 1;
                    }
                }
            }
        }
        self.is_held_up = session.is_held_up();
        let counters = &self.shared.counters;
        counters.messages_sent.add(sent);
        counters.packets_sent.add(sent + released);
        counters.dropped_expired.add(expired);
        counters.dropped_packet_too_large.add(too_large);
        Ok(())
    }

    /// Whether `out` takes more memory than usual.
    pub(super) fn is_out_large(&self) -> bool {
        self.out.capacity() > 2 * self.shared.limits.write_buffer_bytes_max
    }

    /// Whether so much is unacknowledged or unwritten that the client must not be read from.
    pub(super) fn is_congested(&self) -> bool {
        let limits = &self.shared.limits;
        self.owed.unacknowledged_bytes() >= limits.unacknowledged_bytes_max
            || self.owed.own_bytes() >= limits.owed_bytes_max
            || self.out.len() >= limits.write_buffer_bytes_max
    }
}
