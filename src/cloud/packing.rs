//! Puts many small messages of one cloud topic into one publish, because AWS bills by started 5 KB. Pure.
//!
//! A pack grows while messages come and is *closed*, that is given out to be sent, when the next message does not fit,
//! when its first message has waited long enough, when a message of its topic has to go alone, or when too much is
//! open. So the messages of a topic keep their order; those of different topics may overtake each other.
//!
//! What is open here is in the spool, too, unsettled: it may be forgotten at any time.
//!
//! Not here: what becomes of a pack that is refused.

use std::collections::VecDeque;
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::time::Instant;

use crate::routes::Form;

/// What AWS IoT Core counts as one message, in bytes of topic and payload (pricing, 5 KB).
const BILLED_BYTES: usize = 5 * 1024;
/// Packs that are open at the same time, each of another topic. The oldest is closed for one more.
const OPEN_MAX: usize = 64;
/// What is open at the same time may take so much memory, in bytes. The oldest pack is closed above.
const OPEN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages in one pack: so many may have to be sent one by one if it is refused.
const MEMBERS_MAX: usize = 1_000;
/// What the messages of one pack may take besides their payloads, in bytes: for as long as it is in flight, they are
/// kept as they came, each with its local topic.
const BESIDES_BYTES_MAX: usize = 64 * 1024;

/// What packing has brought is told so often.
const TOLD_EVERY: Duration = Duration::from_hours(1);

/// How packs are made: `PACK_MAX_BYTES`, `PACK_MAX_MS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Most bytes of topic and payload in one pack.
    pub bytes_max: usize,
    /// Longest time that a message waits for others.
    pub wait_max: Duration,
}

impl Default for Packing {
    fn default() -> Self {
        Packing {
            // Less than 5 KB, in whichever way KB is understood.
            bytes_max: 5_000,
            wait_max: Duration::from_secs(1),
        }
    }
}

/// How many messages AWS bills for one publish with so many bytes of topic and payload.
pub fn billed(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BILLED_BYTES).max(1)).unwrap_or(u64::MAX)
}

/// Whether a message with this payload may be part of a pack of this form.
fn fits_form(form: Form, payload: &[u8]) -> bool {
    match form {
        Form::Json => std::str::from_utf8(payload)
            .is_ok_and(|t| serde_json::from_str::<IgnoredAny>(t).is_ok()),
        Form::Lines => !payload.iter().any(|byte| matches!(byte, b'\n' | b'\r')),
    }
}

/// Messages `T` in one payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack<T> {
    /// The cloud topic of all.
    pub topic: String,
    /// All payloads.
    pub payload: Vec<u8>,
    /// The messages, in order; at least one.
    pub members: Vec<T>,
    /// How many messages AWS would bill for if each went alone.
    pub billed_alone: u64,
}

impl<T> Pack<T> {
    /// How many messages AWS bills less for than if each went alone.
    pub fn saved(&self) -> u64 {
        (self.billed_alone).saturating_sub(billed(self.topic.len() + self.payload.len()))
    }
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parcel<T> {
    /// A message as it came.
    Single(T),
    /// Messages together, perhaps only one.
    Pack(Pack<T>),
}

/// What packing has brought so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Savings {
    /// Packs that the cloud has accepted.
    pub packs: u64,
    /// The messages in them.
    pub messages: u64,
    /// How many messages less AWS bills for.
    pub saved: u64,
    told: Option<Instant>,
}

impl Savings {
    /// Notes a pack that was accepted. Says whether it is time to tell.
    pub fn note<T>(&mut self, pack: &Pack<T>, now: Instant) -> bool {
        self.packs += 1;
        self.messages += u64::try_from(pack.members.len()).unwrap_or(0);
        self.saved += pack.saved();
        let told = *self.told.get_or_insert(now);
        let due = now.duration_since(told) >= TOLD_EVERY;
        if due {
            self.told = Some(now);
        }
        due
    }

    /// Tells what packing has brought, if there were packs.
    pub fn tell(&self) {
        if self.packs > 0 {
            tracing::info!(
                packs = self.packs,
                messages = self.messages,
                billed_messages_saved = self.saved,
                "packed since the start"
            );
        }
    }
}

#[derive(Debug)]
struct Open<T> {
    form: Form,
    /// Without what the form puts at its end.
    pack: Pack<T>,
    since: Instant,
    /// What its messages take besides their payloads.
    besides_bytes: usize,
}

