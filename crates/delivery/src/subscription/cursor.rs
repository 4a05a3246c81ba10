//! What of a subscription is replicated, and what may be forgotten once it is.

use std::collections::BTreeMap;

use fanfare_model::{Offset, Timestamp};
use fanfare_partition::{CursorRecord, Outcome, ParkedKey, Reason};

use super::state::{Flight, Moment};

/// A subscription's part of an advance.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) matched: u64,
    pub(crate) matched_to: Option<Offset>,
    pub(crate) settled: BTreeMap<Outcome, u64>,
    pub(crate) record: Option<CursorRecord>,
}

/// As encoded: a cursor's fixed part, an offset of the window, a parked key.
const CURSOR_BYTES: usize = 128;
const OFFSET_BYTES: usize = 8;
const PARKED_BYTES: usize = 36;

/// What a subscription with so much in its record takes in an advance, at most.
fn record_bytes(window: usize, parked: usize) -> usize {
    CURSOR_BYTES + window * OFFSET_BYTES + parked * PARKED_BYTES
}

impl Progress {
    pub(crate) fn size_bytes(&self) -> usize {
        self.record
            .as_ref()
            .map_or(CURSOR_BYTES, |record| record_bytes(record.window.len(), record.parked.len()))
    }
}

impl Flight {
    /// What to replicate with the frontier at `moment.front`. Ends with [`Self::applied`], or the flight is dropped.
    pub(crate) fn propose(&mut self, moment: Moment) -> Progress {
        self.take_in(moment);
        self.correct();
        let matched_to = self.reading.joins.then(|| self.reading.matched_to(moment.front));
        if matched_to == Some(moment.front) {
            self.reading.joins = false;
        }
        self.proposed = Some(self.window.unreleased());
        let (matched, settled) = self.ledger.propose();
        let record = (self.ledger.pending() > 0).then(|| self.record(moment));
        Progress { matched, matched_to, settled, record }
    }

    /// The proposed progress is applied: what it settled makes room.
    pub(crate) fn applied(&mut self) {
        self.window.release(self.proposed.take().expect("only proposed progress is applied"));
        self.ledger.applied();
    }

    /// Half of the window waits for nothing but replication.
    pub(crate) fn wants_advance(&self) -> bool {
        let waiting = self.window.unreleased() - self.proposed.unwrap_or(0);
        waiting * 2 >= self.options.window_events
    }

    /// The fan-out matched something that has to go into the advance that takes the frontier past it.
    pub(crate) fn owes_matches(&self) -> bool {
        self.ledger.has_matches() && !self.reading.joins
    }

    /// What so many events that were just matched add to the next advance, at most.
    pub(crate) fn newly_matched_bytes(&self, count: usize) -> usize {
        if !self.owes_matches() {
            return 0;
        }
        let first = self.ledger.newly_matched() <= count as u64;
        let before =
            if first { record_bytes(self.window.len() + self.unloaded.len(), self.parks.len()) } else { 0 };
        before + OFFSET_BYTES * count
    }

    /// It reads the log by itself.
    pub(crate) fn is_behind(&self) -> bool {
        !self.reading.follows()
    }

    /// Offsets up to the front that it has not read.
    pub(crate) fn behind_by(&self, front: Offset) -> u64 {
        front.since(self.reading.read_to(front))
    }

    /// Something changed that no advance carries yet.
    pub(crate) fn has_news(&self) -> bool {
        self.ledger.has_news() || self.reading.joins && self.reading.follows()
    }

    /// Nothing is unsettled, nothing is left to replicate.
    pub(crate) fn is_done(&self) -> bool {
        let at_rest =
            self.ledger.pending() == 0 && self.ledger.is_replicated() && self.window.unreleased() == 0;
        at_rest && self.reading.follows() && !self.reading.joins && self.busy() == 0
    }

    /// The first event that is unsettled or may be, below the front.
    pub(crate) fn low_water(&self) -> Option<Offset> {
        let window = self.window.unsettled().next().map(|held| held.offset);
        let unloaded = self.unloaded.first().map(|(offset, _)| *offset);
        [window, unloaded, self.parks.low_water(), self.reading.behind_at()].into_iter().flatten().min()
    }

    /// When the oldest unsettled event was appended, as far as that is known without reading.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        if self.ledger.pending() == 0 {
            return None;
        }
        let window = self.window.unsettled().next().map(|held| held.append_time);
        let unloaded = self.unloaded.iter().find_map(|(_, time)| *time);
        let parked = self.parks.iter().filter_map(|(_, parked)| parked.append_time).min();
        [window, unloaded, parked, self.reading.oldest()].into_iter().flatten().min()
    }

    fn record(&self, moment: Moment) -> CursorRecord {
        let unloaded = self.unloaded.iter().map(|(offset, _)| *offset);
        let window = unloaded.chain(self.window.unsettled().map(|held| held.offset)).collect();
        let parked = self.parks.iter().map(|(key, parked)| ParkedKey {
            key: *key,
            from: parked.from,
            attempts: parked.attempts,
            retry_in_ms: parked.retry_at_ms.saturating_sub(moment.now_ms),
            pending: parked.pending,
        });
        let read_to = self.reading.read_to(moment.front);
        CursorRecord { read_to, window, parked: parked.collect() }
    }

    /// Once all is read again after a restart, everything that was counted before has to be there, unless the log was
    /// damaged and given up there. Said aloud, and settled, so that it does not hold the log for ever.
    fn correct(&mut self) {
        if !self.restored || !self.reading.follows() {
            return;
        }
        let Some(missing) = self.ledger.pending().checked_sub(self.held()) else { return };
        self.restored = false;
        if missing > 0 {
            tracing::error!(count = missing, "events that were matched are not found again; cancelled");
            self.ledger.settled(Outcome::Cancelled(Reason::Unreadable), missing);
        }
    }

    /// Unsettled events that are known by offset or, if their key is parked, by number.
    fn held(&self) -> u64 {
        (self.window.len() + self.unloaded.len()) as u64 + self.parks.pending()
    }
}
