//! Keys event back by a failing event, each with its own time of retry. Pure.
//!
//! All matching events of a parked key from `from` on are pending by definition: only their number is kept, and
//! the events are read from the log again when their turn comes.

use std::collections::{BTreeMap, VecDeque};

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::{ParkedKey, Reason};

use super::buffered_event::BufferedEvent;

/// Keys whose events are read again at once.
const SCANS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct ParkedKeyState {
    pub(super) from: Offset,
    /// Failed attempts of the event at `from`.
    pub(super) attempts: u32,
    pub(super) retry_at_ms: u64,
    /// Matching events from `from` on.
    pub(super) pending: u64,
    pub(super) phase: Phase,
    /// The sink's count of passes when the event at `from` failed last.
    pub(super) failed_at_passes: Option<u64>,
    /// Set when the event at `from` is given up and its dead letter could not be written yet.
    pub(super) given_up: Option<GivenUp>,
    /// The next events of the key, read from the log up to `scanned_to`.
    pub(super) buffer: VecDeque<BufferedEvent>,
    pub(super) scanned_to: Offset,
    pub(super) append_time: Option<Timestamp>,
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

#[derive(Default)]
pub(super) struct ParkedKeys {
    keys: BTreeMap<KeyHash, ParkedKeyState>,
}

/// The need of a parked key that is due.
pub(super) enum Due {
    /// The first event is in memory.
    Candidate(KeyHash),
    Scan {
        key: KeyHash,
        from: Offset,
    },
}

impl ParkedKeys {
    pub(super) fn restore(records: &[ParkedKey], now_ms: u64) -> Self {
        let parked = |record: &ParkedKey| ParkedKeyState {
            from: record.from,
            attempts: record.attempts,
            retry_at_ms: now_ms.saturating_add(record.retry_in_ms),
            pending: record.pending,
            phase: Phase::Waiting,
            failed_at_passes: None,
            given_up: None,
            buffer: VecDeque::new(),
            scanned_to: record.from,
            append_time: None,
        };
        Self { keys: records.iter().map(|record| (record.key, parked(record))).collect() }
    }

    pub(super) fn insert(&mut self, event: &BufferedEvent, attempts: u32, pending: u64) {
        let parked = ParkedKeyState {
            from: event.offset,
            attempts,
            retry_at_ms: 0,
            pending,
            phase: Phase::Waiting,
            failed_at_passes: None,
            given_up: None,
            scanned_to: event.offset,
            append_time: Some(event.append_time),
            buffer: VecDeque::new(),
        };
        self.keys.insert(event.key, parked);
    }

    pub(super) fn get(&self, key: KeyHash) -> Option<&ParkedKeyState> {
        self.keys.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: KeyHash) -> Option<&mut ParkedKeyState> {
        self.keys.get_mut(&key)
    }

    pub(super) fn given_up(&self, key: KeyHash) -> Option<GivenUp> {
        self.keys.get(&key)?.given_up.clone()
    }

    pub(super) fn remove(&mut self, key: KeyHash) -> Option<ParkedKeyState> {
        self.keys.remove(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&KeyHash, &ParkedKeyState)> {
        self.keys.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keys whose first event is in flight, or about to be.
    pub(super) fn busy(&self) -> usize {
        let is_busy = |parked: &&ParkedKeyState| matches!(parked.phase, Phase::Queued | Phase::Busy);
        self.keys.values().filter(is_busy).count()
    }

    pub(super) fn pending(&self) -> u64 {
        self.keys.values().map(|parked| parked.pending).sum()
    }

    pub(super) fn low_water(&self) -> Option<Offset> {
        self.keys.values().map(|parked| parked.from).min()
    }

    pub(super) fn make_all_due(&mut self, now_ms: u64) {
        for parked in self.keys.values_mut() {
            parked.retry_at_ms = parked.retry_at_ms.min(now_ms);
        }
    }

    /// Settles the first event of the key. False if `offset` is another event.
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
        if parked.buffer.front().is_some_and(|event| event.offset == offset) {
            parked.buffer.pop_front();
        }
        parked.scanned_to = parked.scanned_to.max(offset.plus(1));
        parked.from = parked.buffer.front().map_or_else(|| offset.plus(1), |event| event.offset);
        parked.append_time = parked.buffer.front().map(|event| event.append_time);
        (parked.attempts, parked.failed_at_passes, parked.given_up) = (0, None, None);
        (parked.phase, parked.retry_at_ms) = (Phase::Waiting, now_ms);
        true
    }

    /// The next key that is due; its phase is changed. Keys at or above `expire_below` only if attempts are `allowed`,
    /// keys without events in memory only at or after `read_retry_at_ms`: an expired key is due at any time, and a read
    /// that fails would be repeated without a pause.
    pub(super) fn next_due(
        &mut self,
        now_ms: u64,
        read_retry_at_ms: u64,
        expire_below: Offset,
        allowed: bool,
    ) -> Option<Due> {
        let scans = self.keys.values().filter(|parked| parked.phase == Phase::Scanning).count();
        let may_scan = now_ms >= read_retry_at_ms && scans < SCANS_MAX;
        let due = |parked: &ParkedKeyState| {
            let expired = parked.from < expire_below && parked.given_up.is_none();
            parked.phase == Phase::Waiting
                && (expired || parked.retry_at_ms <= now_ms)
                && (expired || allowed || parked.given_up.is_some())
                && (!parked.buffer.is_empty() || may_scan)
        };
        let (key, parked) = self.keys.iter_mut().find(|(_, parked)| due(parked))?;
        if parked.buffer.is_empty() {
            parked.phase = Phase::Scanning;
            return Some(Due::Scan { key: *key, from: parked.scanned_to.max(parked.from) });
        }
        parked.phase = Phase::Queued;
        Some(Due::Candidate(*key))
    }

    /// Time at which the next waiting key is due. A key that is due already waits for something else.
    pub(super) fn deadline(&self, now_ms: u64) -> Option<u64> {
        let waiting = self.keys.values().filter(|parked| parked.phase == Phase::Waiting);
        waiting.map(|parked| parked.retry_at_ms).filter(|&at| at > now_ms).min()
    }

    /// Drops the buffers of waiting keys.
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
        assert!(
            parked_keys.next_due(10, 0, Offset::ZERO, false).is_none(),
            "the key is due, and no attempt is allowed"
        );
        assert_eq!(parked_keys.deadline(10), Some(50));
        assert_eq!(parked_keys.deadline(70), None);
    }
}
