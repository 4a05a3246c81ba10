//! The thread that gathers tags: it follows what is written, from the page cache, and writes a file when a segment is
//! sealed. Nobody waits for it, and failing at it loses nothing.
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::{Draft, Subject, TagIndex, Tagger, file, loaded::Loaded};
use crate::{
    fs::{File, FileSystem},
    log::LogShared,
    segment::SegmentHeader,
    segment::scanner::{ScanError, Scanner},
    store::sealed_file::TEMPORARY_SUFFIX,
};

/// Readers of the draft wait for at most this much of gathering.
const APPENDED_FRAMES_MAX: u64 = 1024;

/// One per data directory.
#[derive(Default)]
pub(crate) struct Builder {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    closed: AtomicBool,
    pub(crate) loaded: Mutex<Loaded>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Inbox {
    logs: Vec<Weak<LogShared>>,
    woken: bool,
}

/// A segment as the builder needs it. Holds the file, so it stays readable whatever is purged.
pub(crate) struct Job {
    pub(crate) header: SegmentHeader,
    pub(crate) subject: Subject,
    pub(crate) file: Arc<dyn File>,
}

impl Builder {
    /// Looks after `log` from now on.
    pub(crate) fn add(self: &Arc<Self>, log: &Arc<LogShared>, fs: &Arc<dyn FileSystem>) -> io::Result<()> {
        let mut thread = self.thread.lock();
        let mut inbox = self.inbox.lock();
        if self.is_closed() || inbox.logs.iter().any(|known| known.as_ptr() == Arc::as_ptr(log)) {
            return Ok(());
        }
        inbox.logs.push(Arc::downgrade(log));
        inbox.woken = true;
        drop(inbox);
        self.changed.notify_all();
        if thread.is_none() {
            let worker = Worker { builder: Arc::clone(self), fs: Arc::clone(fs) };
            *thread = Some(thread::Builder::new().name("log-tags".to_owned()).spawn(move || worker.run())?);
        }
        Ok(())
    }

    pub(crate) fn wake(&self) {
        self.inbox.lock().woken = true;
        self.changed.notify_all();
    }

    /// What is under way is given up.
    pub(crate) fn close(&self) {
        let inbox = self.inbox.lock();
        self.closed.store(true, Ordering::Release);
        drop(inbox);
        self.changed.notify_all();
    }

    pub(crate) fn join(&self) {
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that indexes the log panicked");
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The logs to look after; None if closed.
    fn next(&self) -> Option<Vec<Arc<LogShared>>> {
        let mut inbox = self.inbox.lock();
        while !inbox.woken && !self.is_closed() {
            self.changed.wait(&mut inbox);
        }
        inbox.woken = false;
        inbox.logs.retain(|log| log.strong_count() > 0);
        (!self.is_closed()).then(|| inbox.logs.iter().filter_map(Weak::upgrade).collect())
    }
}

struct Worker {
    builder: Arc<Builder>,
    fs: Arc<dyn FileSystem>,
}

/// Why a segment is not indexed.
enum Unbuilt {
    Closed,
    Scan(ScanError),
    Write(io::Error),
}

impl Worker {
    fn run(&self) {
        let mut swept = Vec::new();
        while let Some(logs) = self.builder.next() {
            for log in &logs {
                let Some(tagger) = log.tags.tagger() else { continue };
                if !swept.contains(&log.id) {
                    self.remove_orphans(log);
                    swept.push(log.id);
                }
                self.follow(log, tagger);
                if log.tags.take_has_unsettled() {
                    self.settle_all(log, tagger);
                }
            }
        }
    }

    /// The newest first: its tags may still be in the draft, which the next segment needs.
    fn settle_all(&self, log: &LogShared, tagger: Tagger) {
        for sequence in log.unindexed().into_iter().rev() {
            if self.builder.is_closed() {
                return;
            }
            if let Some(job) = log.sealed_job(sequence) {
                self.settle(log, tagger, &job);
            }
            self.follow(log, tagger);
        }
    }

    /// Brings the draft up to the end of the newest segment.
    fn follow(&self, log: &LogShared, tagger: Tagger) {
        let Some(newest) = log.newest_job() else { return };
        let mut draft = log.tags.draft.lock();
        if draft.as_ref().is_none_or(|draft| !draft.is_of(&newest.subject)) {
            let is_owed = |draft: &Draft| !draft.given_up() && log.unindexed().contains(&draft.sequence());
            // That of a segment sealed since is finished first.
            if draft.as_ref().is_some_and(is_owed) {
                return;
            }
            *draft = Some(Draft::of(&newest.header));
        }
        drop(draft);
        if let Err(Unbuilt::Scan(error)) = self.extend(log, tagger, &newest) {
            warn_of(&error, log, newest.header.sequence);
            if let Some(draft) = &mut *log.tags.draft.lock() {
                draft.give_up();
            }
        }
    }

