//! Repair of a damaged log: intact entries stay, lost ones keep their index and offsets, nothing is deleted.
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use fanfare_log::{
    DamageReport, DamagedRange, FileSystem as _, Frame, Log, MemoryFileSystem, OpenError, RepairHints,
    RollPolicy, Store, memory::Keep,
};

use crate::support::{LOG, REPLICA, append_range, open, open_store, read_all, wait};

const FILLER: u8 = 9;
const FRAMES: u64 = 24;

fn copy(fs: &MemoryFileSystem) -> MemoryFileSystem {
    fs.crashed(|_| Keep::All)
}

fn segments(fs: &MemoryFileSystem) -> Vec<PathBuf> {
    let is_segment =
        |path: &PathBuf| path.starts_with("/data/logs") && path.extension() == Some("seg".as_ref());
    fs.paths().into_iter().filter(is_segment).collect()
}

/// Several segments with an epoch mark in between, stopped as asked, and the frames that they hold.
fn written(clean: bool) -> (MemoryFileSystem, Vec<Frame>) {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 0..FRAMES / 2, 1, 150);
    drop((store, log));
    let (store, log) = open(&fs).expect("open again");
    append_range(&log, FRAMES / 2..FRAMES, 2, 150);
    let frames = read_all(&log);
    if clean {
        store.close();
    }
    drop((store, log));
    assert!(segments(&fs).len() >= 3, "{:?}", segments(&fs));
    (fs, frames)
}

/// Every frame as it was appended, or a filler in its place. Returns how many are fillers.
fn assert_patched(fs: &MemoryFileSystem, frames: &[Frame], story: &str) -> usize {
    let (store, log) = open(fs).unwrap_or_else(|error| panic!("{story}: {error}"));
    let found = read_all(&log);
    assert_eq!(found.len(), frames.len(), "{story}");
    let (mut fillers, mut next_offset) = (0, 0);
    for (found, expected) in found.iter().zip(frames) {
        assert_eq!(found.header.position.index, expected.header.position.index, "{story}");
        assert_eq!(found.header.base_offset, next_offset, "{story}");
        next_offset += u64::from(found.header.count);
        if found.header.kind == FILLER {
            fillers += 1;
            assert!(found.payload.is_empty() && found.header.position.term <= 2, "{story}");
        } else {
            assert_eq!(found, expected, "{story}");
        }
    }
    let last = frames.last().expect("there are frames");
    assert_eq!(log.bounds().next_offset, last.header.base_offset + u64::from(last.header.count), "{story}");
    append_range(&log, FRAMES..FRAMES + 2, 3, 100);
    drop((store, log));
    let (_store, log) = open(fs).unwrap_or_else(|error| panic!("{story}, after an append: {error}"));
    assert_eq!(read_all(&log).len(), frames.len() + 2, "{story}");
    fillers
}

fn repair_log(fs: &MemoryFileSystem) -> Result<Vec<DamagedRange>, OpenError> {
    let store = open_store(fs)?;
    let accepted = store.repair_log(LOG, &RepairHints::default(), FILLER)?;
    store.close();
    Ok(accepted.damaged)
}

fn inspect(fs: &MemoryFileSystem) -> Result<Vec<DamagedRange>, OpenError> {
    Ok(report(fs)?.damaged)
}

fn report(fs: &MemoryFileSystem) -> Result<DamageReport, OpenError> {
    open_store(fs)?.inspect_damage(LOG, &RepairHints::default())
}

/// As an operator does it: nothing is accepted where nothing is wrong, and nothing is wrong after that.
fn repair(fs: &MemoryFileSystem, story: &str) {
    let found = report(fs).unwrap_or_else(|error| panic!("{story}: {error}"));
    if !found.damaged.is_empty() || found.needs_repair {
        repair_log(fs).unwrap_or_else(|error| panic!("{story}: {error}"));
        let left = report(fs).unwrap_or_else(|error| panic!("{story}: {error}"));
        assert!(left.damaged.is_empty() && !left.needs_repair, "{story}: {left:?}");
    }
}

