//! What nobody waits for, done on a thread of its own in the order in which it was asked for: dropping written pages
//! from memory, writing and removing index files, making the next segments. Failing at any of it loses nothing.
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    flusher::page_cache::Written,
    secondary_index,
    segment::index::INDEX_VERSION,
    segment::preallocated::{self, Upcoming},
    store::Disk,
    store::sealed_file,
};

/// Whoever asks for more waits until some are done.
const WAITING_MAX: usize = 64;

pub(crate) enum Chore {
    DropCached(Written),
    /// Not synced: a lost or torn index is rebuilt.
    WriteIndex {
        path: PathBuf,
        content: Vec<u8>,
    },
    RemoveIndex {
        path: PathBuf,
    },
    MakeSegment {
        path: PathBuf,
        segment_bytes: u64,
        upcoming: Arc<Upcoming>,
    },
}

#[derive(Default)]
struct Waiting {
    chores: VecDeque<Chore>,
    stop: bool,
}

#[derive(Default)]
pub(crate) struct Chores {
    waiting: Mutex<Waiting>,
    added: Condvar,
    taken: Condvar,
}

impl Chores {
    /// Must not be used any more when the worker has been dropped.
    pub(crate) fn add(&self, chore: Chore) {
        let mut waiting = self.waiting.lock();
        while waiting.chores.len() >= WAITING_MAX {
            self.taken.wait(&mut waiting);
        }
        waiting.chores.push_back(chore);
        self.added.notify_one();
    }

    /// None after a stop, when all is done.
    fn take(&self) -> Option<Chore> {
        let mut waiting = self.waiting.lock();
        while waiting.chores.is_empty() && !waiting.stop {
            self.added.wait(&mut waiting);
        }
        self.taken.notify_all();
        waiting.chores.pop_front()
    }
}

/// The thread. Dropping this ends it after what was asked for before.
pub(crate) struct Worker {
    disk: Arc<Disk>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(disk: Arc<Disk>) -> io::Result<Self> {
        let own = Arc::clone(&disk);
        let run = move || {
            while let Some(chore) = own.chores.take() {
                perform(&own, &chore);
            }
        };
        let thread = thread::Builder::new().name("log-chores".to_owned()).spawn(run)?;
        Ok(Self { disk, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.disk.chores.waiting.lock().stop = true;
        self.disk.chores.added.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that tidies up after the log panicked");
        }
    }
}

fn perform(disk: &Disk, chore: &Chore) {
    let fs = &*disk.fs;
    match chore {
        Chore::DropCached(written) => written.drop_cached(),
        Chore::WriteIndex { path, content } => {
            let written = fs
                .create(path)
                .and_then(|file| file.write_all_at(&sealed_file::encode(INDEX_VERSION, content), 0));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "write segment index");
            }
        }
        Chore::RemoveIndex { path } => secondary_index::remove_file(fs, path),
        Chore::MakeSegment { path, segment_bytes, upcoming } => {
            // After a failure nothing is written any more; whoever takes it tries itself, and tells.
            let made = match disk.refusal() {
                Some(_) => None,
                None => preallocated::make(fs, &disk.pool, path, *segment_bytes).map_or_else(
                    |error| {
                        tracing::warn!(path = %path.display(), %error, "make a segment ahead of need");
                        None
                    },
                    Some,
                ),
            };
            upcoming.answer(made);
        }
    }
}
