//! The view in sled: one tree, so that one batch is atomic.
//!
//! sled's flush does not reach the disk's own cache, so what it holds may vanish with the power; what it held
//! then is found to be behind or damaged, and is built again.

use std::path::Path;

use super::{Operation, StoreError, ViewStore, Visit};

/// sled's default is a gigabyte.
const CACHE_BYTES: u64 = 32 << 20;

pub(super) struct SledView {
    tree: sled::Db,
}

impl SledView {
    /// Opens or creates the store in `dir`. Blocking.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        Ok(Self { tree: config.open()? })
    }
}

impl ViewStore for SledView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for record in self.tree.iter() {
            let (key, value) = record?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn write(&self, batch: Vec<Operation>) -> Result<(), StoreError> {
        let mut atomic = sled::Batch::default();
        for operation in batch {
            match operation {
                Operation::Put { key, value } => atomic.insert(key, value),
                Operation::Delete { key } => atomic.remove(key),
            }
        }
        Ok(self.tree.apply_batch(atomic)?)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.tree.flush()?;
        Ok(())
    }
}
