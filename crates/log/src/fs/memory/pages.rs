//! Which pages of which files a system would hold in memory. Changes no content; says what access would cost.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::fs::PAGE_BYTES;

/// Pages that a system's page cache would hold, and their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUse {
    pub cached_bytes: u64,
    /// Pages that had to be read because a write covered only a part of them.
    pub read_for_write: u64,
}

#[derive(Default)]
pub(super) struct Pages {
    cached: BTreeMap<usize, BTreeSet<u64>>,
    count: u64,
    read_for_write: u64,
}

impl Pages {
    pub(super) fn usage(&self) -> PageUse {
        PageUse { cached_bytes: self.count * PAGE_BYTES, read_for_write: self.read_for_write }
    }

    pub(super) fn read(&mut self, number: usize, range: Range<u64>) {
        let cached = self.cached.entry(number).or_default();
        self.count += touched(&range).filter(|page| cached.insert(*page)).count() as u64;
    }

    /// `length` is that of the file before the write.
    pub(super) fn write(&mut self, number: usize, range: Range<u64>, length: u64) {
        let cached = self.cached.entry(number).or_default();
        let partial = |page: &u64| {
            let start = page * PAGE_BYTES;
            start < length && (start < range.start || range.end < length.min(start + PAGE_BYTES))
        };
        let read = touched(&range).filter(|page| !cached.contains(page)).filter(partial);
        self.read_for_write += read.count() as u64;
        self.read(number, range);
    }

    /// Keeps pages that `unsynced` touches, and those that `range` does not cover whole.
    pub(super) fn drop(&mut self, number: usize, range: Range<u64>, unsynced: &[Range<u64>]) {
        let whole = range.start.div_ceil(PAGE_BYTES)..range.end / PAGE_BYTES;
        let dirty: BTreeSet<u64> = unsynced.iter().flat_map(touched).collect();
        let cached = self.cached.entry(number).or_default();
        let before = cached.len();
        cached.retain(|page| !whole.contains(page) || dirty.contains(page));
        self.count -= (before - cached.len()) as u64;
    }
}

fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}
