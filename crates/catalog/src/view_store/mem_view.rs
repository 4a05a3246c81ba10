//! A view in memory that forgets, when it crashes, what was not flushed, and that fails on demand.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Operation, StoreError, ViewStore, Visit};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Default)]
pub(super) struct MemView {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    written: Records,
    flushed: Records,
    writes_until_failure: Option<u64>,
}

impl MemView {
    pub(super) fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.written = disk.flushed.clone();
        disk.writes_until_failure = None;
    }

    pub(super) fn fail_after(&self, writes: u64) {
        self.disk.lock().writes_until_failure = Some(writes);
    }

    pub(super) fn records(&self) -> Records {
        self.disk.lock().written.clone()
    }

    /// Changes a record behind the store's back.
    pub(super) fn tamper(&self, change: impl FnOnce(&mut Records)) {
        let mut disk = self.disk.lock();
        change(&mut disk.written);
        disk.flushed = disk.written.clone();
    }
}

impl ViewStore for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk.lock().written.get(key).cloned())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.records().iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn write(&self, batch: Vec<Operation>) -> Result<(), StoreError> {
        let mut disk = self.disk.lock();
        match &mut disk.writes_until_failure {
            Some(0) => return Err(StoreError::Engine(sled::Error::Unsupported("told to fail".to_owned()))),
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

    fn flush(&self) -> Result<(), StoreError> {
        let mut disk = self.disk.lock();
        disk.flushed = disk.written.clone();
        Ok(())
    }
}
