//! The one worker that writes a data directory. A round takes queued requests, writes them, syncs every dirty file at
//! the same time, and only then calls back, in the order of submission. After the first failed write or sync the
//! flusher writes nothing any more and fails every request.

pub(crate) mod page_cache;
pub(crate) mod queue;
mod sync;
mod truncate;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fanfare_environment::{Bug, Next, Worker, planted};

use crate::{
    background::BackgroundJob,
    error::Fatal,
    flusher::{
        page_cache::PageCache,
        queue::{AfterRound, Batch, Request, Stop, Work},
        sync::Syncers,
        truncate::FrameRemoval,
    },
    frame::Frame,
    journal::{PendingSync, SyncMark},
    log::state::LogShared,
    segment::write_buffer::WriteBuffer,
    segment::writer::{SegmentWriter, WriteContext},
    store::shared::StoreShared,
    written::DirtyFile,
};

/// A synced end is durable after this time at the latest.
const MARK_SYNC_DELAY: Duration = Duration::from_millis(100);
/// A synced end is written, and so outlives the process, after this time at the latest.
const MARK_WRITE_DELAY: Duration = Duration::from_millis(10);

const FLUSHED_CHECK_MIN: usize = 1024;

pub(crate) struct Flusher {
    store: Arc<StoreShared>,
    /// By id of the log.
    writers: BTreeMap<u32, SegmentWriter>,
    buffer: WriteBuffer,
    syncers: Syncers,
    page_cache: PageCache,
    /// Files that a planted bug leaves to the next round; none otherwise.
    unsynced: Vec<DirtyFile>,
    /// Logs of the round whose callbacks have been or are about to be called.
    appended: Vec<Arc<LogShared>>,
    /// When the journal must be synced at the latest, by the monotonic clock.
    mark_sync_deadline: Option<Duration>,
    /// When the noted ends must be written at the latest, by the monotonic clock.
    mark_write_deadline: Option<Duration>,
    /// Last index of each flushed round of a log, oldest first, for eviction from the tail caches.
    flushed: VecDeque<(Arc<LogShared>, u64)>,
    /// At this length `flushed` is rid of frames that were purged or truncated since.
    flushed_check: usize,
}

impl Worker for Flusher {
    fn run_round(&mut self) -> Next {
        // While one round is synced the next one gathers: the slower the disk, the more appends share a sync.
        let Batch { requests, bytes } = self.store.queue.take();
        self.serve(requests);
        let now = self.now();
        let after = self.store.queue.finish(bytes, now);
        if is_due(self.mark_sync_deadline, now) {
            self.record_fatal(Self::sync_journal);
        } else if is_due(self.mark_write_deadline, now) {
            // Between two rounds: the callers of the last one have been answered, those of the next one wait 2 us.
            self.record_fatal(Self::write_marks);
        }
        match after {
            AfterRound::TakeMore => Next::Now,
            AfterRound::Wait => match self.mark_write_deadline.or(self.mark_sync_deadline) {
                Some(deadline) => Next::Within(deadline.saturating_sub(now)),
                None => Next::Notified,
            },
            AfterRound::Stop(stop) => {
                self.record_fatal(|flusher| match stop {
                    Stop::Clean => flusher.store.journal.lock().record_clean_stop(),
                    Stop::Dropped => flusher.store.journal.lock().record_synced_ends(),
                });
                self.store.background.stop();
                Next::End
            }
        }
    }
}

impl Flusher {
    pub(crate) fn new(store: Arc<StoreShared>) -> Self {
        Self {
            writers: BTreeMap::new(),
            buffer: WriteBuffer::default(),
            syncers: Syncers::new(store.environment.clone()),
            page_cache: PageCache::new(store.options.page_cache_bytes),
            unsynced: Vec::new(),
            appended: Vec::new(),
            mark_sync_deadline: None,
            mark_write_deadline: None,
            flushed: VecDeque::new(),
            flushed_check: FLUSHED_CHECK_MIN,
            store,
        }
    }

    fn now(&self) -> Duration {
        self.store.environment.clock().monotonic()
    }

    fn record_fatal(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Fatal>) {
        if self.store.fatal.get().is_none()
            && let Err(fatal) = step(self)
        {
            self.store.fatal.set(fatal);
        }
    }

