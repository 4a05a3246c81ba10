//! Memory of one node, divided evenly among its open partitions: 12 and 200 partitions have the same ceiling.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes of memory that all partitions of a node may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Dedup windows, which forget early if this is too little.
    pub dedup_bytes_max: u64,
    /// Batches taken and not answered yet.
    pub queue_bytes_max: u64,
    /// Frames read from disk for readers that lag.
    pub read_cache_bytes_max: u64,
}

/// The node-wide object that every partition of a node is opened with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budgets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: MemoryLimits,
    partitions_expected: u64,
    open_partitions: AtomicU64,
}

/// One open partition's equal share. Shares shrink when more partitions than expected are open, and grow again when one
/// closes. A dedup window gives its records back at its next insert; its hash tables stop growing.
#[derive(Debug)]
pub(crate) struct BudgetShare(Budgets);

impl Budgets {
    /// Every share counts as if at least `partitions_expected` were open, so that the first partition of a start does not
    /// fill the memory of those opened after it.
    #[must_use]
    pub fn new(limits: MemoryLimits, partitions_expected: u64) -> Self {
        Self(Arc::new(Shared { limits, partitions_expected, open_partitions: AtomicU64::new(0) }))
    }

    pub(crate) fn share(&self) -> BudgetShare {
        // Relaxed: the count is a divisor, and nothing else is published by it.
        self.0.open_partitions.fetch_add(1, Ordering::Relaxed);
        BudgetShare(self.clone())
    }
}

impl BudgetShare {
    pub(crate) fn dedup_bytes(&self) -> u64 {
        self.part_of(self.0.0.limits.dedup_bytes_max)
    }

    pub(crate) fn queue_bytes(&self) -> u64 {
        self.part_of(self.0.0.limits.queue_bytes_max)
    }

    pub(crate) fn read_cache_bytes(&self) -> u64 {
        self.part_of(self.0.0.limits.read_cache_bytes_max)
    }

    fn part_of(&self, bytes: u64) -> u64 {
        let Shared { partitions_expected, open_partitions, .. } = &*self.0.0;
        bytes / open_partitions.load(Ordering::Relaxed).max(*partitions_expected).max(1)
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.0.0.open_partitions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_partitions_shares_one_ceiling() {
        let limits =
            MemoryLimits { dedup_bytes_max: 1_000, queue_bytes_max: 2_000, read_cache_bytes_max: 3_000 };
        for partitions in [1, 12, 200] {
            let budgets = Budgets::new(limits, 1);
            let shares: Vec<_> = (0..partitions).map(|_| budgets.share()).collect();
            assert!(shares.iter().map(BudgetShare::dedup_bytes).sum::<u64>() <= 1_000);
            assert!(shares.iter().map(BudgetShare::queue_bytes).sum::<u64>() <= 2_000);
            assert!(shares.iter().map(BudgetShare::read_cache_bytes).sum::<u64>() <= 3_000);
            let last = budgets.share();
            drop(shares);
            assert_eq!(last.dedup_bytes(), 1_000, "closed partitions give their shares back");
        }
    }

    #[test]
    fn first_partition_of_a_start_takes_only_its_share() {
        let limits = MemoryLimits { dedup_bytes_max: 1_200, queue_bytes_max: 0, read_cache_bytes_max: 0 };
        assert_eq!(Budgets::new(limits, 12).share().dedup_bytes(), 100);
    }
}
