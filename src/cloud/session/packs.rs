//! Packs on their way: made of what comes from the spool, sent like a message, settled or taken apart as a whole.
//!
//! Only messages that are beyond suspicion are packed. A pack that is refused, or that was in flight when a
//! connection ended without a word, is taken apart: its messages go alone from then on, so that a bad one does not
//! take the others with it and is found as if there were no packs.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::sending::Outgoing;
use super::{Link, Session};
use crate::cloud::packet::PUBLISH_OVERHEAD_BYTES;
use crate::cloud::packing::{Offered, Pack, Packer, Packing, Parcel};
use crate::cloud::poison;
use crate::cloud::suspicion::Standing;
use crate::routes::Form;
use crate::spool::{Delivery, Message, Seq};

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Puts a message that comes from the spool where it waits to be sent, or into a pack.
    pub(super) fn enqueue(&mut self, delivery: Delivery, now: Instant) {
        let trouble = self.session.troubles.take(delivery.seq);
        if trouble.is_some() || !self.session.routes.pack() {
            let outgoing = delivery.into();
            self.pending.push_back(Outgoing {
                trouble,
                ..outgoing
            });
            return;
        }
        let held = delivery.clone();
        let Some(message) = held.message() else {
            return;
        };
        let form = self.form(&message, delivery.seq);
        let target = self.session.routes.target(message.topic);
        let offered = Offered {
            form,
            topic: target.as_deref().unwrap_or_default(),
            payload: message.payload,
            kept_bytes: delivery.kept_bytes(),
        };
        let member = if form.is_some() {
            delivery.detached()
        } else {
            delivery
        };
        let mut ready = Vec::new();
        self.packer.offer(offered, member, now, &mut ready);
        self.pending.extend(ready.into_iter().map(Outgoing::from));
    }

    /// How a message may be packed.
    fn form(&self, message: &Message<'_>, seq: Seq) -> Option<Form> {
        if !message.attributes.is_empty() {
            return None;
        }
        let (_, route) = self.session.routes.find(message.topic)?;
        let form = route.form()?;
        let topic = route.target(message.topic);
        let suspicion = &self.session.suspicion;
        let innocent = seq > self.session.alone_through
            && suspicion.in_flight_max() > 1
            && suspicion.standing(seq) == Standing::Free
            && !self.session.denials.is_denied(&topic)
            && poison::forbidden(&topic, message.payload.len()).is_none();
        innocent.then_some(form)
    }

    /// Closes the packs that have waited long enough.
    pub(super) fn close_due_packs(&mut self, now: Instant) {
        while let Some(parcel) = self.packer.take_due(now) {
            self.pending.push_back(parcel.into());
        }
    }

    /// Takes a refused pack apart: its messages are sent next, each alone.
    pub(super) fn unpack(&mut self, pack: &Pack<Delivery>) {
        tracing::debug!(
            "a pack of {} messages to {:?} was refused: they are sent one by one",
            pack.members.len(),
            pack.topic
        );
        self.session.alone_through(pack);
        for member in pack.members.iter().rev() {
            self.pending.push_front(member.clone().into());
        }
    }
}

impl Session {
    /// Packs otherwise than by default.
    pub(in crate::cloud) fn with_packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Lets the messages of `pack` go alone from now on.
    pub(super) fn alone_through(&mut self, pack: &Pack<Delivery>) {
        let last = pack.members.last().map_or(0, |member| member.seq);
        self.alone_through = self.alone_through.max(last);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.savings.tell();
    }
}

/// The packs of a connection to a cloud that takes no larger packets than `packet_bytes_max`.
pub(super) fn packer(packing: Packing, packet_bytes_max: Option<u32>) -> Packer<Delivery> {
    let packet = packet_bytes_max.and_then(|max| usize::try_from(max).ok());
    let room = packet.map_or(usize::MAX, |max| max.saturating_sub(PUBLISH_OVERHEAD_BYTES));
    Packer::new(Packing {
        bytes_max: packing.bytes_max.min(room),
        ..packing
    })
}

impl From<Parcel<Delivery>> for Outgoing {
    fn from(parcel: Parcel<Delivery>) -> Self {
        match parcel {
            Parcel::Single(delivery) => delivery.into(),
            Parcel::Pack(pack) => {
                let first = pack.members.first().cloned();
                let delivery = first.expect("invariant: a pack has at least one member");
                Outgoing {
                    pack: Some(Arc::new(pack)),
                    ..delivery.into()
                }
            }
        }
    }
}
