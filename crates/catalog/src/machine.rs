//! The state as a machine of a replicated group.
//!
//! The machine may begin ahead of the group: with the state of the view on disk, which stands at an entry that the
//! log holds. A state contains every earlier state of the same log, so entries that it contains pass by, and an
//! older checkpoint changes nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fanfare_log::{Frame, Log, Position, ReadError};
use fanfare_raft::{Anchor, RestoreError, Scope, StateMachine};
use tokio::sync::watch;

use crate::{
    ChangeError, View,
    command::CommandError,
    state::{DocumentError, Reply, State},
};

/// The kind of every entry of the catalog's log.
pub(crate) const COMMAND: u8 = 1;
/// The kinds of the group's own entries.
const GROUP_KINDS: [u8; 2] = [0, 255];
/// How much of the log is read at once in recovery.
const RECOVERY_BYTES: u64 = 1 << 20;

pub(crate) struct Machine {
    pub(crate) state: State,
    views: watch::Sender<Arc<View>>,
    reached: watch::Sender<Reached>,
    applications: Arc<AtomicU64>,
}

/// A state, and the entry of any kind up to which the group has applied its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) state: State,
    pub(crate) upto: Position,
}

/// What a machine shows of itself from outside the group.
pub(crate) struct Shown {
    /// The newest view.
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) reached: watch::Receiver<Reached>,
    /// Commands applied since the machine began; those that it already contained do not count.
    pub(crate) applications: Arc<AtomicU64>,
}

impl Machine {
    pub(crate) fn starting_at(begin: Reached) -> (Self, Shown) {
        let state = begin.state.clone();
        let (views, shown_views) = watch::channel(Arc::clone(&state.view));
        let (reached, shown_reached) = watch::channel(begin);
        let applications = Arc::new(AtomicU64::new(0));
        let shown =
            Shown { views: shown_views, reached: shown_reached, applications: Arc::clone(&applications) };
        (Self { state, views, reached, applications }, shown)
    }

    fn take(&mut self, frame: &Frame) -> Result<Reply, CommandError> {
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

    /// # Panics
    /// If the entry is no command that this program understands: to skip it would be to differ from the replicas
    /// that do, so the catalog stops here.
    fn apply(&mut self, frame: &Frame, _scope: Scope) -> Reply {
        self.take(frame).unwrap_or_else(|error| {
            panic!("catalog stopped: the command at index {} {error}", frame.header.position.index)
        })
    }

    fn applied(&self, upto: Position) {
        self.views.send_if_modified(|shown| {
            let newer = shown.revision < self.state.view.revision;
            if newer {
                *shown = Arc::clone(&self.state.view);
            }
            newer
        });
        self.reached.send_if_modified(|shown| {
            let newer = shown.upto.index < upto.index;
            if newer {
                *shown = Reached { state: self.state.clone(), upto };
            }
            newer
        });
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.state.encode()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let restored = State::decode(bytes).map_err(|error| match error {
            DocumentError::Newer => RestoreError("the catalog's state was written by a newer program"),
            DocumentError::Malformed => RestoreError("the catalog's state is malformed"),
        })?;
        if restored.applied_index() > self.state.applied_index() {
            self.state = restored;
        }
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        None
    }

    /// Applies what the group took for applied and the checkpoint does not contain: a program that stopped at a command
    /// it did not understand may have left that behind. Ordinarily there are only entries of the group's own.
    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), ReadError> {
        let purged = log.bounds().purged.map_or(0, |purged| purged.index);
        let mut next = self.state.applied_index().max(purged) + 1;
        while next <= upto.index {
            let frames = log.read(next, upto.index + 1, RECOVERY_BYTES)?;
            let Some(last) = frames.last() else { break };
            next = last.header.position.index + 1;
            for frame in frames.iter().filter(|frame| !GROUP_KINDS.contains(&frame.header.kind)) {
                let index = frame.header.position.index;
                // Nobody waits for the replies of a start.
                self.take(frame).map(drop).map_err(|error| ReadError::Io {
                    path: format!("the catalog's command at index {index}"),
                    message: format!("it {error}"),
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
