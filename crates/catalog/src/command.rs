//! Commands, the replicated changes: versioned JSON, one object per log entry.
//!
//! A command carries all that applying it needs, so that every replica and every replay comes to the same state:
//! the time and fresh identifiers.

use fanfare_model::{AccountId, BrokerId, KeyId, PartitionId, SinkId, StartAt, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{AccountLimits, NewEventType, NewSink, NewSubscription, RequestId};

/// Version of the commands that this program writes.
const VERSION: u32 = 5;
/// The oldest version that this program reads. Version 4 added the delivery settings of sinks, version 5 conditions and
/// the secret before a rotation.
const OLDEST: u32 = 3;

/// One change, at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    #[serde(rename = "v")]
    version: u32,
    /// The proposer's clock; a state's time never goes back.
    pub(crate) time: Timestamp,
    pub(crate) change: Change,
    /// Conditions of the caller; none in commands of the node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) conditions: Option<Conditions>,
}

/// Conditions under which a caller's change is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conditions {
    pub(crate) account: AccountId,
    /// Revision of the object that is deleted, paused or resumed; none takes any.
    pub(crate) expected_revision: Option<u64>,
    /// Makes a repeat of the same request change nothing.
    pub(crate) request: Option<RequestId>,
}

/// The kinds of changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Change {
    CreateAccount(NewAccount),
    /// An account and its key, only if the catalog has no account yet.
    Bootstrap {
        account: NewAccount,
        key: KeyRecord,
    },
    CreateKey {
        account: AccountId,
        key: KeyRecord,
    },
    CreateEventType {
        account: AccountId,
        event_type: NewEventType,
    },
    UpdateEventType {
        account: AccountId,
        event_type: NewEventType,
        expected_revision: Option<u64>,
    },
    DeleteEventType {
        account: AccountId,
        name: String,
    },
    CreateSchema {
        account: AccountId,
        id: String,
        description: String,
        document: String,
    },
    CreateSchemaVersion {
        account: AccountId,
        id: String,
        document: String,
    },
    UpdateSchema {
        account: AccountId,
        id: String,
        description: String,
        expected_revision: Option<u64>,
    },
    DeleteSchema {
        account: AccountId,
        id: String,
    },
    CreateSink {
        account: AccountId,
        id: SinkId,
        sink: NewSink,
    },
    UpdateSink {
        account: AccountId,
        id: SinkId,
        sink: NewSink,
        expected_revision: Option<u64>,
    },
    DeleteSink {
        account: AccountId,
        id: SinkId,
    },
    CreateSubscription {
        account: AccountId,
        subscription: CreatedSubscription,
    },
    UpdateSubscription {
        account: AccountId,
        id: SubscriptionId,
        spec: NewSubscription,
        expected_revision: Option<u64>,
    },
    DeleteSubscription {
        account: AccountId,
        id: SubscriptionId,
    },
    PauseSubscription {
        account: AccountId,
        id: SubscriptionId,
    },
    ResumeSubscription {
        account: AccountId,
        id: SubscriptionId,
    },
    RegisterBroker(NewBroker),
    AssignReplicas {
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    },
    RemoveReplicas {
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    },
    SetLimits(AccountLimits),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    pub(crate) id: AccountId,
    pub(crate) name: String,
    /// Number of partitions of the stream `events`.
    pub(crate) partitions: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBroker {
    #[serde(with = "crate::hex::array")]
    pub(crate) incarnation: [u8; 16],
    pub(crate) address: String,
    /// The number of one of the first members; none of a broker that joins later.
    pub(crate) founder: Option<BrokerId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) id: KeyId,
    pub(crate) description: String,
    #[serde(with = "crate::hex::array")]
    pub(crate) secret_hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreatedSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) spec: NewSubscription,
    pub(crate) start: StartAt,
}

/// Stored bytes are no command of this program's format. Skipping them would make this replica differ from those that
/// understand them, so they fail the group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("is of version {version} and this program knows up to {VERSION}")]
    Newer { version: u32 },
    #[error("is of version {version}, written by an older program: this one reads from {OLDEST} on")]
    Older { version: u32 },
    #[error("is of the unknown kind {kind}")]
    UnknownKind { kind: u8 },
    #[error("is malformed: {0}")]
    Malformed(String),
}

impl Command {
    pub(crate) fn new(time: Timestamp, change: Change) -> Self {
        Self { version: VERSION, time, change, conditions: None }
    }

    /// The command under the conditions of its caller.
    pub(crate) fn under(self, conditions: Option<Conditions>) -> Self {
        Self { conditions, ..self }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a command has only text keys and no failing serializer")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        let malformed = |error: serde_json::Error| CommandError::Malformed(error.to_string());
        // The version comes first: the rest of a newer command need not parse.
        let Header { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        match version {
            OLDEST..=VERSION => serde_json::from_slice(bytes).map_err(malformed),
            0..OLDEST => Err(CommandError::Older { version }),
            _ => Err(CommandError::Newer { version }),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "v")]
    version: u32,
}

#[cfg(test)]
mod tests;
