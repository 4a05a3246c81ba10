//! Reading what is committed: never at or above the high watermark, never below the start of the log.
//!
//! The tail is answered from the log's cache without leaving the task; anything older is read on a blocking thread.
//! Those who follow an account through older parts read one after another, and share what they read.

mod account;
mod search;
mod shelf;

use std::{collections::HashSet, ops::Range, sync::Arc};

use fanfare_log::Frame;
use fanfare_model::{AccountId, EventIdHash, Offset, PartitionId, Timestamp};
use fanfare_raft::Group;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::search::Search;
use self::{
    account::Part,
    shelf::{Found, Run, Shelf},
};
use crate::{
    CodecError, Positions, ReadError, StoredBatch, StoredEvent,
    entry::{self, Entry},
    machine::{Machine, first_index},
};

/// Least payload asked of the log at once: a reader of a small account passes over the others' sections.
const READ_BYTES_MIN: u64 = 256 << 10;
/// Payload read at once for all who follow an account. Whoever asks for less looks up single events.
const SHARED_BYTES: u64 = 1 << 20;

/// Committed batches and where to go on.
#[derive(Clone, Debug)]
pub struct ReadChunk {
    pub batches: Vec<StoredBatch>,
    pub next: Offset,
}

pub(crate) struct Reader {
    id: PartitionId,
    way_out: String,
    group: Group<Machine>,
    tasks: TaskTracker,
    /// One search of the whole log at a time, abandoned ones that have not ended yet included.
    searches: Arc<Semaphore>,
    pub(crate) shelf: Shelf,
    /// To fill the shelf.
    pub(crate) shelf_turn: Semaphore,
}

/// The accounts whose batches a read returns.
#[derive(Clone, Debug)]
pub enum AccountFilter {
    All,
    One(AccountId),
    Set(Arc<HashSet<AccountId>>),
}

/// What the state says about reading at an offset.
struct View {
    positions: Positions,
    /// End of the applied entries.
    end_index: u64,
    /// Of the entry that holds the offset, if it is one of the newest.
    index: Option<u64>,
}

/// A chunk in the making.
struct Reading {
    accounts: AccountFilter,
    bytes_max: u64,
    bytes: u64,
    batches: Vec<StoredBatch>,
    next: Offset,
}

#[derive(PartialEq, Eq)]
enum Taken {
    Whole,
    Full,
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
    /// `way_out` is what an operator can do about a damaged partition.
    pub(crate) fn new(
        (id, way_out): (PartitionId, String),
        group: Group<Machine>,
        tasks: TaskTracker,
    ) -> Self {
        let searches = Arc::new(Semaphore::new(1));
        Self { id, way_out, group, tasks, searches, shelf: Shelf::default(), shelf_turn: Semaphore::new(1) }
    }

    pub(crate) async fn read(
        &self,
        from: Offset,
        accounts: AccountFilter,
        bytes_max: u64,
    ) -> Result<ReadChunk, ReadError> {
        let mut reading = Reading { accounts, bytes_max, bytes: 0, batches: Vec::new(), next: from };
        loop {
            let asked = reading.next;
            let view = self.view(asked);
            let Positions { log_start, high_watermark, .. } = view.positions;
            if asked < log_start {
                return Err(ReadError::OutOfRange { offset: asked, log_start });
            }
            if asked >= high_watermark {
                return self.end(reading.chunk());
            }
            if reading.accounts.is_empty() {
                reading.next = high_watermark;
                return Ok(reading.chunk());
            }
            let part = match reading.accounts {
                AccountFilter::One(account) => self.of_account(account, asked, view, bytes_max).await,
                AccountFilter::All | AccountFilter::Set(_) => {
                    let frames = self.frames(asked, &view, bytes_max.max(READ_BYTES_MIN)).await;
                    frames.map(|frames| Part { run: Run::new(frames), upto: None })
                }
            };
            let part = part.map_err(|error| self.explain(asked, error))?;
            // What others put on the shelf may end above what was committed at the look before.
            let high_watermark = self.view(asked).positions.high_watermark;
            for frame in part.run.frames() {
                let taken =
                    reading.take(frame, high_watermark).map_err(|error| self.damaged(frame, error))?;
                if taken == Taken::Full {
                    return Ok(reading.chunk());
                }
            }
            reading.next = reading.next.max(part.upto.unwrap_or(asked));
            if !reading.batches.is_empty() || matches!(reading.accounts, AccountFilter::Set(_)) {
                return Ok(reading.chunk());
            }
            assert!(reading.next > asked, "reading at {asked} made no progress");
        }
    }

