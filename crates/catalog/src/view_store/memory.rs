//! A view's store in memory: loses unflushed records in a crash, and fails on demand in tests.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Operation, ViewStore, ViewStoreError, Visit};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Stands in for the view's directory in a simulation: clones share the records, so that a restarted catalog finds
/// what an earlier one flushed.
#[derive(Clone, Default)]
pub struct MemoryView {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    written: Records,
    flushed: Records,
    #[cfg(test)]
    writes_until_failure: Option<u64>,
}

impl MemoryView {
    /// Power off: records that were not flushed are gone.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.written = disk.flushed.clone();
        #[cfg(test)]
        {
            disk.writes_until_failure = None;
        }
    }

    pub(super) fn clear(&self) {
        let mut disk = self.disk.lock();
        disk.written.clear();
        disk.flushed.clear();
    }

    #[cfg(test)]
    pub(super) fn fail_after(&self, writes: u64) {
        self.disk.lock().writes_until_failure = Some(writes);
    }

    #[cfg(test)]
    pub(super) fn records(&self) -> Records {
        self.disk.lock().written.clone()
    }

    /// Changes a record behind the store's back.
    #[cfg(test)]
    pub(super) fn tamper(&self, change: impl FnOnce(&mut Records)) {
        let mut disk = self.disk.lock();
        change(&mut disk.written);
        disk.flushed = disk.written.clone();
    }
}

impl ViewStore for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewStoreError> {
        Ok(self.disk.lock().written.get(key).cloned())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), ViewStoreError> {
        let records = self.disk.lock().written.clone();
        records.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn write(&self, batch: Vec<Operation>) -> Result<(), ViewStoreError> {
        let mut disk = self.disk.lock();
        #[cfg(test)]
        match &mut disk.writes_until_failure {
            Some(0) => return Err(ViewStoreError::Engine(Arc::from(Box::from("told to fail")))),
            Some(left) => *left -= 1,
            None => {}
        }
        for operation in batch {
            match operation {
                Operation::Put { key, value } => disk.written.insert(key, value),
                Operation::Delete { key } => disk.written.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), ViewStoreError> {
        let mut disk = self.disk.lock();
        disk.flushed = disk.written.clone();
        Ok(())
    }
}
