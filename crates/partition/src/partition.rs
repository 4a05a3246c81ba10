//! The handle: one partition of this node as the rest of Fanfare sees it.

pub(crate) mod open;

use std::{ops::Range, sync::Arc};

use fanfare_log::Payload;
use fanfare_model::{AccountId, EventIdHash, Offset, PartitionId, StartAt, SubscriptionId, Timestamp};
use fanfare_raft::{Group, Proposal, ProposeError, Role};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Advance, AppendError, Attach, Attachment, CommandError, Counters, CursorRecord, DeliveryState, ReadChunk,
    ReadError, Reason, RecordBatch, Refusal, StoredEvent,
    admission::Admission,
    command::{self, Command, Start},
    entry::EntryBuilder,
    lane::{AppendOrder, OrderToken},
    machine::Machine,
    reader::{AccountFilter, Reader},
    retention::Retention,
    stamp::Stamp,
    state::Reply,
    writer::{Promise, Request, role_error},
};

/// How long a stop waits for entries under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct PartitionOptions {
    /// Events older than this go, a whole segment at a time.
    pub retention_ms: u64,
    /// The oldest segments go while the log is larger.
    pub retention_bytes: u64,
    pub segment_bytes: u64,
    /// Batches are gathered into one entry up to this size; a larger batch is an entry alone.
    pub entry_bytes_max: u32,
    /// Of batches taken and not yet answered.
    pub queue_bytes_max: u64,
    pub dedup_window_ms: u64,
    /// Memory for the dedup window, which is cut short if this is too little.
    pub dedup_bytes_max: u64,
    pub checkpoint_interval_ms: u64,
}

/// Positions readers care about. `log_start..high_watermark` is readable; `log_start <= frontier <= high_watermark`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub frontier: Offset,
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

/// Resolves when the batch is committed (or refused). Dropping it does not cancel the append.
pub struct PendingAppend {
    partition: PartitionId,
    outcome: oneshot::Receiver<Result<Appended, AppendError>>,
}

impl PendingAppend {
    /// # Errors
    /// See [`AppendError`]; only [`AppendError::Unknown`] leaves it open whether the batch is committed.
    pub async fn committed(self) -> Result<Appended, AppendError> {
        let unknown = AppendError::Unknown { partition: self.partition };
        self.outcome.await.unwrap_or(Err(unknown))
    }
}

/// One partition of this node. Cheap to clone.
#[derive(Clone)]
pub struct Partition {
    id: PartitionId,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Live(Arc<Live>),
    /// Its log is corrupt: nothing is cut, nothing is taken.
    Dead(Arc<Dead>),
}

struct Live {
    group: Group<Machine>,
    role: watch::Receiver<Role>,
    positions: watch::Receiver<Positions>,
    inbox: mpsc::Sender<Request>,
    admission: Arc<Admission>,
    reader: Reader,
    stamp: Arc<Stamp>,
    retention: Retention,
    stop: CancellationToken,
    writer_finished: CancellationToken,
}

struct Dead {
    what: String,
    offsets: Range<Offset>,
    role: watch::Sender<Role>,
    positions: watch::Sender<Positions>,
}

