//! The data directory: one holder, one identity, known formats, whole small files, spare segments.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use fanfare_environment::Environment;
use fanfare_log::{
    DiskFileSystem, FileSystem as _, MemoryFileSystem, NewFrame, OpenError, Position, RollPolicy, Store,
    StoreOptions, memory::Keep,
};

use crate::{
    support::{
        DIR, LOG, REPLICA, SEGMENT_BYTES, append, append_range, frame, open, open_store, open_with, options,
        read_all, roll, timeless, wait,
    },
    watched::{CallKind, FLUSHER, WatchedFileSystem},
};

fn files(fs: &MemoryFileSystem, kind: &str) -> Vec<PathBuf> {
    fs.paths().into_iter().filter(|path| path.extension().is_some_and(|found| found == kind)).collect()
}

fn open_on_disk(dir: &Path) -> Result<Store, OpenError> {
    Store::open(&Environment::system(), Arc::new(DiskFileSystem), dir, options(), Box::new(|_| {}))
}

#[test]
fn a_directory_in_use_is_refused_by_name_until_it_is_released() {
    let fs = MemoryFileSystem::default();
    let first = open_store(&fs).expect("open");
    let error = open_store(&fs).map(|_| ()).expect_err("locked");
    assert!(matches!(&error, OpenError::Locked { path } if path == DIR), "{error}");
    first.close();
    open_store(&fs).expect("released by close");
}

#[test]
fn the_same_holds_on_the_real_disk() {
    let temporary = tempfile::tempdir().expect("temporary directory");
    let dir = temporary.path().join("data");
    let store = open_on_disk(&dir).expect("open");
    let identity = store.identity();
    assert!(matches!(open_on_disk(&dir), Err(OpenError::Locked { .. })));
    store.fill_pool();
    assert!(store.free_bytes() > 0);
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    append_range(&log, 1..40, 1, 150);
    wait(|done| log.truncate_after(Some(30), done)).expect("truncate");
    append_range(&log, 31..60, 2, 150);
    wait(|done| log.purge(Position { term: 1, leader: 1, index: 20 }, 40, done)).expect("purge");
    store.save_file("checkpoint", 3, b"state").expect("save");
    let before = (log.bounds(), read_all(&log));
    drop((store, log));
    let store = open_on_disk(&dir).expect("reopen");
    let log = store.open_log(LOG, REPLICA, roll()).expect("reopen log");
    assert_eq!((log.bounds(), read_all(&log)), before);
    assert_eq!(store.load_file("checkpoint").expect("load"), Some((3, b"state".to_vec())));
    assert_eq!(store.identity(), identity);
}

#[test]
fn a_directory_of_another_version_is_refused_by_its_name() {
    let fs = MemoryFileSystem::default();
    open(&fs).expect("open").0.close();
    let path = Path::new("/data/identity");
    let content = fs.content(path).expect("identity");
    for version in [1_u32, 3] {
        let other = fs.after(fs.operations());
        // Behind the magic and the format of the file stands the version, and its checksum behind the length.
        let mut sealed = content.clone();
        sealed[12..16].copy_from_slice(&version.to_le_bytes());
        let checksum = crc32fast::hash(&[&sealed[..24], &sealed[28..]].concat());
        sealed[24..28].copy_from_slice(&checksum.to_le_bytes());
        other.create(path).expect("create").write_all_at(&sealed, 0).expect("write");
        let error = open(&other).map(|_| ()).expect_err("another version");
        let is_named = match &error {
            OpenError::Older { path, version: 1 } => version == 1 && path == "/data",
            OpenError::Newer { path, version: 3 } => version == 3 && path == "/data/identity",
            _ => false,
        };
        assert!(is_named, "{error}");
    }
}

