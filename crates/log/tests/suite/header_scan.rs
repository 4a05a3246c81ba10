//! Scanning headers visits what reading whole frames gives, and touches little of the files.
use std::ops::ControlFlow;

use fanfare_log::{FrameHeader, Log, MemoryFileSystem, OpenError, ReadError, RollPolicy, memory::Keep};
use proptest::prelude::*;

use crate::support::{LOG, REPLICA, append, append_range, frame, open, open_store, read_all, wait};

const MEBIBYTE: usize = 1 << 20;

fn scan(log: &Log, indexes: std::ops::Range<u64>, prefix_bytes: usize) -> Vec<(FrameHeader, Vec<u8>)> {
    let mut visited = Vec::new();
    let next = log.scan_headers(
        indexes,
        |_| prefix_bytes,
        |header, prefix| {
            visited.push((header.clone(), prefix.to_vec()));
            ControlFlow::Continue(())
        },
    );
    let next = next.expect("scan");
    assert!(visited.last().is_none_or(|(header, _)| header.position.index + 1 == next));
    visited
}

/// Headers and first bytes as reading whole frames gives them.
fn read(log: &Log, indexes: std::ops::Range<u64>, prefix_bytes: usize) -> Vec<(FrameHeader, Vec<u8>)> {
    let frames = read_all(log).into_iter().filter(|frame| indexes.contains(&frame.header.position.index));
    frames
        .map(|frame| {
            let length = prefix_bytes.min(frame.payload.len());
            (frame.header.clone(), frame.payload.slice(0..length).to_vec())
        })
        .collect()
}

fn copy(fs: &MemoryFileSystem) -> MemoryFileSystem {
    fs.crashed(|_| Keep::All)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scan_visits_what_a_read_gives(
        sizes in prop::collection::vec(prop_oneof![0..400_usize, 60_000..90_000_usize], 1..40),
        reopened in 0..40_usize,
        prefix_bytes in prop_oneof![Just(0_usize), 1..300_usize, 1000..100_000_usize],
        from in 1..40_u64,
        length in 0..40_u64,
    ) {
        let fs = MemoryFileSystem::default();
        let roll = RollPolicy { segment_bytes: 256 * 1024, age_ms: u64::MAX };
        let mut store = open_store(&fs).expect("open");
        let mut log = store.open_log(LOG, REPLICA, roll).expect("open log");
        for (index, size) in (1..).zip(&sizes) {
            if index == reopened as u64 {
                drop((store, log));
                store = open_store(&fs).expect("open again");
                log = store.open_log(LOG, REPLICA, roll).expect("open log again");
            }
            append(&log, vec![frame(index, 1, *size)]).expect("append");
        }
        let indexes = from..from + length;
        prop_assert_eq!(scan(&log, indexes.clone(), prefix_bytes), read(&log, indexes, prefix_bytes));
    }
}

#[test]
fn a_scan_of_large_frames_reads_their_first_pages_only() {
    let fs = MemoryFileSystem::default();
    let roll = RollPolicy { segment_bytes: 8 << 20, age_ms: u64::MAX };
    let store = open_store(&fs).expect("open");
    let log = store.open_log(LOG, REPLICA, roll).expect("open log");
    append_range(&log, 1..41, 1, MEBIBYTE);
    store.close();
    drop((store, log));
    let fs = copy(&fs);
    let store = open_store(&fs).expect("open again");
    let log = store.open_log(LOG, REPLICA, roll).expect("open log again");
    let sealed = log.segments().iter().rfind(|span| span.sealed).expect("sealed segments").last.index;
    let before = fs.pages().cached_bytes;
    assert_eq!(scan(&log, 1..sealed + 1, 5000).len() as u64, sealed);
    let read = fs.pages().cached_bytes - before;
    // One page of header, up to three of the prefix, for each frame.
    assert!(read <= sealed * 4 * 4096, "{read} bytes were read for {sealed} headers");
}

#[test]
fn a_scan_ends_where_its_visitor_breaks_and_refuses_purged_frames() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append_range(&log, 1..60, 1, 200);
    let next = log.scan_headers(
        1..60,
        |_| 0,
        |header, _| {
            if header.position.index == 33 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    assert_eq!(next.expect("scan"), 34);
    let purged = log.read(20, 21, 0).expect("read")[0].header.clone();
    wait(|done| log.purge(purged.position, purged.end_offset(), done)).expect("purge");
    let refused = log.scan_headers(20..60, |_| 0, |_, _| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(ReadError::Purged { index: 20, purged: 20 })));
}

#[test]
fn a_damaged_header_ends_a_scan_with_an_error() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    append_range(&log, 1..24, 1, 150);
    let first = log.segments()[0].clone();
    store.close();
    drop((store, log));
    let oldest = fs.paths().into_iter().find(|path| path.extension().is_some_and(|kind| kind == "seg"));
    let oldest = oldest.expect("a segment");
    // Header and payload of the first frame: a scan proves the headers and leaves payloads to their owner.
    for (at, is_header) in (512..576).map(|at| (at, true)).chain((576..726).map(|at| (at, false))) {
        let damaged = copy(&fs);
        damaged.flip(&oldest, at, 0x10);
        let (_store, log) = match open(&damaged) {
            Ok(opened) => opened,
            Err(OpenError::Corrupt { .. }) => continue,
            Err(error) => panic!("byte {at}: {error}"),
        };
        let scanned = log.scan_headers(1..first.last.index + 1, |_| 0, |_, _| ControlFlow::Continue(()));
        match scanned {
            Err(ReadError::Corrupt { .. }) => assert!(is_header, "byte {at}"),
            Ok(next) => assert!(!is_header && next == first.last.index + 1, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}
