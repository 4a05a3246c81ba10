//! The tag indexes in use: their directories and open files, within a limit; the least lately used leaves first.
use std::{collections::HashMap, sync::Arc};

use super::{Subject, TagIndex};

/// Of all logs of a data directory. A directory takes about 1/20,000 of its segment's bytes with events of 1 KiB.
const LOADED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Each holds a file open.
const LOADED_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Loaded {
    indexes: HashMap<Key, Used>,
    bytes: u64,
    clock: u64,
}

/// Log and segment.
pub(crate) type Key = (u32, u64);

struct Used {
    index: Arc<TagIndex>,
    at: u64,
}

impl Loaded {
    pub(crate) fn get(&mut self, key: Key, subject: &Subject) -> Option<Arc<TagIndex>> {
        let used = self.indexes.get_mut(&key).filter(|used| used.index.subject == *subject)?;
        self.clock += 1;
        used.at = self.clock;
        Some(Arc::clone(&used.index))
    }

    pub(crate) fn insert(&mut self, key: Key, index: Arc<TagIndex>) {
        self.remove(key);
        self.clock += 1;
        self.bytes += index.size_bytes();
        self.indexes.insert(key, Used { index, at: self.clock });
        while self.bytes > LOADED_BYTES_MAX || self.indexes.len() > LOADED_MAX {
            let oldest = self.indexes.iter().min_by_key(|(_, used)| used.at).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }

    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(used) = self.indexes.remove(&key) {
            self.bytes -= used.index.size_bytes();
        }
    }
}
