//! openraft's state machine over ours: applies runs, answers proposers, builds and installs anchored
//! snapshots.
//!
//! It owns the place in the log that the machine has reached; machine and place change together, under
//! `progress`.

use std::{io, sync::Arc};

use bytes::Bytes;
use fanfare_log::Log;
use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    entry::RaftEntry,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    checkpoint::{Checkpoint, Checkpoints, effective_at},
    entry::{AppliedEntry, LeaderId, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, position_of},
    failure::{FailureLatch, GroupFailure, MachineError},
    machine::{Anchor, ApplyMode, Machine, RefusedEntry, Step},
    members::MembersRecord,
};

/// The machine's write lock is taken once for at most this many entries: readers wait that long.
pub(crate) const RUN_ENTRIES_MAX: usize = 64;

/// The place in the log that the machine has reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) applied: Option<LogId>,
    pub(crate) next_offset: u64,
    /// Entries from this index on change all of the machine, those below only what is derived from the log.
    pub(crate) live_from: u64,
    /// In log order, from the one in effect at the last checkpoint's base.
    pub(crate) memberships: Vec<StoredMembership>,
}

impl Progress {
    /// The place that a checkpoint of this replica stands for.
    pub(crate) fn at(checkpoint: &Checkpoint) -> Self {
        Self {
            applied: Some(checkpoint.applied),
            next_offset: checkpoint.next_offset,
            live_from: checkpoint.live_from,
            memberships: checkpoint.memberships.clone(),
        }
    }

    fn mode_of(&self, index: u64) -> ApplyMode {
        if index >= self.live_from { ApplyMode::Live } else { ApplyMode::Replay }
    }

    fn note(&mut self, applied: Place) {
        self.applied = Some(applied.log_id);
        self.next_offset = applied.end_offset;
        self.memberships.extend(applied.membership);
    }

    pub(crate) fn membership(&self) -> StoredMembership {
        self.memberships.last().cloned().unwrap_or_default()
    }
}

/// The place in the log that one entry takes the machine to.
struct Place {
    log_id: LogId,
    end_offset: u64,
    membership: Option<StoredMembership>,
}

/// Entries that are applied under one lock.
#[derive(Default)]
struct Run {
    steps: Vec<Step>,
    places: Vec<Place>,
    responders: Vec<Option<ApplyResponder<Types>>>,
}

impl Run {
    fn push(
        &mut self,
        (entry, responder): EntryResponder<Types>,
        mode: ApplyMode,
    ) -> Result<(), GroupFailure> {
        let log_id = entry.log_id();
        let membership =
            entry.get_membership().map(|membership| StoredMembership::new(Some(log_id), membership));
        let frame = entry.into_frame().map_err(|error| GroupFailure::Entry { index: log_id.index, error })?;
        self.places.push(Place { log_id, end_offset: frame.header.end_offset(), membership });
        self.steps.push(Step { frame, mode, wants_reply: responder.is_some(), reply: None });
        self.responders.push(responder);
        Ok(())
    }

    /// Refuses entries that do not follow each other, the first of them `progress`. Everyone who computes an offset
    /// relies on it.
    fn check_follows(&self, progress: &Progress) -> Result<(), GroupFailure> {
        let mut last_index = progress.applied.map(|last| last.index);
        let mut next_offset = progress.next_offset;
        for header in self.steps.iter().map(|step| &step.frame.header) {
            let (index, base_offset) = (header.position.index, header.base_offset);
            if last_index >= Some(index) || base_offset != next_offset || !header.has_offsets() {
                let count = header.count;
                let detail = format!(
                    "it takes {count} offsets from {base_offset} on; offset {next_offset} is next, after index {last_index:?}"
                );
                return Err(GroupFailure::Entry { index, error: MachineError::Invalid { detail } });
            }
            (last_index, next_offset) = (Some(index), header.end_offset());
        }
        Ok(())
    }
}

/// The machine of one replica with its place in the log. Shared by openraft's worker, snapshot builders and
/// the checkpoint task.
pub(crate) struct Applier {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) log: Log,
    pub(crate) installed: Arc<Mutex<Option<Anchor>>>,
    pub(crate) members: Arc<MembersRecord>,
    /// The leader whose entry was applied last: when it is this replica in its current term, it may act.
    pub(crate) applied_leader: watch::Sender<Option<LeaderId>>,
    /// A failed machine sets it under `progress`: from then on its state is neither published nor saved.
    pub(crate) failure: FailureLatch,
}

impl Applier {
    /// Applies a run up to the first entry that the machine refuses, and answers the proposers of what is applied.
    pub(crate) fn apply_run(&self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut progress = self.progress.lock();
        // The entry that the group failed of may have changed half of the machine, and a start may have met it before
        // the engine does.
        if let Some(failure) = self.failure.get() {
            return Err(self.fail(failure.clone()));
        }
        let mut run = Run::default();
        for (entry, responder) in entries {
            let mode = progress.mode_of(entry.log_id().index);
            run.push((entry, responder), mode).map_err(|failure| self.fail(failure))?;
        }
        // Before the machine: an entry out of place would change it, and a machine cannot go back.
        run.check_follows(&progress).map_err(|failure| self.fail(failure))?;
        let Run { mut steps, places, responders } = run;
        let mut places = places.into_iter();
        let mut responders = responders.into_iter();
        let result = self.machine.apply_run(&mut steps, &mut |applied| {
            for ((step, place), responder) in applied.iter_mut().zip(&mut places).zip(&mut responders) {
                // Before the proposer is answered: whoever acts on the answer must find the entry applied.
                progress.note(place);
                let Step { frame, mode, .. } = &*step;
                tracing::trace!(group = self.checkpoints.file(), ?mode, header = ?frame.header, "applied");
                if let Some(responder) = responder {
                    let base_offset = step.frame.header.base_offset;
                    responder.send(AppliedEntry { base_offset, reply: step.reply.take() });
                }
            }
        });
        if let Err(RefusedEntry { step, error }) = result {
            let index = steps[step].frame.header.position.index;
            return Err(self.fail(GroupFailure::Entry { index, error }));
        }
        let applied = progress.applied;
        // The machine holds the entry by now: a leader whose blank entry is announced may act, and read it, at once.
        drop(progress);
        if let Some(applied) = applied {
            self.announce(applied.leader_id);
        }
        Ok(())
    }

