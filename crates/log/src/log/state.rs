//! State of one log, shared by readers and the flusher.
//!
//! The caller's side moves first: appended frames are readable and truncations effective at once. The segments follow
//! when the flusher has done the work.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::OnceLock,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    error::ReadError,
    frame::{self, Frame, NewFrame, Position},
    journal::{LogFacts, SyncMark},
    log::tail_cache::TailCache,
    secondary_index::SecondaryIndex,
    segment::active::{ActiveSegment, LogEnd},
    segment::index::{Extent, Placed},
    segment::number::SegmentNumber,
    segment::recovery::Recovered,
    segment::roll::RollPolicy,
    segment::torn_tail::TornTail,
    segment::{Segment, SegmentHeader, SegmentSpan, TruncationTarget},
};

/// Positions that bound a log. Indexes first..=last are readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub purged: Option<Position>,
    /// Position of the last frame; the purge point if there is none above it.
    pub last: Option<Position>,
    /// The last index known durable; 0 if none is.
    pub synced_index: u64,
    pub start_offset: u64,
    pub next_offset: u64,
    pub bytes: u64,
}

pub(crate) struct LogShared {
    pub(crate) id: u32,
    pub(crate) name_checksum: u32,
    pub(crate) replica: u64,
    pub(crate) dir: PathBuf,
    /// The answer, once somebody has asked. A crash leaves a torn tail of frames that were being written, and never of
    /// what was recorded as synced. Damage within the 100 ms before a crash looks the same, though, and may have hit a
    /// frame that was acknowledged.
    pub(super) was_tail_torn: OnceLock<bool>,
    pub(crate) secondary_index: SecondaryIndex,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) purged: Option<Position>,
    pub(super) last: Option<Position>,
    /// Last index known durable and not truncated since.
    pub(super) flushed: Option<u64>,
    pub(super) start_offset: u64,
    pub(super) next_offset: u64,
    pub(super) vote: Option<Vec<u8>>,
    pub(super) roll: RollPolicy,
    pub(super) cache: TailCache,
    /// Bytes behind the end at the start of this run, until something may be written over them.
    pub(super) torn_tail: Option<TornTail>,
    /// Oldest first. The segments hold durable frames only. They may hold frames that a truncation under way is about to
    /// remove, so readers stop at `last`.
    pub(super) segments: VecDeque<Segment>,
    /// Truncations and restarts that the flusher has not done yet.
    pub(super) resets_pending: u32,
}

impl State {
    pub(super) fn append(&mut self, frame: NewFrame) -> Frame {
        if let Some(last) = self.last {
            assert_eq!(frame.position.index, last.index + 1, "a log has no gaps");
        }
        self.torn_tail = None;
        let frame = frame::place(frame, self.next_offset);
        self.next_offset = frame.header.end_offset();
        self.last = Some(frame.header.position);
        self.cache.push(frame.clone());
        frame
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            purged: self.purged,
            last: self.last,
            synced_index: self.flushed.unwrap_or_default(),
            start_offset: self.start_offset,
            next_offset: self.next_offset,
            bytes: self.segments.iter().map(|segment| segment.extent.end_byte).sum(),
        }
    }

    pub(super) fn end_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The newest segment that begins at or below the index.
    pub(super) fn segment_at(&self, index: u64) -> Option<&Segment> {
        let above = self.segments.partition_point(|segment| segment.header.first_index <= index);
        above.checked_sub(1).map(|place| &self.segments[place])
    }

    /// The newest segment that begins at or below the offset.
    pub(super) fn segment_of_offset(&self, offset: u64) -> Option<&Segment> {
        let above = self.segments.partition_point(|segment| segment.header.base_offset <= offset);
        above.checked_sub(1).map(|place| &self.segments[place])
    }

    /// First index that may not be read from this segment: cached frames may stand on disk in an older version, and
    /// frames above the end are about to be truncated.
    pub(super) fn readable_end(&self, segment: &Segment) -> u64 {
        let uncached = self.cache.first_index().unwrap_or(u64::MAX);
        segment.extent.next_index().min(uncached).min(self.end_index())
    }

    pub(super) fn purged_index(&self) -> Option<u64> {
        self.purged.map(|purged| purged.index)
    }

    /// Takes frames out of the cache and keeps the store's sum of all caches true. The caller drops the frames after
    /// unlocking.
    #[must_use]
    pub(super) fn uncache(
        &mut self,
        total: &AtomicU64,
        take: impl FnOnce(&mut TailCache) -> Vec<Frame>,
    ) -> Vec<Frame> {
        let before = self.cache.bytes();
        let taken = take(&mut self.cache);
        total.fetch_sub(before - self.cache.bytes(), Ordering::Relaxed);
        taken
    }
}

