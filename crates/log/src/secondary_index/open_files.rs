//! The index files in use: their directories in memory and their open files, within a limit. The least recently used
//! leaves first.
use std::{collections::HashMap, sync::Arc};

use super::{SegmentRef, file::IndexFile};
use crate::segment::number::SegmentNumber;

/// Memory for the directories of all logs of a data directory. One takes about 1/20,000 of its segment's bytes with
/// events of 1 KiB.
const DIRECTORY_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Each entry holds a file open.
const FILES_MAX: usize = 256;

#[derive(Default)]
pub(super) struct OpenFiles {
    files: HashMap<Key, OpenFile>,
    bytes: u64,
    clock: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) log: u32,
    pub(super) number: SegmentNumber,
}

struct OpenFile {
    file: Arc<IndexFile>,
    used_at: u64,
}

impl OpenFiles {
    pub(super) fn get(&mut self, key: Key, segment: &SegmentRef) -> Option<Arc<IndexFile>> {
        let open = self.files.get_mut(&key).filter(|open| open.file.segment == *segment)?;
        self.clock += 1;
        open.used_at = self.clock;
        Some(open.file.clone())
    }

    pub(super) fn insert(&mut self, key: Key, file: Arc<IndexFile>) {
        self.remove(key);
        self.clock += 1;
        self.bytes += file.directory_bytes();
        self.files.insert(key, OpenFile { file, used_at: self.clock });
        while self.bytes > DIRECTORY_BYTES_MAX || self.files.len() > FILES_MAX {
            let oldest = self.files.iter().min_by_key(|(_, open)| open.used_at).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some(open) = self.files.remove(&key) {
            self.bytes -= open.file.directory_bytes();
        }
    }
}
