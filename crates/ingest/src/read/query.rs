//! Queries of committed events, and the reasons why one is refused or ends.

use std::collections::BTreeSet;

use fanfare_model::{Event, Offset, PartitionId, Timestamp};
use fanfare_partition::{ReadError, StoredEvent};

/// Position where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    Earliest,
    Latest,
    /// Valid with one partition only.
    Offset(Offset),
    Time(Timestamp),
}

/// Events to read.
#[derive(Clone, Debug)]
pub struct ReadQuery {
    /// All partitions of the account if none.
    pub partition: Option<u32>,
    pub from: ReadFrom,
    /// Waits at the end for more events instead of ending there.
    pub follow: bool,
    /// All types if empty.
    pub types: BTreeSet<String>,
    /// Number of events; no limit if none.
    pub limit: Option<u64>,
}

/// Reason why a read ends or does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReadRefusal {
    #[error("the account has no events in partition {named}: its partitions are {own:?}")]
    PartitionUnknown { named: u32, own: Vec<u16> },
    /// A read that left the partition out would look complete.
    #[error("partition {partition} has no replica on this node: retry")]
    NotHere { partition: PartitionId },
    /// Events that were acknowledged before this start would look missing.
    #[error("partition {partition} has not applied yet what was acknowledged before this start: retry")]
    Recovering { partition: PartitionId },
    #[error("an offset belongs to one partition: name the partition too")]
    PartitionMissing,
    #[error("offset {requested} is not written yet: the next one is {high_watermark}")]
    OffsetAhead { requested: Offset, high_watermark: Offset },
    #[error(
        "too many reads are open: an account may have {account_reads_max}, and no more than are free of the node's \
         {reads_max}: end one, or retry later"
    )]
    TooManyReads { reads_max: usize, account_reads_max: usize },
    #[error("the node is shutting down: read on from the last offset on another connection")]
    Draining,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ReadQuery {
    pub(super) fn matches(&self, event: &StoredEvent) -> bool {
        self.types.is_empty()
            || Event::type_of(&event.bytes).is_ok_and(|event_type| self.types.contains(event_type))
    }

    /// Counts one event against the limit; true for the last one.
    pub(super) fn count_down(&mut self) -> bool {
        match &mut self.limit {
            None => false,
            Some(remaining) => {
                *remaining = remaining.saturating_sub(1);
                *remaining == 0
            }
        }
    }
}