impl<T> Open<T> {
    fn bytes(&self) -> usize {
        self.pack.topic.len() + self.pack.payload.len() + end(self.form).len()
    }

    /// How much memory it takes: each payload is in it, and in its message.
    fn kept_bytes(&self) -> usize {
        self.bytes() + self.pack.payload.len() + self.besides_bytes
    }

    fn add(&mut self, payload: &[u8], member: T, besides_bytes: usize) {
        self.besides_bytes += besides_bytes;
        self.pack.payload.extend_from_slice(match self.form {
            Form::Json if self.pack.members.is_empty() => b"[",
            Form::Json => b",",
            Form::Lines if self.pack.members.is_empty() => b"",
            Form::Lines => b"\n",
        });
        self.pack.payload.extend_from_slice(payload);
        self.pack.members.push(member);
        self.pack.billed_alone += billed(self.pack.topic.len() + payload.len());
    }

    fn close(self) -> Pack<T> {
        let mut pack = self.pack;
        pack.payload.extend_from_slice(end(self.form));
        pack
    }
}

fn end(form: Form) -> &'static [u8] {
    match form {
        Form::Json => b"]",
        Form::Lines => b"",
    }
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// How its route packs, if it does.
    pub form: Option<Form>,
    /// Its cloud topic.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// How much memory keeping it takes, in bytes, its payload included.
    pub kept_bytes: usize,
}

/// The packs of one connection.
#[derive(Debug)]
pub struct Packer<T> {
    packing: Packing,
    /// In the order in which they were opened; one of a topic.
    open: VecDeque<Open<T>>,
}

impl<T> Packer<T> {
    /// Nothing is open.
    pub fn new(packing: Packing) -> Self {
        Packer {
            packing,
            open: VecDeque::new(),
        }
    }

    /// Takes a message; what is to be sent because of it is put behind `ready`, in order.
    pub fn offer(
        &mut self,
        offered: Offered<'_>,
        member: T,
        now: Instant,
        ready: &mut impl Extend<Parcel<T>>,
    ) {
        let Offered {
            form,
            topic,
            payload,
            kept_bytes,
        } = offered;
        let besides_bytes = kept_bytes.saturating_sub(payload.len());
        // An end and a separator, or a beginning.
        let len = topic.len() + payload.len() + 2;
        let form = form.filter(|form| len <= self.packing.bytes_max && fits_form(*form, payload));
        let found = self.open.iter().position(|open| open.pack.topic == topic);
        if let (Some(index), Some(form)) = (found, form)
            && let Some(open) = self.open.get_mut(index)
            && open.form == form
            && open.bytes() + 1 + payload.len() <= self.packing.bytes_max
            && open.pack.members.len() < MEMBERS_MAX
            && open.besides_bytes + besides_bytes <= BESIDES_BYTES_MAX
        {
            open.add(payload, member, besides_bytes);
        } else {
            ready.extend(found.and_then(|index| self.close(index)));
            let Some(form) = form else {
                ready.extend([Parcel::Single(member)]);
                return;
            };
            let mut open = Open {
                form,
                pack: Pack {
                    topic: topic.to_owned(),
                    payload: Vec::new(),
                    members: Vec::new(),
                    billed_alone: 0,
                },
                since: now,
                besides_bytes: 0,
            };
            open.add(payload, member, besides_bytes);
            self.open.push_back(open);
        }
        while self.open.len() > OPEN_MAX || self.open_bytes() > OPEN_BYTES_MAX {
            ready.extend(self.close(0));
        }
    }

    fn open_bytes(&self) -> usize {
        self.open.iter().map(Open::kept_bytes).sum()
    }

    fn close(&mut self, index: usize) -> Option<Parcel<T>> {
        let open = self.open.remove(index)?;
        Some(Parcel::Pack(open.close()))
    }

    /// When the next pack has waited long enough.
    pub fn next_due(&self) -> Option<Instant> {
        let oldest = self.open.front()?;
        Some(oldest.since + self.packing.wait_max)
    }

    /// Closes a pack that has waited long enough.
    pub fn take_due(&mut self, now: Instant) -> Option<Parcel<T>> {
        let due = self.next_due().is_some_and(|due| due <= now);
        due.then(|| self.close(0)).flatten()
    }

    /// The first message of each pack that is open.
    pub fn firsts(&self) -> impl Iterator<Item = &T> {
        self.open
            .iter()
            .filter_map(|open| open.pack.members.first())
    }

    /// Forgets what is open.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests;
