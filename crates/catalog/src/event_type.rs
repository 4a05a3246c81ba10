//! Event types and the schemas their data is held to.

use std::sync::Arc;

use fanfare_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Where an event type is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventTypeStatus {
    /// May be published and subscribed.
    Available,
    /// Still works; users should move on.
    Deprecated,
    /// May be published; new subscriptions are refused.
    Restricted,
    /// Publishing and new subscriptions are refused.
    Discontinued,
}

/// A kind of event of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventType {
    pub name: String,
    pub description: String,
    /// Id of the schema that events are validated against.
    pub schema: Option<String>,
    pub status: EventTypeStatus,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// The catalog's revision at the last change.
    pub revision: u64,
}

/// Settings of an event type as a caller gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEventType {
    pub name: String,
    pub description: String,
    pub schema: Option<String>,
    pub status: EventTypeStatus,
}

/// A named JSON Schema of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub id: String,
    pub description: String,
    /// Index i is version i + 1; a version never changes and the list never shrinks.
    pub versions: Vec<SchemaVersion>,
    pub created: Timestamp,
    /// The catalog's revision at the last change.
    pub revision: u64,
}

impl Schema {
    /// The version numbered `number`, from 1.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&SchemaVersion> {
        self.versions.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// The number of the newest version.
    #[must_use]
    pub fn latest_version(&self) -> u32 {
        u32::try_from(self.versions.len()).expect("versions are limited far below four billion")
    }
}

/// A schema and the number of the version that was added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSchemaVersion {
    pub schema: Arc<Schema>,
    pub number: u32,
}

/// One immutable version of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion {
    /// As registered, byte for byte.
    pub document: Arc<str>,
    pub created: Timestamp,
}