fn quarantined(fs: &MemoryFileSystem) -> Vec<Vec<u8>> {
    let paths = fs.paths().into_iter().filter(|path| path.starts_with("/data/quarantine"));
    paths.map(|path| fs.content(&path).expect("it exists")).collect()
}

/// Makes zeros of a part of a file.
fn blank(fs: &MemoryFileSystem, path: &Path, range: Range<usize>) {
    let content = fs.content(path).expect("it exists");
    for at in range {
        fs.flip(path, at as u64, content[at]);
    }
}

#[test]
fn a_flipped_byte_costs_its_own_frames_and_no_offset() {
    for clean in [true, false] {
        let (fs, frames) = written(clean);
        for path in segments(&fs) {
            let content = fs.content(&path).expect("it exists");
            for at in (0..content.len() as u64).step_by(11) {
                let story = format!("clean {clean}, {} flipped at {at}", path.display());
                let damaged = copy(&fs);
                damaged.flip(&path, at, 0x10);
                let before = damaged.content(&path).expect("it exists");
                let inspected = match inspect(&damaged) {
                    Ok(lost) => lost,
                    // A flipped version may be a newer one: nothing is touched.
                    Err(OpenError::Newer { .. }) if (8..12).contains(&at) => continue,
                    Err(error) => panic!("{story}: {error}"),
                };
                assert_eq!(
                    damaged.content(&path).expect("it exists"),
                    before,
                    "{story}: an inspection writes"
                );
                let lost = repair_log(&damaged).unwrap_or_else(|error| panic!("{story}: {error}"));
                assert_eq!(lost, inspected, "{story}");
                let fillers = assert_patched(&damaged, &frames, &story);
                let counted: u64 = lost.iter().map(|lost| lost.indexes.end - lost.indexes.start).sum();
                assert_eq!(fillers as u64, counted, "{story}");
                if (512..content.len() as u64 - 600).contains(&at) {
                    assert!(fillers <= 7, "{story}: {lost:?}");
                }
                let file = path.display().to_string();
                assert!(
                    lost.iter().all(|lost| lost.path == file && !lost.cause.is_empty()),
                    "{story}: {lost:?}"
                );
                let kept = quarantined(&damaged);
                assert!(fillers == 0 || kept.contains(&before), "{story}: not kept");
            }
        }
    }
}

#[test]
fn a_missing_segment_costs_its_own_frames_and_no_offset() {
    let (fs, frames) = written(false);
    for path in segments(&fs) {
        let damaged = copy(&fs);
        damaged.cut(&path, 0);
        let lost = repair_log(&damaged).expect("repair");
        assert_eq!(lost.len(), 1, "{lost:?}");
        let story = format!("{} emptied", path.display());
        assert!(assert_patched(&damaged, &frames, &story) < frames.len(), "{story}: all is lost");
    }
}

#[test]
fn a_whole_log_stays_as_it_is() {
    let (fs, frames) = written(false);
    let before: Vec<_> = segments(&fs).iter().map(|path| fs.content(path).expect("it exists")).collect();
    assert_eq!(repair_log(&fs).expect("repair"), []);
    let after: Vec<_> = segments(&fs).iter().map(|path| fs.content(path).expect("it exists")).collect();
    assert_eq!(before, after);
    assert_eq!(assert_patched(&fs, &frames, "nothing was lost"), 0);
}

#[test]
fn fillers_get_the_hinted_positions() {
    let (fs, frames) = written(true);
    let newest = segments(&fs).pop().expect("there are segments");
    fs.cut(&newest, 0);
    let store = open_store(&fs).expect("open");
    let last = frames.last().expect("there are frames").header.position;
    let known = RepairHints { positions: vec![last], next_offset: 1000 };
    let lost = store.repair_log(LOG, &known, FILLER).expect("repair").damaged;
    drop(store);
    assert_eq!(lost.last().expect("lost").offsets.end, 1000);
    let (_store, log) = open(&fs).expect("open");
    assert_eq!((log.bounds().last, log.bounds().next_offset), (Some(last), 1000));
}

