//! The whole catalog over a real group: its log on files in memory, its view in a directory.

mod changes;
mod starts;

use std::{fs, io, path::Path, sync::atomic::AtomicU64};

use fanfare_environment::Clock;
use fanfare_log::{MemoryFileSystem, Store, StoreOptions, memory::Keep};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{EventTypeStatus, NewEventType, NewKey};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Commands of a first start with [`options`]: the broker and the limits.
const SETUP_COMMANDS: u64 = 2;

/// A catalog and what it stands on.
struct Node {
    files: MemoryFileSystem,
    dir: TempDir,
    store: Store,
    catalog: Catalog,
}

fn options() -> CatalogOptions {
    CatalogOptions { event_types_max: 10_000, ..CatalogOptions::default() }
}

fn open_store(files: &MemoryFileSystem) -> Store {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: 1,
        cache_bytes: 8 << 20,
        queue_bytes_max: 8 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    Store::open(
        &fanfare_environment::Environment::system(),
        Arc::new(files.clone()),
        Path::new("/data"),
        options,
        Box::new(|_| ()),
    )
    .unwrap()
}

/// A clock of which no two readings are equal.
struct TickingClock(AtomicU64);

impl Clock for TickingClock {
    fn unix_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.unix_ms())
    }
}

fn environment() -> Environment {
    Environment::system().with_clock(Arc::new(TickingClock(AtomicU64::new(1000))))
}

fn directory(dir: &TempDir) -> ViewStorage {
    ViewStorage::Directory(dir.path().to_owned())
}

fn new_key() -> NewKey {
    NewKey::generate(&**Environment::system().random())
}

impl Node {
    async fn new() -> Self {
        Self::open(MemoryFileSystem::default(), TempDir::new().unwrap(), options()).await
    }

    async fn open(files: MemoryFileSystem, dir: TempDir, options: CatalogOptions) -> Self {
        let store = open_store(&files);
        let host = Host::without_peers(store.clone(), environment());
        let opened = timeout(DEADLINE, Catalog::open(&host, directory(&dir), options));
        let catalog = opened.await.expect("it opens in time").expect("it opens");
        Self { files, dir, store, catalog }
    }

    /// What a power cut now would leave of the log.
    fn files_after_crash(&self) -> MemoryFileSystem {
        self.files.crashed(|_| Keep::Nothing)
    }

    /// What a killed process would leave of the view, once it has caught up with the changes.
    async fn view_after_kill(&self) -> TempDir {
        self.view_is_stored().await;
        let dir = TempDir::new().unwrap();
        copy(self.dir.path(), dir.path()).unwrap();
        dir
    }

    async fn view_is_stored(&self) {
        let last = self.catalog.state().applied_index();
        let mut stored = self.catalog.shared.stored_index.clone();
        let caught_up = stored.wait_for(|stored| *stored >= last);
        timeout(DEADLINE, caught_up).await.expect("the view catches up in time").expect("the writer runs");
    }

    async fn stop(self) -> (MemoryFileSystem, TempDir) {
        let Self { files, dir, store, catalog } = self;
        timeout(DEADLINE, catalog.shutdown()).await.expect("it stops in time");
        store.close();
        (files, dir)
    }

    async fn tenant(&self) -> Tenant {
        let key = new_key();
        self.catalog.bootstrap("acme", &key).await.unwrap().expect("the catalog is empty");
        self.catalog.authenticate(key.text.expose()).unwrap()
    }

    async fn create_types(&self, tenant: Tenant, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.catalog.create_event_type(tenant, event_type(&format!("type.{number}"))).await.unwrap();
        }
    }
}

fn event_type(name: &str) -> NewEventType {
    let (name, description) = (name.to_owned(), "for a test".to_owned());
    NewEventType { name, description, schema: None, status: EventTypeStatus::Available }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn rebuilt(catalog: &Catalog) -> &crate::RebuildReason {
    match &catalog.start_report().view {
        ViewStart::Rebuilt { reason } => reason,
        ViewStart::Used { index } => panic!("the view was used at {index}"),
    }
}
