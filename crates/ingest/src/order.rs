//! Order of one producer's events in each partition: after a refusal that a retry cures, or an unknown outcome,
//! everything later for that partition is refused as behind, until the producer resumes from there.
//!
//! A partition refuses what was queued behind a failure by itself. The order kept here saves validating and queueing
//! the rest in vain, and covers refusals that are made before a partition sees the event.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_partition::AppendOrder;

/// Order of one stream of events across all partitions.
#[derive(Default)]
pub(crate) struct StreamOrder {
    by_partition: BTreeMap<u16, AppendOrder>,
    /// Partitions held back for a refusal that no partition made.
    held_back: BTreeSet<u16>,
}

impl StreamOrder {
    /// Order of the appends to one partition. A batch validated before the partition was held is appended in it, too:
    /// the partition refuses it if it comes behind a failure.
    pub(crate) fn of_partition(&mut self, partition: u16) -> &mut AppendOrder {
        self.by_partition.entry(partition).or_default()
    }

    /// Holds back everything later for these partitions.
    pub(crate) fn hold(&mut self, partitions: impl IntoIterator<Item = u16>) {
        self.held_back.extend(partitions);
    }

    pub(crate) fn is_held(&self, partition: u16) -> bool {
        self.held_back.contains(&partition)
            || self.by_partition.get(&partition).is_some_and(|order| !order.is_open())
    }

    /// Opens every partition again: the producer resends from its first refused event.
    pub(crate) fn resume(&mut self) {
        self.held_back.clear();
        self.by_partition.values_mut().for_each(AppendOrder::reopen);
    }
}
