//! The replicated part of a subscription's state, and the memory that its replication frees.

use std::collections::BTreeMap;

use fanfare_model::Offset;
use fanfare_partition::{Outcome, Reason, RecordChange, SinkOutage};

use super::{event::Inputs, parked_keys::ParkedChanges, state::SubscriptionState};

/// Encoded sizes: a cursor's fixed part, an offset of the window, a parked key, the key of a released one.
const CURSOR_BYTES: usize = 160;
const OFFSET_BYTES: usize = 8;
const PARKED_BYTES: usize = 36;
const RELEASED_BYTES: usize = 8;

/// A subscription's part of an advance.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) matched: u64,
    pub(crate) matched_to: Option<Offset>,
    pub(crate) settled: BTreeMap<Outcome, u64>,
    pub(crate) record: Option<RecordChange>,
    /// Events that were matched before a restart and are lost in a damaged part of the log; among `settled` as
    /// cancelled.
    pub(crate) lost: u64,
}

impl Progress {
    /// Checks the progress before it leaves for an advance to `frontier`.
    ///
    /// # Panics
    /// If the progress names an event that the frontier has not passed, or an event twice.
    pub(crate) fn check(&self, frontier: Offset) {
        assert!(
            self.matched_to.is_none_or(|matched_to| matched_to <= frontier),
            "invariant violation: matched to {:?}, and the frontier is {frontier}",
            self.matched_to
        );
        let Some(RecordChange { read_to, window, parked, .. }) = &self.record else { return };
        let is_ascending = window.is_sorted_by(|one, next| one < next);
        assert!(
            is_ascending && window.last().is_none_or(|last| last < read_to) && *read_to <= frontier,
            "invariant violation: read to {read_to} of {frontier}, and the window is {window:?}"
        );
        assert!(
            parked.iter().all(|parked| parked.pending > 0 && parked.from < frontier),
            "invariant violation: a key is parked without an event below {frontier}: {parked:?}"
        );
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.record.as_ref().map_or(CURSOR_BYTES, |change| {
            change_bytes(change.window.len(), change.parked.len(), change.released.len())
        })
    }
}

impl SubscriptionState {
    /// Progress to replicate with the frontier at `inputs.fan_out_offset`. Ends with
    /// [`super::event::SubscriptionEvent::Advanced`], or the state is dropped.
    pub(crate) fn propose(&mut self, inputs: &Inputs<'_>) -> Progress {
        self.admit_backlog(inputs);
        let lost = self.settle_lost();
        let matched_to = self.position.propose_matched_to(inputs.fan_out_offset);
        let (matched, settled) = self.counters.propose(self.window.settled_unreplicated());
        let outage = self.failures.propose_outage(inputs);
        let record = (self.counters.pending() > 0).then(|| self.record_change(outage, inputs));
        if record.is_none() {
            self.parked_keys.forget_proposed();
        }
        Progress { matched, matched_to, settled, record, lost }
    }

    /// Half of the window waits for nothing but replication.
    pub(crate) fn needs_advance(&self) -> bool {
        let unproposed = self.window.settled_unreplicated() - self.counters.proposed_settled();
        unproposed * 2 >= self.options.window_events
    }

    /// The fan-out matched an event that has to go into the advance that takes the frontier past the event.
    pub(crate) fn has_unproposed_matches(&self) -> bool {
        self.counters.newly_matched() > 0 && !self.position.needs_join()
    }

    /// Upper bound of the bytes that `count` events, just matched, add to the next advance.
    pub(crate) fn newly_matched_bytes(&self, count: usize) -> usize {
        if !self.has_unproposed_matches() {
            return 0;
        }
        let is_first = self.counters.newly_matched() <= count as u64;
        let (changed, released) = self.parked_keys.unproposed();
        let fixed_bytes =
            if is_first { change_bytes(self.window.unsettled_count(), changed, released) } else { 0 };
        let may_be_parked = self.parked_keys.len() > 0;
        fixed_bytes + count * if may_be_parked { PARKED_BYTES } else { OFFSET_BYTES }
    }

    /// A change is in no advance yet.
    pub(crate) fn has_unproposed_changes(&self) -> bool {
        self.counters.has_unproposed_changes() || self.position.needs_join() && self.position.is_live()
    }

    fn record_change(&mut self, outage: Option<SinkOutage>, inputs: &Inputs<'_>) -> RecordChange {
        let unloaded = self.window.unloaded().iter().map(|event| event.offset);
        let window = unloaded.chain(self.window.unsettled().map(|event| event.offset)).collect();
        let read_to = self.position.read_to(inputs.fan_out_offset);
        let ParkedChanges { parked, released } = self.parked_keys.propose(inputs.now_ms);
        RecordChange { read_to, window, parked, released, outage }
    }

    /// After a restart has re-read the backlog, `pending` must equal the unsettled events found. A shortfall means
    /// entries were lost (`log accept-loss`): the difference is settled as cancelled, or it would block trimming
    /// forever.
    fn settle_lost(&mut self) -> u64 {
        if !self.position.has_reread_restored() {
            return 0;
        }
        let unsettled = self.window.unsettled_count() as u64 + self.parked_keys.pending();
        // The fan-out may be about to count an event that is in the window already: decided with the next advance.
        let Some(lost) = self.counters.pending().checked_sub(unsettled) else { return 0 };
        self.position.forget_restored();
        if lost > 0 {
            self.counters.add_settled(Outcome::Cancelled(Reason::Unreadable), lost);
        }
        lost
    }
}

/// Upper bound of the encoded size of a change of a cursor's record.
fn change_bytes(window: usize, parked: usize, released: usize) -> usize {
    CURSOR_BYTES + window * OFFSET_BYTES + parked * PARKED_BYTES + released * RELEASED_BYTES
}
