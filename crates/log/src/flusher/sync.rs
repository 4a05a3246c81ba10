//! Syncs the dirty files of a round: one inline, several at the same time on a few workers that start when they are
//! first needed. Where only one worker runs at a time, all are synced inline.

use std::{collections::VecDeque, io, sync::Arc};

use fanfare_environment::{Environment, Next, Worker, WorkerHandle};
use parking_lot::{Condvar, Mutex};

use crate::{error::Fatal, written::DirtyFile};

/// Workers beside the flusher. They only wait for the disk.
const WORKERS_MAX: usize = 7;

pub(crate) struct Syncers {
    environment: Environment,
    shared: Arc<SharedSyncs>,
    workers: Vec<WorkerHandle>,
}

#[derive(Default)]
struct SharedSyncs {
    syncs: Mutex<PendingSyncs>,
    finished: Condvar,
}

#[derive(Default)]
struct PendingSyncs {
    waiting: VecDeque<DirtyFile>,
    running: usize,
    fatal: Option<Fatal>,
    is_stopped: bool,
}

impl Syncers {
    pub(crate) fn new(environment: Environment) -> Self {
        Self { environment, shared: Arc::default(), workers: Vec::new() }
    }

    /// All files are durable at return, or the first failure is returned after all were tried once.
    pub(crate) fn sync_all(&mut self, mut dirty: Vec<DirtyFile>) -> Result<(), Fatal> {
        let Some(own) = dirty.pop() else { return Ok(()) };
        if dirty.is_empty() {
            return own.sync();
        }
        self.start().map_err(|error| Fatal::new("start a worker to sync", &own.path, &error))?;
        let others = dirty.len();
        self.shared.syncs.lock().waiting.extend(dirty);
        self.workers.iter().take(others).for_each(WorkerHandle::notify);
        let first = own.sync();
        while self.shared.sync_next() {}
        let mut syncs = self.shared.syncs.lock();
        // Nothing runs here where workers share one thread: the flusher has synced every file itself.
        while syncs.running > 0 {
            self.shared.finished.wait(&mut syncs);
        }
        let fatal = syncs.fatal.take();
        drop(syncs);
        first.and_then(|()| fatal.map_or(Ok(()), Err))
    }

    fn start(&mut self) -> io::Result<()> {
        let workers = WORKERS_MAX.min(self.environment.parallelism() - 1);
        while self.workers.len() < workers {
            let worker = SyncWorker { shared: self.shared.clone() };
            self.workers.push(self.environment.start_worker("log-sync", Box::new(worker))?);
        }
        Ok(())
    }
}

impl Drop for Syncers {
    fn drop(&mut self) {
        self.shared.syncs.lock().is_stopped = true;
        self.workers.iter().for_each(WorkerHandle::notify);
        self.workers.iter().for_each(WorkerHandle::join);
    }
}

struct SyncWorker {
    shared: Arc<SharedSyncs>,
}

impl Worker for SyncWorker {
    fn run_round(&mut self) -> Next {
        while self.shared.sync_next() {}
        if self.shared.syncs.lock().is_stopped { Next::End } else { Next::Notified }
    }
}

impl SharedSyncs {
    /// False if no file is waiting.
    fn sync_next(&self) -> bool {
        let mut syncs = self.syncs.lock();
        let Some(dirty) = syncs.waiting.pop_front() else { return false };
        syncs.running += 1;
        drop(syncs);
        let result = dirty.sync();
        // Dropped before the flusher goes on: a file counts as unread once nobody but its owner holds it.
        drop(dirty);
        let mut syncs = self.syncs.lock();
        syncs.running -= 1;
        if let Err(fatal) = result {
            syncs.fatal.get_or_insert(fatal);
        }
        if syncs.running == 0 {
            self.finished.notify_all();
        }
        true
    }
}
