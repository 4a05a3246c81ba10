//! One data directory: its lock, its identity, its workers, and the state that all of its logs share.

pub(crate) mod fatal;
pub(crate) mod handle;
pub(crate) mod identity;
pub(crate) mod layout;
pub(crate) mod options;
mod pool_filler;
pub(crate) mod sealed_file;
pub(crate) mod shared;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fanfare_environment::Environment;
use parking_lot::Mutex;

use crate::{
    background::{BackgroundQueue, worker::BackgroundWorker},
    error::{Fatal, OpenError},
    flusher::{
        Flusher,
        queue::{Request, RequestQueue, Stop, Work},
    },
    fs::FileSystem,
    journal::LogFacts,
    log::{Log, state::LogShared},
    secondary_index,
    segment::pool::Pool,
    segment::recovery::Recovery,
    segment::roll::RollPolicy,
    store::{
        fatal::FatalLatch,
        handle::StoreHandle,
        layout::{FILES_DIR, LOCK_NAME, LOGS_DIR, POOL_DIR},
        options::StoreOptions,
        pool_filler::PoolFiller,
        sealed_file::TEMPORARY_SUFFIX,
        shared::StoreShared,
    },
};
pub use fatal::OnFatal;
pub use identity::Identity;

/// One data directory: lock, identity, workers, recycled segments, journal, sealed files. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) handle: Arc<StoreHandle>,
}

