//! Damaged bytes: detected or, above what was ever recorded as synced, a torn tail. Never wrong data.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use fanfare_environment::{Clock, Environment};
use fanfare_log::{FileSystem, Frame, MemoryFileSystem, OpenError, ReadError, memory::Keep};

use crate::support::{
    LOG, REPLICA, append_range, frame, open, open_in, open_store, options, read_all, roll, wait,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn copy(fs: &MemoryFileSystem) -> MemoryFileSystem {
    fs.crashed(|_| Keep::All)
}

fn length(fs: &MemoryFileSystem, path: &Path) -> u64 {
    fs.content(path).expect("the file exists").len() as u64
}

fn newest_segment(fs: &MemoryFileSystem) -> PathBuf {
    let mut segments =
        fs.paths().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
    segments.next_back().expect("a log with frames has a segment")
}

/// Three segments, stopped as asked; the frames that it holds.
fn written(clean: bool) -> (MemoryFileSystem, Vec<Frame>) {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..24, 1, 150);
    wait(|done| log.save_vote(vec![4], done)).expect("vote");
    let frames = read_all(&log);
    if clean {
        store.close();
    }
    drop((store, log));
    (fs, frames)
}

enum Found {
    All,
    Prefix,
    Corrupt,
}

/// Opens `fs` and compares with what was appended: anything but a prefix of it is a failure.
fn look(fs: &MemoryFileSystem, frames: &[Frame], story: &str) -> Found {
    match open(fs) {
        Ok((_store, log)) => {
            let found = read_all(&log);
            assert!(frames.starts_with(&found), "{story}: wrong frames were read");
            if found.len() == frames.len() { Found::All } else { Found::Prefix }
        }
        Err(OpenError::Corrupt { path, what, .. }) => {
            assert!(path.starts_with("/data/") && !what.is_empty(), "{story}: {path}: {what}");
            Found::Corrupt
        }
        Err(OpenError::Newer { .. }) => Found::Corrupt,
        Err(error) => panic!("{story}: {error}"),
    }
}

fn damage_each_byte(fs: &MemoryFileSystem, path: &Path, mut check: impl FnMut(&MemoryFileSystem, u64, &str)) {
    for at in 0..length(fs, path) {
        let flipped = copy(fs);
        flipped.flip(path, at, 1 << (at % 8));
        check(&flipped, at, &format!("{} flipped at {at}", path.display()));
        let cut = copy(fs);
        cut.cut(path, at);
        check(&cut, at, &format!("{} cut at {at}", path.display()));
    }
}

#[test]
fn damage_of_synced_frames_is_corruption_and_loses_nothing_silently() {
    for clean in [true, false] {
        let (fs, frames) = written(clean);
        damage_each_byte(&fs, &newest_segment(&fs), |damaged, _, story| {
            assert!(matches!(look(damaged, &frames, story), Found::Corrupt), "{story}: not reported");
        });
    }
}

/// A power loss right after some more frames: the record of their sync was not durable yet. All frames that the log
/// holds then, the frames before among them.
fn with_unrecorded_frames(fs: &MemoryFileSystem, frames: &[Frame]) -> (MemoryFileSystem, Vec<Frame>) {
    let (store, log) = open(fs).expect("open");
    let (sender, operations) = mpsc::sync_channel(1);
    let counted = fs.clone();
    let more = (24..27).map(|index| frame(index, 2, 80)).collect();
    log.append(more, Box::new(move |_| sender.send(counted.operations()).expect("the test waits")));
    let operations = operations.recv().expect("append");
    let crashed = fs.after(operations).crashed(|_| Keep::Nothing);
    drop((store, log));
    let mut longer = frames.to_vec();
    longer.extend(read_all(&open(&copy(&crashed)).expect("open").1).into_iter().skip(frames.len()));
    assert_eq!(longer.len(), frames.len() + 3);
    (crashed, longer)
}

