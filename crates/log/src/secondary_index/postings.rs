//! Looking keys up, in a draft in memory or in an index file.
use std::{io, ops::Range};

use super::{FrameLocation, IndexKey};
use crate::segment::index::Entry;

/// The postings of one segment: for each key the numbers of the frames that carry it. Frames are numbered from the
/// segment's first one.
pub(super) trait Postings {
    /// How many frames are covered, from the first one on.
    fn frames(&self) -> u32;
    /// Location of a frame; the end of the covered frames for the number after the last.
    fn location(&mut self, number: u32) -> io::Result<FrameLocation>;
    /// The first `max` frames of `range` with exactly this key, ascending.
    fn numbers(&mut self, key: IndexKey, range: Range<u32>, max: usize) -> io::Result<Vec<u32>>;
    /// The last frame of `range` with exactly this key.
    fn last_number(&mut self, key: IndexKey, range: Range<u32>) -> io::Result<Option<u32>>;
    /// The last frame with a base offset at or below `offset`.
    fn number_of_offset(&mut self, offset: u64) -> io::Result<Option<u32>>;
}

/// Neighbouring frames and the bytes that they occupy.
#[derive(Debug)]
pub(super) struct FrameRun {
    pub(super) start: Entry,
    pub(super) end_byte: u64,
    pub(super) frames: u64,
}

/// All frames up to `end_index` that may carry a key.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) runs: Vec<FrameRun>,
    /// First index about which nothing is said.
    pub(super) end_index: u64,
    /// Base offset of `end_index`.
    pub(super) end_offset: u64,
}

/// A look into the postings of one segment.
pub(super) struct Query<'a> {
    pub(super) postings: &'a mut dyn Postings,
    /// Index of the segment's first frame.
    pub(super) first_index: u64,
    pub(super) key: IndexKey,
}

impl Query<'_> {
    /// The first `max` candidates among the covered frames of `indexes`; None if the first of them is not covered.
    pub(super) fn candidates(&mut self, indexes: Range<u64>, max: usize) -> io::Result<Option<Candidates>> {
        let Some(range) = self.covered(indexes) else { return Ok(None) };
        let mut numbers = self.postings.numbers(self.key, range.clone(), max)?;
        let mut end = complete_up_to(&numbers, max, range.end);
        if self.key != IndexKey::ANY {
            let any = self.postings.numbers(IndexKey::ANY, range.clone(), max)?;
            // Either list may have been cut off at `max`; beyond the nearer cut a candidate may be missing.
            end = end.min(complete_up_to(&any, max, range.end));
            numbers.extend(any);
            numbers.sort_unstable();
            numbers.dedup();
            numbers.retain(|number| *number < end);
        }
        let runs = self.runs(&numbers)?;
        let end_offset = self.postings.location(end)?.base_offset;
        Ok(Some(Candidates { runs, end_index: self.first_index + u64::from(end), end_offset }))
    }

    /// The last candidate of `indexes`, all of which must be covered, else None.
    pub(super) fn newest_candidate(&mut self, indexes: Range<u64>) -> io::Result<Option<Option<FrameRun>>> {
        let end_index = indexes.end;
        let Some(range) = self.covered(indexes) else { return Ok(None) };
        if self.first_index + u64::from(range.end) < end_index {
            return Ok(None);
        }
        let exact = self.postings.last_number(self.key, range.clone())?;
        let newest = exact.max(self.postings.last_number(IndexKey::ANY, range)?);
        Ok(Some(self.runs(newest.as_slice())?.pop()))
    }

    fn covered(&self, indexes: Range<u64>) -> Option<Range<u32>> {
        let number = |index: u64| u32::try_from(index.saturating_sub(self.first_index)).unwrap_or(u32::MAX);
        let range = number(indexes.start)..number(indexes.end).min(self.postings.frames());
        (!range.is_empty()).then_some(range)
    }

    fn runs(&mut self, numbers: &[u32]) -> io::Result<Vec<FrameRun>> {
        let mut runs: Vec<FrameRun> = Vec::new();
        for neighbours in numbers.chunk_by(|number, next| number + 1 == *next) {
            let (first, last) = (neighbours[0], neighbours[neighbours.len() - 1]);
            let run = FrameRun {
                start: self.postings.location(first)?.entry(self.first_index + u64::from(first)),
                end_byte: self.postings.location(last + 1)?.byte,
                frames: neighbours.len() as u64,
            };
            runs.push(run);
        }
        Ok(runs)
    }
}

/// End of the range in which `numbers`, at most `max` of them, are all there are.
fn complete_up_to(numbers: &[u32], max: usize, end: u32) -> u32 {
    match numbers.last() {
        Some(last) if numbers.len() == max => last + 1,
        _ => end,
    }
}
