use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn joint_membership() -> Membership {
    let broker = |n: u64| NodeAddress { node: n, address: format!("broker-{n}:7071") };
    let nodes = BTreeMap::from([(1, broker(11)), (2, broker(12)), (0x0102, broker(13))]);
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 0x0102])], nodes).unwrap()
}

#[test]
fn a_stored_vote_keeps_its_bytes() {
    let vote = Vote { leader_id: LeaderId { term: 7, node_id: 0x0102 }, committed: true };
    let golden = [1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(encode_vote(&vote), golden);
    assert_eq!(decode_vote(&golden), Ok(vote));
    assert!(golden.len() <= 64, "the log stores votes of at most 64 bytes");
}

#[test]
fn a_stored_membership_keeps_its_bytes() {
    let membership = Membership::new(
        vec![BTreeSet::from([5])],
        BTreeMap::from([(5, NodeAddress { node: 9, address: "a:1".to_owned() })]),
    )
    .unwrap();
    let golden = [
        1, 1, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3, 0,
        b'a', b':', b'1',
    ];
    assert_eq!(encode_membership(&membership), golden);
    assert_eq!(decode_membership(&golden), Ok(membership));
}

#[test]
fn a_joint_membership_survives_and_no_cut_of_it_is_taken_for_whole() {
    let bytes = encode_membership(&joint_membership());
    assert_eq!(decode_membership(&bytes), Ok(joint_membership()));
    for end in 0..bytes.len() {
        assert!(decode_membership(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(decode_membership(&longer).is_err());
}

#[test]
fn a_newer_version_is_refused() {
    let mut bytes = encode_membership(&joint_membership());
    bytes[0] = 2;
    assert_eq!(decode_membership(&bytes), Err(Malformed("membership version")));
    let mut vote = encode_vote(&Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: false });
    vote[0] = 2;
    assert_eq!(decode_vote(&vote), Err(Malformed("vote version")));
}
