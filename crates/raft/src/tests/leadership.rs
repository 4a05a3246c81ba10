//! The end of a leadership: leases that expire, leaders that nobody answers, a group of one that needs nobody.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{
    cluster::{assert_same, leader, leave, three, three_with},
    ledger::add,
    node::{DEADLINE, Files, Node, Settings, member},
};
use crate::{NoPeers, ProposeError, Role, Timing, lease::LeaseEnd, memory::MemoryNetwork};

const FAST: Timing = Timing { heartbeat_ms: 150, election_min_ms: 300, election_max_ms: 600 };

fn others(of: u64) -> impl Iterator<Item = u64> {
    (1..=3).filter(move |replica| *replica != of)
}

async fn becomes(node: &Node, what: &str, wanted: impl Fn(&Role) -> bool) -> Role {
    let mut role = node.group.role();
    let reached = timeout(DEADLINE, role.wait_for(|role| wanted(role))).await;
    *reached.unwrap_or_else(|_| panic!("replica {}: {what}", node.replica)).unwrap()
}

/// Proposes to whoever leads until one entry is applied.
async fn somebody_applies(nodes: &[Node]) {
    let applied = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            look.tick().await;
            for node in nodes {
                let Role::Leader { term } = *node.group.role().borrow() else { continue };
                let Ok(pending) = node.group.propose(term, add(1, b"x")).await else { continue };
                // A leader that is cut off holds what it has taken, so no answer is waited for long.
                if let Ok(Ok(_)) = timeout(Duration::from_millis(500), pending.applied()).await {
                    return;
                }
            }
        }
    };
    timeout(DEADLINE, applied).await.expect("somebody takes writes in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_leader_gives_its_role_up_before_another_leads() {
    let network = MemoryNetwork::default();
    let nodes = three_with(&network, &Default::default(), FAST).await;
    let (at, term) = leader(&nodes).await;
    nodes[at].apply(term, add(1, b"a")).await;
    let old = &nodes[at];
    let lease = old.group.lease();
    assert!(lease.is_valid());
    for other in others(old.replica) {
        network.cut(old.replica, other);
    }
    let cut = Instant::now();

    // Whatever a quorum answered was sent before the cut.
    sleep_until(cut + Duration::from_millis(FAST.election_max_ms * 8 / 10)).await;
    assert!(!lease.is_valid(), "the lease outlives 80 % of what voters grant");
    let expired = becomes(old, "gives its role up", |role| !matches!(role, Role::Leader { .. })).await;
    assert_eq!(expired, Role::LeaseExpired { term });
    let refused = old.group.propose(term, add(1, b"x")).await.err();
    assert_eq!(refused, Some(ProposeError::NotLeader { leader: None }));
    assert!(lease.refusals() > 0);

    let new: Vec<&Node> = nodes.iter().filter(|node| node.replica != old.replica).collect();
    let (first, second) = (new[0].leading(), new[1].leading());
    tokio::select! { _ = first => (), _ = second => () };
    assert!(!lease.is_valid(), "two leaders may act");
    network.mend();
    becomes(old, "follows", |role| matches!(role, Role::Follower { .. })).await;
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_hears_a_quorum_again_goes_on_in_its_term() {
    let network = MemoryNetwork::default();
    // The followers' patience is longer than the lease by far.
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    let old = &nodes[at];
    old.apply(term, add(1, b"a")).await;
    for other in others(old.replica) {
        network.cut(old.replica, other);
    }
    becomes(old, "its lease expires", |role| *role == Role::LeaseExpired { term }).await;
    network.mend();
    let mut lease = old.group.lease();
    timeout(DEADLINE, lease.valid()).await.expect("a quorum answers again");
    becomes(old, "goes on", |role| *role == Role::Leader { term }).await;
    old.apply(term, add(1, b"b")).await;
    for node in &nodes {
        assert_same(node, old, 0).await;
    }
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_hears_nobody_is_replaced_and_writes_go_on() {
    let network = MemoryNetwork::default();
    let nodes = three_with(&network, &Default::default(), FAST).await;
    let (at, term) = leader(&nodes).await;
    nodes[at].apply(term, add(1, b"a")).await;
    let deaf = nodes[at].replica;
    for other in others(deaf) {
        network.cut_one_way(other, deaf);
    }
    becomes(&nodes[at], "its lease expires", |role| !matches!(role, Role::Leader { .. })).await;
    somebody_applies(&nodes).await;
    network.mend();
    becomes(&nodes[at], "has caught up", |role| role.elected_term() != Some(term)).await;
    for node in nodes {
        leave(&network, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_of_one_needs_no_answer_to_act() {
    let timing = Timing { heartbeat_ms: 10, election_min_ms: 30, election_max_ms: 60 };
    let settings = Settings { replica: 1, timing };
    let node =
        Node::try_open(Files::in_memory(), settings, Arc::new(NoPeers), super::ledger::Ledger::anchored);
    let node = node.await.unwrap();
    node.group.initialize(vec![member(1)]).await.unwrap();
    let term = node.leading().await;
    let (lease, mut role) = (node.group.lease(), node.group.role());
    role.borrow_and_update();
    sleep_until(Instant::now() + Duration::from_millis(5 * timing.election_max_ms)).await;
    assert_eq!(lease.end(), LeaseEnd::Unlimited, "it waits for no answer, and sets no timer");
    assert!(lease.is_valid() && !role.has_changed().unwrap());
    node.apply(term, add(1, b"a")).await;
    assert_eq!(lease.refusals(), 0);
    node.stop().await;
    assert!(!lease.is_valid(), "a stopped replica may not act");
}