    /// Ends the group in order, for this reason or an earlier one: openraft stops it when it gets the error. A caller
    /// that may have changed the machine holds `progress`.
    pub(crate) fn fail(&self, failure: GroupFailure) -> io::Error {
        let failure = self.failure.get_or_init(|| failure);
        io::Error::other(format!("{failure}; {}", failure.remedy()))
    }

    fn announce(&self, leader: LeaderId) {
        self.applied_leader.send_if_modified(|known| known.replace(leader) != Some(leader));
    }

    /// State and place of one moment. None if nothing was applied yet, or the machine has failed.
    pub(crate) fn capture(&self) -> Option<Checkpoint> {
        let mut progress = self.progress.lock();
        // The entry that the group failed of may have changed half of the machine.
        if matches!(self.failure.get(), Some(GroupFailure::Entry { .. } | GroupFailure::State { .. })) {
            return None;
        }
        let applied = progress.applied?;
        let (machine, anchor) = self.machine.capture();
        let mut checkpoint = Checkpoint {
            applied,
            next_offset: progress.next_offset,
            live_from: progress.live_from.max(applied.index + 1),
            memberships: Vec::new(),
            anchor,
            installed: false,
            machine: machine.into(),
        };
        let oldest = checkpoint.base().map_or(0, |base| base.position.index);
        let needed = effective_at(&progress.memberships, oldest).unwrap_or(0);
        checkpoint.memberships = progress.memberships[needed..].to_vec();
        progress.memberships.drain(..needed);
        Some(checkpoint)
    }

    async fn install(&self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let base =
            meta.last_log_id.ok_or_else(|| io::Error::other("install a snapshot: it has no log id"))?;
        let received = Checkpoint::decode(data).map_err(io::Error::other)?;
        let checkpoint = received.rebased(base, meta.last_membership.clone()).map_err(io::Error::other)?;

        // Before the state is durable: from then on this replica counts in a group of several, and giving up a loss alone
        // must be refused even if everything else here is damaged.
        self.members.note(meta.last_membership.membership()).await.map_err(io::Error::other)?;
        // Held from here to the save: a checkpoint of the former state, captured before and saved after, would replace the
        // installed one, and the log that the former state needs is purged by then.
        let _saving = self.checkpoints.saving.lock().await;
        {
            let mut progress = self.progress.lock();
            let restored = self.machine.restore(&checkpoint.machine);
            restored.map_err(|error| {
                self.fail(GroupFailure::State { file: "a peer's snapshot".to_owned(), error })
            })?;
            // Under one lock with the machine: a checkpoint taken in between would join the new state to the old place.
            *progress = Progress::at(&checkpoint);
        }
        let position = position_of(base);
        // For the purge that openraft asks for next: this log has no entry at `base` that would tell the offset.
        *self.installed.lock() = Some(Anchor { position, next_offset: checkpoint.next_offset });
        // openraft purges the log up to `base` when this returns, so the state must be durable before.
        self.checkpoints.save(checkpoint).await.map_err(io::Error::other)?;
        // After the save: a reader that was told of the new start must find it again after a crash.
        self.machine.publish(position);
        self.announce(base.leader_id);
        Ok(())
    }
}

/// openraft's handle on an [`Applier`]: its state machine and its snapshot builder.
#[derive(Clone)]
pub(crate) struct Adapter(pub(crate) Arc<Applier>);

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let progress = self.0.progress.lock();
        Ok((progress.applied, progress.membership()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut runs = entries.ready_chunks(RUN_ENTRIES_MAX);
        while let Some(run) = runs.next().await {
            self.0.apply_run(run.into_iter().collect::<io::Result<Vec<_>>>()?)?;
        }
        Ok(())
    }

    /// A snapshot is made of the newest durable checkpoint. Only a forced one may be made of the present
    /// state.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        if !force {
            self.0.checkpoints.latest()?.base()?;
        } else if let Some(present) = self.0.capture() {
            self.0.checkpoints.adopt(present);
        }
        Some(self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        self.0.install(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.0.checkpoints.latest().and_then(|checkpoint| checkpoint.to_snapshot()))
    }
}

impl RaftSnapshotBuilder<Types> for Adapter {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = self.0.checkpoints.latest().and_then(|checkpoint| checkpoint.to_snapshot());
        // An empty snapshot: openraft asks for one at a start on a purged log, but recovery has refused a log
        // without its state before.
        let of_nothing = || Snapshot { meta: SnapshotMeta::default(), snapshot: Bytes::new() };
        Ok(snapshot.unwrap_or_else(of_nothing))
    }
}
