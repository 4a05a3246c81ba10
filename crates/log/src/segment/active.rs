//! The segment being written, as its writer knows it.

use std::{path::PathBuf, sync::Arc};

use crate::{
    codec::to_usize,
    frame::{FrameHeader, Link, Position},
    fs::{File, PAGE_BYTES},
    segment::roll::RollPolicy,
    segment::{Predecessor, Segment, number::SegmentNumber},
    written::WrittenRange,
};

/// Where a log ends: what its writer starts from.
pub(crate) struct LogEnd {
    pub(crate) active: Option<ActiveSegment>,
    pub(crate) next_segment: SegmentNumber,
    /// Position of the last frame, or the purge point where there is none.
    pub(crate) previous: Option<Position>,
}

pub(crate) struct ActiveSegment {
    pub(crate) number: SegmentNumber,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    /// Where the next frame goes; includes frames that are still in the write buffer.
    pub(crate) end_byte: u64,
    /// Length of the file when it was opened: up to here a write replaces something.
    file_bytes: u64,
    /// Page-aligned end of the last range handed to the page cache.
    writeback_byte: u64,
    pub(crate) link: Link,
    first_event_ms: Option<u64>,
    has_frames: bool,
    pub(crate) continuation: Continuation,
    /// True while writes are not synced.
    pub(crate) is_dirty: bool,
}

/// How a segment may go on after its last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continuation {
    /// The link was drawn in this run.
    Open,
    /// Bytes behind the end may be of the same nonce: draw a new one first.
    NewEpoch,
    /// Frames behind the end were truncated: only another segment may continue.
    Truncated,
}

impl ActiveSegment {
    pub(crate) fn of(segment: &Segment, continuation: Continuation) -> Self {
        Self {
            number: segment.header.number,
            path: segment.path.clone(),
            file: segment.file.clone(),
            end_byte: segment.extent.end_byte,
            file_bytes: segment.file_bytes,
            writeback_byte: page_start(segment.extent.end_byte),
            link: segment.extent.link,
            first_event_ms: segment.extent.first_event_ms,
            has_frames: segment.extent.last.is_some(),
            continuation,
            is_dirty: false,
        }
    }

    /// True if the frame goes into this segment, false if it begins another one.
    pub(crate) fn takes(&self, header: &FrameHeader, roll: RollPolicy) -> bool {
        // A frame larger than a segment gets a segment of its own: an empty one takes any frame.
        let is_full = self.end_byte + header.disk_bytes() > roll.segment_bytes;
        let is_old = self
            .first_event_ms
            .is_some_and(|oldest_ms| header.time_ms.saturating_sub(oldest_ms) >= roll.age_ms);
        self.continuation != Continuation::Truncated && !(self.has_frames && (is_full || is_old))
    }

    /// A frame was encoded behind the end: it takes `bytes`, the epoch mark before it included.
    pub(crate) fn extend(&mut self, header: &FrameHeader, bytes: usize, link: Link) {
        assert!(
            bytes as u64 >= header.disk_bytes(),
            "invariant violation: {bytes} bytes encoded for a frame of {}",
            header.disk_bytes()
        );
        self.link = link;
        self.end_byte += bytes as u64;
        self.has_frames = true;
        // Blank and control entries do not age a segment: an idle log would roll for nothing.
        if header.count > 0 {
            self.first_event_ms.get_or_insert(header.time_ms);
        }
    }

    pub(crate) fn predecessor(&self) -> Predecessor {
        Predecessor { number: self.number, end_byte: self.end_byte, chain: self.link.chain }
    }

    /// Number of zeros to write behind the end. In a recycled file they fill up the last page, which would otherwise
    /// be read from disk in order to keep bytes that mean nothing. Zeros never parse as a frame.
    pub(crate) fn padding(&self) -> usize {
        let page_end = self.end_byte.next_multiple_of(PAGE_BYTES);
        if page_end <= self.file_bytes { to_usize(page_end - self.end_byte) } else { 0 }
    }

    /// Whole pages that were written since the last call, if they are at least `bytes_min`.
    pub(crate) fn take_writeback(&mut self, bytes_min: u64) -> Option<WrittenRange> {
        self.take_writeback_up_to(page_start(self.end_byte), bytes_min)
    }

    /// All pages that were written since the last call; the segment has ended.
    pub(crate) fn take_last_writeback(&mut self) -> Option<WrittenRange> {
        self.take_writeback_up_to(self.end_byte.next_multiple_of(PAGE_BYTES), 0)
    }

    fn take_writeback_up_to(&mut self, end: u64, bytes_min: u64) -> Option<WrittenRange> {
        let start = self.writeback_byte;
        if end <= start || end - start < bytes_min {
            return None;
        }
        self.writeback_byte = end;
        Some(WrittenRange::new(&self.file, start..end))
    }
}

fn page_start(byte: u64) -> u64 {
    byte - byte % PAGE_BYTES
}
