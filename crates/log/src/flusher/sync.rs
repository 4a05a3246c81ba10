//! Syncs the dirty files of a round: one inline, several at the same time on a few threads that start when they
//! are first needed.
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use crate::{error::Fatal, fs::File};

/// Beside the flusher's own. The threads only wait for the disk.
const THREADS: usize = 7;

pub(crate) struct Dirty {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
}

impl Dirty {
    fn sync(&self) -> Result<(), Fatal> {
        self.file.sync().map_err(|error| Fatal::new("sync", &self.path, &error))
    }
}

#[derive(Default)]
pub(crate) struct Syncers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    round: Mutex<Round>,
    work: Condvar,
    finished: Condvar,
}

#[derive(Default)]
struct Round {
    waiting: VecDeque<Dirty>,
    running: usize,
    failed: Option<Fatal>,
    stop: bool,
}

impl Syncers {
    /// All are durable at return, or the first failure is returned after all were tried once.
    pub(crate) fn sync_all(&mut self, mut dirty: Vec<Dirty>) -> Result<(), Fatal> {
        let Some(own) = dirty.pop() else { return Ok(()) };
        if dirty.is_empty() {
            return own.sync();
        }
        self.start().map_err(|error| Fatal::new("start a thread to sync", &own.path, &error))?;
        self.shared.round.lock().waiting.extend(dirty);
        self.shared.work.notify_all();
        let first = own.sync();
        while self.shared.sync_next() {}
        let mut round = self.shared.round.lock();
        while round.running > 0 {
            self.shared.finished.wait(&mut round);
        }
        let failed = round.failed.take();
        drop(round);
        first.and_then(|()| failed.map_or(Ok(()), Err))
    }

    fn start(&mut self) -> io::Result<()> {
        while self.threads.len() < THREADS {
            let shared = Arc::clone(&self.shared);
            self.threads
                .push(thread::Builder::new().name("log-sync".to_owned()).spawn(move || shared.run())?);
        }
        Ok(())
    }
}

impl Drop for Syncers {
    fn drop(&mut self) {
        self.shared.round.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that syncs segment files panicked");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut round = self.round.lock();
            while round.waiting.is_empty() {
                if round.stop {
                    return;
                }
                self.work.wait(&mut round);
            }
            drop(round);
            self.sync_next();
        }
    }

    /// False if no file is waiting.
    fn sync_next(&self) -> bool {
        let mut round = self.round.lock();
        let Some(dirty) = round.waiting.pop_front() else { return false };
        round.running += 1;
        drop(round);
        let result = dirty.sync();
        // Before the flusher goes on: a file counts as unread once nobody but its owner holds it.
        drop(dirty);
        let mut round = self.round.lock();
        round.running -= 1;
        if let Err(fatal) = result {
            round.failed.get_or_insert(fatal);
        }
        if round.running == 0 {
            self.finished.notify_all();
        }
        true
    }
}
