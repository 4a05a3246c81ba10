//! Encodings of votes, log ids and memberships, as they are stored and sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};

use super::{LeaderId, LogId, Membership, NodeAddress, StoredMembership, Vote};
use crate::codec::{self, Malformed};

const VOTE_VERSION: u8 = 1;
const MEMBERSHIP_VERSION: u8 = 1;

/// The stored form of a vote: 18 bytes.
pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut out = vec![VOTE_VERSION];
    put_vote(&mut out, vote);
    out
}

pub(crate) fn decode_vote(mut from: &[u8]) -> Result<Vote, Malformed> {
    codec::expect_version(&mut from, VOTE_VERSION, "vote version")?;
    let vote = take_vote(&mut from)?;
    codec::finish(from, "vote")?;
    Ok(vote)
}

/// The stored form of a membership: the payload of a membership entry.
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = vec![MEMBERSHIP_VERSION];
    put_membership(&mut out, membership);
    out
}

pub(crate) fn decode_membership(mut from: &[u8]) -> Result<Membership, Malformed> {
    codec::expect_version(&mut from, MEMBERSHIP_VERSION, "membership version")?;
    let membership = take_membership(&mut from)?;
    codec::finish(from, "membership")?;
    Ok(membership)
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.put_u8(u8::from(vote.committed));
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
}

pub(crate) fn take_vote(from: &mut impl Buf) -> Result<Vote, Malformed> {
    let committed = codec::take_bool(from)?;
    Ok(Vote {
        leader_id: LeaderId { term: codec::take_u64(from)?, node_id: codec::take_u64(from)? },
        committed,
    })
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, log_id: &LogId) {
    out.put_u64_le(log_id.leader_id.term);
    out.put_u64_le(log_id.leader_id.node_id);
    out.put_u64_le(log_id.index);
}

pub(crate) fn take_log_id(from: &mut impl Buf) -> Result<LogId, Malformed> {
    let leader_id = LeaderId { term: codec::take_u64(from)?, node_id: codec::take_u64(from)? };
    Ok(LogId { leader_id, index: codec::take_u64(from)? })
}

pub(crate) fn put_log_id_option(out: &mut Vec<u8>, log_id: Option<&LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

pub(crate) fn take_log_id_option(from: &mut impl Buf) -> Result<Option<LogId>, Malformed> {
    if codec::take_bool(from)? { Ok(Some(take_log_id(from)?)) } else { Ok(None) }
}

pub(crate) fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_log_id_option(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

pub(crate) fn take_stored_membership(from: &mut impl Buf) -> Result<StoredMembership, Malformed> {
    let log_id = take_log_id_option(from)?;
    Ok(StoredMembership::new(log_id, take_membership(from)?))
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for config in configs {
        put_count(out, config.len());
        config.iter().for_each(|id| out.put_u64_le(*id));
    }
    put_count(out, membership.nodes().count());
    for (id, node) in membership.nodes() {
        out.put_u64_le(*id);
        out.put_u64_le(node.node);
        put_count(out, node.address.len());
        out.put_slice(node.address.as_bytes());
    }
}

fn take_membership(from: &mut impl Buf) -> Result<Membership, Malformed> {
    let mut configs = Vec::new();
    for _ in 0..codec::take_u16(from)? {
        let voters = (0..codec::take_u16(from)?).map(|_| codec::take_u64(from));
        configs.push(voters.collect::<Result<BTreeSet<u64>, Malformed>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..codec::take_u16(from)? {
        let (id, node) = (codec::take_u64(from)?, codec::take_u64(from)?);
        let length = usize::from(codec::take_u16(from)?);
        let address =
            String::from_utf8(codec::take_bytes(from, length)?.into()).map_err(|_| Malformed("address"))?;
        nodes.insert(id, NodeAddress { node, address });
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("membership"))
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u16_le(u16::try_from(count).expect("a group has far fewer than 65536 members"));
}

#[cfg(test)]
mod tests;
