//! What of a subscription is replicated, and what may be forgotten once it is.

use std::collections::BTreeMap;

use fanfare_model::{Offset, Timestamp};
use fanfare_partition::{CursorRecord, Outcome, ParkedKey, Reason};

use super::{Flight, Moment};

/// A subscription's part of an advance.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) matched: u64,
    pub(crate) matched_to: Option<Offset>,
    pub(crate) settled: BTreeMap<Outcome, u64>,
    pub(crate) record: Option<CursorRecord>,
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

    /// Names no more events than are pending: more than that are held only of a choice that grew before a restart.
    fn record(&self, moment: Moment) -> CursorRecord {
        let mut left = self.ledger.pending();
        let mut take = |count: u64| {
            let taken = count.min(left);
            left -= taken;
            taken
        };
        let unloaded = self.unloaded.iter().map(|(offset, _)| *offset);
        let offsets = unloaded.chain(self.window.unsettled().map(|held| held.offset));
        let window = offsets.take_while(|_| take(1) == 1).collect();
        let parked = self.parks.iter().map(|(key, parked)| ParkedKey {
            key: *key,
            from: parked.from,
            attempts: parked.attempts,
            retry_in_ms: parked.retry_at_ms.saturating_sub(moment.now_ms),
            pending: take(parked.pending),
        });
        let parked = parked.filter(|parked| parked.pending > 0).collect();
        CursorRecord { read_to: self.reading.read_to(moment.front), window, parked }
    }

    /// After a restart events are read again with the types that are chosen now. What was matched before and matches
    /// no longer is cancelled. What matches only now is delivered, too, but the partition's account stays as it was.
    fn correct(&mut self) {
        if !self.restored || !self.reading.follows() {
            return;
        }
        let Some(missing) = self.ledger.pending().checked_sub(self.held()) else { return };
        self.restored = false;
        if missing > 0 {
            tracing::info!(count = missing, "cancel what is no longer chosen");
            self.ledger.settled(Outcome::Cancelled(Reason::Repointed), missing);
        }
    }

    /// Unsettled events that are known by offset or, if their key is parked, by number.
    fn held(&self) -> u64 {
        (self.window.len() + self.unloaded.len()) as u64 + self.parks.pending()
    }
}
