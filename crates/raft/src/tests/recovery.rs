//! What a replica does with a checkpoint that does not fit its log.

use std::sync::Arc;

use fanfare_environment::Environment;
use fanfare_log::{Frame, FrameHeader, MemoryFileSystem, NewFrame, Payload, Position, RollPolicy};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use tokio::time::timeout;

use super::{
    ledger::{ADD, Ledger, add, trim},
    node::{DEADLINE, Files, GROUP, Node, applier, member, settings},
};
use crate::{
    Anchor, Group, GroupFailure, GroupId, GroupOptions, Host, NoPeers, OpenError, ReplicaId, Role,
    StateMachine,
    apply::Progress,
    checkpoint::{CHECKPOINT_VERSION, Checkpoint},
    entry::{Entry, EntryPayload, log_id_of, position_of},
    log_storage::LogStorage,
};

pub(super) async fn with_entries(count: u32) -> (Node, u64) {
    with_entries_in(Files::in_memory(), count).await
}

pub(super) async fn with_entries_in(files: Files, count: u32) -> (Node, u64) {
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.group.initialize(vec![member(1)]).await.unwrap();
    let term = node.leading().await;
    for _ in 0..count {
        node.apply(term, add(2, b"ab")).await;
    }
    (node, term)
}

async fn trimmed_to_20() -> Files {
    let (node, term) = with_entries(40).await;
    let anchor = node.group.read(|ledger| ledger.seen[19].clone());
    node.apply(term, trim(&anchor)).await;
    node.purges_upto(anchor.position.index).await;
    node.stop().await
}

