//! What a client remembers of its session, whichever connection it is on.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{Ack, Publish};

/// What a client knows of a message that it has published: nothing, or its payload, which no other message has.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) payload: Vec<u8>,
    /// Whether it goes to the cloud.
    pub(super) is_routed: bool,
    /// Whether who subscribes to everything gets it, however late.
    pub(super) is_for_all: bool,
}

/// A message that was received, and how far its delivery is.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) message: Publish,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Publish,
    /// PUBREC was sent.
    Taken,
    /// PUBREL has come.
    Released,
}

/// What a client remembers of its session.
#[derive(Default)]
pub(super) struct Memory {
    /// Messages that it has not acknowledged to the end.
    pub(super) received: BTreeMap<u16, Received>,
    /// The PUBLISH packets of `QoS` 2 that it has not released, and whether they are of MQTT 5.
    pub(super) unreleased: BTreeMap<u16, (Vec<u8>, bool, Published)>,
    /// Identifiers that it has released, and may not use again before their PUBCOMP.
    pub(super) releasing: BTreeSet<u16>,
    /// The topic filters it has ever subscribed to: after a kill, a session may be there that had ended just before.
    pub(super) filters: Vec<&'static [u8]>,
    /// The connection it is on.
    pub(super) connection: u64,
    /// A client that sent anything may be told anything.
    pub(super) is_wild: bool,
}

impl Memory {
    /// PUBREL for `id` is sent. Returns what was published under it.
    pub(super) fn release(&mut self, id: u16) -> Option<Published> {
        let (_, _, published) = self.unreleased.remove(&id)?;
        self.releasing.insert(id);
        Some(published)
    }

    /// The broker was killed. It has forgotten which identifiers meant a message of `QoS` 1, and everything if its
    /// journal was out of order.
    pub(super) fn forget(&mut self, everything: bool) {
        (self.received).retain(|_, received| !everything && received.message.qos == 2);
        self.connection = 0;
    }
}

/// An acknowledgement for the broker was sent.
pub(super) fn settle(
    messages: &mut BTreeMap<u16, Received>,
    (kind, id, refused): (Ack, u16, bool),
) {
    let Some(received) = messages.get_mut(&id) else {
        return;
    };
    let is_over = match (kind, received.message.qos, received.stage) {
        (Ack::PubAck, 1, _) => true,
        (Ack::PubRec, 2, Stage::Publish) => {
            received.stage = Stage::Taken;
            refused
        }
        (Ack::PubComp, 2, stage) => stage != Stage::Publish,
        _ => false,
    };
    if is_over {
        messages.remove(&id);
    }
}

/// MQTT 4.7, and 4.8.2 of MQTT 5.
pub(super) fn is_match(filter: &[u8], name: &[u8]) -> bool {
    fn matches(filter: &[&[u8]], name: &[&[u8]]) -> bool {
        match (filter, name) {
            ([], []) | ([b"#"], _) => true,
            ([b"+", filter @ ..], [_, name @ ..]) => matches(filter, name),
            ([one, filter @ ..], [other, name @ ..]) => one == other && matches(filter, name),
            _ => false,
        }
    }
    let levels = |path: &'_ [u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let (filter, name) = (levels(filter), levels(name));
    let mut filter: Vec<&[u8]> = filter.iter().map(Vec::as_slice).collect();
    let name: Vec<&[u8]> = name.iter().map(Vec::as_slice).collect();
    if filter.first() == Some(&&b"$share"[..]) {
        filter.drain(..2);
    }
    matches(&filter, &name)
}
