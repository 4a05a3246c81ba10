//! Frames that were read from disk lately, for the next reader of the same part of the log.
//!
//! Readers that fell behind for the same reason stand close together. The first one reads from disk, the others find its
//! frames here. Committed frames never change, so an entry of the cache is never stale.

use std::{collections::VecDeque, sync::Arc};

use fanfare_log::Frame;
use fanfare_model::Offset;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::budgets::BudgetShare;

const RANGES_MAX: usize = 16;
/// The cache is emptied when it was not used for this time.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Consecutive frames, shared.
#[derive(Clone)]
pub(super) struct FrameRange {
    frames: Arc<[Frame]>,
    /// Index of the first frame to use.
    first: usize,
}

/// The last range may exceed the budget, so that one read is always kept.
pub(crate) struct ReadCache {
    budget: Arc<BudgetShare>,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    /// Ascending by time of use.
    ranges: VecDeque<FrameRange>,
    /// Sum of the ranges' payloads.
    bytes: u64,
    used_at: Option<Instant>,
    #[cfg(test)]
    inserts: usize,
}

/// The cache's answer for an offset.
pub(super) enum Lookup {
    Frames(FrameRange),
    /// The offset begins the frame at this index, behind a cached range.
    NextIndex(u64),
    Miss,
}

impl FrameRange {
    pub(super) fn new(frames: Vec<Frame>) -> Self {
        Self { frames: frames.into(), first: 0 }
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames[self.first..]
    }

    fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.header.payload_bytes)).sum()
    }

    fn contains(&self, offset: Offset) -> bool {
        let begins = self.frames.first().is_some_and(|frame| frame.header.base_offset <= offset.0);
        begins && self.frames.last().is_some_and(|frame| offset < end_of(frame))
    }

    /// The range from the frame that holds `offset` on.
    fn from(mut self, offset: Offset) -> Self {
        self.first = self.frames.partition_point(|frame| end_of(frame) <= offset);
        self
    }
}

impl ReadCache {
    pub(crate) fn new(budget: Arc<BudgetShare>) -> Self {
        Self { budget, state: Mutex::default() }
    }

    pub(super) fn lookup(&self, offset: Offset) -> Lookup {
        let mut state = self.state.lock();
        if let Some(position) = state.ranges.iter().position(|range| range.contains(offset))
            && let Some(range) = state.ranges.remove(position)
        {
            state.used_at = Some(Instant::now());
            state.ranges.push_back(range.clone());
            return Lookup::Frames(range.from(offset));
        }
        let ending_here = state.ranges.iter().filter_map(|range| range.frames.last());
        let mut last = ending_here.filter(|last| end_of(last) == offset);
        last.next().map_or(Lookup::Miss, |last| Lookup::NextIndex(last.header.position.index + 1))
    }

    pub(super) fn insert(&self, range: &FrameRange) {
        let bytes_max = self.budget.read_cache_bytes();
        let mut state = self.state.lock();
        state.used_at = Some(Instant::now());
        #[cfg(test)]
        {
            state.inserts += 1;
        }
        state.bytes += range.bytes();
        state.ranges.push_back(range.clone());
        while state.ranges.len() > RANGES_MAX || state.bytes > bytes_max && state.ranges.len() > 1 {
            let Some(oldest) = state.ranges.pop_front() else { break };
            state.bytes -= oldest.bytes();
        }
    }

    /// Inserts frames as another reader would.
    #[cfg(test)]
    pub(crate) fn insert_frames(&self, frames: Vec<Frame>) {
        self.insert(&FrameRange::new(frames));
    }

    /// Number of reads from disk that filled the cache.
    #[cfg(test)]
    pub(crate) fn inserts(&self) -> usize {
        self.state.lock().inserts
    }

    /// Empties the cache if it was not used for a while.
    pub(super) fn evict_idle(&self) {
        let mut state = self.state.lock();
        if state.used_at.is_some_and(|used_at| used_at.elapsed() > IDLE_MAX) {
            *state = CacheState::default();
        }
    }
}

fn end_of(frame: &Frame) -> Offset {
    Offset(frame.header.base_offset).plus(frame.header.count.into())
}

#[cfg(test)]
mod tests {
    use fanfare_log::{FrameHeader, Payload, Position};

    use super::*;
    use crate::budgets::{Budgets, MemoryLimits};

    fn cache() -> ReadCache {
        let limits = MemoryLimits { dedup_bytes_max: 0, queue_bytes_max: 0, read_cache_bytes_max: 4 << 20 };
        ReadCache::new(Arc::new(Budgets::new(limits, 1).share()))
    }

    /// Frames of ten events each, `first_index` being the one from offset `first_index * 10`.
    fn range(first_index: u64, frames: u64, payload_bytes: u32) -> FrameRange {
        let frame = |index| Frame {
            header: FrameHeader {
                kind: 1,
                position: Position { term: 1, leader: 1, index },
                base_offset: index * 10,
                count: 10,
                time_ms: 0,
                payload_bytes,
            },
            payload: Payload::new(Vec::new()),
        };
        FrameRange::new((first_index..first_index + frames).map(frame).collect())
    }

    fn indexes(read_cache: &ReadCache, offset: u64) -> Result<Vec<u64>, Option<u64>> {
        match read_cache.lookup(Offset(offset)) {
            Lookup::Frames(range) => {
                Ok(range.frames().iter().map(|frame| frame.header.position.index).collect())
            }
            Lookup::NextIndex(index) => Err(Some(index)),
            Lookup::Miss => Err(None),
        }
    }

    #[test]
    fn lookup_returns_frames_from_the_offset_and_the_index_behind_a_range() {
        let read_cache = cache();
        read_cache.insert(&range(5, 3, 100));
        assert_eq!(indexes(&read_cache, 50), Ok(vec![5, 6, 7]));
        assert_eq!(indexes(&read_cache, 69), Ok(vec![6, 7]));
        assert_eq!(indexes(&read_cache, 80), Err(Some(8)));
        assert_eq!(indexes(&read_cache, 49), Err(None));
        assert_eq!(indexes(&read_cache, 81), Err(None));
    }

    #[test]
    fn least_recently_used_ranges_are_evicted_first() {
        let read_cache = cache();
        for number in 0..4 {
            read_cache.insert(&range(number * 2, 1, 1 << 20));
        }
        assert!(indexes(&read_cache, 0).is_ok());
        read_cache.insert(&range(100, 1, 1 << 20));
        assert!(indexes(&read_cache, 0).is_ok() && indexes(&read_cache, 20).is_err());
        read_cache.insert(&range(200, 1, 64 << 20));
        assert!(indexes(&read_cache, 2000).is_ok(), "one alone may be larger");
        assert!(indexes(&read_cache, 0).is_err() && indexes(&read_cache, 1000).is_err());
    }
}
