//! Entries that never got a quorum, and votes that a restarted replica does not give.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    cluster::{assert_same, leader, leave, publish, retained, three},
    ledger::{Ledger, add},
    node::{DEADLINE, GROUP, Node, Settings, eventually, settings},
};
use crate::{
    PeerError, PendingProposal, ProposeError, ReplicaId, Role, Timing, TrafficClass,
    entry::{LeaderId, NodeAddress, Vote, log_id_of},
    id::Identity,
    memory::MemoryNetwork,
    rpc,
};

/// Proposes entries of these counts to a leader without a quorum; returns when they are in its log.
async fn uncommitted(node: &Node, term: u64, counts: &[u32]) -> Vec<PendingProposal<u64>> {
    let last = node.group.log().bounds().last.unwrap().index;
    let mut pending = Vec::new();
    for count in counts {
        pending.push(node.propose(term, add(*count, b"tail")).await);
    }
    let end = last + counts.len() as u64;
    let appended = eventually(|| node.group.log().bounds().last.is_some_and(|last| last.index >= end));
    timeout(DEADLINE, appended).await.expect("appended in time");
    pending
}

/// Who of `nodes` leads in a term above `term`.
async fn leader_above(nodes: &[Node], term: u64) -> (usize, u64) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let led = async {
        loop {
            for (at, node) in nodes.iter().enumerate() {
                match *node.group.role().borrow() {
                    Role::Leader { term: led } if led > term => return (at, led),
                    _ => {}
                }
            }
            look.tick().await;
        }
    };
    timeout(DEADLINE, led).await.expect("a leader in time")
}

fn isolate(network: &MemoryNetwork, nodes: &[Node], at: usize) {
    let own = nodes[at].replica;
    nodes.iter().filter(|node| node.replica != own).for_each(|node| network.cut(own, node.replica));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_of_several_terms_and_other_counts_give_way_to_what_is_committed() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (first, first_term) = leader(&nodes).await;
    publish(&nodes[first], first_term, 5).await;
    isolate(&network, &nodes, first);
    let mut lost = uncommitted(&nodes[first], first_term, &[5, 3, 8]).await;

    let (second, second_term) = leader_above(&nodes, first_term).await;
    let committed = nodes[second].apply(second_term, add(1, b"x")).await;
    assert_eq!(committed.base_offset, 35);
    nodes[second].apply(second_term, add(2, b"x")).await;
    isolate(&network, &nodes, second);
    lost.extend(uncommitted(&nodes[second], second_term, &[4, 1]).await);

    // The two tails stay apart from each other, and the third replica decides between what it has and the first's.
    let (second_replica, mended) = (nodes[second].replica, 6 - nodes[first].replica - nodes[second].replica);
    network.mend();
    network.cut(second_replica, nodes[first].replica);
    network.cut(second_replica, mended);
    let (third, third_term) = leader_above(&nodes, second_term).await;
    for count in [2, 3] {
        nodes[third].apply(third_term, add(count, b"y")).await;
    }
    network.mend();
    nodes[third].apply(third_term, add(1, b"z")).await;
    for node in &nodes {
        assert_same(node, &nodes[third], 0).await;
        let mut next_offset = 0;
        for seen in retained(node, 0) {
            assert_eq!(seen.base_offset, next_offset, "replica {}: {seen:?}", node.replica);
            next_offset += u64::from(seen.count);
        }
        let first_tail = node.group.read(|ledger: &Ledger| ledger.seen.iter().any(|seen| seen.count == 8));
        assert!(!first_tail, "replica {} has applied a tail that no quorum had", node.replica);
    }
    let outcomes = timeout(DEADLINE, join_all(lost.into_iter().map(PendingProposal::applied))).await;
    for outcome in outcomes.expect("resolved in time").into_iter().take(3) {
        assert_eq!(outcome.err(), Some(ProposeError::Unknown), "it was in a log, and may be in others");
    }
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_replica_gives_no_vote_for_one_maximum_election_timeout() {
    let network = MemoryNetwork::default();
    let mut nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 5).await;
    let last = nodes[at].group.log().bounds().last.map(log_id_of);
    let (candidate, voter) = (nodes.remove(0), nodes.remove(0));
    let (candidate_files, voter_files) = (leave(&network, candidate).await, leave(&network, voter).await);
    for node in nodes {
        leave(&network, node).await;
    }

    let open = async |files, replica: u64, timing| {
        let settings = Settings { timing, ..settings(replica) };
        let node =
            Node::try_open(files, settings, network.transport(replica), Ledger::anchored).await.unwrap();
        network.join(replica, node.host.inbox().clone());
        node
    };
    let slow = Timing { heartbeat_ms: 100, election_min_ms: 300_000, election_max_ms: 600_000 };
    let candidate = open(candidate_files, 1, slow).await;
    let ballot = |term| {
        let vote = Vote { leader_id: LeaderId { term, node_id: 1 }, committed: false };
        openraft::raft::VoteRequest::new(vote, last)
    };
    let asks = async |body| {
        let own = Identity { group: GROUP, replica: ReplicaId(1) };
        let at = NodeAddress { node: 2, address: "node-2".to_owned() };
        let peer = candidate.host.peers().peer(own, ReplicaId(2), &at);
        peer.call(TrafficClass::Control, body, DEADLINE).await
    };
    let voter = open(voter_files, 2, slow).await;
    for body in [rpc::encode_pre_vote(&ballot(1000)), rpc::encode_vote(&ballot(1000))] {
        let Err(PeerError::Refused { reason }) = asks(body).await else { panic!("it votes") };
        assert!(reason.contains("a leader's lease ago"), "{reason}");
    }
    // The same ballot counts as soon as no leader can rely on a lease any more.
    let fast = Timing { heartbeat_ms: 10, election_min_ms: 50, election_max_ms: 100 };
    let voter = open(leave(&network, voter).await, 2, fast).await;
    let mut term = 1000;
    let granted = async {
        loop {
            term += 1;
            if let Ok(answer) = asks(rpc::encode_vote(&ballot(term))).await
                && rpc::decode_voted(answer).is_ok_and(|voted| voted.vote_granted)
            {
                return;
            }
        }
    };
    timeout(DEADLINE, granted).await.expect("it votes in time");
    leave(&network, voter).await;
    leave(&network, candidate).await;
}