#[test]
fn damage_below_the_purge_point_takes_nothing_that_is_kept() {
    let (fs, frames) = written(true);
    let (store, log) = open(&fs).expect("open");
    let purged = frames[13].header.position;
    let next_offset = frames[14].header.base_offset;
    wait(|done| log.purge(purged, next_offset, done)).expect("purge");
    store.close();
    drop((store, log));
    let oldest = segments(&fs)[0].clone();
    fs.flip(&oldest, 600, 1);
    repair_log(&fs).expect("repair");
    let (_store, log) = open(&fs).expect("open");
    let found = read_all(&log);
    assert_eq!(found[found.len() - 5..], frames[frames.len() - 5..]);
    assert_eq!(log.bounds().next_offset, next_offset_of(&frames));
}

fn next_offset_of(frames: &[Frame]) -> u64 {
    frames.last().map_or(0, |last| last.header.base_offset + u64::from(last.header.count))
}

/// Whatever a crash in the middle leaves, the log opens with every offset in its place or still says that it is
/// damaged; made again, the repair ends the same.
#[test]
fn an_interrupted_repair_can_be_repeated() {
    for clean in [true, false] {
        let (fs, frames) = written(clean);
        for path in segments(&fs) {
            for damage in [700, 20, 530] {
                let damaged = copy(&fs);
                damaged.flip(&path, damage, 1);
                // What a crash goes back to is damaged, too.
                let damaged = copy(&damaged);
                let start = damaged.operations();
                repair_log(&damaged).expect("repair");
                let end = damaged.operations();
                for count in start..end {
                    for keep in [Keep::All, Keep::Nothing] {
                        let story = format!("{} at {damage}, {keep:?} of {count}", path.display());
                        let crashed = damaged.after(count).crashed(|_| keep);
                        let again = crashed.crashed(|_| Keep::All);
                        match open(&crashed) {
                            Ok((_store, log)) => {
                                assert_eq!(log.bounds().next_offset, next_offset_of(&frames), "{story}")
                            }
                            Err(OpenError::Corrupt { .. }) => (),
                            Err(error) => panic!("{story}: {error}"),
                        }
                        repair(&again, &story);
                        assert_patched(&again, &frames, &story);
                    }
                }
            }
        }
    }
}

#[test]
fn an_unknown_log_is_refused() {
    let (fs, _) = written(true);
    let store = open_store(&fs).expect("open");
    let refused = store.inspect_damage("events-7", &RepairHints::default());
    assert!(matches!(refused, Err(OpenError::Corrupt { path, .. }) if path.ends_with("events-7")));
    assert!(!Path::new("/data/quarantine").exists());
}

#[test]
fn a_segment_that_was_never_begun_is_no_loss() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    // Leaves too little room for one more, so that the next segment is made.
    append_range(&log, 1..5, 1, 300);
    let frames = read_all(&log);
    store.close();
    drop((store, log));
    assert_eq!(segments(&fs).len(), 2);
    assert_eq!(inspect(&fs).expect("inspect"), []);
    assert_eq!(repair_log(&fs).expect("repair"), []);
    assert!(fs.paths().iter().all(|path| !path.starts_with("/data/quarantine")), "{:?}", fs.paths());
    let (store, log) = open(&fs).expect("reopen");
    assert_eq!(read_all(&log), frames);
    append_range(&log, 5..9, 1, 300);
    drop((store, log));
    assert_eq!(read_all(&open(&fs).expect("reopen").1).len(), 8);
}

#[test]
fn fillers_of_an_earlier_repair_do_not_count_as_readable() {
    let (fs, frames) = written(true);
    fs.flip(&segments(&fs)[1], 700, 1);
    let lost: u64 =
        repair_log(&fs).expect("repair").iter().map(|lost| lost.offsets.end - lost.offsets.start).sum();
    assert!(lost > 0);
    let left = report(&fs).expect("inspect");
    assert_eq!((left.readable_offsets, left.damaged), (next_offset_of(&frames) - lost, Vec::new()));
}

