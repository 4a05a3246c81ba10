//! What a log promises while nothing goes wrong, and across orderly and abrupt restarts.
use crate::support::{
    LOG, REPLICA, append, append_range, frame, open, open_with, options, read_all, roll, wait,
};
use std::sync::mpsc;

use fanfare_log::{MemoryFileSystem, Position, ReadError, RollPolicy, StoreOptions};

#[test]
fn a_reopened_log_holds_what_was_appended() {
    for clean in [true, false] {
        let fs = MemoryFileSystem::default();
        let (store, log) = open(&fs).expect("open");
        append_range(&log, 0..40, 1, 150);
        let before = (log.bounds(), read_all(&log), log.segments());
        assert_eq!(before.1.len(), 40);
        if clean {
            store.close();
        }
        drop((store, log));
        let (_store, log) = open(&fs).expect("reopen");
        assert_eq!((log.bounds(), read_all(&log), log.segments()), before);
        append_range(&log, 40..60, 2, 150);
        assert_eq!(read_all(&log).len(), 60);
    }
}

#[test]
fn offsets_are_dense_across_segments_and_found_again() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append_range(&log, 1..60, 1, 100);
    let mut next = 0;
    for held in read_all(&log) {
        assert_eq!(held.header.base_offset, next);
        for offset in next..next + u64::from(held.header.count) {
            assert_eq!(log.index_of_offset(offset).expect("lookup"), Some(held.header.position.index));
        }
        next += u64::from(held.header.count);
        let found = log.index_of_time(held.header.time_ms - 9).expect("lookup");
        assert_eq!(found, Some(held.header.position.index));
    }
    assert_eq!(log.bounds().next_offset, next);
    assert_eq!(log.index_of_offset(next).expect("lookup"), None);
    assert_eq!(log.index_of_time(u64::MAX).expect("lookup"), None);
}

#[test]
fn truncated_frames_stay_away_and_others_take_their_place() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..50, 1, 100);
    wait(|done| log.truncate_after(Some(20), done)).expect("truncate");
    assert_eq!(log.bounds().last, Some(Position { term: 1, leader: 1, index: 20 }));
    append_range(&log, 21..30, 2, 120);
    let before = (log.bounds(), read_all(&log));
    drop((store, log));
    let (_store, log) = open(&fs).expect("reopen");
    assert_eq!((log.bounds(), read_all(&log)), before);
    assert_eq!(before.1.len(), 29);
    assert_eq!(before.1[28].payload, frame(29, 2, 120).payload);
}

#[test]
fn a_purge_frees_whole_segments_and_hides_the_rest() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..60, 1, 100);
    let spans = log.segments();
    let at = spans[2].first_index;
    let start_offset = read_all(&log)[usize::try_from(at).expect("small")].header.base_offset;
    let position = Position { term: 1, leader: 1, index: at };
    wait(|done| log.purge(position, start_offset, done)).expect("purge");
    assert_eq!(log.segments(), spans[2..]);
    assert_eq!(log.bounds().start_offset, start_offset);
    assert!(matches!(log.read(at, at + 1, 0), Err(ReadError::Purged { .. })));
    let before = (log.bounds(), read_all(&log));
    drop((store, log));
    let (_store, log) = open(&fs).expect("reopen");
    assert_eq!((log.bounds(), read_all(&log)), before);
}

#[test]
fn a_purge_above_the_end_starts_the_log_anew_behind_it() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..30, 1, 100);
    let position = Position { term: 3, leader: 2, index: 500 };
    wait(|done| log.purge(position, 9000, done)).expect("purge");
    append(&log, vec![frame(501, 3, 10)]).expect("append");
    for _ in 0..2 {
        assert_eq!(log.bounds().purged, Some(position));
        let frames = read_all(&log);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].header.base_offset, 9000);
    }
    drop((store, log));
    let (_store, log) = open(&fs).expect("reopen");
    assert_eq!(log.bounds().purged, Some(position));
    assert_eq!(read_all(&log)[0].header.base_offset, 9000);
}

#[test]
fn a_vote_is_there_after_a_crash_once_it_is_called_durable() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    wait(|done| log.save_vote(vec![1, 2, 3], done)).expect("vote");
    let crashed = fs.crashed(|_| fanfare_log::memory::Keep::Nothing);
    let (_store, log) = open(&crashed).expect("reopen");
    assert_eq!(log.vote(), Some(vec![1, 2, 3]));
}

#[test]
fn a_truncation_is_effective_before_it_is_durable() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append_range(&log, 1..30, 1, 100);
    let offset = log.read(11, 12, 0).expect("read")[0].header.base_offset;
    // The flusher is held up in a callback, so the frames are still on disk while we look.
    let (entered, wait_entered) = mpsc::sync_channel(1);
    let (release, wait_release) = mpsc::sync_channel::<()>(1);
    let hold = move |_: Result<(), _>| {
        entered.send(()).expect("the test waits");
        wait_release.recv().expect("the test releases");
    };
    log.save_vote(vec![1], Box::new(hold));
    wait_entered.recv().expect("the flusher got there");
    let (done, wait_done) = mpsc::sync_channel(1);
    log.truncate_after(Some(10), Box::new(move |result| done.send(result).expect("the test waits")));
    assert_eq!(read_all(&log).len(), 10);
    assert_eq!(log.index_of_offset(offset).expect("lookup"), None);
    assert_eq!(log.index_of_time(1000 + 10 * 10 + 5).expect("lookup"), None);
    log.append(vec![frame(11, 2, 50)], Box::new(|result| result.expect("append")));
    assert_eq!(log.read(10, 20, u64::MAX).expect("read")[1].header.position.term, 2);
    assert_eq!(log.bounds().synced_index, 10);
    release.send(()).expect("the flusher waits");
    wait_done.recv().expect("answered").expect("truncate");
    append_range(&log, 12..20, 2, 100);
    assert_eq!(log.bounds().synced_index, 19);
}

#[test]
fn a_read_leaves_the_payload_that_finds_no_room_on_disk() {
    const PAYLOAD_BYTES: u64 = 512 << 10;
    let fs = MemoryFileSystem::default();
    let segment_bytes = 8 << 20;
    let store = open_with(&fs, StoreOptions { segment_bytes, ..options() }).expect("open");
    let log = store.open_log(LOG, REPLICA, RollPolicy { segment_bytes, ..roll() }).expect("open");
    append_range(&log, 0..4, 1, 512 << 10);
    let spans = log.segments();
    assert_eq!(spans.len(), 1);
    let path = fs.paths().into_iter().find(|path| path.extension().is_some_and(|kind| kind == "seg"));
    // The end of the third payload, behind all that is read ahead with its header.
    let third_end = spans[0].bytes - PAYLOAD_BYTES - 64;
    fs.fail_reads(&path.expect("a segment"), third_end - 100..third_end);
    for bytes_max in [2 * PAYLOAD_BYTES, 3 * PAYLOAD_BYTES - 1] {
        assert_eq!(log.read(0, 4, bytes_max).expect("two frames").len(), 2);
    }
    assert!(matches!(log.read(0, 4, 3 * PAYLOAD_BYTES), Err(ReadError::Io { .. })));
    assert!(matches!(log.read(2, 4, 0), Err(ReadError::Io { .. })), "one frame is read whatever its size");
}
