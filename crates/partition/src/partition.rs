//! The handle: one partition of this node as the rest of Fanfare sees it.

pub(crate) mod open;
pub(crate) mod redrives;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fanfare_log::Payload;
use fanfare_model::{AccountId, EventIdHash, Offset, PartitionId, StartAt, SubscriptionId, Timestamp};
use fanfare_raft::{Group, LeaderLease, Proposal, ProposeError, Role};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Advance, AppendError, Attach, Attachment, CommandError, Counters, CursorRecord, DeliveryState,
    PendingAppend, Positions, Quota, ReadChunk, ReadError, Reason, RecordBatch, Refusal, StoredEvent,
    admission::Admission,
    append_clock::AppendClock,
    append_order::{AppendOrder, OrderToken},
    command::{self, Command, Start},
    entry::EntryBuilder,
    machine::Machine,
    reader::{AccountFilter, Reader},
    retention_policy::{KeptEvents, RetentionPolicy},
    state::Reply,
    writer::{Request, role_error},
};

/// Longest wait of a shutdown for the entries in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct PartitionOptions {
    /// Age of events from which they are removed, a whole segment at a time.
    pub retention_ms: u64,
    /// Size of the log above which its oldest segments are removed.
    pub retention_bytes: u64,
    pub segment_bytes: u64,
    /// Batches are collected into one entry up to this size; a larger batch is an entry alone.
    pub entry_bytes_max: u32,
    pub dedup_window_ms: u64,
    pub checkpoint_interval_ms: u64,
    /// Limits of retained bytes; only of a stream whose bytes are counted.
    pub quota: Option<Quota>,
}

/// One partition of this node. Cheap to clone.
#[derive(Clone)]
pub struct Partition {
    id: PartitionId,
    backing: Backing,
}

#[derive(Clone)]
enum Backing {
    Open(Arc<OpenPartition>),
    /// Its log is damaged: nothing was cut, and the partition takes nothing.
    Unavailable(Arc<UnavailablePartition>),
}

struct OpenPartition {
    group: Group<Machine>,
    role: watch::Receiver<Role>,
    positions: watch::Receiver<Positions>,
    inbox: mpsc::Sender<Request>,
    admission: Arc<Admission>,
    reader: Reader,
    append_clock: Arc<AppendClock>,
    retention: RetentionPolicy,
    quota: Option<Quota>,
    /// Accounts are held to their shares: shared with the writer.
    holds_shares: Arc<AtomicBool>,
    stop: CancellationToken,
    writer_finished: CancellationToken,
}

impl OpenPartition {
    fn decide_trim(&self, protected: Option<Offset>) -> Option<Offset> {
        let now = self.append_clock.now_for_age(self.retention.age_ms);
        let segments = self.group.log().segments();
        let (positions, dedup) =
            self.group.read(|machine| (machine.positions(), machine.dedup().first_offset(now)));
        let target = |protected| {
            self.retention.target(&segments, now, positions.log_start, KeptEvents { dedup, protected })
        };
        let decided = target(protected);
        self.holds_shares.store(decided != target(None), Ordering::Relaxed);
        decided.map(|target| target.min(positions.high_watermark))
    }

    fn is_over_share(&self, account: AccountId) -> bool {
        let Some(Quota::Share { account_bytes_max }) = self.quota else { return false };
        self.group.read(|machine| machine.usage(account)).account_bytes > account_bytes_max
    }
}

struct UnavailablePartition {
    detail: String,
    /// Damaged offsets; empty if they are unknown.
    offsets: Range<Offset>,
    role: watch::Sender<Role>,
    positions: watch::Sender<Positions>,
}

impl Partition {
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Age at which events may leave the log, in milliseconds; none while the partition is unavailable.
    #[must_use]
    pub fn retention_ms(&self) -> Option<u64> {
        self.open_backing().ok().map(|open| open.retention.age_ms)
    }

    /// True if both are handles of one open replica: a partition that was closed and opened again is another one.
    #[must_use]
    pub fn is_same_replica(&self, other: &Self) -> bool {
        self.role().same_channel(&other.role())
    }

