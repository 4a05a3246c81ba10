//! What nobody waits for, done on a thread of its own in the order in which it was asked for: dropping written pages
//! from memory, writing and removing index files. Failing at any of it loses nothing.
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use crate::{fs::FileSystem, index::INDEX_VERSION, page_cache::Written, sealed_file};

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
    chores: Arc<Chores>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(chores: Arc<Chores>, fs: Arc<dyn FileSystem>) -> io::Result<Self> {
        let own = Arc::clone(&chores);
        let run = move || {
            while let Some(chore) = own.take() {
                perform(&*fs, &chore);
            }
        };
        let thread = thread::Builder::new().name("log-chores".to_owned()).spawn(run)?;
        Ok(Self { chores, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.chores.waiting.lock().stop = true;
        self.chores.added.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that tidies up after the log panicked");
        }
    }
}

fn perform(fs: &dyn FileSystem, chore: &Chore) {
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
        Chore::RemoveIndex { path } => match fs.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "remove segment index");
            }
            _ => {}
        },
    }
}