    /// Serves the requests in order. Neighbours that one sync makes durable are served together.
    fn serve(&mut self, requests: Vec<Request>) {
        let mut requests = requests.into_iter().peekable();
        while let Some(first) = requests.next() {
            let mut group = vec![first];
            while let Some(next) = requests.next_if(|next| shares_sync(&group[0].work, &next.work)) {
                group.push(next);
            }
            let result = match self.store.fatal.get() {
                Some(fatal) => Err(fatal),
                None => self.serve_group(&mut group),
            };
            if let Err(fatal) = &result {
                self.store.fatal.set(fatal.clone());
            }
            // In the order of submission, and before the next group is begun: raft takes the callbacks of one log as one
            // sequence.
            for request in group {
                (request.on_durable)(result.clone());
            }
            self.make_room();
        }
    }

    fn serve_group(&mut self, group: &mut [Request]) -> Result<(), Fatal> {
        let Request { log, work, .. } = &mut group[0];
        match work {
            Work::Open(end) => {
                let end = end.take().expect("a log is opened once");
                let previous = self.writers.insert(log.id, SegmentWriter::new(end));
                assert!(previous.is_none(), "invariant violation: log {} has two writers", log.id);
                Ok(())
            }
            Work::Append(_) => self.append(group),
            Work::Vote(_) => self.save_votes(group),
            Work::Truncate(index) => {
                let index = *index;
                self.removal(log.clone()).truncate(index)?;
                self.mark_soon();
                Ok(())
            }
            Work::Purge { position, start_offset } => {
                let (position, start_offset) = (*position, *start_offset);
                self.removal(log.clone()).purge(position, start_offset)?;
                self.mark_soon();
                Ok(())
            }
            Work::Restart { position, start_offset } => {
                let (position, start_offset) = (*position, *start_offset);
                self.removal(log.clone()).restart(position, start_offset)?;
                self.mark_soon();
                Ok(())
            }
            Work::Fail(fatal) => Err(fatal.clone()),
        }
    }

