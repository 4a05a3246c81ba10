//! Names of the logs: a stream and an index in it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A named, partitioned log with its own retention. The numbers are stored: they never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Stream {
    /// Events that producers publish.
    Events = 1,
    /// Copies of events that a subscription could not deliver.
    DeadLetters = 2,
}

impl Stream {
    /// The stream stored as `number`, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Events),
            2 => Some(Self::DeadLetters),
            _ => None,
        }
    }

    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

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
