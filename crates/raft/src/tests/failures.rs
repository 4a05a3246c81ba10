//! Entries that a machine cannot apply: their group fails in order, at every start, and no other does.

use std::sync::Arc;

use fanfare_log::{NewFrame, Payload, Position};
use tokio::time::timeout;

use super::{
    cluster::{join, leader, leave, publish, three},
    ledger::{ADD, BROKEN, Ledger, NEWER, add},
    node::{DEADLINE, Files, GROUP, Node, settings},
    recovery::{edit_checkpoint, with_entries_in},
};
use crate::{
    Group, GroupFailure, GroupId, GroupOptions, MachineError, NoPeers, OpenError, Proposal, ProposeError,
    ReplicaId, Role, StateMachine,
    checkpoint::{CHECKPOINT_VERSION, Checkpoint},
    memory::MemoryNetwork,
};

fn of_kind(kind: u8) -> Proposal {
    Proposal { kind, ..add(1, b"x") }
}

async fn fails(node: &Node) -> GroupFailure {
    let mut role = node.group.role();
    let failed = role.wait_for(|role| *role == Role::Failed);
    timeout(DEADLINE, failed).await.expect("fails in time").unwrap();
    node.group.failure().expect("the group names its failure").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_applied_fails_its_group_at_every_start() {
    for (kind, is_expected) in [
        (NEWER, (|error| matches!(error, MachineError::Newer { .. })) as fn(&MachineError) -> bool),
        (BROKEN, |error| matches!(error, MachineError::Invalid { .. })),
    ] {
        let (node, term) = with_entries_in(Files::in_memory(), 5).await;
        let pending = node.propose(term, of_kind(kind)).await;
        assert_eq!(pending.applied().await.err(), Some(ProposeError::Unknown), "it is committed");
        let failure = fails(&node).await;
        let GroupFailure::Entry { index, error } = &failure else { panic!("{failure}") };
        assert!(is_expected(error), "{error}");
        let last = node.group.read(|ledger| ledger.seen.last().unwrap().position.index);
        assert_eq!(*index, last + 1);
        assert_eq!(node.group.propose(term, add(1, b"y")).await.err(), Some(ProposeError::Stopped));

        let mut files = node.stop().await;
        for start in 1..=3 {
            let node = Node::open(files, 1, Arc::new(NoPeers)).await;
            assert_eq!(fails(&node).await, failure, "start {start}");
            let seen = node.group.read(|ledger| ledger.seen.len());
            assert_eq!(seen, 5, "start {start}: the entries before it are still read");
            files = node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_groups_of_the_node_go_on() {
    let (node, term) = with_entries_in(Files::in_memory(), 5).await;
    let other_id = GroupId::Catalog;
    let roll = fanfare_log::RollPolicy { segment_bytes: 4096, age_ms: u64::MAX };
    let log = node.store.open_log(&other_id.to_string(), 1, roll).unwrap();
    let options = GroupOptions { checkpoint_interval_ms: 20, snapshot_entries: 50 };
    let machine = Ledger::anchored(Arc::default());
    let other = Group::open(&node.host, other_id, ReplicaId(1), log, machine, options).await.unwrap();
    other.initialize(vec![super::node::member(1)]).await.unwrap();
    let mut role = other.role();
    let led = role.wait_for(|role| matches!(role, Role::Leader { .. }));
    let Role::Leader { term: other_term } = *timeout(DEADLINE, led).await.unwrap().unwrap() else {
        unreachable!("waited for it");
    };

    drop(node.propose(term, of_kind(NEWER)).await);
    fails(&node).await;
    for offset in 0..20 {
        let pending = other.propose(other_term, add(1, b"x")).await.unwrap();
        let applied = timeout(DEADLINE, pending.applied()).await.expect("applied in time").unwrap();
        assert_eq!(applied.base_offset, offset);
    }
    other.shutdown().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_an_entry_broke_never_gets_into_a_checkpoint() {
    let (node, _) = with_entries_in(Files::in_memory(), 5).await;
    let node = Node::open(node.stop().await, 1, Arc::new(NoPeers)).await;
    let term = node.leading().await;
    let sum = node.group.read(|ledger| ledger.sum);
    drop(node.propose(term, of_kind(BROKEN)).await);
    fails(&node).await;
    assert!(node.group.read(|ledger| ledger.sum) > sum, "the entry changed the machine");
    let files = node.stop().await;
    edit_checkpoint(&files, |bytes| {
        let checkpoint = Checkpoint::decode(bytes.clone().into()).unwrap();
        let mut saved = Ledger::anchored(Arc::default());
        saved.restore(&checkpoint.machine).unwrap();
        assert!(saved.sum <= sum, "{} is saved", saved.sum);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_this_program_cannot_read_fails_its_group_alone() {
    let (node, _) = with_entries_in(Files::in_memory(), 5).await;
    let files = node.stop().await;
    let unusable = async || match Node::try_open(
        files.clone(),
        settings(1),
        Arc::new(NoPeers),
        Ledger::anchored,
    )
    .await
    {
        Err(OpenError::Unusable { group: GROUP, failure, .. }) => failure,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    };
    let mut sound = Vec::new();
    edit_checkpoint(&files, |bytes| {
        sound.clone_from(bytes);
        let mut checkpoint = Checkpoint::decode(bytes.clone().into()).unwrap();
        checkpoint.machine = checkpoint.machine.slice(0..3);
        *bytes = checkpoint.encode();
    });
    let failure = unusable().await;
    assert!(matches!(failure, GroupFailure::State { error: MachineError::Invalid { .. }, .. }), "{failure}");
    let store = files.store();
    let newer = u32::from(CHECKPOINT_VERSION) + 1;
    store.save_file(&format!("checkpoint-{GROUP}"), newer, &sound).unwrap();
    store.close();
    let failure = unusable().await;
    assert!(matches!(failure, GroupFailure::State { error: MachineError::Newer { .. }, .. }), "{failure}");
    assert!(failure.remedy().contains("upgrade"), "{}", failure.remedy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_with_other_offsets_than_its_leaders_is_refused_and_not_acknowledged() {
    let network = MemoryNetwork::default();
    let mut nodes = three(&network).await;
    let (at, term) = leader(&nodes).await;
    publish(&nodes[at], term, 10).await;
    let last = nodes[at].group.log().bounds().last.unwrap();
    let follower = (at + 1) % 3;
    nodes[follower].applies_upto(last.index).await;
    let (lead, replica) = (nodes[at].replica, nodes[follower].replica);
    let files = leave(&network, nodes.remove(follower)).await;
    let leader = nodes.iter().find(|node| node.replica == lead).unwrap();
    // The same log id, and another number of events: Raft itself takes the two entries for one.
    publish(leader, term, 1).await;
    let position = Position { index: last.index + 1, ..leader.group.log().bounds().last.unwrap() };
    let store = files.store();
    let payload = Payload::new(vec![bytes::Bytes::from_static(b"other")]);
    let other = NewFrame { kind: ADD, position, count: 9, time_ms: 1, payload };
    files.log(&store, replica).append(vec![other], Box::new(|result| result.unwrap()));
    store.close();

    let diverged = join(&network, files, replica).await;
    publish(leader, term, 1).await;
    let failure = fails(&diverged).await;
    assert_eq!(
        failure,
        GroupFailure::Diverged { index: last.index + 2, leader_offset: 77, own_offset: 79 },
        "{failure}"
    );
    assert_eq!(diverged.group.log().bounds().last, Some(position), "the entry is not in the log");
    publish(leader, term, 10).await;
    leave(&network, diverged).await;
    for node in nodes {
        leave(&network, node).await;
    }
}
