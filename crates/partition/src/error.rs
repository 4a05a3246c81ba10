//! What can go wrong, so that a caller can tell: repeat, route again, fix the request, or stop.

use std::ops::Range;

use fanfare_model::{Offset, PartitionId};

#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Too many bytes wait for this partition. Not appended; repeat later.
    #[error("partition {partition} is overloaded")]
    Overloaded { partition: PartitionId, retry_after_ms: u64 },
    /// Not appended.
    #[error("partition {partition} has no leader here")]
    NotLeader { partition: PartitionId, leader: Option<u64> },
    /// May or may not be committed: repeat with the same ids.
    #[error("the outcome at partition {partition} is unknown")]
    Unknown { partition: PartitionId },
    /// An earlier append of the same [`AppendOrder`](crate::AppendOrder) failed; not appended. Reopen the order and
    /// repeat from the failed append.
    #[error("an earlier append of the same order to partition {partition} failed")]
    EarlierFailed { partition: PartitionId },
    /// The disk is full or below its reserve; not appended.
    #[error(
        "partition {partition} takes no events: the disk is full, and the operator has to free some space"
    )]
    DiskFull { partition: PartitionId },
    #[error("partition {partition} has stopped")]
    Stopped { partition: PartitionId },
    /// What it holds at these offsets (none: it is not known which) cannot be read. It takes nothing more before an
    /// operator has repaired it.
    #[error("partition {partition} is damaged{}: it takes no events until the operator has repaired it", offsets_lost(.offsets))]
    Damaged { partition: PartitionId, offsets: Range<Offset> },
}

impl AppendError {
    /// Whether the same batch may be taken later, as it is; an unknown outcome counts.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. }
            | Self::NotLeader { .. }
            | Self::Unknown { .. }
            | Self::EarlierFailed { .. }
            | Self::DiskFull { .. } => true,
            Self::Stopped { .. } | Self::Damaged { .. } => false,
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is below the start of the log, {log_start}")]
    OutOfRange { offset: Offset, log_start: Offset },
    /// Committed events at `offsets` cannot be read; an empty range means that the offsets are unknown. `detail` names
    /// files and is for the operator alone.
    #[error("partition {partition}: data is lost: {detail}")]
    DataLoss { partition: PartitionId, detail: String, offsets: Range<Offset> },
}

/// As part of a sentence; nothing if it is not known which.
pub(crate) fn offsets_lost(offsets: &Range<Offset>) -> String {
    if offsets.is_empty() {
        return String::new();
    }
    format!(" (offsets {}..{} cannot be read)", offsets.start, offsets.end)
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    #[error("partition {partition} has no leader here")]
    NotLeader { partition: PartitionId },
    #[error("the outcome is unknown")]
    Unknown,
    /// Refused by the state machine; nothing changed.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// What the command needs to know stands where the log cannot be read; nothing changed.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    #[error("partition {partition} has stopped")]
    Stopped { partition: PartitionId },
}

/// Why the state machine refused a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the subscription is not attached under this epoch")]
    Epoch,
    #[error("the command's term is not its entry's")]
    Term,
    #[error("an event below the trim point is unsettled")]
    Unsettled,
    #[error("the numbers do not add up")]
    Accounting,
    #[error("the position moved back or past the end")]
    Position,
    #[error("the filter is too large, or too many earlier filters are still needed")]
    Filter,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open partition {partition}")]
    Group {
        partition: PartitionId,
        #[source]
        source: fanfare_raft::OpenError,
    },
    #[error("open the log of partition {partition}")]
    Log {
        partition: PartitionId,
        #[source]
        source: fanfare_log::OpenError,
    },
}

/// Why persisted bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the bytes end early")]
    Short,
    #[error("bytes are left over")]
    Trailing,
    #[error("{what} of version {version} is newer than this program")]
    Version { what: &'static str, version: u16 },
    #[error("{0} has no such value")]
    Value(&'static str),
    #[error("the checksum does not match")]
    Checksum,
}
