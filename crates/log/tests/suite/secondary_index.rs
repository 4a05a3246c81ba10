//! Looking frames up by key finds all that a reading of the whole log finds, whatever became of the index files.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fanfare_environment::Environment;
use fanfare_log::{
    DiskFileSystem, FileSystem, Frame, FrameStart, IndexKey, IndexKeys, KeyedFrames, Log, MemoryFileSystem,
    StoreOptions, memory::Keep,
};
use proptest::prelude::*;

use crate::{
    crash::variants,
    model::{Model, Step},
    support::{
        DIR, LOG, NumberSequence, REPLICA, after_power_loss, any_options, append, append_range, frame, open,
        open_in, open_store, open_with, options, read_all, roll, wait,
    },
    watched::{CallKind, INDEXER, WatchedFileSystem},
};

const DEADLINE: Duration = Duration::from_secs(20);
/// Every fiftieth frame has it.
const RARE: IndexKey = IndexKey(7777);
const KEYS: IndexKeys = IndexKeys { version: 1, keys_of };

fn keys_of(frame: &Frame, keys: &mut Vec<IndexKey>) {
    let index = frame.header.position.index;
    keys.extend([index % 5, 100 + index % 3, 100 + index % 3, u64::MAX - 1 - index].map(IndexKey));
    if index.is_multiple_of(50) {
        keys.push(RARE);
    }
    if index % 40 == 13 {
        keys.push(IndexKey::ANY);
    }
}

fn has(frame: &Frame, key: IndexKey) -> bool {
    let mut keys = Vec::new();
    keys_of(frame, &mut keys);
    keys.contains(&key) || keys.contains(&IndexKey::ANY)
}

fn open_indexed(fs: &MemoryFileSystem) -> (fanfare_log::Store, Log) {
    let (store, log) = open(fs).expect("open");
    log.start_index(KEYS).expect("a thread");
    (store, log)
}

/// Waits until all sealed segments are indexed.
fn settle(log: &Log) {
    let deadline = Instant::now() + DEADLINE;
    while log.segments_unindexed() > 0 {
        assert!(Instant::now() < deadline, "{} segments are not indexed", log.segments_unindexed());
        std::thread::yield_now();
    }
}

fn indexes(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.header.position.index).collect()
}

/// All frames that a lookup of `key` gives, forwards.
fn forwards(log: &Log, key: IndexKey, from: u64, bytes_max: u64) -> Vec<Frame> {
    let (mut next, mut found) = (from, Vec::new());
    while let Some(part) = log.read_keyed(key, next..u64::MAX, bytes_max).expect("read") {
        let KeyedFrames { frames, next: FrameStart { index: after, base_offset } } = part;
        assert!(after > next, "no progress at {next}");
        assert!(frames.iter().all(|frame| (next..after).contains(&frame.header.position.index)));
        let following = log.read(after, after + 1, 0).expect("read");
        let expected =
            following.first().map_or_else(|| log.bounds().next_offset, |frame| frame.header.base_offset);
        assert_eq!(base_offset, expected, "offset of {after}");
        found.extend(frames);
        next = after;
    }
    found
}

fn backwards(log: &Log, key: IndexKey) -> Vec<Frame> {
    let (mut end, mut found) = (u64::MAX, Vec::new());
    while let Some(part) = log.read_keyed_backwards(key, end).expect("read") {
        assert!(part.next.index < end, "no progress at {end}");
        found.extend(part.frames.into_iter().rev());
        end = part.next.index;
    }
    found.reverse();
    found
}

/// What lookups find is what a reading of the whole log finds.
fn check(log: &Log) {
    let all = read_all(log);
    let first = all.first().map_or(u64::MAX, |frame| frame.header.position.index);
    for key in [0, 1, 4, 100, 102, 7777, u64::MAX - 1 - 20, 5].map(IndexKey) {
        let expected: Vec<&Frame> = all.iter().filter(|frame| has(frame, key)).collect();
        for found in [forwards(log, key, first, 0), forwards(log, key, first, u64::MAX), backwards(log, key)]
        {
            assert!(found.is_sorted_by_key(|frame| frame.header.position.index), "each once, in order");
            assert_eq!(indexes(&found).len(), indexes(&found).iter().collect::<BTreeSet<_>>().len());
            let carrying: Vec<&Frame> = found.iter().filter(|frame| has(frame, key)).collect();
            assert_eq!(carrying, expected, "key {key:?}");
        }
    }
    for frame in &all {
        for offset in frame.header.base_offset..frame.header.base_offset + u64::from(frame.header.count) {
            let found = log.index_of_offset(offset).expect("lookup");
            assert_eq!(found, Some(frame.header.position.index), "offset {offset}");
        }
    }
}

