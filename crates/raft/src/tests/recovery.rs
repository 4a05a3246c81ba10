//! What a replica does with a checkpoint that does not fit its log.

use std::sync::Arc;

use fanfare_log::MemoryFileSystem;

use super::ledger::{Ledger, add, trim};
use super::node::{Files, GROUP, Node, member, settings};
use crate::checkpoint::{CHECKPOINT_VERSION, Checkpoint};
use crate::entry::position_of;
use crate::{Anchor, NoPeers, OpenError, StateMachine};

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
