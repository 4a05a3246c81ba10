//! The window: the events of one subscription that are in memory. Pure.
//!
//! Invariant: `unsettled + settled_unreplicated` events occupy the window and never exceed its limit by admission. A
//! settled event goes on to occupy the window until the settlement is replicated: exactly the events that occupy the
//! window may be sent twice after a crash.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use fanfare_model::{KeyHash, Offset, Timestamp};

use super::buffered_event::{BufferedEvent, SchemaCheck};

/// Events whose schema is checked at once.
const CHECKS_MAX: usize = 16;

/// Limits of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// An unsettled event of the window without its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnloadedEvent {
    pub(super) offset: Offset,
    pub(super) append_time: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    event: BufferedEvent,
    /// In flight to the sink or to the dead letters.
    busy: bool,
    /// Attempted without other events.
    send_alone: bool,
    /// First of its key, and not a candidate before its schema is checked.
    awaits_check: bool,
    settled: bool,
}

#[derive(Debug)]
pub(crate) struct Window {
    limits: Limits,
    /// Ascending by offset; settled entries are dropped when they reach the front.
    entries: VecDeque<Entry>,
    unsettled: usize,
    busy: usize,
    bytes: usize,
    /// Settled, in the window or outside of it, and not yet replicated.
    settled_unreplicated: usize,
    /// Offsets of entries whose schema is not checked.
    unchecked: VecDeque<Offset>,
    /// Failed events that wait in the window, by time of their next attempt.
    delayed: BTreeSet<(u64, Offset)>,
    /// Unsettled events whose bytes are not in memory: all of the window or none.
    unloaded: Vec<UnloadedEvent>,
    reloading: bool,
}

impl Window {
    /// A window whose unsettled events, ascending, are still to be read.
    pub(crate) fn new(limits: Limits, unloaded: impl IntoIterator<Item = Offset>) -> Self {
        let unloaded = unloaded.into_iter().map(|offset| UnloadedEvent { offset, append_time: None });
        Self {
            limits,
            entries: VecDeque::new(),
            unsettled: 0,
            busy: 0,
            bytes: 0,
            settled_unreplicated: 0,
            unchecked: VecDeque::new(),
            delayed: BTreeSet::new(),
            unloaded: unloaded.collect(),
            reloading: false,
        }
    }

    /// An event of this size may be admitted while `outside` events outside the window are in flight.
    pub(crate) fn has_room(&self, size_bytes: usize, outside: usize) -> bool {
        self.unsettled + self.settled_unreplicated + outside < self.limits.events
            && (self.unsettled == 0 || self.bytes + size_bytes <= self.limits.bytes)
    }

    /// Events that may be attempted besides `outside` events in flight outside the window.
    pub(super) fn room(&self, outside: usize) -> usize {
        if !self.has_room(0, outside) {
            return 0;
        }
        self.limits.events - (self.unsettled + self.settled_unreplicated + outside)
    }

    /// # Panics
    /// If the event is not above all that were admitted and are still here.
    pub(crate) fn admit(&mut self, event: BufferedEvent) {
        assert!(
            self.entries.back().is_none_or(|last| last.event.offset < event.offset),
            "invariant violation: {} is admitted after {:?}",
            event.offset,
            self.entries.back().map(|last| last.event.offset)
        );
        self.unsettled += 1;
        self.bytes += event.bytes.len();
        if matches!(event.schema, SchemaCheck::Unchecked(_)) {
            self.unchecked.push_back(event.offset);
        }
        let (busy, send_alone, awaits_check, settled) = (false, false, false, false);
        self.entries.push_back(Entry { event, busy, send_alone, awaits_check, settled });
    }

    pub(crate) fn get(&self, offset: Offset) -> Option<&BufferedEvent> {
        let entry = &self.entries[self.position(offset)?];
        (!entry.settled).then_some(&entry.event)
    }

    /// An unsettled event is in flight, or is no more.
    pub(crate) fn set_busy(&mut self, offset: Offset, busy: bool) {
        if let Some(index) = self.position(offset) {
            let entry = &mut self.entries[index];
            if !entry.settled && entry.busy != busy {
                entry.busy = busy;
                if busy { self.busy += 1 } else { self.busy -= 1 }
            }
        }
    }

    /// An event in flight failed, and is attempted again at that time.
    pub(super) fn delay(&mut self, offset: Offset, retry_at_ms: u64) {
        self.set_busy(offset, false);
        self.delayed.insert((retry_at_ms, offset));
    }

    /// Delayed events whose next attempt is due, or that lie below `expire_below`.
    pub(super) fn take_due(&mut self, now_ms: u64, expire_below: Offset) -> Vec<Offset> {
        let mut due = Vec::new();
        self.delayed.retain(|&(retry_at_ms, offset)| {
            let waits = retry_at_ms > now_ms && offset >= expire_below;
            due.extend((!waits).then_some(offset));
            waits
        });
        due
    }

    /// Time of the next attempt of a delayed event.
    pub(super) fn retry_at_ms(&self) -> Option<u64> {
        self.delayed.first().map(|(retry_at_ms, _)| *retry_at_ms)
    }