#[test]
fn damage_above_the_synced_end_is_a_torn_tail() {
    let (fs, frames) = written(false);
    let (crashed, longer) = with_unrecorded_frames(&fs, &frames);
    let mut torn = 0;
    damage_each_byte(&crashed, &newest_segment(&crashed), |damaged, _, story| {
        match look(damaged, &longer, story) {
            Found::All => panic!("{story}: the damage was not seen"),
            Found::Prefix => torn += 1,
            Found::Corrupt => {}
        }
    });
    assert!(torn > 300, "only {torn} torn tails");
}

/// The part of a nonce that a header carries, by which a torn frame is known.
const NONCE_TAG_BYTES: usize = 4;

#[test]
fn a_torn_tail_is_told_from_a_whole_end() {
    let (fs, frames) = written(false);
    let (crashed, longer) = with_unrecorded_frames(&fs, &frames);
    let was_torn =
        |fs: &MemoryFileSystem| open(fs).map(|(_store, log)| log.was_tail_torn().expect("readable"));
    assert!(!was_torn(&copy(&crashed)).expect("whole"), "nothing was cut");
    let path = newest_segment(&crashed);
    let (mut known, mut unknown) = (0, 0);
    for at in 0..length(&crashed, &path) {
        let damaged = copy(&crashed);
        damaged.flip(&path, at, 1 << (at % 8));
        let Ok((_store, log)) = open(&damaged) else { continue };
        assert!(read_all(&log).len() < longer.len(), "byte {at}");
        if log.was_tail_torn().expect("readable") { known += 1 } else { unknown += 1 }
    }
    // A flip in the tag of the very last frame leaves nothing that names the frame. A flip in that of the epoch mark
    // leaves frames of a nonce that nothing names.
    assert!(known > 300 && unknown <= 2 * NONCE_TAG_BYTES, "{known} torn tails are known, {unknown} are not");
    // A torn tail is reported again until the log goes on behind the end.
    let damaged = copy(&crashed);
    damaged.flip(&path, length(&crashed, &path) - 1, 1);
    assert!(was_torn(&damaged).expect("open") && was_torn(&copy(&damaged)).expect("open"));
    let (store, log) = open(&damaged).expect("open");
    append_range(&log, 26..27, 3, 80);
    let again = damaged.crashed(|_| Keep::All);
    drop((store, log));
    assert!(!was_torn(&again).expect("open"), "the log goes on with another nonce");
}

#[test]
fn a_start_reads_a_torn_tail_only_when_asked_and_before_it_is_written_over() {
    let (fs, frames) = written(false);
    let (crashed, _) = with_unrecorded_frames(&fs, &frames);
    let path = newest_segment(&crashed);
    let end = length(&crashed, &path);
    crashed.flip(&path, end - 1, 1);
    // More than the scan for the end reads ahead, and less than a torn tail is looked for in.
    let file = FileSystem::open(&crashed, &path).expect("open the file");
    file.write_all_at(&[0], end + (900 << 10)).expect("extend the file");
    let readable = [copy(&crashed), copy(&crashed)];
    crashed.fail_reads(&path, end + (600 << 10)..end + (700 << 10));
    let (_store, log) = open(&crashed).expect("a start does not read there");
    assert!(matches!(log.was_tail_torn(), Err(ReadError::Io { .. })));

    let [asked, not_asked] = readable;
    let (_store, log) = open(&asked).expect("open");
    assert!(log.was_tail_torn().expect("readable"));
    append_range(&log, 26..27, 3, 80);
    assert!(log.was_tail_torn().expect("readable"), "the answer is kept");
    let (_store, log) = open(&not_asked).expect("open");
    append_range(&log, 26..27, 3, 80);
    assert!(!log.was_tail_torn().expect("readable"), "nobody asked in time");
}

#[test]
fn frames_that_were_truncated_are_no_torn_tail() {
    for clean in [true, false] {
        let fs = MemoryFileSystem::default();
        let (store, log) = open(&fs).expect("open");
        append_range(&log, 1..6, 1, 150);
        wait(|done| log.truncate_after(Some(3), done)).expect("truncate");
        if clean {
            store.close();
        }
        drop((store, log));
        let (_store, log) = open(&fs.crashed(|_| Keep::All)).expect("reopen");
        assert!(!log.was_tail_torn().expect("readable") && read_all(&log).len() == 3, "clean: {clean}");
    }
}

