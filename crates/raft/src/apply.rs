//! openraft's state machine over ours: applies runs, answers proposers, builds and installs anchored
//! snapshots.
//!
//! It owns the place in the log that the machine has reached; machine and place change together, under
//! `progress`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_log::Log;
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::checkpoint::{Checkpoint, Checkpoints, effective_at};
use crate::entry::{
    AppliedEntry, Entry, LeaderId, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, position_of,
};
use crate::machine::{Anchor, ApplyMode, Machine, Step};

/// The machine's write lock is taken once for at most this many entries: readers wait that long.
const RUN_ENTRIES_MAX: usize = 64;

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

    fn note(&mut self, entry: &Entry) -> ApplyMode {
        let log_id = entry.log_id();
        if let Some(membership) = entry.get_membership() {
            self.memberships.push(StoredMembership::new(Some(log_id), membership));
        }
        self.applied = Some(log_id);
        if log_id.index >= self.live_from { ApplyMode::Live } else { ApplyMode::Replay }
    }

    fn membership(&self) -> StoredMembership {
        self.memberships.last().cloned().unwrap_or_default()
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
    /// The leader whose entry was applied last: when it is this replica in its current term, it may act.
    pub(crate) applied_leader: watch::Sender<Option<LeaderId>>,
}

impl Applier {
    fn apply_run(&self, run: Vec<EntryResponder<Types>>) {
        let mut progress = self.progress.lock();
        let mut steps = Vec::with_capacity(run.len());
        let mut responders: Vec<Option<ApplyResponder<Types>>> = Vec::with_capacity(run.len());
        for (entry, responder) in run {
            let mode = progress.note(&entry);
            let step =
                Step { frame: entry.into_frame(), mode, wants_reply: responder.is_some(), reply: None };
            steps.push(step);
            responders.push(responder);
        }
        let (Some(last), Some(applied)) = (steps.last(), progress.applied) else { return };
        progress.next_offset = last.frame.header.end_offset();
        self.machine.apply_run(&mut steps, position_of(applied), &mut |steps| {
            for (step, responder) in steps.iter_mut().zip(responders.iter_mut()) {
                if let Some(responder) = responder.take() {
                    let base_offset = step.frame.header.base_offset;
                    responder.send(AppliedEntry { base_offset, reply: step.reply.take() });
                }
            }
        });
        drop(progress);
        self.announce(applied.leader_id);
    }

    fn announce(&self, leader: LeaderId) {
        self.applied_leader.send_if_modified(|known| known.replace(leader) != Some(leader));
    }

    /// State and place of one moment, or None if nothing was applied yet.
    pub(crate) fn capture(&self) -> Option<Checkpoint> {
        let mut progress = self.progress.lock();
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

        let _saving = self.checkpoints.saving.lock().await;
        {
            let mut progress = self.progress.lock();
            self.machine.restore(&checkpoint.machine).map_err(io::Error::other)?;
            *progress = Progress::at(&checkpoint);
        }
        let position = position_of(base);
        *self.installed.lock() = Some(Anchor { position, next_offset: checkpoint.next_offset });
        // openraft purges the log up to `base` when this returns, so the state must be durable before.
        self.checkpoints.save(checkpoint).await.map_err(io::Error::other)?;
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
            self.0.apply_run(run.into_iter().collect::<io::Result<Vec<_>>>()?);
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
