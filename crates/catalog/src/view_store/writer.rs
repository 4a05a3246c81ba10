//! Brings the view up to the state, behind it: one task, one batch at a time.
//!
//! It holds no queue. It takes the newest state there is, writes how that differs from what it wrote last, and
//! flushes. It never writes a position that the log has not flushed.

use std::{sync::Arc, time::Duration};

use fanfare_log::{Identity, Log, Position};
use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;

use super::{Opened, Operation, StoreError, ViewStore, contents::Contents, key::MARK};
use crate::machine::Reached;

/// A larger difference, as after a rebuild, is written in several batches.
const BATCH_OPERATIONS_MAX: usize = 4096;
/// How often to look whether the log has flushed what was applied. A follower can apply an entry that a majority of
/// others has flushed before its own disk has.
const FLUSH_POLL: Duration = Duration::from_millis(5);
const FLUSH_POLLS_MAX: u32 = 1000;

pub(crate) struct Writer {
    store: Arc<dyn ViewStore>,
    written: Contents,
    identity: Identity,
    log: Log,
    reached: watch::Receiver<Reached>,
    stored: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Writer {
    /// The writer, and the log index that the store stands at.
    pub(crate) fn new(
        opened: Opened,
        (identity, log): (Identity, Log),
        reached: watch::Receiver<Reached>,
        stop: CancellationToken,
    ) -> (Self, watch::Receiver<u64>) {
        let Opened { store, contents: written, .. } = opened;
        let (stored, shown) = watch::channel(written.upto.map_or(0, |upto| upto.index));
        (Self { store, written, identity, log, reached, stored, stop }, shown)
    }

    /// Ends when told to, after writing the last state; or when the store fails, which leaves an older view behind
    /// for the next start and harms nobody before.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = tokio::select! {
                biased;
                changed = self.reached.changed() => changed.is_err(),
                () = self.stop.cancelled() => true,
            };
            if let Err(error) = self.follow().await {
                tracing::warn!(%error, "catalog view not written any more, the next start takes longer");
                return;
            }
            if stopping {
                return;
            }
        }
    }

    async fn follow(&mut self) -> Result<(), StoreError> {
        let reached = self.reached.borrow_and_update().clone();
        let upto = reached.upto;
        if self.written.upto.unwrap_or_default() == upto || !self.flushed(upto).await {
            return Ok(());
        }
        let (store, identity) = (Arc::clone(&self.store), self.identity);
        let written = self.written.clone();
        let next = task::spawn_blocking(move || bring(&*store, &written, &reached, identity));
        self.written = next.await.unwrap_or(Err(StoreError::Panic))?;
        self.stored.send_replace(upto.index);
        Ok(())
    }

    async fn flushed(&self, upto: Position) -> bool {
        for _ in 0..FLUSH_POLLS_MAX {
            let bounds = self.log.bounds();
            let safe = bounds.purged.map_or(0, |purged| purged.index).max(bounds.synced_index);
            if upto.index <= safe {
                return true;
            }
            time::sleep(FLUSH_POLL).await;
        }
        false
    }
}

/// Makes `store`, which holds `written`, hold what was `reached`.
pub(super) fn bring(
    store: &dyn ViewStore,
    written: &Contents,
    reached: &Reached,
    identity: Identity,
) -> Result<Contents, StoreError> {
    let (mut operations, next) = written.advance(reached, identity);
    if operations.len() > BATCH_OPERATIONS_MAX {
        // Without a mark a half-written store counts as none.
        store.write(vec![Operation::Delete { key: MARK.to_vec() }])?;
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
