//! One data directory: its lock, its identity, its flusher, and what all of its logs share.
pub(crate) mod sealed_file;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    background::{Chores, Worker},
    codec::Fields,
    error::{Fatal, OpenError},
    flusher::Flusher,
    flusher::queue::{Queue, Stop},
    fs::{DirectoryLock, FileSystem},
    journal::{Journal, LogFacts},
    log::{Log, LogShared, RollPolicy},
    secondary_index,
    segment::pool::Pool,
    segment::recovery::Recovery,
    store::sealed_file::TEMPORARY_SUFFIX,
};

const LOCK_NAME: &str = "LOCK";
const IDENTITY_NAME: &str = "identity";
const IDENTITY_VERSION: u32 = 1;
pub(crate) const LOGS_DIR: &str = "logs";
const POOL_DIR: &str = "pool";
pub(crate) const FILES_DIR: &str = "files";

/// Segments for which filling the pool leaves room on disk, beside what is queued: logs go on without the pool.
const RESERVED_SEGMENTS: u64 = 2;
/// For the chunk of a spare segment that is being written when the store closes.
const FILLING_ENDS_MAX: Duration = Duration::from_secs(5);

/// Called once, at the first failed write or sync.
pub type OnFatal = Box<dyn Fn(&Fatal) + Send + Sync>;

#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Size of the spare files; logs that roll at this size use them.
    pub segment_bytes: u64,
    pub pool_segments_max: usize,
    /// For frames kept in memory, of all logs together. What is not flushed yet stays in memory beyond it.
    pub cache_bytes: u64,
    /// `Log::when_room` waits while so much is on its way to disk.
    pub queue_bytes_max: u64,
    /// What was written and synced stays in the operating system's page cache up to about this; 0: as long as the
    /// system likes.
    pub page_cache_bytes: u64,
}

/// Drawn when the directory is first opened, as that of the first node of a new cluster: `node` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: [u8; 16],
    pub node: u64,
    pub incarnation: [u8; 16],
}

/// What the flusher and the handles share.
pub(crate) struct Disk {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) latch: Latch,
    pub(crate) queue: Queue,
    pub(crate) pool: Pool,
    pub(crate) journal: Mutex<Journal>,
    pub(crate) chores: Chores,
    pub(crate) index_builder: Arc<secondary_index::Builder>,
    pub(crate) cached_bytes: AtomicU64,
    lock: Mutex<Option<DirectoryLock>>,
}

/// Remembers the first failure for good.
pub(crate) struct Latch {
    fatal: OnceLock<Fatal>,
    on_fatal: OnFatal,
}

impl Latch {
    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.fatal.get().cloned()
    }

    pub(crate) fn trip(&self, fatal: Fatal) {
        let mut first = false;
        let latched = self.fatal.get_or_init(|| {
            first = true;
            fatal
        });
        if first {
            (self.on_fatal)(latched);
        }
    }
}

impl Disk {
    /// Never zero, so that no page of zeros is ever sealed by it.
    pub(crate) fn nonce(&self) -> Result<u64, Fatal> {
        let drawn = self.fs.random().map_err(|error| Fatal::new("draw a nonce for", &self.dir, &error))?;
        Ok(drawn | 1)
    }

    /// Why nothing more is taken.
    pub(crate) fn refusal(&self) -> Option<Fatal> {
        self.latch.fatal()
    }

    fn usable(&self) -> Result<(), Fatal> {
        match self.latch.fatal() {
            Some(fatal) => Err(fatal),
            None if self.queue.is_stopped() => Err(Fatal::closed(&self.dir)),
            None => Ok(()),
        }
    }

    fn free_bytes(&self) -> u64 {
        self.fs.free_bytes(&self.dir).unwrap_or_else(|error| {
            tracing::warn!(dir = %self.dir.display(), %error, "ask for free space");
            0
        })
    }

    /// Ends at the first failure, which harms nobody: the files are only spare.
    /// Stops early if `go_on` says so between two files.
    fn fill_pool(&self, go_on: &dyn Fn() -> bool) {
        let segments_bytes = self.options.segment_bytes.saturating_mul(RESERVED_SEGMENTS);
        let reserve = segments_bytes.saturating_add(self.options.queue_bytes_max);
        let has_room =
            |bytes: u64| self.usable().is_ok() && self.free_bytes() >= bytes.saturating_add(reserve);
        loop {
            match self.pool.fill_one(&*self.fs, &has_room) {
                Ok(true) if go_on() => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(dir = %self.dir.display(), %error, "write spare segments");
                    return;
                }
            }
        }
    }
}

