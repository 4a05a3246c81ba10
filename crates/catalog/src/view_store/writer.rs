//! Writes the state to the view's store, behind the group: one task, one batch at a time.
//!
//! The task has no queue. It takes the newest state, writes how that state differs from the stored one, and flushes.
//! It never writes a position that the log has not flushed.

use std::time::Duration;

use fanfare_environment::Environment;
use fanfare_log::{Identity, Log, Position};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{OpenedView, Operation, ViewStore, ViewStoreError, key::HEADER, stored::StoredView};
use crate::machine::Applied;

/// A larger difference, as after a rebuild, is written in several batches.
const BATCH_OPERATIONS_MAX: usize = 4096;
/// Interval of the checks whether the log has flushed the applied entries. A follower can apply an entry that a
/// majority of others has flushed before its own disk has.
const FLUSH_POLL: Duration = Duration::from_millis(5);
const FLUSH_POLLS_MAX: u32 = 1000;

pub(crate) struct ViewWriter {
    pub(crate) view: OpenedView,
    pub(crate) environment: Environment,
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) applied: watch::Receiver<Applied>,
    /// The log index that the store stands at.
    pub(crate) stored_index: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
}

impl ViewWriter {
    /// Ends when told to, after writing the last state; or when the store fails. A failed store leaves an older view
    /// to the next start and takes nothing from this one.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = tokio::select! {
                biased;
                changed = self.applied.changed() => changed.is_err(),
                () = self.stop.cancelled() => true,
            };
            if let Err(error) = self.store_newest().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to write the catalog's view; it is left as it is, and the next start replays more of the log"
                );
                return;
            }
            if stopping {
                return;
            }
        }
    }

    async fn store_newest(&mut self) -> Result<(), ViewStoreError> {
        let applied = self.applied.borrow_and_update().clone();
        let position = applied.position;
        if self.view.stored.position.unwrap_or_default() == position || !self.flushed(position).await {
            return Ok(());
        }
        let (store, identity, stored) = (self.view.store.clone(), self.identity, self.view.stored.clone());
        let written =
            self.environment.run_blocking(move || store_applied(&*store, &stored, &applied, identity));
        self.view.stored = written.await?;
        self.stored_index.send_replace(position.index);
        Ok(())
    }

    async fn flushed(&self, position: Position) -> bool {
        for _ in 0..FLUSH_POLLS_MAX {
            let bounds = self.log.bounds();
            let flushed_index = bounds.purged.map_or(0, |purged| purged.index).max(bounds.synced_index);
            if position.index <= flushed_index {
                return true;
            }
            time::sleep(FLUSH_POLL).await;
        }
        false
    }
}

/// Makes `store`, which holds `stored`, hold `applied`.
pub(super) fn store_applied(
    store: &dyn ViewStore,
    stored: &StoredView,
    applied: &Applied,
    identity: Identity,
) -> Result<StoredView, ViewStoreError> {
    let (mut operations, next) = stored.advance(applied, identity);
    if operations.len() > BATCH_OPERATIONS_MAX {
        // Several batches are not atomic together: without a header a half-written store counts as missing.
        store.write(vec![Operation::Delete { key: HEADER.to_vec() }])?;
        store.flush()?;
    }
    while !operations.is_empty() {
        let rest = operations.split_off(operations.len().min(BATCH_OPERATIONS_MAX));
        store.write(operations)?;
        operations = rest;
    }
    store.flush()?;
    Ok(next)
}
