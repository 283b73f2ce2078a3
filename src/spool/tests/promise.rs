//! The promise, as a reference model that runs beside a spool and compares.
//!
//! * **Kept.** Every message below the safe watermark at any time and not settled is there after any
//!   crash, in order, byte for byte. Others may be there or not, but what is there is whole.
//! * **Duplicates.** After a crash of the process only messages come again that were settled since the
//!   cursor was last *written*; after a power cut, since it was last *synced*; after a close, none.
//! * **Ledger.** After every operation of a life: `accepted`, `delivered`, `dead_lettered` and `dropped_expired` have grown by
//!   exactly what was appended and settled, and `spooled` is what is left. At a start `spooled` is what
//!   can be read plus what will be counted as damaged when it has been passed, and without corruption that
//!   is no more than was lost unacknowledged. When all is settled `spooled` is 0.
//! * **Memory** is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::ledger::{DropReason, Ledger, Outcome};
use super::super::{AppendError, Delivery, Message, Options, Seq, segment};
use super::model::{Effect, Model, Operation};
use super::stepped::Stepped;
use crate::clock::Timestamp;

/// Most bytes the tail may hold: what waits to be written, what is kept for the reader, one record.
const HELD_BYTES_MAX: usize = (2 * 1024 + 512 + 512) * 1024;

/// A message's name over all lives; numbers of messages that were lost unacknowledged are given again.
pub(super) type Id = usize;

#[derive(Clone, Debug)]
struct Sent {
    payload: Vec<u8>,
    qos: u8,
    acknowledged: bool,
    /// In some life; a cursor that said so may come to light again after a power cut.
    settled: bool,
}

/// What happened since the spool was opened.
#[derive(Clone, Debug, Default)]
struct Life {
    opened: Ledger,
    /// The last watermark seen.
    safe: Seq,
    appended: u64,
    delivered: u64,
    dead_lettered: u64,
    expired: u64,
    /// In `opened.spooled` and cannot be read.
    damaged: u64,
    ids: BTreeMap<Seq, Id>,
    outstanding: BTreeMap<Seq, Id>,
}

/// A spool over a [`Model`] and what is expected of it.
pub(super) struct World {
    pub(super) model: Model,
    options: Options,
    stepped: Option<Stepped>,
    sent: Vec<Sent>,
    /// Neither settled nor lost unacknowledged.
    alive: BTreeSet<Id>,
    settled: BTreeSet<Id>,
    /// Of the settled, those that must not come again after a crash of the process.
    cursor_written: BTreeSet<Id>,
    /// The same after a power cut.
    cursor_synced: BTreeSet<Id>,
    /// Messages that were lost, none of them acknowledged.
    lost: u64,
    life: Life,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    ProcessCrash,
    PowerCut { seed: u64 },
}

fn payload(id: Id, size: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(id as u64);
    std::iter::repeat_with(|| rng.u8(..)).take(size).collect()
}

impl World {
    pub(super) fn new(model: Model, options: Options) -> Self {
        let mut world = World {
            model,
            options,
            stepped: None,
            sent: Vec::new(),
            alive: BTreeSet::new(),
            settled: BTreeSet::new(),
            cursor_written: BTreeSet::new(),
            cursor_synced: BTreeSet::new(),
            lost: 0,
            life: Life::default(),
        };
        world.open();
        world
    }

    /// The same expectations of a copy of the disk, with the spool not open.
    pub(super) fn on_a_copy(&self) -> Self {
        World {
            model: self.model.copy(),
            options: self.options,
            stepped: None,
            sent: self.sent.clone(),
            alive: self.alive.clone(),
            settled: self.settled.clone(),
            cursor_written: self.cursor_written.clone(),
            cursor_synced: self.cursor_synced.clone(),
            lost: self.lost,
            life: self.life.clone(),
        }
    }

    fn stepped(&mut self) -> &mut Stepped {
        self.stepped.as_mut().expect("the spool is open")
    }

    pub(super) fn append(&mut self, qos: u8, size: usize) {
        let id = self.sent.len();
        let payload = payload(id, size);
        let message = Message {
            topic: &format!("t/{id}"),
            attributes: &attributes(id),
            payload: &payload,
            qos,
            retain: id.is_multiple_of(3),
            received: Timestamp {
                unix_ms: id as u64,
                clock_set: id.is_multiple_of(2),
            },
        };
        match self.stepped().spool.append(&message) {
            Ok(seq) => {
                assert_eq!(self.life.ids.insert(seq, id), None, "{seq} given twice");
                self.sent.push(Sent {
                    payload,
                    qos,
                    acknowledged: false,
                    settled: false,
                });
                self.alive.insert(id);
                self.life.appended += 1;
            }
            Err(AppendError::Full) => {}
            Err(AppendError::Failed) => assert!(self.model.is_off(), "failed without a fault"),
            Err(e @ (AppendError::TooLarge { .. } | AppendError::AttributesTooLarge { .. })) => {
                panic!("{e}")
            }
        }
        self.check();
    }

    /// One job of the writer.
    pub(super) fn step(&mut self) {
        self.writing(|stepped| _ = stepped.step());
    }