/// Shared by all clones of a store and of its logs; the flusher ends with the last of them.
pub(crate) struct Handle {
    pub(crate) disk: Arc<Disk>,
    identity: Identity,
    logs: Mutex<HashMap<String, LogSlot>>,
    files_saved: AtomicU64,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

/// Locked while its log is being opened.
type LogSlot = Arc<Mutex<Option<Arc<LogShared>>>>;

impl Handle {
    fn stop(&self, stop: Stop) {
        self.disk.queue.stop(stop);
        self.disk.pool.close();
        self.disk.index_builder.close();
        // A callback on the flusher's own thread may be the last user: then the thread ends by itself.
        if self.disk.queue.is_flusher() {
            return;
        }
        // Held while joining, so that nobody returns from here before the flusher has ended.
        let mut flusher = self.flusher.lock();
        if flusher.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(dir = %self.disk.dir.display(), "the flusher panicked");
        }
        self.disk.index_builder.join();
        if self.disk.pool.wait_until_unfilled(Instant::now() + FILLING_ENDS_MAX) {
            self.disk.lock.lock().take();
        } else {
            // Released with the last user of `disk`: a file may still get a name in the directory.
            tracing::warn!(dir = %self.disk.dir.display(), "a spare segment is still being written");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Stop::Dropped);
    }
}

/// One data directory: lock, identity, flusher thread, recycled segments, hard state, sealed files. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) handle: Arc<Handle>,
}