impl LogShared {
    /// The log as readers share it, and its end as the flusher's writer needs it.
    pub(crate) fn new(
        facts: &LogFacts,
        dir: PathBuf,
        roll: RollPolicy,
        recovered: Recovered,
    ) -> (Self, LogEnd) {
        let Recovered { segments, next_segment, continuation, torn_tail } = recovered;
        let newest = segments.last();
        let written = newest.and_then(newest_position);
        // A log that was restarted behind a snapshot may have no frame yet: it goes on after the purge point.
        let last = written.max_by_index(facts.purged);
        let first_offset = segments.first().map_or(facts.start_offset, |segment| segment.header.base_offset);
        let state = State {
            purged: facts.purged,
            last,
            flushed: last.map(|last| last.index),
            start_offset: if facts.purged.is_some() { facts.start_offset } else { first_offset },
            next_offset: newest.map_or(facts.start_offset, |segment| segment.extent.end_offset),
            vote: facts.vote.clone(),
            roll,
            cache: TailCache::default(),
            torn_tail,
            resets_pending: 0,
            segments: VecDeque::new(),
        };
        let active = newest.map(|segment| ActiveSegment::of(segment, continuation));
        let end = LogEnd { active, next_segment, previous: last };
        let log = Self {
            id: facts.id,
            name_checksum: crc32fast::hash(facts.name.as_bytes()),
            replica: facts.replica,
            dir,
            was_tail_torn: OnceLock::new(),
            secondary_index: SecondaryIndex::default(),
            state: Mutex::new(State { segments: segments.into(), ..state }),
        };
        (log, end)
    }

    /// The answer at the first call, kept from then on; false if that call comes after the first append. A replica of a
    /// torn log does not vote before it has heard how far the logs of the others reach.
    pub(crate) fn was_tail_torn(&self) -> Result<bool, ReadError> {
        if let Some(known) = self.was_tail_torn.get() {
            return Ok(*known);
        }
        let tail = self.state.lock().torn_tail.clone();
        let is_torn = tail.as_ref().map_or(Ok(false), TornTail::is_there)?;
        Ok(*self.was_tail_torn.get_or_init(|| is_torn))
    }

    pub(crate) fn roll(&self) -> RollPolicy {
        self.state.lock().roll
    }

    pub(crate) fn set_roll(&self, roll: RollPolicy) {
        self.state.lock().roll = roll;
    }

    pub(crate) fn set_vote(&self, vote: &[u8]) {
        self.state.lock().vote = Some(vote.to_vec());
    }

    /// The frames are durable in the newest segment.
    pub(crate) fn publish(&self, placed: impl Iterator<Item = Placed>) {
        let mut state = self.state.lock();
        // While a truncation is queued behind these frames, some of them are gone already for readers: `flushed` must not
        // rise over the end that the truncation has set.
        let may_raise = state.resets_pending == 0;
        let mut bytes = 0;
        for placed in placed {
            bytes += placed.header.disk_bytes();
            if may_raise {
                state.flushed = Some(placed.header.position.index);
            }
            let newest = state.segments.back_mut().expect("frames are placed in a segment");
            // The extent and `flushed` rise under one lock: eviction trusts that a flushed frame is found on disk.
            newest.extent.push(&placed);
        }
        drop(state);
        self.secondary_index.note_published(bytes);
    }

    /// Index of the newest frame on disk.
    pub(crate) fn last_written(&self) -> u64 {
        let state = self.state.lock();
        state.segments.back().and_then(newest_position).map_or(0, |position| position.index)
    }

    pub(crate) fn mark(&self) -> Option<SyncMark> {
        let state = self.state.lock();
        let newest = state.segments.back()?;
        newest.extent.mark(newest.header.number)
    }

