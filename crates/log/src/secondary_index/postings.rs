//! Looking tags up, in a draft in memory or in a file.
use std::{io, ops::Range};

use super::{ANY_TAG, Place};
use crate::segment::index::Entry;

/// What a segment's frames are found by. Frames are numbered from the first of the segment.
pub(crate) trait Postings {
    /// Frames below this number are covered.
    fn frames(&self) -> u32;
    /// Of a frame, or of the end for the number after the last.
    fn place(&mut self, number: u32) -> io::Result<Place>;
    /// The first `max` frames of `range` with exactly this tag, ascending.
    fn numbers(&mut self, tag: u64, range: Range<u32>, max: usize) -> io::Result<Vec<u32>>;
    fn last_number(&mut self, tag: u64, range: Range<u32>) -> io::Result<Option<u32>>;
    /// The last frame whose base offset is at or below `offset`.
    fn holding(&mut self, offset: u64) -> io::Result<Option<u32>>;
}

/// Neighbouring frames and the bytes that they lie in.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) start: Entry,
    pub(crate) end_byte: u64,
    pub(crate) frames: u64,
}

/// All frames of a range, up to `upto`, that may carry the tag.
#[derive(Debug)]
pub(crate) struct Candidates {
    pub(crate) runs: Vec<Run>,
    /// Index and base offset from which on nothing is said.
    pub(crate) upto: u64,
    pub(crate) upto_offset: u64,
}

/// The first `max` candidates among the covered frames of `range`; None if the first of the range is not covered.
pub(crate) fn candidates(
    postings: &mut dyn Postings,
    first_index: u64,
    tag: u64,
    range: Range<u64>,
    max: usize,
) -> io::Result<Option<Candidates>> {
    let Some(range) = covered(postings, first_index, range) else { return Ok(None) };
    let mut numbers = postings.numbers(tag, range.clone(), max)?;
    let mut reach = reached(&numbers, max, range.end);
    if tag != ANY_TAG {
        let any = postings.numbers(ANY_TAG, range.clone(), max)?;
        reach = reach.min(reached(&any, max, range.end));
        numbers.extend(any);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| *number < reach);
    }
    let runs = runs(postings, first_index, &numbers)?;
    let upto_offset = postings.place(reach)?.base_offset;
    Ok(Some(Candidates { runs, upto: first_index + u64::from(reach), upto_offset }))
}

/// The last candidate of `range`, all of which must be covered, else None.
pub(crate) fn newest_candidate(
    postings: &mut dyn Postings,
    first_index: u64,
    tag: u64,
    range: Range<u64>,
) -> io::Result<Option<Option<Run>>> {
    let wanted = range.end;
    let Some(range) = covered(postings, first_index, range) else { return Ok(None) };
    if first_index + u64::from(range.end) < wanted {
        return Ok(None);
    }
    let newest = postings.last_number(tag, range.clone())?.max(postings.last_number(ANY_TAG, range)?);
    let run = runs(postings, first_index, newest.as_slice())?.pop();
    Ok(Some(run))
}

fn covered(postings: &dyn Postings, first_index: u64, range: Range<u64>) -> Option<Range<u32>> {
    let number = |index: u64| u32::try_from(index.saturating_sub(first_index)).unwrap_or(u32::MAX);
    let range = number(range.start)..number(range.end).min(postings.frames());
    (!range.is_empty()).then_some(range)
}

/// Up to where the numbers are all there are.
fn reached(numbers: &[u32], max: usize, end: u32) -> u32 {
    match numbers.last() {
        Some(last) if numbers.len() == max => last + 1,
        _ => end,
    }
}

fn runs(postings: &mut dyn Postings, first_index: u64, numbers: &[u32]) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for neighbours in numbers.chunk_by(|number, next| number + 1 == *next) {
        let (first, last) = (neighbours[0], neighbours[neighbours.len() - 1]);
        runs.push(Run {
            start: postings.place(first)?.entry(first_index + u64::from(first)),
            end_byte: postings.place(last + 1)?.byte,
            frames: neighbours.len() as u64,
        });
    }
    Ok(runs)
}
