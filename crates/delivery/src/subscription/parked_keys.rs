//! Keys held back by a failing event, each with its own time of retry.
//!
//! All matching events of a parked key from `from` on are pending by definition: only their number is kept, and
//! they are read from the log again when their turn comes.

use std::collections::{BTreeMap, VecDeque};

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::{ParkedKey, Reason};

use crate::subscription::window::Held;

/// Keys whose events are read again at once.
const SCANS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Parked {
    pub(super) from: Offset,
    /// Made for the event at `from`.
    pub(super) attempts: u32,
    pub(super) retry_at_ms: u64,
    pub(super) pending: u64,
    pub(super) phase: Phase,
    /// What had passed at the sink when the event at `from` failed last.
    pub(super) failed_at: Option<u64>,
    /// The event at `from` is given up, and this could not be written yet.
    pub(super) given_up: Option<(Reason, String)>,
    /// The next events of the key, read from the log up to `scanned_to`.
    pub(super) buffer: VecDeque<Held>,
    pub(super) scanned_to: Offset,
    pub(super) append_time: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For its time.
    Waiting,
    /// Its events are being read.
    Scanning,
    /// Its first event may be attempted.
    Queued,
    /// Its first event is under way.
    Busy,
}

#[derive(Default)]
pub(super) struct Parks {
    keys: BTreeMap<KeyHash, Parked>,
}

/// What a parked key needs now.
pub(super) enum Due {
    /// Its first event is at hand.
    Candidate(KeyHash),
    Scan {
        key: KeyHash,
        from: Offset,
    },
}

impl Parks {
    pub(super) fn restore(records: &[ParkedKey], now_ms: u64) -> Self {
        let parked = |record: &ParkedKey| Parked {
            from: record.from,
            attempts: record.attempts,
            retry_at_ms: now_ms.saturating_add(record.retry_in_ms),
            pending: record.pending,
            phase: Phase::Waiting,
            failed_at: None,
            given_up: None,
            buffer: VecDeque::new(),
            scanned_to: record.from,
            append_time: None,
        };
        Self { keys: records.iter().map(|record| (record.key, parked(record))).collect() }
    }

    pub(super) fn insert(&mut self, held: Held, attempts: u32, pending: u64) -> &mut Parked {
        let parked = Parked {
            from: held.offset,
            attempts,
            retry_at_ms: 0,
            pending,
            phase: Phase::Waiting,
            failed_at: None,
            given_up: None,
            scanned_to: held.offset,
            append_time: Some(held.append_time),
            buffer: VecDeque::new(),
        };
        self.keys.entry(held.key).insert_entry(parked).into_mut()
    }

    pub(super) fn get(&self, key: KeyHash) -> Option<&Parked> {
        self.keys.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: KeyHash) -> Option<&mut Parked> {
        self.keys.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: KeyHash) -> Option<Parked> {
        self.keys.remove(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&KeyHash, &Parked)> {
        self.keys.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keys whose first event is under way, or about to be.
    pub(super) fn busy(&self) -> usize {
        let is_busy = |parked: &&Parked| matches!(parked.phase, Phase::Queued | Phase::Busy);
        self.keys.values().filter(is_busy).count()
    }

    pub(super) fn pending(&self) -> u64 {
        self.keys.values().map(|parked| parked.pending).sum()
    }

    pub(super) fn low_water(&self) -> Option<Offset> {
        self.keys.values().map(|parked| parked.from).min()
    }

    pub(super) fn all_due(&mut self, now_ms: u64) {
        for parked in self.keys.values_mut() {
            parked.retry_at_ms = parked.retry_at_ms.min(now_ms);
        }
    }

    /// Settles the first event of the key. False if it is not that one.
    pub(super) fn settle(&mut self, key: KeyHash, offset: Offset, now_ms: u64) -> bool {
        let Some(parked) = self.keys.get_mut(&key) else { return false };
        if parked.from != offset {
            return false;
        }
        parked.pending = parked.pending.checked_sub(1).expect("the event at `from` is pending");
        if parked.pending == 0 {
            self.keys.remove(&key);
            return true;
        }
        if parked.buffer.front().is_some_and(|held| held.offset == offset) {
            parked.buffer.pop_front();
        }
        parked.scanned_to = parked.scanned_to.max(offset.plus(1));
        parked.from = parked.buffer.front().map_or_else(|| offset.plus(1), |held| held.offset);
        parked.append_time = parked.buffer.front().map(|held| held.append_time);
        (parked.attempts, parked.failed_at, parked.given_up) = (0, None, None);
        (parked.phase, parked.retry_at_ms) = (Phase::Waiting, now_ms);
        true
    }

    /// The next key that is due. Its phase is changed; keys from `expire_below` on only if `attempts` may start.
    pub(super) fn next_due(&mut self, now_ms: u64, expire_below: Offset, attempts: bool) -> Option<Due> {
        let scans = self.keys.values().filter(|parked| parked.phase == Phase::Scanning).count();
        let due = |parked: &Parked| {
            let expired = parked.from < expire_below && parked.given_up.is_none();
            parked.phase == Phase::Waiting
                && (expired || parked.retry_at_ms <= now_ms)
                && (expired || attempts || parked.given_up.is_some())
                && (!parked.buffer.is_empty() || scans < SCANS_MAX)
        };
        let (key, parked) = self.keys.iter_mut().find(|(_, parked)| due(parked))?;
        if parked.buffer.is_empty() {
            parked.phase = Phase::Scanning;
            return Some(Due::Scan { key: *key, from: parked.scanned_to.max(parked.from) });
        }
        parked.phase = Phase::Queued;
        Some(Due::Candidate(*key))
    }

    /// When the next key is due that only waits for its time. One that is due already waits for something else.
    pub(super) fn deadline(&self, now_ms: u64) -> Option<u64> {
        let waiting = self.keys.values().filter(|parked| parked.phase == Phase::Waiting);
        waiting.map(|parked| parked.retry_at_ms).filter(|&at| at > now_ms).min()
    }

    /// Drops what was read of keys that nothing is under way for.
    pub(super) fn drop_buffers(&mut self) {
        for parked in self.keys.values_mut() {
            if parked.phase == Phase::Waiting && parked.given_up.is_none() && !parked.buffer.is_empty() {
                parked.buffer = VecDeque::new();
                parked.scanned_to = parked.from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_turn_is_late_hides_no_other_keys_time() {
        let parked = |key, retry_in_ms| ParkedKey {
            key: KeyHash(key),
            from: Offset(key),
            attempts: 1,
            retry_in_ms,
            pending: 1,
        };
        let mut parks = Parks::restore(&[parked(1, 5), parked(2, 50), parked(3, 70)], 0);
        assert_eq!(parks.deadline(0), Some(5));
        assert!(parks.next_due(10, Offset::ZERO, false).is_none(), "it is due, and must not be attempted");
        assert_eq!(parks.deadline(10), Some(50));
        assert_eq!(parks.deadline(70), None);
    }
}