impl Partition {
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Leadership of this partition on this node.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        match &self.kind {
            Kind::Live(live) => live.role.clone(),
            Kind::Dead(dead) => dead.role.subscribe(),
        }
    }

    /// Changes once per run of applied entries.
    #[must_use]
    pub fn positions(&self) -> watch::Receiver<Positions> {
        match &self.kind {
            Kind::Live(live) => live.positions.clone(),
            Kind::Dead(dead) => dead.positions.subscribe(),
        }
    }

    /// Hands the batch over in call order of the caller's task and returns once it is queued; the receipt resolves when
    /// it is committed. A batch may be larger than an entry; it is then an entry alone.
    ///
    /// # Errors
    /// If it is certainly not appended: overload, no leader here, a full disk, or a stopped partition.
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn append(&self, batch: RecordBatch) -> Result<PendingAppend, AppendError> {
        self.queue(batch, None)
    }

    /// As [`Self::append`], and never before what was handed over earlier in `lane`; a lane is for one partition.
    ///
    /// # Errors
    /// As [`Self::append`], or [`AppendError::EarlierFailed`].
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn append_in_order(
        &self,
        lane: &mut AppendOrder,
        batch: RecordBatch,
    ) -> Result<PendingAppend, AppendError> {
        if !lane.is_open() {
            return Err(AppendError::EarlierFailed { partition: self.id });
        }
        let queued = self.queue(batch, Some(lane.ticket()));
        if queued.as_ref().is_err_and(AppendError::is_retryable) {
            lane.refuse();
        }
        queued
    }

    fn queue(&self, batch: RecordBatch, lane: Option<OrderToken>) -> Result<PendingAppend, AppendError> {
        assert!(!batch.is_empty(), "a batch holds at least one event");
        let partition = self.id;
        let live =
            self.live().map_err(|dead| AppendError::Damaged { partition, offsets: dead.offsets.clone() })?;
        let role = *live.role.borrow();
        if !matches!(role, Role::Leader { .. }) {
            let damaged = live.reader.lost_of_a_failed_group();
            return Err(damaged.map_or_else(
                || role_error(partition, role),
                |offsets| AppendError::Damaged { partition, offsets },
            ));
        }
        let overloaded = |retry_after_ms| AppendError::Overloaded { partition, retry_after_ms };
        let bytes = EntryBuilder::cost(&batch) as u64;
        let admitted = live.admission.admit(bytes).map_err(|error| overloaded(error.retry_after_ms))?;
        let (promise, outcome) = oneshot::channel();
        match live.inbox.try_send(Request { batch, admitted, promise: Promise { lane, outcome: promise } }) {
            Ok(()) => Ok(PendingAppend { partition, outcome }),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(overloaded(live.admission.overloaded().retry_after_ms))
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

    /// Why nothing that is committed from here on will ever be read, if that is so: its log cannot be opened or
    /// applied.
    #[must_use]
    pub fn damage(&self) -> Option<ReadError> {
        let live = match self.readable() {
            Ok(live) => live,
            Err(damage) => return Some(damage),
        };
        (*live.role.borrow() == Role::Failed).then(|| live.reader.failed())
    }

    /// First offset appended at or after `time`, clamped to log start and high watermark.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadError> {
        self.readable()?.reader.offset_at(time).await
    }

    /// Finds an event of the account by identity hash, newest first, within the log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn find(&self, account: AccountId, id: EventIdHash) -> Result<Option<StoredEvent>, ReadError> {
        self.readable()?.reader.find(account, id).await
    }

    /// See [`Attach`]; resolved when applied.
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

    /// Pending events are counted cancelled with this reason. Detaching what is not attached is fine.
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

    /// Lets the log start at the end of the last entry that ends at or below `to`. Answers where the log starts now.
    ///
    /// # Errors
    /// [`Refusal::Unsettled`] while any subscription has something unsettled below; [`Refusal::Position`] above the
    /// high watermark.
    pub async fn trim(&self, term: u64, to: Offset) -> Result<Offset, CommandError> {
        let live = self.live().map_err(|_| self.stopped())?;
        let Positions { log_start, high_watermark, .. } =
            live.group.read(|machine| machine.state.positions());
        if to > high_watermark {
            return Err(CommandError::Refused(Refusal::Position));
        }
        if to <= log_start {
            return Ok(log_start);
        }
        let end = live.reader.entry_end(to).await.map_err(|error| {
            tracing::error!(partition = %self.id, %error, "look for the end of an entry to trim to");
            self.stopped()
        })?;
        let Some((to, position)) = end else { return Ok(log_start) };
        match self.command(Some(term), &Command::Trim { term, to, position }).await? {
            Reply::Trimmed(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Where retention wants the log to start now (an entry's end at a segment border); None if nothing is due. Settling
    /// below it comes first.
    #[must_use]
    pub fn trim_target(&self) -> Option<Offset> {
        let live = self.live().ok()?;
        let now = live.stamp.now();
        let segments = live.group.log().segments();
        let (positions, keep_from) =
            live.group.read(|machine| (machine.state.positions(), machine.state.dedup().start(now)));
        let target = live.retention.target(&segments, now, positions.log_start, keep_from);
        target.map(|target| target.min(positions.high_watermark))
    }

    /// What may still be appended before the oldest leaves the log for its size; None of one that takes nothing.
    #[must_use]
    pub fn remaining_bytes(&self) -> Option<u64> {
        let live = self.live().ok()?;
        let kept_bytes = live.group.log().segments().iter().map(|segment| segment.bytes).sum();
        Some(live.retention.bytes_max.saturating_sub(kept_bytes))
    }

    /// How far back from the last append, in milliseconds, every repeated identity is noticed, if memory is too small
    /// for the configured window.
    #[must_use]
    pub fn dedup_shortened_ms(&self) -> Option<u64> {
        self.live().ok()?.group.read(|machine| machine.state.dedup().shortened_ms())
    }

    #[must_use]
    pub fn delivery_state(&self) -> DeliveryState {
        self.live().map(|live| live.group.read(|machine| machine.state.delivery_state())).unwrap_or_default()
    }

    #[must_use]
    pub fn attachment(&self, subscription: SubscriptionId) -> Option<Attachment> {
        self.live().ok()?.group.read(|machine| machine.state.attachment(subscription))
    }

    /// Also of lately detached subscriptions.
    #[must_use]
    pub fn counters(&self, subscription: SubscriptionId) -> Option<(Counters, Option<CursorRecord>)> {
        self.live().ok()?.group.read(|machine| machine.state.counters(subscription))
    }

    /// Takes nothing more, answers what is under way, writes a checkpoint and stops the group.
    pub async fn shutdown(&self) {
        let Ok(live) = self.live() else { return };
        live.stop.cancel();
        if timeout(STOP_TIMEOUT, live.writer_finished.cancelled()).await.is_err() {
            tracing::error!(partition = %self.id, "entries under way did not end in time; their outcome is unknown");
        }
        live.group.shutdown().await;
    }

    /// Proposes a command in `term` (the current one if none) and waits until it is applied.
    async fn command(&self, term: Option<u64>, command: &Command) -> Result<Reply, CommandError> {
        let live = self.live().map_err(|_| self.stopped())?;
        let term = match (term, *live.role.borrow()) {
            (Some(term), _) | (None, Role::Leader { term }) => term,
            (None, Role::Failed) => return Err(self.stopped()),
            (None, Role::Unknown | Role::Follower { .. }) => return Err(self.not_leader()),
        };
        let previous = live.group.read(|machine| machine.state.last_time());
        let payload = Payload::new(vec![command.encode().into()]);
        let time_ms = live.stamp.next(previous).0;
        let proposal = Proposal { kind: command::KIND, count: 0, time_ms, payload };
        let pending = live.group.propose(term, proposal).await.map_err(|error| match error {
            ProposeError::NotLeader { .. } | ProposeError::TermEnded => self.not_leader(),
            ProposeError::Unknown => CommandError::Unknown,
            ProposeError::Stopped => self.stopped(),
        })?;
        let applied = pending.applied().await.map_err(|error| match error {
            ProposeError::NotLeader { .. } | ProposeError::TermEnded => self.not_leader(),
            ProposeError::Unknown | ProposeError::Stopped => CommandError::Unknown,
        })?;
        Ok(applied.reply)
    }

    fn live(&self) -> Result<&Live, &Dead> {
        match &self.kind {
            Kind::Live(live) => Ok(live),
            Kind::Dead(dead) => Err(dead),
        }
    }

    fn readable(&self) -> Result<&Live, ReadError> {
        self.live().map_err(|dead| ReadError::DataLoss {
            partition: self.id,
            detail: dead.what.clone(),
            offsets: dead.offsets.clone(),
        })
    }

    fn stopped(&self) -> CommandError {
        CommandError::Stopped { partition: self.id }
    }

    fn not_leader(&self) -> CommandError {
        CommandError::NotLeader { partition: self.id }
    }
}

fn unreachable_reply(reply: &Reply) -> ! {
    panic!("a command was answered with the reply of another kind: {reply:?}")
}

#[cfg(test)]
mod tests;
