//! Three replicas over one in-memory network, and what a test asks of them.

use std::time::Duration;

use fanfare_log::MemoryFileSystem;
use tokio::time::timeout;

use super::{
    ledger::{Ledger, Seen, add, trim},
    node::{DEADLINE, Files, Node, Settings, member, settings},
};
use crate::{Role, Timing, memory::MemoryNetwork};

pub(super) async fn join(network: &MemoryNetwork, files: Files, replica: u64) -> Node {
    let node = Node::open(files, replica, network.transport(replica)).await;
    network.join(replica, node.host.inbox().clone());
    node
}

pub(super) async fn leave(network: &MemoryNetwork, node: Node) -> Files {
    network.leave(node.replica);
    node.stop().await
}

/// Three voters, the first of which began the group.
pub(super) async fn three(network: &MemoryNetwork) -> Vec<Node> {
    three_with(network, &[(); 3].map(|()| MemoryFileSystem::default()), settings(1).timing).await
}

/// Three voters, each on its disk.
pub(super) async fn three_on(network: &MemoryNetwork, disks: &[MemoryFileSystem; 3]) -> Vec<Node> {
    three_with(network, disks, settings(1).timing).await
}

pub(super) async fn three_with(
    network: &MemoryNetwork,
    disks: &[MemoryFileSystem; 3],
    timing: Timing,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (replica, disk) in (1..).zip(disks) {
        let (files, transport) = (Files::over(disk.clone()), network.transport(replica));
        let settings = Settings { replica, timing };
        let node = Node::try_open(files, settings, transport, Ledger::anchored).await.unwrap();
        network.join(replica, node.host.inbox().clone());
        nodes.push(node);
    }
    nodes[0].group.initialize((1..=3).map(member).collect()).await.unwrap();
    nodes
}

/// Which of `nodes` leads, and in which term.
pub(super) async fn leader(nodes: &[Node]) -> (usize, u64) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let led = async {
        loop {
            for (at, node) in nodes.iter().enumerate() {
                if let Role::Leader { term } = *node.group.role().borrow() {
                    return (at, term);
                }
            }
            look.tick().await;
        }
    };
    timeout(DEADLINE, led).await.expect("a leader in time")
}

pub(super) async fn publish(node: &Node, term: u64, entries: u32) {
    let mut last = None;
    for i in 0..entries {
        last = Some(node.propose(term, add(7, &i.to_le_bytes())).await);
    }
    timeout(DEADLINE, last.unwrap().applied()).await.expect("applied in time").unwrap();
}

/// Trims to the `nth` entry that the leader still has, and waits until it is purged there.
pub(super) async fn trim_to(node: &Node, term: u64, nth: usize) -> Seen {
    let first = node.group.log().bounds().purged.map_or(0, |purged| purged.index + 1);
    let retained =
        |ledger: &Ledger| ledger.seen.iter().filter(|seen| seen.position.index >= first).nth(nth).cloned();
    let anchor = node.group.read(retained).expect("that many are retained");
    node.apply(term, trim(&anchor)).await;
    node.purges_upto(anchor.position.index).await;
    anchor
}

/// What a replica has above `index`: the retained events.
pub(super) fn retained(node: &Node, index: u64) -> Vec<Seen> {
    node.group.read(|ledger| ledger.seen.iter().filter(|seen| seen.position.index > index).cloned().collect())
}

pub(super) fn sum(node: &Node) -> u64 {
    node.group.read(|ledger| ledger.sum)
}

pub(super) async fn assert_same(node: &Node, leader: &Node, above: u64) {
    // The proposer hears of an entry before those who watch what is applied do, so ask the machine itself.
    let last = leader.group.read(|ledger| ledger.seen.last().map_or(0, |seen| seen.position.index));
    node.applies_upto(last).await;
    assert_eq!(retained(node, above), retained(leader, above), "replica {}", node.replica);
    assert_eq!(sum(node), sum(leader), "replica {}", node.replica);
    let (own, led) = (node.group.log().bounds(), leader.group.log().bounds());
    assert_eq!(own.next_offset, led.next_offset, "replica {}", node.replica);
}
