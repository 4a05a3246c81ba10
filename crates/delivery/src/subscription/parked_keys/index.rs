//! Order and sums of the parked keys.

use std::collections::BTreeSet;

use fanfare_model::{KeyHash, Offset};

use super::key::{ParkedKeyState, Phase};

#[derive(Default)]
pub(super) struct KeyIndex {
    pub(super) by_from: BTreeSet<(Offset, KeyHash)>,
    /// Waiting keys without an event in memory, by time of retry.
    pub(super) unread: BTreeSet<(u64, KeyHash)>,
    /// Waiting keys with an event in memory, by time of retry.
    pub(super) buffered: BTreeSet<(u64, KeyHash)>,
    pub(super) totals: Totals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) scanning: usize,
    /// Queued or busy.
    pub(super) busy: usize,
    /// Waiting and given up.
    pub(super) given_up: usize,
    pub(super) pending: u64,
    pub(super) buffered_bytes: usize,
}

/// Everything about a key that an index, a total or the replicated record depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) from: Offset,
    pub(super) attempts: u32,
    pub(super) pending: u64,
    retry_at_ms: u64,
    phase: Phase,
    buffered_bytes: Option<usize>,
    is_given_up: bool,
}

impl KeyIndex {
    pub(super) fn insert(&mut self, key: KeyHash, standing: &Standing) {
        self.by_from.insert((standing.from, key));
        if standing.phase == Phase::Waiting {
            self.waiting(standing).insert((standing.retry_at_ms, key));
        }
        self.totals.add(standing);
    }

    pub(super) fn remove(&mut self, key: KeyHash, standing: &Standing) {
        self.by_from.remove(&(standing.from, key));
        if standing.phase == Phase::Waiting {
            self.waiting(standing).remove(&(standing.retry_at_ms, key));
        }
        self.totals.subtract(standing);
    }

    fn waiting(&mut self, standing: &Standing) -> &mut BTreeSet<(u64, KeyHash)> {
        if standing.buffered_bytes.is_some() { &mut self.buffered } else { &mut self.unread }
    }
}

impl Standing {
    pub(super) fn of(parked: &ParkedKeyState) -> Self {
        let bytes = parked.buffer.iter().map(|event| event.bytes.len()).sum();
        Self {
            from: parked.from,
            attempts: parked.failures.attempts,
            pending: parked.pending,
            retry_at_ms: parked.retry_at_ms,
            phase: parked.phase,
            buffered_bytes: (!parked.buffer.is_empty()).then_some(bytes),
            is_given_up: parked.given_up.is_some(),
        }
    }
}

impl Totals {
    fn of(standing: &Standing) -> Self {
        let phase = standing.phase;
        Self {
            scanning: usize::from(phase == Phase::Scanning),
            busy: usize::from(matches!(phase, Phase::Queued | Phase::Busy)),
            given_up: usize::from(phase == Phase::Waiting && standing.is_given_up),
            pending: standing.pending,
            buffered_bytes: standing.buffered_bytes.unwrap_or(0),
        }
    }

    fn add(&mut self, standing: &Standing) {
        let more = Self::of(standing);
        self.scanning += more.scanning;
        self.busy += more.busy;
        self.given_up += more.given_up;
        self.pending += more.pending;
        self.buffered_bytes += more.buffered_bytes;
    }

    fn subtract(&mut self, standing: &Standing) {
        let less = Self::of(standing);
        self.scanning -= less.scanning;
        self.busy -= less.busy;
        self.given_up -= less.given_up;
        self.pending -= less.pending;
        self.buffered_bytes -= less.buffered_bytes;
    }
}