#[test]
fn formats_of_a_newer_version_are_refused() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..4, 1, 50);
    store.save_file("checkpoint", 1, b"state").expect("save");
    store.close();
    drop((store, log));
    let segment = files(&fs, "seg").remove(0);
    // Version 1 of the segments, 2 of the others.
    for (path, mask) in [(segment.as_path(), 2), (Path::new("/data/journal"), 1)] {
        let newer = fs.after(fs.operations());
        newer.flip(path, 8, mask);
        let error = open(&newer).map(|_| ()).expect_err("newer");
        assert!(matches!(&error, OpenError::Newer { version: 3, .. }), "{}: {error}", path.display());
    }
    fs.flip(Path::new("/data/files/checkpoint"), 8, 2);
    let loaded = open_store(&fs).expect("open").load_file("checkpoint");
    assert!(matches!(loaded, Err(OpenError::Newer { version: 3, .. })));
}

#[test]
fn a_directory_that_lost_its_identity_is_refused() {
    let fs = MemoryFileSystem::default();
    drop(open(&fs).expect("open"));
    fanfare_log::FileSystem::remove(&fs, Path::new("/data/identity")).expect("remove");
    assert!(matches!(open_store(&fs), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_log_belongs_to_one_replica() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    assert!(matches!(store.open_log(LOG, 8, roll()), Err(OpenError::OtherReplica { recorded: REPLICA, .. })));
    drop((store, log));
    let store = open_store(&fs).expect("reopen");
    assert!(matches!(store.open_log(LOG, 8, roll()), Err(OpenError::OtherReplica { asked: 8, .. })));
}

#[test]
fn a_small_file_is_replaced_whole_and_damage_is_told() {
    let fs = MemoryFileSystem::default();
    let store = open_store(&fs).expect("open");
    assert_eq!(store.load_file("checkpoint").expect("load"), None);
    for version in 1..4 {
        store.save_file("checkpoint", version, &[7; 100]).expect("save");
        assert_eq!(store.load_file("checkpoint").expect("load"), Some((version, vec![7; 100])));
    }
    let path = Path::new("/data/files/checkpoint");
    for at in 0..fs.content(path).expect("file").len() as u64 {
        let damaged = fs.after(fs.operations());
        damaged.flip(path, at, 1);
        let loaded = open_store(&damaged).expect("open").load_file("checkpoint");
        assert!(matches!(loaded, Err(OpenError::Corrupt { .. } | OpenError::Newer { .. })), "byte {at}");
    }
}

/// Four frames leave too little room for a fifth.
const FULL: u64 = 4;

#[test]
fn the_next_segment_is_there_before_it_is_needed_and_costs_the_flusher_no_sync_of_its_own() {
    let fs = WatchedFileSystem::default();
    let store = fs.open_store(&timeless(), options());
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    append_range(&log, 1..1 + FULL, 1, 300);
    let deadline = Instant::now() + Duration::from_secs(20);
    while files(&fs.memory, "seg").len() < 2 {
        assert!(Instant::now() < deadline, "no segment was made");
        thread::yield_now();
    }
    fs.take_calls(FLUSHER);
    append(&log, vec![frame(1 + FULL, 1, 300)]).expect("append");
    let mut calls = fs.take_calls(FLUSHER);
    calls.retain(|call| call.kind != CallKind::Write);
    assert_eq!(calls.iter().map(|call| call.kind).collect::<Vec<_>>(), [CallKind::Sync], "{calls:?}");
    assert_eq!(log.segments().len(), 2);
}

#[test]
fn a_segment_that_was_never_begun_is_no_damage_and_is_made_again() {
    for fill_pool in [false, true] {
        let fs = MemoryFileSystem::default();
        let (store, log) = open(&fs).expect("open");
        if fill_pool {
            store.fill_pool();
        }
        append_range(&log, 1..1 + FULL, 1, 300);
        let before = (log.bounds(), read_all(&log));
        store.close();
        drop((store, log));
        assert_eq!(files(&fs, "seg").len(), 2);
        let crashed = fs.crashed(|_| Keep::Nothing);
        assert_eq!(files(&crashed, "seg").len(), 2, "its name is durable");
        let (store, log) = open(&crashed).expect("reopen");
        assert_eq!(files(&crashed, "seg").len(), 1);
        assert_eq!((log.bounds(), read_all(&log)), before);
        append_range(&log, 1 + FULL..20, 1, 300);
        let before = read_all(&log);
        drop((store, log));
        assert_eq!(read_all(&open(&crashed).expect("reopen").1), before);
    }
}

#[test]
fn after_close_everything_fails_and_nothing_hangs() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    store.close();
    append(&log, vec![frame(1, 1, 10)]).expect_err("closed");
    wait(|done| log.save_vote(vec![1], done)).expect_err("closed");
    store.save_file("checkpoint", 1, b"").expect_err("closed");
    store.fill_pool();
    store.close();
}

#[test]
fn logs_of_one_round_are_called_back_in_the_order_of_submission() {
    let fs = MemoryFileSystem::default();
    let store = open_store(&fs).expect("open");
    let logs: Vec<_> = (0..5)
        .map(|number| store.open_log(&format!("events-{number}"), number, roll()).expect("log"))
        .collect();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut submitted = Vec::new();
    for index in 1..100 {
        for (number, log) in logs.iter().enumerate() {
            let called = Arc::clone(&order);
            submitted.push((number, index));
            let done = move |result: Result<(), _>| {
                result.expect("append");
                called.lock().expect("no panic").push((number, index));
            };
            log.append(vec![frame(index, 1, 64)], Box::new(done));
        }
    }
    store.close();
    assert_eq!(*order.lock().expect("no panic"), submitted);
}

#[test]
fn room_is_given_as_soon_as_less_than_the_limit_is_under_way_and_nobody_is_parked_meanwhile() {
    let fs = MemoryFileSystem::default();
    let store = open_with(&fs, StoreOptions { queue_bytes_max: 500, ..options() }).expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("log");
    let (go_on, held) = mpsc::sync_channel(1);
    log.append(vec![frame(1, 1, 600)], Box::new(move |_| held.recv().expect("the test goes on")));
    log.append(vec![frame(2, 1, 600)], Box::new(|result| result.expect("append")));
    let (told, room) = mpsc::sync_channel(2);
    let tell = told.clone();
    log.when_room(Box::new(move || tell.send("room").expect("the test waits")));
    assert!(room.try_recv().is_err(), "too much is under way");
    go_on.send(()).expect("the callback waits");
    assert_eq!(room.recv(), Ok("room"));
    wait(|done| log.save_vote(vec![1], done)).expect("vote");
    let (tell, again) = (told.clone(), log.clone());
    wait(|done| {
        log.append(
            vec![frame(3, 1, 600)],
            Box::new(move |_| {
                // More than the limit is still counted, and the flusher must not wait for itself.
                again.when_room(Box::new(move || tell.send("later").expect("the test waits")));
                again.append(vec![frame(4, 1, 600)], done);
            }),
        );
    })
    .expect("append");
    assert_eq!(room.recv(), Ok("later"));
    assert_eq!(log.bounds().synced_index, 4);
}

#[test]
fn a_closed_store_lets_nobody_wait_for_room() {
    let fs = MemoryFileSystem::default();
    let store = open_with(&fs, StoreOptions { queue_bytes_max: 0, ..options() }).expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("log");
    let (told, room) = mpsc::sync_channel(1);
    log.when_room(Box::new(move || told.send(()).expect("the test waits")));
    assert!(room.try_recv().is_err());
    store.close();
    assert_eq!(room.recv(), Ok(()));
}

#[test]
fn memory_holds_the_newest_frames_within_its_budget() {
    let fs = MemoryFileSystem::default();
    let store = open_with(&fs, StoreOptions { cache_bytes: 5000, ..options() }).expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("log");
    append_range(&log, 1..100, 1, 400);
    assert_eq!(log.read_cached(99, 100, 1).expect("cached").len(), 1);
    assert!(log.read_cached(80, 100, u64::MAX).is_none());
    let cached = (1..100).filter(|index| log.read_cached(*index, index + 1, 1).is_some()).count();
    assert!((5..=12).contains(&cached), "{cached} frames are cached");
    let read = log.read(1, 200, u64::MAX).expect("read");
    assert_eq!(
        read.iter().map(|frame| frame.header.position.index).collect::<Vec<_>>(),
        (1..100).collect::<Vec<_>>()
    );
}

#[test]
fn a_read_gives_at_least_one_frame_and_then_keeps_to_its_limit() {
    for cache_bytes in [0, 1 << 20] {
        let fs = MemoryFileSystem::default();
        let store = open_with(&fs, StoreOptions { cache_bytes, ..options() }).expect("open");
        let log = store.open_log(LOG, REPLICA, roll()).expect("log");
        append_range(&log, 1..30, 1, 400);
        let lengths = [0, 400, 799, 800, 2000].map(|bytes| log.read(3, 30, bytes).expect("read").len());
        assert_eq!(lengths, [1, 1, 1, 2, 5]);
        assert_eq!(log.read(3, 5, u64::MAX).expect("read").len(), 2);
        assert!(log.read(30, 40, u64::MAX).expect("read").is_empty());
    }
}

#[test]
fn a_segment_ends_by_age_only_if_it_holds_events() {
    let by_age = RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: 1000 };
    let timed = |index, count, time_ms| NewFrame { count, time_ms, ..frame(index, 1, 10) };
    let fs = MemoryFileSystem::default();
    let store = open_store(&fs).expect("open");
    let log = store.open_log(LOG, REPLICA, by_age).expect("log");
    append(&log, vec![timed(1, 0, 0), timed(2, 0, 5000), timed(3, 1, 6000), timed(4, 1, 6999)])
        .expect("append");
    assert_eq!(log.segments().len(), 1);
    append(&log, vec![timed(5, 0, 7000), timed(6, 0, 90_000)]).expect("append");
    let spans = log.segments();
    assert_eq!(
        spans.iter().map(|span| (span.first_index, span.sealed)).collect::<Vec<_>>(),
        [(1, true), (5, false)]
    );
}

