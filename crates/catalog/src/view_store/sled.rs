//! The view in sled: one tree, so that one batch is atomic.
//!
//! sled's flush does not reach the disk's own cache, so a power cut may take flushed records away. The next start
//! finds the store behind the log or damaged and builds it again.

use std::{path::Path, sync::Arc};

use super::{Operation, ViewStore, ViewStoreError, Visit};

/// sled's default is a gigabyte.
const CACHE_BYTES: u64 = 32 << 20;

pub(super) struct SledView {
    tree: sled::Db,
}

impl SledView {
    /// Opens or creates the store in `directory`. Blocking.
    pub(super) fn open(directory: &Path) -> Result<Self, ViewStoreError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        Ok(Self { tree: config.open()? })
    }
}

impl From<sled::Error> for ViewStoreError {
    fn from(error: sled::Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}

impl ViewStore for SledView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewStoreError> {
        Ok(self.tree.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), ViewStoreError> {
        for record in self.tree.iter() {
            let (key, value) = record?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn write(&self, batch: Vec<Operation>) -> Result<(), ViewStoreError> {
        let mut atomic = sled::Batch::default();
        for operation in batch {
            match operation {
                Operation::Put { key, value } => atomic.insert(key, value),
                Operation::Delete { key } => atomic.remove(key),
            }
        }
        Ok(self.tree.apply_batch(atomic)?)
    }

    fn flush(&self) -> Result<(), ViewStoreError> {
        self.tree.flush()?;
        Ok(())
    }
}
