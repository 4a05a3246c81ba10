//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::{collections::BTreeMap, sync::Arc};
use bytes::Bytes;
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, PartitionId, StartAt, SubscriptionId, Timestamp};
use tokio::sync::watch;

mod contract {
use super::*;

/// One event's line in a batch's header, computed by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader { pub id: EventIdHash, pub key: KeyHash, /// `model::body_checksum` of the event's bytes
    pub checksum: u32, pub length: u32 }

/// Events of one account for one partition; bytes are the producer's. Body: per event a varint length, then the bytes.
#[derive(Clone, Debug)]
pub struct RecordBatch { pub account: AccountId, pub shard_epoch: u32, records: Vec<RecordHeader>, body: Bytes }
/// Collects a batch.
pub struct RecordBatchBuilder { }
impl RecordBatchBuilder {
    pub fn new(account: AccountId, shard_epoch: u32) -> Self { let _ = (account, shard_epoch); todo!() }
    /// Identity and key are computed by the caller once (model::Event::{id_hash, key_hash}).
    pub fn push(&mut self, event: &[u8], id: EventIdHash, key: KeyHash) { let _ = (event, id, key); todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn size_bytes(&self) -> usize { todo!() }
    pub fn finish(self) -> RecordBatch { todo!() }
}
impl RecordBatch { pub fn len(&self) -> usize { self.records.len() } pub fn is_empty(&self) -> bool { self.records.is_empty() } pub fn size_bytes(&self) -> usize { self.body.len() } }

/// Committed events of one account at consecutive offsets from `base`, as read from the log.
#[derive(Clone, Debug)]
pub struct StoredBatch { pub account: AccountId, pub base: Offset, pub append_time: Timestamp, records: Arc<[RecordHeader]>, body: Bytes }
/// One committed event.
#[derive(Clone, Debug)]
pub struct StoredEvent { pub offset: Offset, pub append_time: Timestamp, pub header: RecordHeader, /// shares the batch's memory
    pub bytes: Bytes }
impl StoredBatch {
    pub fn len(&self) -> usize { self.records.len() }
    pub fn is_empty(&self) -> bool { self.records.is_empty() }
    pub fn end(&self) -> Offset { self.base.plus(self.records.len() as u64) }
    pub fn headers(&self) -> &[RecordHeader] { &self.records }
    pub fn events(&self) -> impl Iterator<Item = StoredEvent> + '_ { std::iter::empty() }
}

/// What became of an append, in the order of the batch's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first newly committed event; events not listed below follow at consecutive offsets.
    pub base: Offset,
    /// (index in the batch, offset of the first commit) of events whose identity was committed before.
    pub duplicates: Vec<(u32, Offset)>,
    /// (index in the batch, offset of the other) of events whose identity was committed with another body. Not appended.
    pub conflicts: Vec<(u32, Offset)>,
}
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Too many bytes wait for this partition. Not appended; retry later.
    #[error("partition {partition} is overloaded")] Overloaded { partition: PartitionId, retry_after_ms: u64 },
    /// Not appended.
    #[error("partition {partition} has no leader here")] NotLeader { partition: PartitionId, leader: Option<u64> },
    /// The account's shard moved; not appended. Route again.
    #[error("partition {partition} no longer takes events of this account")] Sealed { partition: PartitionId },
    /// May or may not be committed: repeat with the same ids.
    #[error("the outcome at partition {partition} is unknown")] Unknown { partition: PartitionId },
    /// The disk is full or below its reserve; not appended.
    #[error("partition {partition} has no disk space left")] DiskFull { partition: PartitionId },
    #[error("partition {partition} has stopped")] Stopped { partition: PartitionId },
}
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {asked} is below the start of the log, {log_start}")] OutOfRange { asked: Offset, log_start: Offset },
    #[error("partition {partition}: data is lost: {what}")] DataLoss { partition: PartitionId, what: String },
}
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    #[error("partition {partition} has no leader here")] NotLeader { partition: PartitionId },
    #[error("the outcome is unknown")] Unknown,
    /// Refused by the state machine; nothing changed.
    #[error("refused: {0}")] Refused(Refusal),
    #[error("partition {partition} has stopped")] Stopped { partition: PartitionId },
}
/// Why the state machine refused a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the subscription is not attached under this epoch")] Epoch,
    #[error("the command's term is not its entry's")] Term,
    #[error("an event below the trim point is unsettled")] Unsettled,
    #[error("the numbers do not add up")] Accounting,
    #[error("the position moved back or past the end")] Position,
}