#[test]
fn a_segment_that_holds_nothing_but_damage_is_set_aside() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    store.close();
    drop((store, log));
    let path = Path::new("/data/logs").join(LOG).join("0000000000000001.seg");
    fs.create(&path).expect("create").write_all_at(&[7; 600], 0).expect("write");
    assert!(matches!(open(&copy(&fs)), Err(OpenError::Corrupt { .. })));
    repair(&fs, "garbage");
    assert_eq!(quarantined(&fs), [vec![7; 600]]);
    open(&fs).expect("open");
}

#[test]
fn a_blank_header_before_a_segment_made_ahead_is_damage() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..9, 1, 300);
    let frames = read_all(&log);
    store.close();
    drop((store, log));
    let [_, newest, ahead] = &segments(&fs)[..] else { panic!("{:?}", segments(&fs)) };
    assert!(fs.content(ahead).expect("it exists").iter().all(|byte| *byte == 0));
    blank(&fs, newest, 0..512);
    let before = fs.content(newest).expect("it exists");
    repair(&fs, "a blank header");
    assert_eq!(quarantined(&fs).iter().filter(|kept| **kept == before).count(), 1);
    let (_store, log) = open(&fs).expect("open");
    let found = read_all(&log);
    assert_eq!((found.len(), &found[..4]), (8, &frames[..4]));
    assert_eq!(log.bounds().next_offset, next_offset_of(&frames));
}

const LARGE: RollPolicy = RollPolicy { segment_bytes: 64 * 1024, age_ms: u64::MAX };

fn open_large(fs: &MemoryFileSystem) -> (Store, Log) {
    let store = open_store(fs).expect("open");
    let log = store.open_log(LOG, REPLICA, LARGE).expect("open log");
    (store, log)
}

/// Returns how many frames are fillers; all others are as they were appended.
fn assert_whole(fs: &MemoryFileSystem, frames: &[Frame]) -> usize {
    let (_store, log) = open_large(fs);
    let found = read_all(&log);
    assert_eq!(found.len(), frames.len());
    assert_eq!(log.bounds().next_offset, next_offset_of(frames));
    let fillers = found.iter().zip(frames).filter(|(found, frame)| found != frame);
    fillers.inspect(|(found, _)| assert_eq!(found.header.kind, FILLER, "{:?}", found.header)).count()
}

#[test]
fn pages_that_cannot_be_read_cost_their_own_frames_and_no_offset() {
    const PAGE: u64 = 4096;
    let fs = MemoryFileSystem::default();
    let (store, log) = open_large(&fs);
    append_range(&log, 0..160, 1, 1000);
    let frames = read_all(&log);
    store.close();
    drop((store, log));
    let [first, _, newest] = &segments(&fs)[..] else { panic!("{:?}", segments(&fs)) };
    for (path, page) in [(first, 0), (first, 3), (newest, 0), (newest, 3)] {
        let story = format!("page {page} of {}", path.display());
        let damaged = copy(&fs);
        damaged.fail_reads(path, page * PAGE..page * PAGE + 1);
        let damaged = copy(&damaged);
        let before = damaged.content(path).expect("it exists");
        let start = damaged.operations();
        let lost = inspect(&damaged).unwrap_or_else(|error| panic!("{story}: {error}"));
        assert!(lost.iter().all(|lost| lost.cause.contains("read")), "{story}: {lost:?}");
        repair(&damaged, &story);
        for count in start..damaged.operations() {
            let crashed = damaged.after(count).crashed(|_| Keep::Nothing);
            let story = format!("{story}, after {count}");
            repair(&crashed, &story);
            let fillers = assert_whole(&crashed, &frames);
            // Without its header nothing of a segment proves itself.
            assert!(fillers > 0 && (page == 0 || fillers <= 6), "{story}: {fillers} fillers");
            assert!(quarantined(&crashed).contains(&before), "{story}: not kept");
        }
    }
}

