//! The end of a store: its workers stop with the last user.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use fanfare_environment::WorkerHandle;
use parking_lot::Mutex;

use crate::{
    flusher::queue::Stop,
    log::state::LogShared,
    store::{identity::Identity, shared::StoreShared},
};

/// A close waits this long for the chunk of a spare segment that is being written.
const FILLING_ENDS_MAX: Duration = Duration::from_secs(5);

/// Shared by all clones of a store and of its logs; the workers end with the last of them.
pub(crate) struct StoreHandle {
    pub(crate) shared: Arc<StoreShared>,
    pub(crate) identity: Identity,
    pub(crate) logs: Mutex<HashMap<String, LogSlot>>,
    pub(crate) files_saved: AtomicU64,
    /// Held while stopping, so that nobody returns from that before the workers have ended.
    stopping: Mutex<()>,
}

/// Locked while its log is being opened.
pub(crate) type LogSlot = Arc<Mutex<Option<Arc<LogShared>>>>;

impl StoreHandle {
    pub(crate) fn new(shared: Arc<StoreShared>, identity: Identity) -> Self {
        Self {
            shared,
            identity,
            logs: Mutex::default(),
            files_saved: AtomicU64::new(0),
            stopping: Mutex::default(),
        }
    }

    /// Ends the workers and releases the directory.
    pub(crate) fn stop(&self, stop: Stop) {
        let shared = &self.shared;
        shared.queue.stop(stop);
        shared.pool.close();
        shared.index_builder.close();
        // The last user may be a callback in a round of the flusher. The workers then end by themselves, and the lock
        // is released with the last of them.
        if shared.queue.flusher().is_some_and(WorkerHandle::is_current) {
            return;
        }
        let _stopping = self.stopping.lock();
        // A store that could not start its flusher has a background worker that nobody else stops.
        if shared.queue.flusher().is_none() {
            shared.background.stop();
        }
        // The flusher ends the background worker, whose jobs come from it alone.
        for worker in [shared.queue.flusher(), shared.background.worker()].into_iter().flatten() {
            worker.join();
        }
        shared.index_builder.join();
        if !shared.pool.wait_until_unfilled(FILLING_ENDS_MAX) {
            // A file may still get a name in the directory, so the lock stays until the last user has gone.
            tracing::warn!(dir = %shared.dir.display(), "a spare segment is still being written; the directory stays locked");
            return;
        }
        if let Some(filler) = shared.pool.filler() {
            filler.join();
        }
        shared.lock.lock().take();
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        self.stop(Stop::Dropped);
    }
}