    /// Leadership of this partition on this node.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        match &self.backing {
            Backing::Open(open) => open.role.clone(),
            Backing::Unavailable(unavailable) => unavailable.role.subscribe(),
        }
    }

    /// The lease to look at right before each action of a leader. None if the partition is unavailable.
    #[must_use]
    pub fn lease(&self) -> Option<LeaderLease> {
        self.open_backing().ok().map(|open| open.group.lease())
    }

    /// Positions; they change once per run of applied entries.
    #[must_use]
    pub fn positions(&self) -> watch::Receiver<Positions> {
        match &self.backing {
            Backing::Open(open) => open.positions.clone(),
            Backing::Unavailable(unavailable) => unavailable.positions.subscribe(),
        }
    }

    /// Queues the batch. Batches of one calling task are committed in call order. A batch larger than an entry is an
    /// entry alone.
    ///
    /// # Errors
    /// If the batch is certainly not appended: overload, no leader here, or a stopped or damaged partition.
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn append(&self, batch: RecordBatch) -> Result<PendingAppend, AppendError> {
        self.queue(batch, None)
    }

    /// As [`Self::append`], and never committed without the appends handed over earlier in `order`. An order is for one
    /// partition.
    ///
    /// # Errors
    /// As [`Self::append`], or [`AppendError::EarlierFailed`].
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn append_in_order(
        &self,
        order: &mut AppendOrder,
        batch: RecordBatch,
    ) -> Result<PendingAppend, AppendError> {
        if !order.is_open() {
            return Err(AppendError::EarlierFailed { partition: self.id });
        }
        let queued = self.queue(batch, Some(order.token()));
        if queued.as_ref().is_err_and(AppendError::is_retryable) {
            order.refuse();
        }
        queued
    }

    fn queue(&self, batch: RecordBatch, order: Option<OrderToken>) -> Result<PendingAppend, AppendError> {
        assert!(!batch.is_empty(), "a batch holds at least one event");
        let partition = self.id;
        let open = self.open_backing().map_err(|unavailable| AppendError::Damaged {
            partition,
            offsets: unavailable.offsets.clone(),
        })?;
        let role = *open.role.borrow();
        if !matches!(role, Role::Leader { .. }) {
            let damaged = open.reader.unapplied_offsets();
            return Err(damaged.map_or_else(
                || role_error(partition, role),
                |offsets| AppendError::Damaged { partition, offsets },
            ));
        }
        let overloaded = |retry_after_ms| AppendError::Overloaded { partition, retry_after_ms };
        let bytes = EntryBuilder::cost(&batch) as u64;
        let permit = open.admission.admit(bytes).map_err(|error| overloaded(error.retry_after_ms))?;
        let (completion, pending) = PendingAppend::new(partition, order);
        match open.inbox.try_send(Request { batch, permit, completion }) {
            Ok(()) => Ok(pending),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(overloaded(open.admission.overloaded().retry_after_ms))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(AppendError::Stopped { partition }),
        }
    }

    /// Reads committed batches of the filtered accounts from `from` on, in offset order, up to `bytes_max` of body but at
    /// least one batch. A batch that begins below `from` is cut there. `next` is the offset to continue from; at the high
    /// watermark the chunk is empty. With [`AccountFilter::Set`] a chunk may be empty below it, too. Sections of other
    /// accounts are skipped cheaply; reads from disk run on blocking threads.
    ///
    /// # Errors
    /// If `from` is below the start of the log, or the log cannot be read there.
    pub async fn read(
        &self,
        from: Offset,
        accounts: AccountFilter,
        bytes_max: u64,
    ) -> Result<ReadChunk, ReadError> {
        self.readable()?.reader.read(from, accounts, bytes_max).await
    }

    /// The error of all later reads, if the log could not be opened or can no longer be applied.
    #[must_use]
    pub fn damage(&self) -> Option<ReadError> {
        let open = match self.readable() {
            Ok(open) => open,
            Err(damage) => return Some(damage),
        };
        (*open.role.borrow() == Role::Failed).then(|| open.reader.group_failure())
    }

    /// The time that an event appended now would get: the clock of the append times, which ages are measured by. Zero of an
    /// unavailable partition.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let Ok(open) = self.open_backing() else { return Timestamp(0) };
        open.append_clock.next(open.group.read(Machine::last_time))
    }

    /// First offset appended at or after `time`, clamped to log start and high watermark.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadError> {
        self.readable()?.reader.offset_at(time).await
    }

    /// The newest event of the account with this identity hash in the log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn find(&self, account: AccountId, id: EventIdHash) -> Result<Option<StoredEvent>, ReadError> {
        self.readable()?.reader.find(account, id).await
    }

    /// Attaches a subscription or changes its filter; see [`Attach`]. Returns when the command is applied.
    ///
    /// # Errors
    /// If this node does not lead, an epoch above this one was attached before, the filter cannot be kept, or the start
    /// is a time at which the log cannot be read.
    pub async fn attach(&self, attach: Attach) -> Result<Attachment, CommandError> {
        let Attach { subscription, account, epoch, filter_revision, filter, start } = attach;
        let start = match start {
            StartAt::Next => Start::Next,
            StartAt::Earliest => Start::Earliest,
            StartAt::Time(time) => Start::Time { time, offset: self.offset_at(time).await? },
        };
        let command = Command::Attach { subscription, account, epoch, filter_revision, filter, start };
        match self.command(None, &command).await? {
            Reply::Attached(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Detaches a subscription; its pending events are settled as cancelled with this reason. Detaching one that is not
    /// attached changes nothing.
    ///
    /// # Errors
    /// If this node does not lead, or a higher epoch is attached.
    pub async fn detach(
        &self,
        subscription: SubscriptionId,
        epoch: u64,
        reason: Reason,
    ) -> Result<(), CommandError> {
        match self.command(None, &Command::Detach { subscription, epoch, reason }).await? {
            Reply::Detached(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Moves the frontier and cursors; see [`Advance`].
    ///
    /// # Errors
    /// If `term` is over, or the advance is refused: then nothing of it took effect.
    pub async fn advance(&self, term: u64, advance: Advance) -> Result<(), CommandError> {
        match self.command(Some(term), &Command::Advance { term, advance }).await? {
            Reply::Advanced(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Moves the start of the log to the end of the last entry that ends at or below `to`. Returns the new start.
    ///
    /// # Errors
    /// [`Refusal::Unsettled`] while any subscription has something unsettled below; [`Refusal::Position`] above the
    /// high watermark.
    pub async fn trim(&self, term: u64, to: Offset) -> Result<Offset, CommandError> {
        let open = self.open_backing().map_err(|_| self.stopped())?;
        let Positions { log_start, high_watermark, .. } = open.group.read(Machine::positions);
        if to > high_watermark {
            return Err(CommandError::Refused(Refusal::Position));
        }
        if to <= log_start {
            return Ok(log_start);
        }
        let end = open.reader.entry_end(to).await.map_err(|error| {
            tracing::error!(partition = %self.id, %to, %error, "failed to find an entry to trim to; the log is not trimmed");
            self.stopped()
        })?;
        let Some((to, position)) = end else { return Ok(log_start) };
        match self.command(Some(term), &Command::Trim { term, to, position }).await? {
            Reply::Trimmed(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// The log start that retention asks for (an entry's end at a segment border); None if nothing is due. Events below it
    /// must be settled before the trim. Events from `protected` on stay as long as they are not too old and the log is
    /// less than a quarter over its size; while they hold back the trim, accounts over their share are refused.
    #[must_use]
    pub fn decide_trim(&self, protected: Option<Offset>) -> Option<Offset> {
        self.open_backing().ok()?.decide_trim(protected)
    }

    /// The account's events take more than its share of the log, if there are shares.
    #[must_use]
    pub fn is_over_share(&self, account: AccountId) -> bool {
        self.open_backing().is_ok_and(|open| open.is_over_share(account))
    }

    /// Length of the dedup window in milliseconds, if memory is too small for the configured one.
    #[must_use]
    pub fn dedup_shortened_ms(&self) -> Option<u64> {
        self.open_backing().ok()?.group.read(|machine| machine.dedup().shortened_ms())
    }

    /// The state that delivery begins from when it takes over; empty of an unavailable partition.
    #[must_use]
    pub fn delivery_state(&self) -> DeliveryState {
        self.open_backing()
            .map(|open| open.group.read(|machine| machine.state().delivery_state()))
            .unwrap_or_default()
    }

    #[must_use]
    pub fn attachment(&self, subscription: SubscriptionId) -> Option<Attachment> {
        self.open_backing().ok()?.group.read(|machine| machine.state().attachment(subscription))
    }

    /// Counters of an attached or lately detached subscription.
    #[must_use]
    pub fn counters(&self, subscription: SubscriptionId) -> Option<Counters> {
        self.open_backing().ok()?.group.read(|machine| machine.state().counters(subscription))
    }

    /// Counters of an attached subscription and its cursor of the same moment; no cursor if nothing is pending.
    #[must_use]
    pub fn progress(&self, subscription: SubscriptionId) -> Option<(Counters, Option<CursorRecord>)> {
        self.open_backing().ok()?.group.read(|machine| machine.state().progress(subscription))
    }

    /// Refuses further appends, resolves those in flight, writes a checkpoint and stops the group.
    pub async fn shutdown(&self) {
        let Ok(open) = self.open_backing() else { return };
        open.stop.cancel();
        if timeout(STOP_TIMEOUT, open.writer_finished.cancelled()).await.is_err() {
            tracing::error!(partition = %self.id, "entries in flight did not resolve in time; their outcome is unknown");
        }
        open.group.shutdown().await;
    }

    /// Proposes a command in `term` (the current one if none) and waits until it is applied. Within a given term it
    /// waits out an expired lease: whoever acts in that term pauses and goes on.
    async fn command(&self, term: Option<u64>, command: &Command) -> Result<Reply, CommandError> {
        let open = self.open_backing().map_err(|_| self.stopped())?;
        open.command(self.id, term, command).await
    }

    fn open_backing(&self) -> Result<&OpenPartition, &UnavailablePartition> {
        match &self.backing {
            Backing::Open(open) => Ok(open),
            Backing::Unavailable(unavailable) => Err(unavailable),
        }
    }

    fn readable(&self) -> Result<&OpenPartition, ReadError> {
        self.open_backing().map_err(|unavailable| ReadError::DataLoss {
            partition: self.id,
            detail: unavailable.detail.clone(),
            offsets: unavailable.offsets.clone(),
        })
    }

    fn stopped(&self) -> CommandError {
        CommandError::Stopped { partition: self.id }
    }
}

impl OpenPartition {
    async fn command(
        &self,
        partition: PartitionId,
        term: Option<u64>,
        command: &Command,
    ) -> Result<Reply, CommandError> {
        let term = self.command_term(term).await.map_err(|role| match role {
            Role::Failed => CommandError::Stopped { partition },
            _ => CommandError::NotLeader { partition },
        })?;
        let previous = self.group.read(|machine| machine.last_time());
        let payload = Payload::new(vec![command.encode().into()]);
        let time_ms = self.append_clock.next(previous).0;
        let proposal = Proposal { kind: command::KIND, count: 0, time_ms, payload };
        let pending = self.group.propose(term, proposal).await;
        let pending = pending.map_err(|error| command_error(partition, &error))?;
        let applied = pending.applied().await.map_err(|error| match error {
            // The command was handed over: a group that stops does not say how far it came.
            ProposeError::Stopped => CommandError::Unknown,
            other => command_error(partition, &other),
        })?;
        Ok(applied.reply)
    }

    /// The term to propose a command in: the given one when its lease is not expired, or the current one. The error is
    /// the role that has none.
    async fn command_term(&self, given: Option<u64>) -> Result<u64, Role> {
        let Some(term) = given else {
            let role = *self.role.borrow();
            return if let Role::Leader { term } = role { Ok(term) } else { Err(role) };
        };
        let (mut role, expired) = (self.role.clone(), Role::LeaseExpired { term });
        // A role that ends here ends the proposal as well.
        drop(role.wait_for(|role| *role != expired).await);
        Ok(term)
    }
}

fn command_error(partition: PartitionId, error: &ProposeError) -> CommandError {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::TermEnded | ProposeError::AboveFormat { .. } => {
            CommandError::NotLeader { partition }
        }
        ProposeError::Unknown => CommandError::Unknown,
        ProposeError::Stopped => CommandError::Stopped { partition },
    }
}

/// # Panics
/// Always: the state machine answers each command with the reply of its kind, in this process.
fn unreachable_reply(reply: &Reply) -> ! {
    panic!("invariant violation: a command was answered with the reply of another kind: {reply:?}")
}

#[cfg(test)]
mod tests;
