//! What the log leaves in the page cache, and what writing costs without it.
use fanfare_log::{MemoryFileSystem, RollPolicy, StoreOptions};

use crate::support::{LOG, REPLICA, append, append_range, frame, open_with, options, read_all};

const SEGMENT_BYTES: u64 = 64 * 1024;
const LARGE_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
const PAGE_CACHE_BYTES: u64 = 256 * 1024;
const FRAME_BYTES: usize = 1500;

fn paged(pool_segments_max: usize) -> StoreOptions {
    let segment_bytes = SEGMENT_BYTES;
    StoreOptions { segment_bytes, pool_segments_max, page_cache_bytes: PAGE_CACHE_BYTES, ..options() }
}

fn roll(segment_bytes: u64) -> RollPolicy {
    RollPolicy { segment_bytes, age_ms: u64::MAX }
}

#[test]
fn the_written_log_stays_in_memory_only_up_to_its_limit() {
    for (segment_bytes, pool_segments_max) in
        [(SEGMENT_BYTES, 0), (SEGMENT_BYTES, 20), (LARGE_SEGMENT_BYTES, 0)]
    {
        let fs = MemoryFileSystem::default();
        let store = open_with(&fs, paged(pool_segments_max)).expect("open");
        store.fill_pool();
        let log = store.open_log(LOG, REPLICA, roll(segment_bytes)).expect("open log");
        let before = fs.pages().cached_bytes;
        append_range(&log, 1..2500, 1, FRAME_BYTES);
        // Whatever is still to be dropped is when the store is closed.
        store.close();
        let kept = fs.pages().cached_bytes - before;
        assert!(kept >= PAGE_CACHE_BYTES / 2, "{kept} bytes kept in memory");
        assert!(kept <= PAGE_CACHE_BYTES + (1 << 20) + SEGMENT_BYTES, "{kept} bytes kept in memory");
    }
}

#[test]
fn without_a_limit_nothing_is_dropped() {
    let fs = MemoryFileSystem::default();
    let store = open_with(&fs, StoreOptions { page_cache_bytes: 0, ..paged(0) }).expect("open");
    let log = store.open_log(LOG, REPLICA, roll(SEGMENT_BYTES)).expect("open log");
    append_range(&log, 1..2500, 1, FRAME_BYTES);
    store.close();
    assert!(fs.pages().cached_bytes >= 2500 * FRAME_BYTES as u64);
}

#[test]
fn no_page_is_read_in_order_to_write_a_part_of_it() {
    for pool_segments_max in [0, 2, 40] {
        let fs = MemoryFileSystem::default();
        let store = open_with(&fs, paged(pool_segments_max)).expect("open");
        store.fill_pool();
        let log = store.open_log(LOG, REPLICA, roll(SEGMENT_BYTES)).expect("open log");
        for (index, payload_bytes) in (1..2000).zip((100..9000).step_by(577).cycle()) {
            append(&log, vec![frame(index, 1, payload_bytes)]).expect("append");
        }
        assert_eq!(fs.pages().read_for_write, 0, "with {pool_segments_max} spare segments");
        let written = read_all(&log);
        drop((store, log));
        let store = open_with(&fs.crashed(|_| fanfare_log::memory::Keep::Nothing), paged(0)).expect("reopen");
        let log = store.open_log(LOG, REPLICA, roll(SEGMENT_BYTES)).expect("reopen log");
        assert_eq!(read_all(&log), written);
    }
}
