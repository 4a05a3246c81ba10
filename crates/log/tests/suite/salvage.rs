//! An accepted loss: what proves itself stays, what is gone keeps its index and its offsets, nothing is deleted.
use std::path::{Path, PathBuf};

use fanfare_log::{Frame, Known, Lost, MemoryFileSystem, OpenError, memory::Keep};

use crate::support::{LOG, append_range, open, open_store, read_all, wait};

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

fn accept(fs: &MemoryFileSystem) -> Result<Vec<Lost>, OpenError> {
    let store = open_store(fs)?;
    let accepted = store.accept_loss(LOG, &Known::default(), FILLER)?;
    store.close();
    Ok(accepted.lost)
}

fn survey(fs: &MemoryFileSystem) -> Result<Vec<Lost>, OpenError> {
    Ok(open_store(fs)?.survey_loss(LOG, &Known::default())?.lost)
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
                let foretold = match survey(&damaged) {
                    Ok(lost) => lost,
                    // A flipped version may be a newer one: nothing is touched.
                    Err(OpenError::Newer { .. }) if (8..12).contains(&at) => continue,
                    Err(error) => panic!("{story}: {error}"),
                };
                assert_eq!(damaged.content(&path).expect("it exists"), before, "{story}: a survey writes");
                let lost = accept(&damaged).unwrap_or_else(|error| panic!("{story}: {error}"));
                assert_eq!(lost, foretold, "{story}");
                let fillers = assert_patched(&damaged, &frames, &story);
                let counted: u64 = lost.iter().map(|lost| lost.indexes.end - lost.indexes.start).sum();
                assert_eq!(fillers as u64, counted, "{story}");
                if (512..content.len() as u64 - 600).contains(&at) {
                    assert!(fillers <= 7, "{story}: {lost:?}");
                }
                let file = path.display().to_string();
                assert!(
                    lost.iter().all(|lost| lost.path == file && !lost.what.is_empty()),
                    "{story}: {lost:?}"
                );
                let quarantined =
                    damaged.paths().into_iter().filter(|path| path.starts_with("/data/quarantine"));
                let kept = quarantined.map(|path| damaged.content(&path).expect("it exists"));
                assert!(fillers == 0 || kept.into_iter().any(|kept| kept == before), "{story}: not kept");
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
        let lost = accept(&damaged).expect("accept");
        assert_eq!(lost.len(), 1, "{lost:?}");
        let story = format!("{} emptied", path.display());
        assert!(assert_patched(&damaged, &frames, &story) < frames.len(), "{story}: all is lost");
    }
}

#[test]
fn a_whole_log_stays_as_it_is() {
    let (fs, frames) = written(false);
    let before: Vec<_> = segments(&fs).iter().map(|path| fs.content(path).expect("it exists")).collect();
    assert_eq!(accept(&fs).expect("accept"), []);
    let after: Vec<_> = segments(&fs).iter().map(|path| fs.content(path).expect("it exists")).collect();
    assert_eq!(before, after);
    assert_eq!(assert_patched(&fs, &frames, "nothing was lost"), 0);
}

#[test]
fn lost_entries_get_back_the_positions_that_are_known() {
    let (fs, frames) = written(true);
    let newest = segments(&fs).pop().expect("there are segments");
    fs.cut(&newest, 0);
    let store = open_store(&fs).expect("open");
    let last = frames.last().expect("there are frames").header.position;
    let known = Known { positions: vec![last], next_offset: 1000 };
    let lost = store.accept_loss(LOG, &known, FILLER).expect("accept").lost;
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
    accept(&fs).expect("accept");
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
fn an_interrupted_repair_is_made_again() {
    for clean in [true, false] {
        let (fs, frames) = written(clean);
        for path in segments(&fs) {
            for damage in [700, 20, 530] {
                let damaged = copy(&fs);
                damaged.flip(&path, damage, 1);
                let start = damaged.operations();
                accept(&damaged).expect("accept");
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
                        accept(&again).unwrap_or_else(|error| panic!("{story}: {error}"));
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
    let refused = store.survey_loss("events-7", &Known::default());
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
    assert_eq!(survey(&fs).expect("survey"), []);
    assert_eq!(accept(&fs).expect("accept"), []);
    assert!(fs.paths().iter().all(|path| !path.starts_with("/data/quarantine")), "{:?}", fs.paths());
    let (store, log) = open(&fs).expect("reopen");
    assert_eq!(read_all(&log), frames);
    append_range(&log, 5..9, 1, 300);
    drop((store, log));
    assert_eq!(read_all(&open(&fs).expect("reopen").1).len(), 8);
}
