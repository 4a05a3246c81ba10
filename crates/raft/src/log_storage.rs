//! openraft's log storage over a `fanfare_log::Log`: entries in, entries out, votes; no copy of a payload.
//!
//! `committed` is not saved: a leader's first act is a blank entry whose commit commits everything below it,
//! and the checkpoint bounds what is applied again after a start.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, ControlFlow, Range, RangeBounds},
    sync::Arc,
};

use fanfare_environment::Environment;
use fanfare_log::{Fatal, Frame, Log, OnDurable, ReadError};
use futures_util::{Stream, TryStreamExt, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use crate::{
    apply::Applier,
    codec::Malformed,
    entry::{Entry, EntryPayload, LogId, Types, Vote, encoding, log_id_of, position_of},
    failure::{GroupFailure, MachineError},
};

/// One message to a follower carries at most this much payload, or one entry.
const REPLICATION_BYTES_MAX: u64 = 2 << 20;
/// Entries are handed to the machine in pieces of at most this much payload, or one entry.
pub(crate) const APPLY_BYTES_MAX: u64 = 4 << 20;

/// The log of one replica as openraft uses it, for writing and for reading. What it shares with the replica's machine
/// is the machine's: the log, the start of the log after an installed snapshot, the record of members, and the latch of
/// the first damage that a read meets, with its file and place (openraft's errors do not keep it apart from others).
#[derive(Clone)]
pub(crate) struct LogStorage {
    applier: Arc<Applier>,
    environment: Environment,
}

impl LogStorage {
    pub(crate) fn new(applier: &Arc<Applier>, environment: Environment) -> Self {
        Self { applier: applier.clone(), environment }
    }

    fn log(&self) -> &Log {
        &self.applier.log
    }

    /// Refuses to cut what is applied: it is committed, and the machine cannot go back. The caller truncates next.
    fn check_truncation(&self, last_kept: Option<u64>) -> io::Result<()> {
        let applied = self.applier.progress.lock().applied.map(|applied| applied.index);
        match applied.filter(|applied| last_kept < Some(*applied)) {
            None => Ok(()),
            Some(applied) => {
                let first_cut = last_kept.map_or(0, |last| last + 1);
                Err(self.applier.fail(GroupFailure::AppliedTruncated { first_cut, applied }))
            }
        }
    }

    async fn frames(&self, from: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Frame>> {
        if let Some(frames) = self.log().read_cached(from, end, bytes_max) {
            return Ok(frames);
        }
        let log = self.log().clone();
        self.noted(self.environment.run_blocking(move || log.read(from, end, bytes_max)).await)
    }

    /// Keeps the damage that a read met.
    pub(crate) fn noted<T>(&self, read: Result<T, ReadError>) -> io::Result<T> {
        if let Err(error @ (ReadError::Corrupt { .. } | ReadError::Io { .. })) = &read {
            self.applier.failure.get_or_init(|| GroupFailure::damaged(error));
        }
        read.map_err(io::Error::other)
    }

    async fn entries(&self, from: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let frames = self.frames(from, end, bytes_max).await?;
        frames.into_iter().map(|frame| Entry::from_frame(frame).map_err(io::Error::other)).collect()
    }

    /// The offset that follows the entry `upto`, which a snapshot stands at.
    async fn offset_after(&self, upto: LogId) -> io::Result<u64> {
        let bounds = self.log().bounds();
        if bounds.last.is_some_and(|last| last.index >= upto.index) {
            let frames = self.frames(upto.index, upto.index + 1, 0).await?;
            let own = frames
                .first()
                .map(|frame| &frame.header)
                .filter(|header| header.position == position_of(upto));
            return Ok(own.map_or(bounds.start_offset, |header| header.end_offset()));
        }
        let installed = self.applier.installed.lock().filter(|anchor| anchor.position == position_of(upto));
        Ok(installed.map_or(bounds.next_offset, |anchor| anchor.next_offset))
    }

    /// Refuses entries to which a leader has given other offsets than this log would: one of the two has lost or gained
    /// an entry, and an acknowledgement would hide it. Refuses entries for which no offsets are left, too: a snapshot may
    /// have anchored the log at any offset. The caller appends the entries next.
    pub(crate) fn check_offsets(&self, entries: &[Entry]) -> io::Result<()> {
        let mut own_offset = self.log().bounds().next_offset;
        for entry in entries {
            if let Some(leader_offset) = entry.base_offset.filter(|claimed| *claimed != own_offset) {
                let index = entry.log_id().index;
                return Err(self.applier.fail(GroupFailure::Diverged { index, leader_offset, own_offset }));
            }
            let Some(end_offset) = own_offset.checked_add(u64::from(entry.count())) else {
                let detail = format!("it takes {} offsets from {own_offset} on", entry.count());
                let (index, error) = (entry.log_id().index, MachineError::Invalid { detail });
                return Err(self.applier.fail(GroupFailure::Entry { index, error }));
            };
            own_offset = end_offset;
        }
        Ok(())
    }

    /// The part of `range` that the log holds, as from..end.
    pub(crate) fn held(&self, range: impl RangeBounds<u64>) -> (u64, u64) {
        let wanted_from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let wanted_end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let bounds = self.log().bounds();
        let first = match bounds.purged {
            Some(purged) => purged.index + 1,
            // A log that was never purged begins where its first entry is.
            None if wanted_from == 0 => {
                self.log().segments().first().map_or(0, |segment| segment.first_index)
            }
            None => 0,
        };
        let end = bounds.last.map_or(first, |last| last.index + 1);
        (wanted_from.max(first), wanted_end.min(end))
    }
}

impl RaftLogReader<Types> for LogStorage {
    /// openraft asks at a start alone, for memberships and log ids: the payloads of applications stay on disk. After
    /// full load, the entries above the checkpoint are gigabytes.
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = self.held(range);
        if from >= end {
            return Ok(Vec::new());
        }
        let log = self.log().clone();
        let scanned = self.environment.run_blocking(move || outline(&log, from..end)).await;
        self.noted(scanned)?.into_iter().collect::<Result<_, _>>().map_err(io::Error::other)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.entries(start, end, REPLICATION_BYTES_MAX).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = self.held(range);
        let pieces = stream::try_unfold((self.clone(), from), move |(storage, from)| async move {
            if from >= end {
                return Ok::<_, io::Error>(None);
            }
            let piece = storage.entries(from, end, APPLY_BYTES_MAX).await?;
            let next = from + piece.len() as u64;
            Ok(Some((stream::iter(piece.into_iter().map(Ok)), (storage, next))))
        });
        pieces.try_flatten()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log().vote().map(|vote| encoding::decode_vote(&vote).map_err(io::Error::other)).transpose()
    }
}

impl RaftLogStorage<Types> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let bounds = self.log().bounds();
        let last_purged_log_id = bounds.purged.map(log_id_of);
        Ok(LogState { last_purged_log_id, last_log_id: bounds.last.map(log_id_of).or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        // Durable at return: openraft answers the candidate next, and a vote that is forgotten can be given twice.
        durable(|done| self.log().save_vote(encoding::encode_vote(vote), done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                // Before the log holds it: once it does, this replica's acknowledgements count in a group of several.
                self.applier.members.note(membership).await.map_err(io::Error::other)?;
            }
        }
        // Before the append: a frame in the log is acknowledged by its sync, and a refusal would come too late.
        self.check_offsets(&entries)?;
        let frames = entries.into_iter().map(Entry::into_new_frame).collect();
        let done = move |result: Result<(), Fatal>| callback.io_completed(result.map_err(io::Error::other));
        let (ready, room) = oneshot::channel();
        self.log().when_room(Box::new(move || {
            let _gone = ready.send(());
        }));
        room.await.map_err(|_| io::Error::other("the store was closed"))?;
        self.log().append(frames, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last_kept = last.map(|last| last.index);
        self.check_truncation(last_kept)?;
        // Durable at return, as openraft relies on: what it appends next stands in the place of what is cut.
        durable(|done| self.log().truncate_after(last_kept, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let next_offset = self.offset_after(upto).await?;
        let position = position_of(upto);
        // Nobody waits for a purge: if it fails, so does the store, and the next append says so.
        self.log().purge(position, next_offset, Box::new(|_| ()));
        Ok(())
    }
}

/// Entries as their headers tell; memberships are read whole. Blocking.
fn outline(log: &Log, indexes: Range<u64>) -> Result<Vec<Result<Entry, Malformed>>, ReadError> {
    let mut headers = Vec::new();
    log.scan_headers(
        indexes,
        |_| 0,
        |header, _| {
            headers.push(header.clone());
            ControlFlow::Continue(())
        },
    )?;
    let mut entries = Vec::with_capacity(headers.len());
    for header in headers {
        match Entry::from_header(&header) {
            Some(entry) => entries.push(Ok(entry)),
            None => {
                let index = header.position.index;
                entries.extend(log.read(index, index + 1, 0)?.into_iter().map(Entry::from_frame));
            }
        }
    }
    Ok(entries)
}

/// Hands a request to the flusher and waits until it is durable.
pub(crate) async fn durable(request: impl FnOnce(OnDurable)) -> io::Result<()> {
    let (done, waiting) = oneshot::channel();
    request(Box::new(move |result| drop(done.send(result))));
    waiting.await.map_err(|_| io::Error::other("the store was closed"))?.map_err(io::Error::other)
}
