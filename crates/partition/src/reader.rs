//! Reading committed events: never at or above the high watermark, never below the start of the log.
//!
//! The tail is answered from the log's cache without leaving the task; older events are read on a blocking thread.
//! Readers that follow accounts through older parts read one after another and share the frames they read.

mod account;
mod event_search;
mod read_cache;

use std::{collections::HashSet, ops::Range, sync::Arc};

use fanfare_environment::Environment;
use fanfare_log::Frame;
use fanfare_model::{AccountId, EventIdHash, Offset, PartitionId, Timestamp};
use fanfare_raft::{Group, GroupFailure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use self::event_search::EventSearch;
use self::{
    account::AccountFrames,
    read_cache::{FrameRange, Lookup, ReadCache},
};
use crate::{
    CodecError, Positions, ReadError, StoredBatch, StoredEvent,
    budgets::BudgetShare,
    entry::{self, Entry},
    filler,
    machine::{Machine, first_index},
};

/// Least payload read from the log at once: a reader of a small account skips the sections of others. A read of fewer
/// bytes looks up single events.
const READ_BYTES_MIN: u64 = 256 << 10;
/// Payload read at once for all readers that follow an account.
const SHARED_BYTES: u64 = 1 << 20;

/// Committed batches and the offset to continue from.
#[derive(Clone, Debug)]
pub struct ReadChunk {
    pub batches: Vec<StoredBatch>,
    pub next: Offset,
}

pub(crate) struct Reader {
    parts: ReaderParts,
    group: Group<Machine>,
    /// One search of the whole log at a time, abandoned searches that have not ended yet included.
    search_permits: Arc<Semaphore>,
    pub(crate) read_cache: ReadCache,
    /// Held while the read cache is filled from disk.
    pub(crate) fill_lock: Semaphore,
}

pub(crate) struct ReaderParts {
    pub(crate) id: PartitionId,
    pub(crate) environment: Environment,
    pub(crate) budget: Arc<BudgetShare>,
    /// Advice to the operator of a damaged partition.
    pub(crate) operator_hint: String,
}

/// The accounts whose batches a read returns.
#[derive(Clone, Debug)]
pub enum AccountFilter {
    All,
    One(AccountId),
    Set(Arc<HashSet<AccountId>>),
}

/// The state at one moment, as far as reading at an offset needs it.
struct ReadView {
    positions: Positions,
    /// End of the applied entries.
    end_index: u64,
    /// Index of the entry that holds the offset, if the entry is one of the newest.
    index: Option<u64>,
}

/// Collects a chunk.
struct ChunkBuilder {
    accounts: AccountFilter,
    bytes_max: u64,
    bytes: u64,
    batches: Vec<StoredBatch>,
    next: Offset,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Consumed,
    ChunkFull,
}

#[derive(Debug)]
pub(crate) enum FramesError {
    /// No longer, or not yet, in the log.
    Absent,
    Lost(String),
}

impl From<fanfare_log::ReadError> for FramesError {
    fn from(error: fanfare_log::ReadError) -> Self {
        match error {
            fanfare_log::ReadError::Purged { .. } => Self::Absent,
            error => Self::Lost(error.to_string()),
        }
    }
}

impl Reader {
    pub(crate) fn new(group: Group<Machine>, parts: ReaderParts) -> Self {
        Self {
            group,
            search_permits: Arc::new(Semaphore::new(1)),
            read_cache: ReadCache::new(parts.budget.clone()),
            fill_lock: Semaphore::new(1),
            parts,
        }
    }

    pub(crate) async fn read(
        &self,
        from: Offset,
        accounts: AccountFilter,
        bytes_max: u64,
    ) -> Result<ReadChunk, ReadError> {
        let mut chunk = ChunkBuilder { accounts, bytes_max, bytes: 0, batches: Vec::new(), next: from };
        loop {
            let from = chunk.next;
            // Positions and indexes of one moment: a trim or an append between two looks would not fit together.
            let view = self.view(from);
            let Positions { log_start, high_watermark, .. } = view.positions;
            if from < log_start {
                return Err(ReadError::OutOfRange { offset: from, log_start });
            }
            if from >= high_watermark {
                return self.check_damage(chunk.finish());
            }
            if chunk.accounts.is_empty() {
                chunk.next = high_watermark;
                return Ok(chunk.finish());
            }
            let frames = match chunk.accounts {
                AccountFilter::One(account) => self.account_frames(account, from, view, bytes_max).await,
                AccountFilter::All | AccountFilter::Set(_) => {
                    let frames = self.frames(from, &view, bytes_max.max(READ_BYTES_MIN)).await;
                    frames.map(|frames| AccountFrames { range: FrameRange::new(frames), complete_to: None })
                }
            };
            let AccountFrames { range, complete_to } =
                frames.map_err(|error| self.read_error(from, error))?;
            // Read again: frames that another reader cached may end above the watermark of the first view.
            let high_watermark = self.view(from).positions.high_watermark;
            for frame in range.frames() {
                let progress =
                    chunk.add_frame(frame, high_watermark).map_err(|error| self.undecodable(frame, error))?;
                if progress == Progress::ChunkFull {
                    return Ok(chunk.finish());
                }
            }
            // The index has answered for frames that were not read: none of them holds an event of the account.
            chunk.next = chunk.next.max(complete_to.unwrap_or(from));
            if !chunk.batches.is_empty() || matches!(chunk.accounts, AccountFilter::Set(_)) {
                return Ok(chunk.finish());
            }
            if chunk.next <= from {
                // Committed events lie here, and the log returned none of them.
                return Err(self.data_loss(from..high_watermark, "the log ends early"));
            }
        }
    }

    /// First offset appended at or after `time`, clamped to `log_start..=high_watermark`.
    pub(crate) async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadError> {
        let log = self.group.log().clone();
        let base = self.blocking(move || {
            let Some(index) = log.index_of_time(time.0)? else { return Ok(None) };
            let frames = log.read(index, index + 1, 1)?;
            Ok(frames.first().map(|frame| Offset(frame.header.base_offset)))
        });
        let base = match base.await {
            Ok(base) => base,
            Err(fanfare_log::ReadError::Purged { .. }) => Some(Offset::ZERO),
            Err(error) => return Err(self.data_loss_somewhere(&error.to_string())),
        };
        let Positions { log_start, high_watermark, .. } = self.view(Offset::ZERO).positions;
        Ok(base.unwrap_or(high_watermark).clamp(log_start, high_watermark))
    }

    /// The newest event of the account with this identity: by the dedup window if it was committed lately, otherwise by
    /// a search of the log from its end.
    pub(crate) async fn find(
        &self,
        account: AccountId,
        id: EventIdHash,
    ) -> Result<Option<StoredEvent>, ReadError> {
        let committed = self.group.read(|machine| machine.dedup().account(account)?.get(id));
        if let Some(committed) = committed {
            match self.read(committed.offset, AccountFilter::One(account), 1).await {
                Ok(chunk) => {
                    let first = chunk.batches.first().and_then(|batch| batch.events().next());
                    return Ok(first.filter(|event| event.offset == committed.offset));
                }
                Err(ReadError::OutOfRange { .. }) => return Ok(None),
                Err(error @ ReadError::DataLoss { .. }) => return Err(error),
            }
        }
        // One search at a time: each may read the whole log, and two of them would only slow each other down.
        let permit = self.search_permit().await;
        let search = self.search_for(account, id);
        match self.run_search(permit, move |stop| search.run(stop)).await {
            Ok(event) => Ok(event),
            Err(FramesError::Absent) => Ok(None),
            Err(FramesError::Lost(detail)) => Err(self.data_loss_somewhere(&detail)),
        }
    }

    pub(crate) fn search_for(&self, account: AccountId, id: EventIdHash) -> EventSearch {
        EventSearch { log: self.group.log().clone(), view: self.view(Offset::ZERO), account, id }
    }

    /// Waits until no search runs.
    pub(crate) async fn search_permit(&self) -> OwnedSemaphorePermit {
        self.search_permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Runs `search` on a blocking thread. Dropping the future cancels the token; the permit is held until the search
    /// has really ended, so abandoned searches cannot pile up.
    pub(crate) async fn run_search<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        search: impl FnOnce(&CancellationToken) -> Result<T, FramesError> + Send + 'static,
    ) -> Result<T, FramesError> {
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        self.blocking(move || {
            let _permit = permit;
            search(&stop)
        })
        .await
    }

    /// End and position of the last entry that ends at or below `to`; None if no such entry ends above the log start.
    pub(crate) async fn entry_end(
        &self,
        to: Offset,
    ) -> Result<Option<(Offset, fanfare_log::Position)>, ReadError> {
        let log = self.group.log().clone();
        let log_start = self.view(Offset::ZERO).positions.log_start;
        let end = self.blocking(move || {
            let Some(last) = to.0.checked_sub(1) else { return Ok(None) };
            let Some(mut index) = log.index_of_offset(last)? else { return Ok(None) };
            loop {
                let frames = log.read(index, index + 1, 1)?;
                let Some(header) = frames.first().map(|frame| &frame.header) else { return Ok(None) };
                let end = Offset(header.base_offset).plus(header.count.into());
                if end <= to {
                    return Ok((end > log_start).then_some((end, header.position)));
                }
                if index <= first_index(&log.bounds()) {
                    return Ok(None);
                }
                index -= 1;
            }
        });
        match end.await {
            Ok(end) => Ok(end),
            Err(fanfare_log::ReadError::Purged { .. }) => Ok(None),
            Err(error) => Err(self.data_loss_somewhere(&error.to_string())),
        }
    }

    fn view(&self, offset: Offset) -> ReadView {
        self.group.read(|machine| ReadView {
            positions: machine.positions(),
            end_index: machine.state().last_index() + 1,
            index: machine.state().recent_index(offset),
        })
    }

    async fn frames(
        &self,
        offset: Offset,
        view: &ReadView,
        bytes_max: u64,
    ) -> Result<Vec<Frame>, FramesError> {
        match self.read_tail(view, bytes_max) {
            Some(frames) => Ok(frames),
            None => self.read_disk(offset, view.index, view.end_index, bytes_max).await,
        }
    }

    /// Frames from the log's cache of its tail; None if they are not in it.
    fn read_tail(&self, view: &ReadView, bytes_max: u64) -> Option<Vec<Frame>> {
        let frames = self.group.log().read_cached(view.index?, view.end_index, bytes_max)?;
        self.read_cache.evict_idle();
        Some(frames)
    }

    /// Like [`Self::frames`], but each part of the disk is read once for all readers, by one of them at a time.
    async fn read_shared(&self, offset: Offset, view: &ReadView) -> Result<FrameRange, FramesError> {
        if let Some(frames) = self.read_tail(view, SHARED_BYTES) {
            return Ok(FrameRange::new(frames));
        }
        if let Lookup::Frames(range) = self.read_cache.lookup(offset) {
            return Ok(range);
        }
        let _fill = self.fill_lock.acquire().await.expect("the semaphore is never closed");
        // Looked up again: another reader may have filled the cache while this one waited for the lock.
        let index = match self.read_cache.lookup(offset) {
            Lookup::Frames(range) => return Ok(range),
            Lookup::NextIndex(index) => view.index.or(Some(index)),
            Lookup::Miss => view.index,
        };
        // Cancelled here, the permit goes back and the next reader reads the part again: nothing half-filled is left.
        let frames = self.read_disk(offset, index, view.end_index, SHARED_BYTES).await?;
        let range = FrameRange::new(frames);
        self.read_cache.insert(&range);
        Ok(range)
    }

    /// Reads frames up to index `end` from disk, from `index` on or from the entry that holds `offset`.
    async fn read_disk(
        &self,
        offset: Offset,
        index: Option<u64>,
        end: u64,
        bytes_max: u64,
    ) -> Result<Vec<Frame>, FramesError> {
        let log = self.group.log().clone();
        self.blocking(move || {
            let index = index.map_or_else(|| log.index_of_offset(offset.0), |index| Ok(Some(index)))?;
            let index = index.ok_or(FramesError::Absent)?;
            Ok(log.read(index, end, bytes_max)?)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        self.parts.environment.run_blocking(read).await
    }

    /// A trim may have overtaken the reader; otherwise committed events are missing.
    fn read_error(&self, offset: Offset, error: FramesError) -> ReadError {
        let log_start = self.view(offset).positions.log_start;
        match error {
            _ if offset < log_start => ReadError::OutOfRange { offset, log_start },
            FramesError::Absent => {
                self.data_loss(offset..offset.plus(1), "the offset is not in the log, which starts below it")
            }
            FramesError::Lost(detail) => self.data_loss(offset..offset.plus(1), &detail),
        }
    }

    fn undecodable(&self, frame: &Frame, error: CodecError) -> ReadError {
        let (base, end) = (Offset(frame.header.base_offset), Offset(frame.header.end_offset()));
        self.data_loss(base..end, &format!("entry {}: {error}", frame.header.position.index))
    }

    /// The end of the applied entries is not the end of the committed ones if the group failed at an entry above it.
    fn check_damage(&self, chunk: ReadChunk) -> Result<ReadChunk, ReadError> {
        if self.group.failure().is_some() { Err(self.group_failure()) } else { Ok(chunk) }
    }

    /// The error of every read above the applied entries of a group that has failed.
    pub(crate) fn group_failure(&self) -> ReadError {
        let offsets = self.unapplied_offsets().unwrap_or(Offset::ZERO..Offset::ZERO);
        let partition = self.parts.id;
        match self.group.failure() {
            Some(GroupFailure::Damaged { detail }) => self.data_loss(offsets, detail),
            // The entry is intact: there is no loss to accept.
            Some(
                failure @ (GroupFailure::Entry { .. }
                | GroupFailure::State { .. }
                | GroupFailure::Diverged { .. }
                | GroupFailure::AppliedTruncated { .. }),
            ) => {
                let detail = format!("{failure}; {}", failure.remedy());
                ReadError::DataLoss { partition, detail, offsets }
            }
            None => self.data_loss(offsets, "the group has stopped; the node's log names the cause"),
        }
    }

    /// Offsets that can no longer be applied, if the group failed at an entry.
    pub(crate) fn unapplied_offsets(&self) -> Option<Range<Offset>> {
        self.group.failure()?;
        let applied = self.view(Offset::ZERO).positions.high_watermark;
        Some(applied..Offset(self.group.log().bounds().next_offset))
    }

    fn data_loss_somewhere(&self, detail: &str) -> ReadError {
        self.data_loss(Offset::ZERO..Offset::ZERO, detail)
    }

    fn data_loss(&self, offsets: Range<Offset>, detail: &str) -> ReadError {
        let ReaderParts { id, operator_hint, .. } = &self.parts;
        ReadError::DataLoss { partition: *id, detail: format!("{detail}. {operator_hint}"), offsets }
    }
}

impl AccountFilter {
    fn matches(&self, account: AccountId) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => *one == account,
            Self::Set(accounts) => accounts.contains(&account),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Set(accounts) if accounts.is_empty())
    }
}

impl ChunkBuilder {
    /// Adds the frame's batches from `next` on, as far as they fit.
    fn add_frame(&mut self, frame: &Frame, high_watermark: Offset) -> Result<Progress, CodecError> {
        let header = &frame.header;
        let (base, end) = (Offset(header.base_offset), Offset(header.end_offset()));
        if end <= self.next {
            return Ok(Progress::Consumed);
        }
        assert!(
            end <= high_watermark,
            "invariant violation: an applied entry ends at {end}, above the high watermark {high_watermark}"
        );
        match header.kind {
            entry::KIND => {}
            // A command takes no offsets. It ends above `next` where the index told to skip all entries before it: they
            // hold no event of the account.
            _ if header.count == 0 => {
                self.next = end;
                return Ok(Progress::Consumed);
            }
            // The events are lost, which the operator accepted.
            filler::KIND => {
                self.next = end;
                return Ok(Progress::Consumed);
            }
            _ => return Err(CodecError::Value("kind of entry")),
        }
        let entry = Entry::decode(&frame.payload, header.count)?;
        let accounts = self.accounts.clone();
        for batch in entry.batches(base, Timestamp(header.time_ms), |account| accounts.matches(account)) {
            let batch = batch?.cut_below(self.next);
            if batch.is_empty() {
                continue;
            }
            // At least one batch, or a batch larger than the limit could never be read.
            self.bytes += batch.size_bytes() as u64;
            if !self.batches.is_empty() && self.bytes > self.bytes_max {
                return Ok(Progress::ChunkFull);
            }
            self.next = batch.end();
            self.batches.push(batch);
        }
        self.next = end;
        Ok(Progress::Consumed)
    }

    fn finish(self) -> ReadChunk {
        ReadChunk { batches: self.batches, next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::tests::batch, command, entry::EntryBuilder};

    #[test]
    fn command_after_entries_of_other_accounts_that_the_index_skipped_is_no_damage() {
        let header = |kind, base_offset, count| fanfare_log::FrameHeader {
            kind,
            position: fanfare_log::Position::default(),
            base_offset,
            count,
            time_ms: 0,
            payload_bytes: 0,
        };
        let mut entry = EntryBuilder::default();
        entry.push(batch(1, &["a"]));
        let frames = [
            Frame { header: header(command::KIND, 7, 0), payload: fanfare_log::Payload::default() },
            Frame { header: header(entry::KIND, 7, 1), payload: entry.finish().payload },
        ];
        let accounts = AccountFilter::One(AccountId::from_bytes([1; 16]));
        let mut chunk =
            ChunkBuilder { accounts, bytes_max: 1_000, bytes: 0, batches: Vec::new(), next: Offset(3) };
        for frame in &frames {
            assert!(chunk.add_frame(frame, Offset(8)).expect("nothing is damaged") == Progress::Consumed);
        }
        let chunk = chunk.finish();
        let offsets: Vec<Offset> =
            chunk.batches.iter().flat_map(|batch| batch.events().map(|event| event.offset)).collect();
        assert_eq!((offsets, chunk.next), (vec![Offset(7)], Offset(8)));
    }
}