#[test]
fn damage_of_an_older_segment_is_corruption_at_once_or_when_it_is_read() {
    let (fs, frames) = written(true);
    let oldest = fs.paths().into_iter().find(|path| path.extension().is_some_and(|kind| kind == "seg"));
    let oldest = oldest.expect("a segment");
    let end = {
        let (_store, log) = open(&copy(&fs)).expect("open");
        log.segments()[0].bytes
    };
    for at in 0..end {
        let damaged = copy(&fs);
        damaged.flip(&oldest, at, 0x10);
        let outcome = open(&damaged).map(|(_store, log)| log.read(1, u64::MAX, u64::MAX));
        match outcome {
            Err(OpenError::Corrupt { .. } | OpenError::Newer { .. }) | Ok(Err(ReadError::Corrupt { .. })) => {
            }
            Ok(Ok(found)) => panic!("byte {at} of {}: read {} of {}", end, found.len(), frames.len()),
            other => panic!("byte {at}: {:?}", other.map(|read| read.map(|frames| frames.len()))),
        }
    }
}

#[test]
fn a_damaged_or_missing_index_is_rebuilt() {
    let (fs, frames) = written(true);
    let index = fs.paths().into_iter().find(|path| path.extension().is_some_and(|kind| kind == "idx"));
    let index = index.expect("a sealed segment has an index");
    let whole = fs.content(&index).expect("index");
    damage_each_byte(&fs, &index, |damaged, _, story| {
        assert!(matches!(look(damaged, &frames, story), Found::All), "{story}: frames are missing");
        assert_eq!(damaged.content(&index).expect("index"), whole, "{story}: not rebuilt");
    });
}

#[test]
fn damage_of_the_journal_never_loses_a_durable_vote_silently() {
    let (fs, frames) = written(true);
    // A start compacts the journal; what it holds was synced before it got its name.
    drop(open(&fs).expect("open"));
    let journal = Path::new("/data/journal");
    let end = fs.content(journal).expect("journal").iter().rposition(|byte| *byte != 0).expect("records");
    for at in 0..=end as u64 {
        let damaged = copy(&fs);
        damaged.flip(journal, at, 0x04);
        match open(&damaged) {
            Err(OpenError::Corrupt { .. } | OpenError::Newer { .. }) => {}
            Err(error) => panic!("byte {at}: {error}"),
            Ok((_store, log)) => {
                assert_eq!((log.vote(), read_all(&log).len()), (Some(vec![4]), frames.len()), "byte {at}");
            }
        }
    }
}

/// Waits until the journal proves that all of it was synced; the durable files then.
fn settled(fs: &MemoryFileSystem, journal: &Path) -> MemoryFileSystem {
    let acknowledged = used(fs, journal);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let crashed = fs.crashed(|_| Keep::Nothing);
        if used(fs, journal) > acknowledged && used(&crashed, journal) == used(fs, journal) {
            return crashed;
        }
        assert!(Instant::now() < deadline, "the journal is not confirmed");
        std::thread::yield_now();
    }
}

/// Bytes of the journal up to its last record.
fn used(fs: &MemoryFileSystem, journal: &Path) -> usize {
    fs.content(journal).expect("journal").iter().rposition(|byte| *byte != 0).expect("records")
}

#[test]
fn a_flip_in_the_newest_vote_is_reported_after_a_quiet_moment_and_a_power_loss() {
    let fs = MemoryFileSystem::default();
    let journal = Path::new("/data/journal");
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..4, 1, 50);
    wait(|done| log.save_vote(vec![1; 18], done)).expect("vote");
    settled(&fs, journal);
    wait(|done| log.save_vote(vec![2; 18], done)).expect("vote");
    let crashed = settled(&fs, journal);
    drop((store, log));
    assert_eq!(open(&copy(&crashed)).expect("undamaged").1.vote(), Some(vec![2; 18]));
    let mut reported = 0;
    for at in 0..=used(&crashed, journal) as u64 {
        let damaged = copy(&crashed);
        damaged.flip(journal, at, 1 << (at % 8));
        match open(&damaged) {
            Err(OpenError::Corrupt { .. } | OpenError::Newer { .. }) => reported += 1,
            Err(error) => panic!("byte {at}: {error}"),
            Ok((_store, log)) => assert_eq!(log.vote(), Some(vec![2; 18]), "byte {at}"),
        }
    }
    assert!(reported > 200, "only {reported} flips were reported");
}

