//! Writes checkpoints in the background, and has openraft snapshot and purge once a durable one has a new
//! base.

use std::{sync::Arc, time::Duration};

use fanfare_environment::{Bug, planted};
use fanfare_log::Fatal;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    apply::{Adapter, Applier},
    checkpoint::is_flushed,
    entry::{Types, log_id_of, position_of},
    options::GroupOptions,
};

/// How often, and how many times, to look whether the log has flushed what was applied. A follower can apply
/// entries that a majority of others has flushed before its own disk has.
const FLUSH_POLL: Duration = Duration::from_millis(2);
const FLUSH_POLLS_MAX: u32 = 500;

pub(crate) struct CheckpointTask {
    applier: Arc<Applier>,
    raft: openraft::Raft<Types, Adapter>,
    interval: Duration,
    snapshot_entries: u64,
    /// The base of the last snapshot that openraft was asked for.
    snapshot_index: u64,
    stop: CancellationToken,
}

impl CheckpointTask {
    pub(crate) fn new(
        options: GroupOptions,
        applier: Arc<Applier>,
        raft: openraft::Raft<Types, Adapter>,
        stop: CancellationToken,
    ) -> Self {
        let snapshot_index = applier.log.bounds().purged.map_or(0, |purged| purged.index);
        let interval = Duration::from_millis(options.checkpoint_interval_ms.max(1));
        Self { applier, raft, interval, snapshot_entries: options.snapshot_entries, snapshot_index, stop }
    }

    pub(crate) async fn run(mut self) {
        if let Some(base) = self.due_base() {
            // openraft counts the checkpoint of a start as a snapshot taken before, so it purges only when told to.
            self.snapshot_index = base;
            drop(self.raft.trigger().purge_log(base).await);
        }
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = time::sleep(self.interval) => (),
            }
            if let Err(error) = save(&self.applier).await {
                tracing::error!(%error, "failed to save a checkpoint; the group stops");
                drop(self.raft.shutdown().await);
                return;
            }
            if let Some(base) = self.due_base() {
                self.snapshot_index = base;
                // A stopped engine has nothing to snapshot.
                drop(self.raft.trigger().snapshot().await);
            }
        }
    }

    /// The base of the newest durable checkpoint, if the log should be purged up to it.
    fn due_base(&self) -> Option<u64> {
        let checkpoint = self.applier.checkpoints.latest()?;
        let base = checkpoint.base()?.position.index;
        let step = if checkpoint.anchor.is_some() { 1 } else { self.snapshot_entries.max(1) };
        (base >= self.snapshot_index + step).then_some(base)
    }
}

/// Saves a checkpoint if anything was applied since the last one and the log has flushed it.
pub(crate) async fn save(applier: &Applier) -> Result<(), Fatal> {
    let _saving = applier.checkpoints.saving.lock().await;
    let saved = applier.checkpoints.latest().map(|latest| latest.applied);
    if applier.progress.lock().applied == saved {
        return Ok(());
    }
    // Captured before the wait for the flush: entries applied meanwhile belong to the next checkpoint, whose own end is
    // waited for.
    let Some(mut checkpoint) = applier.capture() else { return Ok(()) };
    if planted(Bug::AppliedAheadOfFlush) {
        checkpoint.applied = applier.log.bounds().last.map_or(checkpoint.applied, log_id_of);
        return applier.checkpoints.save(checkpoint).await;
    }
    // At a start, openraft purges a log that ends below what was applied.
    let position = position_of(checkpoint.applied);
    for _ in 0..FLUSH_POLLS_MAX {
        if is_flushed(&applier.log, position) {
            return applier.checkpoints.save(checkpoint).await;
        }
        time::sleep(FLUSH_POLL).await;
    }
    Ok(())
}
