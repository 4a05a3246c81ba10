use std::sync::Arc;

use fanfare_environment::Environment;

use super::*;
use crate::{
    GroupId, NoPeers, ReplicaId,
    entry::{LeaderId, LogId, NodeAddress, SnapshotMeta},
    id::Identity,
    peer::{Peers, Requests},
};

fn peer() -> Peer {
    let peers = Peers::new(Arc::new(NoPeers), Requests::new(&Environment::system()));
    let own = Identity { group: GroupId::Catalog, replica: ReplicaId(1) };
    peers.peer(own, ReplicaId(2), &NodeAddress { node: 2, address: String::new() })
}

fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
}

fn snapshot(index: u64, byte: u8) -> Snapshot {
    let last_log_id = Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index });
    let meta = SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
    Snapshot { meta, snapshot: vec![byte; 3 * CHUNK_BYTES_MAX].into() }
}

#[test]
fn transfer_that_was_given_up_resumes_where_it_was_and_only_for_the_same_snapshot_and_vote() {
    let peer = peer();
    let received = 2 * CHUNK_BYTES_MAX as u64;
    for (next_vote, next, resumes) in [
        (vote(1), snapshot(5, 7), true),
        (vote(2), snapshot(5, 7), false),
        (vote(1), snapshot(6, 7), false),
        (vote(1), snapshot(5, 8), false),
    ] {
        let mut last = None;
        let first = SnapshotTransfer::resume(&mut last, &peer, vote(1), snapshot(5, 7));
        assert_eq!(first.acknowledged, 0);
        first.acknowledged = received;
        let name = first.header.transfer;
        let again = SnapshotTransfer::resume(&mut last, &peer, next_vote, next);
        let expected = if resumes { received } else { 0 };
        assert_eq!((again.acknowledged, again.header.transfer == name), (expected, resumes), "{next_vote}");
    }
}
