//! Keys held back by a failing event, each with its own time of retry. Pure.
//!
//! All matching events of a parked key from `from` on are pending by definition: only their number is kept, and
//! the events are read from the log again when their turn comes.

mod index;
mod key;

use std::collections::{BTreeMap, BTreeSet};

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::ParkedKey;

use self::index::{KeyIndex, Standing};
pub(super) use self::key::{GivenUp, KeyFailures, ParkedKeyState, Phase};
use super::{
    buffered_event::BufferedEvent,
    event::{KeyScan, ScannedKey},
};

/// Keys whose events one sweep of the log looks for.
const SWEEP_KEYS_MAX: usize = 1024;

/// The keys, the indexes over them, and the changes that are not replicated yet. [`Self::update`] keeps all together.
#[derive(Default)]
pub(super) struct ParkedKeys {
    keys: BTreeMap<KeyHash, ParkedKeyState>,
    index: KeyIndex,
    /// Keys that are parked newly or otherwise than proposed last.
    changed: BTreeSet<KeyHash>,
    /// Keys that were proposed as parked and are no more.
    released: BTreeSet<KeyHash>,
}

/// Parked keys whose turn has come; their phases are changed.
#[derive(Debug, Default)]
pub(super) struct DueKeys {
    /// The first event is in memory.
    pub(super) candidates: Vec<KeyHash>,
    /// Keys to look for in one sweep of the log: from some offset on to the newest, then from the oldest on.
    pub(super) sweep: Vec<KeyScan>,
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
    /// Events that may become candidates: none if the sink takes no attempts.
    pub(super) attempts: usize,
    /// Events of parked keys in memory.
    pub(super) buffered_bytes_max: usize,
}

/// Difference of the parked keys from those proposed before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ParkedChanges {
    /// Ascending by key.
    pub(super) parked: Vec<ParkedKey>,
    /// Ascending.
    pub(super) released: Vec<KeyHash>,
}

impl ParkedKeys {
    pub(super) fn restore(records: &[ParkedKey], now_ms: u64) -> Self {
        let mut restored = Self::default();
        for record in records {
            let failures = KeyFailures { attempts: record.attempts, ..KeyFailures::default() };
            let retry_at_ms = now_ms.saturating_add(record.retry_in_ms);
            let parked = ParkedKeyState::at(record.from, record.pending);
            restored.put(record.key, ParkedKeyState { failures, retry_at_ms, is_proposed: true, ..parked });
        }
        restored.changed.clear();
        restored
    }

    /// # Panics
    /// If the key is parked.
    pub(super) fn insert(&mut self, event: &BufferedEvent, pending: u64) {
        let parked = ParkedKeyState::at(event.offset, pending);
        let is_proposed = self.released.remove(&event.key);
        let append_time = Some(event.append_time);
        self.put(event.key, ParkedKeyState { append_time, is_proposed, ..parked });
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
        let parked = self.keys.get_mut(&key)?;
        let before = Standing::of(parked);
        let result = change(parked);
        let after = Standing::of(parked);
        if before != after {
            self.index.remove(key, &before);
            self.index.insert(key, &after);
        }
        if (before.from, before.attempts, before.pending) != (after.from, after.attempts, after.pending) {
            self.changed.insert(key);
        }
        Some(result)
    }

    pub(super) fn given_up(&self, key: KeyHash) -> Option<GivenUp> {
        self.keys.get(&key)?.given_up.clone()
    }

    pub(super) fn remove(&mut self, key: KeyHash) -> Option<ParkedKeyState> {
        let parked = self.keys.remove(&key)?;
        self.index.remove(key, &Standing::of(&parked));
        self.changed.remove(&key);
        if parked.is_proposed {
            self.released.insert(key);
        }
        Some(parked)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keys whose first event is in flight, or about to be.
    pub(super) fn busy(&self) -> usize {
        self.index.totals.busy
    }

    pub(super) fn pending(&self) -> u64 {
        self.index.totals.pending
    }

    /// Events in memory.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.index.totals.buffered_bytes
    }

