//! One replica's log as its owner uses it: append, truncate, purge, vote, read. A change is effective for readers when
//! the call returns, and durable when `on_durable` is called.

mod keyed;
mod read;
mod scan_headers;
pub(crate) mod state;
pub(crate) mod tail_cache;

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{Fatal, ReadError},
    flusher::queue::{OnDurable, OnRoom, Request, Work},
    frame::{Frame, NewFrame, Position},
    log::{
        state::{Bounds, LogShared, State},
        tail_cache::TailCache,
    },
    segment::SegmentSpan,
    store::handle::StoreHandle,
};

const VOTE_BYTES_MAX: usize = 64;

/// Cheap to clone; every method may be called from any thread. append, truncate, purge and save_vote only enqueue.
#[derive(Clone)]
pub struct Log {
    pub(crate) log: Arc<LogShared>,
    pub(crate) handle: Arc<StoreHandle>,
}

impl Log {
    pub(crate) fn new(log: Arc<LogShared>, handle: Arc<StoreHandle>) -> Self {
        Self { log, handle }
    }

    pub fn bounds(&self) -> Bounds {
        self.log.state.lock().bounds()
    }

    /// True if the log ended in a torn tail when it was opened: frames that were acknowledged may be among the lost ones.
    /// Ask before the first append, which may write over the tail. Reads up to 1 MiB at the first call. Blocking.
    pub fn was_tail_torn(&self) -> Result<bool, ReadError> {
        self.log.was_tail_torn()
    }

    /// The last one that is durable.
    pub fn vote(&self) -> Option<Vec<u8>> {
        self.log.state.lock().vote.clone()
    }

    /// At most 64 bytes.
    pub fn save_vote(&self, vote: Vec<u8>, on_durable: OnDurable) {
        assert!(vote.len() <= VOTE_BYTES_MAX, "a vote has at most {VOTE_BYTES_MAX} bytes");
        self.submit(on_durable, |_| Work::Vote(vote));
    }

    /// Calls `on_room` when less than the queue's limit is on its way to disk, or the store is closed; maybe at once.
    /// Nothing is reserved: each caller that waited may go beyond the limit with one append.
    pub fn when_room(&self, on_room: OnRoom) {
        self.handle.shared.queue.when_room(on_room);
    }

    /// Appends frames that continue the log without a gap; the first frame ever may have any index. The frames are
    /// readable at return. Takes any number of bytes: a caller that does not bound them waits for room first.
    pub fn append(&self, frames: Vec<NewFrame>, on_durable: OnDurable) {
        self.submit(on_durable, |state| {
            let before = state.cache.bytes();
            let frames = frames.into_iter().map(|frame| state.append(frame)).collect();
            self.handle.shared.cached_bytes.fetch_add(state.cache.bytes() - before, Ordering::Relaxed);
            Work::Append(frames)
        });
    }

    /// Keeps the frames up to `index`; None, or an index at the purge point, keeps none. Effective for readers at return.
    /// Reads the frame at `index` from disk if it is not in memory.
    pub fn truncate_after(&self, index: Option<u64>, on_durable: OnDurable) {
        // Read without the lock: nobody but the log's owner truncates.
        let last = match index.map(|index| self.log.read(index, index + 1, 0)) {
            None | Some(Err(ReadError::Purged { .. })) => Ok(None),
            Some(Ok(frames)) => Ok(frames.into_iter().next().map(|frame| frame.header)),
            Some(Err(error)) => Err(Fatal::unreadable("truncate", &self.log.dir, &error)),
        };
        let mut uncached = Vec::new();
        self.submit(on_durable, |state| {
            let kept = match last {
                Ok(kept) => kept,
                Err(fatal) => return Work::Fail(fatal),
            };
            if index.is_some() && index >= state.last.map(|last| last.index) {
                return Work::Append(Vec::new());
            }
            state.last = kept.as_ref().map(|header| header.position).or(state.purged);
            state.next_offset = kept.as_ref().map_or(state.start_offset, |header| header.end_offset());
            let index = state.last.map(|last| last.index);
            // Until the flusher reaches this request it may publish frames that are truncated here.
            state.flushed = state.flushed.min(index);
            state.resets_pending += 1;
            uncached = state.uncache(&self.handle.shared.cached_bytes, |cache| match index {
                Some(index) => cache.keep_up_to(index),
                None => cache.clear(),
            });
            Work::Truncate(index)
        });
        drop(uncached);
    }