    /// All jobs that are due.
    pub(super) fn run(&mut self) {
        self.writing(Stepped::run);
    }

    /// All jobs.
    pub(super) fn run_late(&mut self) {
        self.writing(Stepped::run_late);
    }

    fn writing(&mut self, work: impl FnOnce(&mut Stepped)) {
        let cursor = |model: &Model, operation| model.done(operation, "cursor");
        let written = cursor(&self.model, Operation::Write);
        let synced = cursor(&self.model, Operation::SyncData);
        let full = self.model.fired_as(Effect::Enospc);
        work(self.stepped());
        if self.model.fired_as(Effect::Enospc) > full {
            // It may have torn the slot of the cursor that was written before, and not synced.
            self.cursor_written.clone_from(&self.cursor_synced);
        }
        if cursor(&self.model, Operation::Write) > written {
            self.cursor_written.clone_from(&self.settled);
        }
        if cursor(&self.model, Operation::SyncData) > synced {
            self.cursor_synced.clone_from(&self.settled);
        }
        self.check();
    }

    pub(super) fn read(&mut self, count_max: usize) {
        match self.stepped().read(count_max) {
            Ok(deliveries) => {
                for delivery in &deliveries {
                    let id = self.identify(delivery);
                    let before = self.life.outstanding.insert(delivery.seq, id);
                    assert_eq!(before, None, "{id} given out twice without a rewind");
                    assert!(self.alive.contains(&id), "{id} is not to be given out");
                }
            }
            Err(e) => assert!(self.model.is_off(), "{e}"),
        }
        self.check();
    }

    /// Settles those outstanding whose turn the bits of `pick` say it is, the newest first.
    pub(super) fn settle(&mut self, pick: u64) {
        let picked: Vec<(Seq, Id)> = self
            .life
            .outstanding
            .iter()
            .map(|(s, id)| (*s, *id))
            .collect();
        for (at, (seq, id)) in picked.into_iter().enumerate().rev() {
            if pick >> (at % 64) & 1 == 0 {
                continue;
            }
            let outcome = if id.is_multiple_of(7) {
                self.life.dead_lettered += 1;
                Outcome::DeadLettered
            } else if id.is_multiple_of(5) {
                self.life.expired += 1;
                Outcome::Dropped(DropReason::Expired)
            } else {
                self.life.delivered += 1;
                Outcome::Delivered
            };
            self.stepped().spool.settle(&[seq], outcome);
            self.life.outstanding.remove(&seq);
            self.alive.remove(&id);
            self.settled.insert(id);
            self.sent[id].settled = true;
        }
        self.check();
    }

    pub(super) fn rewind(&mut self) {
        self.stepped().spool.rewind();
        self.life.outstanding.clear();
    }

    pub(super) fn keep_up(&mut self, keeping_up: bool) {
        self.stepped().spool.set_linked(keeping_up);
    }

    pub(super) fn set_free(&mut self, free_bytes: Option<usize>) {
        let used = self.model.used_bytes();
        self.model.set_capacity(free_bytes.map(|free| used + free));
    }

    /// Ends this life, opens the spool again and checks what is there.
    pub(super) fn end(&mut self, end: End) {
        if end == End::Closed && !self.model.is_off() {
            self.writing(|stepped| {
                // A full disk may keep it from saving all; then it says so.
                let _said = stepped.close();
            });
        }
        self.end_without_opening(end);
        self.open();
    }

    /// The end alone: what is there now is found by [`World::try_open`] or by the next [`World::end`].
    pub(super) fn end_without_opening(&mut self, end: End) {
        self.stepped = None;
        let power_is_cut = match end {
            End::PowerCut { seed } => {
                self.model.reboot(seed);
                true
            }
            // A power cut that came in between.
            _ if self.model.is_off() => {
                self.model.reboot(u64::from(self.model.steps()));
                true
            }
            _ => false,
        };
        if power_is_cut {
            self.cursor_written.clone_from(&self.cursor_synced);
        }
    }

    fn open(&mut self) {
        // Once it may lose its power.
        let opened = self.try_open() && self.found();
        if !opened {
            self.end_without_opening(End::ProcessCrash);
            assert!(self.try_open() && self.found(), "a spool always opens");
        }
    }

    /// Tries to open the spool on a disk that may lose its power meanwhile.
    pub(super) fn try_open(&mut self) -> bool {
        match Stepped::open(Arc::new(self.model.clone()), self.options) {
            Ok((stepped, recovery)) => {
                assert_eq!(recovery.spooled, stepped.spool.ledger().spooled);
                self.stepped = Some(stepped);
                true
            }
            Err(e) => {
                assert!(self.model.is_off(), "a spool always opens: {e}");
                false
            }
        }
    }