/// In sealed segments nothing else is read from disk than what carries the key.
fn check_exact(log: &Log) {
    let sealed = log.segments().iter().rfind(|span| span.sealed).map_or(0, |span| span.last.index + 1);
    let first = log.segments().first().map_or(0, |span| span.first_index);
    let first = log.bounds().purged.map_or(first, |purged| first.max(purged.index + 1));
    let cached = (first..sealed).find(|index| log.read_cached(*index, index + 1, 0).is_some());
    let sealed = cached.unwrap_or(sealed);
    let keys = [3, 101, 7777, 9].map(IndexKey);
    // Damage is noticed at the first look.
    for key in keys {
        forwards(log, key, first, u64::MAX);
    }
    settle(log);
    for key in keys {
        let mut found = forwards(log, key, first, u64::MAX);
        found.retain(|frame| frame.header.position.index < sealed);
        assert!(found.iter().all(|frame| has(frame, key)), "key {key:?}: {:?}", indexes(&found));
    }
}

fn index_files(fs: &dyn FileSystem) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("logs").join(LOG);
    let names = fs.list(&dir).expect("list");
    names.into_iter().filter(|name| name.ends_with(".keys")).map(|name| dir.join(name)).collect()
}

fn flip(fs: &MemoryFileSystem, path: &Path, at: u64) {
    let file = fs.open(path).expect("open");
    let length = file.length().expect("length");
    let mut byte = [0];
    file.read_at(&mut byte, at % length).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at % length).expect("write");
}

#[derive(Clone, Debug)]
enum Event {
    Do(Step),
    Settle,
    Close,
    Kill,
    PowerLoss(u64),
    /// Of the index file with this number, modulo their number.
    Flip(usize, u64),
    Remove(usize),
    Shorten(usize, u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (1..30_u64, 0..300_usize).prop_map(|(frames, payload_bytes)| Step::Append { frames, payload_bytes }).prop_map(Event::Do),
        2 => (0..40_u64).prop_map(|dropped| Event::Do(Step::Truncate { dropped })),
        2 => (0..60_u64).prop_map(|kept| Event::Do(Step::Purge { kept })),
        1 => (0..5_u64).prop_map(|skipped| Event::Do(Step::Restart { skipped })),
        4 => Just(Event::Settle),
        1 => Just(Event::Close),
        1 => Just(Event::Kill),
        1 => any::<u64>().prop_map(Event::PowerLoss),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(file, at)| Event::Flip(file, at)),
        1 => any::<usize>().prop_map(Event::Remove),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(file, bytes)| Event::Shorten(file, bytes)),
    ]
}

/// Harms an index file; open ones are found damaged later, or never.
fn harm(fs: &MemoryFileSystem, event: &Event) {
    let files = index_files(fs);
    let path = |number: usize| files.get(number.checked_rem(files.len())?);
    match *event {
        Event::Flip(number, at) => {
            if let Some(path) = path(number) {
                flip(fs, path, at);
            }
        }
        Event::Remove(number) => {
            if let Some(path) = path(number) {
                fs.remove(path).expect("remove");
            }
        }
        Event::Shorten(number, bytes) => {
            if let Some(path) = path(number) {
                let old = fs.open(path).expect("open");
                let length = old.length().expect("length");
                let mut kept = vec![0; usize::try_from(bytes % length).expect("small")];
                old.read_at(&mut kept, 0).expect("read");
                fs.create(path).expect("create").write_all_at(&kept, 0).expect("write");
            }
        }
        Event::Do(_) | Event::Settle | Event::Close | Event::Kill | Event::PowerLoss(_) => {}
    }
}

