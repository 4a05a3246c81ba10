//! The worker that keeps the pool of spare segments filled while the logs leave the disk idle.

use std::{sync::Arc, time::Duration};

use fanfare_environment::{Next, Worker};

use crate::store::shared::StoreShared;

/// Segments for which filling the pool leaves room on disk, beside the queued bytes: logs go on without the pool.
const RESERVED_SEGMENTS: u64 = 2;

pub(super) struct PoolFiller {
    store: Arc<StoreShared>,
    /// Time without a started segment before the pool is filled again.
    quiet: Duration,
    /// Requests for spare files when the worker looked last.
    requests: u64,
    /// When the worker saw the newest request; None before the first one, which the first filling does not wait for.
    newest_request_at: Option<Duration>,
    /// False once the pool could take no more files; segments that are started make it true again.
    is_due: bool,
}

impl PoolFiller {
    pub(super) fn new(store: Arc<StoreShared>, quiet: Duration) -> Self {
        let requests = store.pool.requests();
        Self { store, quiet, requests, newest_request_at: None, is_due: true }
    }

    /// Fills the pool whole. Blocking.
    pub(super) fn fill(store: &StoreShared) {
        while fill_one(store) {}
    }
}

impl Worker for PoolFiller {
    /// Writes one spare file at most.
    fn run_round(&mut self) -> Next {
        if self.store.pool.is_closed() {
            return Next::End;
        }
        let (requests, now) = (self.store.pool.requests(), self.store.now());
        if requests != self.requests {
            (self.requests, self.newest_request_at, self.is_due) = (requests, Some(now), true);
        }
        if !self.is_due {
            return Next::Notified;
        }
        let quiet_at = self.newest_request_at.map_or(now, |newest| newest.saturating_add(self.quiet));
        if now < quiet_at {
            return Next::Within(quiet_at - now);
        }
        self.is_due = fill_one(&self.store);
        Next::Now
    }
}

/// Writes one spare file; false if the pool takes no more. A failure harms nobody: the files are only spare.
fn fill_one(store: &StoreShared) -> bool {
    let segments_bytes = store.options.segment_bytes.saturating_mul(RESERVED_SEGMENTS);
    let reserve = segments_bytes.saturating_add(store.options.queue_bytes_max);
    let has_room = |bytes: u64| store.usable().is_ok() && store.free_bytes() >= bytes.saturating_add(reserve);
    store.pool.fill_one(&*store.fs, &has_room).unwrap_or_else(|error| {
        tracing::warn!(dir = %store.dir.display(), %error, "failed to write a spare segment; trying again after the next one is used");
        false
    })
}
