//! Keys held back by a failing event, each with its own time of retry. Pure.
//!
//! All matching events of a parked key from `from` on are pending by definition: only their number is kept, and
//! the events are read from the log again when their turn comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::{ParkedKey, Reason};

use super::buffered_event::BufferedEvent;
use crate::judgement::Rejections;

/// Keys whose events are read again at once.
const SCANS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct ParkedKeyState {
    pub(super) from: Offset,
    pub(super) retry_at_ms: u64,
    /// Matching events from `from` on.
    pub(super) pending: u64,
    pub(super) phase: Phase,
    pub(super) failures: KeyFailures,
    /// Set when the event at `from` is given up and its dead letter could not be written yet.
    pub(super) given_up: Option<GivenUp>,
    /// The next events of the key, read from the log up to `scanned_to`.
    pub(super) buffer: VecDeque<BufferedEvent>,
    pub(super) scanned_to: Offset,
    pub(super) append_time: Option<Timestamp>,
}

/// History of the event at `from`.
#[derive(Debug, Default)]
pub(super) struct KeyFailures {
    /// Failed attempts.
    pub(super) attempts: u32,
    /// The sink's count of deliveries when the event failed last.
    pub(super) at_deliveries: Option<u64>,
    pub(super) rejections: Option<Rejections>,
    /// The event was in a batch that failed: its own outcome has to tell.
    pub(super) send_alone: bool,
}

/// Reason of a dead letter.
#[derive(Clone, Debug)]
pub(super) struct GivenUp {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for `retry_at_ms`.
    Waiting,
    /// The key's events are being read.
    Scanning,
    /// The first event may be attempted.
    Queued,
    /// The first event is in flight.
    Busy,
}

/// The keys, and what is looked up among them. [`Self::update`] keeps both together.
#[derive(Default)]
pub(super) struct ParkedKeys {
    keys: BTreeMap<KeyHash, ParkedKeyState>,
    by_from: BTreeSet<(Offset, KeyHash)>,
    /// Waiting keys by time of retry.
    waiting: BTreeSet<(u64, KeyHash)>,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    scanning: usize,
    /// Queued or busy.
    busy: usize,
    /// Waiting with an event in memory.
    buffered: usize,
    /// Waiting and given up.
    given_up: usize,
    pending: u64,
    buffered_bytes: usize,
}

/// The need of a parked key that is due.
pub(super) enum Due {
    /// The first event is in memory.
    Candidate(KeyHash),
    Scan {
        key: KeyHash,
        from: Offset,
        /// Only the event at `from`: there is no use for the others before it is delivered.
        first_only: bool,
    },
}

/// Conditions under which parked keys are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permissions {
    pub(super) now_ms: u64,
    /// No key is read before this: an expired key is due at any time, and a read that fails would be repeated without
    /// a pause.
    pub(super) read_retry_at_ms: u64,
    /// Keys below are due, to be given up.
    pub(super) expire_below: Offset,
    /// The sink takes attempts, and there is room in memory.
    pub(super) attempts: bool,
    /// Events of parked keys in memory.
    pub(super) buffered_bytes_max: usize,
}

impl ParkedKeyState {
    fn at(from: Offset, pending: u64) -> Self {
        Self {
            from,
            retry_at_ms: 0,
            pending,
            phase: Phase::Waiting,
            failures: KeyFailures::default(),
            given_up: None,
            buffer: VecDeque::new(),
            scanned_to: from,
            append_time: None,
        }
    }

    /// The first event is delivered or given up.
    fn pass(&mut self, now_ms: u64) {
        let offset = self.from;
        self.pending -= 1;
        if self.buffer.front().is_some_and(|event| event.offset == offset) {
            self.buffer.pop_front();
        }
        self.scanned_to = self.scanned_to.max(offset.plus(1));
        self.from = self.buffer.front().map_or_else(|| offset.plus(1), |event| event.offset);
        self.append_time = self.buffer.front().map(|event| event.append_time);
        (self.failures, self.given_up) = (KeyFailures::default(), None);
        (self.phase, self.retry_at_ms) = (Phase::Waiting, now_ms);
    }

    /// The first event has failed: the others leave memory.
    pub(super) fn drop_buffer(&mut self) {
        self.buffer = VecDeque::new();
        self.scanned_to = self.from;
    }
}