    /// First offset appended at or after `time`, clamped to what is readable.
    pub(crate) async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadError> {
        let log = self.group.log().clone();
        let found = self.blocking(move || {
            let Some(index) = log.index_of_time(time.0)? else { return Ok(None) };
            let frames = log.read(index, index + 1, 1)?;
            Ok(frames.first().map(|frame| Offset(frame.header.base_offset)))
        });
        let found = match found.await {
            Ok(found) => found,
            Err(fanfare_log::ReadError::Purged { .. }) => Some(Offset::ZERO),
            Err(error) => return Err(self.lost(error.to_string())),
        };
        let Positions { log_start, high_watermark, .. } = self.view(Offset::ZERO).positions;
        Ok(found.unwrap_or(high_watermark).clamp(log_start, high_watermark))
    }

    /// The newest event of the account with this identity. What was committed lately is found at once, the rest by
    /// looking through the log from its end.
    pub(crate) async fn find(
        &self,
        account: AccountId,
        id: EventIdHash,
    ) -> Result<Option<StoredEvent>, ReadError> {
        let known = self.group.read(|machine| machine.state.dedup().account(account)?.get(id));
        if let Some(known) = known {
            match self.read(known.offset, AccountFilter::One(account), 1).await {
                Ok(chunk) => {
                    let first = chunk.batches.first().and_then(|batch| batch.events().next());
                    return Ok(first.filter(|event| event.offset == known.offset));
                }
                Err(ReadError::OutOfRange { .. }) => return Ok(None),
                Err(error @ ReadError::DataLoss { .. }) => return Err(error),
            }
        }
        let turn = self.turn().await;
        let search = self.search_for(account, id);
        match self.scan(turn, move |stop| search.run(stop)).await {
            Ok(found) => Ok(found),
            Err(FramesError::Absent) => Ok(None),
            Err(FramesError::Lost(what)) => Err(self.lost(what)),
        }
    }

    pub(crate) fn search_for(&self, account: AccountId, id: EventIdHash) -> Search {
        Search { log: self.group.log().clone(), view: self.view(Offset::ZERO), account, id }
    }