pub(super) async fn cannot_open(files: Files) -> String {
    match Node::try_open(files, settings(1), Arc::new(NoPeers), Ledger::anchored).await {
        Err(OpenError::Unusable { failure, offsets, .. }) => {
            format!("{failure}; offsets {}..{}", offsets.start, offsets.end)
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

/// Cuts the log behind the group's back, as a disk does that lied about a sync.
fn cut_log(files: &Files, entries: u64) {
    let store = files.store();
    let log = files.log(&store, 1);
    let last = log.bounds().last.unwrap().index;
    log.truncate_after(Some(last - entries), Box::new(|result| result.unwrap()));
    store.close();
}

pub(super) fn edit_checkpoint(files: &Files, edit: impl FnOnce(&mut Vec<u8>)) {
    let store = files.store();
    let name = format!("checkpoint-{GROUP}");
    let (version, mut bytes) = store.load_file(&name).unwrap().expect("there is a checkpoint");
    assert_eq!(version, u32::from(CHECKPOINT_VERSION));
    edit(&mut bytes);
    store.save_file(&name, version, &bytes).unwrap();
    store.close();
}

#[tokio::test]
async fn a_log_torn_below_its_checkpoint_loses_nothing_that_is_left() {
    let (node, _) = with_entries(60).await;
    let files = node.stop().await;
    cut_log(&files, 25);

    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    assert_eq!(node.group.log().bounds().purged, None, "the log was taken for a hole");
    assert_eq!(node.calls.restored(), 0, "the checkpoint is ahead of the log");
    let next = node.apply(term, add(1, b"c")).await;
    let (count, sum) = node.group.read(|ledger| (ledger.seen.len(), ledger.sum));
    let left = count as u64 - 1;
    assert!(left >= 35, "{left} of at least 35 entries are left");
    assert_eq!(next.base_offset, left * 2);
    assert_eq!(sum, left * u64::from(b'a') + left * u64::from(b'b') + u64::from(b'c'));
    node.stop().await;
}

#[tokio::test]
async fn a_torn_log_that_was_purged_is_refused_and_left_alone() {
    let files = trimmed_to_20().await;
    cut_log(&files, 5);
    let what = cannot_open(files.clone()).await;
    assert!(what.contains("above the log's end") && what.contains("purged up to index"), "{what}");
    let store = files.store();
    let bounds = files.log(&store, 1).bounds();
    assert!(bounds.last > bounds.purged, "the rest of the log is still there");
    store.close();
}

#[tokio::test]
async fn without_a_usable_checkpoint_everything_retained_is_applied_again() {
    let (node, _) = with_entries(30).await;
    let before = node.group.read(|ledger| (ledger.seen.clone(), ledger.sum));
    let files = node.stop().await;
    edit_checkpoint(&files, |bytes| bytes.truncate(10));

    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.leading().await;
    assert_eq!(node.calls.restored(), 0);
    assert_eq!(node.group.read(|ledger| (ledger.seen.clone(), ledger.sum)), before);
    node.stop().await;
}

#[tokio::test]
async fn a_purged_log_without_a_usable_checkpoint_is_refused() {
    let files = trimmed_to_20().await;
    edit_checkpoint(&files, |bytes| bytes.truncate(10));
    let what = cannot_open(files).await;
    assert!(what.contains("damaged") && what.contains("purged up to index"), "{what}");
    assert!(what.contains(&format!("checkpoint-{GROUP}")) && what.contains("offsets 40..80"), "{what}");
}

#[tokio::test]
async fn corruption_that_a_start_meets_is_told_from_other_errors_and_named() {
    let fs = MemoryFileSystem::default();
    let (node, _) = with_entries_in(Files::over(fs.clone()), 60).await;
    assert!(node.group.log().segments().first().unwrap().sealed);
    let files = node.stop().await;
    let paths = fs.paths();
    let segment = paths.iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    fs.flip(segment, 520, 1);
    let named = segment.display().to_string();
    let what = cannot_open(files.clone()).await;
    assert!(
        what.contains(&named) && what.contains("at byte 512") && what.contains("offsets 0..120"),
        "{what}"
    );
    // Without a checkpoint the machine recovers from nothing, and openraft is the first to read.
    edit_checkpoint(&files, |bytes| bytes.truncate(10));
    let what = cannot_open(files).await;
    assert!(
        what.contains(&named) && what.contains("at byte 512") && what.contains("offsets 0..120"),
        "{what}"
    );
}

/// Entries in several sealed segments above the checkpoint, which is that of the tenth.
async fn far_above_the_checkpoint(fs: &MemoryFileSystem) -> Files {
    let (node, _) = with_entries_in(Files::over(fs.clone()), 10).await;
    let files = node.stop().await;
    let mut early = Vec::new();
    edit_checkpoint(&files, |bytes| early.clone_from(bytes));
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    for _ in 0..200 {
        node.apply(term, add(2, b"cd")).await;
    }
    assert!(node.group.log().segments().iter().filter(|segment| segment.sealed).count() > 2);
    let files = node.stop().await;
    edit_checkpoint(&files, |bytes| *bytes = early);
    files
}

#[tokio::test]
async fn a_log_damaged_above_its_checkpoint_is_refused_before_anything_is_written_to_it() {
    let fs = MemoryFileSystem::default();
    let files = far_above_the_checkpoint(&fs).await;
    let last = |files: &Files| {
        let store = files.store();
        let bounds = files.log(&store, 1).bounds();
        store.close();
        (bounds.last, bounds.next_offset)
    };
    let before = last(&files);
    let paths = fs.paths();
    let mut segments = paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "seg"));
    let sealed = segments.nth(2).unwrap();
    // In the payload of the segment's first frame, which no header proves.
    fs.flip(sealed, 512 + 64, 1);
    let what = cannot_open(files.clone()).await;
    assert!(what.contains(&sealed.display().to_string()) && what.contains("offsets 0..420"), "{what}");
    assert_eq!(last(&files), before);
    fs.flip(sealed, 512 + 64, 1);
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.leading().await;
    assert_eq!(node.calls.live(), 200, "each entry above the checkpoint is applied once");
    assert_eq!(node.group.read(|ledger| ledger.seen.len()), 210);
    node.stop().await;
}

/// The payloads above the checkpoint are read when they are applied, and by nobody before.
#[tokio::test]
async fn a_start_looks_for_memberships_without_reading_payloads() {
    let fs = MemoryFileSystem::default();
    let files = Files { segment_bytes: 1 << 20, ..Files::over(fs.clone()) };
    let store = files.store();
    let log = files.log(&store, 1);
    let payload = || Payload::new(vec![vec![7; 64 << 10].into()]);
    let frame = |index| NewFrame {
        kind: ADD,
        position: Position { term: 1, leader: 1, index },
        count: 1,
        time_ms: 1,
        payload: payload(),
    };
    log.append((0..10).map(frame).collect(), Box::new(|result| result.unwrap()));
    store.close();
    let segment =
        fs.paths().into_iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    let store = files.store();
    let log = files.log(&store, 1);
    // The middle of an entry in the middle.
    fs.fail_reads(&segment, 300 << 10..310 << 10);
    assert!(log.read(0, 10, u64::MAX).is_err(), "the payloads cannot be read");
    let mut storage = LogStorage::new(&applier(&store, &log), Environment::system());
    let entries = storage.try_get_log_entries(0..10).await.unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().all(|entry| matches!(entry.payload, EntryPayload::Unread)));
    store.close();
}

