//! One subscription's counts of matched and settled events. Pure.
//!
//! `live` is the truth on this node, `replicated` is applied by the partition's state machine; the difference goes
//! into the next advance.

use std::collections::BTreeMap;

use fanfare_partition::{Counters, Outcome};

#[derive(Clone, Debug, Default)]
pub(crate) struct ProgressCounters {
    live: Counters,
    replicated: Counters,
    proposed: Option<ProposedProgress>,
}

/// An advance on its way to the partition's state machine.
#[derive(Clone, Debug)]
struct ProposedProgress {
    /// The replicated counters once the advance is applied.
    counters: Counters,
    /// Settled events of the window that the advance covers.
    settled: usize,
}

impl ProgressCounters {
    pub(crate) fn restore(counters: Counters) -> Self {
        Self { live: counters.clone(), replicated: counters, proposed: None }
    }

    pub(crate) fn add_matched(&mut self, count: u64) {
        self.live.matched += count;
    }

    pub(crate) fn add_settled(&mut self, outcome: Outcome, count: u64) {
        *self.live.settled.entry(outcome).or_default() += count;
    }

    /// Adds up at any moment: a subscription that reads by itself may settle an event just before the fan-out counts
    /// the event as matched.
    pub(crate) fn live(&self) -> Counters {
        let mut live = self.live.clone();
        live.matched = live.matched.max(live.settled.values().sum());
        live
    }

    pub(crate) fn pending(&self) -> u64 {
        self.live.matched.saturating_sub(self.live.settled.values().sum())
    }

    pub(crate) fn is_replicated(&self) -> bool {
        self.live == self.replicated
    }

    /// A change is neither replicated nor proposed.
    pub(crate) fn has_unproposed_changes(&self) -> bool {
        self.live != *self.newest_proposed()
    }

    /// Matched events that are neither replicated nor proposed.
    pub(crate) fn newly_matched(&self) -> u64 {
        self.live.matched - self.newest_proposed().matched
    }

    /// Settled events that the advance in flight covers.
    pub(crate) fn proposed_settled(&self) -> usize {
        self.proposed.as_ref().map_or(0, |proposed| proposed.settled)
    }

    /// The difference that is not replicated: newly matched, newly settled. `settled` is the number of settled events
    /// that occupy the window.
    ///
    /// # Panics
    /// If an advance is in flight already.
    pub(crate) fn propose(&mut self, settled: usize) -> (u64, BTreeMap<Outcome, u64>) {
        assert!(
            self.proposed.is_none(),
            "invariant violation: a second advance is proposed before the first is applied"
        );
        let unreplicated = |(outcome, count): (&Outcome, &u64)| {
            let replicated = self.replicated.settled.get(outcome).copied().unwrap_or(0);
            (*count > replicated).then(|| (*outcome, count - replicated))
        };
        let newly_settled = self.live.settled.iter().filter_map(unreplicated).collect();
        let matched = self.live.matched - self.replicated.matched;
        self.proposed = Some(ProposedProgress { counters: self.live.clone(), settled });
        (matched, newly_settled)
    }

    /// The proposed advance is applied. Settled events that it covered.
    ///
    /// # Panics
    /// If none is in flight.
    pub(crate) fn applied(&mut self) -> usize {
        let applied = self.proposed.take().expect("only a proposed advance is applied");
        assert!(
            applied.counters.matched >= self.replicated.matched,
            "invariant violation: an advance takes back matched events"
        );
        self.replicated = applied.counters;
        applied.settled
    }

    fn newest_proposed(&self) -> &Counters {
        self.proposed.as_ref().map_or(&self.replicated, |proposed| &proposed.counters)
    }
}