fn run(events: &[Event], options: &StoreOptions) {
    let mut fs = MemoryFileSystem::default();
    let mut store = open_with(&fs, options.clone()).expect("open");
    let mut log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    log.start_index(KEYS).expect("a thread");
    let mut model = Model::of(&log, 1);
    for event in events {
        match event {
            Event::Do(step) => model.run(step, &log),
            Event::Settle => {
                settle(&log);
                check(&log);
                check_exact(&log);
            }
            Event::Flip(..) | Event::Remove(_) | Event::Shorten(..) => harm(&fs, event),
            Event::Close => store.close(),
            Event::Kill => {}
            Event::PowerLoss(bits) => fs = after_power_loss(&fs, *bits),
        }
        if matches!(event, Event::Close | Event::Kill | Event::PowerLoss(_)) {
            drop((store, log));
            store = open_with(&fs, options.clone()).expect("reopen");
            log = store.open_log(LOG, REPLICA, roll()).expect("reopen log");
            log.start_index(KEYS).expect("a thread");
        }
        assert_eq!(Model::of(&log, model.term()), model, "after {event:?}");
        check(&log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lookups_by_key_find_the_same_as_reading_the_whole_log(
        events in prop::collection::vec(event(), 1..30),
        options in any_options(),
    ) {
        run(&events, &options);
    }
}

#[test]
fn lookups_are_right_in_every_crash_state() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open_indexed(&fs);
    let mut model = Model::of(&log, 1);
    let few = |frames| Step::Append { frames, payload_bytes: 250 };
    let steps = [few(14), few(8), Step::Truncate { dropped: 9 }, few(16), Step::Purge { kept: 12 }, few(4)];
    for step in &steps {
        model.run(step, &log);
        settle(&log);
    }
    store.close();
    let mut states = 0;
    for operations in 0..=fs.operations() {
        let at = fs.after(operations);
        let mut unsynced = 0;
        at.crashed(|_| {
            unsynced += 1;
            Keep::All
        });
        // One in eleven of the ways in which writes are kept, lost and torn.
        for keep in variants(unsynced).iter().step_by(11) {
            let mut number = 0;
            let crashed = at.crashed(|_| {
                number += 1;
                keep(number - 1)
            });
            let (_store, log) = open_indexed(&crashed);
            check(&log);
            settle(&log);
            check_exact(&log);
            states += 1;
        }
    }
    assert!(states > 150, "only {states} states were tried");
}

#[test]
fn an_index_is_written_when_a_segment_is_sealed_and_goes_with_it() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open_indexed(&fs);
    append_range(&log, 1..60, 1, 300);
    settle(&log);
    let spans = log.segments();
    assert_eq!(index_files(&fs).len(), spans.len() - 1);
    let purged = spans[3].last;
    wait(|done| log.purge(purged, spans[3].end_offset, done)).expect("purge");
    store.close();
    assert_eq!(index_files(&fs).len(), spans.len() - 1 - 4);
    // What a crash may leave of a freed segment goes at the next start.
    let orphan = Path::new(DIR).join("logs").join(LOG).join("0000000000000001.keys");
    fs.create(&orphan).expect("create");
    drop((store, log));
    let (_store, log) = open_indexed(&fs);
    settle(&log);
    assert_eq!(index_files(&fs).len(), spans.len() - 1 - 4);
    check_exact(&log);
}

#[test]
fn every_flipped_byte_of_an_index_is_noticed_and_mended() {
    let fs = MemoryFileSystem::default();
    let (store, log) = open_indexed(&fs);
    append_range(&log, 1..40, 1, 300);
    settle(&log);
    store.close();
    drop((store, log));
    let path = index_files(&fs)[1].clone();
    let content = || {
        let file = fs.open(&path).expect("open");
        let mut bytes = vec![0; usize::try_from(file.length().expect("length")).expect("small")];
        file.read_at(&mut bytes, 0).expect("read");
        bytes
    };
    let whole = content();
    for at in 0..whole.len() as u64 {
        flip(&fs, &path, at);
        let (_store, log) = open_indexed(&fs);
        settle(&log);
        check(&log);
        check_exact(&log);
        assert!(content() == whole, "byte {at} was not mended");
    }
}

/// The builder has found a file whole, and does not know yet that a lookup has removed the file as damaged.
#[test]
fn a_file_that_a_lookup_discards_while_the_builder_checks_the_file_is_built_again() {
    let memory = MemoryFileSystem::default();
    let (store, log) = open_indexed(&memory);
    append_range(&log, 1..40, 1, 300);
    settle(&log);
    store.close();
    drop((store, log));
    // The builder begins with the newest file.
    let path = index_files(&memory).pop().expect("index files");
    let whole = memory.content(&path).expect("index");
    // The last block of postings, which the builder does not read.
    flip(&memory, &path, whole.len() as u64 - 1);
    let fs = WatchedFileSystem::of(&memory);
    let hold = fs.hold(|call| call.is(INDEXER, CallKind::Open));
    let store = fs.open_store(&Environment::system(), options());
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    log.start_index(KEYS).expect("a thread");
    fs.wait_until_held();
    check(&log);
    assert!(memory.content(&path).is_err(), "the lookups removed the damaged file");
    drop(hold);
    settle(&log);
    assert!(memory.content(&path).is_ok_and(|content| content == whole), "the file was not built again");
}

/// What this version writes is what the file beside this says. A difference is a change of format.
#[test]
fn the_format_of_an_index_has_not_changed() {
    let fs = MemoryFileSystem::default();
    let environment = Environment::system().with_random(std::sync::Arc::new(NumberSequence::default()));
    let store = open_in(&environment, &fs, options()).expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    log.start_index(KEYS).expect("a thread");
    append_range(&log, 9..15, 1, 300);
    settle(&log);
    let path = &index_files(&fs)[0];
    let golden: &[u8] = include_bytes!("../golden/first.keys");
    assert_eq!(fs.content(path).expect("the file was written"), golden);
}

