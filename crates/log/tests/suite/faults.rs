//! A disk that fails: the first failure is final, is told once, and nothing is acknowledged after it.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use fanfare_log::{
    Log, MemoryFileSystem, OpenError, Store,
    memory::{Failure, Keep},
};

use crate::{
    model::{Model, Step},
    support::{
        DIR, LOG, REPLICA, append, append_range, frame, open, open_store, options, read_all, roll, timeless,
        wait,
    },
};

fn open_counting(fs: &MemoryFileSystem) -> (Store, Log, Arc<AtomicU32>) {
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let on_fatal = move |_: &_| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    // No sync of the journal comes between those of the test, however slow the machine is.
    let store = Store::open(&timeless(), Arc::new(fs.clone()), Path::new(DIR), options(), Box::new(on_fatal))
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
fn failing_to_fill_the_pool_leaves_logs_usable() {
    let fs = MemoryFileSystem::default();
    let (store, log, told) = open_counting(&fs);
    fs.fail_write(1, Failure::DiskFull);
    store.fill_pool();
    append_range(&log, 1..20, 1, 300);
    assert_eq!(told.load(Ordering::SeqCst), 0);
}

const STEPS: [Step; 9] = [
    Step::Append { frames: 5, payload_bytes: 700 },
    Step::Vote(1),
    Step::Append { frames: 2, payload_bytes: 200 },
    Step::Truncate { dropped: 3 },
    Step::Append { frames: 5, payload_bytes: 700 },
    Step::Purge { kept: 3 },
    Step::Append { frames: 5, payload_bytes: 700 },
    Step::Vote(2),
    Step::Append { frames: 2, payload_bytes: 200 },
];

/// Runs all steps and stops as asked; the log's content then.
fn run_steps(fs: &MemoryFileSystem, (store, log): (Store, Log), clean: bool) -> Model {
    let mut model = Model::of(&log, 1);
    for step in &STEPS {
        model.run(step, &log);
    }
    if clean {
        store.close();
    }
    drop((store, log));
    assert!(fs.paths().iter().filter(|path| path.starts_with("/data/logs")).count() > 2);
    model
}

#[test]
fn a_sync_that_lies_is_reported_after_the_crash_and_never_a_silent_loss() {
    let honest = MemoryFileSystem::default();
    let opened = open(&honest).expect("open");
    let first = honest.syncs();
    run_steps(&honest, opened, true);
    let (mut reported, mut harmless) = (0, 0);
    // Which calls are syncs of a preallocated file differs from run to run, so some more lies are tried than were
    // counted.
    for passing in 0..honest.syncs() - first + 4 {
        let fs = MemoryFileSystem::default();
        let opened = open(&fs).expect("open");
        fs.lie_at_sync(passing);
        let model = run_steps(&fs, opened, true);
        match open(&fs.crashed(|_| Keep::Nothing)) {
            Ok((_store, log)) => {
                assert_eq!(
                    Model::of(&log, model.term()),
                    model,
                    "the lie of sync {passing} lost data silently"
                );
                harmless += 1;
            }
            Err(OpenError::Corrupt { path, what, .. }) => {
                assert!(path.starts_with(DIR) && !what.is_empty(), "{path}: {what}");
                reported += 1;
            }
            Err(error) => panic!("the lie of sync {passing}: {error}"),
        }
    }
    assert!(reported >= 8 && harmless > 0, "{reported} lies were reported, {harmless} were harmless");
}

#[test]
fn a_start_in_which_any_call_fails_loses_nothing() {
    for clean in [true, false] {
        let written = MemoryFileSystem::default();
        let opened = open(&written).expect("open");
        let model = run_steps(&written, opened, clean);
        let mut failed = 0;
        for passing in 0.. {
            let story = format!("clean {clean}, call {passing}");
            let fs = written.crashed(|_| Keep::All);
            fs.fail_call(passing, Failure::Io);
            let opened = open(&fs);
            if fs.has_fault() {
                break;
            }
            failed += u32::from(opened.is_err());
            drop(opened);
            for again in [fs.crashed(|_| Keep::Nothing), fs] {
                let (_store, log) = open(&again).unwrap_or_else(|error| panic!("{story}: {error}"));
                assert_eq!(Model::of(&log, model.term()), model, "{story}");
            }
        }
        assert!(failed > 20, "only {failed} starts failed");
    }
}

#[test]
fn an_unreadable_sector_of_one_log_leaves_the_others_open() {
    let fs = MemoryFileSystem::default();
    let opened = open(&fs).expect("open");
    run_steps(&fs, opened, true);
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "seg");
    let segments: Vec<PathBuf> = fs.paths().iter().filter(is_segment).cloned().collect();
    for path in &segments {
        let damaged = fs.crashed(|_| Keep::All);
        damaged.fail_reads(path, 0..1);
        let store = open_store(&damaged).expect("the store itself opens");
        assert!(store.open_log(LOG, REPLICA, roll()).is_err(), "{}", path.display());
        let other = store.open_log("events-1", 8, roll()).expect("another log opens");
        append_range(&other, 1..3, 1, 10);
    }
}

#[test]
fn reads_and_writes_in_small_pieces_change_nothing() {
    let whole = MemoryFileSystem::default();
    let opened = open(&whole).expect("open");
    let model = run_steps(&whole, opened, false);
    for bytes in [1000, 64, 7] {
        let fs = MemoryFileSystem::default();
        fs.shorten_transfers(bytes);
        let opened = open(&fs).expect("open");
        assert_eq!(run_steps(&fs, opened, false), model);
        let (_store, log) = open(&fs.crashed(|_| Keep::Nothing)).expect("reopen");
        assert_eq!(Model::of(&log, model.term()), model, "{bytes} bytes at a time");
    }
}