impl Store {
    /// `on_fatal` is called once, at the first failed write or sync.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: StoreOptions,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        fs.create_dir(dir).map_err(|error| Fatal::new("create directory", dir, &error))?;
        let lock = fs.lock(&dir.join(LOCK_NAME)).map_err(|error| Fatal::new("lock", dir, &error))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { path: dir.display().to_string() })?;
        let (identity, journal) = open_or_create(&fs, dir, options.segment_bytes)?;
        for name in ["", FILES_DIR] {
            sealed_file::remove_temporary(&*fs, &dir.join(name))?;
        }
        let pool_dir = dir.join(POOL_DIR);
        let pool = Pool::open(&*fs, &pool_dir, options.segment_bytes, options.pool_segments_max)
            .map_err(|error| Fatal::new("open the spare segments in", &pool_dir, &error))?;
        let disk = Arc::new(Disk {
            fs,
            dir: dir.to_owned(),
            latch: Latch { fatal: OnceLock::new(), on_fatal },
            queue: Queue::new(options.queue_bytes_max),
            pool,
            journal: Mutex::new(journal),
            chores: Chores::default(),
            index_builder: Arc::default(),
            cached_bytes: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
            options,
        });
        let worker = Worker::start(Arc::clone(&disk))
            .map_err(|error| Fatal::new("start a thread for", dir, &error))?;
        let flusher = Flusher::new(Arc::clone(&disk), worker);
        let flusher = thread::Builder::new()
            .name("log-flusher".to_owned())
            .spawn(move || flusher.run())
            .map_err(|error| Fatal::new("start the flusher of", dir, &error))?;
        let handle = Handle {
            disk,
            identity,
            logs: Mutex::default(),
            files_saved: AtomicU64::new(0),
            flusher: Mutex::new(Some(flusher)),
        };
        Ok(Self { handle: Arc::new(handle) })
    }

    pub fn identity(&self) -> Identity {
        self.handle.identity
    }

    /// Opens or creates the log `name` (a path-safe text such as "events-3") of replica `replica`; recovers it. A
    /// log that is open already is shared, under the new `roll`. Blocking.
    pub fn open_log(&self, name: &str, replica: u64, roll: RollPolicy) -> Result<Log, OpenError> {
        assert_path_safe(name);
        let slot = Arc::clone(self.handle.logs.lock().entry(name.to_owned()).or_default());
        let mut slot = slot.lock();
        if let Some(open) = &*slot {
            if open.replica != replica {
                return Err(other_replica(name, open.replica, replica));
            }
            open.set_roll(roll);
            return Ok(Log::new(Arc::clone(open), Arc::clone(&self.handle)));
        }
        let log = Arc::new(self.recover(name, replica, roll)?);
        *slot = Some(Arc::clone(&log));
        Ok(Log::new(log, Arc::clone(&self.handle)))
    }

    fn recover(&self, name: &str, replica: u64, roll: RollPolicy) -> Result<LogShared, OpenError> {
        let disk = &self.handle.disk;
        disk.usable()?;
        let dir = disk.dir.join(LOGS_DIR).join(name);
        let known = disk.journal.lock().log(name).cloned();
        let facts = match known {
            Some(facts) if facts.replica != replica => {
                return Err(other_replica(name, facts.replica, replica));
            }
            Some(facts) => facts,
            None => self.create_log(&dir, name, replica)?,
        };
        disk.fs.create_dir(&dir).map_err(|error| Fatal::new("create directory", &dir, &error))?;
        let recovery = Recovery {
            fs: &*disk.fs,
            dir: &dir,
            facts: &facts,
            closed: disk.journal.lock().was_closed_cleanly(facts.id),
            log: crc32fast::hash(name.as_bytes()),
        };
        let recovered = recovery.run()?;
        let log = LogShared::new(&facts, dir, roll, recovered);
        disk.journal
            .lock()
            .record_opened(log.id, log.mark())
            .inspect_err(|fatal| disk.latch.trip(fatal.clone()))?;
        Ok(log)
    }

    /// The directory is durable before the journal names the log.
    fn create_log(&self, dir: &Path, name: &str, replica: u64) -> Result<LogFacts, OpenError> {
        let disk = &self.handle.disk;
        disk.fs.create_dir(dir).map_err(|error| Fatal::new("create directory", dir, &error))?;
        let logs_dir = disk.dir.join(LOGS_DIR);
        disk.fs.sync_dir(&logs_dir).map_err(|error| Fatal::new("sync directory", &logs_dir, &error))?;
        let names = disk.fs.list(dir).map_err(|error| Fatal::new("list", dir, &error))?;
        if let Some(foreign) = names.first() {
            return Err(OpenError::corrupt(&dir.join(foreign), 0, "the hard state does not know this log"));
        }
        let mut journal = disk.journal.lock();
        let id = journal.next_id();
        let facts = LogFacts { id, name: name.to_owned(), replica, ..LogFacts::default() };
        let recorded = journal.record_facts(facts.clone()).and_then(|()| journal.sync());
        drop(journal);
        recorded.inspect_err(|fatal| disk.latch.trip(fatal.clone()))?;
        Ok(facts)
    }

    /// Writes spare segment files up to the pool's limit; blocking. Returns early when the store closes, at the
    /// first failure, and where the disk would be left with less room than logs need without spare files.
    pub fn fill_pool(&self) {
        let disk = &self.handle.disk;
        if let Some(_filling) = disk.pool.start_filling() {
            disk.fill_pool(&|| true);
        }
    }

    /// Fills the pool as `fill_pool` does, and again after segments were started, once none has been started for
    /// `quiet`: under load the disk is the log's, and filling would cost more than spare files gain. Blocking, to be
    /// run on a thread of its own; returns when the store is closed, or dropped by all others.
    pub fn keep_pool_filled(self, quiet: Duration) {
        let disk = Arc::clone(&self.handle.disk);
        drop(self);
        let Some(_filling) = disk.pool.start_filling() else { return };
        loop {
            let asked = disk.pool.asked();
            disk.fill_pool(&|| disk.pool.asked() == asked);
            if !disk.pool.wait_until_quiet(asked, quiet) {
                return;
            }
        }
    }

    /// Replaces a small file atomically (temporary, sync, rename, directory sync), with magic, version, length and
    /// crc around `bytes`. Blocking.
    pub fn save_file(&self, name: &str, version: u32, bytes: &[u8]) -> Result<(), Fatal> {
        assert_path_safe(name);
        let disk = &self.handle.disk;
        disk.usable()?;
        let dir = disk.dir.join(FILES_DIR);
        let number = self.handle.files_saved.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!("{name}.{number}{TEMPORARY_SUFFIX}"));
        sealed_file::replace(&*disk.fs, &dir.join(name), &temporary, &sealed_file::encode(version, bytes))
            .inspect_err(|fatal| disk.latch.trip(fatal.clone()))
    }

    /// Version and content; None if there is none. A damaged file is `Corrupt`.
    pub fn load_file(&self, name: &str) -> Result<Option<(u32, Vec<u8>)>, OpenError> {
        assert_path_safe(name);
        let disk = &self.handle.disk;
        sealed_file::load(&*disk.fs, &disk.dir.join(FILES_DIR).join(name))
    }

    /// Of the filesystem that holds the directory; 0 if it cannot be told.
    pub fn free_bytes(&self) -> u64 {
        self.handle.disk.free_bytes()
    }

    /// Flushes what is queued, writes the clean-stop mark, joins the flusher. Blocking. Later calls on logs fail.
    pub fn close(&self) {
        self.handle.stop(Stop::Clean);
    }
}