/// Positions readers care about. log_start..high_watermark is readable; frontier <= high_watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions { pub log_start: Offset, pub high_watermark: Offset, pub frontier: Offset }

/// Leadership of this partition on this node; see fanfare_raft::Role.
pub use fanfare_raft::Role;

/// A subscription as this partition knows it: set by Attach in the partition's own log, effective at `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment { pub subscription: SubscriptionId, pub account: AccountId, pub epoch: u64, pub spec_revision: u64, /// events at or above it are matched
    pub from: Offset, /// Where the current spec revision took effect. Pending events below it were matched and counted under an
    /// older revision: what no longer matches when it is read again is settled as Cancelled, never skipped.
    pub spec_from: Offset, /// None: the fan-out matches it, and everything of from..frontier is matched and counted.
    /// Some(m): it started in the past (Earliest, Time) and catches up by its own reading: only from..m is matched and
    /// counted. The fan-out leaves it out until a `CursorAdvance` takes it to the new frontier exactly; then it is None.
    pub matched_to: Option<Offset> }
#[derive(Clone, Debug)]
pub struct Attach { pub subscription: SubscriptionId, pub account: AccountId, pub epoch: u64, pub spec_revision: u64, pub start: StartAt }

/// What is unsettled of one subscription below the frontier. No record = nothing pending.
/// Pending = `window` + every matching event in read_to..frontier (read_to..attachment.matched_to while catching up) + of each parked key every matching event from its
/// `from` to read_to. Lists are sorted and bounded by the delivery window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorRecord { /// exclusive end of what was read into the window or parked; <= frontier (<= matched_to while catching up); never moves back
    pub read_to: Offset, /// unsettled offsets below read_to that belong to no parked key, strictly ascending
    pub window: Vec<Offset>, /// ascending by key hash
    pub parked: Vec<ParkedKey> }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedKey { pub key: KeyHash, /// the failing event; all of the key's events from here are pending
    pub from: Offset, /// made so far for the event at `from`
    pub attempts: u32, /// remaining when this was written
    pub retry_in_ms: u64, /// matching events of this key from `from` to read_to, inclusive of the failing one
    pub pending: u64 }

/// How a matched event was settled. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome { Delivered, DeadLettered(Reason), Expired(Reason), Cancelled(Reason) }
/// Why an event was settled otherwise than by delivery. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason { SchemaVersion = 1, AttemptsExhausted = 2, Rejected = 3, Retention = 4, DeadLetterBudget = 5, Deleted = 6, Repointed = 7, TooLarge = 8 }
impl Reason {
    /// snake_case, as in the API and in metrics, e.g. schema_version.
    pub fn name(self) -> &'static str { todo!() }
}

/// Moves the frontier and cursors. One entry for all subscriptions of the partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance { /// >= the current frontier, <= the high watermark
    pub frontier: Offset, pub cursors: Vec<CursorAdvance> }
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorAdvance { pub subscription: SubscriptionId, pub epoch: u64, /// events newly matched: of old frontier..new frontier, or, catching up, of attachment.matched_to..matched_to
    pub matched: u64, /// None for a subscription that the fan-out matches (and for one catching up that counted nothing
    /// new). Some(m), m <= the new frontier, only for one catching up; m == the new frontier joins it to the fan-out.
    pub matched_to: Option<Offset>, pub settled: BTreeMap<Outcome, u64>, /// the whole new record; None = nothing pending
    pub record: Option<CursorRecord> }

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters { pub matched: u64, pub settled: BTreeMap<Outcome, u64> }
impl Counters { /// matched - settled
    pub fn pending(&self) -> u64 { self.matched - self.settled.values().sum::<u64>() } }

/// All that delivery needs to take over: read once when leadership begins.
#[derive(Clone, Debug, Default)]
pub struct DeliveryState { pub frontier: Offset, pub attachments: Vec<(Attachment, Option<CursorRecord>)> }

#[derive(Clone, Debug)]
pub struct PartitionOptions { pub retention_ms: u64, pub retention_bytes: u64, pub segment_bytes: u64, pub entry_bytes_max: u32, pub queue_bytes_max: u64, pub dedup_window_ms: u64, pub dedup_bytes_max: u64, pub checkpoint_interval_ms: u64 }

