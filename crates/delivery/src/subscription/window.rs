//! The window: what one subscription holds in memory of one partition. Pure.
//!
//! Invariant: `unsettled + unreleased` events occupy it and never exceed its limit by admission. An event that is
//! settled goes on to occupy it until that has been replicated: exactly what occupies it may be sent twice after a
//! crash.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use fanfare_model::{KeyHash, Offset, Timestamp};

use crate::schema_pin::Pin;

/// A matched event. Its bytes are [`detached`] from what was read from the log.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) offset: Offset,
    pub(crate) key: KeyHash,
    pub(crate) append_time: Timestamp,
    pub(crate) bytes: Bytes,
    pub(crate) pin: Option<Arc<Pin>>,
}

/// Below it a copy costs less than it may save.
const COPIED_BYTES: usize = 64 << 10;

/// The bytes of an event, to be held for as long as its delivery takes: in memory of their own, or one small event
/// would keep all that it was read with. Only large ones that are most of that share it.
pub(crate) fn detached(bytes: &Bytes, read_with: usize) -> Bytes {
    if bytes.len() >= COPIED_BYTES && bytes.len() >= read_with / 2 {
        return bytes.clone();
    }
    Bytes::copy_from_slice(bytes)
}

/// How much may be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Entry {
    held: Held,
    /// Under way to the sink or to the dead letters.
    busy: bool,
    /// It is attempted without others.
    alone: bool,
    settled: bool,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    limits: Limits,
    /// Ascending by offset; settled ones are dropped when they reach the front.
    entries: VecDeque<Entry>,
    unsettled: usize,
    busy: usize,
    bytes: usize,
    /// Settled, in the window or elsewhere, and not yet replicated.
    unreleased: usize,
}

impl InFlight {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: VecDeque::new(), unsettled: 0, busy: 0, bytes: 0, unreleased: 0 }
    }

    /// Whether an event of this size may be admitted while `elsewhere` events outside the window are under way.
    pub(crate) fn has_room(&self, size_bytes: usize, elsewhere: usize) -> bool {
        self.unsettled + self.unreleased + elsewhere < self.limits.events
            && (self.unsettled == 0 || self.bytes + size_bytes <= self.limits.bytes)
    }

    /// # Panics
    /// If the event is not above all that were admitted and are still here.
    pub(crate) fn admit(&mut self, held: Held) {
        assert!(
            self.entries.back().is_none_or(|last| last.held.offset < held.offset),
            "events come in order"
        );
        self.unsettled += 1;
        self.bytes += held.bytes.len();
        self.entries.push_back(Entry { held, busy: false, alone: false, settled: false });
    }

    pub(crate) fn get(&self, offset: Offset) -> Option<&Held> {
        let entry = &self.entries[self.position(offset)?];
        (!entry.settled).then_some(&entry.held)
    }

    /// An unsettled event is under way, or is no more.
    pub(crate) fn set_busy(&mut self, offset: Offset, busy: bool) {
        if let Some(index) = self.position(offset) {
            let entry = &mut self.entries[index];
            if !entry.settled && entry.busy != busy {
                entry.busy = busy;
                if busy { self.busy += 1 } else { self.busy -= 1 }
            }
        }
    }

    /// From now on the event is attempted without others.
    pub(crate) fn set_alone(&mut self, offset: Offset) {
        if let Some(index) = self.position(offset) {
            self.entries[index].alone = true;
        }
    }

    pub(crate) fn is_alone(&self, offset: Offset) -> bool {
        self.position(offset).is_some_and(|index| self.entries[index].alone)
    }

    /// False if there is no such unsettled event.
    pub(crate) fn settle(&mut self, offset: Offset) -> bool {
        let taken = self.remove(offset);
        self.unreleased += usize::from(taken);
        taken
    }

    /// Takes all unsettled events of the key out of the window; they are held elsewhere. Their offsets, ascending.
    pub(crate) fn take_key(&mut self, key: KeyHash) -> Vec<Offset> {
        let offsets: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| !entry.settled && entry.held.key == key)
            .map(|entry| entry.held.offset)
            .collect();
        for &offset in &offsets {
            self.remove(offset);
        }
        offsets
    }

    /// Forgets the unsettled events and keeps their positions: they will be read again.
    pub(crate) fn unload(&mut self) -> Vec<(Offset, Timestamp)> {
        let offsets = self.unsettled().map(|held| (held.offset, held.append_time)).collect();
        self.entries.clear();
        (self.unsettled, self.busy, self.bytes) = (0, 0, 0);
        offsets
    }

    /// An event that never was in the window, or whose bytes are not, is settled.
    pub(crate) fn settled_elsewhere(&mut self) {
        self.unreleased += 1;
    }

    /// So many settled events are replicated as settled.
    pub(crate) fn release(&mut self, count: usize) {
        assert!(count <= self.unreleased, "only what was settled is released");
        self.unreleased -= count;
    }

    /// Ascending by offset.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = &Held> {
        self.entries.iter().filter(|entry| !entry.settled).map(|entry| &entry.held)
    }

    pub(crate) fn len(&self) -> usize {
        self.unsettled
    }

    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    pub(crate) fn unreleased(&self) -> usize {
        self.unreleased
    }

    fn remove(&mut self, offset: Offset) -> bool {
        let Some(index) = self.position(offset) else { return false };
        let entry = &mut self.entries[index];
        if entry.settled {
            return false;
        }
        entry.settled = true;
        self.bytes -= entry.held.bytes.len();
        entry.held.bytes = Bytes::new();
        self.busy -= usize::from(entry.busy);
        self.unsettled -= 1;
        while self.entries.front().is_some_and(|entry| entry.settled) {
            self.entries.pop_front();
        }
        true
    }

    fn position(&self, offset: Offset) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.held.offset).ok()
    }
}

#[cfg(test)]
mod tests;
