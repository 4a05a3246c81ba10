//! Names of groups and of their replicas.

use std::fmt;

use fanfare_model::PartitionId;
pub use fanfare_model::ReplicaId;

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

/// A replica and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
}