fn other_replica(name: &str, recorded: u64, asked: u64) -> OpenError {
    OpenError::OtherReplica { name: name.to_owned(), recorded, asked }
}

fn assert_path_safe(name: &str) {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    assert!(
        !name.is_empty()
            && name.bytes().all(safe)
            && !name.starts_with('.')
            && !name.ends_with(TEMPORARY_SUFFIX),
        "{name:?} is not a path-safe name"
    );
}

/// The identity is written last, so a directory without one holds nothing yet.
fn open_or_create(
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    segment_bytes: u64,
) -> Result<(Identity, Journal), OpenError> {
    let path = dir.join(IDENTITY_NAME);
    if let Some((version, content)) = sealed_file::load(&**fs, &path)? {
        if version > IDENTITY_VERSION {
            return Err(OpenError::Newer { path: path.display().to_string(), version });
        }
        let identity =
            decode_identity(&content).ok_or_else(|| OpenError::corrupt(&path, 0, "identity is malformed"))?;
        let journal = Journal::open(Arc::clone(fs), dir, segment_bytes)?;
        return Ok((identity, journal));
    }
    for name in [LOGS_DIR, POOL_DIR, FILES_DIR] {
        let inner = dir.join(name);
        fs.create_dir(&inner).map_err(|error| Fatal::new("create directory", &inner, &error))?;
        let names = fs.list(&inner).map_err(|error| Fatal::new("list", &inner, &error))?;
        if !names.is_empty() {
            return Err(OpenError::corrupt(&path, 0, "identity is missing from a directory in use"));
        }
    }
    for ancestor in dir.ancestors().skip(1).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        fs.sync_dir(ancestor).map_err(|error| Fatal::new("sync directory", ancestor, &error))?;
    }
    let journal = Journal::create(Arc::clone(fs), dir, segment_bytes)?;
    let identity = draw_identity(&**fs, &path)?;
    let temporary = dir.join(format!("{IDENTITY_NAME}{TEMPORARY_SUFFIX}"));
    sealed_file::replace(
        &**fs,
        &path,
        &temporary,
        &sealed_file::encode(IDENTITY_VERSION, &encode_identity(&identity)),
    )?;
    Ok((identity, journal))
}

fn draw_identity(fs: &dyn FileSystem, path: &Path) -> Result<Identity, Fatal> {
    let draw = || -> Result<[u8; 16], Fatal> {
        let mut drawn = Vec::new();
        for _ in 0..2 {
            let random = fs.random().map_err(|error| Fatal::new("draw", path, &error))?;
            drawn.extend_from_slice(&random.to_le_bytes());
        }
        Ok(drawn.try_into().expect("two numbers of eight bytes"))
    };
    Ok(Identity { cluster: draw()?, node: 1, incarnation: draw()? })
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut bytes = identity.cluster.to_vec();
    bytes.extend_from_slice(&identity.node.to_le_bytes());
    bytes.extend_from_slice(&identity.incarnation);
    bytes
}

fn decode_identity(bytes: &[u8]) -> Option<Identity> {
    let mut fields = Fields::new(bytes);
    Some(Identity { cluster: fields.array()?, node: fields.u64()?, incarnation: fields.array()? })
}
