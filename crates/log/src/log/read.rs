//! Reading a log: from memory where the frames are cached, else from the segments, which hold all frames that are not.

use std::{path::PathBuf, sync::Arc};

use super::{LogShared, state::State};
use crate::{
    error::ReadError,
    frame::{Frame, FrameHeader},
    fs::File,
    segment::Segment,
    segment::index::{Entry, Placed},
    segment::number::SegmentNumber,
    segment::scanner::Scanner,
};

/// Frames that are on disk and not in memory. The range holds the file open, and a file that somebody holds is not
/// recycled, so the frames stay readable whatever is purged.
pub(super) struct DiskRange {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) start: Entry,
    pub(super) end_byte: u64,
    pub(super) end_index: u64,
}

pub(super) enum Source {
    Nothing,
    Memory(Vec<Frame>),
    Disk(DiskRange),
}

struct Gathered {
    frames: Vec<Frame>,
    bytes: u64,
    bytes_max: u64,
}

impl Gathered {
    fn has_room_for(&self, header: &FrameHeader) -> bool {
        self.frames.is_empty() || self.bytes + u64::from(header.payload_bytes) <= self.bytes_max
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += u64::from(frame.header.payload_bytes);
        self.frames.push(frame);
    }

    /// Takes the frames of `range` before `end` from `next` on, as far as there is room. The payload of the first one
    /// without room is not read. Returns false if there was room for all.
    fn fill(&mut self, range: &DiskRange, next: u64, end: u64) -> Result<bool, ReadError> {
        let mut scanner = Scanner::new(Arc::clone(&range.file), range.start, range.end_byte);
        let end = range.end_index.min(end);
        while scanner.next_index() < end {
            // The scan starts at an entry of the sparse index, at or before the first frame asked for.
            let wanted = |header: &FrameHeader| header.position.index < next || self.has_room_for(header);
            let scanned = scanner.next_if(wanted).map_err(|error| error.read_error(&range.path))?;
            let Some((frame, _)) = scanned else { return Ok(true) };
            if frame.header.position.index >= next {
                self.push(frame);
            }
        }
        Ok(false)
    }
}

impl DiskRange {
    fn of(state: &State, segment: &Segment, start: Entry) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            path: segment.path.clone(),
            start,
            end_byte: segment.extent.end_byte,
            end_index: state.readable_end(segment),
        }
    }

    /// Calls `visit` with each frame in order until it returns false.
    fn scan(&self, mut visit: impl FnMut(Frame, &Placed) -> bool) -> Result<(), ReadError> {
        let mut scanner = Scanner::new(Arc::clone(&self.file), self.start, self.end_byte);
        while scanner.next_index() < self.end_index {
            let next = scanner.next().map_err(|error| error.read_error(&self.path))?;
            let Some((frame, placed)) = next else { break };
            if !visit(frame, &placed) {
                break;
            }
        }
        Ok(())
    }

    fn first_where(&self, wanted: impl Fn(&Frame) -> bool) -> Result<Option<u64>, ReadError> {
        let mut found = None;
        self.scan(|frame, placed| {
            found = wanted(&frame).then_some(placed.header.position.index);
            found.is_none()
        })?;
        Ok(found)
    }
}

impl State {
    pub(super) fn locate(&self, from: u64, end: u64, bytes_max: u64) -> Result<Source, ReadError> {
        if let Some(purged) = self.purged_index().filter(|purged| from <= *purged) {
            return Err(ReadError::Purged { index: from, purged });
        }
        if from >= end || self.last.is_none_or(|last| from > last.index) {
            return Ok(Source::Nothing);
        }
        if let Some(frames) = self.cache.read(from, end, bytes_max) {
            return Ok(Source::Memory(frames));
        }
        // The log's first frame may stand at any index, so what lies before it reads as nothing.
        let Some(segment) = self.segment_at(from).filter(|segment| from < segment.extent.next_index()) else {
            return Ok(Source::Nothing);
        };
        Ok(Source::Disk(DiskRange::of(self, segment, segment.extent.entry_of_index(from))))
    }
}