    /// Drops the frames up to `position` logically, and frees the segments wholly at or below it, but never the newest.
    /// `next_offset` is the offset after `position`. An index above the last frame empties the log, which then continues
    /// after `position` with `next_offset`: a follower installs a snapshot in this way.
    pub fn purge(&self, position: Position, next_offset: u64, on_durable: OnDurable) {
        let mut uncached = Vec::new();
        self.submit(on_durable, |state| {
            if state.purged_index() >= Some(position.index) {
                return Work::Append(Vec::new());
            }
            let restarts = state.last.is_none_or(|last| last.index < position.index);
            state.start_offset =
                if restarts { next_offset } else { state.offset_after(position, next_offset) };
            state.purged = Some(position);
            if !restarts {
                uncached =
                    state.uncache(&self.handle.shared.cached_bytes, |cache| cache.drop_up_to(position.index));
                return Work::Purge { position, start_offset: state.start_offset };
            }
            state.last = Some(position);
            state.next_offset = next_offset;
            state.resets_pending += 1;
            uncached = state.uncache(&self.handle.shared.cached_bytes, TailCache::clear);
            Work::Restart { position, start_offset: state.start_offset }
        });
        drop(uncached);
    }

    /// Frames from memory; None if the first of them is not cached. At least one frame, then up to `bytes_max` of payload.
    pub fn read_cached(&self, from: u64, end: u64, bytes_max: u64) -> Option<Vec<Frame>> {
        let state = self.log.state.lock();
        if from >= end || state.purged_index() >= Some(from) {
            return None;
        }
        state.cache.read(from, end, bytes_max)
    }

    /// Verified frames of `from..end`, as far as there are any, from memory or disk. At least one frame, then up to
    /// `bytes_max` of payload. Blocking.
    pub fn read(&self, from: u64, end: u64, bytes_max: u64) -> Result<Vec<Frame>, ReadError> {
        self.log.read(from, end, bytes_max)
    }

    /// Index of the frame that holds `offset`. Blocking (may read a segment). None if below start or not yet
    /// appended.
    pub fn index_of_offset(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        let indexed = self.index_of_offset_indexed(offset);
        if indexed.is_some() { Ok(indexed) } else { self.log.index_of_offset(offset) }
    }

    /// First index whose frame was appended at or after `time_ms`. Blocking.
    pub fn index_of_time(&self, time_ms: u64) -> Result<Option<u64>, ReadError> {
        self.log.index_of_time(time_ms)
    }

    /// The segments that hold frames on disk, oldest first.
    pub fn segments(&self) -> Vec<SegmentSpan> {
        self.log.spans()
    }

    /// Decides under the log's lock, so that requests are queued in the order in which they take effect.
    fn submit(&self, on_durable: OnDurable, decide: impl FnOnce(&mut State) -> Work) {
        let shared = &self.handle.shared;
        let now = shared.now();
        let mut state = self.log.state.lock();
        let work = match shared.fatal.get() {
            Some(fatal) => Work::Fail(fatal),
            None => decide(&mut state),
        };
        let pushed = shared.queue.push(Request::new(self.log.clone(), work, on_durable, now));
        drop(state);
        if let Err(refused) = pushed {
            (refused.on_durable)(Err(Fatal::closed(&shared.dir)));
        }
    }
}

impl State {
    /// Offset after `position`: exact where memory holds the next frame, else `told`, clamped to the log.
    fn offset_after(&self, position: Position, told: u64) -> u64 {
        if self.last.is_some_and(|last| last.index == position.index) {
            return self.next_offset;
        }
        let known = self.cache.get(position.index + 1).map(|frame| frame.header.base_offset);
        let told = || told.clamp(self.start_offset, self.next_offset);
        known.unwrap_or_else(told)
    }
}
