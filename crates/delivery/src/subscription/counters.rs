//! One subscription's count of what was matched and how it was settled. Pure.
//!
//! `live` is the truth on this node, `replicated` what the partition's state machine has applied; the difference
//! goes into the next advance.

use std::collections::BTreeMap;

use fanfare_partition::{Counters, Outcome};

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    live: Counters,
    replicated: Counters,
    /// What an advance under way makes of `replicated` once it is applied.
    proposed: Option<Counters>,
}

impl Ledger {
    pub(crate) fn restore(counters: Counters) -> Self {
        Self { live: counters.clone(), replicated: counters, proposed: None }
    }

    pub(crate) fn matched(&mut self, count: u64) {
        self.live.matched += count;
    }

    pub(crate) fn settled(&mut self, outcome: Outcome, count: u64) {
        *self.live.settled.entry(outcome).or_default() += count;
    }

    /// Adds up at any moment: who reads by itself may settle an event just before the fan-out counts it as matched.
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

    /// Something is neither replicated nor proposed.
    pub(crate) fn has_news(&self) -> bool {
        self.live != *self.proposed.as_ref().unwrap_or(&self.replicated)
    }

    /// Matched and not replicated yet.
    pub(crate) fn newly_matched(&self) -> u64 {
        self.live.matched - self.proposed.as_ref().unwrap_or(&self.replicated).matched
    }

    pub(crate) fn has_matches(&self) -> bool {
        self.newly_matched() > 0
    }

    /// What is not replicated yet: newly matched, newly settled.
    pub(crate) fn propose(&mut self) -> (u64, BTreeMap<Outcome, u64>) {
        let settled = self
            .live
            .settled
            .iter()
            .map(|(outcome, count)| {
                (*outcome, count - self.replicated.settled.get(outcome).copied().unwrap_or(0))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        let matched = self.live.matched - self.replicated.matched;
        self.proposed = Some(self.live.clone());
        (matched, settled)
    }

    pub(crate) fn applied(&mut self) {
        self.replicated = self.proposed.take().expect("only a proposed advance is applied");
    }
}