impl LogShared {
    pub(super) fn locate(&self, from: u64, end: u64, bytes_max: u64) -> Result<Source, ReadError> {
        self.state.lock().locate(from, end, bytes_max)
    }

    pub(crate) fn read(&self, from: u64, end: u64, bytes_max: u64) -> Result<Vec<Frame>, ReadError> {
        let mut gathered = Gathered { frames: Vec::new(), bytes: 0, bytes_max };
        let mut next = from;
        loop {
            // Located anew for each segment, and read without the lock: appends, truncations and purges go on meanwhile.
            let located = self.state.lock().locate(next, end, bytes_max);
            let range = match located {
                // Purged while the frames before were read: those are still true.
                Err(ReadError::Purged { .. }) if !gathered.frames.is_empty() => break,
                Ok(Source::Nothing) => break,
                Ok(Source::Memory(frames)) => {
                    let mut frames = frames.into_iter();
                    while let Some(frame) = frames.next().filter(|frame| gathered.has_room_for(&frame.header))
                    {
                        gathered.push(frame);
                    }
                    break;
                }
                Ok(Source::Disk(range)) => range,
                Err(error) => return Err(error),
            };
            let full = gathered.fill(&range, next, end)?;
            if full || range.end_index >= end || range.end_index <= next {
                break;
            }
            next = range.end_index;
        }
        Ok(gathered.frames)
    }

    pub(super) fn index_of_offset(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        let range = {
            let state = self.state.lock();
            if offset < state.start_offset || offset >= state.next_offset {
                return Ok(None);
            }
            if let Some(frame) = state.cache.find_offset(offset) {
                return Ok(Some(frame.header.position.index));
            }
            let Some(segment) = state.segment_of_offset(offset) else { return Ok(None) };
            DiskRange::of(&state, segment, segment.extent.entry_of_offset(offset))
        };
        range.first_where(|frame| offset < frame.header.end_offset())
    }

    pub(super) fn index_of_time(&self, time_ms: u64) -> Result<Option<u64>, ReadError> {
        let mut after_segment = SegmentNumber::NONE;
        // The segment scanned last without a find, and the first cached frame by then.
        let mut scanned: Option<(SegmentNumber, Option<u64>)> = None;
        loop {
            let (number, first_cached, purged, range) = {
                let state = self.state.lock();
                let purged = state.purged_index();
                let first_cached = state.cache.first_index();
                // A scan ends where the cache begins. Frames evicted since then are on disk alone: the segment is scanned
                // once more.
                after_segment = match scanned {
                    Some((number, before)) if before == first_cached => number,
                    Some(_) | None => after_segment,
                };
                let candidate = state.segments.iter().find(|segment| {
                    segment.header.number > after_segment
                        && segment.extent.time_ms_max >= time_ms
                        && Some(segment.extent.next_index()) > purged.map(|purged| purged + 1)
                        && first_cached.is_none_or(|cached| segment.header.first_index < cached)
                        && state.last.is_some_and(|last| segment.header.first_index <= last.index)
                });
                // Frames that are cached are read from memory alone: on disk there may be an older version of them, from
                // before a truncation that the flusher has not reached.
                let Some(segment) = candidate else {
                    let mut cached = state.cache.iter().filter(|frame| frame.header.time_ms >= time_ms);
                    return Ok(cached.next().map(|frame| frame.header.position.index));
                };
                let start = segment.extent.entry_of_time(time_ms);
                (segment.header.number, first_cached, purged, DiskRange::of(&state, segment, start))
            };
            // The segment may begin with purged frames: a purge frees whole segments only.
            let found = range.first_where(|frame| {
                frame.header.time_ms >= time_ms && Some(frame.header.position.index) > purged
            })?;
            if found.is_some() {
                return Ok(found);
            }
            scanned = Some((number, first_cached));
        }
    }
}
