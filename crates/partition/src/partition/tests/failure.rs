//! A committed entry that this program cannot apply: its partition fails in order, at every start, and no other does.

use super::*;
use crate::{AccountFilter, entry};

/// A partition of the node beside the tested one.
const OTHER: PartitionId = PartitionId { index: 4, ..ID };

async fn open_other(node: &Node) -> Partition {
    let tasks = TaskTracker::new();
    let other = PartitionReplica::alone(OTHER, ReplicaId(1), &node.host);
    let other = Partition::open(other, &node.host, options(), &Budgets::new(MEMORY, 1), tasks).await.unwrap();
    let mut role = other.role();
    let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
    timeout(DEADLINE, leads).await.expect("the other partition leads in time").expect("its group runs");
    other
}

async fn commit(node: &Node, kind: u8, count: u32, payload: &[u8]) {
    let open = node.open_backing();
    let Role::Leader { term } = *open.role.borrow() else { panic!("it leads") };
    let payload = Payload::new(vec![payload.to_vec().into()]);
    let proposal = Proposal { kind, count, time_ms: 1_000_000, payload };
    let pending = open.group.propose(term, proposal).await.unwrap();
    let outcome = timeout(DEADLINE, pending.applied()).await.expect("answered in time");
    assert!(matches!(outcome, Err(ProposeError::Unknown)), "it is committed, and not applied");
}

async fn is_failed(node: &Node) -> ReadError {
    let mut role = node.partition.role();
    let failed = role.wait_for(|role| *role == Role::Failed);
    timeout(DEADLINE, failed).await.expect("fails in time").expect("the group runs");
    let appended = node.partition.append(batch(1, &["late"]));
    assert!(matches!(appended, Err(AppendError::Damaged { .. })), "it takes no events");
    let advanced = node.partition.advance(1, Advance::default()).await;
    assert!(matches!(advanced, Err(CommandError::Stopped { .. })), "{advanced:?}");
    node.partition.damage().expect("the partition names its damage")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unusable_entry_fails_its_partition_at_every_start_and_no_other() {
    let cases: [(u8, u32, &[u8], &str); 4] = [
        (77, 0, b"", "does not know its kind 77"),
        (command::KIND, 0, &[0xff, 0xff, 1], "command of version 65535"),
        (command::KIND, 0, &[3, 0, 99], "no such value"),
        (entry::KIND, 3, b"no table", "malformed entry"),
    ];
    for (kind, count, payload, expected) in cases {
        let mut node = Node::new().await;
        node.append(batch(1, &["a", "b"])).await;
        commit(&node, kind, count, payload).await;
        for start in 0..3 {
            let ReadError::DataLoss { detail, offsets, .. } = is_failed(&node).await else {
                panic!("kind {kind}: it is no loss of data")
            };
            assert!(detail.contains(expected), "{detail}");
            assert!(!detail.contains("accept-loss"), "nothing is lost that could be accepted: {detail}");
            assert_eq!(offsets, Offset(2)..Offset(2 + u64::from(count)));
            let read = node.partition.read(Offset(0), AccountFilter::All, 1 << 20).await.unwrap();
            assert_eq!(read.next, Offset(2), "what is applied stays readable");

            let other = open_other(&node).await;
            let appended = other.append(batch(1, &[&format!("{start}")])).unwrap().committed().await.unwrap();
            assert_eq!(appended.base, Offset(start), "the other partition goes on");
            other.shutdown().await;
            node = Node::open_any(node.stop().await, options(), 1_000_000).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_a_newer_program_makes_its_partition_unavailable_and_no_other() {
    let node = Node::new().await;
    node.append(batch(1, &["a"])).await;
    let state = node.open_backing().group.read(|machine| machine.state().checkpoint());
    let fs = node.stop().await;
    // Its files are edited while another partition of the node is open.
    let node = Node::open_with(fs, (OTHER, MEMORY), options(), 1_000_000).await;
    let name = format!("checkpoint-{}", open::log_name(ID));
    let (version, mut bytes) = node.store.load_file(&name).unwrap().expect("the stop wrote a checkpoint");
    let state_at = bytes.len() - state.len();
    assert_eq!(
        bytes[state_at..state_at + 2],
        state[..2],
        "the state ends the file and begins with its version"
    );
    bytes[state_at] += 1;
    node.store.save_file(&name, version, &bytes).unwrap();
    let fs = node.stop().await;

    let node = Node::open_any(fs, options(), 1_000_000).await;
    assert_eq!(*node.partition.role().borrow(), Role::Failed);
    let lost = node.partition.damage().expect("the partition names its damage").to_string();
    assert!(lost.contains(&name) && lost.contains("upgrade this node"), "{lost}");
    open_other(&node).await;
}
