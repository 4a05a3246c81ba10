//! One replicated log of events as the rest of Fanfare sees it: append, read, watch the high watermark, settle.
//!
//! Owns the formats of entries, commands and checkpoints, the pure state machine over them, and the one task that
//! writes. It delivers nothing, parses no event, and acknowledges an event only after its entry is applied.

mod batch;
mod budgets;
mod cursor;
mod error;
mod partition;
mod positions;
mod quota;
mod redrive;
mod repair;

mod admission;
mod append_clock;
mod append_order;
mod command;
mod completion;
mod disk_space;
mod entry;
mod filler;
mod writer;

mod dedup;
mod machine;
mod state;

mod index_keys;
mod reader;
mod retention_policy;

/// Leadership of a partition on this node, and the members of its group.
pub use fanfare_raft::{LeaderLease, Member, Role};

pub(crate) use self::error::CodecError;
pub use self::{
    append_order::AppendOrder,
    batch::{RecordBatch, RecordBatchBuilder, RecordHeader, StoredBatch, StoredEvent},
    budgets::{Budgets, MemoryLimits},
    completion::{Appended, PendingAppend},
    cursor::{
        Advance, Attach, AttachedFilter, Attachment, Counters, CursorAdvance, CursorRecord, DeliveryState,
        OutageReason, Outcome, ParkedKey, Reason, RecordChange, SinkOutage,
    },
    error::{AppendError, CommandError, OpenError, ReadError, Refusal},
    partition::{
        Partition, PartitionOptions,
        open::{PartitionReplica, log_name},
        redrives::RedriveHandle,
    },
    positions::Positions,
    quota::Quota,
    reader::{AccountFilter, ReadChunk},
    redrive::{Redrive, RedriveKind, RedriveProgress, RedriveState, StartRedrive, Withdrawals},
    repair::{DamageReport, DamagedRange, accept_loss, survey_damage},
};