#[test]
fn a_segment_without_an_index_is_read_whole() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append_range(&log, 1..60, 1, 300);
    // Nobody said how to key: lookups read everything.
    assert_eq!(indexes(&forwards(&log, RARE, 1, u64::MAX)), (1..60).collect::<Vec<_>>());
    assert_eq!(indexes(&backwards(&log, RARE)), (1..60).collect::<Vec<_>>());
    log.start_index(KEYS).expect("a thread");
    settle(&log);
    let sealed = log.segments().iter().rfind(|span| span.sealed).expect("sealed ones").last.index;
    let found = indexes(&forwards(&log, RARE, 1, u64::MAX));
    let expected: Vec<u64> = (1..=sealed).filter(|index| *index == 50 || index % 40 == 13).collect();
    assert_eq!(found.into_iter().filter(|index| *index <= sealed).collect::<Vec<_>>(), expected);
}

#[test]
fn an_index_of_other_keys_is_not_used() {
    fn none(_: &Frame, _: &mut Vec<IndexKey>) {}
    let fs = MemoryFileSystem::default();
    let (store, log) = open(&fs).expect("open");
    log.start_index(IndexKeys { version: 2, keys_of: none }).expect("a thread");
    append_range(&log, 1..60, 1, 300);
    settle(&log);
    let sealed = log.segments().iter().rfind(|span| span.sealed).expect("sealed ones").last.index;
    let found = indexes(&forwards(&log, IndexKey(0), 1, u64::MAX));
    assert!(found.iter().all(|index| *index > sealed), "{found:?} carry no key");
    store.close();
    drop((store, log));
    let (_store, log) = open_indexed(&fs);
    check(&log);
    settle(&log);
    check_exact(&log);
}

/// On a disk that takes no index, everything else goes on.
#[test]
fn a_failing_index_leaves_the_log_usable() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = fanfare_log::Store::open(
        &Environment::system(),
        std::sync::Arc::new(DiskFileSystem),
        directory.path(),
        options(),
        Box::new(|fatal| panic!("{fatal}")),
    )
    .expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    // A directory stands where the first segment's index would be written.
    let dir = directory.path().join("logs").join(LOG);
    std::fs::create_dir(dir.join("0000000000000001.keys.new")).expect("a directory");
    log.start_index(KEYS).expect("a thread");
    append_range(&log, 1..30, 1, 300);
    settle(&log);
    check(&log);
}

#[test]
fn lookups_use_the_draft_of_the_newest_segment() {
    let fs = MemoryFileSystem::default();
    let store = open_store(&fs).expect("open");
    let large = fanfare_log::RollPolicy { segment_bytes: 8 << 20, ..roll() };
    let log = store.open_log(LOG, REPLICA, large).expect("open log");
    log.start_index(KEYS).expect("a thread");
    for start in (1..3000).step_by(100) {
        let batch = (start..start + 100).map(|index| frame(index, 1, 900)).collect();
        append(&log, batch).expect("append");
    }
    let deadline = Instant::now() + DEADLINE;
    // The last piece of less than a megabyte is not drafted yet.
    while forwards(&log, RARE, 1, u64::MAX).len() > 1500 {
        assert!(Instant::now() < deadline, "the newest segment is not drafted");
    }
    assert_eq!(log.segments().len(), 1);
    check(&log);
}

#[test]
fn drafts_of_all_logs_share_one_budget_and_the_largest_go_first() {
    // Drafts of about 390, 200 and 2 KiB.
    for (budget, is_drafted) in [(1 << 20, [true, true, true]), (450_000, [false, true, true])] {
        let fs = MemoryFileSystem::default();
        let store =
            open_with(&fs, StoreOptions { index_draft_bytes_max: budget, ..options() }).expect("open");
        let large = fanfare_log::RollPolicy { segment_bytes: 8 << 20, ..roll() };
        let logs = [3000_u64, 2000, 10].map(|frames| {
            let log = store.open_log(&format!("events-{frames}"), frames, large).expect("open log");
            append(&log, (1..=frames).map(|index| frame(index, 1, 10)).collect()).expect("append");
            log.start_index(KEYS).expect("a thread");
            log
        });
        let covers = |log: &Log| log.peek(RARE, 1..2).expect("peek").is_some();
        // The builder goes through the logs in their order, so with the last one all are drafted as far as they can be.
        let deadline = Instant::now() + DEADLINE;
        while !covers(&logs[2]) {
            assert!(Instant::now() < deadline, "the last log is not drafted");
            std::thread::yield_now();
        }
        assert!(logs.iter().all(|log| log.read_cached(1, 2, 0).is_none()), "frames are read from disk");
        assert_eq!(logs.each_ref().map(covers), is_drafted, "budget {budget}");
    }
}