#[tokio::test]
async fn what_is_applied_is_not_truncated() {
    let files = Files::in_memory();
    let store = files.store();
    let log = files.log(&store, 1);
    let frame = |index| NewFrame {
        kind: ADD,
        position: Position { term: 1, leader: 1, index },
        count: 1,
        time_ms: 1,
        payload: Payload::new(vec![vec![0].into()]),
    };
    log.append((0..10).map(frame).collect(), Box::new(|result| result.unwrap()));
    let applier = applier(&store, &log);
    let at = |index| log_id_of(Position { term: 1, leader: 1, index });
    applier.progress.lock().applied = Some(at(6));
    let mut storage = LogStorage::new(&applier, Environment::system());
    storage.truncate_after(Some(at(7))).await.unwrap();
    storage.truncate_after(Some(at(6))).await.unwrap();
    assert_eq!(log.bounds().last.unwrap().index, 6);
    for last_kept in [Some(at(5)), None] {
        let refused = storage.truncate_after(last_kept).await.unwrap_err().to_string();
        assert!(refused.contains("up to 6 are committed and applied"), "{refused}");
    }
    assert_eq!(log.bounds().last.unwrap().index, 6, "nothing is cut");
    assert_eq!(applier.failure.get(), Some(&GroupFailure::AppliedTruncated { first_cut: 6, applied: 6 }));
    store.close();
}

#[tokio::test]
async fn a_checkpoint_that_the_disk_does_not_give_fails_its_group_alone() {
    let fs = MemoryFileSystem::default();
    let (node, term) = with_entries_in(Files::over(fs.clone()), 40).await;
    let anchor = node.group.read(|ledger| ledger.seen[19].clone());
    node.apply(term, trim(&anchor)).await;
    node.purges_upto(anchor.position.index).await;
    let files = node.stop().await;
    let path = fs.paths().into_iter().find(|path| path.ends_with(format!("checkpoint-{GROUP}"))).unwrap();
    fs.fail_reads(&path, 0..1);
    let what = cannot_open(files.clone()).await;
    assert!(what.contains("read ") && what.contains("purged up to index"), "{what}");

    let store = files.store();
    let host = Host::without_peers(store.clone(), Environment::system());
    let roll = RollPolicy { segment_bytes: files.segment_bytes, age_ms: u64::MAX };
    let log = store.open_log(&GroupId::Catalog.to_string(), 1, roll).unwrap();
    let options = GroupOptions { checkpoint_interval_ms: 20, snapshot_entries: 50 };
    let machine = Ledger::anchored(Arc::default());
    let other = Group::open(&host, GroupId::Catalog, ReplicaId(1), log, machine, options).await.unwrap();
    other.initialize(vec![member(1)]).await.unwrap();
    let mut role = other.role();
    let led = role.wait_for(|role| matches!(role, Role::Leader { .. }));
    timeout(DEADLINE, led).await.expect("the other group leads in time").unwrap();
    other.shutdown().await;
    store.close();
}

