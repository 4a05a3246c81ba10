//! Files that were written: what a sync is owed to, and what may leave the page cache after it.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{Arc, Weak},
};

use crate::{
    error::Fatal,
    fs::{File, PAGE_BYTES},
};

/// The page cache keeps pages in groups, and a group leaves only whole: each range is dropped together with this much
/// before it.
const GROUP_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// A file with writes that no sync has covered.
pub(crate) struct DirtyFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
}

impl DirtyFile {
    pub(crate) fn sync(&self) -> Result<(), Fatal> {
        self.file.sync().map_err(|error| Fatal::new("sync", &self.path, &error))
    }
}

/// Whole pages of a file that are written, synced and still in the page cache. Does not keep the file open.
pub(crate) struct WrittenRange {
    file: Weak<dyn File>,
    range: Range<u64>,
}

impl WrittenRange {
    pub(crate) fn new(file: &Arc<dyn File>, range: Range<u64>) -> Self {
        assert!(
            range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES),
            "invariant violation: {range:?} are not whole pages"
        );
        Self { file: Arc::downgrade(file), range }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Advice that the system does not take costs memory only.
    pub(crate) fn drop_cached(&self) {
        let Some(file) = self.file.upgrade() else { return };
        let range = self.range.start.saturating_sub(GROUP_BYTES_MAX)..self.range.end;
        if let Err(error) = file.drop_cached(range) {
            tracing::debug!(%error, "failed to drop written pages; they stay in the page cache");
        }
    }
}
