//! What can go wrong at the seam, and when.

/// An operation at the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Create,
    Open,
    List,
    Rename,
    Remove,
    SyncDirectory,
    FreeBytes,
    Write,
    Read,
    SyncData,
    SetLen,
}

impl Operation {
    /// Each of them.
    pub(crate) const ALL: [Operation; 11] = [
        Operation::Create,
        Operation::Open,
        Operation::List,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDirectory,
        Operation::FreeBytes,
        Operation::Write,
        Operation::Read,
        Operation::SyncData,
        Operation::SetLen,
    ];
}

/// What happens at a faulty operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The power goes: the operation may or may not have reached the flash, all later ones fail.
    PowerCut,
    /// `EIO`: of a write a part is done, a sync makes nothing durable, all else does nothing.
    Eio,
    /// `ENOSPC`: of a write a part is done, all else does nothing.
    Enospc,
}

impl Effect {
    /// Each of them.
    pub(crate) const ALL: [Effect; 3] = [Effect::PowerCut, Effect::Eio, Effect::Enospc];
}

/// When it happens, counted from the injection; 1 is the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// At the n-th operation of this kind.
    Nth(Operation, u32),
    /// At the n-th operation of this kind on this file.
    On(Operation, &'static str, u32),
    /// At the n-th operation of any kind.
    Step(u32),
}

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) trigger: Trigger,
    pub(crate) effect: Effect,
}
