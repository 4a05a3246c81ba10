//! Errors of opening a group, of proposals and of membership changes.

use std::ops::Range;

use fanfare_log::Bounds;

use crate::{
    failure::GroupFailure,
    format_version::FormatVersion,
    id::{GroupId, ReplicaId},
};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open group {group}")]
    Log {
        group: GroupId,
        #[source]
        source: fanfare_log::OpenError,
    },
    #[error("open group {group}: {reason}")]
    Group { group: GroupId, reason: String },
    /// Files of this group are damaged, or of no use to this program; other groups of the store may be sound. The group
    /// does not open, so none of its `offsets` can be read.
    #[error("open group {group}: {failure}; {}", .failure.remedy())]
    Unusable { group: GroupId, failure: GroupFailure, offsets: Range<u64> },
}

impl OpenError {
    pub(crate) fn unusable(group: GroupId, failure: GroupFailure, bounds: &Bounds) -> Self {
        Self::Unusable { group, failure, offsets: bounds.start_offset..bounds.next_offset }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed; another replica may lead.
    #[error("this replica does not lead")]
    NotLeader { leader: Option<ReplicaId> },
    /// Certainly not applied in that term.
    #[error("the term has ended")]
    TermEnded,
    /// Possibly applied.
    #[error("the outcome is unknown: leadership was lost before the entry was applied")]
    Unknown,
    #[error("the group has stopped")]
    Stopped,
    /// Not proposed: some member of the cluster could not apply the entry.
    #[error("the entry is of format version {}, the cluster is at {}", .needed.0, .cluster.0)]
    AboveFormat { needed: FormatVersion, cluster: FormatVersion },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("change the members: {reason}")]
    Refused { reason: String },
}
