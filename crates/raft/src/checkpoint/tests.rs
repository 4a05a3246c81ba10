use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::entry::{LeaderId, Membership, NodeAddress};

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn stored(index: u64, voters: &[u64]) -> StoredMembership {
    let nodes: BTreeMap<u64, NodeAddress> =
        voters.iter().map(|voter| (*voter, NodeAddress::default())).collect();
    let membership = Membership::new(vec![voters.iter().copied().collect::<BTreeSet<_>>()], nodes).unwrap();
    StoredMembership::new(Some(log_id(1, index)), membership)
}

fn anchored() -> Checkpoint {
    let anchor = Anchor { position: position_of(log_id(1, 4)), next_offset: 40 };
    Checkpoint {
        applied: log_id(2, 9),
        next_offset: 90,
        live_from: 10,
        memberships: vec![stored(0, &[1]), stored(6, &[1, 2])],
        anchor: Some(anchor),
        installed: false,
        machine: Bytes::from_static(b"state"),
    }
}

#[test]
fn a_stored_checkpoint_keeps_its_bytes() {
    let checkpoint = Checkpoint { memberships: vec![], ..anchored() };
    let golden = concat!(
        "0100",                                               // version, installed
        "020000000000000001000000000000000900000000000000",   // applied
        "5a000000000000000a00000000000000",                   // next offset, full from
        "01010000000000000001000000000000000400000000000000", // anchor
        "2800000000000000",                                   // its offset
        "00000000",                                           // memberships
        "7374617465",                                         // the machine's
    );
    let hex: String = checkpoint.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    assert_eq!(Checkpoint::decode(checkpoint.encode().into()), Ok(checkpoint));
}

#[test]
fn an_anchored_snapshot_stands_at_the_anchor_with_the_membership_of_then() {
    let snapshot = anchored().to_snapshot().unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 4)));
    assert_eq!(snapshot.meta.last_membership, stored(0, &[1]));
}

#[test]
fn nothing_trimmed_means_no_snapshot() {
    let anchor = Some(Anchor { position: Position::default(), next_offset: 0 });
    assert!(Checkpoint { anchor, ..anchored() }.to_snapshot().is_none());
}

#[test]
fn without_an_anchor_a_snapshot_stands_at_the_applied_entry() {
    let snapshot = Checkpoint { anchor: None, ..anchored() }.to_snapshot().unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(2, 9)));
    assert_eq!(snapshot.meta.last_membership, stored(6, &[1, 2]));
}

#[test]
fn who_installs_a_snapshot_starts_at_its_base_and_changes_all_only_above_its_state() {
    let base = log_id(1, 4);
    let sent = Checkpoint::decode(anchored().to_snapshot().unwrap().snapshot).unwrap();
    let installed = sent.rebased(base, stored(0, &[1])).unwrap();
    assert_eq!((installed.applied, installed.next_offset), (base, 40));
    assert_eq!(installed.live_from, 10);
    assert_eq!(installed.memberships, vec![stored(0, &[1])]);
    assert!(installed.installed);
    assert_eq!(installed.base().map(|base| base.position.index), Some(4));
}

#[test]
fn a_snapshot_whose_header_names_another_base_is_refused() {
    assert!(anchored().rebased(log_id(1, 5), stored(0, &[1])).is_err());
}

#[test]
fn a_cut_checkpoint_is_never_taken_for_whole() {
    let bytes = anchored().encode();
    for end in 0..bytes.len() - anchored().machine.len() {
        assert!(Checkpoint::decode(Bytes::copy_from_slice(&bytes[..end])).is_err(), "cut at {end}");
    }
}
