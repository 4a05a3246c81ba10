//! The group whose only voter is this node.

use std::sync::Arc;
use std::time::Instant;

use fanfare_log::memory::Failure;
use fanfare_log::{DiskFileSystem, MemoryFileSystem};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::ledger::{Ledger, SECOND_FORMAT, add};
use super::node::{DEADLINE, Files, Node, Settings, member, settings};
use crate::{FormatVersion, NoPeers, Proposal, ProposeError, Role, Timing};

async fn started(files: Files) -> (Node, u64) {
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.group.initialize(vec![member(1)]).await.unwrap();
    let term = node.leading().await;
    (node, term)
}

fn on_disk(dir: &tempfile::TempDir) -> Files {
    Files { fs: Arc::new(DiskFileSystem), dir: dir.path().to_owned(), segment_bytes: 1 << 20 }
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, term) = started(on_disk(&dir)).await;
    let first = node.apply(term, add(3, b"abc")).await;
    let second = node.apply(term, add(2, b"de")).await;
    assert_eq!((first.base_offset, second.base_offset), (0, 3));
    assert_eq!(second.reply, b"abcde".iter().map(|byte| u64::from(*byte)).sum::<u64>());
    let before = node.group.read(|ledger| (ledger.seen.clone(), ledger.sum));
    assert_eq!(before.0.len(), 2);

    let node = Node::open(node.stop().await, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    assert_eq!(node.group.read(|ledger| (ledger.seen.clone(), ledger.sum)), before);
    assert_eq!(node.apply(term, add(1, b"f")).await.base_offset, 5);
    node.stop().await;
}

#[tokio::test]
async fn a_start_does_not_wait_for_an_election_timeout() {
    let (node, _) = started(Files::in_memory()).await;
    let files = node.stop().await;
    let began = Instant::now();
    let timing = Timing { heartbeat_ms: 100, election_min_ms: 30_000, election_max_ms: 60_000 };
    let slow = Settings { replica: 1, timing };
    let node = Node::try_open(files, slow, Arc::new(NoPeers), Ledger::anchored).await.unwrap();
    node.leading().await;
    assert!(began.elapsed().as_secs() < 10, "took {:?}", began.elapsed());
    node.stop().await;
}

#[tokio::test]
async fn initializing_again_changes_nothing() {
    let (node, term) = started(Files::in_memory()).await;
    node.apply(term, add(1, b"a")).await;
    node.group.initialize(vec![member(1)]).await.unwrap();
    assert_eq!(node.apply(term, add(1, b"b")).await.base_offset, 1);
    node.stop().await;
}