    /// Header and index of the newest segment, which takes no more frames.
    pub(crate) fn seal_newest(&self) -> Option<(SegmentHeader, Vec<u8>)> {
        let mut state = self.state.lock();
        let newest = state.segments.back_mut()?;
        newest.sealed = true;
        let sealed = (newest.header.clone(), newest.extent.encode(&newest.header));
        drop(state);
        self.secondary_index.note_pending();
        Some(sealed)
    }

    pub(crate) fn start_segment(&self, segment: Segment) {
        self.state.lock().segments.push_back(segment);
    }

    /// The segment that a truncation after `index` ends in; None if no frame is left.
    pub(crate) fn segment_to_truncate(&self, index: Option<u64>) -> Option<TruncationTarget> {
        let state = self.state.lock();
        let above = state.segments.partition_point(|segment| Some(segment.header.first_index) <= index);
        let segment = &state.segments[above.checked_sub(1)?];
        Some(TruncationTarget {
            header: segment.header.clone(),
            path: segment.path.clone(),
            file: segment.file.clone(),
            extent: segment.extent.clone(),
            is_newest: above == state.segments.len(),
        })
    }

    /// Makes the segment `number` the newest, ending as `extent` says; returns those that were newer.
    pub(crate) fn truncate_segments(&self, number: SegmentNumber, extent: Extent) -> Vec<Segment> {
        let mut state = self.state.lock();
        let kept = state.segments.partition_point(|segment| segment.header.number <= number);
        let freed = state.segments.drain(kept..).collect();
        if let Some(newest) = state.segments.back_mut() {
            assert_eq!(newest.header.number, number, "invariant violation: another segment is the newest");
            newest.extent = extent;
            newest.sealed = false;
        }
        freed
    }

    pub(crate) fn with_newest<T>(&self, view: impl FnOnce(&Segment) -> T) -> Option<T> {
        self.state.lock().segments.back().map(view)
    }

    /// Takes all segments.
    pub(crate) fn take_segments(&self) -> Vec<Segment> {
        self.state.lock().segments.drain(..).collect()
    }

    /// Takes the segments wholly at or below `index`, but never the newest: the next frame goes there, and its header
    /// leads a start to the end of the log.
    pub(crate) fn free_up_to(&self, index: u64) -> Vec<Segment> {
        let mut state = self.state.lock();
        let purged = |segment: &Segment| segment.extent.last.is_some_and(|last| last.index <= index);
        let mut freed = Vec::new();
        while state.segments.len() > 1 && state.segments.front().is_some_and(purged) {
            freed.extend(state.segments.pop_front());
        }
        freed
    }

    /// A truncation or restart is done: what is left on disk ends at the position returned, or at `purged`.
    pub(crate) fn reset_done(&self, purged: Option<Position>) -> Option<Position> {
        let mut state = self.state.lock();
        let last = state.segments.back().and_then(newest_position).max_by_index(purged);
        state.resets_pending -= 1;
        // A later truncation that is still queued has lowered `flushed` further; its own end raises it again.
        if state.resets_pending == 0 {
            state.flushed = last.map(|last| last.index);
        }
        last
    }

    /// Drops flushed frames up to `index` from memory. `cached_bytes` counts the caches of all logs.
    pub(crate) fn evict(&self, cached_bytes: &AtomicU64, index: u64) {
        let mut state = self.state.lock();
        // A frame leaves memory only when readers find it on disk. `flushed` and the segments change under one lock.
        let Some(flushed) = state.flushed else { return };
        let evicted = state.uncache(cached_bytes, |cache| cache.drop_up_to(flushed.min(index)));
        drop(state);
        drop(evicted);
    }

    /// True if frames up to `index` may be in memory.
    pub(crate) fn caches_up_to(&self, index: u64) -> bool {
        self.state.lock().cache.first_index().is_some_and(|first| first <= index)
    }

    pub(super) fn spans(&self) -> Vec<SegmentSpan> {
        self.state.lock().segments.iter().filter_map(Segment::span).collect()
    }
}

fn newest_position(segment: &Segment) -> Option<Position> {
    segment.extent.last.or(segment.header.previous)
}

trait Latest {
    fn max_by_index(self, other: Self) -> Self;
}

impl Latest for Option<Position> {
    /// The position with the higher index; `self` if both have the same.
    fn max_by_index(self, other: Self) -> Self {
        match (self, other) {
            (Some(own), Some(other)) if other.index > own.index => Some(other),
            (own, other) => own.or(other),
        }
    }
}
