//! One log's slow work holds up no other log: freeing and truncating, data that queues before votes, a disk that stalls.
use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use fanfare_environment::Environment;
use fanfare_log::{Log, OnDurable, Position, RollPolicy, Store, StoreOptions};

use crate::{
    support::{
        LOG, ManualClock, REPLICA, append, append_range, frame, options, read_all, roll, timeless, wait,
    },
    watched::{BACKGROUND, CallKind, FLUSHER, WatchedFileSystem},
};

const OTHER: &str = "events-1";
const LARGE_FRAME_BYTES: usize = 1024 * 1024;
/// Bytes that the flusher writes at most before it looks for votes again.
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;

fn open_two(fs: &WatchedFileSystem, environment: &Environment, roll: RollPolicy) -> (Store, Log, Log) {
    let store = fs.open_store(environment, StoreOptions { queue_bytes_max: 1 << 26, ..options() });
    let log = store.open_log(LOG, REPLICA, roll).expect("open log");
    let other = store.open_log(OTHER, REPLICA + 1, roll).expect("open another log");
    (store, log, other)
}

fn segment_files(fs: &WatchedFileSystem, log: &str) -> usize {
    let dir = format!("/data/logs/{log}");
    let paths = fs.memory.paths();
    paths.iter().filter(|path| path.starts_with(&dir) && path.extension().is_some_and(|e| e == "seg")).count()
}

fn last_of(log: &Log, segment: usize) -> (Position, u64) {
    let span = &log.segments()[segment];
    (span.last, span.end_offset)
}

/// Takes frames away: all but a few, from either end.
type Removal = fn(&Log, OnDurable);

const REMOVALS: [(&str, Removal); 3] = [
    ("purge", |log, done| {
        let (position, offset) = last_of(log, log.segments().len() - 2);
        log.purge(position, offset, done);
    }),
    ("truncation", |log, done| log.truncate_after(Some(last_of(log, 0).0.index - 1), done)),
    ("restart behind a snapshot", |log, done| {
        log.purge(Position { term: 3, leader: 1, index: 1000 }, 5000, done);
    }),
];

#[test]
fn freeing_many_segments_costs_the_flusher_one_record_and_one_sync() {
    for (name, remove) in REMOVALS {
        let fs = WatchedFileSystem::default();
        let (store, log, other) = open_two(&fs, &timeless(), roll());
        append_range(&log, 1..200, 1, 150);
        append_range(&other, 1..3, 1, 150);
        let files = segment_files(&fs, LOG);
        assert!(files > 20, "only {files} segments");
        // Records the synced ends that the appends left to note.
        wait(|done| other.save_vote(vec![1], done)).expect("vote");
        let hold = fs.hold(|call| call.worker == BACKGROUND);
        fs.take_calls(FLUSHER);
        wait(|done| remove(&log, done)).expect(name);
        let mut changes = fs.take_calls(FLUSHER);
        changes.retain(|call| call.kind != CallKind::Read);
        let kinds: Vec<CallKind> = changes.iter().map(|call| call.kind).collect();
        assert_eq!(kinds, [CallKind::Write, CallKind::Sync], "{name}: {changes:?}");
        assert!(changes.iter().all(|call| call.path.ends_with("journal")), "{name}: {changes:?}");
        // The background worker stands still, and the other log goes on.
        append_range(&other, 3..6, 1, 150);
        assert!(segment_files(&fs, LOG) >= files, "{name}: files were freed before the answer");
        drop(hold);
        store.close();
        assert!(segment_files(&fs, LOG) <= 2, "{name}: freed files are left");
        assert_eq!(read_all(&other).len(), 5, "{name}");
    }
}

#[test]
fn a_worker_stuck_in_recycling_holds_up_no_roll_of_another_log() {
    let fs = WatchedFileSystem::default();
    let (store, log, other) = open_two(&fs, &timeless(), roll());
    store.fill_pool();
    append_range(&log, 1..100, 1, 150);
    let hold = fs.hold(|call| call.worker == BACKGROUND && call.frees_segment());
    let (position, offset) = last_of(&log, log.segments().len() - 2);
    wait(|done| log.purge(position, offset, done)).expect("purge");
    fs.wait_until_held();
    append_range(&other, 1..100, 1, 150);
    assert!(other.segments().len() > 5, "the other log rolled");
    drop(hold);
    drop((log, other));
    store.close();
}

#[test]
fn truncating_reads_from_the_newest_index_entry_on() {
    const SEGMENT: u64 = 8 << 20;
    let fs = WatchedFileSystem::default();
    let (_store, log, _other) = open_two(&fs, &timeless(), RollPolicy { segment_bytes: SEGMENT, ..roll() });
    let frames = SEGMENT / 4096 - 100;
    for start in (1..frames).step_by(100) {
        append(&log, (start..start + 100).map(|index| frame(index, 1, 3900)).collect()).expect("append");
    }
    assert_eq!(log.segments().len(), 1);
    fs.take_calls(FLUSHER);
    let last = log.bounds().last.expect("frames").index;
    for kept in [last - 1, last / 2, 150] {
        wait(|done| log.truncate_after(Some(kept), done)).expect("truncate");
        let calls = fs.take_calls(FLUSHER);
        let read: usize =
            calls.iter().filter(|call| call.kind == CallKind::Read).map(|call| call.bytes).sum();
        assert!(read <= 512 * 1024, "a truncation after {kept} of {last} read {read} bytes");
        assert_eq!(log.segments()[0].last.index, kept);
    }
}