#[test]
fn a_frame_larger_than_a_segment_gets_one_of_its_own() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append(&log, vec![frame(1, 1, 10), frame(2, 1, 10_000), frame(3, 1, 10)]).expect("append");
    assert_eq!(log.segments().iter().map(|span| span.first_index).collect::<Vec<_>>(), [1, 2, 3]);
    let before = read_all(&log);
    drop((store, log));
    assert_eq!(read_all(&open(&fs).expect("reopen").1), before);
}

#[test]
fn spare_segments_are_used_refilled_by_purges_and_kept_across_restarts() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    store.fill_pool();
    assert_eq!(files(&fs, "free").len(), 2);
    append_range(&log, 1..8, 1, 500);
    assert!(log.segments().len() >= 2 && files(&fs, "free").is_empty());
    wait(|done| log.purge(Position { term: 1, leader: 1, index: 7 }, 14, done)).expect("purge");
    // Freed segments are recycled in the background, and before the directory is released.
    drop((store, log));
    let spare = files(&fs, "free");
    assert!(!spare.is_empty());
    let (_store, log) = open(&fs).expect("reopen");
    assert_eq!(files(&fs, "free"), spare);
    append_range(&log, 8..12, 1, 500);
    assert!(files(&fs, "free").len() < spare.len());
}

#[test]
fn indexes_of_segments_that_are_gone_are_removed_at_the_next_start() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..40, 1, 150);
    store.close();
    drop((store, log));
    let live = files(&fs, "idx");
    assert!(!live.is_empty());
    let orphan = Path::new(DIR).join("logs").join(LOG).join("00000000000000ff.idx");
    fanfare_log::FileSystem::create(&fs, &orphan).expect("create");
    drop(open(&fs).expect("reopen"));
    assert_eq!(files(&fs, "idx"), live);
}
