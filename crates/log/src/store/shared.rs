//! State that the flusher, the background worker, the indexer and the handles of one data directory share.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use fanfare_environment::Environment;
use parking_lot::Mutex;

use crate::{
    background::BackgroundQueue,
    error::Fatal,
    flusher::queue::RequestQueue,
    fs::{DirectoryLock, FileSystem},
    journal::Journal,
    secondary_index,
    segment::pool::Pool,
    store::{fatal::FatalLatch, options::StoreOptions},
};

pub(crate) struct StoreShared {
    pub(crate) environment: Environment,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) fatal: FatalLatch,
    pub(crate) queue: RequestQueue,
    pub(crate) pool: Pool,
    pub(crate) journal: Mutex<Journal>,
    pub(crate) background: BackgroundQueue,
    pub(crate) index_builder: Arc<secondary_index::Builder>,
    /// Bytes in the tail caches of all logs.
    pub(crate) cached_bytes: AtomicU64,
    /// None once released. Released with the last user of this otherwise.
    pub(super) lock: Mutex<Option<DirectoryLock>>,
}

impl StoreShared {
    /// Never zero, so that it never seals a page of zeros.
    pub(crate) fn nonce(&self) -> u64 {
        self.environment.random().next_u64() | 1
    }

    pub(crate) fn now(&self) -> Duration {
        self.environment.clock().monotonic()
    }

    /// # Errors
    /// If the disk failed, or the store is closed.
    pub(crate) fn usable(&self) -> Result<(), Fatal> {
        match self.fatal.get() {
            Some(fatal) => Err(fatal),
            None if self.queue.is_stopped() => Err(Fatal::closed(&self.dir)),
            None => Ok(()),
        }
    }

    /// Free bytes of the file system that holds the directory; 0 if the file system does not say.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.fs.free_bytes(&self.dir).unwrap_or_else(|error| {
            tracing::warn!(dir = %self.dir.display(), %error, "failed to read the free space; counting it as 0");
            0
        })
    }
}
