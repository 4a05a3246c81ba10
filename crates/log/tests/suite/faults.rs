//! A disk that fails: the first failure is final, is told once, and nothing is acknowledged after it.
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use fanfare_environment::Environment;
use fanfare_log::{Log, MemoryFileSystem, Store, memory::Failure, memory::Keep};

use crate::support::{DIR, LOG, REPLICA, append, append_range, frame, open, options, read_all, roll, wait};

fn open_counting(fs: &MemoryFileSystem) -> (Store, Log, Arc<AtomicU32>) {
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let on_fatal = move |_: &_| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let store = Store::open(
        &Environment::system(),
        Arc::new(fs.clone()),
        Path::new(DIR),
        options(),
        Box::new(on_fatal),
    )
    .expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    (store, log, told)
}

#[test]
fn a_failed_sync_is_final_and_never_retried() {
    let fs = MemoryFileSystem::default();
    let (store, log, told) = open_counting(&fs);
    append_range(&log, 1..4, 1, 50);
    fs.fail_sync(0, Failure::Io);
    let fatal = append(&log, vec![frame(4, 1, 50)]).expect_err("the sync failed");
    assert!(!fatal.disk_full && fatal.operation.starts_with("sync"), "{fatal}");
    let syncs = fs.syncs();
    append(&log, vec![frame(5, 1, 50)]).expect_err("final");
    wait(|done| log.save_vote(vec![1], done)).expect_err("final");
    wait(|done| log.truncate_after(Some(1), done)).expect_err("final");
    store.save_file("checkpoint", 1, b"state").expect_err("final");
    store.close();
    assert_eq!(fs.syncs(), syncs, "nothing is synced after the failure");
    assert_eq!(told.load(Ordering::SeqCst), 1);
    drop((store, log));
    let (_store, log) = open(&fs.crashed(|_| Keep::Nothing)).expect("reopen");
    assert_eq!(read_all(&log).len(), 3);
    assert_eq!(log.vote(), None);
}

#[test]
fn every_failing_write_or_sync_fails_what_waits_and_keeps_what_was_acknowledged() {
    for failure in [Failure::Io, Failure::DiskFull] {
        for passing in 0..60 {
            for fail in [MemoryFileSystem::fail_write, MemoryFileSystem::fail_sync] {
                let fs = MemoryFileSystem::default();
                let (store, log, told) = open_counting(&fs);
                fail(&fs, passing, failure);
                let results: Vec<_> = (1..20).map(|index| append(&log, vec![frame(index, 1, 300)])).collect();
                let acknowledged = results.iter().take_while(|result| result.is_ok()).count();
                assert!(
                    results[acknowledged..].iter().all(Result::is_err),
                    "an append after the failure passed"
                );
                for fatal in results.iter().filter_map(|result| result.as_ref().err()) {
                    assert_eq!(fatal.disk_full, failure == Failure::DiskFull, "{fatal}");
                }
                assert_eq!(told.load(Ordering::SeqCst), u32::from(acknowledged < results.len()));
                drop((store, log));
                let (_store, log) = open(&fs.crashed(|_| Keep::Nothing)).expect("reopen");
                assert!(read_all(&log).len() >= acknowledged, "an acknowledged frame is lost");
            }
        }
    }
}

#[test]
fn a_full_disk_is_named_and_the_log_goes_on_after_a_restart_with_space() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..4, 1, 50);
    fs.fail_write(0, Failure::DiskFull);
    let fatal = append(&log, vec![frame(4, 1, 50)]).expect_err("no space");
    assert!(fatal.disk_full && fatal.path.starts_with(DIR), "{fatal}");
    drop((store, log));
    let (_store, log) = open(&fs).expect("reopen");
    append_range(&log, 4..8, 1, 50);
    assert_eq!(read_all(&log).len(), 7);
}

#[test]
fn failing_to_fill_the_pool_harms_nobody() {
    let fs = MemoryFileSystem::default();
    let (store, log, told) = open_counting(&fs);
    fs.fail_write(1, Failure::DiskFull);
    store.fill_pool();
    append_range(&log, 1..20, 1, 300);
    assert_eq!(told.load(Ordering::SeqCst), 0);
}
