//! How much of the written log the operating system may keep in memory. Unbounded, the page cache takes ever more
//! pages, whose first use is dear, and evicts what others need. Bounded, the same pages are used again and again.

use std::collections::VecDeque;

use crate::written::WrittenRange;

/// Written ranges of all logs of a data directory that are still in the page cache, oldest first.
pub(crate) struct PageCache {
    bytes_max: u64,
    bytes: u64,
    ranges: VecDeque<WrittenRange>,
}

impl PageCache {
    /// A `bytes_max` of 0 means no limit.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, ranges: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, range: WrittenRange) {
        if self.bytes_max > 0 {
            self.bytes += range.bytes();
            self.ranges.push_back(range);
        }
    }

    /// The oldest range, if more than the limit is cached.
    pub(crate) fn take_excess(&mut self) -> Option<WrittenRange> {
        let excess = self.ranges.pop_front_if(|_| self.bytes > self.bytes_max)?;
        self.bytes -= excess.bytes();
        Some(excess)
    }
}
