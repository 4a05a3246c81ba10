//! The purpose of a group: the state machine's contract, and the form in which the rest of the crate
//! holds it.
//!
//! openraft's engine is compiled once, for a machine behind a `dyn` reference, and not again for each `S`;
//! the price is one boxed reply per own proposal.

use std::any::Any;

use fanfare_log::{Frame, Log, Payload, Position, ReadError};
use parking_lot::{RwLock, RwLockWriteGuard};

/// A proposal: one entry of the group's log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// 1..=254; 0 and 255 are this crate's.
    pub kind: u8,
    /// How many offsets the entry takes.
    pub count: u32,
    pub time_ms: u64,
    pub payload: Payload,
}

/// Part of a machine's state that an applied entry may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyMode {
    /// Everything.
    Live,
    /// Only state that is derived from the retained log: the entry is at or below the state index of an installed
    /// snapshot or checkpoint, whose accumulated state contains its effect.
    Replay,
}

/// A log position that a snapshot is anchored at, and the offset that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub position: Position,
    pub next_offset: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("restore a checkpoint: {0}")]
pub struct RestoreError(pub &'static str);

/// A deterministic machine over committed entries. No clock, no IO, no randomness.
pub trait StateMachine: Send + Sync + 'static {
    type Reply: Send + Sync + 'static;
    /// Called for every entry of kind 1..=254, in order.
    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Self::Reply;
    /// Called once after each run of applied entries (also blanks) and after an installed snapshot, outside the write
    /// lock: publish positions to watchers here. The proposers of the run have been answered by then, so who is
    /// answered finds the entry in the machine, but maybe not yet in what is published.
    fn publish(&self, applied: Position);
    /// The whole accumulated state, versioned and self-contained.
    fn checkpoint(&self) -> Vec<u8>;
    /// Replaces all state, derived state included, by that of a checkpoint.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError>;
    /// None: ordinary snapshots at the applied position. Some: the log is kept above the anchor, and the log
    /// below it is purged; a position with index 0 says that nothing was trimmed yet. Always the same of the
    /// two.
    fn anchor(&self) -> Option<Anchor>;
    /// After restore at start: rebuild what is derived from the retained log up to and including `upto`.
    /// Blocking reads are fine.
    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), ReadError>;
}

/// A reply on its way from the machine to the proposer that knows its type.
pub(crate) type AnyReply = Box<dyn Any + Send + Sync>;

/// One entry of a run handed to the machine.
pub(crate) struct Step {
    pub(crate) frame: Frame,
    pub(crate) mode: ApplyMode,
    pub(crate) wants_reply: bool,
    pub(crate) reply: Option<AnyReply>,
}

/// A [`StateMachine`] whose type is forgotten.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Applies a run under one write lock, then calls `settle` and the machine's `applied` outside it.
    fn apply_run(&self, run: &mut [Step], applied: Position, settle: &mut dyn FnMut(&mut [Step]));
    /// State and anchor of the same moment.
    fn capture(&self) -> (Vec<u8>, Option<Anchor>);
    fn restore(&self, bytes: &[u8]) -> Result<(), RestoreError>;
    fn recover(&self, log: &Log, upto: Position) -> Result<(), ReadError>;
    fn publish(&self, applied: Position);
}

impl<S: StateMachine> Machine for RwLock<S> {
    fn apply_run(&self, run: &mut [Step], applied: Position, settle: &mut dyn FnMut(&mut [Step])) {
        let mut machine = self.write();
        for step in run.iter_mut().filter(|step| is_application(step.frame.header.kind)) {
            let reply = machine.apply(&step.frame, step.mode);
            if step.wants_reply {
                step.reply = Some(Box::new(reply));
            }
        }
        let machine = RwLockWriteGuard::downgrade(machine);
        settle(run);
        machine.publish(applied);
    }

    fn capture(&self) -> (Vec<u8>, Option<Anchor>) {
        let machine = self.read();
        (machine.checkpoint(), machine.anchor())
    }

    fn restore(&self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.write().restore(bytes)
    }

    fn recover(&self, log: &Log, upto: Position) -> Result<(), ReadError> {
        self.write().recover(log, upto)
    }

    fn publish(&self, applied: Position) {
        self.read().publish(applied);
    }
}

pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_MEMBERSHIP: u8 = 255;

pub(crate) fn is_application(kind: u8) -> bool {
    kind != KIND_BLANK && kind != KIND_MEMBERSHIP
}
