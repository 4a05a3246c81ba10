//! One pass over the log that looks for the next events of many keys. Pure: says where to read, and takes what was read.
//!
//! A key takes part from its own offset on and is done with its first events: those of one chunk, a few at most. Where
//! no key takes part, the pass skips the log.

use std::{collections::BTreeMap, ops::Range};

use fanfare_model::{KeyHash, Offset};

use crate::subscription::{
    buffered_event::BufferedEvent,
    event::{KeyScan, ScannedKey},
};

/// Limits of the events found of one key.
const KEY_EVENTS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 256 << 10;
/// Chunks that one pass may read before other work of the subscription gets its turn.
const CHUNKS_MAX: u64 = 64;
/// Size of a read for single events of several keys.
const SINGLE_EVENTS_BYTES: u64 = 64 << 10;

pub(crate) struct KeySweep {
    /// In the order of the pass: ascending by offset, but that the oldest may follow the newest.
    keys: Vec<SweptKey>,
    by_key: BTreeMap<KeyHash, usize>,
    /// Keys that take part now.
    active: Vec<usize>,
    /// First key that took no part yet.
    next: usize,
    position: Offset,
    /// Exclusive end of the chunk that is taken.
    chunk_end: Offset,
    chunk_bytes: u64,
    /// Bytes that may still be read.
    reads_left: u64,
    /// Bytes of events that may still be found.
    room: usize,
}

struct SweptKey {
    range: Range<Offset>,
    scanned: ScannedKey,
    bytes: usize,
    phase: SweepPhase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SweepPhase {
    /// The pass has not come to the key.
    Ahead,
    Active,
    Done,
}

/// A read that the pass needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SweepRead {
    pub(crate) from: Offset,
    pub(crate) bytes: u64,
}

impl KeySweep {
    /// A pass up to `end` that finds about `bytes_max` of events, in reads of `chunk_bytes` at most.
    pub(crate) fn new(scans: &[KeyScan], end: Offset, bytes_max: usize, chunk_bytes: u64) -> Self {
        let swept = |scan: &KeyScan| {
            let KeyScan { key, from, first_only } = *scan;
            let scanned = ScannedKey { key, events: Vec::new(), scanned_to: from, failed: false };
            let end = if first_only { from.plus(1).min(end) } else { end };
            SweptKey { range: from..end, scanned, bytes: 0, phase: SweepPhase::Ahead }
        };
        Self {
            keys: scans.iter().map(swept).collect(),
            by_key: scans.iter().zip(0..).map(|(scan, index)| (scan.key, index)).collect(),
            active: Vec::new(),
            next: 0,
            position: Offset::ZERO,
            chunk_end: Offset::ZERO,
            chunk_bytes,
            reads_left: CHUNKS_MAX * chunk_bytes,
            room: bytes_max.max(1),
        }
    }

    /// The next read; None when the pass has ended.
    pub(crate) fn next_read(&mut self) -> Option<SweepRead> {
        if self.active.is_empty() {
            self.position = self.keys.get(self.next)?.range.start;
            self.activate_next();
        }
        if self.room == 0 || self.reads_left == 0 {
            return None;
        }
        let reads_on = self.active.iter().any(|&index| self.keys[index].reads_on());
        let bytes = match (reads_on, self.next < self.keys.len()) {
            (true, _) => self.chunk_bytes,
            (false, true) => SINGLE_EVENTS_BYTES.min(self.chunk_bytes),
            // One event needs no more than its own entry.
            (false, false) => 1,
        };
        self.reads_left = self.reads_left.saturating_sub(bytes.max(SINGLE_EVENTS_BYTES));
        Some(SweepRead { from: self.position, bytes })
    }

    /// The read was done up to `end`; its events follow, ascending.
    pub(crate) fn begin_chunk(&mut self, end: Offset) {
        self.chunk_end = end.max(self.position.plus(1));
        while let Some(next) = self.keys.get(self.next)
            && (self.position..self.chunk_end).contains(&next.range.start)
        {
            self.activate_next();
        }
    }

    /// An event of the key at the offset is worth [`Self::take`].
    pub(crate) fn wants(&self, key: KeyHash, offset: Offset) -> bool {
        self.room > 0 && self.by_key.get(&key).is_some_and(|&index| self.keys[index].wants(offset))
    }

    /// Takes a matching event that is wanted.
    pub(crate) fn take(&mut self, event: BufferedEvent) {
        let Some(&index) = self.by_key.get(&event.key) else { return };
        let key = &mut self.keys[index];
        let (offset, size_bytes) = (event.offset, event.bytes.len());
        let events = &mut key.scanned.events;
        if events.len() == KEY_EVENTS_MAX || !events.is_empty() && key.bytes + size_bytes > KEY_BYTES_MAX {
            key.scanned.scanned_to = offset;
            key.phase = SweepPhase::Done;
            return;
        }
        key.bytes += size_bytes;
        events.push(event);
        self.room = self.room.saturating_sub(size_bytes.max(1));
        if self.room == 0 {
            // Nothing after this event was looked at.
            self.chunk_end = offset.plus(1);
        }
    }

    /// All events of the chunk were offered.
    pub(crate) fn end_chunk(&mut self) {
        let end = self.chunk_end;
        for &index in &self.active {
            let key = &mut self.keys[index];
            if key.phase == SweepPhase::Done {
                continue;
            }
            key.scanned.scanned_to = end.clamp(key.range.start, key.range.end);
            if end >= key.range.end || !key.scanned.events.is_empty() {
                key.phase = SweepPhase::Done;
            }
        }
        self.active.retain(|&index| self.keys[index].phase == SweepPhase::Active);
        self.position = end;
    }

    /// The read failed: the keys that take part did not get on.
    pub(crate) fn fail(&mut self) {
        for index in std::mem::take(&mut self.active) {
            let key = &mut self.keys[index];
            (key.scanned.failed, key.phase) = (true, SweepPhase::Done);
        }
    }

    fn activate_next(&mut self) {
        self.keys[self.next].phase = SweepPhase::Active;
        self.active.push(self.next);
        self.next += 1;
    }

    pub(crate) fn finish(self) -> Vec<ScannedKey> {
        self.keys.into_iter().map(|key| key.scanned).collect()
    }
}

impl SweptKey {
    fn wants(&self, offset: Offset) -> bool {
        self.phase == SweepPhase::Active && self.range.contains(&offset)
    }

    fn reads_on(&self) -> bool {
        self.range.end.since(self.range.start) > 1
    }
}

#[cfg(test)]
mod tests;
