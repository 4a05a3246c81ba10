//! Spare segments are there when they are needed, and cost nobody the room or the time that logs need.
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_environment::Environment;
use fanfare_log::{Log, MemoryFileSystem, NewFrame, Payload, Position, Store, StoreOptions, memory::Failure};

use crate::support::{
    DIR, LOG, REPLICA, SEGMENT_BYTES, append, append_range, frame, open, open_store, open_with, options,
    roll, wait,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn pool_files(fs: &MemoryFileSystem) -> usize {
    let pool = Path::new(DIR).join("pool");
    fs.paths().iter().filter(|path| path.starts_with(&pool)).count()
}

fn eventually(story: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {story}");
        thread::yield_now();
    }
}

fn keep_filled(store: &Store, quiet: Duration) {
    store.keep_pool_filled(quiet).expect("a thread");
}

/// What filling never touches.
fn reserve_bytes() -> u64 {
    2 * SEGMENT_BYTES + options().queue_bytes_max
}

#[test]
fn a_pool_is_not_refilled_while_segments_are_being_started() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    keep_filled(&store, Duration::from_secs(3600));
    eventually("the pool is full", || pool_files(&fs) == 2);
    append_range(&log, 1..33, 1, 500);
    assert_eq!(pool_files(&fs), 0);
    store.close();
}

#[test]
fn a_pool_that_is_kept_filled_replaces_every_spare_that_was_taken() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    keep_filled(&store, Duration::ZERO);
    for round in 0..10 {
        eventually("the pool is full", || pool_files(&fs) == 2);
        append_range(&log, 1 + round * 8..9 + round * 8, 1, 500);
    }
    let grown = fs.paths().iter().filter(|path| path.extension().is_some_and(|found| found == "seg")).count();
    assert!(grown > 10, "only {grown} segments were started");
    eventually("the pool is full", || pool_files(&fs) == 2);
    store.close();
}

#[test]
fn filling_ends_with_the_store_and_leaves_the_directory_free() {
    let close: [fn(Store); 2] = [|store| store.close(), drop];
    for close in close {
        for _ in 0..50 {
            let fs = MemoryFileSystem::default();
            let store = open_store(&fs).expect("open");
            keep_filled(&store, Duration::ZERO);
            close(store);
            assert!(fs.paths().iter().all(|path| path.extension().is_none_or(|found| found != "new")));
            open_store(&fs).expect("released");
        }
    }
}

#[test]
fn filling_leaves_the_logs_their_room() {
    for (free, spares) in [(0, 0), (SEGMENT_BYTES - 1, 0), (SEGMENT_BYTES, 1), (2 * SEGMENT_BYTES, 2)] {
        let fs = MemoryFileSystem::default();
        let (store, log) = open(&fs).expect("open");
        fs.leave_free(reserve_bytes() + free);
        store.fill_pool();
        assert_eq!(pool_files(&fs), spares, "with {free} bytes beyond the reserve");
        append_range(&log, 1..20, 1, 300);
    }
}

#[test]
fn filling_goes_on_with_the_next_segment_after_room_was_made() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    fs.leave_free(reserve_bytes());
    keep_filled(&store, Duration::ZERO);
    append_range(&log, 1..3, 1, 500);
    assert_eq!(pool_files(&fs), 0);
    fs.leave_free(1 << 30);
    append_range(&log, 3..8, 1, 500);
    eventually("the pool is full", || pool_files(&fs) == 2);
    store.close();
}

#[test]
fn a_spare_that_cannot_be_written_is_removed_and_the_store_goes_on() {
    for failure in [Failure::Io, Failure::DiskFull] {
        for (fail, passing) in [
            (MemoryFileSystem::fail_write as fn(&MemoryFileSystem, u64, Failure), 0),
            (MemoryFileSystem::fail_write, 1),
            (MemoryFileSystem::fail_sync, 0),
            (MemoryFileSystem::fail_sync, 1),
        ] {
            let fs = MemoryFileSystem::default();
            let told = Arc::new(AtomicBool::new(false));
            let tell = told.clone();
            let on_fatal = Box::new(move |_: &_| tell.store(true, Ordering::SeqCst));
            let files = Arc::new(fs.clone());
            let store = Store::open(&Environment::system(), files, Path::new(DIR), options(), on_fatal);
            let store = store.expect("open");
            let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
            fail(&fs, passing, failure);
            store.fill_pool();
            assert_eq!(pool_files(&fs), 0);
            append_range(&log, 1..4, 1, 300);
            store.fill_pool();
            assert_eq!(pool_files(&fs), 2);
            assert!(!told.load(Ordering::SeqCst));
        }
    }
}

/// A buffer that tells, when it is freed, whether the log could be used meanwhile.
struct Watched {
    log: Log,
    content: Vec<u8>,
    told: mpsc::SyncSender<bool>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let log = self.log.clone();
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::spawn(move || sender.send(log.bounds().last.is_some()));
        let usable = receiver.recv_timeout(Duration::from_secs(5)).is_ok();
        self.told.send(usable).expect("the test waits");
    }
}

type Way = (&'static str, fn(&Log));

fn position(index: u64) -> Position {
    Position { term: 1, leader: 1, index }
}

#[test]
fn the_log_can_be_used_while_buffers_that_left_memory_are_freed() {
    let ways: [Way; 4] = [
        ("evict", |log| append(log, vec![frame(3, 1, 3000)]).expect("append")),
        ("purge", |log| wait(|done| log.purge(position(1), 2, done)).expect("purge")),
        ("restart", |log| wait(|done| log.purge(position(9), 20, done)).expect("restart")),
        ("truncate", |log| wait(|done| log.truncate_after(None, done)).expect("truncate")),
    ];
    for (name, leave) in ways {
        let fs = MemoryFileSystem::default();
        let store = open_with(&fs, StoreOptions { cache_bytes: 3000, ..options() }).expect("open");
        let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
        let (told, freed) = mpsc::sync_channel(1);
        let watched = Watched { log: log.clone(), content: vec![1; 1000], told };
        let payload = Payload::new(vec![Bytes::from_owner(watched)]);
        append(&log, vec![NewFrame { payload, ..frame(1, 1, 0) }]).expect("append");
        // The flusher has let go of the first round when it answers the second.
        append(&log, vec![frame(2, 1, 10)]).expect("append");
        assert!(freed.try_recv().is_err(), "{name}: still in memory");
        leave(&log);
        assert!(freed.recv_timeout(DEADLINE).expect("freed"), "{name}");
    }
}
