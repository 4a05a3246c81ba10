//! The state that a replica starts from: its checkpoint if that fits its log, otherwise everything that the log
//! retains.
//!
//! If the state were ahead of the log, openraft would take the gap for a hole and purge the whole log up to the state.
//! So a checkpoint above the log's last entry is thrown away, unless it is an installed snapshot, whose log is made to
//! start above it here.

use std::{io, sync::Arc};

use fanfare_environment::{Bug, Environment, planted};
use fanfare_log::{Log, Position};

use crate::{
    apply::Progress,
    checkpoint::{Checkpoint, Checkpoints, StoredCheckpoint},
    entry::position_of,
    error::OpenError,
    failure::{GroupFailure, MachineError, RecoveryError},
    id::GroupId,
    log_storage::durable,
    machine::Machine,
};

pub(crate) struct Recovery<'a> {
    pub(crate) group: GroupId,
    pub(crate) checkpoints: &'a Checkpoints,
    pub(crate) log: &'a Log,
    pub(crate) machine: &'a Arc<dyn Machine>,
    pub(crate) environment: &'a Environment,
}

impl Recovery<'_> {
    /// Restores the machine; returns the place in the log that it stands at.
    pub(crate) async fn run(&self) -> Result<Progress, OpenError> {
        let group = self.group;
        let stored = self.checkpoints.load().await;
        match stored.map_err(|error| self.unloadable(error))? {
            StoredCheckpoint::Missing => self.replay_all("there is no checkpoint"),
            StoredCheckpoint::Damaged(reason) => {
                tracing::warn!(%group, reason, "checkpoint is damaged; the retained log is replayed instead");
                self.replay_all(&format!("its checkpoint is damaged ({reason})"))
            }
            StoredCheckpoint::Intact(checkpoint) if checkpoint.installed => {
                self.finish_install(&checkpoint).await.map_err(|e| self.refused(e.to_string()))?;
                self.restore(checkpoint).await
            }
            StoredCheckpoint::Intact(checkpoint)
                if self.is_above_log(&checkpoint) && !planted(Bug::AppliedAheadOfFlush) =>
            {
                let (applied, bounds) = (checkpoint.applied.index, self.log.bounds());
                let last = bounds.last.or(bounds.purged).map(|last| last.index);
                tracing::warn!(
                    %group, applied, last,
                    "checkpoint is above the log's end; it is dropped and the retained log replayed"
                );
                self.replay_all("its checkpoint is above the log's end")
            }
            StoredCheckpoint::Intact(checkpoint) => self.restore(checkpoint).await,
        }
    }

    fn is_above_log(&self, checkpoint: &Checkpoint) -> bool {
        let bounds = self.log.bounds();
        bounds.last.max(bounds.purged).is_none_or(|last| last.index < checkpoint.applied.index)
    }

    /// Finishes an install that a crash interrupted between saving the state and purging the log.
    async fn finish_install(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let start = position_of(checkpoint.applied);
        if self.log.bounds().purged.is_some_and(|purged| purged.index >= start.index) {
            return Ok(());
        }
        // The state is durable and was so before the purge was begun: only the purge is missing. The log's own entries are
        // below the state, and a start that kept them would replay them into it.
        durable(|done| self.log.purge(start, checkpoint.next_offset, done)).await
    }

    async fn restore(&self, checkpoint: Checkpoint) -> Result<Progress, OpenError> {
        let applied = position_of(checkpoint.applied);
        if let Some(purged) = self.log.bounds().purged.filter(|purged| purged.index > applied.index) {
            let (applied, purged) = (applied.index, purged.index);
            return Err(self.unfit(&format!(
                "the checkpoint stands at index {applied}, but the log was purged up to {purged}"
            )));
        }
        self.machine.restore(&checkpoint.machine).map_err(|error| {
            self.unusable(GroupFailure::State { file: self.checkpoints.file().to_owned(), error })
        })?;
        // After `restore`, which replaces derived state, too: in the other order the machine would start without it.
        self.rebuild_derived(applied).await.map_err(|error| match error {
            RecoveryError::Log(error) => self.unusable(GroupFailure::damaged(error)),
            RecoveryError::Entry { index, source: error } => {
                self.unusable(GroupFailure::Entry { index, error })
            }
        })?;
        let progress = Progress::at(&checkpoint);
        // Adopted once all of it is restored: openraft makes snapshots of the adopted checkpoint and purges up to its base.
        self.checkpoints.adopt(checkpoint);
        self.machine.publish(applied);
        Ok(progress)
    }

    async fn rebuild_derived(&self, applied: Position) -> Result<(), RecoveryError> {
        let (machine, log) = (self.machine.clone(), self.log.clone());
        self.environment.run_blocking(move || machine.recover(&log, applied)).await
    }

    fn replay_all(&self, reason: &str) -> Result<Progress, OpenError> {
        match self.log.bounds().purged {
            None => Ok(Progress::default()),
            Some(purged) => Err(self.unfit(&format!(
                "{reason}, and the log was purged up to index {}: the state before it is gone",
                purged.index
            ))),
        }
    }

    /// The checkpoint alone does not make up for the purged part of the log.
    fn unfit(&self, reason: &str) -> OpenError {
        self.unusable(GroupFailure::damaged(format!("{}: {reason}", self.checkpoints.file())))
    }

    fn unloadable(&self, error: fanfare_log::OpenError) -> OpenError {
        match error {
            fanfare_log::OpenError::Newer { path: file, version } => {
                let error = MachineError::Newer { detail: format!("it is of version {version}") };
                self.unusable(GroupFailure::State { file, error })
            }
            source => OpenError::Log { group: self.group, source },
        }
    }

    fn unusable(&self, failure: GroupFailure) -> OpenError {
        OpenError::unusable(self.group, failure, &self.log.bounds())
    }

    fn refused(&self, reason: String) -> OpenError {
        OpenError::Group { group: self.group, reason }
    }
}
