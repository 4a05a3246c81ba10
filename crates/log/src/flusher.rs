//! The one thread that writes a data directory. It takes all that was queued during its last round, writes it,
//! syncs every dirty file at the same time, and only then calls back, in the order of submission. After the first
//! failed write or sync it writes nothing any more and fails whatever comes.
pub(crate) mod page_cache;
pub(crate) mod queue;
pub(crate) mod sync;
pub(crate) mod truncate;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    background::{Chore, Worker},
    error::Fatal,
    flusher::page_cache::PageCache,
    flusher::queue::{Done, Request, Stop, Taken, Work},
    flusher::sync::Syncers,
    frame::Frame,
    journal::{PendingSync, SyncMark},
    log::LogShared,
    store::Disk,
};

/// A synced end is on its way to disk for at most this long.
const MARK_DELAY: Duration = Duration::from_millis(100);

const CACHED_CHECK_MIN: usize = 1024;

pub(crate) struct Flusher {
    disk: Arc<Disk>,
    /// Ends with the flusher.
    _chores: Worker,
    syncers: Syncers,
    page_cache: PageCache,
    /// Logs of the round whose callbacks have been or are about to be called.
    appended: Vec<Arc<LogShared>>,
    /// When the journal must be synced at the latest.
    mark_deadline: Option<Instant>,
    /// Flushed frames in the order of their flush, for eviction.
    cached: VecDeque<(Arc<LogShared>, u64)>,
    /// At this length `cached` is rid of what was purged or cut since.
    cached_check: usize,
}

impl Flusher {
    pub(crate) fn new(disk: Arc<Disk>, chores: Worker) -> Self {
        Self {
            page_cache: PageCache::new(disk.options.page_cache_bytes),
            _chores: chores,
            appended: Vec::new(),
            disk,
            syncers: Syncers::default(),
            mark_deadline: None,
            cached: VecDeque::new(),
            cached_check: CACHED_CHECK_MIN,
        }
    }

