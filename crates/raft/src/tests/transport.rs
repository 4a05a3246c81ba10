//! Replicas over links that delay, lose, repeat, reorder and break: appends in a window, snapshots in chunks.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    cluster::{assert_same, join, leader, leave, publish, three, trim_to},
    ledger::{Ledger, add},
    node::{DEADLINE, Files, Node, eventually, member, settings},
};
use crate::{
    TrafficClass,
    memory::{LinkFaults, LinkReport, MemoryNetwork},
};

/// A machine whose snapshot takes several chunks.
const PADDING_BYTES: usize = 7 << 19;
const CHUNKS: u64 = 4;
const LINKS: [(u64, u64); 6] = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)];

async fn leave_all(network: &MemoryNetwork, nodes: Vec<Node>) {
    for node in nodes {
        leave(network, node).await;
    }
}

/// All three, and a leader that has published and trimmed; its snapshot has [`CHUNKS`] chunks.
async fn three_with_a_large_snapshot(network: &MemoryNetwork) -> (Vec<Node>, usize, u64) {
    let mut nodes = Vec::new();
    for replica in 1..=3 {
        let padded = |calls| {
            let mut ledger = Ledger::anchored(calls);
            ledger.padding = (0..=250).cycle().take(PADDING_BYTES).collect();
            ledger
        };
        let transport = network.transport(replica);
        let node = Node::try_open(Files::in_memory(), settings(replica), transport, padded).await.unwrap();
        network.join(replica, node.host.inbox().clone());
        nodes.push(node);
    }
    nodes[0].group.initialize((1..=3).map(member).collect()).await.unwrap();
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 120).await;
    trim_to(&nodes[at], term, 60).await;
    (nodes, at, term)
}

/// Lets a fourth replica join and waits until it has caught up.
async fn learns_all(network: &MemoryNetwork, leader: &Node) -> Node {
    let learner = join(network, Files::in_memory(), 4).await;
    leader.group.add_learner(member(4)).await.unwrap();
    let purged = leader.group.log().bounds().purged.unwrap();
    assert_same(&learner, leader, purged.index).await;
    let padding = |node: &Node| node.group.read(|ledger| ledger.padding.clone());
    assert!(padding(&learner) == padding(leader), "the whole snapshot");
    learner
}

/// Proposes to whoever leads; the number of proposals that were applied.
async fn publish_to_the_leader(nodes: &[Node], entries: u32) -> u32 {
    let (at, term) = leader(nodes).await;
    let mut pending = Vec::new();
    for i in 0..entries {
        pending.extend(nodes[at].group.propose(term, add(7, &i.to_le_bytes())).await.ok());
    }
    let mut applied = 0;
    for proposal in pending {
        let outcome = timeout(DEADLINE, proposal.applied()).await.expect("resolved in time");
        applied += u32::from(outcome.is_ok());
    }
    applied
}

