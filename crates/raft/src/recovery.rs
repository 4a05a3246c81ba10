//! What a replica starts from: its checkpoint if that fits its log, otherwise everything that the log
//! retains.
//!
//! If the state were ahead of the log, openraft would take the gap for a hole and purge the whole log up to
//! the state. So a checkpoint above the log's last entry is thrown away, unless it is an installed snapshot,
//! whose log is made to start above it here.

use std::io;

use fanfare_log::{Log, ReadError};
use tokio::sync::oneshot;

use crate::apply::Progress;
use crate::checkpoint::{Checkpoint, Checkpoints, Found};
use crate::entry::position_of;
use crate::group::{OpenError, corrupt};
use crate::machine::Machine;

const WAY_OUT: &str =
    "remove this replica so that its peers build it anew, or restore the directory from a backup";

pub(crate) struct Recovery<'a> {
    pub(crate) group: &'a str,
    pub(crate) checkpoints: &'a Checkpoints,
    pub(crate) log: &'a Log,
    pub(crate) machine: &'a dyn Machine,
}

impl Recovery<'_> {
    /// Restores the machine and says where it stands. Blocking.
    pub(crate) fn run(&self) -> Result<Progress, OpenError> {
        let found = self.checkpoints.load();
        match found.map_err(|source| OpenError::Log { group: self.group.to_owned(), source })? {
            Found::Nothing => self.replay_all("there is no checkpoint"),
            Found::Damaged(what) => {
                tracing::warn!(group = self.group, what, "checkpoint unusable");
                self.replay_all(&format!("its checkpoint is damaged ({what})"))
            }
            Found::Checkpoint(checkpoint) if checkpoint.installed => {
                self.start_log_above(&checkpoint).map_err(|e| self.refused(e.to_string()))?;
                self.restore(checkpoint)
            }
            Found::Checkpoint(checkpoint) if self.is_above_log(&checkpoint) => {
                let (stands_at, bounds) = (checkpoint.applied.index, self.log.bounds());
                let last = bounds.last.or(bounds.purged).map(|last| last.index);
                tracing::warn!(group = self.group, stands_at, last, "checkpoint is above the log's end");
                self.replay_all("its checkpoint is above the log's end")
            }
            Found::Checkpoint(checkpoint) => self.restore(checkpoint),
        }
    }

    fn is_above_log(&self, checkpoint: &Checkpoint) -> bool {
        let bounds = self.log.bounds();
        bounds.last.max(bounds.purged).is_none_or(|last| last.index < checkpoint.applied.index)
    }

    /// Finishes an install that a crash interrupted between saving the state and purging the log.
    fn start_log_above(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let start = position_of(checkpoint.applied);
        if self.log.bounds().purged.is_some_and(|purged| purged.index >= start.index) {
            return Ok(());
        }
        let (done, purged) = oneshot::channel();
        self.log.purge(start, checkpoint.next_offset, Box::new(move |result| drop(done.send(result))));
        purged.blocking_recv().map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn restore(&self, checkpoint: Checkpoint) -> Result<Progress, OpenError> {
        let applied = position_of(checkpoint.applied);
        if let Some(purged) = self.log.bounds().purged.filter(|purged| purged.index > applied.index) {
            let (applied, purged) = (applied.index, purged.index);
            return Err(self.unfit(&format!(
                "the checkpoint stands at index {applied}, but the log was purged up to {purged}; \
                 {WAY_OUT}"
            )));
        }
        self.machine.restore(&checkpoint.machine).map_err(|e| self.refused(e.to_string()))?;
        self.machine.recover(self.log, applied).map_err(|error| match error {
            ReadError::Corrupt { .. } => corrupt(self.group, &error.to_string(), &self.log.bounds()),
            ReadError::Purged { .. } | ReadError::Io { .. } => self.refused(error.to_string()),
        })?;
        let progress = Progress::at(&checkpoint);
        self.checkpoints.adopt(checkpoint);
        self.machine.publish(applied);
        Ok(progress)
    }

    fn replay_all(&self, why: &str) -> Result<Progress, OpenError> {
        match self.log.bounds().purged {
            None => Ok(Progress::default()),
            Some(purged) => Err(self.unfit(&format!(
                "{why}, and the log was purged up to index {}: the state before it is gone; \
                 {WAY_OUT}",
                purged.index
            ))),
        }
    }

    /// The checkpoint alone does not make up for what is gone from the log.
    fn unfit(&self, what: &str) -> OpenError {
        corrupt(self.group, &format!("{}: {what}", self.checkpoints.file()), &self.log.bounds())
    }

    fn refused(&self, what: String) -> OpenError {
        OpenError::Group { group: self.group.to_owned(), what }
    }
}