    fn removal(&mut self, log: Arc<LogShared>) -> FrameRemoval<'_> {
        let writer = self.writers.get_mut(&log.id).expect("a log is opened before it is used");
        FrameRemoval { store: &self.store, log, writer }
    }

    fn append(&mut self, group: &[Request]) -> Result<(), Fatal> {
        // One log after the other, so that one buffer serves all of them.
        let mut by_log: BTreeMap<u32, (&Arc<LogShared>, Vec<&[Frame]>)> = BTreeMap::new();
        for request in group {
            if let Work::Append(frames) = &request.work {
                by_log.entry(request.log.id).or_insert((&request.log, Vec::new())).1.push(frames);
            }
        }
        let mut dirty = std::mem::take(&mut self.unsynced);
        for (log, appends) in by_log.values() {
            dirty.extend(self.write(log, appends)?);
        }
        if planted(Bug::AckBeforeSync) {
            self.unsynced = std::mem::take(&mut dirty);
        }
        // Nothing is published or answered between the first write and the end of all syncs: a crash in between loses
        // frames that nobody was told about.
        self.sync(dirty)?;
        let mut marks: Vec<(u32, SyncMark)> = Vec::new();
        for (id, (log, _)) in by_log {
            self.writers.get_mut(&id).expect("the log was written").publish(log);
            marks.extend(log.mark().map(|mark| (id, mark)));
            self.appended.push(log.clone());
        }
        // A mark is noted after the sync of its frames, never before. Without the mark, damage of acknowledged frames
        // would be taken for a torn tail.
        self.store.journal.lock().note_synced_ends(&marks);
        let now = self.now();
        self.mark_write_deadline.get_or_insert(now + MARK_WRITE_DELAY);
        self.mark_soon();
        Ok(())
    }

    /// Writes the frames of one log; returns the file that must be synced.
    fn write(&mut self, log: &LogShared, appends: &[&[Frame]]) -> Result<Option<DirtyFile>, Fatal> {
        let writer = self.writers.get_mut(&log.id).expect("a log is opened before it is used");
        assert_eq!(self.buffer.bytes(), 0, "invariant violation: the buffer holds frames of another log");
        let mut context =
            WriteContext { store: &self.store, log, roll: log.roll(), buffer: &mut self.buffer };
        for frame in appends.iter().copied().flatten() {
            writer.place(&mut context, frame)?;
        }
        writer.write_out(&mut self.buffer)?;
        Ok(writer.take_dirty())
    }

    /// Syncs the files, and the journal with them if that is due.
    fn sync(&mut self, mut dirty: Vec<DirtyFile>) -> Result<(), Fatal> {
        // Under load every round is followed by another one, and a sync of the journal alone would delay each: it shares
        // the round's syncs, which run at the same time.
        let is_due = is_due(self.mark_sync_deadline, self.now());
        let journal = is_due.then(|| self.store.journal.lock().pending_sync()).transpose()?;
        let journal = journal.map(|PendingSync { dirty: file, nonce, end_byte }| {
            dirty.push(file);
            (nonce, end_byte)
        });
        // A failure leaves the noted lengths as they are: what the kernel kept of the writes is unknown.
        self.syncers.sync_all(dirty)?;
        if let Some((nonce, end_byte)) = journal {
            self.store.journal.lock().note_synced(nonce, end_byte);
            (self.mark_sync_deadline, self.mark_write_deadline) = (None, None);
        }
        Ok(())
    }

    fn save_votes(&mut self, group: &[Request]) -> Result<(), Fatal> {
        let mut journal = self.store.journal.lock();
        for request in group {
            let Work::Vote(vote) = &request.work else { continue };
            let mut facts = journal.facts(request.log.id).clone();
            facts.vote = Some(vote.clone());
            journal.record_facts(facts)?;
        }
        // One sync for all of them, before any is answered: a vote that a crash takes back could be given to another
        // candidate of the same term.
        journal.sync()?;
        drop(journal);
        // After the sync: a vote that is read back has been granted for good.
        for request in group {
            if let Work::Vote(vote) = &request.work {
                request.log.set_vote(vote);
            }
        }
        self.mark_soon();
        Ok(())
    }

    fn mark_soon(&mut self) {
        let now = self.now();
        self.mark_sync_deadline.get_or_insert(now + MARK_SYNC_DELAY);
    }

    /// Proves to a later start that the journal was synced, lest damage to its end be taken for a torn tail.
    fn sync_journal(&mut self) -> Result<(), Fatal> {
        (self.mark_sync_deadline, self.mark_write_deadline) = (None, None);
        self.store.journal.lock().confirm()
    }

    /// Without a sync: a process that is killed leaves what it wrote, and a power loss is up to the next sync.
    fn write_marks(&mut self) -> Result<(), Fatal> {
        self.mark_write_deadline = None;
        self.store.journal.lock().record_synced_ends()
    }

    /// Gives memory back, the log's own and the system's, once the callers of the round have been answered.
    fn make_room(&mut self) {
        for log in self.appended.drain(..) {
            if let Some(writer) = self.writers.get_mut(&log.id) {
                writer.take_written().into_iter().for_each(|range| self.page_cache.add(range));
            }
            let last = log.last_written();
            self.flushed.push_back((log, last));
        }
        while self.store.background.has_room()
            && let Some(excess) = self.page_cache.take_excess()
        {
            self.store.background.add(BackgroundJob::DropCached(excess));
        }
        self.evict();
    }

    fn evict(&mut self) {
        if self.flushed.len() >= self.flushed_check {
            self.flushed.retain(|(log, index)| log.caches_up_to(*index));
            self.flushed_check = FLUSHED_CHECK_MIN.max(2 * self.flushed.len());
        }
        while self.store.cached_bytes.load(Ordering::Relaxed) > self.store.options.cache_bytes {
            let Some((log, index)) = self.flushed.pop_front() else { return };
            log.evict(&self.store.cached_bytes, index);
        }
    }
}

/// True if one sync makes both durable: appends of all logs, votes of all logs. Truncations and purges go alone.
fn shares_sync(first: &Work, next: &Work) -> bool {
    matches!((first, next), (Work::Append(_), Work::Append(_)) | (Work::Vote(_), Work::Vote(_)))
}

fn is_due(deadline: Option<Duration>, now: Duration) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}
