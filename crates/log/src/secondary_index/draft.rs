//! A segment's tags while they are gathered: in the order of the frames, in memory.
use std::{io, ops::Range};

use super::{Place, Postings, Subject, Tagger};
use crate::{
    codec::to_usize,
    frame::Frame,
    segment::index::Placed,
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Of one segment that is still written, in each log: 8 MiB and less. One with more is read again when it is sealed.
pub(crate) const DRAFT_TAGS_MAX: usize = 512 * 1024;

#[derive(Clone)]
pub(crate) struct Draft {
    sequence: u64,
    nonce: u64,
    first_index: u64,
    /// One per frame.
    places: Vec<Place>,
    /// Where the next frame is.
    end: Place,
    /// By frame number, then in no order.
    tags: Vec<(u64, u32)>,
    scratch: Vec<u64>,
    /// Has nothing to say any more.
    given_up: bool,
}

impl Draft {
    pub(crate) fn of(header: &SegmentHeader) -> Self {
        Self {
            sequence: header.sequence,
            nonce: header.nonce,
            first_index: header.first_index,
            places: Vec::new(),
            end: Place {
                byte: SEGMENT_HEADER_BYTES as u64,
                base_offset: header.base_offset,
                link: header.link(),
            },
            tags: Vec::new(),
            scratch: Vec::new(),
            given_up: false,
        }
    }

    /// An empty one that continues where this one ends.
    pub(crate) fn continuation(&self) -> Self {
        let Self { sequence, nonce, end, given_up, .. } = *self;
        let first_index = self.first_index + self.places.len() as u64;
        let (places, tags, scratch) = (Vec::new(), Vec::new(), Vec::new());
        Self { sequence, nonce, first_index, places, end, tags, scratch, given_up }
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn is_of(&self, subject: &Subject) -> bool {
        self.sequence == subject.sequence && self.nonce == subject.nonce
    }

    /// Whether it covers the segment whole, and nothing else.
    pub(crate) fn is_whole(&self, subject: &Subject) -> bool {
        self.is_of(subject)
            && !self.given_up
            && self.next_index() == subject.next_index
            && self.end.base_offset == subject.end.base_offset
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.first_index + self.places.len() as u64
    }

    pub(crate) fn end(&self) -> Place {
        self.end
    }

    pub(crate) fn given_up(&self) -> bool {
        self.given_up
    }

    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
        (self.places, self.tags) = (Vec::new(), Vec::new());
    }

    pub(crate) fn push(&mut self, tagger: Tagger, frame: &Frame, placed: &Placed) {
        let number = u32::try_from(self.places.len()).expect("a segment has fewer frames than bytes");
        let base_offset = frame.header.base_offset;
        self.places.push(Place { byte: placed.byte, base_offset, link: placed.before });
        (tagger.tags)(frame, &mut self.scratch);
        self.tags.extend(self.scratch.drain(..).map(|tag| (tag, number)));
        let byte = placed.byte + frame.header.disk_bytes();
        self.end = Place { byte, base_offset: frame.header.end_offset(), link: placed.after };
    }

    /// Takes over what `more`, its continuation, has gathered.
    pub(crate) fn append(&mut self, more: Self) {
        assert_eq!(self.next_index(), more.first_index, "a draft has no gaps");
        let before = u32::try_from(self.places.len()).expect("a segment has fewer frames than bytes");
        self.places.extend(more.places);
        self.tags.extend(more.tags.into_iter().map(|(tag, number)| (tag, before + number)));
        self.end = more.end;
        if self.tags.len() > DRAFT_TAGS_MAX {
            self.give_up();
        }
    }

    /// Places, and tags in their order, for a file.
    pub(crate) fn into_sorted(self) -> (Vec<Place>, Vec<(u64, u32)>) {
        let Self { places, mut tags, .. } = self;
        tags.sort_unstable();
        tags.dedup();
        (places, tags)
    }

    fn tags_of(&self, range: Range<u32>) -> &[(u64, u32)] {
        let start = self.tags.partition_point(|(_, number)| *number < range.start);
        let end = self.tags.partition_point(|(_, number)| *number < range.end);
        &self.tags[start..end]
    }
}

impl Postings for &Draft {
    fn frames(&self) -> u32 {
        u32::try_from(self.places.len()).expect("a segment has fewer frames than bytes")
    }

    fn place(&mut self, number: u32) -> io::Result<Place> {
        Ok(self.places.get(to_usize(number.into())).copied().unwrap_or(self.end))
    }

    fn numbers(&mut self, tag: u64, range: Range<u32>, max: usize) -> io::Result<Vec<u32>> {
        let mut numbers: Vec<u32> = Vec::new();
        for (_, number) in self.tags_of(range).iter().filter(|(found, _)| *found == tag) {
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

    fn last_number(&mut self, tag: u64, range: Range<u32>) -> io::Result<Option<u32>> {
        Ok(self.tags_of(range).iter().rfind(|(found, _)| *found == tag).map(|(_, number)| *number))
    }

    fn holding(&mut self, offset: u64) -> io::Result<Option<u32>> {
        if offset >= self.end.base_offset {
            return Ok(None);
        }
        let above = self.places.partition_point(|place| place.base_offset <= offset);
        Ok(above.checked_sub(1).map(|number| u32::try_from(number).expect("a number of a frame")))
    }
}