#[tokio::test]
async fn a_checkpoint_that_the_disk_does_not_give_is_made_again_from_a_whole_log() {
    let fs = MemoryFileSystem::default();
    let (node, _) = with_entries_in(Files::over(fs.clone()), 30).await;
    let before = node.group.read(|ledger| (ledger.seen.clone(), ledger.sum));
    let files = node.stop().await;
    let path = fs.paths().into_iter().find(|path| path.ends_with(format!("checkpoint-{GROUP}"))).unwrap();
    fs.fail_reads(&path, 0..1);
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.leading().await;
    assert_eq!(node.group.read(|ledger| (ledger.seen.clone(), ledger.sum)), before);
    node.stop().await;
}

#[tokio::test]
async fn an_install_cut_short_by_a_crash_is_finished_at_the_next_start() {
    let (node, _) = with_entries(10).await;
    let files = node.stop().await;
    // The state of a peer is saved, the log not yet purged to it: it ends far below.
    edit_checkpoint(&files, |bytes| {
        let mut checkpoint = Checkpoint::decode(bytes.clone().into()).unwrap();
        checkpoint.applied.index = 1000;
        checkpoint.next_offset = 7000;
        checkpoint.live_from = 1001;
        checkpoint.installed = true;
        let position = position_of(checkpoint.applied);
        let mut machine = Ledger::anchored(Arc::default());
        machine.anchor = Some(Anchor { position, next_offset: 7000 });
        checkpoint.anchor = machine.anchor;
        checkpoint.machine = machine.checkpoint().into();
        *bytes = checkpoint.encode();
    });
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    let bounds = node.group.log().bounds();
    assert_eq!(bounds.purged.map(|purged| purged.index), Some(1000));
    assert_eq!(bounds.start_offset, 7000);
    assert_eq!(node.apply(term, add(1, b"x")).await.base_offset, 7000);
    node.stop().await;
}

/// A snapshot may anchor a log at any offset: entries that find none left are refused, and nothing panics or wraps.
#[tokio::test]
async fn entries_without_room_for_their_offsets_are_refused() {
    let files = Files::in_memory();
    let store = files.store();
    let log = files.log(&store, 1);
    let anchor = Position { term: 1, leader: 1, index: 6 };
    log.purge(anchor, u64::MAX - 2, Box::new(|result| result.unwrap()));
    let entry = |index, base_offset, count| {
        let position = Position { index, ..anchor };
        let header = FrameHeader { kind: ADD, position, base_offset, count, time_ms: 1, payload_bytes: 0 };
        Entry::from_frame(Frame { header, payload: Payload::default() }).unwrap()
    };
    let appending = applier(&store, &log);
    let storage = LogStorage::new(&appending, Environment::system());
    storage.check_offsets(&[entry(7, u64::MAX - 2, 2)]).unwrap();
    storage.check_offsets(&[entry(7, u64::MAX - 2, 2), entry(8, u64::MAX, 1)]).unwrap_err();
    let failure = appending.failure.get().expect("the group fails");
    assert!(matches!(failure, GroupFailure::Entry { index: 8, .. }), "{failure}");

    let applying = applier(&store, &log);
    *applying.progress.lock() =
        Progress { applied: Some(log_id_of(anchor)), next_offset: u64::MAX - 2, ..Progress::default() };
    applying.apply_run(vec![(entry(7, u64::MAX - 2, 2), None)]).unwrap();
    applying.apply_run(vec![(entry(8, u64::MAX, 1), None)]).unwrap_err();
    let failure = applying.failure.get().expect("the group fails");
    assert!(matches!(failure, GroupFailure::Entry { index: 8, .. }), "{failure}");
    store.close();
}