    pub(super) fn low_water(&self) -> Option<Offset> {
        self.index.by_from.first().map(|(from, _)| *from)
    }

    /// Append time of the oldest event that was read since the start.
    pub(super) fn oldest_append_time(&self) -> Option<Timestamp> {
        self.index.by_from.iter().find_map(|(_, key)| self.keys[key].append_time)
    }

    /// Numbers of keys that [`Self::propose`] names.
    pub(super) fn unproposed(&self) -> (usize, usize) {
        (self.changed.len(), self.released.len())
    }

    /// The changes since the last call, or since [`Self::forget_proposed`].
    pub(super) fn propose(&mut self, now_ms: u64) -> ParkedChanges {
        let changed = std::mem::take(&mut self.changed);
        let mut parked = Vec::with_capacity(changed.len());
        for key in changed {
            let state = self.keys.get_mut(&key).expect("a changed key is parked");
            state.is_proposed = true;
            parked.push(ParkedKey {
                key,
                from: state.from,
                attempts: state.failures.attempts,
                retry_in_ms: state.retry_at_ms.saturating_sub(now_ms),
                pending: state.pending,
            });
        }
        ParkedChanges { parked, released: std::mem::take(&mut self.released).into_iter().collect() }
    }

    /// The record proposed last names nothing: the next one names all keys.
    pub(super) fn forget_proposed(&mut self) {
        self.released.clear();
        for (key, parked) in &mut self.keys {
            parked.is_proposed = false;
            self.changed.insert(*key);
        }
    }

    pub(super) fn make_all_due(&mut self, now_ms: u64) {
        self.make_due(now_ms, |_| true);
    }

    /// Keys that were parked by a probe of a sink that was down have no failure of their own.
    pub(super) fn make_faultless_due(&mut self, now_ms: u64) {
        self.make_due(now_ms, |parked| parked.failures.attempts == 0);
    }

    fn make_due(&mut self, now_ms: u64, applies: impl Fn(&ParkedKeyState) -> bool) {
        let after = (now_ms.saturating_add(1), KeyHash(0));
        let later = self.index.unread.range(after..).chain(self.index.buffered.range(after..));
        let keys: Vec<KeyHash> = later.map(|(_, key)| *key).filter(|key| applies(&self.keys[key])).collect();
        for key in keys {
            self.update(key, |parked| parked.retry_at_ms = now_ms);
        }
    }

    /// Settles the first event of the key. False if `offset` is another event.
    pub(super) fn settle(&mut self, key: KeyHash, offset: Offset, now_ms: u64) -> bool {
        let Some(parked) = self.keys.get(&key).filter(|parked| parked.from == offset) else { return false };
        assert!(parked.pending > 0, "invariant violation: the event at {offset} is settled and not pending");
        if parked.pending > 1 {
            self.update(key, |parked| parked.pass(now_ms));
        } else {
            self.remove(key);
        }
        true
    }

    /// The keys whose turn it is; their phases are changed. One sweep runs at a time.
    pub(super) fn take_due(&mut self, permissions: &Permissions) -> DueKeys {
        let mut due = DueKeys { candidates: self.due_in_memory(permissions), sweep: Vec::new() };
        for &key in &due.candidates {
            self.update(key, |parked| parked.phase = Phase::Queued);
        }
        let may_sweep = permissions.now_ms >= permissions.read_retry_at_ms
            && self.index.totals.scanning == 0
            && self.index.totals.buffered_bytes < permissions.buffered_bytes_max;
        if may_sweep {
            due.sweep = self.next_sweep(permissions);
        }
        due
    }

    fn due_in_memory(&self, permissions: &Permissions) -> Vec<KeyHash> {
        if self.index.buffered.is_empty() {
            return Vec::new();
        }
        let is_expired =
            |parked: &ParkedKeyState| parked.from < permissions.expire_below && parked.given_up.is_none();
        let expired =
            self.index.buffered.iter().map(|(_, key)| *key).filter(|key| is_expired(&self.keys[key]));
        let expires = self.low_water().is_some_and(|oldest| oldest < permissions.expire_below);
        let mut keys: Vec<KeyHash> = if expires { expired.collect() } else { Vec::new() };
        if permissions.attempts == 0 && self.index.totals.given_up == 0 {
            return keys;
        }
        let mut attempts = permissions.attempts;
        for (_, key) in self.index.buffered.range(..=(permissions.now_ms, KeyHash(u64::MAX))) {
            let parked = &self.keys[key];
            if parked.given_up.is_some() {
                keys.push(*key);
            } else if attempts > 0 && !is_expired(parked) {
                attempts -= 1;
                keys.push(*key);
            }
        }
        keys
    }