const HEADER: usize = 64;

#[test]
fn damage_beside_an_epoch_mark_takes_nothing_behind_it() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open_large(&fs);
    append_range(&log, 0..3, 1, 100);
    drop((store, log));
    let (store, log) = open_large(&fs);
    append_range(&log, 3..9, 2, 100);
    let frames = read_all(&log);
    store.close();
    drop((store, log));
    let path = segments(&fs).pop().expect("there is a segment");
    let mark = 512 + 3 * (HEADER + 100);
    // Of the mark itself, its nonce and what the next frame continues are needed.
    for (range, lost) in [(mark - HEADER - 100..mark, 1), (mark - 1..mark, 1), (mark + 16..mark + 56, 0)] {
        let damaged = copy(&fs);
        for at in range.clone() {
            damaged.flip(&path, at as u64, 0x55);
        }
        assert!(matches!(open(&copy(&damaged)), Err(OpenError::Corrupt { .. })), "{range:?}");
        repair(&damaged, "an epoch mark");
        assert_eq!(assert_whole(&damaged, &frames), lost, "{range:?}");
    }
}

#[test]
fn frames_of_an_earlier_run_behind_the_end_stay_dead() {
    const FRAME: usize = HEADER + 200;
    let fs = MemoryFileSystem::default();
    let (store, log) = open_large(&fs);
    append_range(&log, 0..2, 1, 200);
    let crash = fs.operations();
    append_range(&log, 2..5, 1, 200);
    store.close();
    drop((store, log));
    let path = segments(&fs).pop().expect("there is a segment");
    let before = fs.content(&path).expect("it exists");
    for sealed in [false, true] {
        let fs = fs.after(crash).crashed(|_| Keep::All);
        let (store, log) = open_large(&fs);
        append_range(&log, 2..5, 2, 20);
        drop((store, log));
        let stale = 512 + 4 * FRAME;
        assert!(fs.content(&path).expect("it exists").len() < stale);
        let file = fs.open(&path).expect("open");
        file.write_all_at(&before[stale..stale + FRAME], stale as u64).expect("write");
        file.sync().expect("sync");
        if sealed {
            // Rolls by its size.
            let (_store, log) = open(&fs).expect("open");
            append_range(&log, 5..7, 3, 1400);
        }
        let frames = read_all(&open_large(&copy(&fs)).1);
        // The last frame of the earlier run, and the mark behind it.
        blank(&fs, &path, 512 + FRAME..512 + 2 * FRAME + HEADER);
        repair(&fs, "frames of an earlier run");
        assert_eq!(assert_whole(&fs, &frames), 4, "sealed {sealed}");
    }
}

#[test]
fn a_damaged_epoch_mark_behind_the_last_frame_costs_nothing() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 0..1, 1, 512 - 2 * HEADER);
    drop((store, log));
    let path = segments(&fs).pop().expect("there is a segment");
    let (store, log) = open(&fs).expect("open again");
    let mut count = fs.operations();
    append_range(&log, 1..2, 2, 100);
    drop((store, log));
    while fs.after(count).content(&path).is_ok_and(|content| content.len() <= 1024) {
        count += 1;
    }
    // The mark was written, and the frame behind it was not.
    let fs = fs.after(count).crashed(|_| Keep::All);
    fs.cut(&path, 1024);
    let (store, log) = open(&fs).expect("open after the crash");
    append_range(&log, 1..2, 3, 1400);
    let frames = read_all(&log);
    store.close();
    drop((store, log));
    fs.flip(&path, 1000, 1);
    fs.remove(&path.with_extension("idx")).expect("remove");
    assert!(matches!(open(&copy(&fs)), Err(OpenError::Corrupt { .. })));
    repair(&fs, "an epoch mark at the end");
    assert_eq!(assert_whole(&fs, &frames), 0);
}
