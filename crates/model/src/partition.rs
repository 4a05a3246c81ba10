//! Names of the logs: a stream and an index in it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A named, partitioned log with its own retention. The names are stored: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Events that producers publish.
    Events,
    /// Copies of events that a subscription could not deliver.
    DeadLetters,
}

impl Stream {
    pub const ALL: [Self; 2] = [Self::Events, Self::DeadLetters];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::DeadLetters => "dead-letters",
        }
    }
}

/// One Raft group and its log: the unit of order, replication, leadership and delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    pub stream: Stream,
    pub index: u16,
}

impl PartitionId {
    #[must_use]
    pub fn events(index: u16) -> Self {
        Self { stream: Stream::Events, index }
    }

    #[must_use]
    pub fn dead_letters(index: u16) -> Self {
        Self { stream: Stream::DeadLetters, index }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream.name(), self.index)
    }
}