impl Store {
    /// Opens or makes the data directory `dir` and starts its workers. Blocking. `on_fatal` is called once, at the
    /// first failed write or sync.
    ///
    /// # Errors
    /// If the directory is in use, damaged, of another version, or cannot be read or written.
    pub fn open(
        environment: &Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: StoreOptions,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        fs.create_dir(dir).map_err(|error| Fatal::new("create directory", dir, &error))?;
        // Before anything is read: two processes that both compacted the journal would each lose what the other wrote.
        let lock = fs.lock(&dir.join(LOCK_NAME)).map_err(|error| Fatal::new("lock", dir, &error))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { path: dir.display().to_string() })?;
        let (identity, journal) = identity::open_or_create(environment, &fs, dir, options.segment_bytes)?;
        for name in ["", FILES_DIR] {
            sealed_file::remove_temporary(&*fs, &dir.join(name))?;
        }
        let pool_dir = dir.join(POOL_DIR);
        let pool = Pool::open(&*fs, &pool_dir, options.segment_bytes, options.pool_segments_max)
            .map_err(|error| Fatal::new("open the spare segments in", &pool_dir, &error))?;
        let shared = Arc::new(StoreShared {
            environment: environment.clone(),
            fs,
            dir: dir.to_owned(),
            fatal: FatalLatch::new(on_fatal),
            queue: RequestQueue::new(options.queue_bytes_max),
            pool,
            journal: Mutex::new(journal),
            background: BackgroundQueue::default(),
            index_builder: Arc::new(secondary_index::Builder::new(options.index_draft_bytes_max)),
            cached_bytes: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
            options,
        });
        let handle = StoreHandle::new(shared, identity);
        start_workers(&handle.shared).map_err(|error| Fatal::new("start the workers of", dir, &error))?;
        Ok(Self { handle: Arc::new(handle) })
    }

    pub fn identity(&self) -> Identity {
        self.handle.identity
    }

    /// Opens or creates the log `name` (a path-safe text such as "events-3") of replica `replica`; recovers it. A
    /// log that is open already is shared, under the new `roll`. Blocking.
    pub fn open_log(&self, name: &str, replica: u64, roll: RollPolicy) -> Result<Log, OpenError> {
        assert_path_safe(name);
        let slot = self.handle.logs.lock().entry(name.to_owned()).or_default().clone();
        let mut slot = slot.lock();
        if let Some(open) = &*slot {
            if open.replica != replica {
                return Err(other_replica(name, open.replica, replica));
            }
            open.set_roll(roll);
            return Ok(Log::new(open.clone(), self.handle.clone()));
        }
        let log = self.recover(name, replica, roll)?;
        *slot = Some(log.clone());
        Ok(Log::new(log, self.handle.clone()))
    }

    fn recover(&self, name: &str, replica: u64, roll: RollPolicy) -> Result<Arc<LogShared>, OpenError> {
        let shared = &self.handle.shared;
        shared.usable()?;
        let dir = shared.dir.join(LOGS_DIR).join(name);
        let known = shared.journal.lock().log(name).cloned();
        let facts = match known {
            Some(facts) if facts.replica != replica => {
                return Err(other_replica(name, facts.replica, replica));
            }
            Some(facts) => facts,
            None => self.create_log(&dir, name, replica)?,
        };
        shared.fs.create_dir(&dir).map_err(|error| Fatal::new("create directory", &dir, &error))?;
        let recovery = Recovery {
            fs: &*shared.fs,
            dir: &dir,
            facts: &facts,
            closed: shared.journal.lock().was_closed_cleanly(facts.id),
            log: crc32fast::hash(name.as_bytes()),
        };
        // Before `record_opened`: the mark that is recorded there says that all of it is synced, and the recovery syncs it.
        let recovered = recovery.run()?;
        let (log, end) = LogShared::new(&facts, dir, roll, recovered);
        shared
            .journal
            .lock()
            // Without the record, a start after a crash of this run would take the recovered frames for ones that nobody was
            // told about, and damage among them for a torn tail.
            .record_opened(log.id, log.mark())
            .inspect_err(|fatal| shared.fatal.set(fatal.clone()))?;
        // Before the log is handed out, so that the flusher has its writer when the first append comes.
        let log = Arc::new(log);
        let request = Request::new(log.clone(), Work::Open(Some(end)), Box::new(|_| {}), shared.now());
        shared.queue.push(request).map_err(|_| Fatal::closed(&shared.dir))?;
        Ok(log)
    }

    /// The directory is durable before the journal names the log.
    fn create_log(&self, dir: &Path, name: &str, replica: u64) -> Result<LogFacts, OpenError> {
        let shared = &self.handle.shared;
        shared.fs.create_dir(dir).map_err(|error| Fatal::new("create directory", dir, &error))?;
        let logs_dir = shared.dir.join(LOGS_DIR);
        shared.fs.sync_dir(&logs_dir).map_err(|error| Fatal::new("sync directory", &logs_dir, &error))?;
        let names = shared.fs.list(dir).map_err(|error| Fatal::new("list", dir, &error))?;
        if let Some(foreign) = names.first() {
            return Err(OpenError::corrupt(&dir.join(foreign), 0, "the journal does not know this log"));
        }
        let mut journal = shared.journal.lock();
        // Under one lock with the record: two logs with one id would read each other's marks and votes.
        let id = journal.next_id();
        let facts = LogFacts { id, name: name.to_owned(), replica, ..LogFacts::default() };
        let recorded = journal.record_facts(facts.clone()).and_then(|()| journal.confirm());
        drop(journal);
        recorded.inspect_err(|fatal| shared.fatal.set(fatal.clone()))?;
        Ok(facts)
    }

    /// Writes spare segment files up to the pool's limit. Blocking. Returns early when the store closes, at the first
    /// failure, and where the disk would be left with less room than logs need without spare files.
    pub fn fill_pool(&self) {
        PoolFiller::fill(&self.handle.shared);
    }

    /// Starts to fill the pool as `fill_pool` does, now and after segments were started, once none has been started
    /// for `quiet`: under load, filling would cost the logs more of the disk than spare files gain. Ends with the
    /// store. Called once.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn keep_pool_filled(&self, quiet: Duration) -> io::Result<()> {
        let shared = &self.handle.shared;
        let filler = PoolFiller::new(shared.clone(), quiet);
        shared.pool.start(shared.environment.start_worker("log-pool", Box::new(filler))?);
        Ok(())
    }

    /// Replaces a small file atomically (temporary, sync, rename, directory sync), with magic, version, length and
    /// crc around `bytes`. Blocking.
    pub fn save_file(&self, name: &str, version: u32, bytes: &[u8]) -> Result<(), Fatal> {
        assert_path_safe(name);
        let shared = &self.handle.shared;
        shared.usable()?;
        let dir = shared.dir.join(FILES_DIR);
        let number = self.handle.files_saved.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!("{name}.{number}{TEMPORARY_SUFFIX}"));
        sealed_file::replace(&*shared.fs, &dir.join(name), &temporary, &sealed_file::encode(version, bytes))
            .inspect_err(|fatal| shared.fatal.set(fatal.clone()))
    }

    /// Version and content; None if there is none. A damaged file is `Corrupt`.
    pub fn load_file(&self, name: &str) -> Result<Option<(u32, Vec<u8>)>, OpenError> {
        assert_path_safe(name);
        let shared = &self.handle.shared;
        sealed_file::load(&*shared.fs, &shared.dir.join(FILES_DIR).join(name))
    }

    /// Free bytes of the filesystem that holds the directory; 0 if they cannot be told.
    pub fn free_bytes(&self) -> u64 {
        self.handle.shared.free_bytes()
    }

    /// How long the oldest append, vote or truncation that is not durable yet has been waiting; zero if none waits. More
    /// than a second means that the disk is stalled, which is also logged, once per stall.
    #[must_use]
    pub fn oldest_unsynced(&self) -> Duration {
        let shared = &self.handle.shared;
        shared.queue.oldest_wait(shared.now())
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

fn start_workers(shared: &Arc<StoreShared>) -> io::Result<()> {
    let background = BackgroundWorker::new(shared.clone());
    shared.background.start(shared.environment.start_worker("log-background", Box::new(background))?);
    let flusher = Flusher::new(shared.clone());
    shared.queue.start(shared.environment.start_worker("log-flusher", Box::new(flusher))?);
    Ok(())
}