#[test]
fn a_damaged_vote_in_the_middle_of_the_journal_is_corruption() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    let start = fs.content(Path::new("/data/journal")).expect("journal");
    for vote in 1..5 {
        wait(|done| log.save_vote(vec![vote; 8], done)).expect("vote");
    }
    drop((store, log));
    let journal = Path::new("/data/journal");
    let content = fs.content(journal).expect("journal");
    let first = content.iter().zip(&start).position(|(new, old)| new != old).expect("votes were written");
    // Within the first vote's record, which later records say was synced.
    for at in first..first + 60 {
        let damaged = copy(&fs);
        damaged.flip(journal, at as u64, 0x80);
        assert!(matches!(open(&damaged), Err(OpenError::Corrupt { .. })), "byte {at}");
    }
}

#[test]
fn a_missing_segment_is_corruption() {
    let (fs, _) = written(true);
    let segments = fs.paths().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
    for path in segments {
        let damaged = copy(&fs);
        fanfare_log::FileSystem::remove(&damaged, &path).expect("remove");
        let error = open(&damaged).map(|_| ()).expect_err("a hole in the log");
        assert!(matches!(&error, OpenError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().expect("text")), "{error} names {}", path.display());
    }
}

#[test]
fn a_corrupt_log_says_where_and_which_offsets_and_leaves_the_others_open() {
    let (fs, frames) = written(true);
    let path = newest_segment(&fs);
    fs.flip(&path, 700, 1);
    let before = fs.content(&path).expect("segment");
    let store = open_store(&fs).expect("the store itself opens");
    let opened = store.open_log(crate::support::LOG, crate::support::REPLICA, crate::support::roll());
    let Err(OpenError::Corrupt { path: named, at, first_offset, end_offset, .. }) = opened else {
        panic!("corruption is reported");
    };
    let last = &frames.last().expect("frames").header;
    assert_eq!(Path::new(&named), path);
    assert!(at <= 700 && first_offset < end_offset);
    assert_eq!(end_offset, last.base_offset + u64::from(last.count));
    assert_eq!(fs.content(&path).expect("segment"), before, "nothing was cut");
    let other = store.open_log("events-1", 8, crate::support::roll()).expect("another log opens");
    append_range(&other, 1..3, 1, 10);
}

/// Milliseconds that pass when a test says so.
#[derive(Default)]
struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.unix_ms())
    }
}

#[test]
fn synced_frames_of_a_killed_process_are_protected_after_ten_milliseconds() {
    let (fs, clock) = (MemoryFileSystem::default(), Arc::new(ManualClock::default()));
    let environment = Environment::system().with_clock(clock.clone());
    let store = open_in(&environment, &fs, options()).expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("open");
    append_range(&log, 1..4, 1, 50);
    let frames = read_all(&log);
    let newest_byte = || {
        let content = fs.content(&newest_segment(&fs)).expect("segment");
        content.iter().rposition(|byte| *byte != 0).expect("frames") as u64
    };
    let found_after = |kept: Keep| {
        let crashed = fs.crashed(|_| kept);
        crashed.flip(&newest_segment(&crashed), newest_byte(), 1);
        look(&crashed, &frames, "the last frame is flipped")
    };
    assert!(matches!(found_after(Keep::All), Found::Prefix), "no time has passed: nothing is recorded");

    clock.0.store(10, Ordering::Relaxed);
    let deadline = Instant::now() + DEADLINE;
    while !matches!(found_after(Keep::All), Found::Corrupt) {
        assert!(Instant::now() < deadline, "the synced end is not written");
        std::thread::yield_now();
    }
    assert!(matches!(found_after(Keep::Nothing), Found::Prefix), "the end is written, not synced");
    drop((store, log));
}