/// Wall clock of this node, injected.
pub trait Clock: Send + Sync + 'static { fn now(&self) -> Timestamp; }

#[derive(Debug, thiserror::Error)]
pub enum OpenError { #[error("open partition {partition}")] Group { partition: PartitionId, #[source] source: fanfare_raft::OpenError },
    #[error("open the log of partition {partition}")] Log { partition: PartitionId, #[source] source: fanfare_log::OpenError } }

/// One partition of this node. Cheap to clone.
#[derive(Clone)]
pub struct Partition { _inner: Arc<()> }
impl Partition {
    /// Opens or creates; a new partition of a node without peers makes itself its only voter. A corrupt log opens as a
    /// partition whose every call answers DataLoss (reads) or Stopped (writes), loudly; only resource errors fail.
    pub async fn open(id: PartitionId, store: fanfare_log::Store, options: PartitionOptions, clock: Arc<dyn Clock>, tasks: tokio_util::task::TaskTracker) -> Result<Self, OpenError> { let _ = (id, store, options, clock, tasks); todo!() }
    pub fn id(&self) -> PartitionId { todo!() }
    pub fn role(&self) -> watch::Receiver<Role> { todo!() }
    pub fn positions(&self) -> watch::Receiver<Positions> { todo!() }
    /// Hands the batch over in call order of the caller's task and returns once it is queued; the receipt resolves when
    /// it is committed. A batch may be larger than an entry; it is then an entry alone.
    pub async fn append(&self, batch: RecordBatch) -> Result<Receipt, AppendError> { let _ = batch; todo!() }
    /// Committed batches from `from`, in order, at least one if there is one, then up to `bytes_max` of body. The first may
    /// begin below `from`: it is cut. Empty at the high watermark. `account`: others' sections are skipped (cheaply).
    /// `next` is where to go on. Cold reads happen on blocking threads.
    pub async fn read(&self, from: Offset, account: Option<AccountId>, bytes_max: u64) -> Result<ReadChunk, ReadError> { let _ = (from, account, bytes_max); todo!() }
    /// First offset appended at or after `time`, clamped to log start and high watermark.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadError> { let _ = time; todo!() }
    /// Finds an event of the account by identity hash, newest first, within the log.
    pub async fn find(&self, account: AccountId, id: EventIdHash) -> Result<Option<StoredEvent>, ReadError> { let _ = (account, id); todo!() }

    // commands: replicated, resolved when applied
    pub async fn attach(&self, attach: Attach) -> Result<Attachment, CommandError> { let _ = attach; todo!() }
    /// Pending events are counted cancelled with this reason. Detaching what is not attached is fine.
    pub async fn detach(&self, subscription: SubscriptionId, epoch: u64, reason: Reason) -> Result<(), CommandError> { let _ = (subscription, epoch, reason); todo!() }
    pub async fn advance(&self, term: u64, advance: Advance) -> Result<(), CommandError> { let _ = (term, advance); todo!() }
    pub async fn trim(&self, term: u64, to: Offset) -> Result<Offset, CommandError> { let _ = (term, to); todo!() }
    /// Where retention wants the log to start now (an entry's end at a segment border); None if nothing is due. Settling below it comes first.
    pub fn trim_target(&self) -> Option<Offset> { todo!() }

    // views
    pub fn delivery_state(&self) -> DeliveryState { todo!() }
    /// Bumped at every applied attach or detach; take `delivery_state` again.
    pub fn attachments_changed(&self) -> watch::Receiver<u64> { todo!() }
    pub fn attachment(&self, subscription: SubscriptionId) -> Option<Attachment> { let _ = subscription; todo!() }
    pub fn counters(&self, subscription: SubscriptionId) -> Option<(Counters, Option<CursorRecord>)> { let _ = subscription; todo!() }
    pub async fn shutdown(&self) { todo!() }
}
/// Committed batches and where to go on.
#[derive(Clone, Debug)]
pub struct ReadChunk { pub batches: Vec<StoredBatch>, pub next: Offset }
/// Resolves when the batch is committed (or refused).
pub struct Receipt { _inner: () }
impl Receipt { pub async fn committed(self) -> Result<Appended, AppendError> { todo!() } }
}
pub use contract::*;
