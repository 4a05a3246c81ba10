//! Names of groups and of their replicas.

use std::fmt;

use fanfare_model::PartitionId;

/// One Raft group of the cluster. Its text names the group's log and files, so it is path-safe and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// Group 0: what should exist.
    Catalog,
    Partition(PartitionId),
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("catalog"),
            Self::Partition(PartitionId { stream, index }) => write!(f, "{}-{index}", stream.name()),
        }
    }
}

/// One copy of a group on one node. Never reused: a replica that lost its log comes back under another id, because a
/// voter that forgot its votes could vote twice in one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
