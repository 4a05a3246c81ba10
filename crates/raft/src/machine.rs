//! The purpose of a group: the state machine's contract, and the form in which the rest of the crate
//! holds it.
//!
//! openraft's engine is compiled once, for a machine behind a `dyn` reference, and not again for each `S`;
//! the price is one boxed reply per own proposal.

use std::any::Any;

use fanfare_log::{Frame, Log, Payload, Position};
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::{
    failure::{MachineError, RecoveryError},
    format_version::FormatVersion,
};

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

/// A deterministic machine over committed entries. No clock, no IO, no randomness.
pub trait StateMachine: Send + Sync + 'static {
    type Reply: Send + Sync + 'static;
    /// Called for every entry of kind 1..=254, in order.
    ///
    /// # Errors
    /// If the machine cannot apply the entry. The group fails in front of it: the machine is still read, and never asked
    /// to apply, publish or checkpoint again.
    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Result<Self::Reply, MachineError>;
    /// The lowest format version of a cluster whose members can all apply such an entry.
    fn format_version(proposal: &Proposal) -> FormatVersion;
    /// Called once after each run of applied entries (also blanks) and after an installed snapshot, outside the write
    /// lock: publish positions to watchers here. The proposers of the run have been answered by then, so who is
    /// answered finds the entry in the machine, but maybe not yet in what is published.
    fn publish(&self, applied: Position);
    /// The whole accumulated state, versioned and self-contained.
    fn checkpoint(&self) -> Vec<u8>;
    /// Replaces all state, derived state included, by that of a checkpoint.
    ///
    /// # Errors
    /// If the machine cannot read the checkpoint; the group does not open, or fails.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError>;
    /// None: ordinary snapshots at the applied position. Some: the log is kept above the anchor, and the log
    /// below it is purged; a position with index 0 says that nothing was trimmed yet. Always the same of the
    /// two.
    fn anchor(&self) -> Option<Anchor>;
    /// After restore at start: rebuild what is derived from the retained log up to and including `upto`.
    /// Blocking reads are fine.
    ///
    /// # Errors
    /// If the log cannot be read, or holds an entry that the machine cannot use; the group does not open.
    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), RecoveryError>;
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

/// An entry of a run that the machine could not apply.
pub(crate) struct RefusedEntry {
    /// Its place in the run; the steps before it are applied.
    pub(crate) step: usize,
    pub(crate) error: MachineError,
}

/// A [`StateMachine`] whose type is forgotten.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Applies a run under one write lock, up to the first refused entry. Then calls `settle` with the applied steps
    /// and publishes the position of the last one, outside the lock.
    fn apply_run(&self, run: &mut [Step], settle: &mut dyn FnMut(&mut [Step])) -> Result<(), RefusedEntry>;
    /// State and anchor of the same moment.
    fn capture(&self) -> (Vec<u8>, Option<Anchor>);
    fn restore(&self, bytes: &[u8]) -> Result<(), MachineError>;
    fn recover(&self, log: &Log, upto: Position) -> Result<(), RecoveryError>;
    fn publish(&self, applied: Position);
}

impl<S: StateMachine> Machine for RwLock<S> {
    fn apply_run(&self, run: &mut [Step], settle: &mut dyn FnMut(&mut [Step])) -> Result<(), RefusedEntry> {
        let mut machine = self.write();
        let refused = run.iter_mut().enumerate().find_map(|(at, step)| {
            let error = step.apply_to(&mut *machine).err()?;
            Some(RefusedEntry { step: at, error })
        });
        let applied = refused.as_ref().map_or(run.len(), |refused| refused.step);
        let machine = RwLockWriteGuard::downgrade(machine);
        settle(&mut run[..applied]);
        // A refused entry may have changed half of the state: nothing of it is published or saved.
        if let Some(refused) = refused {
            return Err(refused);
        }
        if let Some(last) = run.last() {
            machine.publish(last.frame.header.position);
        }
        Ok(())
    }

    fn capture(&self) -> (Vec<u8>, Option<Anchor>) {
        let machine = self.read();
        (machine.checkpoint(), machine.anchor())
    }

    fn restore(&self, bytes: &[u8]) -> Result<(), MachineError> {
        self.write().restore(bytes)
    }

    fn recover(&self, log: &Log, upto: Position) -> Result<(), RecoveryError> {
        self.write().recover(log, upto)
    }

    fn publish(&self, applied: Position) {
        self.read().publish(applied);
    }
}

impl Step {
    fn apply_to(&mut self, machine: &mut impl StateMachine) -> Result<(), MachineError> {
        if !is_application(self.frame.header.kind) {
            return Ok(());
        }
        let reply = machine.apply(&self.frame, self.mode)?;
        if self.wants_reply {
            self.reply = Some(Box::new(reply));
        }
        Ok(())
    }
}

pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_MEMBERSHIP: u8 = 255;

pub(crate) fn is_application(kind: u8) -> bool {
    kind != KIND_BLANK && kind != KIND_MEMBERSHIP
}