impl ParkedKeys {
    pub(super) fn restore(records: &[ParkedKey], now_ms: u64) -> Self {
        let mut restored = Self::default();
        for record in records {
            let failures = KeyFailures { attempts: record.attempts, ..KeyFailures::default() };
            let retry_at_ms = now_ms.saturating_add(record.retry_in_ms);
            let parked = ParkedKeyState::at(record.from, record.pending);
            restored.put(record.key, ParkedKeyState { failures, retry_at_ms, ..parked });
        }
        restored
    }

    /// # Panics
    /// If the key is parked.
    pub(super) fn insert(&mut self, event: &BufferedEvent, pending: u64) {
        let parked = ParkedKeyState::at(event.offset, pending);
        self.put(event.key, ParkedKeyState { append_time: Some(event.append_time), ..parked });
    }

    pub(super) fn get(&self, key: KeyHash) -> Option<&ParkedKeyState> {
        self.keys.get(&key)
    }

    /// Changes a parked key. None if the key is not parked.
    pub(super) fn update<R>(
        &mut self,
        key: KeyHash,
        change: impl FnOnce(&mut ParkedKeyState) -> R,
    ) -> Option<R> {
        let mut parked = self.take(key)?;
        let result = change(&mut parked);
        self.put(key, parked);
        Some(result)
    }

    pub(super) fn given_up(&self, key: KeyHash) -> Option<GivenUp> {
        self.keys.get(&key)?.given_up.clone()
    }

