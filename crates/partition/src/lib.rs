//! One replicated log of events as the rest of Fanfare sees it: append, read, watch the high watermark, settle.
//!
//! Owns the formats of entries, commands and checkpoints, the pure state machine over them, and the one task that
//! writes. It delivers nothing, parses no event, and never says that anything is committed before it is applied.

mod batch;
mod cursor;
mod error;
mod lane;
mod loss;
mod partition;

mod admission;
mod codec;
mod command;
mod entry;
mod writer;

mod dedup;
mod machine;
mod state;

mod reader;
mod retention;
mod stamp;
mod tags;

/// Leadership of a partition on this node.
pub use fanfare_raft::Role;

pub(crate) use self::error::CodecError;
pub use self::{
    batch::{RecordBatch, RecordBatchBuilder, RecordHeader, StoredBatch, StoredEvent},
    cursor::{
        Advance, Attach, AttachedFilter, Attachment, Counters, CursorAdvance, CursorRecord, DeliveryState,
        Outcome, ParkedKey, Reason,
    },
    error::{AppendError, CommandError, OpenError, ReadError, Refusal},
    lane::AppendOrder,
    loss::{DamageReport, DamagedRange, accept_loss, survey_damage},
    partition::{Appended, Partition, PartitionOptions, PendingAppend, Positions, open::log_name},
    reader::{AccountFilter, ReadChunk},
    stamp::Clock,
};
