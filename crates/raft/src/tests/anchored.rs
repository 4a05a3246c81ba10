//! Three replicas whose snapshots are anchored: trimmed on command, yet a new replica gets every retained
//! entry.

use std::{collections::BTreeSet, sync::Arc};

use fanfare_log::{MemoryFileSystem, memory::Keep};
use tokio::time::timeout;

use super::{
    cluster::{assert_same, join, leader, leave, publish, retained, sum, three, trim_to},
    ledger::add,
    node::{DEADLINE, Files, Node, member},
};
use crate::{NoPeers, ProposeError, ReplicaId, memory::MemoryNetwork};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_gets_the_trimmed_state_and_every_retained_entry() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 600).await;
    let anchor = trim_to(&nodes[at], term, 250).await;
    for node in &nodes {
        node.purges_upto(anchor.position.index).await;
        assert_same(node, &nodes[at], anchor.position.index).await;
    }

    let learner = join(&network, Files::in_memory(), 4).await;
    nodes[at].group.add_learner(member(4)).await.unwrap();
    assert_same(&learner, &nodes[at], anchor.position.index).await;
    let (bounds, led) = (learner.group.log().bounds(), nodes[at].group.log().bounds());
    assert_eq!((bounds.purged, bounds.start_offset), (led.purged, led.start_offset));
    assert_eq!(bounds.start_offset, anchor.base_offset + 7);
    assert_eq!(learner.calls.restored(), 1, "one snapshot");
    assert_eq!(retained(&learner, 0).len(), 600 - 251, "and the log above it");
    assert!(learner.calls.replayed() >= 349, "the snapshot's state contains what came before it was taken");

    for node in nodes {
        leave(&network, node).await;
    }
    leave(&network, learner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_down_across_a_trim_recovers_and_a_restarted_one_goes_on() {
    let network = MemoryNetwork::default();
    let mut nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 200).await;
    assert_same(&nodes[(at + 1) % 3], &nodes[at], 0).await;
    let down = nodes.remove((at + 1) % 3);
    let (at, term) = leader(&nodes).await;
    let replica = down.replica;
    let files = leave(&network, down).await;
    publish(&nodes[at], term, 400).await;
    let anchor = trim_to(&nodes[at], term, 450).await;

    let back = join(&network, files, replica).await;
    assert_same(&back, &nodes[at], anchor.position.index).await;
    assert_eq!(back.group.log().bounds().start_offset, anchor.base_offset + 7);
    assert_eq!(back.calls.restored(), 2, "its own checkpoint, then the snapshot");

    let files = leave(&network, back).await;
    publish(&nodes[at], term, 50).await;
    let again = join(&network, files, replica).await;
    assert_same(&again, &nodes[at], anchor.position.index).await;
    assert_eq!(again.calls.restored(), 1, "its own checkpoint: no snapshot is needed");

    leave(&network, again).await;
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_learner_leads_on_from_the_same_offsets() {
    let network = MemoryNetwork::default();
    let mut nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 100).await;
    trim_to(&nodes[at], term, 40).await;
    let learner = join(&network, Files::in_memory(), 4).await;
    nodes[at].group.add_learner(member(4)).await.unwrap();
    let anchor = nodes[at].group.log().bounds().purged.unwrap();
    assert_same(&learner, &nodes[at], anchor.index).await;
    let old = nodes[at].replica;
    let keeps: Vec<u64> = nodes.iter().map(|node| node.replica).filter(|replica| *replica != old).collect();
    nodes[at].group.set_voters(BTreeSet::from([old, keeps[0], 4].map(ReplicaId))).await.unwrap();
    nodes[at].group.transfer_leadership(ReplicaId(4)).await.unwrap();

    let term = learner.leading().await;
    let applied = learner.apply(term, add(1, b"on")).await;
    assert_eq!(applied.base_offset, 700);
    nodes[at]
        .reaches("applies the new leader's entry", |ledger| {
            ledger.seen.last().is_some_and(|seen| seen.position == applied.position)
        })
        .await;
    let refused = nodes[at].group.propose(term, add(1, b"x")).await.err();
    assert_eq!(refused, Some(ProposeError::NotLeader { leader: Some(ReplicaId(4)) }));

    leave(&network, learner).await;
    for node in nodes.drain(..) {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_its_lost_proposal_is_not_applied() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 10).await;
    let old = &nodes[at];
    for other in nodes.iter().filter(|node| node.replica != old.replica) {
        network.cut(old.replica, other.replica);
    }
    let lost = old.group.propose(term, add(1, b"lost")).await;
    let others: Vec<&Node> = nodes.iter().filter(|node| node.replica != old.replica).collect();
    let (first, second) = (others[0].leading(), others[1].leading());
    let (new, new_term) = tokio::select! {
        term = first => (others[0], term),
        term = second => (others[1], term),
    };
    assert!(new_term > term);
    let kept = new.apply(new_term, add(1, b"kept")).await;

    network.mend();
    old.reaches("follows the new leader", |ledger| {
        ledger.seen.last().is_some_and(|seen| seen.position == kept.position)
    })
    .await;
    if let Ok(pending) = lost {
        let outcome = timeout(DEADLINE, pending.applied()).await.expect("resolves in time");
        assert!(outcome.is_err(), "{outcome:?}");
    }
    assert_eq!(sum(old), sum(new));
    assert_eq!(retained(old, 0), retained(new, 0));
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_moment_of_an_install_leaves_a_replica_that_starts() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 60).await;
    let anchor = trim_to(&nodes[at], term, 30).await;
    let fs = MemoryFileSystem::default();
    let learner = join(&network, Files::over(fs.clone()), 4).await;
    let begin = fs.operations();
    nodes[at].group.add_learner(member(4)).await.unwrap();
    assert_same(&learner, &nodes[at], anchor.position.index).await;
    let state = sum(&learner);
    leave(&network, learner).await;
    for node in nodes {
        leave(&network, node).await;
    }

    let mut with_state = 0;
    for operations in begin..=fs.operations() {
        for keep in [Keep::Nothing, Keep::All] {
            let files = Files::over(fs.after(operations).crashed(|_| keep));
            let node = Node::open(files, 4, Arc::new(NoPeers)).await;
            let purged = node.group.log().bounds().purged;
            match sum(&node) {
                0 => assert_eq!(
                    purged, None,
                    "after {operations}: the log was purged for a state that is not there"
                ),
                restored => {
                    assert_eq!((restored, purged), (state, Some(anchor.position)), "after {operations}");
                    with_state += 1;
                }
            }
            node.stop().await;
        }
    }
    assert!(with_state > 0, "no crash fell behind the install");
}
