//! Errors by the caller's next step: repeat, route again, fix the request, or stop.

use std::ops::Range;

use fanfare_codec::Malformed;
use fanfare_model::{AccountId, Offset, PartitionId};

#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Too many bytes are queued for this partition. Not appended; repeat after `retry_after_ms`.
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
    /// The account's or the stream's retained bytes are at the quota; not appended. Room comes with retention.
    #[error(
        "partition {partition} is full, and account {account} keeps more in it than its share; publish again when older events have left"
    )]
    OverQuota { partition: PartitionId, account: AccountId },
    /// The disk is full or below its reserve; not appended.
    #[error(
        "partition {partition} takes no events: the disk is full, and the operator has to free some space"
    )]
    DiskFull { partition: PartitionId },
    #[error("partition {partition} has stopped")]
    Stopped { partition: PartitionId },
    /// Events at `offsets` cannot be read (an empty range: unknown ones). The partition takes no event until an operator
    /// has repaired it.
    #[error("partition {partition} is damaged{}: it takes no events until the operator has repaired it", offsets_lost(.offsets))]
    Damaged { partition: PartitionId, offsets: Range<Offset> },
}

impl AppendError {
    /// True if the same batch may be taken later, as it is; so may one with an unknown outcome.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. }
            | Self::NotLeader { .. }
            | Self::Unknown { .. }
            | Self::EarlierFailed { .. }
            | Self::DiskFull { .. } => true,
            Self::OverQuota { .. } | Self::Stopped { .. } | Self::Damaged { .. } => false,
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is below the start of the log, {log_start}")]
    OutOfRange { offset: Offset, log_start: Offset },
    /// CommittedEvent events at `offsets` cannot be read; an empty range means that the offsets are unknown. `detail` names
    /// files and is for the operator alone.
    #[error("partition {partition}: data is lost: {detail}")]
    DataLoss { partition: PartitionId, detail: String, offsets: Range<Offset> },
}

/// The offsets as part of a sentence; empty if they are unknown.
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
    /// The command depends on a part of the log that cannot be read; nothing changed.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    #[error("partition {partition} has stopped")]
    Stopped { partition: PartitionId },
}

/// The state machine's reason for refusing a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the subscription is not attached under this epoch")]
    Epoch,
    #[error("the command was proposed in another term than its entry's")]
    Term,
    #[error("an event below the trim point is unsettled")]
    Unsettled,
    #[error("the numbers do not add up")]
    Accounting,
    #[error("the position moved back or past the end")]
    Position,
    #[error("the filter is too large, or too many earlier filters are still needed")]
    Filter,
    #[error(
        "there is no such redrive that runs, another one of the subscription runs, or there are too many"
    )]
    Redrive,
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

/// The defect of persisted bytes that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The bytes end early, are too many, or hold something else than the format says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{what} of version {version}, and this program knows version {known}")]
    Version { what: &'static str, version: u16, known: u16 },
    #[error("{0} has no such value")]
    Value(&'static str),
    #[error("the checksum does not match")]
    Checksum,
}
