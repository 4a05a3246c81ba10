//! Work on files that nobody waits for, done by a worker of its own: dropping written pages from the page cache,
//! writing index files, recycling freed segments, preallocating the next ones. Adding a job never blocks.

pub(crate) mod worker;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use fanfare_environment::WorkerHandle;
use parking_lot::Mutex;

use crate::{segment::pool::Spare, segment::preallocated::PreallocatedSegment, written::WrittenRange};

/// Jobs that may wait before new ones that can be left out are left out.
const WAITING_MAX: usize = 64;

pub(crate) enum BackgroundJob {
    DropCached(WrittenRange),
    /// The index is not synced: a lost or torn one is rebuilt.
    WriteIndex {
        path: PathBuf,
        content: Vec<u8>,
    },
    /// The segment was freed: the journal says so durably, so its files may go at any time and in any order.
    Recycle {
        segment: Spare,
        indexes: Vec<PathBuf>,
    },
    Preallocate {
        path: PathBuf,
        segment_bytes: u64,
        segment: Arc<PreallocatedSegment>,
    },
}

impl BackgroundJob {
    /// True if leaving the job out loses nothing but time or memory.
    fn is_optional(&self) -> bool {
        matches!(self, Self::DropCached(_) | Self::WriteIndex { .. })
    }
}

/// Jobs in the order in which they were added, but for preallocation, which goes first: the flusher waits for it.
#[derive(Default)]
pub(crate) struct BackgroundQueue {
    waiting: Mutex<Waiting>,
    worker: OnceLock<WorkerHandle>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<BackgroundJob>,
    is_stopped: bool,
}

pub(crate) enum NextJob {
    Job(BackgroundJob),
    Idle,
    Stopped,
}

impl BackgroundQueue {
    pub(crate) fn start(&self, worker: WorkerHandle) {
        assert!(self.worker.set(worker).is_ok(), "one worker serves a queue");
    }

    pub(crate) fn worker(&self) -> Option<&WorkerHandle> {
        self.worker.get()
    }

    /// True while a job that can be left out would be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.lock().jobs.len() < WAITING_MAX
    }

    /// Never blocks. Jobs that free or make segments are always taken: there is at most one for each segment. The
    /// others are left out while too many wait.
    pub(crate) fn add(&self, job: BackgroundJob) {
        let mut waiting = self.waiting.lock();
        assert!(!waiting.is_stopped, "invariant violation: a background job after the flusher has ended");
        if job.is_optional() && waiting.jobs.len() >= WAITING_MAX {
            return;
        }
        match job {
            BackgroundJob::Preallocate { .. } => waiting.jobs.push_front(job),
            _ => waiting.jobs.push_back(job),
        }
        drop(waiting);
        self.notify();
    }

    /// The worker ends after the jobs that were added before. Only the flusher adds jobs, so only it calls this.
    pub(crate) fn stop(&self) {
        self.waiting.lock().is_stopped = true;
        self.notify();
    }

    fn take(&self) -> NextJob {
        let mut waiting = self.waiting.lock();
        match waiting.jobs.pop_front() {
            Some(job) => NextJob::Job(job),
            None if waiting.is_stopped => NextJob::Stopped,
            None => NextJob::Idle,
        }
    }

    fn notify(&self) {
        if let Some(worker) = self.worker.get() {
            worker.notify();
        }
    }
}
