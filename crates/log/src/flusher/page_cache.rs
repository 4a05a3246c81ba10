//! How much of the written log the operating system may keep in memory. Left alone it keeps all that fits: the log
//! then takes ever more pages, whose first use is dear, and pushes out what others need. Bounded, the same pages go
//! round.
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Weak},
};

use crate::fs::{File, PAGE_BYTES};

/// Pages are held in groups, and a group leaves only whole: each range is dropped together with so much before it.
const GROUP_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Whole pages of a file that are written, synced and not yet dropped. Does not keep the file.
pub(crate) struct Written {
    file: Weak<dyn File>,
    range: Range<u64>,
}

impl Written {
    pub(crate) fn new(file: &Arc<dyn File>, range: Range<u64>) -> Self {
        assert!(range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES));
        Self { file: Arc::downgrade(file), range }
    }

    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Advice that is not taken costs memory only.
    pub(crate) fn drop_cached(&self) {
        let Some(file) = self.file.upgrade() else { return };
        let range = self.range.start.saturating_sub(GROUP_BYTES_MAX)..self.range.end;
        if let Err(error) = file.drop_cached(range) {
            tracing::debug!(%error, "drop written pages from memory");
        }
    }
}

/// What is in memory of all logs of a data directory, oldest first.
pub(crate) struct PageCache {
    bytes_max: u64,
    bytes: u64,
    written: VecDeque<Written>,
}

impl PageCache {
    /// 0: without a limit.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, written: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, written: Written) {
        if self.bytes_max > 0 {
            self.bytes += written.bytes();
            self.written.push_back(written);
        }
    }

    /// The oldest, if there is more than may stay.
    pub(crate) fn excess(&mut self) -> Option<Written> {
        let excess = self.written.pop_front_if(|_| self.bytes > self.bytes_max)?;
        self.bytes -= excess.bytes();
        Some(excess)
    }
}