    pub(super) fn remove(&mut self, key: KeyHash) -> Option<ParkedKeyState> {
        self.take(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&KeyHash, &ParkedKeyState)> {
        self.keys.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keys whose first event is in flight, or about to be.
    pub(super) fn busy(&self) -> usize {
        self.totals.busy
    }

    pub(super) fn pending(&self) -> u64 {
        self.totals.pending
    }

    pub(super) fn low_water(&self) -> Option<Offset> {
        self.by_from.first().map(|(from, _)| *from)
    }

    pub(super) fn make_all_due(&mut self, now_ms: u64) {
        self.make_due(now_ms, |_| true);
    }

    /// Keys that were parked by a probe of a sink that was down have no failure of their own.
    pub(super) fn make_faultless_due(&mut self, now_ms: u64) {
        self.make_due(now_ms, |parked| parked.failures.attempts == 0);
    }

    fn make_due(&mut self, now_ms: u64, applies: impl Fn(&ParkedKeyState) -> bool) {
        let later = self.waiting.range((now_ms.saturating_add(1), KeyHash(0))..);
        let keys: Vec<KeyHash> = later.map(|(_, key)| *key).filter(|key| applies(&self.keys[key])).collect();
        for key in keys {
            self.update(key, |parked| parked.retry_at_ms = now_ms);
        }
    }

    /// Settles the first event of the key. False if `offset` is another event.
    pub(super) fn settle(&mut self, key: KeyHash, offset: Offset, now_ms: u64) -> bool {
        if self.keys.get(&key).is_none_or(|parked| parked.from != offset) {
            return false;
        }
        let mut parked = self.take(key).expect("the key was looked at");
        assert!(parked.pending > 0, "invariant violation: the event at {offset} is settled and not pending");
        if parked.pending > 1 {
            parked.pass(now_ms);
            self.put(key, parked);
        }
        true
    }

    /// The next key that is due; its phase is changed.
    pub(super) fn next_due(&mut self, permissions: &Permissions) -> Option<Due> {
        let Permissions { now_ms, expire_below, attempts, .. } = *permissions;
        let may_scan = now_ms >= permissions.read_retry_at_ms
            && self.totals.scanning < SCANS_MAX
            && self.totals.buffered_bytes < permissions.buffered_bytes_max;
        if !may_scan && self.totals.buffered == 0 {
            return None;
        }
        let is_ready = |key: &KeyHash| may_scan || !self.keys[key].buffer.is_empty();
        let expired = self.by_from.range(..(expire_below, KeyHash(0))).map(|(_, key)| *key);
        let mut expired = expired.filter(|key| {
            let parked = &self.keys[key];
            parked.phase == Phase::Waiting && parked.given_up.is_none() && is_ready(key)
        });
        let due = self.waiting.range(..=(now_ms, KeyHash(u64::MAX))).map(|(_, key)| *key);
        let due = due.take_while(|_| attempts || self.totals.given_up > 0);
        let mut due = due.filter(|key| (attempts || self.keys[key].given_up.is_some()) && is_ready(key));
        let key = expired.next().or_else(|| due.next())?;
        self.update(key, |parked| {
            if !parked.buffer.is_empty() {
                parked.phase = Phase::Queued;
                return Due::Candidate(key);
            }
            parked.phase = Phase::Scanning;
            let from = parked.scanned_to.max(parked.from);
            Due::Scan { key, from, first_only: parked.failures.attempts > 0 && from == parked.from }
        })
    }

    /// Time at which the next waiting key is due. A key that is due already waits for something else.
    pub(super) fn deadline(&self, now_ms: u64) -> Option<u64> {
        let later = self.waiting.range((now_ms.saturating_add(1), KeyHash(0))..).next();
        later.map(|(retry_at_ms, _)| *retry_at_ms)
    }

    /// Drops the buffers of waiting keys.
    pub(super) fn drop_buffers(&mut self) {
        if self.totals.buffered == 0 {
            return;
        }
        let buffered = self.waiting.iter().map(|(_, key)| *key).filter(|key| {
            let parked = &self.keys[key];
            parked.given_up.is_none() && !parked.buffer.is_empty()
        });
        for key in buffered.collect::<Vec<_>>() {
            self.update(key, ParkedKeyState::drop_buffer);
        }
    }

    fn put(&mut self, key: KeyHash, parked: ParkedKeyState) {
        self.by_from.insert((parked.from, key));
        if parked.phase == Phase::Waiting {
            self.waiting.insert((parked.retry_at_ms, key));
        }
        self.totals.add(&parked);
        let before = self.keys.insert(key, parked);
        assert!(before.is_none(), "invariant violation: a key is parked twice");
    }

    fn take(&mut self, key: KeyHash) -> Option<ParkedKeyState> {
        let parked = self.keys.remove(&key)?;
        self.by_from.remove(&(parked.from, key));
        self.waiting.remove(&(parked.retry_at_ms, key));
        self.totals.subtract(&parked);
        Some(parked)
    }
}

impl Totals {
    fn of(parked: &ParkedKeyState) -> Self {
        let waits = parked.phase == Phase::Waiting;
        Self {
            scanning: usize::from(parked.phase == Phase::Scanning),
            busy: usize::from(matches!(parked.phase, Phase::Queued | Phase::Busy)),
            buffered: usize::from(waits && !parked.buffer.is_empty()),
            given_up: usize::from(waits && parked.given_up.is_some()),
            pending: parked.pending,
            buffered_bytes: parked.buffer.iter().map(|event| event.bytes.len()).sum(),
        }
    }

    fn add(&mut self, parked: &ParkedKeyState) {
        let more = Self::of(parked);
        self.scanning += more.scanning;
        self.busy += more.busy;
        self.buffered += more.buffered;
        self.given_up += more.given_up;
        self.pending += more.pending;
        self.buffered_bytes += more.buffered_bytes;
    }

    fn subtract(&mut self, parked: &ParkedKeyState) {
        let less = Self::of(parked);
        self.scanning -= less.scanning;
        self.busy -= less.busy;
        self.buffered -= less.buffered;
        self.given_up -= less.given_up;
        self.pending -= less.pending;
        self.buffered_bytes -= less.buffered_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_key_does_not_hide_the_time_of_another_key() {
        let parked = |key, retry_in_ms| ParkedKey {
            key: KeyHash(key),
            from: Offset(key),
            attempts: 1,
            retry_in_ms,
            pending: 1,
        };
        let mut parked_keys = ParkedKeys::restore(&[parked(1, 5), parked(2, 50), parked(3, 70)], 0);
        assert_eq!(parked_keys.deadline(0), Some(5));
        let permissions = Permissions {
            now_ms: 10,
            read_retry_at_ms: 0,
            expire_below: Offset::ZERO,
            attempts: false,
            buffered_bytes_max: 1,
        };
        assert!(parked_keys.next_due(&permissions).is_none(), "the key is due, and no attempt is allowed");
        assert_eq!(parked_keys.deadline(10), Some(50));
        assert_eq!(parked_keys.deadline(70), None);
    }
}
