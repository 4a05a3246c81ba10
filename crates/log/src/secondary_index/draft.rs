//! The keys of a segment that is still written: in memory, in the order of its frames.
use std::{io, ops::Range};

use super::{FrameLocation, IndexKey, IndexKeys, SegmentRef, postings::Postings};
use crate::{
    codec::to_usize,
    frame::Frame,
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader, index::Placed, number::SegmentNumber},
};

/// Keys of one log's draft: 8 MiB and less. A segment with more is read again when it is sealed.
const KEYS_MAX: usize = 512 * 1024;

#[derive(Clone)]
pub(super) struct Draft {
    number: SegmentNumber,
    nonce: u64,
    first_index: u64,
    /// One per frame.
    locations: Vec<FrameLocation>,
    /// Where the next frame starts.
    end: FrameLocation,
    /// Ascending by frame number; keys of one frame are in no order.
    postings: Vec<Posting>,
    scratch: Vec<IndexKey>,
    /// The draft grew too large, or its segment could not be read: it answers nothing any more.
    is_abandoned: bool,
}

/// One key of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Posting {
    pub(super) key: IndexKey,
    /// Number of the frame within its segment.
    pub(super) number: u32,
}

impl Draft {
    pub(super) fn new(header: &SegmentHeader) -> Self {
        let byte = SEGMENT_HEADER_BYTES as u64;
        Self {
            number: header.number,
            nonce: header.nonce,
            first_index: header.first_index,
            locations: Vec::new(),
            end: FrameLocation { byte, base_offset: header.base_offset, link: header.link() },
            postings: Vec::new(),
            scratch: Vec::new(),
            is_abandoned: false,
        }
    }

    /// An empty draft that starts where this one ends.
    pub(super) fn continuation(&self) -> Self {
        Self {
            number: self.number,
            nonce: self.nonce,
            first_index: self.next_index(),
            locations: Vec::new(),
            end: self.end,
            postings: Vec::new(),
            scratch: Vec::new(),
            is_abandoned: self.is_abandoned,
        }
    }

    pub(super) fn number(&self) -> SegmentNumber {
        self.number
    }

    pub(super) fn belongs_to(&self, segment: &SegmentRef) -> bool {
        self.number == segment.number && self.nonce == segment.nonce
    }

    /// True if the draft covers exactly the frames of `segment`.
    pub(super) fn is_complete_for(&self, segment: &SegmentRef) -> bool {
        self.belongs_to(segment)
            && !self.is_abandoned
            && self.next_index() == segment.next_index
            && self.end.base_offset == segment.end.base_offset
    }

    pub(super) fn next_index(&self) -> u64 {
        self.first_index + self.locations.len() as u64
    }

    pub(super) fn end(&self) -> FrameLocation {
        self.end
    }

    /// Memory that the draft takes.
    pub(super) fn bytes(&self) -> u64 {
        (self.locations.capacity() * size_of::<FrameLocation>()
            + self.postings.capacity() * size_of::<Posting>()) as u64
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
        (self.locations, self.postings) = (Vec::new(), Vec::new());
    }

    pub(super) fn push(&mut self, keys: IndexKeys, frame: &Frame, placed: &Placed) {
        let number = frame_number(self.locations.len());
        let base_offset = frame.header.base_offset;
        self.locations.push(FrameLocation { byte: placed.byte, base_offset, link: placed.before });
        (keys.keys_of)(frame, &mut self.scratch);
        self.postings.extend(self.scratch.drain(..).map(|key| Posting { key, number }));
        let byte = placed.byte + frame.header.disk_bytes();
        self.end = FrameLocation { byte, base_offset: frame.header.end_offset(), link: placed.after };
    }

    /// Appends `more`, a filled continuation of this draft.
    ///
    /// # Panics
    /// If `more` starts elsewhere.
    pub(super) fn append(&mut self, more: Self) {
        assert_eq!(self.next_index(), more.first_index, "invariant violation: a draft has no gaps");
        let before = frame_number(self.locations.len());
        self.locations.extend(more.locations);
        let renumbered = more.postings.into_iter();
        self.postings
            .extend(renumbered.map(|Posting { key, number }| Posting { key, number: before + number }));
        self.end = more.end;
        if self.postings.len() > KEYS_MAX {
            self.abandon();
        }
    }

    /// Locations in frame order and postings in key order, as an index file holds them.
    pub(super) fn into_sorted(self) -> (Vec<FrameLocation>, Vec<Posting>) {
        let Self { locations, mut postings, .. } = self;
        postings.sort_unstable();
        postings.dedup();
        (locations, postings)
    }

    fn postings_of(&self, range: Range<u32>) -> &[Posting] {
        let start = self.postings.partition_point(|posting| posting.number < range.start);
        let end = self.postings.partition_point(|posting| posting.number < range.end);
        &self.postings[start..end]
    }
}

impl Postings for &Draft {
    fn frames(&self) -> u32 {
        frame_number(self.locations.len())
    }

    fn location(&mut self, number: u32) -> io::Result<FrameLocation> {
        Ok(self.locations.get(to_usize(number.into())).copied().unwrap_or(self.end))
    }

    fn numbers(&mut self, key: IndexKey, range: Range<u32>, max: usize) -> io::Result<Vec<u32>> {
        let mut numbers: Vec<u32> = Vec::new();
        for Posting { number, .. } in self.postings_of(range).iter().filter(|posting| posting.key == key) {
            if numbers.last() == Some(number) {
                continue;
            }
            if numbers.len() == max {
                break;
            }
            numbers.push(*number);
        }
        Ok(numbers)
    }

    fn last_number(&mut self, key: IndexKey, range: Range<u32>) -> io::Result<Option<u32>> {
        Ok(self.postings_of(range).iter().rfind(|posting| posting.key == key).map(|posting| posting.number))
    }

    fn number_of_offset(&mut self, offset: u64) -> io::Result<Option<u32>> {
        if offset >= self.end.base_offset {
            return Ok(None);
        }
        let above = self.locations.partition_point(|location| location.base_offset <= offset);
        Ok(above.checked_sub(1).map(frame_number))
    }
}

fn frame_number(frames_before: usize) -> u32 {
    u32::try_from(frames_before).expect("a segment has fewer frames than bytes")
}
