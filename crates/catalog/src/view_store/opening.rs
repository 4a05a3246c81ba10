//! Opening the view: a store that fits the log is used, any other is replaced by an empty one, with the reason.
//!
//! A damaged sled directory can end the process instead of answering. So a marker file is written before the
//! directory is opened and removed after it was read: a start that finds the marker sets the directory aside.

use std::{
    error::Error,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use fanfare_environment::Environment;
use fanfare_log::{Identity, Log, ReadError};
use tokio::fs;

use super::{MemoryView, ViewStore, ViewStoreError, sled::SledView, stored::StoredView};
use crate::{OpenError, machine::Applied};

/// Damaged directories that are kept for an investigation.
const SET_ASIDE_MAX: u64 = 2;

/// The place of the catalog's view.
#[derive(Clone)]
pub enum ViewStorage {
    /// A directory on disk, made if it is missing. It can be deleted while the catalog is closed.
    Directory(PathBuf),
    /// Memory, in a simulation.
    Memory(MemoryView),
}

/// The state that a start began with, besides checkpoint and log.
#[derive(Clone, Debug)]
pub(crate) enum ViewStart {
    /// The state began as the view's, at this log index.
    Used { index: u64 },
    /// The state began as the checkpoint's; the view is being built again.
    Rebuilt { reason: RebuildReason },
}

/// A stored view was of no use.
#[derive(Clone, Debug)]
pub(crate) enum RebuildReason {
    /// No view was ever completely written.
    Missing,
    /// The log begins after the view's position.
    Behind,
    /// The log ends before the view's position.
    Ahead,
    /// The view belongs to another log, or to a program of another version.
    Foreign,
    /// The previous start ended while it opened the view. Its directory was set aside.
    Interrupted,
    /// The directory was set aside.
    Damaged(ViewStoreError),
}

impl fmt::Display for RebuildReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::Behind => f.write_str("it was older than the log"),
            Self::Ahead => f.write_str("it was newer than the log"),
            Self::Foreign => f.write_str("it belonged to another log or program"),
            Self::Interrupted => f.write_str("the last start did not come through opening it"),
            Self::Damaged(error) => {
                write!(f, "it was damaged: {error}")?;
                let mut cause = error.source();
                while let Some(source) = cause {
                    write!(f, ": {source}")?;
                    cause = source.source();
                }
                Ok(())
            }
        }
    }
}

/// A view that fits the log.
pub(crate) struct OpenedView {
    pub(super) store: Arc<dyn ViewStore>,
    pub(super) stored: StoredView,
    pub(crate) start: ViewStart,
}

impl OpenedView {
    /// # Errors
    /// If the directory, or an empty store in it, cannot be made. An unusable store is no error.
    pub(crate) async fn open(
        storage: ViewStorage,
        environment: &Environment,
        identity: Identity,
        log: &Log,
    ) -> Result<Self, OpenError> {
        match storage {
            ViewStorage::Memory(store) => Ok(Self::in_memory(store, identity, log)),
            ViewStorage::Directory(directory) => {
                ViewDirectory { directory, environment, identity, log }.open().await
            }
        }
    }

    /// The state of the view; the empty one if the view is to be built again.
    pub(crate) fn applied(&self) -> Applied {
        let StoredView { state, position, .. } = &self.stored;
        Applied { state: state.clone(), position: position.unwrap_or_default() }
    }

    /// The log index of the stored state; 0 of an empty store.
    pub(crate) fn stored_index(&self) -> u64 {
        self.stored.position.map_or(0, |position| position.index)
    }

    fn in_memory(store: MemoryView, identity: Identity, log: &Log) -> Self {
        match Self::load(Arc::new(store.clone()), identity, log) {
            Ok(opened) => opened,
            Err(reason) => {
                store.clear();
                Self::empty(Arc::new(store), reason)
            }
        }
    }

    /// The view in `store`, if it fits the log. Blocking.
    fn load(store: Arc<dyn ViewStore>, identity: Identity, log: &Log) -> Result<Self, RebuildReason> {
        let stored = StoredView::load(&*store, identity)?;
        let index = check_position(&stored, log)?;
        Ok(Self { store, stored, start: ViewStart::Used { index } })
    }

    fn empty(store: Arc<dyn ViewStore>, reason: RebuildReason) -> Self {
        Self { store, stored: StoredView::default(), start: ViewStart::Rebuilt { reason } }
    }
}

/// The directory that holds the store's own directory, the marker, and directories that were set aside.
struct ViewDirectory<'a> {
    directory: PathBuf,
    environment: &'a Environment,
    identity: Identity,
    log: &'a Log,
}

