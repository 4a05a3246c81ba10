//! The state as a machine of a replicated group.
//!
//! The machine may begin ahead of the group: with the state of the view on disk, at a position that the log holds. A
//! state contains every earlier state of the same log, so entries at or below its position are passed over, and an
//! older checkpoint changes nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fanfare_log::{Frame, Log, Position};
use fanfare_raft::{Anchor, ApplyMode, FormatVersion, MachineError, Proposal, RecoveryError, StateMachine};
use tokio::sync::watch;

use crate::{
    ChangeError, View,
    command::CommandError,
    state::{DocumentError, Reply, State},
};

/// Kind of every entry of the catalog's log.
pub(crate) const COMMAND: u8 = 1;
/// Kinds of the group's own entries.
const GROUP_KINDS: [u8; 2] = [0, 255];
/// Bytes of the log read at once in recovery.
const RECOVERY_BYTES: u64 = 1 << 20;

pub(crate) struct Machine {
    pub(crate) state: State,
    views: watch::Sender<Arc<View>>,
    applied: watch::Sender<Applied>,
    applications: Arc<AtomicU64>,
}

/// A state, and the entry of any kind up to which the group has applied its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) state: State,
    pub(crate) position: Position,
}

/// The outside of a machine that a group owns.
pub(crate) struct MachineWatch {
    /// The newest view.
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) applied: watch::Receiver<Applied>,
    /// Commands applied since the machine began, without those that the first state contained.
    pub(crate) applications: Arc<AtomicU64>,
}

impl Machine {
    pub(crate) fn starting_at(first: Applied) -> (Self, MachineWatch) {
        let state = first.state.clone();
        let (views, watched_views) = watch::channel(state.view.clone());
        let (applied, watched_applied) = watch::channel(first);
        let applications = Arc::new(AtomicU64::new(0));
        let watch = MachineWatch {
            views: watched_views,
            applied: watched_applied,
            applications: applications.clone(),
        };
        (Self { state, views, applied, applications }, watch)
    }

    fn apply_frame(&mut self, frame: &Frame) -> Result<Reply, CommandError> {
        let position = frame.header.position;
        if position.index <= self.state.applied_index() {
            // Nobody waits for the reply to an entry from before this start.
            return Ok(Err(ChangeError::Unknown));
        }
        if frame.header.kind != COMMAND {
            return Err(CommandError::UnknownKind { kind: frame.header.kind });
        }
        let stored = frame.payload.slice(0..frame.payload.len());
        let reply = self.state.apply(position, &stored)?;
        self.applications.fetch_add(1, Ordering::Relaxed);
        Ok(reply)
    }
}

impl StateMachine for Machine {
    type Reply = Reply;

    /// # Errors
    /// If the entry is no command of this program's format. Passing over it would make this replica differ from those
    /// that understand it.
    fn apply(&mut self, frame: &Frame, _mode: ApplyMode) -> Result<Reply, MachineError> {
        self.apply_frame(frame).map_err(machine_error)
    }

    /// Every command is of the first format: no later one exists.
    fn format_version(_proposal: &Proposal) -> FormatVersion {
        FormatVersion::FIRST
    }

    fn publish(&self, position: Position) {
        self.views.send_if_modified(|shown| {
            let newer = shown.revision < self.state.view.revision;
            if newer {
                *shown = self.state.view.clone();
            }
            newer
        });
        self.applied.send_if_modified(|shown| {
            let newer = shown.position.index < position.index;
            if newer {
                *shown = Applied { state: self.state.clone(), position };
            }
            newer
        });
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.state.encode()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let restored = State::decode(bytes).map_err(|error| {
            let detail = error.to_string();
            match error {
                DocumentError::Newer => MachineError::Newer { detail },
                DocumentError::Older | DocumentError::Malformed => MachineError::Invalid { detail },
            }
        })?;
        if restored.applied_index() > self.state.applied_index() {
            self.state = restored;
        }
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        None
    }

    /// Applies commands that the group had applied and the checkpoint does not contain. A program that stopped at a
    /// command of a newer one may have left such commands; ordinarily only entries of the group's own are there.
    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), RecoveryError> {
        let purged = log.bounds().purged.map_or(0, |purged| purged.index);
        let mut next = self.state.applied_index().max(purged) + 1;
        while next <= upto.index {
            let frames = log.read(next, upto.index + 1, RECOVERY_BYTES)?;
            let Some(last) = frames.last() else { break };
            next = last.header.position.index + 1;
            for frame in frames.iter().filter(|frame| !GROUP_KINDS.contains(&frame.header.kind)) {
                let index = frame.header.position.index;
                // Nobody waits for the replies of a start.
                let applied = self.apply_frame(frame).map(drop);
                applied.map_err(|error| RecoveryError::Entry { index, source: machine_error(error) })?;
            }
        }
        Ok(())
    }
}

fn machine_error(error: CommandError) -> MachineError {
    let detail = format!("the command {error}");
    match error {
        CommandError::Newer { .. } | CommandError::UnknownKind { .. } => MachineError::Newer { detail },
        CommandError::Older { .. } | CommandError::Malformed(_) => MachineError::Invalid { detail },
    }
}

#[cfg(test)]
mod tests;
