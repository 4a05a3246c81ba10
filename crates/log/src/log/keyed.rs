//! Questions of the secondary index to a log: the place of a range of frames, and the list of segments.
use std::ops::Range;

use super::state::{LogShared, State};
use crate::{
    error::ReadError,
    secondary_index::{BuildJob, KeyedSource, SegmentRange, SegmentRef},
    segment::{Segment, number::SegmentNumber},
};

impl LogShared {
    /// The source of the frames at the start of `indexes`, up to the end of that source.
    pub(crate) fn locate_keyed(&self, indexes: Range<u64>) -> Result<KeyedSource, ReadError> {
        self.state.lock().locate_keyed(indexes)
    }

    /// The source of the newest frames below `end`, back to the start of that source.
    pub(crate) fn locate_keyed_backwards(&self, end: u64) -> KeyedSource {
        self.state.lock().locate_keyed_backwards(end)
    }

    /// The segment whose frames hold `offset`; None if memory holds it, or nothing does.
    pub(crate) fn locate_offset(&self, offset: u64) -> Option<SegmentRange> {
        self.state.lock().locate_offset(offset)
    }

    /// Sequences of the sealed segments that are still to be indexed, oldest first.
    pub(crate) fn unindexed(&self) -> Vec<SegmentNumber> {
        let state = self.state.lock();
        let sealed: Vec<SegmentRef> =
            state.segments.iter().filter(|segment| segment.sealed).map(Segment::as_ref).collect();
        drop(state);
        self.secondary_index.pending_of(&sealed)
    }

    pub(crate) fn sealed_build_job(&self, number: SegmentNumber) -> Option<BuildJob> {
        let state = self.state.lock();
        let at = state.segments.binary_search_by_key(&number, |segment| segment.header.number).ok()?;
        Some(&state.segments[at]).filter(|segment| segment.sealed).map(Segment::build_job)
    }

    pub(crate) fn newest_build_job(&self) -> Option<BuildJob> {
        self.state.lock().segments.back().filter(|segment| !segment.sealed).map(Segment::build_job)
    }

    /// True if the log has `segment` with exactly that end.
    pub(crate) fn has_segment(&self, segment: &SegmentRef) -> bool {
        let state = self.state.lock();
        let found = state.segments.binary_search_by_key(&segment.number, |other| other.header.number);
        found.is_ok_and(|at| state.segments[at].as_ref() == *segment)
    }

    pub(crate) fn has_segment_file(&self, number: SegmentNumber) -> bool {
        let state = self.state.lock();
        state.segments.binary_search_by_key(&number, |segment| segment.header.number).is_ok()
    }
}

impl State {
    fn locate_keyed(&self, indexes: Range<u64>) -> Result<KeyedSource, ReadError> {
        let from = indexes.start;
        if let Some(purged) = self.purged_index().filter(|purged| from <= *purged) {
            return Err(ReadError::Purged { index: from, purged });
        }
        let end = indexes.end.min(self.end_index());
        if from >= end {
            return Ok(KeyedSource::Nothing);
        }
        if self.cache.first_index().is_some_and(|first| first <= from) {
            return Ok(KeyedSource::Memory(from..end));
        }
        let range = self.segment_at(from).map(|segment| {
            let end = end.min(self.readable_end(segment));
            SegmentRange::new(segment, from..end)
        });
        Ok(range.filter(|range| !range.is_empty()).map_or(KeyedSource::Nothing, KeyedSource::Disk))
    }

    fn locate_keyed_backwards(&self, end: u64) -> KeyedSource {
        let first = self.purged_index().map_or(0, |purged| purged + 1);
        let end = end.min(self.end_index());
        let Some(newest) = end.checked_sub(1).filter(|newest| *newest >= first) else {
            return KeyedSource::Nothing;
        };
        if let Some(start) = self.cache.first_index().filter(|start| *start <= newest) {
            return KeyedSource::Memory(start.max(first)..end);
        }
        let range = self.segment_at(newest).map(|segment| {
            let start = first.max(segment.header.first_index);
            SegmentRange::new(segment, start..end.min(self.readable_end(segment)))
        });
        range.filter(|range| !range.is_empty()).map_or(KeyedSource::Nothing, KeyedSource::Disk)
    }

    fn locate_offset(&self, offset: u64) -> Option<SegmentRange> {
        let is_appended = self.start_offset <= offset && offset < self.next_offset;
        if !is_appended || self.cache.find_offset(offset).is_some() {
            return None;
        }
        let segment = self.segment_of_offset(offset)?;
        let first = self.purged_index().map_or(0, |purged| purged + 1).max(segment.header.first_index);
        Some(SegmentRange::new(segment, first..self.readable_end(segment)))
    }
}