/// Requests that nobody answers any more must not stay in the table.
async fn assert_nothing_waits(node: &Node) {
    let settled = eventually(|| node.host.inbox().waiting() == 0);
    timeout(DEADLINE, settled).await.unwrap_or_else(|_| panic!("{} wait", node.host.inbox().waiting()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_in_flight_together_and_never_more_than_the_window() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 1).await;
    let lead = nodes[at].replica;
    for follower in (1..=3).filter(|replica| *replica != lead) {
        let far = LinkFaults { delay: Duration::from_millis(50), ..LinkFaults::default() };
        network.disturb(follower, lead, far);
    }
    // One entry after another, so that no append takes many.
    let mut pending = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for i in 0..200_u32 {
        pace.tick().await;
        pending.push(nodes[at].propose(term, add(1, &i.to_le_bytes())).await);
    }
    for proposal in pending {
        timeout(DEADLINE, proposal.applied()).await.unwrap().unwrap();
    }
    for follower in (1..=3).filter(|replica| *replica != lead) {
        let most = network.report(lead, follower).unanswered_appends_max;
        assert!((4..=16).contains(&most), "{most} appends to {follower} were in flight");
    }
    network.mend();
    for node in &nodes {
        assert_same(node, &nodes[at], 0).await;
    }
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_agree_over_links_that_lose_repeat_delay_and_reorder() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let faults = LinkFaults {
        delay: Duration::from_millis(1),
        loses_every: 23,
        repeats_every: 5,
        swaps_every: 7,
        ..LinkFaults::default()
    };
    leader(&nodes).await;
    for (from, to) in LINKS {
        network.disturb(from, to, faults);
    }
    let mut accepted = 0;
    for round in 0..10 {
        // A link that loses heartbeats may cost a leadership; then others take the proposals.
        accepted += publish_to_the_leader(&nodes, 30).await;
        if round == 5 {
            LINKS.iter().filter(|(from, to)| from < to).for_each(|(from, to)| network.break_link(*from, *to));
        }
    }
    let reports = LINKS.map(|(from, to)| network.report(from, to));
    let sum = |of: fn(&LinkReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (lost, repeated, swapped) = (sum(|r| r.lost), sum(|r| r.repeated), sum(|r| r.swapped));
    assert!(lost > 0 && repeated > 0 && swapped > 0, "{reports:?}");
    assert!(reports.iter().all(|report| report.breaks > 0), "{reports:?}");
    assert!(accepted > 150, "only {accepted} of 300 proposals were applied");

    network.mend();
    let (at, term) = leader(&nodes).await;
    nodes[at].apply(term, add(1, b"last")).await;
    for node in &nodes {
        assert_same(node, &nodes[at], 0).await;
        assert_nothing_waits(node).await;
    }
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_breaks_among_appends_goes_on_from_what_the_follower_has() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    let lead = nodes[at].replica;
    for nth in [1, 2, 5, 9] {
        for follower in (1..=3).filter(|replica| *replica != lead) {
            network.break_link_before(lead, follower, TrafficClass::Append, nth);
        }
        publish(&nodes[at], term, 40).await;
        for node in &nodes {
            assert_same(node, &nodes[at], 0).await;
        }
    }
    for follower in (1..=3).filter(|replica| *replica != lead) {
        assert!(network.report(lead, follower).breaks > 0, "no break bit");
    }
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_follower_holds_up_neither_the_others_nor_the_purge() {
    let network = MemoryNetwork::default();
    let nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 50).await;
    let (lead, silent) = (nodes[at].replica, nodes[(at + 1) % 3].replica);
    // It takes appends and its answers get lost.
    network.cut_one_way(silent, lead);
    publish(&nodes[at], term, 300).await;
    trim_to(&nodes[at], term, 100).await;
    publish(&nodes[at], term, 50).await;
    let other = &nodes[(at + 2) % 3];
    let purged = nodes[at].group.log().bounds().purged.unwrap();
    assert_same(other, &nodes[at], purged.index).await;
    let most = network.report(lead, silent).unanswered_appends_max;
    assert!(most <= 2 * 16, "a window of the stream and one of its successor, not {most}");

    network.mend();
    for node in &nodes {
        assert_same(node, &nodes[at], purged.index).await;
    }
    assert_nothing_waits(&nodes[at]).await;
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_snapshot_arrives_in_chunks() {
    let network = MemoryNetwork::default();
    let (nodes, at, _) = three_with_a_large_snapshot(&network).await;
    let learner = learns_all(&network, &nodes[at]).await;
    assert_eq!(learner.calls.restored(), 1);
    assert_eq!(network.report(nodes[at].replica, 4).arrived[&TrafficClass::Snapshot], CHUNKS);
    leave(&network, learner).await;
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_resumes_where_its_connection_broke() {
    let network = MemoryNetwork::default();
    let (nodes, at, _) = three_with_a_large_snapshot(&network).await;
    let lead = nodes[at].replica;
    network.break_link_before(lead, 4, TrafficClass::Snapshot, 3);
    // The answer to the chunk that is sent again gets lost, too.
    network.break_link_before(4, lead, TrafficClass::Snapshot, 3);
    let learner = learns_all(&network, &nodes[at]).await;
    assert_eq!(learner.calls.restored(), 1, "one snapshot, as a whole");
    let report = network.report(lead, 4);
    assert_eq!(report.breaks, 2, "{report:?}");
    let arrived = report.arrived[&TrafficClass::Snapshot];
    assert_eq!(arrived, CHUNKS + 1, "only the chunk whose answer was lost came twice");
    leave(&network, learner).await;
    leave_all(&network, nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_survives_lost_repeated_reordered_and_damaged_chunks() {
    let network = MemoryNetwork::default();
    let (nodes, at, _) = three_with_a_large_snapshot(&network).await;
    let lead = nodes[at].replica;
    let faults = LinkFaults {
        loses_every: 7,
        repeats_every: 2,
        swaps_every: 3,
        corrupts_snapshots_every: 3,
        ..LinkFaults::default()
    };
    network.disturb(lead, 4, faults);
    // Faults that come in a fixed rhythm may hit the same chunk again and again, so they end when each has bitten.
    let mended = async {
        let bitten = eventually(|| {
            let report = network.report(lead, 4);
            report.corrupted > 0 && report.repeated > 0 && report.lost > 0
        });
        timeout(DEADLINE, bitten).await.expect("every kind of fault bites");
        network.mend();
    };
    let (learner, ()) = tokio::join!(learns_all(&network, &nodes[at]), mended);
    assert_eq!(learner.calls.restored(), 1, "one snapshot, as a whole");
    leave(&network, learner).await;
    leave_all(&network, nodes).await;
}
