//! Commands: what is replicated. Versioned JSON, one object per log entry.
//!
//! A command carries all that applying it needs, so that every replica and every replay comes to the same state:
//! the time, fresh identifiers, and the configured limits of the node that proposed it.

use fanfare_model::{AccountId, KeyId, SinkConfig, SinkId, StartAt, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{NewEventType, NewSubscription};

/// The version this program writes, and the newest it understands.
const VERSION: u32 = 1;

/// One change, at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    #[serde(rename = "v")]
    version: u32,
    /// The proposer's clock; a state's time never goes back.
    pub(crate) time: Timestamp,
    pub(crate) change: Change,
}

/// What to change. `limit` is the proposer's: how many of the kind the account may have.
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
        limit: u64,
    },
    CreateEventType {
        account: AccountId,
        event_type: NewEventType,
        limit: u64,
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
        limit: u64,
    },
    CreateSchemaVersion {
        account: AccountId,
        id: String,
        document: String,
        limit: u64,
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
        sink: SinkSpec,
        limit: u64,
    },
    UpdateSink {
        account: AccountId,
        id: SinkId,
        sink: SinkSpec,
        expected_revision: Option<u64>,
    },
    DeleteSink {
        account: AccountId,
        id: SinkId,
    },
    CreateSubscription {
        account: AccountId,
        subscription: CreatedSubscription,
        limit: u64,
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    pub(crate) id: AccountId,
    pub(crate) name: String,
    /// How many partitions the stream `events` has.
    pub(crate) partitions: u16,
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
pub(crate) struct SinkSpec {
    pub(crate) description: String,
    pub(crate) config: SinkConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreatedSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) spec: NewSubscription,
    pub(crate) start: StartAt,
}

/// Why stored bytes are not a command that this program may act on. Skipping one would make this replica differ
/// from those that understand it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("is of version {version} and this program knows up to {VERSION}: run the newer program again")]
    Newer { version: u32 },
    #[error("is of the unknown kind {kind}: run the newer program again")]
    UnknownKind { kind: u8 },
    #[error("is malformed: {0}")]
    Malformed(String),
}

impl Command {
    pub(crate) fn new(time: Timestamp, change: Change) -> Self {
        Self { version: VERSION, time, change }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a command has only text keys and no failing serializer")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        let malformed = |error: serde_json::Error| CommandError::Malformed(error.to_string());
        // The version first: the rest of a newer command need not parse.
        let Header { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        match version {
            VERSION => serde_json::from_slice(bytes).map_err(malformed),
            0 => Err(CommandError::Malformed("there is no version 0".to_owned())),
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
