//! Explicit little-endian encodings of what this crate stores and sends: votes, log ids, memberships.
//!
//! Each stored or sent unit starts with a version byte; the pieces inside it have none of their own. A
//! decoder refuses what it does not know and what is cut short, and never panics on bytes from disk or
//! network.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};

use crate::entry::{LeaderId, LogId, Membership, NodeAddress, StoredMembership, Vote};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

const VOTE_VERSION: u8 = 1;
const MEMBERSHIP_VERSION: u8 = 1;

/// The stored form of a vote: 18 bytes.
pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut out = vec![VOTE_VERSION];
    put_vote(&mut out, vote);
    out
}

pub(crate) fn decode_vote(mut from: &[u8]) -> Result<Vote, Malformed> {
    expect_version(&mut from, VOTE_VERSION, "vote version")?;
    let vote = take_vote(&mut from)?;
    finish(from, "vote")?;
    Ok(vote)
}

/// The stored form of a membership: the payload of a membership entry.
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = vec![MEMBERSHIP_VERSION];
    put_membership(&mut out, membership);
    out
}

pub(crate) fn decode_membership(mut from: &[u8]) -> Result<Membership, Malformed> {
    expect_version(&mut from, MEMBERSHIP_VERSION, "membership version")?;
    let membership = take_membership(&mut from)?;
    finish(from, "membership")?;
    Ok(membership)
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.put_u8(u8::from(vote.committed));
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
}

pub(crate) fn take_vote(from: &mut impl Buf) -> Result<Vote, Malformed> {
    let committed = take_bool(from)?;
    Ok(Vote { leader_id: LeaderId { term: take_u64(from)?, node_id: take_u64(from)? }, committed })
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, log_id: &LogId) {
    out.put_u64_le(log_id.leader_id.term);
    out.put_u64_le(log_id.leader_id.node_id);
    out.put_u64_le(log_id.index);
}

pub(crate) fn take_log_id(from: &mut impl Buf) -> Result<LogId, Malformed> {
    let leader_id = LeaderId { term: take_u64(from)?, node_id: take_u64(from)? };
    Ok(LogId { leader_id, index: take_u64(from)? })
}

pub(crate) fn put_log_id_option(out: &mut Vec<u8>, log_id: Option<&LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

pub(crate) fn take_log_id_option(from: &mut impl Buf) -> Result<Option<LogId>, Malformed> {
    if take_bool(from)? { Ok(Some(take_log_id(from)?)) } else { Ok(None) }
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
    for _ in 0..take_u16(from)? {
        let voters = (0..take_u16(from)?).map(|_| take_u64(from));
        configs.push(voters.collect::<Result<BTreeSet<u64>, Malformed>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u16(from)? {
        let (id, node) = (take_u64(from)?, take_u64(from)?);
        let length = usize::from(take_u16(from)?);
        let address =
            String::from_utf8(take_bytes(from, length)?.into()).map_err(|_| Malformed("address"))?;
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

pub(crate) fn expect_version(from: &mut impl Buf, known: u8, what: &'static str) -> Result<(), Malformed> {
    if take_u8(from)? == known { Ok(()) } else { Err(Malformed(what)) }
}

/// Refuses bytes left over: they would be a later version's, or garbage.
pub(crate) fn finish(from: impl Buf, what: &'static str) -> Result<(), Malformed> {
    if from.has_remaining() { Err(Malformed(what)) } else { Ok(()) }
}

pub(crate) fn take_bool(from: &mut impl Buf) -> Result<bool, Malformed> {
    match take_u8(from)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("flag")),
    }
}

pub(crate) fn take_u8(from: &mut impl Buf) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u16(from: &mut impl Buf) -> Result<u16, Malformed> {
    from.try_get_u16_le().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u32(from: &mut impl Buf) -> Result<u32, Malformed> {
    from.try_get_u32_le().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u64(from: &mut impl Buf) -> Result<u64, Malformed> {
    from.try_get_u64_le().map_err(|_| CUT_SHORT)
}

/// Shares memory if `from` is a `Bytes`.
pub(crate) fn take_bytes(from: &mut impl Buf, length: usize) -> Result<Bytes, Malformed> {
    if from.remaining() < length { Err(CUT_SHORT) } else { Ok(from.copy_to_bytes(length)) }
}

const CUT_SHORT: Malformed = Malformed("bytes: cut short");

#[cfg(test)]
mod tests;