impl ViewDirectory<'_> {
    async fn open(&self) -> Result<OpenedView, OpenError> {
        match self.use_stored().await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(reason)) => self.start_empty(reason).await,
            Err(source) => Err(self.directory_error(source)),
        }
    }

    /// The stored view, if it can be used.
    async fn use_stored(&self) -> io::Result<Result<OpenedView, RebuildReason>> {
        fs::create_dir_all(&self.directory).await?;
        if fs::try_exists(self.marker_path()).await? {
            return Ok(Err(RebuildReason::Interrupted));
        }
        if !fs::try_exists(self.store_path()).await? {
            return Ok(Err(RebuildReason::Missing));
        }
        // The marker comes before sled: should sled end the process, the next start finds the marker.
        fs::write(self.marker_path(), b"").await?;
        let (path, identity, log) = (self.store_path(), self.identity, self.log.clone());
        let load = move || {
            let store = SledView::open(&path).map_err(RebuildReason::Damaged)?;
            OpenedView::load(Arc::new(store), identity, &log)
        };
        let loaded = self.environment.run_blocking(|| catch_unwind(AssertUnwindSafe(load))).await;
        let loaded = loaded.unwrap_or(Err(RebuildReason::Damaged(ViewStoreError::EnginePanicked)));
        if loaded.is_ok() {
            fs::remove_file(self.marker_path()).await?;
        }
        Ok(loaded)
    }

    async fn start_empty(&self, reason: RebuildReason) -> Result<OpenedView, OpenError> {
        self.clear(&reason).await.map_err(|source| self.directory_error(source))?;
        let path = self.store_path();
        let open = move || SledView::open(&path);
        let store = self.environment.run_blocking(|| catch_unwind(AssertUnwindSafe(open))).await;
        let store = store.unwrap_or(Err(ViewStoreError::EnginePanicked));
        let store =
            store.map_err(|source| OpenError::ViewStore { directory: self.directory.clone(), source })?;
        // The directory that the marker warned of is out of the way.
        match fs::remove_file(self.marker_path()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.directory_error(error)),
            Ok(()) | Err(_) => {}
        }
        Ok(OpenedView::empty(Arc::new(store), reason))
    }

    /// Makes room for a new store. A damaged one is kept for an investigation.
    async fn clear(&self, reason: &RebuildReason) -> io::Result<()> {
        if !fs::try_exists(self.store_path()).await? {
            return Ok(());
        }
        match reason {
            RebuildReason::Missing
            | RebuildReason::Behind
            | RebuildReason::Ahead
            | RebuildReason::Foreign => fs::remove_dir_all(self.store_path()).await,
            RebuildReason::Interrupted | RebuildReason::Damaged(_) => self.set_aside().await,
        }
    }

    async fn set_aside(&self) -> io::Result<()> {
        let mut numbers = Vec::new();
        let mut entries = fs::read_dir(&self.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_prefix("bad-")?.parse::<u64>().ok()));
        }
        let next = numbers.iter().max().map_or(1, |newest| newest + 1);
        for number in numbers.into_iter().filter(|number| number + SET_ASIDE_MAX <= next) {
            fs::remove_dir_all(self.directory.join(format!("bad-{number}"))).await?;
        }
        fs::rename(self.store_path(), self.directory.join(format!("bad-{next}"))).await
    }

    fn directory_error(&self, source: io::Error) -> OpenError {
        OpenError::ViewDirectory { directory: self.directory.clone(), source }
    }

    fn store_path(&self) -> PathBuf {
        self.directory.join("view")
    }

    fn marker_path(&self) -> PathBuf {
        self.directory.join("opening")
    }
}

/// The index of the view's position, if the log holds or has purged exactly the entry at that position. Blocking.
fn check_position(stored: &StoredView, log: &Log) -> Result<u64, RebuildReason> {
    let Some(position) = stored.position else { return Err(RebuildReason::Missing) };
    let bounds = log.bounds();
    let last = bounds.last.or(bounds.purged);
    if last.is_none_or(|last| last.index < position.index) {
        return Err(RebuildReason::Ahead);
    }
    let logged = match bounds.purged {
        Some(purged) if purged.index > position.index => return Err(RebuildReason::Behind),
        Some(purged) if purged.index == position.index => purged,
        Some(_) | None => match log.read(position.index, position.index + 1, 1) {
            Ok(frames) => frames.first().map(|frame| frame.header.position).unwrap_or_default(),
            Err(ReadError::Purged { .. }) => return Err(RebuildReason::Behind),
            Err(error) => return Err(RebuildReason::Damaged(ViewStoreError::Log(Arc::new(error)))),
        },
    };
    // Another term or leader at the same index is the history of another log.
    if logged == position { Ok(position.index) } else { Err(RebuildReason::Foreign) }
}
