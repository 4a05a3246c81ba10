//! One parked key.

use std::collections::VecDeque;

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::Reason;

use super::super::{buffered_event::BufferedEvent, event::KeyScan};
use crate::judgement::Rejections;

#[derive(Debug)]
pub(in crate::subscription) struct ParkedKeyState {
    pub(in crate::subscription) from: Offset,
    pub(in crate::subscription) retry_at_ms: u64,
    /// Matching events from `from` on.
    pub(in crate::subscription) pending: u64,
    pub(in crate::subscription) phase: Phase,
    pub(in crate::subscription) failures: KeyFailures,
    /// Set when the event at `from` is given up and its dead letter could not be written yet.
    pub(in crate::subscription) given_up: Option<GivenUp>,
    /// The next events of the key, read from the log up to `scanned_to`.
    pub(in crate::subscription) buffer: VecDeque<BufferedEvent>,
    pub(in crate::subscription) scanned_to: Offset,
    pub(in crate::subscription) append_time: Option<Timestamp>,
    /// The key is not read before this, after a read that failed: an expired key is due at any time, and would be read
    /// again without a pause.
    pub(super) read_retry_at_ms: u64,
    /// The key is among those that were proposed as parked.
    pub(super) is_proposed: bool,
}

/// History of the event at `from`.
#[derive(Debug, Default)]
pub(in crate::subscription) struct KeyFailures {
    /// Failed attempts.
    pub(in crate::subscription) attempts: u32,
    /// The sink's count of deliveries when the event failed last.
    pub(in crate::subscription) at_deliveries: Option<u64>,
    pub(in crate::subscription) rejections: Option<Rejections>,
    /// The event was in a batch that failed: its own outcome has to tell.
    pub(in crate::subscription) send_alone: bool,
}

/// Reason of a dead letter.
#[derive(Clone, Debug)]
pub(in crate::subscription) struct GivenUp {
    pub(in crate::subscription) reason: Reason,
    pub(in crate::subscription) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::subscription) enum Phase {
    /// Waits for `retry_at_ms`.
    Waiting,
    /// The key's events are being read.
    Scanning,
    /// The first event may be attempted.
    Queued,
    /// The first event is in flight.
    Busy,
}

impl ParkedKeyState {
    pub(super) fn at(from: Offset, pending: u64) -> Self {
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
            read_retry_at_ms: 0,
            is_proposed: false,
        }
    }

    /// The first event is delivered or given up.
    pub(super) fn pass(&mut self, now_ms: u64) {
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

    pub(super) fn scan(&self, key: KeyHash) -> KeyScan {
        let from = self.scanned_to.max(self.from);
        KeyScan { key, from, first_only: self.failures.attempts > 0 && from == self.from }
    }

    /// The log could not be read at the key's position.
    pub(in crate::subscription) fn read_failed(&mut self, retry_at_ms: u64) {
        (self.phase, self.retry_at_ms, self.read_retry_at_ms) = (Phase::Waiting, retry_at_ms, retry_at_ms);
    }

    /// The first event has failed: the others leave memory.
    pub(in crate::subscription) fn drop_buffer(&mut self) {
        self.buffer = VecDeque::new();
        self.scanned_to = self.from;
    }
}
