//! A partition of three replicas over an in-memory network: fail-over, and equal contents afterwards.

use std::ops::RangeInclusive;

use fanfare_raft::{Host, HostOptions, Member, StateMachine as _, Timing, memory::MemoryNetwork};
use tokio::time::interval;

use super::*;

const BROKERS: RangeInclusive<u64> = 1..=3;
const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };

fn founders() -> Vec<Member> {
    BROKERS.map(|node| Member { replica: ReplicaId(node), node, address: String::new() }).collect()
}

/// Opens the replica of one node; the network leads to it from then on.
async fn open(network: &MemoryNetwork, number: u64, fs: MemoryFileSystem) -> Node {
    let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
    let store = open_store(&fs, &options());
    let environment = Environment::system().with_clock(clock.clone());
    let host =
        Host::new(HostOptions { timing: TIMING }, store.clone(), network.transport(number), environment);
    network.join(number, host.inbox().clone());
    let replica = PartitionReplica { partition: ID, replica: ReplicaId(number), founders: founders() };
    let budgets = Budgets::new(MEMORY, 1);
    let partition = Partition::open(replica, &host, options(), &budgets, TaskTracker::new()).await.unwrap();
    Node { fs, store, host, partition, clock }
}

/// Number of the node that leads.
async fn leader(nodes: &[Option<Node>]) -> usize {
    let is_leader = |node: &Option<Node>| {
        node.as_ref().is_some_and(|node| matches!(*node.partition.role().borrow(), Role::Leader { .. }))
    };
    let mut look = interval(Duration::from_millis(5));
    let led = async {
        loop {
            if let Some(leader) = nodes.iter().position(is_leader) {
                return leader;
            }
            look.tick().await;
        }
    };
    timeout(DEADLINE, led).await.expect("a replica leads in time")
}

/// Publishes through whichever replica leads, and repeats with the same ids until the batch is committed.
async fn publish(nodes: &[Option<Node>], texts: &[&str]) -> Appended {
    let committed = async {
        loop {
            let leader = nodes[leader(nodes).await].as_ref().expect("the leader is open");
            let Ok(pending) = leader.partition.append(batch(1, texts)) else { continue };
            match pending.committed().await {
                Ok(appended) => return appended,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    timeout(DEADLINE, committed).await.expect("committed in time")
}

async fn assert_contents(nodes: &[Option<Node>], expected: &[&str]) {
    let expected = numbered(0, expected);
    for node in nodes.iter().flatten() {
        let mut positions = node.partition.positions();
        let end = Offset(expected.len() as u64);
        let caught_up = positions.wait_for(|positions| positions.high_watermark == end);
        timeout(DEADLINE, caught_up).await.expect("caught up in time").expect("the group runs");
        assert_eq!(node.events(0, None, u64::MAX).await, expected);
    }
    let mut checkpoints =
        nodes.iter().flatten().map(|node| node.open_backing().group.read(|machine| machine.checkpoint()));
    let first = checkpoints.next().expect("a replica is open");
    assert!(checkpoints.all(|checkpoint| checkpoint == first), "replicas differ in their state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_hold_the_same_events_after_a_fail_over_and_a_return() {
    let network = MemoryNetwork::default();
    let mut nodes = Vec::new();
    for number in BROKERS {
        nodes.push(Some(open(&network, number, MemoryFileSystem::default()).await));
    }
    publish(&nodes, &["a", "b"]).await;
    assert_contents(&nodes, &["a", "b"]).await;

    let lost = leader(&nodes).await;
    let gone = nodes[lost].take().expect("the leader is open");
    network.leave(lost as u64 + 1);
    let fs = gone.stop().await;
    publish(&nodes, &["c"]).await;
    // The identities of the batches before the fail-over are known to the new leader.
    let again = publish(&nodes, &["a", "b"]).await;
    assert_eq!(again.duplicates, [(0, Offset(0)), (1, Offset(1))]);
    assert_contents(&nodes, &["a", "b", "c"]).await;

    nodes[lost] = Some(open(&network, lost as u64 + 1, fs.crashed(|_| Keep::Nothing)).await);
    publish(&nodes, &["d"]).await;
    assert_contents(&nodes, &["a", "b", "c", "d"]).await;
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}