    pub(crate) fn run(mut self) {
        loop {
            let Taken { requests, bytes, stop } = self.disk.queue.take(self.mark_deadline);
            self.serve(requests);
            self.disk.queue.finished(bytes);
            if self.mark_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.or_latch(Self::vouch);
            }
            if let Some(stop) = stop {
                if stop == Stop::Clean {
                    self.or_latch(|flusher| flusher.disk.journal.lock().record_clean_stop());
                }
                return;
            }
        }
    }

    fn or_latch(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Fatal>) {
        if self.disk.latch.fatal().is_none()
            && let Err(fatal) = step(self)
        {
            self.disk.latch.trip(fatal);
        }
    }

    fn serve(&mut self, requests: Vec<Request>) {
        let mut requests = requests.into_iter().peekable();
        while let Some(first) = requests.next() {
            let mut run = vec![first];
            while let Some(next) = requests.next_if(|next| shares_sync(&run[0].work, &next.work)) {
                run.push(next);
            }
            let result = match self.disk.latch.fatal() {
                Some(fatal) => Err(fatal),
                None => self.serve_run(&run),
            };
            if let Err(fatal) = &result {
                self.disk.latch.trip(fatal.clone());
            }
            for Request { done, .. } in run {
                call(done, &result);
            }
            self.make_room();
        }
    }

    fn serve_run(&mut self, run: &[Request]) -> Result<(), Fatal> {
        match &run[0].work {
            Work::Append(_) => self.append(run),
            Work::Vote(_) => self.save_votes(run),
            Work::Cut(index) => self.after_journal(|disk| truncate::truncate(disk, &run[0].log, *index)),
            Work::Purge { position, start_offset } => {
                self.after_journal(|disk| truncate::purge(disk, &run[0].log, *position, *start_offset))
            }
            Work::Restart { position, start_offset } => {
                self.after_journal(|disk| truncate::restart(disk, &run[0].log, *position, *start_offset))
            }
            Work::Fail(fatal) => Err(fatal.clone()),
        }
    }

    fn append(&mut self, run: &[Request]) -> Result<(), Fatal> {
        let mut logs: Vec<&Arc<LogShared>> = Vec::new();
        for request in run {
            let Work::Append(frames) = &request.work else { continue };
            place(&self.disk, &request.log, frames)?;
            if !logs.iter().any(|log| Arc::ptr_eq(log, &request.log)) {
                logs.push(&request.log);
            }
        }
        let mut dirty = Vec::new();
        for log in &logs {
            let mut writer = log.writer.lock();
            writer.write_out()?;
            dirty.extend(writer.dirty());
        }
        let due = self.mark_deadline.is_some_and(|deadline| deadline <= Instant::now());
        let journal = due.then(|| self.disk.journal.lock().pending_sync());
        let vouched = journal.map(|PendingSync { dirty: file, nonce, end_byte }| {
            dirty.push(file);
            (nonce, end_byte)
        });
        self.syncers.sync_all(dirty)?;
        if let Some((nonce, end_byte)) = vouched {
            self.disk.journal.lock().note_synced(nonce, end_byte);
            self.mark_deadline = None;
        }
        let mut marks: Vec<(u32, SyncMark)> = Vec::new();
        for log in logs {
            log.writer.lock().publish(log);
            marks.extend(log.mark().map(|mark| (log.id, mark)));
            self.appended.push(Arc::clone(log));
        }
        self.disk.journal.lock().record_sync_marks(&marks)?;
        self.mark_soon();
        Ok(())
    }

    fn save_votes(&mut self, run: &[Request]) -> Result<(), Fatal> {
        let mut journal = self.disk.journal.lock();
        for request in run {
            let Work::Vote(vote) = &request.work else { continue };
            let mut facts = journal.facts(request.log.id).clone();
            facts.vote = Some(vote.clone());
            journal.record_facts(facts)?;
        }
        journal.sync()?;
        drop(journal);
        for request in run {
            if let Work::Vote(vote) = &request.work {
                request.log.set_vote(vote);
            }
        }
        self.mark_soon();
        Ok(())
    }

    fn after_journal(&mut self, step: impl FnOnce(&Disk) -> Result<(), Fatal>) -> Result<(), Fatal> {
        step(&self.disk)?;
        self.mark_soon();
        Ok(())
    }

    fn mark_soon(&mut self) {
        self.mark_deadline.get_or_insert_with(|| Instant::now() + MARK_DELAY);
    }

    /// Syncs the journal and adds a record that says so, lest damage to its end be taken for a torn tail.
    fn vouch(&mut self) -> Result<(), Fatal> {
        self.mark_deadline = None;
        let mut journal = self.disk.journal.lock();
        journal.sync()?;
        journal.record_sync_marks(&[])
    }

    /// Gives memory back, the log's own and the system's, when those who waited for the round have been answered.
    fn make_room(&mut self) {
        for log in self.appended.drain(..) {
            for written in log.writer.lock().take_written() {
                self.page_cache.add(written);
            }
            let last = log.last_written();
            self.cached.push_back((log, last));
        }
        while let Some(excess) = self.page_cache.excess() {
            self.disk.chores.add(Chore::DropCached(excess));
        }
        self.evict();
    }

    fn evict(&mut self) {
        if self.cached.len() >= self.cached_check {
            self.cached.retain(|(log, index)| log.caches_up_to(*index));
            self.cached_check = CACHED_CHECK_MIN.max(2 * self.cached.len());
        }
        while self.disk.cached_bytes.load(Ordering::Relaxed) > self.disk.options.cache_bytes {
            let Some((log, index)) = self.cached.pop_front() else { return };
            log.evict(&self.disk, index);
        }
    }
}

/// Whether one sync serves both: appends of all logs, votes of all logs; what cuts or purges goes alone.
fn shares_sync(first: &Work, next: &Work) -> bool {
    matches!((first, next), (Work::Append(_), Work::Append(_)) | (Work::Vote(_), Work::Vote(_)))
}

fn place(disk: &Disk, log: &LogShared, frames: &[Frame]) -> Result<(), Fatal> {
    let mut writer = log.writer.lock();
    frames.iter().try_for_each(|frame| writer.place(disk, log, frame))
}

fn call(done: Done, result: &Result<(), Fatal>) {
    done(result.clone());
}
