//! Errors of opening a group, of proposals and of membership changes.

use fanfare_log::Bounds;

use crate::id::{GroupId, ReplicaId};

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
    /// Files of this group are damaged; other groups of the store may be sound. `reason` names the file and the place
    /// in it. A group does not open with damage, so none of its offsets can be read.
    #[error("open group {group}: {reason}")]
    Corrupt { group: GroupId, reason: String, first_offset: u64, end_offset: u64 },
}

impl OpenError {
    pub(crate) fn corrupt(group: GroupId, reason: String, bounds: &Bounds) -> Self {
        let (first_offset, end_offset) = (bounds.start_offset, bounds.next_offset);
        Self::Corrupt { group, reason, first_offset, end_offset }
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
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("change the members: {reason}")]
    Refused { reason: String },
}
