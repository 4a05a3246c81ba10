//! What a group is after its loss was accepted, and after a crash in the middle of that.

use std::sync::Arc;

use fanfare_log::MemoryFileSystem;
use fanfare_log::memory::Keep;

use super::cluster::{leader, leave, publish, three_on, trim_to};
use super::ledger::{Ledger, add, trim};
use super::node::{Files, GROUP, Node};
use super::recovery::{cannot_open, edit_checkpoint, with_entries, with_entries_in};
use crate::{Anchor, GroupDamage, NoPeers, Repair, RepairError, StateMachine, memory::MemoryNetwork};

const FILLER: u8 = 9;

/// The state of a machine that knows nothing but where its log begins.
fn empty_state(anchor: Anchor) -> Vec<u8> {
    let mut ledger = Ledger::anchored(Arc::default());
    ledger.anchor = Some(anchor);
    ledger.checkpoint()
}

fn inspect(files: &Files) -> GroupDamage {
    let store = files.store();
    let found = Repair { store: &store, group: GROUP }.inspect().unwrap();
    store.close();
    found
}

fn accept(files: &Files) -> GroupDamage {
    let store = files.store();
    let accepted = Repair { store: &store, group: GROUP }.accept_loss(FILLER, empty_state).unwrap();
    store.close();
    accepted
}

/// What is whole is left alone; everything else becomes whole.
fn repair(files: &Files, story: &str) {
    let is_whole =
        |found: GroupDamage| found.log.damaged.is_empty() && !found.log.needs_repair && found.state.is_none();
    if !is_whole(inspect(files)) {
        accept(files);
        assert!(is_whole(inspect(files)), "{story}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_lost_its_voters_has_them_again_after_any_crash() {
    let fs = MemoryFileSystem::default();
    let (node, _) = with_entries_in(Files::over(fs.clone()), 60).await;
    let files = node.stop().await;
    edit_checkpoint(&files, |bytes| bytes.truncate(10));
    let paths = fs.paths();
    let first = paths.iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    fs.flip(first, 520, 1);
    // The damage is where its history begins.
    let fs = fs.crashed(|_| Keep::All);
    let accepted = accept(&Files::over(fs.clone()));
    assert_eq!(accepted.log.damaged.first().map(|lost| lost.indexes.clone()), Some(0..1));

    for operations in 0..=fs.operations() {
        for keep in [Keep::Nothing, Keep::All] {
            let files = Files::over(fs.after(operations).crashed(|_| keep));
            let story = format!("{keep:?} of {operations} operations");
            repair(&files, &story);
            let node = Node::open(files, 1, Arc::new(NoPeers)).await;
            let term = node.leading().await;
            assert_eq!(node.apply(term, add(1, b"c")).await.base_offset, 120, "{story}");
            let sum = 60 * (u64::from(b'a') + u64::from(b'b')) + u64::from(b'c');
            assert_eq!(node.group.read(|ledger| ledger.sum), sum, "{story}");
            node.stop().await;
        }
    }
}

#[tokio::test]
async fn a_checkpoint_from_below_the_log_is_a_lost_state() {
    let (node, _) = with_entries(10).await;
    let files = node.stop().await;
    let mut old = Vec::new();
    edit_checkpoint(&files, |bytes| old.clone_from(bytes));
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    for _ in 0..30 {
        node.apply(term, add(2, b"ab")).await;
    }
    let anchor = node.group.read(|ledger| ledger.seen[29].clone());
    node.apply(term, trim(&anchor)).await;
    node.purges_upto(anchor.position.index).await;
    let files = node.stop().await;
    edit_checkpoint(&files, |bytes| *bytes = old);

    let what = cannot_open(files.clone()).await;
    assert!(what.contains("but the log was purged up to"), "{what}");
    let found = inspect(&files);
    let state = found.state.expect("the state below the log's start is gone");
    assert!(state.contains(&format!("checkpoint-{GROUP} stands at index")), "{state}");
    assert_eq!(found.log.damaged, []);
    assert_eq!(accept(&files).state, Some(state));
    assert_eq!(inspect(&files).state, None);
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    assert_eq!(node.apply(term, add(1, b"c")).await.base_offset, 80);
    node.stop().await;
}

/// Every file with its content.
fn contents(fs: &MemoryFileSystem) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let read = |path: std::path::PathBuf| (path.clone(), fs.content(&path).unwrap());
    fs.paths().into_iter().map(read).collect()
}

/// The loss of a replica that has peers is refused, and nothing is changed.
fn is_refused(fs: &MemoryFileSystem, story: &str) {
    let files = Files::over(fs.clone());
    // A start writes to the journal: the files are compared between two starts.
    let found = inspect(&files);
    assert!(found.members.is_some_and(|members| members.contains("replica 3 on node 3")), "{story}");
    let store = files.store();
    let before = contents(fs);
    let refused = Repair { store: &store, group: GROUP }.accept_loss(FILLER, empty_state);
    assert_eq!(contents(fs), before, "{story}");
    store.close();
    let Err(RepairError::HasPeers { group: GROUP, members }) = refused else {
        panic!("{story}: {refused:?}");
    };
    for replica in 1..=3 {
        assert!(members.contains(&format!("replica {replica} on node {replica}")), "{story}: {members}");
    }
}

/// Three replicas; stops one of them that does not lead.
async fn victim_of_three(trimmed_to: Option<usize>) -> MemoryFileSystem {
    let network = MemoryNetwork::default();
    let disks = [(); 3].map(|()| MemoryFileSystem::default());
    let mut nodes = three_on(&network, &disks).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 60).await;
    let victim = (at + 1) % 3;
    let last = nodes[at].group.read(|ledger| ledger.seen.last().unwrap().position.index);
    nodes[victim].applies_upto(last).await;
    if let Some(nth) = trimmed_to {
        let anchor = trim_to(&nodes[at], term, nth).await;
        nodes[victim].purges_upto(anchor.position.index).await;
    }
    leave(&network, nodes.remove(victim)).await;
    for node in nodes {
        leave(&network, node).await;
    }
    disks[victim].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_one_of_three_replicas_is_not_accepted_whatever_is_damaged() {
    let fs = victim_of_three(Some(30)).await;
    edit_checkpoint(&Files::over(fs.clone()), |bytes| bytes.truncate(10));
    is_refused(&fs, "the checkpoint, and the first memberships are purged");

    let fs = victim_of_three(None).await;
    let segment =
        fs.paths().into_iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    (600..3600).step_by(300).for_each(|at| fs.flip(&segment, at, 1));
    is_refused(&fs, "committed entries");

    edit_checkpoint(&Files::over(fs.clone()), |bytes| bytes.truncate(10));
    is_refused(&fs, "committed entries, the first membership and the checkpoint");

    let record = fs.paths().into_iter().find(|path| path.ends_with(format!("members-{GROUP}"))).unwrap();
    fs.flip(&record, 40, 1);
    let store = Files::over(fs).store();
    let refused = Repair { store: &store, group: GROUP }.accept_loss(FILLER, empty_state);
    store.close();
    let Err(RepairError::HasPeers { members, .. }) = refused else { panic!("{refused:?}") };
    assert!(members.contains("cannot be read"), "a damaged record is evidence of others, too: {members}");
}