    /// From now on the event is attempted without other events.
    pub(crate) fn set_send_alone(&mut self, offset: Offset) {
        if let Some(index) = self.position(offset) {
            self.entries[index].send_alone = true;
        }
    }

    pub(crate) fn is_sent_alone(&self, offset: Offset) -> bool {
        self.position(offset).is_some_and(|index| self.entries[index].send_alone)
    }

    /// The event is the first of its key. True if it may be attempted; else [`Self::set_checked`] says when.
    pub(super) fn takes_turn(&mut self, offset: Offset) -> bool {
        let Some(index) = self.position(offset) else { return false };
        let entry = &mut self.entries[index];
        entry.awaits_check = matches!(entry.event.schema, SchemaCheck::Unchecked(_));
        !entry.awaits_check
    }

    /// Unsettled events whose schema has to be checked, a few at a time.
    pub(super) fn take_unchecked(&mut self) -> Vec<BufferedEvent> {
        let mut events = Vec::new();
        while events.len() < CHECKS_MAX
            && let Some(offset) = self.unchecked.pop_front()
        {
            events.extend(self.get(offset).cloned());
        }
        events
    }

    /// The schema of the event is checked. True if the event may be attempted now.
    pub(super) fn set_checked(&mut self, offset: Offset, schema: SchemaCheck) -> bool {
        let Some(index) = self.position(offset) else { return false };
        let entry = &mut self.entries[index];
        entry.event.schema = schema;
        std::mem::take(&mut entry.awaits_check) && !entry.settled
    }

    /// False if there is no such unsettled event.
    pub(crate) fn settle(&mut self, offset: Offset) -> bool {
        let removed = self.remove(offset);
        self.settled_unreplicated += usize::from(removed);
        removed
    }

    /// Takes all unsettled events of the key out of the window. Their offsets, ascending.
    pub(crate) fn take_key(&mut self, key: KeyHash) -> Vec<Offset> {
        let of_key = self.entries.iter().filter(|entry| !entry.settled && entry.event.key == key);
        let offsets: Vec<_> = of_key.map(|entry| entry.event.offset).collect();
        for &offset in &offsets {
            self.remove(offset);
        }
        offsets
    }

    /// Forgets the bytes of the unsettled events and keeps their positions: they will be read again. False if there
    /// is none.
    pub(crate) fn unload(&mut self) -> bool {
        if self.unsettled == 0 {
            return false;
        }
        let unsettled = self.entries.iter().filter(|entry| !entry.settled).map(|entry| UnloadedEvent {
            offset: entry.event.offset,
            append_time: Some(entry.event.append_time),
        });
        self.unloaded.extend(unsettled);
        self.entries.clear();
        self.unchecked.clear();
        self.delayed.clear();
        (self.unsettled, self.busy, self.bytes) = (0, 0, 0);
        true
    }

    pub(super) fn unloaded(&self) -> &[UnloadedEvent] {
        &self.unloaded
    }

    pub(super) fn is_reloading(&self) -> bool {
        self.reloading
    }

    /// Offsets to read again, if that is not under way.
    pub(super) fn start_reload(&mut self) -> Option<Vec<Offset>> {
        let offsets = (!self.reloading).then(|| self.unloaded.iter().map(|event| event.offset).collect());
        self.reloading = true;
        offsets
    }

    pub(super) fn reload_failed(&mut self) {
        self.reloading = false;
    }

    /// All unloaded events are read again; each is admitted or settled next.
    pub(super) fn reloaded(&mut self) {
        self.reloading = false;
        self.unloaded.clear();
    }

    /// An event outside the window, or without bytes, is settled.
    pub(crate) fn note_settled_outside_window(&mut self) {
        self.settled_unreplicated += 1;
    }

    /// So many settled events are replicated as settled.
    ///
    /// # Panics
    /// If fewer were settled.
    pub(crate) fn release(&mut self, count: usize) {
        assert!(
            count <= self.settled_unreplicated,
            "invariant violation: {count} events are released and {} were settled",
            self.settled_unreplicated
        );
        self.settled_unreplicated -= count;
    }

    /// Ascending by offset, those in memory.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = &BufferedEvent> {
        self.entries.iter().filter(|entry| !entry.settled).map(|entry| &entry.event)
    }

    /// Unsettled events in memory.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.unsettled
    }

    /// Unsettled events, in memory or not.
    pub(super) fn unsettled_count(&self) -> usize {
        self.unsettled + self.unloaded.len()
    }

    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    pub(crate) fn settled_unreplicated(&self) -> usize {
        self.settled_unreplicated
    }

    fn remove(&mut self, offset: Offset) -> bool {
        let Some(index) = self.position(offset) else { return false };
        let entry = &mut self.entries[index];
        if entry.settled {
            return false;
        }
        entry.settled = true;
        self.bytes -= entry.event.bytes.len();
        entry.event.bytes = Bytes::new();
        self.busy -= usize::from(entry.busy);
        self.unsettled -= 1;
        while self.entries.front().is_some_and(|entry| entry.settled) {
            self.entries.pop_front();
        }
        true
    }

    fn position(&self, offset: Offset) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.event.offset).ok()
    }
}

#[cfg(test)]
mod tests;
