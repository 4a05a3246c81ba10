//! The worker that builds indexes: it follows what is written, from the page cache, and writes a file when a segment is
//! sealed. Nobody waits for the worker, and a failure of it loses nothing.
use std::{
    io,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use fanfare_environment::{Environment, Next, Worker, WorkerHandle};
use parking_lot::Mutex;

use super::{
    IndexKeys, SegmentRef,
    draft::Draft,
    file::{self, IndexFile},
    open_files::OpenFiles,
};
use crate::{
    fs::{File, FileSystem},
    log::state::LogShared,
    segment::{
        SegmentHeader,
        number::SegmentNumber,
        scanner::{ScanError, Scanner},
    },
    store::sealed_file::TEMPORARY_SUFFIX,
};

/// Frames appended to a draft at once: readers of the draft wait that long.
const APPENDED_FRAMES_MAX: u64 = 1024;

/// One per data directory.
pub(crate) struct Builder {
    logs: Mutex<Vec<Weak<LogShared>>>,
    /// Memory for the drafts of all logs together.
    draft_bytes_max: u64,
    closed: AtomicBool,
    pub(super) open_files: Mutex<OpenFiles>,
    /// Started with the first log that is indexed.
    worker: OnceLock<WorkerHandle>,
}

/// A segment to be indexed. The open file keeps the segment readable whatever is purged.
pub(crate) struct BuildJob {
    pub(crate) header: SegmentHeader,
    pub(crate) segment: SegmentRef,
    pub(crate) file: Arc<dyn File>,
}

impl Builder {
    pub(crate) fn new(draft_bytes_max: u64) -> Self {
        Self {
            logs: Mutex::default(),
            draft_bytes_max,
            closed: AtomicBool::new(false),
            open_files: Mutex::default(),
            worker: OnceLock::new(),
        }
    }

    /// Indexes `log` from now on.
    pub(super) fn add(
        self: &Arc<Self>,
        log: &Arc<LogShared>,
        environment: &Environment,
        fs: &Arc<dyn FileSystem>,
    ) -> io::Result<()> {
        let mut logs = self.logs.lock();
        if self.is_closed() || logs.iter().any(|added| added.as_ptr() == Arc::as_ptr(log)) {
            return Ok(());
        }
        logs.push(Arc::downgrade(log));
        if self.worker.get().is_none() {
            let indexer = Indexer { builder: self.clone(), fs: fs.clone(), cleaned: Vec::new() };
            let worker = environment.start_worker("log-index", Box::new(indexer))?;
            self.worker.get_or_init(|| worker);
        }
        drop(logs);
        self.wake();
        Ok(())
    }

    pub(crate) fn wake(&self) {
        if let Some(worker) = self.worker.get() {
            worker.notify();
        }
    }

    /// Abandons the work under way.
    pub(crate) fn close(&self) {
        // Under the lock, so that no worker is started after this.
        let logs = self.logs.lock();
        self.closed.store(true, Ordering::Release);
        drop(logs);
        self.wake();
    }

    pub(crate) fn join(&self) {
        if let Some(worker) = self.worker.get() {
            worker.join();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Abandons the largest drafts until those of all logs fit their budget. Lookups read an abandoned draft's segment
    /// frame by frame, and the segment is read again when it is sealed. Only the one worker that extends drafts calls
    /// this, so no draft grows meanwhile.
    fn bound_drafts(&self) {
        let mut drafts: Vec<(u64, Arc<LogShared>)> = Vec::new();
        for log in self.logs() {
            let bytes = log.secondary_index.draft_bytes();
            drafts.push((bytes, log));
        }
        let mut total: u64 = drafts.iter().map(|(bytes, _)| bytes).sum();
        drafts.sort_by_key(|(bytes, _)| *bytes);
        while total > self.draft_bytes_max
            && let Some((bytes, log)) = drafts.pop()
        {
            tracing::debug!(log = %log.dir.display(), bytes, "abandoned a draft of the secondary index; all drafts are over their budget");
            log.secondary_index.abandon_draft();
            total -= bytes;
        }
    }

    fn logs(&self) -> Vec<Arc<LogShared>> {
        let mut logs = self.logs.lock();
        logs.retain(|log| log.strong_count() > 0);
        logs.iter().filter_map(Weak::upgrade).collect()
    }
}

struct Indexer {
    builder: Arc<Builder>,
    fs: Arc<dyn FileSystem>,
    /// Logs whose directories were searched for index files of segments that are gone.
    cleaned: Vec<u32>,
}

/// The reason for which a segment is not indexed.
enum BuildError {
    Closed,
    Scan(ScanError),
    Write(io::Error),
}

impl Worker for Indexer {
    fn run_round(&mut self) -> Next {
        for log in self.builder.logs() {
            if self.builder.is_closed() {
                return Next::End;
            }
            self.look_after(&log);
        }
        if self.builder.is_closed() { Next::End } else { Next::Notified }
    }
}

impl Indexer {
    fn look_after(&mut self, log: &LogShared) {
        let Some(keys) = log.secondary_index.keys() else { return };
        if !self.cleaned.contains(&log.id) {
            self.remove_orphans(log);
            self.cleaned.push(log.id);
        }
        self.follow(log, keys);
        if log.secondary_index.take_has_pending() {
            self.build_pending(log, keys);
        }
    }

    /// Newest segment first: its keys may still be in the draft, which the segment after it needs.
    fn build_pending(&self, log: &LogShared, keys: IndexKeys) {
        for number in log.unindexed().into_iter().rev() {
            if self.builder.is_closed() {
                return;
            }
            if let Some(job) = log.sealed_build_job(number) {
                self.build(log, keys, &job);
            }
            self.follow(log, keys);
        }
    }

    /// Extends the draft to the end of the newest segment.
    fn follow(&self, log: &LogShared, keys: IndexKeys) {
        let Some(newest) = log.newest_build_job() else { return };
        let mut draft = log.secondary_index.draft.lock();
        if draft.as_ref().is_none_or(|draft| !draft.belongs_to(&newest.segment)) {
            // The draft of a segment that has been sealed since is finished first.
            let is_needed =
                |draft: &Draft| !draft.is_abandoned() && log.unindexed().contains(&draft.number());
            if draft.as_ref().is_some_and(is_needed) {
                return;
            }
            *draft = Some(Draft::new(&newest.header));
        }
        drop(draft);
        if let Err(BuildError::Scan(error)) = self.extend(log, keys, &newest) {
            warn_unreadable(&error, log, newest.header.number);
            log.secondary_index.abandon_draft();
        }
    }

    /// Extends the log's draft to the segment's end, if the draft is one of this segment.
    fn extend(&self, log: &LogShared, keys: IndexKeys, job: &BuildJob) -> Result<(), BuildError> {
        loop {
            let more = log.secondary_index.draft.lock().as_ref().map(Draft::continuation);
            let Some(mut more) = more.filter(|more| more.belongs_to(&job.segment) && !more.is_abandoned())
            else {
                return Ok(());
            };
            let end_index = job.segment.next_index.min(more.next_index() + APPENDED_FRAMES_MAX);
            if more.next_index() >= end_index {
                return Ok(());
            }
            self.gather(&mut more, keys, job, end_index)?;
            if let Some(draft) = &mut *log.secondary_index.draft.lock() {
                draft.append(more);
            }
            self.builder.bound_drafts();
        }
    }

    fn gather(
        &self,
        draft: &mut Draft,
        keys: IndexKeys,
        job: &BuildJob,
        end_index: u64,
    ) -> Result<(), BuildError> {
        let start = draft.end().entry(draft.next_index());
        let mut scanner = Scanner::new(job.file.clone(), start, job.segment.end.byte);
        while draft.next_index() < end_index {
            if self.builder.is_closed() {
                return Err(BuildError::Closed);
            }
            let Some((frame, placed)) = scanner.next().map_err(BuildError::Scan)? else { break };
            draft.push(keys, &frame, &placed);
        }
        Ok(())
    }

    /// Makes sure that a sealed segment has its index file, if one can be built.
    fn build(&self, log: &LogShared, keys: IndexKeys, job: &BuildJob) {
        let number = job.header.number;
        let path = log.dir.join(number.keys_file());
        log.secondary_index.begin_build(job.segment);
        let built = self.build_file(log, keys, job, &path);
        let is_written = built.is_ok();
        match built {
            Ok(()) => {}
            Err(BuildError::Closed) => return,
            Err(BuildError::Scan(error)) => warn_unreadable(&error, log, number),
            Err(BuildError::Write(error)) => {
                tracing::warn!(path = %path.display(), %error, "failed to write an index file; lookups read the whole segment");
            }
        }
        log.secondary_index.finish_build(&job.segment, is_written);
        let mut draft = log.secondary_index.draft.lock();
        if draft.as_ref().is_some_and(|draft| draft.belongs_to(&job.segment)) {
            *draft = None;
        }
        drop(draft);
        // A purge that freed the segment meanwhile removed the index file before there was one: remove it again.
        if !log.has_segment(&job.segment) {
            log.secondary_index.forget_build(number);
            remove_file(&*self.fs, &path);
        }
    }

    fn build_file(
        &self,
        log: &LogShared,
        keys: IndexKeys,
        job: &BuildJob,
        path: &Path,
    ) -> Result<(), BuildError> {
        if IndexFile::load(&*self.fs, path, &job.segment, keys.version).is_some() {
            return Ok(());
        }
        self.extend(log, keys, job)?;
        // Cloned and not taken: readers use the draft until the file is there.
        let drafted = log.secondary_index.draft.lock();
        let drafted = drafted.as_ref().filter(|draft| draft.is_complete_for(&job.segment)).cloned();
        let complete = match drafted {
            Some(draft) => draft,
            None => {
                let mut draft = Draft::new(&job.header);
                self.gather(&mut draft, keys, job, job.segment.next_index)?;
                draft
            }
        };
        if !complete.is_complete_for(&job.segment) {
            let at = complete.end().byte;
            return Err(BuildError::Scan(ScanError::Bad { at, what: "segment ends early" }));
        }
        let (locations, postings) = complete.into_sorted();
        let bytes = file::encode(&job.segment, keys.version, &locations, &postings);
        self.write(path, &bytes).map_err(BuildError::Write)
    }

    /// Writes under another name first, so that no reader sees half a file. Nothing is synced: a lost or torn index
    /// file is rebuilt.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension(format!("keys{TEMPORARY_SUFFIX}"));
        let written = self
            .fs
            .create(&temporary)
            .and_then(|file| file.write_all_at(bytes, 0))
            .and_then(|()| self.fs.rename(&temporary, path));
        written.inspect_err(|_| remove_file(&*self.fs, &temporary))
    }

    /// Removes index files that a crash left behind of segments that are gone.
    fn remove_orphans(&self, log: &LogShared) {
        let names = self.fs.list(&log.dir).unwrap_or_default();
        for name in names {
            if let Some(number) = SegmentNumber::of_keys_file(&name)
                && !log.has_segment_file(number)
            {
                remove_file(&*self.fs, &log.dir.join(name));
            }
        }
    }
}

fn warn_unreadable(error: &ScanError, log: &LogShared, number: SegmentNumber) {
    let path = log.dir.join(number.segment_file());
    match error {
        ScanError::Io(error) => {
            tracing::warn!(path = %path.display(), %error, "failed to read a segment; it stays without an index");
        }
        ScanError::Bad { at, what } => {
            tracing::warn!(path = %path.display(), at, what, "a segment is damaged; it stays without an index");
        }
    }
}

pub(crate) fn remove_file(fs: &dyn FileSystem, path: &Path) {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "failed to remove an index file; it stays on disk unused");
        }
        _ => {}
    }
}
