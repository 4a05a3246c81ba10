//! The order of one producer's events in each partition: after a refusal that a retry cures, or an unknown outcome,
//! whatever comes later for that partition is refused as behind, until the producer begins again from there.
//!
//! A partition refuses what was queued behind a failure by itself; here is what keeps the rest from being validated
//! and queued in vain, and what the node refuses before a partition sees it.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_partition::AppendOrder;

#[derive(Default)]
pub(crate) struct Lanes {
    by_partition: BTreeMap<u16, AppendOrder>,
    held: BTreeSet<u16>,
}

impl Lanes {
    /// The partition's lane, to append in what was gathered; also what was gathered before it was held.
    pub(crate) fn lane(&mut self, partition: u16) -> &mut AppendOrder {
        self.by_partition.entry(partition).or_default()
    }

    /// Holds back whatever comes later for these partitions.
    pub(crate) fn hold(&mut self, partitions: impl IntoIterator<Item = u16>) {
        self.held.extend(partitions);
    }

    pub(crate) fn is_held(&self, partition: u16) -> bool {
        self.held.contains(&partition)
            || self.by_partition.get(&partition).is_some_and(|lane| !lane.is_open())
    }

    /// The producer begins again from its first refused event.
    pub(crate) fn reopen(&mut self) {
        self.held.clear();
        self.by_partition.values_mut().for_each(AppendOrder::reopen);
    }
}