    /// Reads all that is there after a start and compares; `false` if the power went meanwhile.
    fn found(&mut self) -> bool {
        let opened = self.stepped().spool.ledger();
        let deliveries = match self.stepped().read_all() {
            Ok(deliveries) => deliveries,
            Err(e) => {
                assert!(self.model.is_off(), "the disk is sound: {e}");
                return false;
            }
        };
        let mut found = BTreeMap::new();
        let mut last = None;
        for delivery in &deliveries {
            let id = self.identify_content(delivery);
            assert!(last.is_none_or(|last| last < id), "{id} after {last:?}");
            last = Some(id);
            found.insert(delivery.seq, id);
        }
        let ids: BTreeSet<Id> = found.values().copied().collect();
        for id in self.alive.difference(&ids) {
            let sent = &self.sent[*id];
            if sent.settled {
                self.settled.insert(*id);
            } else {
                assert!(!sent.acknowledged, "acknowledged {id} is lost");
                self.lost += 1;
            }
        }
        for id in ids.difference(&self.alive) {
            assert!(self.settled.contains(id), "{id} was given up before");
            assert!(
                !self.cursor_written.contains(id),
                "{id} was settled long ago and comes again"
            );
        }
        let damaged = (opened.spooled)
            .checked_sub(found.len() as u64)
            .expect("no more can be read than is spooled");
        assert!(
            opened.dropped_damaged + damaged <= self.lost,
            "{} and {damaged} damaged, {} lost",
            opened.dropped_damaged,
            self.lost
        );
        self.stepped().spool.rewind();

        for id in &ids {
            self.settled.remove(id);
        }
        // Opening syncs the cursor.
        self.cursor_synced.clone_from(&self.cursor_written);
        self.alive = ids;
        self.life = Life {
            opened,
            damaged,
            safe: self.stepped().spool.progress().safe,
            ids: found,
            ..Life::default()
        };
        true
    }

    /// What must hold after each operation.
    fn check(&mut self) {
        let progress = self.stepped().spool.progress();
        assert!(progress.safe >= self.life.safe, "the watermark goes back");
        if !progress.failed {
            for (_, id) in self.life.ids.range(self.life.safe..progress.safe) {
                self.sent[*id].acknowledged = true;
            }
            self.life.safe = progress.safe;
        }
        assert_eq!(progress.failed, self.stepped().spool.failure().is_some());
        let ledger = self.stepped().spool.ledger();
        let (life, alive) = (&self.life, self.alive.len() as u64);
        let damaged = ledger.dropped_damaged - life.opened.dropped_damaged;
        assert!(damaged <= life.damaged, "{damaged} of {}", life.damaged);
        let expected = Ledger {
            delivered: life.opened.delivered + life.delivered,
            dead_lettered: life.opened.dead_lettered + life.dead_lettered,
            dropped_damaged: ledger.dropped_damaged,
            dropped_expired: life.opened.dropped_expired + life.expired,
            spooled: alive + life.damaged - damaged,
            ..life.opened
        };
        let accepted = life.opened.accepted() + life.appended;
        assert_eq!(ledger, expected);
        assert_eq!(ledger.accepted(), accepted);
        assert!(self.stepped().held_bytes() <= HELD_BYTES_MAX);
    }

    /// Delivers all that is left; afterwards nothing is spooled.
    pub(super) fn drain(&mut self) {
        self.model.set_capacity(None);
        self.model.clear_faults();
        self.rewind();
        self.run_late();
        let limit = self.alive.len() + 1;
        for _ in 0..limit {
            self.read(100);
            self.settle(u64::MAX);
        }
        assert_eq!(self.alive.len(), 0, "all was given out");
        assert_eq!(self.stepped().spool.ledger().spooled, 0);
        self.run_late();
        let segments = self.segments();
        assert!(
            segments <= 1,
            "{segments} segments are left of an empty spool"
        );
    }

    pub(super) fn segments(&self) -> usize {
        let files = super::storage::Storage::list(&self.model).expect("the power is on");
        files
            .iter()
            .filter(|(name, _)| segment::first_seq(name).is_some())
            .count()
    }

    fn identify(&self, delivery: &Delivery) -> Id {
        let id = self.life.ids.get(&delivery.seq).copied();
        let found = self.identify_content(delivery);
        assert_eq!(id, Some(found), "what {} stands for", delivery.seq);
        found
    }

    /// Which message it is, which must be whole.
    fn identify_content(&self, delivery: &Delivery) -> Id {
        let message = delivery.message().expect("a delivery is a message");
        let id: Id = message
            .topic
            .trim_start_matches("t/")
            .parse()
            .expect("a topic of this test");
        let sent = &self.sent[id];
        assert_eq!(message.attributes, attributes(id));
        assert_eq!(message.payload, sent.payload);
        assert_eq!(message.qos, sent.qos);
        assert_eq!(message.retain, id.is_multiple_of(3));
        let received = Timestamp {
            unix_ms: id as u64,
            clock_set: id.is_multiple_of(2),
        };
        assert_eq!(message.received, received);
        id
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.sent.iter().filter(|sent| sent.acknowledged).count()
    }

    pub(super) fn has_alive(&self) -> bool {
        !self.alive.is_empty()
    }
}

/// Every second message has none.
fn attributes(id: Id) -> Vec<u8> {
    vec![0xA7; if id.is_multiple_of(2) { 0 } else { id % 16 }]
}
