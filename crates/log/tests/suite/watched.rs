//! A file system in memory that knows which worker calls it, and holds chosen calls until the test goes on.
use std::{
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use fanfare_environment::Environment;
use fanfare_log::{DirectoryLock, File, FileSystem, MemoryFileSystem, Store, StoreOptions};

use crate::support::DIR;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const FLUSHER: &str = "log-flusher";
pub(crate) const BACKGROUND: &str = "log-background";
pub(crate) const INDEXER: &str = "log-index";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Open,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Name of the thread.
    pub(crate) worker: String,
    pub(crate) kind: CallKind,
    /// Path at which the file was opened or made.
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
}

impl Call {
    pub(crate) fn is(&self, worker: &str, kind: CallKind) -> bool {
        self.worker == worker && self.kind == kind
    }

    /// True for the call that takes a segment file out of its log.
    pub(crate) fn frees_segment(&self) -> bool {
        let takes = matches!(self.kind, CallKind::Rename | CallKind::Remove);
        takes && self.path.extension().is_some_and(|found| found == "seg")
    }
}

type Chosen = fn(&Call) -> bool;

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    held: Option<Chosen>,
    holding: usize,
}

#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watch {
    /// Notes a call that has taken effect, and returns when the call is not held any more.
    fn note(&self, kind: CallKind, path: &Path, bytes: usize) {
        let worker = thread::current().name().unwrap_or_default().to_owned();
        let call = Call { worker, kind, path: path.to_owned(), bytes };
        let mut state = self.state.lock().expect("no panic");
        state.calls.push(call.clone());
        let is_held = |state: &mut State| state.held.is_some_and(|chosen| chosen(&call));
        if is_held(&mut state) {
            state.holding += 1;
            self.changed.notify_all();
            state = self.changed.wait_while(state, is_held).expect("no panic");
            state.holding -= 1;
        }
    }
}

pub(crate) struct Hold(Arc<Watch>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.state.lock().expect("no panic").held = None;
        self.0.changed.notify_all();
    }
}

#[derive(Clone, Default)]
pub(crate) struct WatchedFileSystem {
    pub(crate) memory: MemoryFileSystem,
    watch: Arc<Watch>,
}

impl WatchedFileSystem {
    pub(crate) fn of(memory: &MemoryFileSystem) -> Self {
        Self { memory: memory.clone(), watch: Arc::default() }
    }

    pub(crate) fn open_store(&self, environment: &Environment, options: StoreOptions) -> Store {
        Store::open(environment, Arc::new(self.clone()), Path::new(DIR), options, Box::new(|_| {}))
            .expect("open")
    }

    /// From now on the `chosen` calls take effect, but do not return before the result is dropped.
    pub(crate) fn hold(&self, chosen: Chosen) -> Hold {
        self.watch.state.lock().expect("no panic").held = Some(chosen);
        Hold(self.watch.clone())
    }

    pub(crate) fn wait_until_held(&self) {
        let state = self.watch.state.lock().expect("no panic");
        let (state, _) = self
            .watch
            .changed
            .wait_timeout_while(state, DEADLINE, |state| state.holding == 0)
            .expect("no panic");
        assert!(state.holding > 0, "no chosen call was made");
    }

    /// The calls of `worker` since the last call of this.
    pub(crate) fn take_calls(&self, worker: &str) -> Vec<Call> {
        let mut state = self.watch.state.lock().expect("no panic");
        state.calls.extract_if(.., |call| call.worker == worker).collect()
    }

    fn file(&self, path: &Path, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(WatchedFile { path: path.to_owned(), inner, watch: self.watch.clone() })
    }
}

struct WatchedFile {
    path: PathBuf,
    inner: Arc<dyn File>,
    watch: Arc<Watch>,
}

impl File for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let filled = self.inner.read_at(buffer, at)?;
        self.watch.note(CallKind::Read, &self.path, filled);
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.inner.write_all_at(bytes, at)?;
        self.watch.note(CallKind::Write, &self.path, bytes.len());
        Ok(())
    }

    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.inner.write_parts_at(parts, at)?;
        self.watch.note(CallKind::Write, &self.path, parts.iter().map(|part| part.len()).sum());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        self.watch.note(CallKind::Sync, &self.path, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn drop_cached(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.drop_cached(range)
    }
}

impl FileSystem for WatchedFileSystem {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.memory.create(path)?;
        self.watch.note(CallKind::Open, path, 0);
        Ok(self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.memory.open(path)?;
        self.watch.note(CallKind::Open, path, 0);
        Ok(self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)?;
        self.watch.note(CallKind::Rename, from, 0);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.memory.remove(path)?;
        self.watch.note(CallKind::Remove, path, 0);
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.sync_dir(dir)?;
        self.watch.note(CallKind::Sync, dir, 0);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.memory.lock(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.memory.free_bytes(dir)
    }
}
