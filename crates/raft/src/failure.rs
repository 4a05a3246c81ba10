//! The reasons for which one group stops for good while the node and its other groups go on.

use std::sync::{Arc, OnceLock};

use fanfare_log::ReadError;

/// Bytes of an entry or a checkpoint that a machine cannot use. They passed their checksums, so another read gives the
/// same bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// Written by a newer program.
    #[error("{detail}")]
    Newer { detail: String },
    /// No newer program is known to understand them, or they break an invariant of the machine.
    #[error("{detail}")]
    Invalid { detail: String },
}

/// A machine could not be rebuilt from its log.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("entry {index} cannot be used")]
    Entry {
        index: u64,
        #[source]
        source: MachineError,
    },
}

/// The cause of a group's end. Nothing was cut, and a restart comes to the same end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupFailure {
    /// A file is damaged, or does not fit the others; `detail` names file and place.
    #[error("{detail}")]
    Damaged { detail: String },
    /// A committed entry is intact, and this program cannot apply it.
    #[error("entry {index} cannot be applied: {error}")]
    Entry { index: u64, error: MachineError },
    /// The leader's log and this replica's give the same entry different offsets. The entry was not acknowledged.
    #[error(
        "the replicas have diverged: entry {index} begins at offset {leader_offset} at its leader, and at {own_offset} here"
    )]
    Diverged { index: u64, leader_offset: u64, own_offset: u64 },
    /// The engine asks to cut entries from `first_cut` on, and those up to `applied` are applied. Nothing was cut.
    #[error(
        "entries from {first_cut} on are to be cut, and those up to {applied} are committed and applied here"
    )]
    AppliedTruncated { first_cut: u64, applied: u64 },
    /// The state of a checkpoint or snapshot is intact, and this program cannot read it.
    #[error("the state in {file} cannot be read: {error}")]
    State { file: String, error: MachineError },
}

impl GroupFailure {
    pub(crate) fn damaged(detail: impl ToString) -> Self {
        Self::Damaged { detail: detail.to_string() }
    }

    /// Advice to the operator: a sentence without a full stop.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => {
                "remove this replica so that its peers rebuild it, or restore the directory from a backup"
            }
            Self::Diverged { .. } | Self::AppliedTruncated { .. } => {
                "keep the directory for an investigation, remove this replica and place a new one on this node"
            }
            Self::Entry { error: MachineError::Newer { .. }, .. }
            | Self::State { error: MachineError::Newer { .. }, .. } => {
                "upgrade this node to the program that wrote it, and start it again"
            }
            Self::Entry { error: MachineError::Invalid { .. }, .. }
            | Self::State { error: MachineError::Invalid { .. }, .. } => {
                "start the program that wrote it again, or restore the directory from a backup"
            }
        }
    }
}

/// The first failure of a replica, shared by those who meet failures and those who answer with them.
pub(crate) type FailureLatch = Arc<OnceLock<GroupFailure>>;