#[tokio::test]
async fn proposals_of_one_task_keep_their_order() {
    let (node, term) = started(Files::in_memory()).await;
    let mut pending = Vec::new();
    for i in 0..500_u32 {
        pending.push(node.propose(term, add(1, &i.to_le_bytes())).await);
    }
    let applied = join_all(pending.into_iter().map(|pending| pending.applied())).await;
    let offsets: Vec<u64> = applied.into_iter().map(|applied| applied.unwrap().base_offset).collect();
    assert_eq!(offsets, (0..500).collect::<Vec<u64>>());
    let payloads =
        node.group.read(|ledger| ledger.seen.iter().map(|seen| seen.payload.clone()).collect::<Vec<_>>());
    assert_eq!(payloads, (0..500_u32).map(|i| i.to_le_bytes().to_vec()).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn a_proposal_whose_answer_nobody_awaits_is_applied_all_the_same() {
    let (node, term) = started(Files::in_memory()).await;
    drop(node.propose(term, add(4, b"x")).await);
    node.reaches("applies it", |ledger| ledger.seen.len() == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn a_proposal_for_an_ended_term_is_refused() {
    let (node, term) = started(Files::in_memory()).await;
    let refused = node.group.propose(term - 1, add(1, b"late")).await.err();
    assert_eq!(refused, Some(ProposeError::TermEnded));
    let refused = node.group.propose(term + 1, add(1, b"early")).await.err();
    assert_eq!(refused, Some(ProposeError::TermEnded));
    assert!(node.group.read(|ledger| ledger.seen.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn a_replica_without_a_group_leads_nothing() {
    let node = Node::open(Files::in_memory(), 1, Arc::new(NoPeers)).await;
    let refused = node.group.propose(1, add(1, b"x")).await.err();
    assert_eq!(refused, Some(ProposeError::NotLeader { leader: None }));
    node.stop().await;
}

#[tokio::test]
async fn a_stopped_group_takes_no_proposals() {
    let (node, term) = started(Files::in_memory()).await;
    let group = node.group.clone();
    node.stop().await;
    assert_eq!(group.propose(term, add(1, b"x")).await.err(), Some(ProposeError::Stopped));
    assert_eq!(*group.role().borrow(), Role::Unknown);
}

#[tokio::test]
async fn a_restart_applies_only_what_is_above_the_checkpoint() {
    let (node, term) = started(Files::in_memory()).await;
    for _ in 0..100 {
        node.apply(term, add(1, b"x")).await;
    }
    let node = Node::open(node.stop().await, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    node.apply(term, add(1, b"y")).await;
    assert_eq!((node.calls.restored(), node.calls.recovered()), (1, 1));
    assert_eq!(node.calls.live(), 1, "the checkpoint of the stop contains the rest");
    assert_eq!(node.group.read(|ledger| ledger.seen.len()), 101);
    node.stop().await;
}

#[tokio::test]
async fn without_an_anchor_the_log_is_purged_every_snapshot_entries() {
    let open = |files| Node::try_open(files, settings(1), Arc::new(NoPeers), Ledger::unanchored);
    let node = open(Files::in_memory()).await.unwrap();
    node.group.initialize(vec![member(1)]).await.unwrap();
    let term = node.leading().await;
    for _ in 0..120 {
        node.apply(term, add(1, b"x")).await;
    }
    node.purges_upto(50).await;
    let node = open(node.stop().await).await.unwrap();
    let term = node.leading().await;
    assert_eq!(node.group.read(|ledger| ledger.sum), 120 * u64::from(b'x'));
    assert_eq!(node.apply(term, add(1, b"x")).await.base_offset, 120);
    node.stop().await;
}

#[tokio::test]
async fn a_stale_view_of_the_role_does_not_bind_a_proposal_to_another_term() {
    let (node, term) = started(Files::in_memory()).await;
    for other in [term - 1, term + 1] {
        let pending = node.group.submit_unchecked(other, add(1, b"x")).await.unwrap();
        assert_eq!(pending.applied().await.err(), Some(ProposeError::TermEnded));
    }
    assert!(node.group.read(|ledger| ledger.seen.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn a_failed_sync_stops_the_group_for_good() {
    let fs = MemoryFileSystem::default();
    let (node, term) = started(Files::over(fs.clone())).await;
    node.apply(term, add(1, b"x")).await;
    fs.fail_sync(0, Failure::Io);
    let outcome = node.propose(term, add(1, b"y")).await.applied().await.err();
    assert_eq!(outcome, Some(ProposeError::Unknown));
    let mut role = node.group.role();
    let failed = role.wait_for(|role| *role == Role::Failed);
    timeout(DEADLINE, failed).await.expect("fails in time").unwrap();
    assert_eq!(node.group.propose(term, add(1, b"z")).await.err(), Some(ProposeError::Stopped));
    assert_eq!(node.group.read(|ledger| ledger.seen.len()), 1, "what was not synced is not applied");
    node.stop().await;
}

#[tokio::test]
async fn nothing_above_the_format_version_of_the_cluster_is_proposed() {
    let (node, term) = started(Files::in_memory()).await;
    let newer = || Proposal { kind: SECOND_FORMAT, ..add(1, b"x") };
    let (needed, cluster) = (FormatVersion(2), FormatVersion(1));
    let last = node.group.log().bounds().last;
    let refused = node.group.propose(term, newer()).await.err();
    assert_eq!(refused, Some(ProposeError::AboveFormat { needed, cluster }));
    assert_eq!(node.group.log().bounds().last, last, "nothing is appended");

    node.host.raise_format_version(FormatVersion(2));
    node.apply(term, newer()).await;
    node.host.raise_format_version(FormatVersion(1));
    node.apply(term, newer()).await;
    assert_eq!(node.group.read(|ledger| ledger.sum), 2 * u64::from(b'x'));
    node.stop().await;
}