    /// Waits until no scan runs.
    pub(crate) async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.searches).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Runs `scan` on a blocking thread. The turn is over when it has ended, not when its caller has gone: then its
    /// token is cancelled, and it has to end soon.
    pub(crate) async fn scan<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        scan: impl FnOnce(&CancellationToken) -> Result<T, FramesError> + Send + 'static,
    ) -> Result<T, FramesError> {
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        let scanned = self.blocking(move || {
            let _turn = turn;
            Ok(scan(&stop))
        });
        scanned.await.unwrap_or_else(|error| Err(FramesError::Lost(error.to_string())))
    }

    /// Where the entry that holds the event before `to` ends, at or below `to`, and its position; None if nothing below
    /// `to` is kept. Blocking reads happen elsewhere.
    pub(crate) async fn entry_end(
        &self,
        to: Offset,
    ) -> Result<Option<(Offset, fanfare_log::Position)>, ReadError> {
        let log = self.group.log().clone();
        let log_start = self.view(Offset::ZERO).positions.log_start;
        let found = self.blocking(move || {
            let Some(before) = to.0.checked_sub(1) else { return Ok(None) };
            let Some(mut index) = log.index_of_offset(before)? else { return Ok(None) };
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
        match found.await {
            Ok(found) => Ok(found),
            Err(fanfare_log::ReadError::Purged { .. }) => Ok(None),
            Err(error) => Err(self.lost(error.to_string())),
        }
    }

    fn view(&self, offset: Offset) -> View {
        self.group.read(|machine| View {
            positions: machine.state.positions(),
            end_index: machine.state.last_index() + 1,
            index: machine.state.recent_index(offset),
        })
    }

    async fn frames(&self, offset: Offset, view: &View, bytes_max: u64) -> Result<Vec<Frame>, FramesError> {
        match self.cached(view, bytes_max) {
            Some(frames) => Ok(frames),
            None => self.cold(offset, view.index, view.end_index, bytes_max).await,
        }
    }

    fn cached(&self, view: &View, bytes_max: u64) -> Option<Vec<Frame>> {
        let frames = self.group.log().read_cached(view.index?, view.end_index, bytes_max)?;
        self.shelf.tidy();
        Some(frames)
    }

    /// Like [`Self::frames`], but what is on disk is read once for all who ask for it while it is remembered, by one
    /// at a time.
    async fn shared(&self, offset: Offset, view: &View) -> Result<Run, FramesError> {
        if let Some(frames) = self.cached(view, SHARED_BYTES) {
            return Ok(Run::new(frames));
        }
        if let Found::Frames(run) = self.shelf.find(offset) {
            return Ok(run);
        }
        let _turn = self.shelf_turn.acquire().await.expect("the semaphore is never closed");
        let known = match self.shelf.find(offset) {
            Found::Frames(run) => return Ok(run),
            Found::Index(index) => view.index.or(Some(index)),
            Found::Nothing => view.index,
        };
        let run = Run::new(self.cold(offset, known, view.end_index, SHARED_BYTES).await?);
        self.shelf.put(&run);
        Ok(run)
    }

    async fn cold(
        &self,
        offset: Offset,
        known: Option<u64>,
        end: u64,
        bytes_max: u64,
    ) -> Result<Vec<Frame>, FramesError> {
        let log = self.group.log().clone();
        let read = self.blocking(move || {
            let Some(index) = known.map_or_else(|| log.index_of_offset(offset.0), |index| Ok(Some(index)))?
            else {
                return Ok(None);
            };
            log.read(index, end, bytes_max).map(Some)
        });
        read.await?.ok_or(FramesError::Absent)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, fanfare_log::ReadError> + Send + 'static,
    ) -> Result<T, fanfare_log::ReadError> {
        match self.tasks.spawn_blocking(read).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that is going away cancels it, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// A trim may have overtaken the reader; otherwise what should be there is gone.
    fn explain(&self, asked: Offset, error: FramesError) -> ReadError {
        let log_start = self.view(asked).positions.log_start;
        match error {
            _ if asked < log_start => ReadError::OutOfRange { offset: asked, log_start },
            FramesError::Absent => {
                self.lost(format!("offset {asked} is not in the log that starts at {log_start}"))
            }
            FramesError::Lost(what) => self.lost_at(asked..asked.plus(1), &what),
        }
    }

    fn damaged(&self, frame: &Frame, error: CodecError) -> ReadError {
        let base = frame.header.base_offset;
        let end = base + u64::from(frame.header.count);
        self.lost(format!("entry {} with offsets {base}..{end}: {error}", frame.header.position.index))
    }

    /// The end of what is applied is not the end of what is committed if the group failed of what lies there.
    fn end(&self, chunk: ReadChunk) -> Result<ReadChunk, ReadError> {
        if self.group.damage().is_some() { Err(self.failed()) } else { Ok(chunk) }
    }

    /// The group has stopped for good: what can no longer be applied, and why if it is known.
    pub(crate) fn failed(&self) -> ReadError {
        let nothing = Offset::ZERO..Offset::ZERO;
        let what = self.group.damage().unwrap_or("the group has stopped; the log says why");
        self.lost_at(self.lost_of_a_failed_group().unwrap_or(nothing), what)
    }

    /// What can no longer be applied, if the group failed of a damaged entry.
    pub(crate) fn lost_of_a_failed_group(&self) -> Option<Range<Offset>> {
        self.group.damage()?;
        let applied = self.view(Offset::ZERO).positions.high_watermark;
        Some(applied..Offset(self.group.log().bounds().next_offset))
    }

    fn lost(&self, what: String) -> ReadError {
        self.lost_at(Offset::ZERO..Offset::ZERO, &what)
    }

    fn lost_at(&self, offsets: Range<Offset>, what: &str) -> ReadError {
        ReadError::DataLoss { partition: self.id, detail: format!("{what}. {}", self.way_out), offsets }
    }
}

impl AccountFilter {
    fn matches(&self, account: AccountId) -> bool {
        match self {
            Self::All => true,
            Self::One(account_id) => *account_id == account,
            Self::Set(accounts) => accounts.contains(&account),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Set(accounts) if accounts.is_empty())
    }
}

impl Reading {
    /// Adds the frame's batches from `next` on, as far as they fit.
    fn take(&mut self, frame: &Frame, high_watermark: Offset) -> Result<Taken, CodecError> {
        let header = &frame.header;
        let (base, end) = (Offset(header.base_offset), Offset(header.base_offset).plus(header.count.into()));
        if end <= self.next {
            return Ok(Taken::Whole);
        }
        assert!(end <= high_watermark, "an applied entry ends at or below the high watermark");
        if header.kind != entry::KIND {
            // Its events are lost, which was accepted.
            self.next = end;
            return Ok(Taken::Whole);
        }
        let entry = Entry::decode(&frame.payload, header.count)?;
        let accounts = self.accounts.clone();
        for batch in entry.batches(base, Timestamp(header.time_ms), |account| accounts.matches(account)) {
            let batch = batch?.cut_below(self.next);
            if batch.is_empty() {
                continue;
            }
            self.bytes += batch.size_bytes() as u64;
            if !self.batches.is_empty() && self.bytes > self.bytes_max {
                return Ok(Taken::Full);
            }
            self.next = batch.end();
            self.batches.push(batch);
        }
        self.next = end;
        Ok(Taken::Whole)
    }

    fn chunk(self) -> ReadChunk {
        ReadChunk { batches: self.batches, next: self.next }
    }
}