    /// The longest-waiting keys, so that each gets its turn; the sweep begins with the first of them.
    fn next_sweep(&mut self, permissions: &Permissions) -> Vec<KeyScan> {
        let expired = self.index.by_from.range(..(permissions.expire_below, KeyHash(0))).map(|(_, key)| *key);
        let is_unread = |key: &KeyHash| {
            let parked = &self.keys[key];
            parked.phase == Phase::Waiting && parked.buffer.is_empty()
        };
        let may_be_read = |key: &KeyHash| self.keys[key].read_retry_at_ms <= permissions.now_ms;
        let due = self.index.unread.range(..=(permissions.now_ms, KeyHash(u64::MAX))).map(|(_, key)| *key);
        let due = due.filter(|key| self.keys[key].from >= permissions.expire_below);
        let due = due.take(if permissions.attempts > 0 { SWEEP_KEYS_MAX } else { 0 });
        let scan = |key| self.keys[&key].scan(key);
        let mut scans: Vec<KeyScan> =
            expired.filter(is_unread).chain(due).filter(may_be_read).take(SWEEP_KEYS_MAX).map(scan).collect();
        let Some(&first) = scans.first() else { return scans };
        scans.sort_unstable_by_key(|scan| (scan.from, scan.key));
        let first_at = scans.iter().position(|scan| *scan == first).expect("the scan is one of them");
        scans.rotate_left(first_at);
        for scan in &scans {
            self.update(scan.key, |parked| parked.phase = Phase::Scanning);
        }
        scans
    }

    /// Takes in what a sweep found of a key up to `read_to` of the subscription. The number of its pending events if the
    /// log has none of them any more; the key is not parked then.
    pub(super) fn scanned(&mut self, scanned: ScannedKey, read_to: Offset, retry_at_ms: u64) -> Option<u64> {
        let ScannedKey { key, events, scanned_to, failed } = scanned;
        let is_lost = self.update(key, |parked| {
            if failed {
                parked.read_failed(retry_at_ms);
                return false;
            }
            parked.phase = Phase::Waiting;
            parked.scanned_to = scanned_to;
            parked.buffer.extend(events);
            if let Some(first) = parked.buffer.front() {
                parked.from = first.offset;
                parked.append_time = Some(first.append_time);
            }
            parked.buffer.is_empty() && scanned_to >= read_to
        });
        if is_lost == Some(true) { self.remove(key).map(|parked| parked.pending) } else { None }
    }

    /// Time at which the next waiting key is due. A key that is due already waits for something else.
    pub(super) fn deadline(&self, now_ms: u64) -> Option<u64> {
        let after = (now_ms.saturating_add(1), KeyHash(0));
        let next = [self.index.unread.range(after..).next(), self.index.buffered.range(after..).next()];
        next.into_iter().flatten().map(|(retry_at_ms, _)| *retry_at_ms).min()
    }

    /// Drops the buffers of waiting keys.
    pub(super) fn drop_buffers(&mut self) {
        let waiting = self.index.buffered.iter().map(|(_, key)| *key);
        for key in waiting.filter(|key| self.keys[key].given_up.is_none()).collect::<Vec<_>>() {
            self.update(key, ParkedKeyState::drop_buffer);
        }
    }

    fn put(&mut self, key: KeyHash, parked: ParkedKeyState) {
        self.index.insert(key, &Standing::of(&parked));
        self.changed.insert(key);
        let before = self.keys.insert(key, parked);
        assert!(before.is_none(), "invariant violation: a key is parked twice");
    }
}

#[cfg(test)]
mod tests;
