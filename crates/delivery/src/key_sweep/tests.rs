use proptest::prelude::*;

use super::*;
use crate::subscription::buffered_event::tests::event;

const CHUNK_BYTES: u64 = 1 << 20;

fn scan(key: u64, from: u64, first_only: bool) -> KeyScan {
    KeyScan { key: KeyHash(key), from: Offset(from), first_only }
}

/// Keys of the events of a log, and the reads that were made of it.
struct Log {
    keys: Vec<u64>,
    /// Events that a whole chunk holds.
    chunk_events: u64,
    damaged: Range<u64>,
    reads: Vec<u64>,
}

impl Log {
    fn new(keys: Vec<u64>) -> Self {
        Self { keys, chunk_events: 10, damaged: 0..0, reads: Vec::new() }
    }

    fn sweep(&mut self, scans: &[KeyScan], bytes_max: usize) -> Vec<ScannedKey> {
        let end = self.keys.len() as u64;
        let mut sweep = KeySweep::new(scans, Offset(end), bytes_max, CHUNK_BYTES);
        while let Some(SweepRead { from: Offset(from), bytes }) = sweep.next_read() {
            assert!(from < end, "a read at {from} of {end}");
            self.reads.push(from);
            if self.damaged.contains(&from) {
                sweep.fail();
                continue;
            }
            let events = if bytes == CHUNK_BYTES { self.chunk_events } else { 1 };
            let chunk_end = (from + events).min(end);
            sweep.begin_chunk(Offset(chunk_end));
            for offset in from..chunk_end {
                let key = self.keys[usize::try_from(offset).unwrap()];
                if sweep.wants(KeyHash(key), Offset(offset)) {
                    sweep.take(event(offset, key));
                }
            }
            sweep.end_chunk();
        }
        sweep.finish()
    }
}

fn offsets(scanned: &ScannedKey) -> Vec<u64> {
    scanned.events.iter().map(|event| event.offset.0).collect()
}

#[test]
fn one_pass_finds_the_first_events_of_all_keys_and_skips_the_log_between_them() {
    let mut log = Log::new((0..1_000).map(|offset| if offset % 3 == 0 { offset % 30 } else { 99 }).collect());
    let scans = [scan(3, 3, false), scan(6, 6, false), scan(9, 609, true), scan(12, 612, false)];
    let found = log.sweep(&scans, 1 << 20);
    assert_eq!(log.reads, [3, 609, 612]);
    assert_eq!(offsets(&found[0]), [3]);
    assert_eq!((offsets(&found[1]), found[1].scanned_to), (vec![6], Offset(13)));
    assert_eq!((offsets(&found[2]), found[2].scanned_to), (vec![609], Offset(610)));
    assert_eq!((offsets(&found[3]), found[3].scanned_to), (vec![612], Offset(622)));
}

#[test]
fn a_pass_begins_at_its_first_key_and_ends_with_the_oldest() {
    let mut log = Log::new(vec![1; 100]);
    log.keys[50] = 2;
    let found = log.sweep(&[scan(2, 50, false), scan(1, 7, true)], 1 << 20);
    assert_eq!(log.reads, [50, 7]);
    assert_eq!((offsets(&found[0]), offsets(&found[1])), (vec![50], vec![7]));
}

#[test]
fn a_damaged_place_fails_the_keys_that_need_it_and_no_others() {
    let mut log = Log::new(vec![1, 2, 3, 1, 2, 3]);
    log.damaged = 1..2;
    let found = log.sweep(&[scan(1, 0, true), scan(2, 1, true), scan(3, 2, true)], 1 << 20);
    assert_eq!(found.iter().map(|key| key.failed).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(found[1].scanned_to, Offset(1));
    assert_eq!((offsets(&found[0]), offsets(&found[2])), (vec![0], vec![2]));
}

#[test]
fn a_key_whose_events_are_gone_has_been_scanned_to_the_end() {
    let mut log = Log::new(vec![1; 35]);
    let found = log.sweep(&[scan(2, 3, false), scan(3, 5, true)], 1 << 20);
    assert_eq!((offsets(&found[0]), found[0].scanned_to), (vec![], Offset(35)));
    assert_eq!((offsets(&found[1]), found[1].scanned_to), (vec![], Offset(6)));
}

proptest! {
    #[test]
    fn repeated_passes_find_every_event_once_and_in_order(
        keys in prop::collection::vec(0_u64..6, 1..200),
        bytes_max in 1_usize..200,
        chunk_events in 1_u64..40,
        first in 0_usize..6,
    ) {
        let mut log = Log { chunk_events, ..Log::new(keys.clone()) };
        let mut positions: BTreeMap<u64, u64> = (0..6).map(|key| (key, 0)).collect();
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let end = keys.len() as u64;
        let mut passes = 0;
        while positions.values().any(|&position| position < end) {
            let mut scans: Vec<_> = positions.iter().filter(|(_, from)| **from < end)
                .map(|(&key, &from)| scan(key, from, key % 2 == 0)).collect();
            scans.sort_by_key(|scan| scan.from);
            let count = scans.len();
            scans.rotate_left((first + passes) % count);
            let before: u64 = positions.values().sum();
            for scanned in log.sweep(&scans, bytes_max) {
                let key = scanned.key.0;
                found.entry(key).or_default().extend(offsets(&scanned));
                let last = offsets(&scanned).last().copied();
                prop_assert!(last.is_none_or(|last| last < scanned.scanned_to.0));
                prop_assert!(scanned.scanned_to.0 >= positions[&key] && !scanned.failed);
                positions.insert(key, scanned.scanned_to.0);
            }
            prop_assert!(positions.values().sum::<u64>() > before, "a pass gets on");
            passes += 1;
        }
        for key in 0..6 {
            let expected: Vec<u64> = (0..end).filter(|offset| keys[usize::try_from(*offset).unwrap()] == key).collect();
            prop_assert_eq!(found.remove(&key).unwrap_or_default(), expected);
        }
    }
}