    /// Extends the log's draft, which is one of this segment, to its end.
    fn extend(&self, log: &LogShared, tagger: Tagger, job: &Job) -> Result<(), Unbuilt> {
        loop {
            let more = log.tags.draft.lock().as_ref().map(Draft::continuation);
            let Some(mut more) = more.filter(|more| more.is_of(&job.subject) && !more.given_up()) else {
                return Ok(());
            };
            let upto = job.subject.next_index.min(more.next_index() + APPENDED_FRAMES_MAX);
            if more.next_index() >= upto {
                return Ok(());
            }
            self.gather(&mut more, tagger, job, upto)?;
            if let Some(draft) = &mut *log.tags.draft.lock() {
                draft.append(more);
            }
        }
    }

    fn gather(&self, draft: &mut Draft, tagger: Tagger, job: &Job, upto: u64) -> Result<(), Unbuilt> {
        let start = draft.end().entry(draft.next_index());
        let mut scanner = Scanner::new(Arc::clone(&job.file), start, job.subject.end.byte);
        while draft.next_index() < upto {
            if self.builder.is_closed() {
                return Err(Unbuilt::Closed);
            }
            let Some((frame, placed)) = scanner.next().map_err(Unbuilt::Scan)? else { break };
            draft.push(tagger, &frame, &placed);
        }
        Ok(())
    }

    /// Sees to it that a sealed segment has its file, if it can have one.
    fn settle(&self, log: &LogShared, tagger: Tagger, job: &Job) {
        let sequence = job.header.sequence;
        let path = log.dir.join(SegmentHeader::tags_name(sequence));
        let indexed = self.index(log, tagger, job, &path);
        let is_written = indexed.is_ok();
        match indexed {
            Ok(()) => {}
            Err(Unbuilt::Closed) => return,
            Err(Unbuilt::Scan(error)) => warn_of(&error, log, sequence),
            Err(Unbuilt::Write(error)) => {
                tracing::warn!(path = %path.display(), %error, "write tag index");
            }
        }
        log.tags.settle(job.subject, is_written);
        let mut draft = log.tags.draft.lock();
        if draft.as_ref().is_some_and(|draft| draft.is_of(&job.subject)) {
            *draft = None;
        }
        drop(draft);
        // It may have been freed meanwhile, and its file removed before it was there.
        if !log.holds(&job.subject) {
            remove(&*self.fs, &path);
        }
    }

    fn index(&self, log: &LogShared, tagger: Tagger, job: &Job, path: &Path) -> Result<(), Unbuilt> {
        if TagIndex::load(&*self.fs, path, &job.subject, tagger.version).is_some() {
            return Ok(());
        }
        self.extend(log, tagger, job)?;
        // Kept in its place until the file is there: readers use it.
        let drafted = log.tags.draft.lock().as_ref().filter(|draft| draft.is_whole(&job.subject)).cloned();
        let whole = match drafted {
            Some(draft) => draft,
            None => {
                let mut draft = Draft::of(&job.header);
                self.gather(&mut draft, tagger, job, job.subject.next_index)?;
                draft
            }
        };
        if !whole.is_whole(&job.subject) {
            let at = whole.end().byte;
            return Err(Unbuilt::Scan(ScanError::Bad { at, what: "segment ends early" }));
        }
        let (places, tags) = whole.into_sorted();
        let bytes = file::encode(&job.subject, tagger.version, &places, &tags);
        self.write(path, &bytes).map_err(Unbuilt::Write)
    }

    /// Under another name first, so that nobody reads half of it. Not synced: a lost or torn index is rebuilt.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary: PathBuf = path.with_extension(format!("tag{TEMPORARY_SUFFIX}"));
        let written = self
            .fs
            .create(&temporary)
            .and_then(|file| file.write_all_at(bytes, 0))
            .and_then(|()| self.fs.rename(&temporary, path));
        written.inspect_err(|_| remove(&*self.fs, &temporary))
    }

    /// Removes what a crash has left of segments that are gone.
    fn remove_orphans(&self, log: &LogShared) {
        let names = self.fs.list(&log.dir).unwrap_or_default();
        for name in names {
            if let Some(sequence) = SegmentHeader::sequence_of_tags(&name)
                && !log.holds_sequence(sequence)
            {
                remove(&*self.fs, &log.dir.join(name));
            }
        }
    }
}

fn warn_of(error: &ScanError, log: &LogShared, sequence: u64) {
    let path = log.dir.join(SegmentHeader::file_name(sequence));
    match error {
        ScanError::Io(error) => tracing::warn!(path = %path.display(), %error, "index a segment's tags"),
        ScanError::Bad { at, what } => {
            tracing::warn!(path = %path.display(), at, what, "index a segment's tags");
        }
    }
}

pub(crate) fn remove(fs: &dyn FileSystem, path: &Path) {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "remove index of a segment");
        }
        _ => {}
    }
}
