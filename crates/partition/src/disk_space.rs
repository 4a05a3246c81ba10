//! Free space of the data directory's disk, looked at a few times a second.

use fanfare_log::Store;
use fanfare_model::PartitionId;
use tokio::time::{Duration, Instant};

/// Interval between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Free space as of the last look.
pub(crate) struct DiskSpace {
    partition: PartitionId,
    store: Store,
    reserve_bytes: u64,
    looked_at: Option<Instant>,
    is_full: bool,
}

impl DiskSpace {
    /// The disk counts as full below `reserve_bytes`: the rest serves votes, cursors and trims.
    pub(crate) fn new(partition: PartitionId, store: Store, reserve_bytes: u64) -> Self {
        Self { partition, store, reserve_bytes, looked_at: None, is_full: false }
    }

    /// True if the disk was full at the last look, which is made here when it is due.
    pub(crate) fn is_full(&mut self) -> bool {
        let now = Instant::now();
        if self.looked_at.is_none_or(|looked| now.duration_since(looked) >= LOOK_INTERVAL) {
            let free_bytes = self.store.free_bytes();
            let is_full = free_bytes < self.reserve_bytes;
            if is_full != self.is_full {
                self.log_change(is_full, free_bytes);
            }
            (self.looked_at, self.is_full) = (Some(now), is_full);
        }
        self.is_full
    }

    /// Makes the next look due.
    #[cfg(test)]
    pub(crate) fn look_again(&mut self) {
        self.looked_at = None;
    }

    fn log_change(&self, is_full: bool, free_bytes: u64) {
        let (partition, reserve_bytes) = (self.partition, self.reserve_bytes);
        let dir = self.store.dir().display();
        if is_full {
            tracing::error!(
                %partition, %dir, free_bytes, reserve_bytes,
                "the disk is full; the partition takes no events until the reserve is free again. Free some space, or give \
                 storage.retention or storage.retention_bytes a smaller value; reads and deliveries go on",
            );
        } else {
            tracing::info!(%partition, %dir, free_bytes, "the disk has room again; the partition takes events");
        }
    }
}