/// Callbacks note their names in the order in which they are called.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<&'static str>>>);

impl Answers {
    fn note(&self, name: &'static str) -> OnDurable {
        let answers = self.clone();
        Box::new(move |result| {
            result.expect("durable");
            answers.0.lock().expect("no panic").push(name);
        })
    }

    fn of(&self) -> Vec<&'static str> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Makes the flusher wait in a callback until `release` is used.
fn hold_flusher(log: &Log) -> mpsc::SyncSender<()> {
    let (release, held) = mpsc::sync_channel(1);
    let (started, waiting) = mpsc::sync_channel(1);
    log.append(
        vec![frame(1, 1, 10)],
        Box::new(move |_| {
            started.send(()).expect("the test waits");
            held.recv().expect("the test goes on");
        }),
    );
    waiting.recv().expect("the flusher waits");
    release
}

#[test]
fn a_vote_overtakes_the_queued_data_of_other_logs_and_not_its_own() {
    let fs = WatchedFileSystem::default();
    let roll = RollPolicy { segment_bytes: 1 << 26, ..roll() };
    let (store, busy, voter) = open_two(&fs, &timeless(), roll);
    let release = hold_flusher(&busy);
    let answers = Answers::default();
    for index in 2..14 {
        busy.append(vec![frame(index, 1, LARGE_FRAME_BYTES)], answers.note("data"));
    }
    voter.append(vec![frame(1, 1, 10)], answers.note("own data"));
    voter.save_vote(vec![1], answers.note("vote"));
    voter.append(vec![frame(2, 1, 10)], answers.note("later data"));
    release.send(()).expect("the flusher waits");
    store.close();
    let order = answers.of();
    assert_eq!(&order[..3], ["own data", "vote", "data"], "{order:?}");
    assert_eq!(order.last(), Some(&"later data"), "{order:?}");
    assert_eq!(voter.vote(), Some(vec![1]));
}

#[test]
fn a_vote_waits_for_one_round_of_other_logs_at_most() {
    let fs = WatchedFileSystem::default();
    let roll = RollPolicy { segment_bytes: 1 << 26, ..roll() };
    let (_store, busy, voter) = open_two(&fs, &timeless(), roll);
    let release = hold_flusher(&busy);
    let answers = Answers::default();
    let told = answers.clone();
    // The vote comes when the first round has been taken.
    busy.append(vec![frame(2, 1, 10)], Box::new(move |_| voter.save_vote(vec![1], told.note("vote"))));
    for index in 3..40 {
        busy.append(vec![frame(index, 1, LARGE_FRAME_BYTES)], answers.note("data"));
    }
    release.send(()).expect("the flusher waits");
    append(&busy, vec![frame(40, 1, 10)]).expect("append");
    let order = answers.of();
    let before = order.iter().position(|name| *name == "vote").expect("answered");
    assert!(before <= ROUND_BYTES_MAX / LARGE_FRAME_BYTES, "{before} large frames went before the vote");
    assert_eq!(order.len(), 38);
}

#[test]
fn a_stalled_disk_is_noticed_while_it_stalls() {
    let clock = Arc::new(ManualClock::default());
    let environment = Environment::system().with_clock(clock.clone());
    let fs = WatchedFileSystem::default();
    let (store, log, other) = open_two(&fs, &environment, roll());
    assert_eq!(store.oldest_unsynced(), Duration::ZERO);
    let hold = fs.hold(|call| call.is(FLUSHER, CallKind::Sync));
    let (answered, answers) = mpsc::sync_channel(2);
    let tell = answered.clone();
    log.append(vec![frame(1, 1, 10)], Box::new(move |_| tell.send(()).unwrap_or_default()));
    fs.wait_until_held();
    clock.advance(Duration::from_millis(1500));
    assert_eq!(store.oldest_unsynced(), Duration::from_millis(1500));
    // A later request does not make the stall look shorter.
    other.save_vote(vec![1], Box::new(move |_| answered.send(()).unwrap_or_default()));
    clock.advance(Duration::from_millis(500));
    assert_eq!(store.oldest_unsynced(), Duration::from_secs(2));
    drop(hold);
    answers.recv().expect("durable");
    answers.recv().expect("durable");
    // The answer comes from within a round; the next request is answered after the round has ended.
    append(&log, vec![frame(2, 1, 10)]).expect("append");
    store.close();
    assert_eq!(store.oldest_unsynced(), Duration::ZERO);
}
